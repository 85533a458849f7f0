//! `seawall status` as somebody sees it who has just been woken up: each state, and what is next.

use std::fs;
use std::path::Path;

use testkit::proxy::Proxy;
use testkit::servers::StopMode;

use super::common::{LIMIT, Must, Receiver, ReceiverOptions, SLOT, scratch, server, server_flush};
use super::program::{ended, seawall};

fn text(archive: &Path) -> String {
    let status = ended(seawall(&["status", "--archive"]).arg(archive));
    status.is_well();
    status.stdout
}

fn json(archive: &Path) -> serde_json::Value {
    let status = ended(seawall(&["status", "--json", "--archive"]).arg(archive));
    status.is_well();
    serde_json::from_str(&status.stdout).must()
}

/// The status says all of this, each piece on a line of its own, in this order.
#[track_caller]
fn says(text: &str, lines: &[&str]) {
    let mut rest = text.lines();
    for line in lines {
        let found = rest.any(|said| {
            let pieces: Vec<&str> = line.split('…').collect();
            let mut from = 0;
            pieces.iter().all(|piece| match said[from..].find(piece) {
                Some(at) => {
                    from += at + piece.len();
                    true
                }
                None => false,
            })
        });
        assert!(found, "nothing of {line:?} in its place in\n{text}");
    }
}

#[test]
fn every_state_says_what_it_is_and_what_is_next() {
    let (mut primary, dir) = (server(18, 1, &[]), scratch());
    // A path longer than a socket's may be.
    let deep = "a-directory-with-a-long-name/".repeat(5);
    let archive = dir.path().join(deep).join("archive");
    fs::create_dir_all(archive.parent().unwrap_or(dir.path())).must();
    let nothing = ended(seawall(&["status", "--archive"]).arg(&archive));
    nothing.says(6, &["there is no archive", "--archive"]);

    let proxy = Proxy::start(primary.port()).must();
    let port = Some(proxy.port());
    let options = ReceiverOptions { port, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 100000) i").must();
    let end = server_flush(&primary);
    receiver.await_flush(&primary, end);
    let process = format!("process {}", receiver.running.pid());
    let upstream =
        format!("upstream    127.0.0.1:{}, PostgreSQL 18.6, timeline 1, slot {SLOT}", proxy.port());
    let archived = archive.display();
    let restore =
        format!("to restore  restore_command = '…restore-wal %f %p -A {archived} --partial'");
    let wait = |what: &str, state: &str| {
        let until = std::time::Instant::now() + LIMIT;
        loop {
            let status = json(&archive);
            let at = |key: &str| status["receiver"][key].as_str().map(str::to_owned);
            let caught_up = at("durable").is_some_and(|lsn| lsn == end.to_string());
            if at("state").as_deref() == Some(state) && (state != "streaming" || caught_up) {
                return status;
            }
            assert!(std::time::Instant::now() < until, "{what}: {status}");
        }
    };
    let status = wait("streaming", "streaming");
    assert_eq!(status["running"], true);
    assert_eq!(status["receiver"]["lag_bytes"], 0);
    assert_eq!(status["receiver"]["lag_seconds"], 0.0);
    assert_eq!(status["receiver"]["proved"], end.to_string());
    assert_eq!(status["timelines"][0]["timeline"], 1);
    assert_eq!(status["missing"], serde_json::json!([]));
    let positions =
        format!("positions   received {end}, proved {end}, written {end}, durable {end}");
    says(
        &text(&archive),
        &[
            "archive     …, PostgreSQL 18, system ",
            &format!("receiver    streaming since …{process}"),
            &upstream,
            &positions,
            "lag         0 B, 0.0 s, at ",
            "timeline 1 …, …segment",
            "missing     nothing",
            &restore,
        ],
    );

    primary.stop(StopMode::Fast).must();
    wait("connecting", "connecting");
    says(&text(&archive), &["receiver    connecting since", "last error  "]);
    primary.restart().must();
    receiver.await_streaming(&primary);
    receiver.stop();
    says(&text(&archive), &["receiver    none is running: start `seawall receive -A", &restore]);
    assert_eq!(json(&archive)["receiver"], serde_json::Value::Null);

    // A socket that a killed one left is nobody's.
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    receiver.kill9();
    says(&text(&archive), &["receiver    none is running"]);
}
