//! `seawall.json`: what an archive is, and whose. Written once, when the archive is made.

use pg_types::{Geometry, SegmentSize, SystemId};
use serde::{Deserialize, Serialize};
use wal_format::{PageHeader, WalVersion};

use crate::ArchiveError;

/// The format that this version writes.
const FORMAT: u32 = 1;
/// More than any `seawall.json` has; a larger file isn't ours.
pub(crate) const MAX_LEN: usize = 64 << 10;

/// Whose WAL it is: what the server says before streaming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub system_id: SystemId,
    /// The server's major version.
    pub server_major: u32,
    /// The sizes of its segments and pages.
    pub geometry: Geometry,
}

/// The content of `seawall.json`; docs/FORMAT.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The layout's version.
    pub format: u32,
    /// The least format that a reader must know.
    pub min_reader: u32,
    /// The least format that a writer must know.
    pub min_writer: u32,
    /// The archive's own name, random; 32 hex digits.
    pub archive: String,
    /// The cluster's system identifier: text, since JSON's numbers lose digits.
    pub system_identifier: String,
    /// The server's major version.
    pub server_major: u32,
    /// Bytes.
    pub segment_size: u64,
    /// Bytes.
    pub block_size: u32,
}

impl Format {
    /// A new archive's.
    pub(crate) fn new(identity: &Identity, archive: &[u8; 16]) -> Self {
        Self {
            format: FORMAT,
            min_reader: FORMAT,
            min_writer: FORMAT,
            archive: archive.iter().map(|byte| format!("{byte:02x}")).collect(),
            system_identifier: identity.system_id.to_string(),
            server_major: identity.server_major,
            segment_size: identity.geometry.segment_size.bytes(),
            block_size: identity.geometry.block_size,
        }
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let bad = |error: serde_json::Error| ArchiveError::BadFormatFile(error.to_string());
        // The version first: a later format may have other fields.
        #[derive(Deserialize)]
        struct Version {
            format: u32,
            min_writer: u32,
        }
        let Version { format, min_writer } = serde_json::from_slice(bytes).map_err(bad)?;
        if min_writer > FORMAT || format == 0 {
            return Err(ArchiveError::UnknownFormat { format, known: FORMAT });
        }
        serde_json::from_slice(bytes).map_err(bad)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text.into_bytes()
    }

    /// Whose the archive is.
    ///
    /// # Errors
    /// If a value is none that a server can have.
    pub fn identity(&self) -> Result<Identity, ArchiveError> {
        let bad = |what: &str| ArchiveError::BadFormatFile(format!("{what} is invalid"));
        let system_id = self.system_identifier.parse().map_err(|_| bad("system_identifier"))?;
        let segment_size = SegmentSize::new(self.segment_size).map_err(|_| bad("segment_size"))?;
        let geometry = Geometry::with_block_size(segment_size, self.block_size)
            .ok_or_else(|| bad("block_size"))?;
        let system_id = SystemId(system_id);
        Ok(Identity { system_id, server_major: self.server_major, geometry })
    }
}

impl Identity {
    /// What a segment's first page, or its beginning, says of the server; `None` if it is none.
    #[must_use]
    pub fn of_segment(page: &[u8]) -> Option<Self> {
        let header = PageHeader::read(page)?;
        let long = header.long?;
        let version = WalVersion::from_magic(header.magic)?;
        let segment_size = SegmentSize::new(long.segment_size.into()).ok()?;
        let geometry = Geometry::with_block_size(segment_size, long.block_size)?;
        let system_id = long.system_id;
        Some(Self { system_id, server_major: version.major(), geometry })
    }

    /// Whether a server's WAL belongs into this archive.
    ///
    /// # Errors
    /// If it doesn't.
    pub fn admits(&self, server: &Identity) -> Result<(), ArchiveError> {
        if self.system_id != server.system_id {
            let (archive, server) = (self.system_id, server.system_id);
            return Err(ArchiveError::OtherSystem { archive, server });
        }
        let (ours, theirs) = (self.geometry, server.geometry);
        if ours.segment_size != theirs.segment_size {
            let (archive, server) = (ours.segment_size, theirs.segment_size);
            return Err(ArchiveError::OtherSegmentSize { archive, server });
        }
        if ours.block_size != theirs.block_size {
            let (archive, server) = (ours.block_size, theirs.block_size);
            return Err(ArchiveError::OtherBlockSize { archive, server });
        }
        if self.server_major != server.server_major {
            let (archive, server) = (self.server_major, server.server_major);
            return Err(ArchiveError::OtherMajor { archive, server });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let geometry = Geometry::new(SegmentSize::DEFAULT);
        Identity { system_id: SystemId(u64::MAX), server_major: 17, geometry }
    }

    #[test]
    fn comes_back_as_it_was() {
        let format = Format::new(&identity(), &[7; 16]);
        let read = Format::parse(&format.to_json()).unwrap();
        assert_eq!(read, format);
        assert_eq!(read.identity(), Ok(identity()));
    }

    #[test]
    fn a_later_format_is_refused() {
        let later = br#"{"format": 3, "min_reader": 1, "min_writer": 2, "new": true}"#;
        let error = ArchiveError::UnknownFormat { format: 3, known: 1 };
        assert_eq!(Format::parse(later), Err(error));
    }

    #[test]
    fn a_later_minor_that_we_may_write_is_read() {
        let mut format = Format::new(&identity(), &[7; 16]);
        format.format = 2;
        assert!(Format::parse(&format.to_json()).is_ok());
    }
}
