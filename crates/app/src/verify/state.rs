//! What was verified, and is therefore not read again as long as it doesn't change:
//! `run/verify.state`, a line for each file with its size, the times of its last changes, and its
//! inode. Lost or torn, it costs the next pass its time and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use wal_format::crc::crc32c;

const PATH: &str = "run/verify.state";
const TEMPORARY: &str = "run/.verify.state.tmp";
/// The first line.
const HEADING: &str = "seawall verify 1\n";

/// What tells that a file is what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    bytes: u64,
    /// Nanoseconds since 1970: of the content, and of anything.
    modified: i128,
    changed: i128,
    inode: u64,
}

impl Identity {
    /// A file's, as it is now; `None` where it can't be had.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Some(Self {
            bytes: metadata.len(),
            modified: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let this = Self {
            bytes: words.next()?.parse().ok()?,
            modified: words.next()?.parse().ok()?,
            changed: words.next()?.parse().ok()?,
            inode: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(this)
    }
}

/// Every file in a directory of the archive, by its path there.
pub(super) fn files_in(archive: &Path, dir: &Path) -> Vec<(String, Identity)> {
    let entries = fs::read_dir(archive.join(dir)).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let name = dir.join(entry.file_name()).display().to_string();
        Some((name, Identity::of(&entry.path())?))
    });
    files.collect()
}

/// What an earlier pass verified.
#[derive(Debug, Default)]
pub(super) struct State {
    files: HashMap<String, Identity>,
}

impl State {
    pub(super) fn load(archive: &Path) -> Self {
        let text = fs::read_to_string(archive.join(PATH)).unwrap_or_default();
        Self::parse(&text).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let (covered, crc) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let covered = text.get(..=covered.len())?;
        if u32::from_str_radix(crc, 16).ok()? != crc32c(covered.as_bytes()) {
            return None;
        }
        let lines = covered.strip_prefix(HEADING)?.lines();
        // The path comes last: it may have spaces.
        let files = lines.map(|line| {
            let end = line.match_indices(' ').nth(3)?.0;
            let (identity, path) = line.split_at_checked(end)?;
            Some((path.get(1..)?.to_owned(), Identity::parse(identity)?))
        });
        Some(Self { files: files.collect::<Option<_>>()? })
    }

    /// Whether a file was verified as it is.
    pub(super) fn knows(&self, path: &str, identity: &Identity) -> bool {
        self.verified(path) == Some(*identity)
    }

    /// What was verified under this name.
    pub(super) fn verified(&self, path: &str) -> Option<Identity> {
        self.files.get(path).copied()
    }

    /// The files that were verified whose paths begin so.
    pub(super) fn below(&self, begins: &str) -> impl Iterator<Item = (&String, &Identity)> {
        self.files.iter().filter(move |(path, _)| path.starts_with(begins))
    }

    /// Keeps what was verified for the next pass. Where it can't, the next pass reads all.
    pub(super) fn save(archive: &Path, files: &BTreeMap<String, Identity>) {
        let (temporary, path) = (archive.join(TEMPORARY), archive.join(PATH));
        let text = Self::write(files);
        let written = fs::create_dir_all(archive.join("run"))
            .and_then(|()| fs::write(&temporary, text))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            tracing::warn!("{}: {error}; the next pass reads everything again", path.display());
        }
    }

    fn write(files: &BTreeMap<String, Identity>) -> String {
        let mut text = HEADING.to_owned();
        // Writing to a string doesn't fail. A name that would break the lines is read each time.
        for (path, identity) in files.iter().filter(|(path, _)| !path.contains('\n')) {
            let Identity { bytes, modified, changed, inode } = identity;
            _ = writeln!(text, "{bytes} {modified} {changed} {inode} {path}");
        }
        let crc = crc32c(text.as_bytes());
        _ = writeln!(text, "{crc:08x}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_torn_is_nothing() {
        let identity = Identity { bytes: 5, modified: -1, changed: 7, inode: 9 };
        let files = BTreeMap::from([
            ("wal/000000010000000000000001".to_owned(), identity),
            ("backups/x y/base.tar".to_owned(), Identity::default()),
        ]);
        let text = State::write(&files);
        let state = State::parse(&text).unwrap();
        assert!(state.knows("wal/000000010000000000000001", &identity));
        assert!(!state.knows("wal/000000010000000000000001", &Identity::default()));
        assert!(state.knows("backups/x y/base.tar", &Identity::default()));
        assert_eq!(state.below("backups/").count(), 1);
        for at in 0..text.len() {
            assert!(State::parse(&text[..at]).is_none(), "cut at {at}");
        }
        assert!(State::parse(&State::write(&BTreeMap::new())).is_some());
    }
}
