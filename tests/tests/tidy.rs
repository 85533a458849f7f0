//! The house's rules that a compiler doesn't know: arrows between crates, file sizes, leftovers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use: docs/ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("pg-types", &[]),
    ("wal-format", &["pg-types"]),
    ("wal-describe", &["pg-types", "wal-format"]),
    ("pg-wire", &["pg-types"]),
    ("replication", &["pg-types", "pg-wire"]),
    ("disk", &[]),
    ("compression", &[]),
    ("threads", &[]),
    ("archive", &["pg-types", "wal-format", "disk", "compression"]),
    ("backup", &["pg-types", "wal-format", "disk", "compression", "archive"]),
    (
        "waldump",
        &["pg-types", "wal-format", "wal-describe", "disk", "compression", "archive", "threads"],
    ),
    ("runtime", &["pg-types", "pg-wire", "replication", "disk", "archive", "wal-format"]),
    (
        "app",
        &[
            "pg-types",
            "wal-format",
            "pg-wire",
            "replication",
            "disk",
            "compression",
            "threads",
            "archive",
            "backup",
            "runtime",
            "waldump",
        ],
    ),
    ("testkit", &[]),
    ("sim", &["pg-types", "wal-format", "pg-wire", "disk", "archive", "runtime"]),
];

/// Longer than this a file holds more than one idea; split by idea, not by count.
const MOST_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != ".git" {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The names in a manifest's `[dependencies]`.
fn dependencies(manifest: &str) -> Vec<&str> {
    let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]"));
    let lines = section.unwrap_or_default().lines().skip(1);
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).collect()
}

#[test]
fn arrows_go_up_the_table_only() {
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let archive = fs::read_to_string(root().join("crates/archive/Cargo.toml")).unwrap();
    assert!(dependencies(&archive).contains(&"wal-format"), "manifests are understood");
    for entry in fs::read_dir(root().join("crates")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let allowed = rules.get(name.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{name} isn't in the table"));
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap();
        for used in dependencies(&manifest).iter().filter(|used| rules.contains_key(*used)) {
            assert!(allowed.contains(used), "{name} must not use {used}");
        }
    }
}

#[test]
fn files_hold_one_idea_and_no_leftovers() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 50, "the checkout is found");
    // Put together here, so that this file isn't one of those that it finds.
    let leftovers = [["FIX", "ME"], ["X", "XX:"], ["#[ig", "nore"], ["to", "do!("]];
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", path.display());
        for leftover in leftovers.map(|parts| parts.concat()) {
            assert!(!text.contains(&leftover), "{} has {leftover}", path.display());
        }
    }
}
