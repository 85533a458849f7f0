//! Connection strings and URIs, thousands of them, read by libpq 18 itself: by way of psycopg, which
//! brings it along.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use testkit::process::{run, run_with_input};

use crate::common::{LIMIT, Must, Random};

/// psycopg with the libpq that the strings are held against.
const PSYCOPG: &str = "psycopg[binary]==3.3.9";
/// Making an environment and downloading 5 MB.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);
/// How many strings.
const COUNT: usize = 6000;

/// A Python that has psycopg, in the cache; made by the first who needs it.
fn python() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let cache = cache.join("seawall");
    fs::create_dir_all(&cache).must();
    let lock = File::create(cache.join(".lock-psycopg")).must();
    lock.lock().must();
    let (place, ready) = (cache.join("psycopg-3.3.9"), cache.join("psycopg-3.3.9/ready"));
    let python = place.join("bin/python");
    if !ready.exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "--clear"]).arg(&place);
        run(&mut venv, INSTALL_LIMIT, "python3 -m venv (apt-get install -y python3-venv)").must();
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--only-binary=:all:", PSYCOPG]);
        run(&mut pip, INSTALL_LIMIT, "pip install psycopg, the oracle of this test").must();
        File::create(ready).must();
    }
    python
}

const NAMES: [&str; 16] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "options",
    "hostaddr",
    "service",
    "requiressl",
    "application_name",
    "target_session_attrs",
    "uzer",
    "x",
    "",
    "ssl",
];

const PIECES: [&str; 36] = [
    "=", " ", "'", "\\", "\\'", "\\\\", "\t", "\n", "a", "db1", "5432", "it's", "''", "' '", ",",
    "1,2", "::1", "[", "]", "[::1]", "/", "//", "@", ":", "?", "&", "%", "%20", "%2F", "%41",
    "%zz", "%00", "true", "require", "ü", "\u{b}",
];

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[usize::try_from(random.below(from.len() as u64)).must()]
}

fn pieces(random: &mut Random, most: u64) -> String {
    (0..random.below(most + 1)).map(|_| pick(random, &PIECES)).collect()
}

/// A string that is nearly one.
fn conninfo(random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..=random.below(3) {
        let spaces = ["", " ", "\t ", "\n"];
        text += pick(random, &spaces);
        text += pick(random, &NAMES);
        text += pick(random, &spaces);
        text += if random.below(12) == 0 { "" } else { "=" };
        text += pick(random, &spaces);
        match random.below(3) {
            0 => text += &format!("'{}'", pieces(random, 3).replace('\'', "\\'")),
            1 => text += pick(random, &["a", "db1", "a\\ b", "5432", "''"]),
            _ => text += &pieces(random, 2),
        }
        text += " ";
    }
    text
}

/// A URI that is nearly one.
fn uri(random: &mut Random) -> String {
    let mut text = pick(random, &["postgresql://", "postgres://"]).to_owned();
    if random.below(2) == 0 {
        text += &pieces(random, 1);
        text += pick(random, &["", ":", ":s%40crt", ":a b"]);
        text += "@";
    }
    let hosts =
        ["", "h", "h:1", "[::1]", "[::1]:2", "a,b", "a:1,[::2]:3", "%2Ftmp", "h:", "[", "[]"];
    text += pick(random, &hosts);
    text += pick(random, &["", "/", "/db", "/d%20b", "/ d", "/d b"]);
    if random.below(2) == 0 {
        text += "?";
        for at in 0..=random.below(2) {
            text += if at > 0 { "&" } else { "" };
            text += pick(random, &NAMES);
            text += if random.below(10) == 0 { "" } else { "=" };
            text += &pieces(random, 2);
        }
    }
    if random.below(8) == 0 {
        text += &pieces(random, 2);
    }
    text
}

#[test]
fn strings_are_read_as_libpq_reads_them() {
    let mut random = Random::new("conninfo");
    let mut texts: Vec<String> = (0..COUNT)
        .map(|at| match at % 3 {
            0 => conninfo(&mut random),
            1 => uri(&mut random),
            _ => pieces(&mut random, 6),
        })
        .collect();
    // A NUL ends a string in C, and 18 doesn't know `servicefile` yet.
    texts.retain(|text| !text.contains('\0'));
    let lines: Vec<String> = texts.iter().map(|text| serde_json::json!(text).to_string()).collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/tls/conninfo.py");
    let mut oracle = Command::new(python());
    let output = run_with_input(oracle.arg(script), &lines.join("\n"), LIMIT, "psycopg").must();
    let output = String::from_utf8(output.stdout).must();
    let mut answers =
        output.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).must());
    let version = answers.next().unwrap()["libpq"].as_u64().unwrap();
    assert_eq!(version / 10_000, 18, "psycopg brought libpq {version}");
    let (mut good, mut unknown, mut beyond, mut differences) = (0, 0, 0, Vec::new());
    for (text, theirs) in texts.iter().zip(answers) {
        let ours = pg_wire::settings::parse(text);
        match (&ours, theirs["options"].as_object(), theirs["error"].as_str()) {
            (Ok(ours), Some(theirs), _) => {
                let ours: BTreeMap<_, _> = ours.iter().cloned().collect();
                let theirs: BTreeMap<_, _> = theirs
                    .iter()
                    .map(|(name, value)| {
                        (name.as_str(), value.as_str().unwrap_or_default().to_owned())
                    })
                    .collect();
                good += 1;
                if ours != theirs {
                    differences.push(format!("{text:?}: {ours:?} and not {theirs:?}"));
                }
            }
            // Bytes that are no text, which libpq takes: docs/CONNECTING.md says so.
            (Err(ours), _, _) if ours.to_string().contains("isn't UTF-8") => beyond += 1,
            (Err(ours), _, Some(theirs)) => {
                // libpq's own words for an option that there is none of; where the name could be a
                // piece of a password, only the place is told.
                let (ours, theirs) = (ours.to_string(), theirs.trim());
                let is_unknown = ["invalid connection option", "invalid URI query parameter"];
                if let Some(words) = is_unknown.iter().find(|words| theirs.contains(**words)) {
                    unknown += 1;
                    let named = theirs.lines().next().unwrap_or_default();
                    if !ours.starts_with(named)
                        && !ours.starts_with(&format!("{words} at byte"))
                        && !ours.starts_with(&format!("{words}: at byte"))
                    {
                        differences.push(format!("{text:?}: {ours} and not {theirs}"));
                    }
                }
            }
            (ours, theirs, error) => {
                differences.push(format!("{text:?}: {ours:?} and not {theirs:?} {error:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}\n{}", differences.len(), differences.join("\n"));
    let enough = good > COUNT / 8 && unknown > COUNT / 40 && beyond < COUNT / 50;
    assert!(enough, "{good} good, {unknown} unknown, {beyond} beyond");
}
