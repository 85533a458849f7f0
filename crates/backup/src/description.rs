//! `backup.json`: what a backup is, and what it needs. Its name is what makes a directory a backup;
//! docs/FORMAT.md.

use compression::Method;
use disk::Tree;
use pg_types::{Lsn, ServerVersion, TimelineId};
use serde::{Deserialize, Serialize};
use wal_format::TimestampTz;

use crate::{BackupError, StoredTar};

/// The format of full backups.
const FORMAT: u32 = 1;
/// The format of incremental and of compressed ones, which a program that knows the first alone
/// would misread.
const SECOND_FORMAT: u32 = 2;
/// The file's name.
pub(crate) const NAME: &str = "backup.json";
/// `BLCKSZ`, as servers are built.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 1024..=32768;
/// A cluster with ten thousand tablespaces has not been seen.
pub(crate) const MAX_BYTES: usize = 16 << 20;

/// 2000-01-01 00:00:00 UTC, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A position on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The timeline.
    #[serde(with = "timeline")]
    pub timeline: TimelineId,
    /// The position.
    #[serde(with = "lsn")]
    pub lsn: Lsn,
}

/// A tablespace's tar file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceArchive {
    /// The tablespace.
    pub oid: u32,
    /// Where it was on the server; relative if within the data directory.
    pub location: String,
    /// The tar file's bytes.
    pub bytes: u64,
}

/// What an incremental backup stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incremental {
    /// The backup that it was taken after: it has what changed since.
    pub parent: String,
    /// Where that one began.
    pub from: Point,
    /// The size of the cluster's blocks, in bytes.
    pub block_size: u32,
}

/// The content of `backup.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The version of this file.
    pub format: u32,
    /// The backup's own name, its directory's.
    pub id: String,
    /// What the user called it.
    pub label: String,
    /// The server's version, as `server_version_num`.
    pub server_version: u32,
    /// The cluster, as decimal text.
    pub system_identifier: String,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// Where recovery begins.
    pub start: Point,
    /// The checkpoint that it begins with.
    #[serde(with = "lsn")]
    pub checkpoint: Lsn,
    /// Where it can end at the earliest.
    pub stop: Point,
    /// When it began, RFC 3339.
    pub started: String,
    /// When its last byte came.
    pub ended: String,
    /// Whether the cluster's pages have checksums, which the server verified then.
    pub data_checksums: bool,
    /// Whether the server's group may read its data directory.
    pub group_access: bool,
    /// Whether the manifest is the server's, or seawall's own, as of servers up to 12.
    pub manifest_of_server: bool,
    /// The files in its tar files.
    pub files: u64,
    /// The bytes of `base.tar`.
    pub base_bytes: u64,
    /// The tablespaces.
    pub tablespaces: Vec<TablespaceArchive>,
    /// What the server found damaged while it read its own files: empty in a sound backup.
    pub damage: Vec<String>,
    /// What it stands on, unless it is a full one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incremental: Option<Incremental>,
    /// How its tar files are compressed, if they are.
    #[serde(default, with = "method", skip_serializing_if = "Option::is_none")]
    pub compression: Option<Method>,
}

impl Description {
    /// The version of the file that is written for a backup of this kind.
    #[must_use]
    pub fn format_of(incremental: Option<&Incremental>, compression: Option<Method>) -> u32 {
        if incremental.is_some() || compression.is_some() { SECOND_FORMAT } else { FORMAT }
    }

    /// Opens one of its tar files: a tablespace's, or the data directory's.
    ///
    /// # Errors
    /// If it isn't there, or isn't as long as it should be.
    pub fn open_tar(
        &self,
        directory: &Tree,
        archive: Option<u32>,
    ) -> Result<StoredTar, BackupError> {
        let tablespaces = self.tablespaces.iter().map(|space| (Some(space.oid), space.bytes));
        let mut all = tablespaces.chain([(None, self.base_bytes)]);
        let bytes = all.find(|(of, _)| *of == archive).map_or(0, |(_, bytes)| bytes);
        StoredTar::open(directory, archive, bytes, self.compression)
    }

    /// Reads a file.
    pub(crate) fn parse(id: &str, bytes: &[u8]) -> Result<Self, BackupError> {
        let bad = |why: String| BackupError::BadDescription { id: id.to_owned(), why };
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let Version { format } = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if !(FORMAT..=SECOND_FORMAT).contains(&format) {
            return Err(bad(format!(
                "it has format {format}, and {FORMAT} to {SECOND_FORMAT} are known"
            )));
        }
        let this: Self = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        if format != Self::format_of(this.incremental.as_ref(), this.compression) {
            return Err(bad(format!("its format {format} isn't that of what it says it is")));
        }
        let sizes = this.incremental.iter().map(|link| link.block_size);
        if !sizes.into_iter().all(|size| size.is_power_of_two() && BLOCK_SIZES.contains(&size)) {
            return Err(bad("no cluster has blocks of its size".to_owned()));
        }
        if this.id != id {
            return Err(bad(format!("it is the one of the backup {}", this.id)));
        }
        Ok(this)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text.into_bytes()
    }

    /// The server's major version.
    #[must_use]
    pub fn server_major(&self) -> u32 {
        ServerVersion::from_num(self.server_version).major()
    }

    /// When it began, as servers count.
    #[must_use]
    pub fn started_at(&self) -> Option<TimestampTz> {
        let time: jiff::Timestamp = self.started.parse().ok()?;
        Some(TimestampTz(time.as_microsecond() - POSTGRES_EPOCH_US))
    }

    /// The bytes of all its tar files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let tablespaces = self.tablespaces.iter().map(|tablespace| tablespace.bytes);
        self.base_bytes + tablespaces.sum::<u64>()
    }
}

mod method {
    use compression::Method;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        method: &Option<Method>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match method {
            Some(method) => to.collect_str(method),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Method>, D::Error> {
        let name: Option<String> = Option::deserialize(from)?;
        name.map(|name| name.parse().map_err(D::Error::custom)).transpose()
    }
}

mod lsn {
    use pg_types::Lsn;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Lsn, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

mod timeline {
    use pg_types::TimelineId;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(id: &TimelineId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(id.as_u32())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TimelineId, D::Error> {
        let number = u32::deserialize(from)?;
        TimelineId::new(number).ok_or_else(|| D::Error::custom("there is no timeline 0"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(id: &str) -> Description {
        let at = |lsn| Point { timeline: TimelineId::FIRST, lsn: Lsn::new(lsn) };
        Description {
            format: FORMAT,
            id: id.to_owned(),
            label: "nightly".to_owned(),
            server_version: 180_006,
            system_identifier: u64::MAX.to_string(),
            from_standby: false,
            start: at(0x200_0028),
            checkpoint: Lsn::new(0x200_0060),
            stop: at(0x200_0120),
            started: "2026-01-31T12:00:00Z".to_owned(),
            ended: "2026-01-31T12:00:01Z".to_owned(),
            data_checksums: true,
            group_access: false,
            manifest_of_server: true,
            files: 3,
            base_bytes: 10,
            tablespaces: vec![TablespaceArchive {
                oid: 16384,
                location: "/srv/one".to_owned(),
                bytes: 5,
            }],
            damage: Vec::new(),
            incremental: None,
            compression: None,
        }
    }

    #[test]
    fn comes_back_as_it_was() {
        let backup = sample("a");
        assert_eq!(Description::parse("a", &backup.to_json()), Ok(backup.clone()));
        assert_eq!((backup.server_major(), backup.bytes()), (18, 15));
    }

    #[test]
    fn another_is_refused() {
        let refused = |id, bytes: &[u8]| Description::parse(id, bytes).unwrap_err().to_string();
        assert!(refused("b", &sample("a").to_json()).contains("of the backup a"));
        assert!(refused("a", br#"{"format": 3, "new": 1}"#).contains("has format 3"));
        assert!(refused("a", b"{").contains("can't be read"));
    }
}
