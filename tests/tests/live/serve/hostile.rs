//! Clients that mean no good: each is bounded and noted, and nobody else is disturbed.

use std::time::Duration;

use pg_types::SegmentSize;

use super::wire::{REPLICATION, Wire, error, frame, startup};
use super::{await_replay, receive_and_serve, standby_of, work};
use crate::common::{LIMIT, Must, scratch, server, server_flush, until};

const SSL: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

#[test]
fn hostile_clients_disturb_nobody() {
    let (primary, dir) = (server(18, 1, &[]), scratch());
    let (receiver, port) = receive_and_serve(&primary, &dir.path().join("archive"));
    let mut standby = standby_of(&primary, port, &[]);
    standby.restart().must();
    await_replay(&standby, work(&primary));

    // A startup packet that is too long, and what is none at all.
    for bytes in [
        &[0, 0, 0x27, 0x11, 0, 3, 0, 0][..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 4000],
        &[0, 0, 0, 4],
    ] {
        let mut wire = Wire::connect(port);
        wire.send(bytes);
        assert!(wire.is_closed(), "{bytes:?}");
    }
    // Requests for encryption without end.
    let mut wire = Wire::connect(port);
    wire.send(SSL);
    let mut answer = [0];
    std::io::Read::read_exact(&mut wire.0, &mut answer).must();
    assert_eq!(&answer, b"N");
    wire.send(SSL);
    assert!(wire.is_closed());
    // Not for physical replication.
    let mut wire = Wire::connect(port);
    wire.send(&startup(&[("user", "postgres"), ("database", "postgres")]));
    let heard = wire.until_ready();
    assert!(heard.iter().any(|(tag, body)| *tag == b'E' && error(body).contains("0A000")));
    // What would be a line of the log, and a command to the terminal: it is neither.
    let forged = "x\nERROR ALARM: forged \u{1b}[2J";
    for parameters in [
        &[("user", "postgres"), ("replication", forged)][..],
        &[("user", "postgres"), ("replication", "true"), ("application_name", forged)],
    ] {
        let (mut wire, _) = Wire::log_in(port, parameters);
        if parameters.len() > 2 {
            wire.query("START_REPLICATION SLOT nobody 0/1000000");
        }
        receiver.running.wait_for_line("ALARM: forged", LIMIT).must();
    }
    let log = receiver.running.output_tail();
    assert!(!log.contains('\u{1b}') && !log.contains("\nERROR ALARM"), "{log}");
    // Replies that no client sends, within a stream.
    let at = server_flush(&primary).segment_start(SegmentSize::MIN);
    let begin = &format!("START_REPLICATION {at} TIMELINE 1");
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    assert_eq!(wire.query(begin).last().map(|(tag, _)| *tag), Some(b'W'));
    wire.send(&frame(b'd', b"r\0"));
    let heard = wire.until_ready();
    let says = |(tag, body): &(u8, Vec<u8>)| *tag == b'E' && error(body).contains("insufficient");
    assert!(heard.iter().any(says), "{heard:?}");
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.send(b"Q\xff\xff\xff\xff");
    assert!(wire.is_closed());
    asks_and_does_not_listen(port);
    from_the_future(port, begin, &receiver.running);
    idle_connections(port);

    // All the while, and now.
    await_replay(&standby, work(&primary));
    receiver.stop();
}

/// What it would be answered waits until it listens, and isn't kept.
fn asks_and_does_not_listen(port: u16) {
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.0.set_write_timeout(Some(Duration::from_millis(500))).must();
    let asked = frame(b'Q', b"SHOW wal_segment_size\0").repeat(100);
    let held_up = (0..20_000).any(|_| std::io::Write::write_all(&mut wire.0, &asked).is_err());
    assert!(held_up, "54 MB of commands were taken, and nobody read an answer");
}

/// A reply of what isn't there moves nothing past what is.
fn from_the_future(port: u16, begin: &str, running: &testkit::process::Running) {
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    wire.query("CREATE_REPLICATION_SLOT \"future\" PHYSICAL");
    wire.query(&begin.replace("N 0", "N SLOT \"future\" 0"));
    let mut reply = vec![b'r'];
    for at in [u64::MAX - 7, u64::MAX - 7, 0, 0] {
        reply.extend(at.to_be_bytes());
    }
    reply.push(0);
    wire.send(&frame(b'd', &reply));
    running.wait_for_line("it says that it has flushed", LIMIT).must();
    drop(wire);
    let read = || {
        let (mut wire, _) = Wire::log_in(port, REPLICATION);
        let heard = wire.query("READ_REPLICATION_SLOT \"future\"");
        let row = heard.into_iter().find(|(tag, _)| *tag == b'D').map(|(_, body)| body);
        let row = String::from_utf8_lossy(&row.unwrap_or_default()).into_owned();
        row.contains("0/").then_some(row)
    };
    let row = until(LIMIT, "the slot to be given back", read);
    assert!(!row.contains("FFFFFFFF"), "{row}");
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    let dropped = || {
        let heard = wire.query("DROP_REPLICATION_SLOT \"future\"");
        (!heard.iter().any(|(tag, _)| *tag == b'E')).then_some(())
    };
    until(LIMIT, "the slot to be dropped", dropped);
}

/// A thousand that never log in: the oldest have to go, and whoever comes gets in.
fn idle_connections(port: u16) {
    let idle: Vec<Wire> = (0..1000).map(|_| Wire::connect(port)).collect();
    let (mut wire, _) = Wire::log_in(port, REPLICATION);
    assert_eq!(wire.query("IDENTIFY_SYSTEM").len(), 4);
    let mut oldest = idle.into_iter().next().unwrap_or_else(|| panic!("none"));
    assert!(oldest.is_closed());
}
