//! What a power loss would leave of a backup and of a restore: neither has the name that makes it
//! one before all of it is durable.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::servers::system_program;

use super::calls::ThreadId;
use crate::common::{Must, scratch, server};
use crate::program::{ended, seawall};

/// What is traced: whatever could write a file, name it, or sync it.
const TRACED: &str = "trace=openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,\
                      copy_file_range,fsync,fdatasync,syncfs,rename,renameat,renameat2";

fn a_backup_has_its_name_when_it_is_durable(major: u32) {
    let (server, dir) = (server(major, 1, &[]), scratch());
    let space = server.scratch().server_dir("space").must();
    server.sql(&format!("CREATE TABLESPACE one LOCATION '{}'", space.display())).must();
    server.sql("CREATE TABLE t TABLESPACE one AS SELECT generate_series(1, 9000) i").must();
    let (archive, data) = (dir.path().join("archive"), dir.path().join("data"));
    let (log, new) = (dir.path().join("log"), dir.path().join("space"));

    let mut backup = seawall(&["backup", "-w", "-c", "fast", "-d", &server.conninfo(), "-A"]);
    let taken = traced(backup.arg(&archive), &log);
    let id = taken.trim();
    let dir = archive.join("backups").join(id);
    let left = unsynced_at(&log, &archive, &dir.join("backup.json"));
    let wal = archive.join("wal");
    left.assert_none(&[&archive.join("backups"), &wal], |path| {
        // A hold is for processes, which no power loss leaves; and a file is prepared for WAL to
        // come.
        path.ends_with(".hold.json")
            || path.starts_with(&wal) && path.extension().is_some_and(|end| end == "tmp")
    });

    let mut restore = seawall(&["restore", "-T"]);
    restore.arg(format!("{}={}", space.display(), new.display()));
    traced(restore.arg("-A").arg(&archive).arg("-D").arg(&data), &log);
    let left = unsynced_at(&log, data.parent().must(), &data.join("global/pg_control"));
    left.assert_none(&[&data, &new], |_| false);
}

#[test]
fn a_backup_has_its_name_when_it_is_durable_14() {
    a_backup_has_its_name_when_it_is_durable(14);
}

#[test]
fn a_backup_has_its_name_when_it_is_durable_18() {
    a_backup_has_its_name_when_it_is_durable(18);
}

/// Runs it to its end under strace; gives what it printed.
fn traced(command: &Command, log: &Path) -> String {
    let mut strace = Command::new(system_program("strace", "strace").must());
    strace
        .env_clear()
        .env("HOME", "/nonexistent")
        .args(["-f", "-y", "-s", "4", "-e", TRACED, "-o"]);
    let ended = ended(strace.arg(log).arg(command.get_program()).args(command.get_args()));
    ended.is_well();
    ended.stdout
}

/// Files and directories that were changed, and when; a sync that began later takes them out.
#[derive(Clone, Debug, Default)]
struct Unsynced {
    files: BTreeMap<PathBuf, usize>,
    directories: BTreeMap<PathBuf, usize>,
}

impl Unsynced {
    /// Nothing below these directories is, but for what may be.
    fn assert_none(&self, below: &[&Path], may_be: impl Fn(&Path) -> bool) {
        for path in self.files.keys().chain(self.directories.keys()) {
            let counts = below.iter().any(|dir| path.starts_with(dir)) && !may_be(path);
            assert!(!counts, "{} isn't durable: {self:#?}", path.display());
        }
    }

    fn apply(&mut self, call: &Traced, now: usize) {
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        match call {
            Traced::Written(file) => _ = self.files.insert(file.clone(), now),
            Traced::Named(path) => _ = self.directories.insert(parent(path), now),
            Traced::Renamed { from, to } => {
                if let Some(since) = self.files.remove(from) {
                    self.files.insert(to.clone(), since);
                }
                self.directories.insert(parent(to), now);
            }
            Traced::Synced(path) => {
                // `now` is when it began.
                for changed in [&mut self.files, &mut self.directories] {
                    changed.retain(|changed, since| changed != path || *since > now);
                }
            }
            Traced::AllSynced => {
                for changed in [&mut self.files, &mut self.directories] {
                    changed.retain(|_, since| *since > now);
                }
            }
            Traced::Other => {}
        }
    }
}

/// A call that has ended well.
#[derive(Debug)]
enum Traced {
    Written(PathBuf),
    Named(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Synced(PathBuf),
    AllSynced,
    Other,
}

/// What was unsynced below `root` when something got this name; and the name itself is synced by
/// the log's end.
fn unsynced_at(log: &Path, root: &Path, name: &Path) -> Unsynced {
    let mut unsynced = Unsynced::default();
    let mut pending: BTreeMap<ThreadId, (usize, String)> = BTreeMap::new();
    let mut at_name = None;
    for (now, line) in fs::read_to_string(log).must().lines().enumerate() {
        let (thread, text) = line.split_once(' ').unwrap_or_default();
        let (thread, text) = (thread.parse().must(), text.trim_start());
        let (began, text) = match text.strip_prefix("<... ") {
            None => (now, text.to_owned()),
            Some(rest) => {
                let (began, begun) = pending.remove(&thread).must();
                (began, begun + rest.split_once("resumed>").must().1)
            }
        };
        if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            pending.insert(thread, (began, begun.to_owned()));
            continue;
        }
        let call = parse(&text);
        if matches!(&call, Traced::Renamed { to, .. } if to == name) {
            at_name = Some(unsynced.clone());
        }
        let is_sync = matches!(call, Traced::Synced(_) | Traced::AllSynced);
        unsynced.apply(&call, if is_sync { began } else { now });
    }
    assert!(!unsynced.directories.contains_key(name.parent().must()), "{unsynced:#?}");
    let mut at_name = at_name.must();
    at_name.files.retain(|path, _| path.starts_with(root));
    assert!(fs::exists(name).must());
    at_name
}

fn parse(text: &str) -> Traced {
    let (Some((name, args)), Some((_, result))) = (text.split_once('('), text.rsplit_once(" = "))
    else {
        // A signal, or a process's end.
        return Traced::Other;
    };
    if result.starts_with(['-', '?']) {
        return Traced::Other;
    }
    match name {
        "openat" if args.contains("O_CREAT") => Traced::Named(descriptor(result)),
        "openat" => Traced::Other,
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" => {
            Traced::Written(descriptor(args))
        }
        "copy_file_range" => Traced::Written(descriptor(args.split_once('>').must().1)),
        "fsync" | "fdatasync" => Traced::Synced(descriptor(args)),
        "syncfs" => Traced::AllSynced,
        "mkdir" | "mkdirat" => Traced::Named(names(args).remove(0)),
        "rename" | "renameat" | "renameat2" => {
            let mut names = names(args);
            Traced::Renamed { from: names.remove(0), to: names.remove(0) }
        }
        other => panic!("a call that this test doesn't know: {other}: {text}"),
    }
}

/// The path of the first descriptor: `9</tmp/…>`.
fn descriptor(text: &str) -> PathBuf {
    let path = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    PathBuf::from(path.must().0)
}

/// The names given, each below the directory of the descriptor before it.
fn names(args: &str) -> Vec<PathBuf> {
    let parts: Vec<&str> = args.split('"').collect();
    let named = parts.chunks_exact(2).map(|part| match part[0].contains('<') {
        true => descriptor(part[0]).join(part[1]),
        false => PathBuf::from(part[1]),
    });
    named.collect()
}
