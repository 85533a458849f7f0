//! What a client that is let in may say: a command as each version reads it, and the same in a
//! session, where every command is refused.
//!
//! What is read of a BASE_BACKUP is within its bounds, whatever was said.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pg_types::{Geometry, SegmentSize, ServerVersion, SystemId};
use pg_wire::base_backup::{MAX_LABEL_LEN, MAX_RATE_KB};
use pg_wire::message::SqlState;
use pg_wire::server::grammar::{Command, parse};
use pg_wire::server::response::Refusal;
use replication::sender::{Answer, Ask, Host, Login, Secrets, Sender};

fuzz_target!(|input: (u8, &str)| {
    let (choice, text) = input;
    let major = 14 + u32::from(choice) % 5;
    // The words are long: half of the inputs begin with the longest of them.
    let text = match choice & 0x80 {
        0 => text.to_owned(),
        _ if major < 15 => format!("BASE_BACKUP {text}"),
        _ => format!("BASE_BACKUP ({text})"),
    };
    if let Ok(Command::BaseBackup(backup)) = parse(&text, major) {
        assert!(backup.label.len() <= MAX_LABEL_LEN);
        assert!(backup.max_rate_kb.is_none_or(|rate| MAX_RATE_KB.contains(&rate)));
    }
    let host = Host {
        version: ServerVersion::from_num(major * 10_000),
        system_id: SystemId(1),
        geometry: Geometry::new(SegmentSize::MIN),
        wal_sender_timeout: Duration::from_secs(60),
    };
    let secrets = Secrets { process_id: 1, cancel_key: [1; 32], nonce: [2; 18] };
    let (mut sender, now) = (Sender::new(Arc::new(host), secrets), Instant::now());
    sender.handle_input(b"\0\0\0\x25\0\x03\0\0user\0u\0replication\0true\0\0", now);
    // A query can't have a NUL in it, and one that is too long ends the connection.
    let body = text.replace('\0', " ");
    let length = u32::try_from(body.len() + 5).unwrap_or(u32::MAX).to_be_bytes();
    let query = [b"Q", length.as_slice(), body.as_bytes(), b"\0"].concat();
    let mut asked = false;
    for bytes in [&query[..], &query] {
        while let Some(ask) = sender.poll_ask() {
            match ask {
                Ask::Login(_) => sender.login(Login::Trust, now),
                Ask::Command(_) => {
                    asked = true;
                    let refusal = Refusal::error(SqlState::INTERNAL_ERROR, "not here");
                    sender.answer(Answer::Refused(refusal), now);
                }
                _ => {}
            }
        }
        let sent = sender.poll_transmit().map_or(0, <[u8]>::len);
        sender.transmitted(sent);
        sender.handle_input(bytes, now);
    }
    assert!(asked || sender.is_logged_in() || sender.is_closed());
});
