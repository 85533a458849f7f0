//! What can be recovered, to the commit: `list`, `status` and `restore` give one answer, and it is the
//! server's own.

use std::fs;

use testkit::servers::Server;

use super::super::backup::{backup, list, recover, restore, restored, seawall};
use super::super::common::{Must, on_each_major, server, server_flush};
use super::super::restore_wal::Kept;
use crate::program::ended;

on_each_major!(one_answer_to_the_commit, super::check);

/// A commit; its time, as the server tells it.
fn commit(server: &Server, i: u32) -> String {
    server.sql(&format!("INSERT INTO c VALUES ({i})")).must();
    let time =
        "to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')";
    server.sql(&format!("SELECT {time} || '+00' FROM c WHERE i = {i}")).must().trim().to_owned()
}

fn check(major: u32) {
    let conf = ["track_commit_timestamp = on", "autovacuum = off"];
    let (kept, primary) = (Kept::new(), server(major, 1, &conf));
    let mut receiver = kept.receiver(&primary);
    primary.sql("CREATE TABLE c (i int)").must();
    let before = commit(&primary, 1);
    let id = backup(&kept, &primary, &[]);
    let _second = commit(&primary, 2);
    let third = commit(&primary, 3);
    // In segments of their own.
    primary.sql("SELECT pg_switch_wal()").must();
    commit(&primary, 4);
    primary.sql("SELECT pg_switch_wal()").must();
    let last = commit(&primary, 5);
    receiver.await_flush(&primary, server_flush(&primary));
    receiver.stop();

    let listed = list(&kept);
    let window = &listed["backups"][0]["windows"][0];
    assert_eq!(window["from_time"], before, "{listed:#}");
    assert_eq!(window["to_time"], last, "{listed:#}");
    let status = || {
        let status = ended(seawall(&kept, "status").arg("--json"));
        status.is_well();
        serde_json::from_str::<serde_json::Value>(&status.stdout).must()
    };
    assert_eq!(status()["recoverable"], serde_json::json!([window]));
    let text = ended(&mut seawall(&kept, "list")).stdout;
    let shown = format!("where the last commit is of {last}; times from {before} on");
    assert!(text.contains(&shown), "{text}");

    // The last but one can be asked for, and the last can't: nothing later says that it was passed.
    let more = ["--target-time", &third, "--target-action", "promote"];
    let mut at_third = restored(&kept, primary.install(), &more, &[]);
    recover(&mut at_third);
    assert_eq!(at_third.sql("SELECT max(i) FROM c").must(), "3");
    let data = kept.scratch.server_dir("data").must();
    restore(&kept, &data, &["--target-time", &last]).says(1, &["no commit or abort is later"]);
    restore(&kept, &data, &["--target-time", "2026-01-01 00:00:00+00"])
        .says(1, &["can't be reached", &before]);

    // Where WAL is missing there is more behind, and nothing was asked for: that is said.
    let sealed = kept.sealed();
    let [.., hole, _last] = sealed.as_slice() else { panic!("{sealed:?}") };
    let aside = kept.scratch.path().join("aside");
    fs::rename(kept.segment(*hole), &aside).must();
    let holed = restore(&kept, &data.join("holed"), &[]);
    holed.is_well();
    assert!(holed.stderr.contains("there is more behind it"), "{holed:?}");
    assert!(holed.stderr.contains("seawall repair"), "{holed:?}");
    let asked = restore(&kept, &data.join("asked"), &["--target-immediate"]);
    asked.is_well();
    assert!(!asked.stderr.contains("missing"), "{asked:?}");
    fs::rename(&aside, kept.segment(*hole)).must();
    let whole = restore(&kept, &data.join("whole"), &[]);
    assert!(!whole.stderr.contains("missing"), "{whole:?}");

    // One that the server found damaged is listed, and nothing is promised of it.
    let path = kept.archive.join("backups").join(&id).join("backup.json");
    let description = fs::read_to_string(&path).must();
    fs::write(&path, description.replace("\"damage\": []", "\"damage\": [\"x\"]")).must();
    assert_eq!(status()["recoverable"], serde_json::json!([]));
    assert_eq!(list(&kept)["backups"][0]["windows"][0], *window);
    restore(&kept, &data, &[]).says(1, &["isn't sound", "its own files damaged (x)", "--backup"]);
}
