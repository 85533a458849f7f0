//! Incremental backups: taken under load, combined, and byte by byte what pg_combinebackup makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::load::{CommitLoad, LoadOptions};
use testkit::servers::{Install, as_server_user, system_program};

use super::super::common::{LIMIT, Must, on_each_major, server, server_flush};
use super::super::restore_wal::Kept;
use super::{backup, backup_command, check_tables, list, recover, restored, seawall};
use crate::program::ended;

on_each_major!(a_chain_of_incremental_backups_is_given_back, super::check);

/// What restore makes itself, or pg_combinebackup dates anew.
const OF_EACH: [&str; 4] =
    ["backup_manifest", "postgresql.auto.conf", "tablespace_map", "recovery.signal"];

fn check(major: u32) {
    if major < 17 {
        let (kept, primary) = (Kept::new(), server(major, 1, &[]));
        let refused = ended(&mut backup_command(&kept, &primary, &["--incremental"]));
        refused.says(2, &["from PostgreSQL 17 on"]);
        return;
    }
    let (kept, primary) = (Kept::new(), server(major, 1, &["summarize_wal = on"]));
    let space = primary.scratch().server_dir("space one").must();
    primary
        .sql(&format!(
            "SET allow_in_place_tablespaces = on;
             CREATE TABLESPACE one LOCATION '{}';
             CREATE TABLESPACE inside LOCATION '';
             CREATE TABLE t1 (i int PRIMARY KEY) TABLESPACE one;
             CREATE TABLE t2 (i int PRIMARY KEY) TABLESPACE inside;
             CREATE TABLE shrunk (i int, filler text);
             CREATE TABLE dropped AS SELECT generate_series(1, 10000) AS i;
             INSERT INTO t1 SELECT generate_series(1, 50000);
             INSERT INTO t2 SELECT * FROM t1;
             INSERT INTO shrunk SELECT i, repeat('x', 500) FROM t1;",
            space.display()
        ))
        .must();
    let mut receiver = kept.receiver(&primary);
    let load = CommitLoad::start(primary.connection(), &LoadOptions::default()).must();
    let none = ended(&mut backup_command(&kept, &primary, &["--incremental"]));
    none.says(1, &["take a full one"]);
    let mut ids = vec![backup(&kept, &primary, &[])];
    // Blocks change here and there; a file gets shorter, and longer again; files come and go.
    let steps = [
        "UPDATE t1 SET i = -i WHERE i % 5000 = 0; DELETE FROM shrunk WHERE i > 3000",
        "VACUUM shrunk",
        "INSERT INTO shrunk SELECT i, repeat('y', 500) FROM generate_series(1, 9000) i;
         DROP TABLE dropped; CREATE TABLE t3 TABLESPACE one AS SELECT generate_series(1, 5000) i;
         DELETE FROM t2 WHERE i % 7 = 0",
    ];
    let packed = [Some("zstd"), None, Some("lz4")];
    for (step, packed) in steps.into_iter().zip(packed) {
        load.wait_for(load.acked_count() + 50, LIMIT).must();
        primary.sql(step).must();
        // Compressed ones among them.
        let compress = packed.map(|method| format!("--compress={method}"));
        let more: Vec<&str> =
            compress.iter().map(String::as_str).chain(["--incremental"]).collect();
        ids.push(backup(&kept, &primary, &more));
    }
    load.wait_for(load.acked_count() + 50, LIMIT).must();
    load.finish().must();
    let sums = "SELECT (SELECT count(*) FROM seawall_load), (SELECT sum(i) FROM t1), \
                (SELECT sum(i) FROM t2), (SELECT sum(i) FROM t3), (SELECT count(*) FROM shrunk)";
    let expected = primary.sql(sums).must();
    receiver.await_flush(&primary, server_flush(&primary));

    let listed = list(&kept);
    for (place, id) in ids.iter().enumerate() {
        let backup = &listed["backups"][place];
        assert_eq!(backup["id"], id.as_str(), "{listed}");
        let parent = place.checked_sub(1).map(|before| ids[before].as_str());
        assert_eq!(backup["incremental"]["parent"].as_str(), parent, "{listed}");
    }
    // Of a tablespace that nobody wrote to in between next to nothing is sent. What the load writes
    // elsewhere depends on how long the backup takes.
    let size = |place: usize| {
        let tablespaces = &listed["backups"][place]["tablespaces"];
        let tablespaces = tablespaces.as_array().into_iter().flatten();
        let inside = tablespaces.filter(|of| of["location"] != space.display().to_string());
        inside.filter_map(|of| of["bytes"].as_u64()).sum::<u64>()
    };
    assert!(size(0) > 1_000_000 && size(1) < size(0) / 10, "{listed}");

    check_missing(&kept, &ids);
    let new = kept.scratch.server_dir("new").must().join("one");
    let mapping = format!("{}={}", space.display(), new.display());
    let inside = ["allow_in_place_tablespaces = on"];
    let mut server = restored(&kept, primary.install(), &["-T", &mapping], &inside);
    let combined = combine(&kept, primary.install(), &ids, &space);
    let mut diff = Command::new("diff");
    diff.arg("-r").args(OF_EACH.iter().flat_map(|name| ["-x", name]));
    // Written by whoever makes a server of the directory.
    diff.args(["-x", "postgresql.conf", "-x", "pg_hba.conf"]);
    let differs = ended(diff.arg(&combined).arg(server.data_dir()));
    assert_eq!((differs.code, differs.stdout.as_str()), (Some(0), ""), "{differs:#?}");
    recover(&mut server);
    assert_eq!(server.sql(sums).must(), expected);
    check_tables(&server);
    receiver.stop();
    check_damage(&kept, &ids, &space);
}

/// A missing link is refused with its name; without a name another backup is taken.
fn check_missing(kept: &Kept, ids: &[String]) {
    let place = kept.archive.join("backups").join(&ids[1]);
    let aside = kept.archive.join("elsewhere");
    fs::rename(&place, &aside).must();
    let data = kept.scratch.server_dir("missing").must();
    let refused = super::restore(kept, &data, &["--backup", &ids[3]]);
    refused.says(1, &[&ids[3], &ids[1], "needs the backup", "none of that name is there"]);
    assert_eq!(fs::read_dir(&data).must().count(), 0, "nothing is written");
    let listed = ended(&mut seawall(kept, "list"));
    assert!(listed.stdout.contains("UNUSABLE"), "{listed:?}");
    let verified = ended(&mut seawall(kept, "verify"));
    assert!(
        verified.code != Some(0) && verified.stdout.contains("needs the backup"),
        "{verified:#?}"
    );
    fs::rename(&aside, &place).must();
    ended(&mut seawall(kept, "verify")).is_well();
    // A file beside the first one's own is told of, and does no harm to those that stand on it.
    let stray = kept.archive.join("backups").join(&ids[0]).join("stray");
    fs::write(&stray, "").must();
    let strayed = ended(&mut seawall(kept, "verify"));
    assert_eq!(strayed.code, Some(4), "{strayed:#?}");
    assert_eq!(strayed.stdout.matches("DAMAGED").count(), 1, "{strayed:#?}");
    assert!(!strayed.stdout.contains("CAN'T BE RECOVERED"), "{strayed:#?}");
    fs::remove_file(&stray).must();
    // Of the newest alone all others are kept: it stands on them.
    let expire = ended(seawall(kept, "expire").args(["--keep-backups", "1"]));
    assert_eq!(expire.stdout.matches("builds on it").count(), 3, "{expire:#?}");
}

/// A byte of a link's that isn't even needed.
fn check_damage(kept: &Kept, ids: &[String], space: &Path) {
    let path = kept.archive.join("backups").join(&ids[2]).join("base.tar");
    let whole = fs::read(&path).must();
    let magic = 0xd3ae_1f0d_u32.to_le_bytes();
    let at = whole.windows(4).position(|bytes| bytes == magic);
    let Some(at) = at else { panic!("no incremental file in {}", path.display()) };
    let data = kept.scratch.server_dir("damaged").must();
    for (offset, expect) in [(0, "which no incremental file does"), (8, "")] {
        let mut damaged = whole.clone();
        damaged[at + offset] ^= 4;
        fs::write(&path, &damaged).must();
        let into = data.join(offset.to_string());
        let elsewhere = data.join(format!("space-{offset}"));
        let mapping = format!("{}={}", space.display(), elsewhere.display());
        let refused = super::restore(kept, &into, &["--backup", &ids[3], "-T", &mapping]);
        refused.says(1, &[&format!("the backup {}: ", ids[2]), expect]);
        assert!(!into.join("global/pg_control").exists());
    }
    fs::write(&path, &whole).must();
}

/// What pg_combinebackup makes of the stored tar files, unpacked by tar.
fn combine(kept: &Kept, install: &Install, ids: &[String], space: &Path) -> PathBuf {
    let root = kept.scratch.server_dir("combine").must();
    let as_server = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        as_server_user(&mut command);
        ended(command.args(args)).is_well();
    };
    let text = |path: &Path| path.display().to_string();
    // By the tool of the method's name.
    let unpack = |stored: &Path, stem: &str, into: &Path| {
        let tars = [("", ""), (".zst", "zstd"), (".lz4", "lz4")];
        for (suffix, tool) in tars {
            let tar = stored.join(format!("{stem}.tar{suffix}"));
            if tar.exists() {
                let tool = (!tool.is_empty()).then(|| text(&system_program(tool, tool).must()));
                let with = tool.as_ref().map_or_else(Vec::new, |tool| vec!["-I", tool.as_str()]);
                let (tar, into) = (text(&tar), text(into));
                as_server("tar", &[with.as_slice(), &["-xf", &tar, "-C", &into]].concat());
            }
        }
    };
    let mut last_spaces = Vec::new();
    for id in ids {
        let (stored, data) = (kept.archive.join("backups").join(id), root.join(id));
        as_server("mkdir", &["-m", "700", &text(&data)]);
        unpack(&stored, "base", &data);
        as_server("cp", &[&text(&stored.join("backup_manifest")), &text(&data)]);
        let description: serde_json::Value =
            serde_json::from_slice(&fs::read(stored.join("backup.json")).must()).must();
        last_spaces.clear();
        for tablespace in description["tablespaces"].as_array().into_iter().flatten() {
            let oid = tablespace["oid"].to_string();
            let link = data.join("pg_tblspc").join(&oid);
            let outside = tablespace["location"].as_str() == Some(&text(space));
            let place = if outside { root.join(format!("{id}-{oid}")) } else { link.clone() };
            as_server("mkdir", &["-p", "-m", "700", &text(&place)]);
            if outside {
                as_server("ln", &["-s", &text(&place), &text(&link)]);
                last_spaces.push(place.clone());
            }
            unpack(&stored, &oid, &place);
        }
    }
    let out = root.join("out");
    let mut command = install.command("pg_combinebackup");
    as_server_user(&mut command);
    command.arg("-o").arg(&out);
    for (place, old) in last_spaces.iter().enumerate() {
        let new = root.join(format!("out-{place}"));
        command.arg("-T").arg(format!("{}={}", text(old), text(&new)));
    }
    let combined = ended(command.args(ids.iter().map(|id| root.join(id))));
    combined.is_well();
    out
}
