//! Damage of every kind, planted in an archive with backups and two timelines: each is named, by an
//! incremental pass too, and nothing else is.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pg_types::Lsn;
use serde_json::Value;
use testkit::servers::{Server, full};

use super::super::backup::{backup, seawall};
use super::super::common::{LIMIT, Must, Receiver, on_each_major, server, server_flush};
use super::super::restore_wal::{Kept, SIZE, name, work};
use super::{assert_sound, flip, verify, verify_command};
use crate::program::ended;

on_each_major!(damage_of_every_kind_is_named, super::check);

/// A record of its own: where it starts.
fn message(server: &Server, bytes: u32) -> Lsn {
    loop {
        let query = format!(
            "SELECT pg_current_wal_insert_lsn(), pg_logical_emit_message(false, 'x', repeat('y', {bytes}))"
        );
        let row = server.sql(&query).must();
        let at: Lsn = row.split('|').next().unwrap_or_default().trim().parse().must();
        // Behind a page's header it starts elsewhere.
        if at.offset_in(8192) > 100 && at.offset_in(8192) < 8000 {
            return at;
        }
    }
}

/// Makes WAL until its end is in the middle of a segment, behind a quarter of it.
fn some_of_a_segment(server: &Server) -> Lsn {
    loop {
        let end = server_flush(server);
        if (SIZE.bytes() / 4..SIZE.bytes() / 2).contains(&end.segment_offset(SIZE)) {
            return end;
        }
        server.sql("SELECT pg_logical_emit_message(true, 'x', repeat('y', 60000))").must();
    }
}

/// The segment that isn't whole, which the archive ends with.
fn partial(kept: &Kept) -> PathBuf {
    let names = fs::read_dir(kept.archive.join("wal")).must();
    let mut names: Vec<PathBuf> = names.map(|entry| entry.must().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "partial"));
    names.sort();
    names.pop().unwrap_or_else(|| panic!("no .partial"))
}

/// Waits until the receiver says itself, as it does now and then, how far it is.
fn await_told(kept: &Kept, end: Lsn) {
    let began = Instant::now();
    let told = || {
        let status = ended(seawall(kept, "status").arg("--json"));
        let status: Value = serde_json::from_str(&status.stdout).must();
        let durable = status["receiver"]["durable"].as_str()?.parse::<Lsn>().ok()?;
        let proved = status["receiver"]["proved"].as_str()?.parse::<Lsn>().ok()?;
        Some(durable.min(proved))
    };
    while told() < Some(end) {
        assert!(began.elapsed() < LIMIT, "the receiver doesn't say that it is at {end}");
    }
}

/// A receiver has acknowledged what isn't there any more.
fn unfinished_under_way(kept: &Kept, server: &Server, receiver: &mut Receiver) {
    let end = some_of_a_segment(server);
    receiver.await_flush(server, end);
    await_told(kept, end);
    assert_sound(kept, &[]);
    let path = partial(kept);
    flip(&path, 100_000);
    let (value, ended) = verify(kept, &[]);
    assert_eq!(ended.code, Some(4), "{value:#}");
    let damage = &value["damages"][0];
    assert!(path.ends_with(damage["file"].as_str().unwrap_or_default()), "{value:#}");
    let told = damage["what"].as_str().unwrap_or_default();
    assert!(told.contains("was acknowledged up to"), "{value:#}");
    flip(&path, 100_000);
    assert_sound(kept, &[]);
}

/// An archive that has everything, and where some records are.
struct Scene {
    kept: Kept,
    primary: Server,
    short: Lsn,
    long: Lsn,
    first: String,
    second: String,
}

fn scene(major: u32) -> Scene {
    let kept = Kept::new();
    let mut primary = server(major, 1, &["autovacuum = off", "checkpoint_timeout = 1h"]);
    let space = primary.scratch().server_dir("space").must();
    primary
        .sql(&format!("CREATE TABLESPACE one LOCATION '{}'", space.display()))
        .and_then(|_| {
            primary.sql("CREATE TABLE s TABLESPACE one AS SELECT generate_series(1, 5000)")
        })
        .must();
    let mut receiver = kept.receiver(&primary);
    work(&primary);
    let first = backup(&kept, &primary, &[]);
    let short = message(&primary, 300);
    work(&primary);
    // Over two borders and more.
    let long = message(&primary, 2_500_000);
    primary.sql("SELECT pg_switch_wal()").must();
    work(&primary);
    let second = backup(&kept, &primary, &["--manifest-checksums", "SHA256"]);
    receiver.await_flush(&primary, work(&primary));
    let streaming = assert_sound(&kept, &[]);
    assert!(streaming["read"]["segments"].as_u64() > Some(5), "{streaming:#}");
    // What comes next is read, and no more than the last one of before, which wasn't settled.
    receiver.await_flush(&primary, work(&primary));
    let next = assert_sound(&kept, &[]);
    let known = streaming["read"]["segments"].as_u64().unwrap_or_default();
    assert!(next["unchanged"]["segments"].as_u64() >= Some(known - 2), "{next:#}");
    assert_eq!(next["unchanged"]["backups"], 2, "{next:#}");
    assert_eq!(next["read"]["backups"], 0);
    unfinished_under_way(&kept, &primary, &mut receiver);
    // A second timeline.
    primary.make_standby().must();
    primary.restart().must();
    primary.promote().must();
    primary.wait_until("the promotion", LIMIT, "NOT pg_is_in_recovery()").must();
    receiver.await_flush(&primary, work(&primary));
    receiver.await_flush(&primary, some_of_a_segment(&primary));
    receiver.stop();
    Scene { kept, primary, short, long, first, second }
}

/// What is to be named: the file, the position if there is one, a part of the text.
type Expected = (PathBuf, Option<Lsn>, &'static str);

/// A harm, and what is named of it; of a backup, its faults.
struct Case {
    what: &'static str,
    files: Vec<PathBuf>,
    harm: Box<dyn Fn()>,
    damages: Vec<Expected>,
    /// Of which backup, the file, the member, a part of the text.
    faults: Vec<(String, &'static str, Option<&'static str>, &'static str)>,
}

fn check(major: u32) {
    let scene = scene(major);
    assert_sound(&scene.kept, &["--full"]);
    let text = ended(&mut verify_command(&scene.kept, &[]));
    text.is_well();
    assert!(text.stdout.contains(&format!("backup   {}: holds", scene.first)), "{text:?}");
    assert!(text.stdout.contains("\nsound: "), "{text:?}");
    let silent = ended(&mut verify_command(&scene.kept, &["-q"]));
    assert_eq!((silent.code, silent.stdout.as_str()), (Some(0), ""), "{silent:?}");
    only_one(&scene);
    let cases = wal_cases(&scene).into_iter().chain(backup_cases(&scene));
    for (place, case) in cases.enumerate() {
        // Versions between have every other one.
        if full(major) || place % 2 == 0 {
            run(&scene, &case);
        }
    }
    missing(&scene);
    assert_sound(&scene.kept, &["--full"]);
    assert!(server_flush(&scene.primary) > scene.long);
}

/// Of a backup that is named nothing else is looked at, nor WAL from before it.
fn only_one(scene: &Scene) {
    let (first, second) = (&scene.first, &scene.second);
    // What wasn't asked for is known still, but for the segment before.
    assert_sound(&scene.kept, &["--backup", second]);
    let next = assert_sound(&scene.kept, &[]);
    assert_eq!((&next["read"]["backups"], &next["read"]["segments"]), (&0.into(), &1.into()));
    let other = scene.kept.archive.join("backups").join(first).join("base.tar");
    let before = scene.kept.segment(scene.short.segment(SIZE));
    [&other, &before].iter().for_each(|path| flip(path, 5000));
    let one = ["--full", "--backup", second];
    let value = assert_sound(&scene.kept, &one);
    assert_eq!(value["backups"].as_array().map(Vec::len), Some(1), "{value:#}");
    assert_eq!(value["backups"][0]["id"], second.as_str(), "{value:#}");
    let (value, told) = verify(&scene.kept, &["--backup", second, "--backup", first, "-q"]);
    assert_eq!(told.code, Some(4), "{value:#}");
    assert_eq!(value["backups"].as_array().map(Vec::len), Some(2), "{value:#}");
    assert!(value["damages"].as_array().is_some_and(|all| all.len() == 1), "{value:#}");
    [&other, &before].iter().for_each(|path| flip(path, 5000));
    ended(&mut verify_command(&scene.kept, &["--backup", "none"])).says(1, &["no backup none"]);
}

/// Harms, looks without --full and with it, and mends.
fn run(scene: &Scene, case: &Case) {
    let before: Vec<_> = case.files.iter().map(|file| Saved::of(file)).collect();
    (case.harm)();
    for more in [&[][..], &["--full"], &[]] {
        let (value, ended) = verify(&scene.kept, more);
        let what = case.what;
        assert_eq!(ended.code, Some(4), "{what}: {value:#}");
        let damages = value["damages"].as_array().cloned().unwrap_or_default();
        assert_eq!(damages.len(), case.damages.len(), "{what}: {value:#}");
        for (damage, (file, lsn, text)) in damages.iter().zip(&case.damages) {
            assert_eq!(damage["file"], file.display().to_string(), "{what}: {value:#}");
            if let Some(lsn) = lsn {
                assert_eq!(damage["lsn"], lsn.to_string(), "{what}: {value:#}");
            }
            let told = damage["what"].as_str().unwrap_or_default();
            assert!(told.contains(text), "{what}: {value:#}");
        }
        let mut faults = Vec::new();
        for backup in value["backups"].as_array().into_iter().flatten() {
            for fault in backup["faults"].as_array().into_iter().flatten() {
                faults.push((backup["id"].clone(), fault.clone()));
            }
            // A file beside the backup's own does no harm.
            let harmful = |fault: &Value| fault["what"] != "it isn't part of the backup";
            let harmful =
                faults_of(backup).iter().any(|of| harmful(of) || of["member"].is_string());
            assert_eq!(
                backup["recoverable"] == false,
                harmful || concerns(scene, case, backup),
                "{what}: {value:#}"
            );
        }
        assert_eq!(faults.len(), case.faults.len(), "{what}: {value:#}");
        for ((id, fault), (expected, file, member, text)) in faults.iter().zip(&case.faults) {
            assert_eq!(id, expected.as_str(), "{what}: {value:#}");
            assert_eq!(fault["file"], *file, "{what}: {value:#}");
            assert_eq!(fault["member"].as_str(), *member, "{what}: {value:#}");
            let told = fault["what"].as_str().unwrap_or_default();
            assert!(told.contains(text), "{what}: {value:#}");
        }
    }
    for saved in before {
        saved.put_back();
    }
    let (value, ended) = verify(&scene.kept, &[]);
    assert_eq!(value["damages"], serde_json::json!([]), "{}: {value:#}", case.what);
    ended.is_well();
}

/// A file as it was, or that there was none.
struct Saved {
    path: PathBuf,
    content: Option<(Vec<u8>, fs::Metadata)>,
}

impl Saved {
    fn of(path: &Path) -> Self {
        let metadata = fs::metadata(path).ok();
        let content = metadata.map(|metadata| (fs::read(path).must(), metadata));
        Self { path: path.to_owned(), content }
    }

    /// As its owner's, who isn't this test's.
    fn put_back(self) {
        _ = fs::remove_file(&self.path);
        if let Some((bytes, metadata)) = self.content {
            fs::write(&self.path, bytes).must();
            chown(&self.path, Some(metadata.uid()), Some(metadata.gid())).must();
            fs::set_permissions(&self.path, metadata.permissions()).must();
        }
    }
}

fn faults_of(backup: &Value) -> Vec<Value> {
    backup["faults"].as_array().cloned().unwrap_or_default()
}

/// Whether WAL that this backup needs to be consistent is damaged.
fn concerns(_scene: &Scene, case: &Case, backup: &Value) -> bool {
    let at =
        |key: &str| backup["windows"][0][key].as_str().and_then(|text| text.parse::<Lsn>().ok());
    let wal = case.damages.iter().any(|(file, lsn, _)| file.starts_with("wal") && lsn.is_some());
    wal && at("to") < at("from")
}

fn segment(at: Lsn) -> PathBuf {
    Path::new("wal").join(name(1, at.segment(SIZE)))
}

fn wal_cases(scene: &Scene) -> Vec<Case> {
    let archive = scene.kept.archive.clone();
    let sealed = scene.kept.sealed();
    let offset = |lsn: Lsn| usize::try_from(lsn.segment_offset(SIZE)).unwrap_or_default();
    let (short, long) = (scene.short, scene.long);
    let page = short.align_down(8192).saturating_add(8192);
    let in_long = long.saturating_add(SIZE.bytes());
    let last = segment(sealed[sealed.len() - 1].start(SIZE));
    let quiet = sealed[sealed.len() - 3];
    let open = partial(&scene.kept);
    let open = open.strip_prefix(&archive).must().to_owned();
    let index = PathBuf::from("index/00000001-0000000000000000");
    let entry = usize::try_from(quiet.as_u64()).unwrap_or_default() * 128;
    let case = |what, file: &Path, harm: Box<dyn Fn(&Path)>, damages| {
        let path = archive.join(file);
        let files = vec![path.clone()];
        Case { what, files, harm: Box::new(move || harm(&path)), damages, faults: Vec::new() }
    };
    let history = Path::new("wal/00000002.history");
    vec![
        case(
            "a bit of a record",
            &segment(short),
            Box::new(move |path| flip(path, offset(short) + 100)),
            vec![(segment(short), Some(short), "CRC")],
        ),
        case(
            "a bit of a record that runs over borders",
            &segment(in_long),
            Box::new(|path| flip(path, 300_000)),
            vec![(segment(long), Some(long), "CRC")],
        ),
        case(
            "a page's header",
            &segment(page),
            Box::new(move |path| flip(path, offset(page) + 10)),
            vec![(segment(page), Some(page), "belongs elsewhere")],
        ),
        case(
            "cut off",
            &segment(short),
            Box::new(|path| {
                let file = fs::OpenOptions::new().write(true).open(path).must();
                file.set_len(5000).must();
            }),
            vec![(segment(short), Some(short.segment_start(SIZE)), "it has 5000 bytes")],
        ),
        case(
            "grown",
            &segment(short),
            Box::new(|path| {
                let file = fs::OpenOptions::new().write(true).open(path).must();
                file.set_len(SIZE.bytes() + 1).must();
            }),
            vec![(segment(short), Some(short.segment_start(SIZE)), "it has 1048577 bytes")],
        ),
        case(
            "zeros at the end",
            &segment(short),
            Box::new(|path| {
                let mut bytes = fs::read(path).must();
                let half = bytes.len() / 2;
                bytes[half..].fill(0);
                fs::write(path, bytes).must();
            }),
            vec![(segment(short), None, "page magic 0000")],
        ),
        case(
            "not to be read",
            &segment(short),
            Box::new(|path| fs::set_permissions(path, fs::Permissions::from_mode(0o0)).must()),
            vec![(segment(short), Some(short.segment_start(SIZE)), "can't be read")],
        ),
        case(
            "a history that can't be read",
            history,
            Box::new(|path| fs::write(path, "1\tnowhere\tx\n").must()),
            vec![(history.to_owned(), None, "line 1 of the history")],
        ),
        case(
            "an entry of the index",
            &index,
            Box::new(move |path| flip(path, entry + 30)),
            vec![(index.clone(), Some(quiet.start(SIZE)), "doesn't hold")],
        ),
        case(
            "an entry of the index in another's place",
            &index,
            Box::new(move |path| {
                let mut bytes = fs::read(path).must();
                bytes.copy_within(entry + 128..entry + 256, entry);
                fs::write(path, bytes).must();
            }),
            vec![(index.clone(), Some(quiet.start(SIZE)), "in the place of")],
        ),
        case(
            "gaps.json",
            Path::new("gaps.json"),
            Box::new(|path| fs::write(path, "{").must()),
            vec![(PathBuf::from("gaps.json"), None, "gaps.json can't be read")],
        ),
        case(
            "a segment that isn't whole",
            &open,
            Box::new(|path| flip(path, 100_000)),
            vec![(open.clone(), None, "WAL is behind it")],
        ),
        case(
            "the last whole segment's first page",
            &last,
            Box::new(|path| flip(path, 3)),
            vec![(last.clone(), None, "flags")],
        ),
    ]
}

fn backup_cases(scene: &Scene) -> Vec<Case> {
    let (first, second) = (scene.first.clone(), scene.second.clone());
    let dir = |id: &str| scene.kept.archive.join("backups").join(id);
    let case = |what, id: &str, file: &'static str, harm: Box<dyn Fn(&Path)>, member, text| {
        let path = dir(id).join(file);
        let files = vec![path.clone()];
        let faults = vec![(id.to_owned(), file, member, text)];
        Case { what, files, harm: Box::new(move || harm(&path)), damages: Vec::new(), faults }
    };
    let (version_at, _) = member(&dir(&first).join("base.tar"), "PG_VERSION");
    let (next_at, next) = behind(&dir(&first).join("base.tar"), version_at);
    let tablespace = tablespace(&dir(&first));
    let grow = |path: &Path| {
        let mut bytes = fs::read(path).must();
        bytes.extend([0; 512]);
        fs::write(path, bytes).must();
    };
    let cut = |path: &Path| {
        let bytes = fs::read(path).must();
        fs::write(path, &bytes[..bytes.len() / 2 / 512 * 512 + 100]).must();
    };
    let leaked: &'static str = Box::leak(tablespace.into_boxed_str());
    let _next: &'static str = Box::leak(next.into_boxed_str());
    vec![
        case(
            "a file's byte",
            &first,
            "base.tar",
            Box::new(move |path| flip(path, version_at)),
            Some("PG_VERSION"),
            "changed",
        ),
        case(
            "a tar header",
            &first,
            "base.tar",
            Box::new(move |path| flip(path, next_at + 110)),
            None,
            "at byte",
        ),
        case("cut off", &second, "base.tar", Box::new(cut), None, "truncated"),
        case("appended", &first, "base.tar", Box::new(grow), None, "appended"),
        case(
            "a tablespace that is gone",
            &first,
            leaked,
            Box::new(|path| fs::remove_file(path).must()),
            None,
            "missing",
        ),
        case(
            "a manifest's byte",
            &second,
            "backup_manifest",
            Box::new(|path| flip(path, 200)),
            None,
            "checksum doesn't hold",
        ),
        case(
            "no manifest",
            &first,
            "backup_manifest",
            Box::new(|path| fs::remove_file(path).must()),
            None,
            "missing",
        ),
        case(
            "a file more",
            &second,
            "more.tar",
            Box::new(|path| fs::write(path, "x").must()),
            None,
            "isn't part of the backup",
        ),
    ]
}

/// Where a tar file has a file's bytes, and how many.
fn member(tar: &Path, wanted: &str) -> (usize, usize) {
    let bytes = fs::read(tar).must();
    let mut at = 0;
    while at + 512 <= bytes.len() {
        let name: Vec<u8> =
            bytes[at..at + 100].iter().copied().take_while(|byte| *byte != 0).collect();
        let size = String::from_utf8_lossy(&bytes[at + 124..at + 135]).into_owned();
        let size = usize::from_str_radix(size.trim_matches([' ', '\0']), 8).unwrap_or_default();
        if name == wanted.as_bytes() {
            return (at + 512, size);
        }
        at += 512 + size.next_multiple_of(512);
    }
    panic!("no {wanted} in {}", tar.display())
}

/// The header behind a small file, and its name.
fn behind(tar: &Path, at: usize) -> (usize, String) {
    let bytes = fs::read(tar).must();
    let next = at + 512;
    let name = bytes[next..next + 100].iter().copied().take_while(|byte| *byte != 0).collect();
    (next, String::from_utf8(name).must())
}

/// The name of the tablespace's tar file.
fn tablespace(dir: &Path) -> String {
    let names = fs::read_dir(dir).must().map(|entry| entry.must().file_name());
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    let found = names.find(|name| name.ends_with(".tar") && name != "base.tar");
    found.unwrap_or_else(|| panic!("no tablespace in {}", dir.display()))
}

/// A segment that is gone: what can be recovered ends there, and what is behind it is of use to the
/// second backup alone.
fn missing(scene: &Scene) {
    let path = scene.kept.archive.join(segment(scene.short));
    let aside = scene.kept.scratch.path().join("gone");
    fs::rename(&path, &aside).must();
    let (value, ended) = verify(&scene.kept, &[]);
    assert_eq!(ended.code, Some(4), "{value:#}");
    let start = scene.short.segment_start(SIZE).to_string();
    assert_eq!(value["missing"][0]["from"], start, "{value:#}");
    let of = |id: &str| {
        let mut backups = value["backups"].as_array().into_iter().flatten();
        backups.find(|backup| backup["id"] == id).cloned().unwrap_or_default()
    };
    let (first, second) = (of(&scene.first), of(&scene.second));
    let because = first["windows"][0]["ends_because"].as_str().unwrap_or_default();
    assert!(because.contains("WAL is missing"), "{value:#}");
    assert_eq!(first["windows"][0]["to"], start, "{value:#}");
    assert_eq!(second["windows"][0]["ends_because"], Value::Null, "{value:#}");
    assert_eq!(second["recoverable"], true, "{value:#}");
    fs::rename(&aside, &path).must();
    // A stranger is told of, and no harm.
    let stranger = scene.kept.archive.join("wal/notes.txt");
    fs::write(&stranger, "x").must();
    let value = assert_sound(&scene.kept, &[]);
    assert_eq!(value["strangers"][0], "wal/notes.txt");
    fs::remove_file(stranger).must();
}
