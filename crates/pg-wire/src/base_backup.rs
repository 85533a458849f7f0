//! BASE_BACKUP: the command in both of its grammars, and what its answer is made of
//! (`backup/basebackup.c`, `replication/repl_gram.y`, 10–18).
//!
//! Up to 14 the options are bare words and each tablespace comes in a CopyOut of its own; from 15
//! they stand in parentheses and one CopyOut has everything, each CopyData with a kind in front.

use pg_types::{Lsn, ServerVersion, TimelineId};

use crate::query::Rows;
use crate::reader::Reader;
use crate::row::{RowError, RowReader};

/// The first major version with options in parentheses, and one CopyOut for all.
const PARENTHESES_SINCE_MAJOR: u32 = 15;
/// The first major version that sends a manifest.
const MANIFEST_SINCE_MAJOR: u32 = 13;
/// The first major version with incremental backups.
const INCREMENTAL_SINCE_MAJOR: u32 = 17;

/// What `MAX_RATE` may be, in kilobytes per second (`MAX_RATE_LOWER`, `MAX_RATE_UPPER`).
pub const MAX_RATE_KB: std::ops::RangeInclusive<u32> = 32..=1_048_576;

/// The longest label that the server takes, in bytes (`MAXPGPATH`).
pub const MAX_LABEL_LEN: usize = 1024;

/// The longest target of a link in a tar file, in bytes.
pub const MAX_LINK_LEN: usize = 99;

/// A backup's label: what goes into a line of `backup_label`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    /// Checks a label.
    ///
    /// # Errors
    /// If the server wouldn't take it, or its line in `backup_label` would be two.
    pub fn new(text: impl Into<String>) -> Result<Self, LabelError> {
        let text = text.into();
        if text.len() > MAX_LABEL_LEN {
            Err(LabelError::TooLong)
        } else if text.chars().any(char::is_control) {
            Err(LabelError::ControlCharacter)
        } else {
            Ok(Self(text))
        }
    }

    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text can't be a backup's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// It has more than 1024 bytes.
    #[error("a backup's label has at most {MAX_LABEL_LEN} bytes")]
    TooLong,
    /// It has a line break or the like.
    #[error("a backup's label has no line breaks or other control characters")]
    ControlCharacter,
}

/// A base backup that is asked for: always with its sizes, its manifest where the server makes
/// one, and without WAL.
#[derive(Clone, Debug)]
pub struct BaseBackup<'a> {
    /// Its label.
    pub label: &'a Label,
    /// Whether the checkpoint that it begins with is hurried.
    pub fast: bool,
    /// The most that the server sends, in kilobytes per second; within [`MAX_RATE_KB`].
    pub max_rate_kb: Option<u32>,
    /// Whether the tablespaces' links come as a file, `tablespace_map`, or as links in the tar file,
    /// whose targets have at most [`MAX_LINK_LEN`] bytes. Up to 15 a tablespace within the data
    /// directory comes only with links.
    pub tablespace_map: bool,
    /// The manifest's checksums: a name of our own, such as `CRC32C`.
    pub manifest_checksums: &'static str,
    /// Whether only what has changed is wanted, since the backup whose manifest was uploaded just
    /// before ([`UPLOAD_MANIFEST`]); from 17 on.
    pub incremental: bool,
}

/// The command behind which a CopyIn takes an earlier backup's manifest; from 17 on.
pub const UPLOAD_MANIFEST: &str = "UPLOAD_MANIFEST";

/// Whether this server takes incremental backups.
#[must_use]
pub fn has_incremental(version: ServerVersion) -> bool {
    version.major() >= INCREMENTAL_SINCE_MAJOR
}

/// Whether this server sends a manifest with a backup.
#[must_use]
pub fn has_manifest(version: ServerVersion) -> bool {
    version.major() >= MANIFEST_SINCE_MAJOR
}

/// Whether this server sends everything in one CopyOut.
#[must_use]
pub fn is_one_copy(version: ServerVersion) -> bool {
    version.major() >= PARENTHESES_SINCE_MAJOR
}

impl BaseBackup<'_> {
    /// The command, in the words of this server.
    #[must_use]
    pub fn command(&self, version: ServerVersion) -> String {
        let label = self.label.as_str().replace('\'', "''");
        let checksums = self.manifest_checksums;
        let mut options = vec![format!("LABEL '{label}'"), "PROGRESS".to_owned()];
        let rate = self.max_rate_kb.map(|rate| format!("MAX_RATE {rate}"));
        let map = self.tablespace_map.then(|| "TABLESPACE_MAP".to_owned());
        if is_one_copy(version) {
            let checkpoint = if self.fast { "fast" } else { "spread" };
            options.push(format!("CHECKPOINT '{checkpoint}'"));
            options.push("WAIT 0".to_owned());
            options.extend(rate);
            options.extend(map);
            options.push("MANIFEST 'yes'".to_owned());
            options.push(format!("MANIFEST_CHECKSUMS '{checksums}'"));
            if self.incremental {
                options.push("INCREMENTAL".to_owned());
            }
            return format!("BASE_BACKUP ( {})", options.join(", "));
        }
        if self.fast {
            options.push("FAST".to_owned());
        }
        options.push("NOWAIT".to_owned());
        options.extend(rate);
        options.extend(map);
        if has_manifest(version) {
            options.push(format!("MANIFEST 'yes' MANIFEST_CHECKSUMS '{checksums}'"));
        }
        format!("BASE_BACKUP {}", options.join(" "))
    }
}

/// Where a backup begins or ends: the first and the last row of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupPoint {
    /// The position.
    pub lsn: Lsn,
    /// The timeline that it is on.
    pub timeline: TimelineId,
}

impl BackupPoint {
    /// Reads the row.
    ///
    /// # Errors
    /// Rows that aren't it.
    pub fn from_rows(rows: &Rows) -> Result<Self, RowError> {
        let row = RowReader::single("the backup's position", rows, 2)?;
        Ok(Self { lsn: row.lsn(0)?, timeline: row.timeline(1)? })
    }
}

/// A directory that a backup consists of: a tablespace, or the data directory itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupArchive {
    /// The tablespace; `None` for the data directory.
    pub oid: Option<u32>,
    /// Where the tablespace is, as the server's path; relative if it is within the data directory.
    pub location: Option<String>,
    /// About how many bytes it has.
    pub bytes: u64,
}

impl BackupArchive {
    /// Reads the rows, in the order in which the archives come up to 14.
    ///
    /// # Errors
    /// Rows that aren't it.
    pub fn from_rows(rows: &Rows) -> Result<Vec<Self>, RowError> {
        RowReader::each("the backup's tablespaces", rows, 3)?
            .map(|row| {
                let oid = row.optional(0, "a tablespace's oid", |text| text.parse().ok())?;
                let location = row.optional(1, "a path in UTF-8", |text| Some(text.to_owned()))?;
                let kilobytes: Option<u64> = row.optional(2, "a size", |text| text.parse().ok())?;
                Ok(Self { oid, location, bytes: kilobytes.unwrap_or(0).saturating_mul(1024) })
            })
            .collect()
    }
}

/// A kind of CopyData in the one CopyOut, from 15 on: its first byte
/// (`bbsink_copystream_*`, `backup/basebackup_copy.c`).
pub mod kind {
    /// Bytes of an archive or the manifest.
    pub const DATA: u8 = b'd';
    /// An archive begins.
    pub const NEW_ARCHIVE: u8 = b'n';
    /// The manifest begins.
    pub const MANIFEST: u8 = b'm';
    /// How far the server is.
    pub const PROGRESS: u8 = b'p';
}

/// A CopyData of the one CopyOut that isn't bytes to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupNote {
    /// An archive begins: `base.tar`, or a tablespace's `OID.tar`.
    NewArchive {
        /// Its file's name.
        name: String,
    },
    /// The manifest begins.
    Manifest,
    /// So many bytes are sent.
    Progress(u64),
}

impl BackupNote {
    /// Reads a CopyData's payload, its kind included; `None` if it isn't one.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(payload);
        let note = match reader.u8()? {
            kind::NEW_ARCHIVE => {
                let name = String::from_utf8(reader.c_string()?.to_vec()).ok()?;
                // The tablespace's path, which the row has as well.
                reader.c_string()?;
                Self::NewArchive { name }
            }
            kind::MANIFEST => Self::Manifest,
            kind::PROGRESS => Self::Progress(reader.u64()?),
            _ => return None,
        };
        reader.is_empty().then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn commands_by_version() {
        let label = Label::new("it's \\ a label").unwrap();
        let check = |num, fast, max_rate_kb, expect: &str| {
            let incremental = num >= 170_000;
            let backup = BaseBackup {
                incremental,
                label: &label,
                fast,
                max_rate_kb,
                tablespace_map: num != 120_022,
                manifest_checksums: "CRC32C",
            };
            assert_eq!(backup.command(ServerVersion::from_num(num)), expect);
        };
        check(120_022, true, None, "BASE_BACKUP LABEL 'it''s \\ a label' PROGRESS FAST NOWAIT");
        check(
            140_023,
            false,
            Some(32),
            "BASE_BACKUP LABEL 'it''s \\ a label' PROGRESS NOWAIT MAX_RATE 32 TABLESPACE_MAP \
             MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'",
        );
        check(
            150_019,
            true,
            Some(1024),
            "BASE_BACKUP ( LABEL 'it''s \\ a label', PROGRESS, CHECKPOINT 'fast', WAIT 0, \
             MAX_RATE 1024, TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')",
        );
        check(
            170_011,
            false,
            None,
            "BASE_BACKUP ( LABEL 'it''s \\ a label', PROGRESS, CHECKPOINT 'spread', WAIT 0, \
             TABLESPACE_MAP, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', INCREMENTAL)",
        );
    }

    #[test]
    fn labels() {
        assert!(Label::new("x".repeat(1024)).is_ok());
        assert_eq!(Label::new("x".repeat(1025)), Err(LabelError::TooLong));
        assert_eq!(Label::new("a\nb"), Err(LabelError::ControlCharacter));
        assert_eq!(Label::new("a\0b"), Err(LabelError::ControlCharacter));
    }

    #[test]
    fn notes() {
        let check = |payload: &[u8], expect| assert_eq!(BackupNote::parse(payload), expect);
        let archive = |name: &str| Some(BackupNote::NewArchive { name: name.to_owned() });
        check(b"nbase.tar\0\0", archive("base.tar"));
        check(b"n16384.tar\0/srv/one\0", archive("16384.tar"));
        check(b"nbase.tar\0", None);
        check(b"nbase.tar\0\0x", None);
        check(b"m", Some(BackupNote::Manifest));
        check(b"p\0\0\0\0\0\0\x01\0", Some(BackupNote::Progress(256)));
        check(b"p\0", None);
        check(b"d", None);
        check(b"", None);
    }

    proptest! {
        #[test]
        fn arbitrary_notes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = BackupNote::parse(&payload);
        }
    }

    #[test]
    fn rows() {
        let row = |values: [Option<&str>; 3]| {
            values.map(|value| value.map(|text| text.as_bytes().to_vec())).to_vec()
        };
        let rows = Rows {
            columns: Vec::new(),
            rows: vec![row([Some("16384"), Some("/srv/one"), Some("7")]), row([None; 3])],
        };
        let archives = BackupArchive::from_rows(&rows).unwrap();
        assert_eq!((archives[0].oid, archives[0].bytes), (Some(16384), 7168));
        assert_eq!(archives[1], BackupArchive { oid: None, location: None, bytes: 0 });
        let bad = Rows { columns: Vec::new(), rows: vec![row([Some("x"), None, None])] };
        assert!(BackupArchive::from_rows(&bad).is_err());
    }
}
