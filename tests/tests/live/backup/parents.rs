//! What an incremental backup may be taken after: a backup that is sound, of the server's own history,
//! with pages like its own. What stands on another is told of, and isn't given back by itself.

use std::fs;

use testkit::servers::StopMode;

use super::super::common::{LIMIT, Must, server};
use super::super::keeping::verify;
use super::super::restore_wal::Kept;
use super::standbys::await_all;
use super::{backup, backup_command, list, recover, restore, restored, seawall};
use crate::program::{Ended, ended};

const SUMMARIES: [&str; 1] = ["summarize_wal = on"];

/// Changes a backup's description.
fn rewrite(kept: &Kept, id: &str, from: &str, to: &str) {
    let path = kept.archive.join("backups").join(id).join("backup.json");
    let text = fs::read_to_string(&path).must();
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).must();
}

fn recoverable(kept: &Kept) -> usize {
    let status = ended(seawall(kept, "status").arg("--json"));
    status.is_well();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).must();
    status["recoverable"].as_array().map_or(0, Vec::len)
}

fn checksums(major: u32) {
    let (kept, mut primary) = (Kept::new(), server(major, 1, &SUMMARIES));
    primary.set_checksums(false).must();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let full = backup(&kept, &primary, &[]);
    primary.sql("UPDATE t SET i = -i WHERE i < 10").must();
    let without = backup(&kept, &primary, &["--incremental"]);
    primary.set_checksums(true).must();

    // What has no page with one can't be put below pages that have.
    let incremental = |more: &str| ended(&mut backup_command(&kept, &primary, &[more]));
    let parent = format!("--incremental={full}");
    incremental("--incremental")
        .says(1, &["no backup", "got checksums since", &without, "a full one"]);
    incremental(&parent).says(1, &[&full, "got checksums since", "a full one", "name another"]);
    let again = backup(&kept, &primary, &[]);
    primary.sql("UPDATE t SET i = i + 1 WHERE i < 100").must();
    let with = backup(&kept, &primary, &["--incremental"]);
    assert_eq!(list(&kept)["backups"][3]["incremental"]["parent"], again.as_str());
    // Where they went, nobody looks at them.
    primary.set_checksums(false).must();
    let last = backup(&kept, &primary, &["--incremental"]);
    assert_eq!(list(&kept)["backups"][4]["incremental"]["parent"], with.as_str());
    let mut server = restored(&kept, primary.install(), &["--backup", &last], &[]);
    recover(&mut server);
    assert_eq!(
        server.sql("SELECT sum(i) FROM t").must(),
        primary.sql("SELECT sum(i) FROM t").must()
    );

    // A chain that another program put together.
    let (off, on) = ("\"data_checksums\": false", "\"data_checksums\": true");
    rewrite(&kept, &without, off, on);
    let data = kept.scratch.server_dir("data").must();
    let why = ["got checksums between", full.as_str()];
    restore(&kept, &data, &["--backup", &without]).says(1, &why);
    assert_eq!(fs::read_dir(&data).must().count(), 0, "nothing is written");
    let (report, told) = verify(&kept, &[]);
    assert_eq!(told.code, Some(4), "{report:#}");
    assert_eq!(report["backups"][1]["recoverable"], false, "{report:#}");
    let unusable = list(&kept)["backups"][1]["unusable"].to_string();
    assert!(unusable.contains(why[0]), "{unusable}");
}

#[test]
fn pages_without_checksums_are_not_put_below_others_17() {
    checksums(17);
}

#[test]
fn pages_without_checksums_are_not_put_below_others_18() {
    checksums(18);
}

#[test]
fn damage_is_that_of_the_whole_chain() {
    let (kept, primary) = (Kept::new(), server(18, 1, &SUMMARIES));
    let full = backup(&kept, &primary, &[]);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let second = backup(&kept, &primary, &["--incremental"]);
    primary.sql("UPDATE t SET i = -i WHERE i < 10").must();
    let third = backup(&kept, &primary, &["--incremental"]);
    assert_eq!(recoverable(&kept), 1);
    rewrite(&kept, &second, "\"damage\": []", "\"damage\": [\"base/1/2: x\"]");

    let incremental = |more: &str| ended(&mut backup_command(&kept, &primary, &[more]));
    incremental(&format!("--incremental={third}"))
        .says(1, &[&third, "isn't sound", &second, "base/1/2: x", "a full one"]);
    // The newest that is sound.
    let fourth = backup(&kept, &primary, &["--incremental"]);
    let listed = list(&kept);
    assert_eq!(listed["backups"][3]["incremental"]["parent"], full.as_str(), "{listed:#}");
    let below = listed["backups"][2]["damaged_below"].as_str().must();
    assert!(below.contains(&second), "{listed:#}");
    let text_list = ended(&mut seawall(&kept, "list")).stdout;
    assert!(text_list.contains(&format!("incremental after {second}; DAMAGED")), "{text_list}");

    // Given back by itself is what is sound, and the rest by name.
    let data = kept.scratch.server_dir("data").must();
    let told: Ended = restore(&kept, &data.join("one"), &["--target-immediate"]);
    told.is_well();
    assert!(told.stderr.contains(&format!("restoring the backup {fourth}")), "{told:#?}");
    fs::remove_dir_all(kept.archive.join("backups").join(&fourth)).must();
    rewrite(&kept, &full, "\"damage\": []", "\"damage\": [\"base/1/3: y\"]");
    assert_eq!(recoverable(&kept), 0);
    restore(&kept, &data.join("two"), &[]).says(1, &["isn't sound", "--backup"]);
    let told = restore(&kept, &data.join("three"), &["--backup", &third]);
    told.is_well();
    assert!(told.stderr.contains("isn't sound"), "{told:#?}");
    let expire = ended(seawall(&kept, "expire").args(["--keep-backups", "1"]));
    expire.says(1, &["no backup is there"]);
    let report = ended(&mut seawall(&kept, "verify")).stdout;
    assert!(report.contains("as it was taken"), "{report}");
}

/// After a promotion that lost the newest backup's WAL the one before it is followed.
#[test]
fn another_branch_is_not_followed() {
    let (kept, mut primary) = (Kept::new(), server(17, 1, &SUMMARIES));
    let mut standby = primary.standby(&SUMMARIES).must();
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 10000) i").must();
    let common = backup(&kept, &primary, &[]);
    // Where a timeline begins with a segment, the server's summary of it leaves out the page's header,
    // and no incremental backup goes over that.
    primary.sql("CREATE TABLE behind (i int)").must();
    await_all(&standby, &primary);
    standby.stop(StopMode::Fast).must();
    primary.sql("UPDATE t SET i = -i").must();
    let lost = backup(&kept, &primary, &[]);
    primary.stop(StopMode::Fast).must();
    standby.restart().must();
    standby.promote().must();
    standby.wait_until("the promotion", LIMIT, "NOT pg_is_in_recovery()").must();
    standby.sql("UPDATE t SET i = i + 1 WHERE i < 100").must();

    let named = format!("--incremental={lost}");
    let refused = ended(&mut backup_command(&kept, &standby, &[&named]));
    refused.says(1, &[&lost, "isn't on the server's line of history", "timeline 2", "a full one"]);
    // A server that was promoted just now doesn't wait until its summaries get over the switch.
    let summed = "EXISTS (SELECT FROM pg_available_wal_summaries() WHERE tli = 2)";
    standby.sql("CHECKPOINT; SELECT pg_switch_wal()").must();
    standby.wait_until("summaries of timeline 2", LIMIT, summed).must();
    let taken = backup(&kept, &standby, &["--incremental"]);
    let listed = list(&kept);
    let backups = listed["backups"].as_array().must();
    let of = |id: &str| backups.iter().find(|backup| backup["id"] == id).must().clone();
    assert_eq!(of(&taken)["incremental"]["parent"], common.as_str(), "{listed:#}");
    let mut server = restored(&kept, standby.install(), &["--backup", &taken], &[]);
    recover(&mut server);
    let sum = "SELECT sum(i) FROM t";
    assert_eq!(server.sql(sum).must(), standby.sql(sum).must());

    // Summaries that are gone: what can be done is said.
    standby.sql("ALTER SYSTEM SET summarize_wal = off; SELECT pg_reload_conf()").must();
    standby.wait_until("no summaries", LIMIT, "current_setting('summarize_wal') = 'off'").must();
    let refused = ended(&mut backup_command(&kept, &standby, &["--incremental"]));
    refused.says(1, &["an incremental backup after", &taken, "SQLSTATE 55000", "take a full one"]);
}
