//! A client's bytes, as a server takes them: nobody gets in without a login.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use pg_types::{Geometry, SegmentSize, ServerVersion, SystemId};
use pg_wire::server::Verifier;
use replication::sender::{Ask, Host, Login, Secrets, Sender};

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (trust, pieces) = input;
    let host = Host {
        version: ServerVersion::from_num(180_006),
        system_id: SystemId(1),
        geometry: Geometry::new(SegmentSize::MIN),
        wal_sender_timeout: Duration::from_secs(60),
    };
    let secrets = Secrets { process_id: 1, cancel_key: [1; 32], nonce: [2; 18] };
    let mut sender = Sender::new(Arc::new(host), secrets);
    let now = Instant::now();
    for piece in pieces {
        if !sender.wants_input() {
            break;
        }
        sender.handle_input(&piece, now);
        while let Some(ask) = sender.poll_ask() {
            match ask {
                Ask::Login(user) => {
                    let nobodys = || Login::Scram(Verifier::of_nobody(&user, b"secret", 1));
                    sender.login(if trust { Login::Trust } else { nobodys() }, now);
                }
                Ask::Command(_) => assert!(trust, "somebody got in"),
                _ => {}
            }
        }
        let sent = sender.poll_transmit().map_or(0, <[u8]>::len);
        sender.transmitted(sent);
    }
});
