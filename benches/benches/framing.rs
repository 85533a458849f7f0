//! The connection on a stream of messages, their payload left where it is.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_types::Lsn;
use pg_wire::message::frontend;
use pg_wire::settings::{ConnectionSettings, Flags, Inputs};
use pg_wire::startup::Startup;
use pg_wire::stream::XLogDataHeader;
use replication::{Connection, Event, Timing, Want};

const MESSAGES: u64 = 1000;

/// A connection whose server just answered START_REPLICATION.
fn streaming(now: Instant) -> Connection {
    let flags = Flags { host: Some("x".into()), user: Some("x".into()), ..Flags::default() };
    let inputs = Inputs { flags, ..Inputs::default() };
    let settings = ConnectionSettings::resolve(&inputs).expect("settings");
    let startup = Startup::physical_replication(&settings).expect("startup");
    let (status_interval, wal_sender_timeout) = (Duration::ZERO, Duration::ZERO);
    let mut connection = Connection::new(startup, Timing { status_interval, wal_sender_timeout });
    put(&mut connection, b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I", now);
    connection.start_streaming("START_REPLICATION 0/0", Lsn::new(0));
    put(&mut connection, b"W\0\0\0\x07\0\0\0", now);
    while let Some(event) = connection.poll_event() {
        if event == Event::Streaming {
            return connection;
        }
    }
    panic!("the stream hasn't begun");
}

fn put(connection: &mut Connection, mut bytes: &[u8], now: Instant) {
    while !bytes.is_empty() {
        let space = connection.space();
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        connection.handle_input(len, now).expect("input");
        bytes = &bytes[len..];
    }
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing");
    for payload in [100_usize, 128 << 10] {
        group.throughput(Throughput::Elements(MESSAGES));
        group.bench_function(format!("messages of {payload} bytes"), |b| {
            b.iter_with_setup(Instant::now, |now| {
                let mut connection = streaming(now);
                let mut at = Lsn::new(0);
                for _ in 0..MESSAGES {
                    let end = at.saturating_add(payload as u64);
                    let header = XLogDataHeader { start: at, wal_end: end, server_time_us: 0 };
                    let mut message = frontend::copy_data(&header.encode()).expect("a message");
                    let len = u32::try_from(4 + XLogDataHeader::LEN + payload).expect("short");
                    message[1..5].copy_from_slice(&len.to_be_bytes());
                    put(&mut connection, &message, now);
                    let Want::Wal { len, .. } = connection.want() else { panic!("no WAL") };
                    connection.handle_wal(len, now);
                    at = end;
                }
                connection.wal_end()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, framing);
criterion_main!(benches);
