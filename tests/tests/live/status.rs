//! `seawall status` as somebody sees it who has just been woken up: each state word for word, and
//! what is next.

use std::fs;
use std::path::Path;
use std::time::Instant;

use testkit::process::seawall_bin;
use testkit::proxy::Proxy;
use testkit::servers::StopMode;

use super::common::{LIMIT, Must, Receiver, ReceiverOptions, scratch, server, server_flush};
use super::gaps::{forget, forgetful_server};
use super::program::{ended, seawall};

pub(crate) fn json(archive: &Path) -> serde_json::Value {
    let status = ended(seawall(&["status", "--json", "--archive"]).arg(archive));
    status.is_well();
    serde_json::from_str(&status.stdout).must()
}

/// What status says, with what differs from run to run by name.
pub(crate) fn text(archive: &Path, others: &[(&str, &str)]) -> String {
    let status = ended(seawall(&["status", "--archive"]).arg(archive));
    status.is_well();
    let system = json(archive)["system_identifier"].as_str().unwrap_or_default().to_owned();
    let mut text = status.stdout.replace(&archive.display().to_string(), "ARCHIVE");
    text = text.replace(&format!("system {system}"), "system ID");
    let program = seawall_bin().must().display().to_string();
    for (name, value) in others.iter().copied().chain([("PROGRAM", &*program)]) {
        text = text.replace(value, name);
    }
    let lines = text.lines().map(|line| {
        let words = line.split(' ').map(|word| {
            let bare = word.trim_end_matches([',', ':', ';']);
            let kind = if is_time(bare) {
                "TIME"
            } else if is_lsn(bare) {
                "LSN"
            } else {
                bare
            };
            format!("{kind}{}", &word[bare.len()..])
        });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.map(|line| line + "\n").collect()
}

fn is_time(word: &str) -> bool {
    word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T'
}

fn is_lsn(word: &str) -> bool {
    word.parse::<pg_types::Lsn>().is_ok()
}

#[track_caller]
fn same(text: &str, golden: &str) {
    assert_eq!(text, golden, "\n--- status says\n{text}\n--- and not\n{golden}");
}

/// Waits until the receiver says that it is in this state, and meets the condition.
fn await_state(
    archive: &Path,
    state: &str,
    is: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let until = Instant::now() + LIMIT;
    loop {
        let status = json(archive);
        if status["receiver"]["state"] == state && is(&status["receiver"]) {
            return status;
        }
        assert!(Instant::now() < until, "{state}: {status}");
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
    primary.sql("SELECT pg_switch_wal()").must();
    primary.sql("CREATE TABLE t(i int)").must();
    let end = server_flush(&primary);
    receiver.await_flush(&primary, end);
    let process = format!("process {}", receiver.running.pid());
    let port = format!("127.0.0.1:{}", proxy.port());
    let others = [("process PID", &*process), ("SERVER", &*port)];
    let end = end.to_string();
    let status = await_state(&archive, "streaming", |receiver| receiver["acknowledged"] == end);
    assert_eq!(status["running"], true);
    assert_eq!(status["receiver"]["lag_bytes"], 0);
    assert_eq!(status["receiver"]["lag_seconds"], 0.0);
    assert_eq!(status["receiver"]["proved"], end);
    assert_eq!(status["receiver"]["slot"]["retained_bytes"], 0);
    assert_eq!(status["timelines"][0]["timeline"], 1);
    assert_eq!(status["missing"], serde_json::json!([]));
    assert_eq!(status["next"], serde_json::json!([]));
    // A second later nothing is received any more.
    await_state(&archive, "streaming", |receiver| receiver["bytes_per_second"] == 0.0);
    same(
        &text(&archive, &others),
        "archive     ARCHIVE, PostgreSQL 18, system ID\n\
         receiver    streaming since TIME, process PID, started TIME\n\
         upstream    SERVER, PostgreSQL 18.6, timeline 1\n\
         slot        live_slot, keeps 0 B on the server\n\
         positions   received LSN, proved LSN, written LSN, durable LSN, upstream LSN\n\
         lag         0 B, 0.0 s, at 0 B/s\n\
         timelines   1: LSN to LSN, 2 segments\n\
         missing     nothing\n\
         recoverable nothing from here alone: `seawall backup` takes a base backup\n\
         to restore  restore_command = 'PROGRAM restore-wal -A ARCHIVE --partial \"%f\" \"%p\"'\n",
    );

    primary.stop(StopMode::Fast).must();
    await_state(&archive, "connecting", |_| true);
    let down = text(&archive, &others);
    assert!(down.starts_with(
        "archive     ARCHIVE, PostgreSQL 18, system ID\n\
         receiver    connecting since TIME, process PID, started TIME\n\
         upstream    SERVER, PostgreSQL 18.6, timeline 1\n"
    ));
    assert!(down.contains("\nlast error  TIME: "), "{down}");
    assert!(down.contains("\nnext        look whether the server is up"), "{down}");
    primary.restart().must();
    receiver.await_streaming(&primary);
    receiver.stop();
    let stopped = "archive     ARCHIVE, PostgreSQL 18, system ID\n\
                   receiver    none is running\n\
                   timelines   1: LSN to LSN, 2 segments\n\
                   missing     nothing\n\
                   recoverable nothing from here alone: `seawall backup` takes a base backup\n\
         to restore  restore_command = 'PROGRAM restore-wal -A ARCHIVE --partial \"%f\" \"%p\"'\n\
                   next        start `seawall receive -A ARCHIVE …`\n";
    same(&text(&archive, &others), stopped);
    assert_eq!(json(&archive)["receiver"], serde_json::Value::Null);

    // A socket that a killed one left is nobody's.
    let mut receiver = Receiver::start(&primary, &archive, &options);
    receiver.await_streaming(&primary);
    receiver.kill9();
    same(&text(&archive, &others), stopped);
}

#[test]
fn a_gap_says_what_is_next() {
    let (server, dir) = (forgetful_server(18), scratch());
    let archive = dir.path().join("archive");
    let options = ReceiverOptions { slot: false, ..ReceiverOptions::default() };
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    receiver.stop();
    forget(&server);
    let mut receiver = Receiver::start(&server, &archive, &options);
    receiver.await_streaming(&server);
    receiver.await_flush(&server, server_flush(&server));
    let status = await_state(&archive, "streaming", |_| true);
    assert_eq!(status["receiver"]["slot"], serde_json::Value::Null);
    let alarms = status["receiver"]["events"].as_array().cloned().unwrap_or_default();
    assert!(alarms.iter().any(|event| event["level"] == "ERROR"), "{status}");
    let told = text(&archive, &[]);
    assert!(told.contains("\nslot        none: an absence may leave a gap\n"), "{told}");
    assert!(told.contains("\nalarm       TIME: ALARM: WAL is missing from LSN"), "{told}");
    let missing =
        told.lines().find(|line| line.starts_with("missing     timeline 1: LSN to LSN, "));
    let missing = missing.unwrap_or_else(|| panic!("{told}"));
    assert!(missing.contains(": the server had removed it (found 20"), "{missing}");
    assert!(told.ends_with(
        "next        take a base backup; or fill what is missing, if some server or archive has \
         it: `seawall archive-wal FILE -A ARCHIVE`\n"
    ));
    receiver.stop();
}
