//! A file of which an incremental backup has only the blocks that changed, made whole again
//! (`INCREMENTAL.*`; `backup/basebackup.c`, `bin/pg_combinebackup/reconstruct.c`, 17–18).
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | magic, `D3AE1F0D` |
//! | 4 | 4 | blocks in it |
//! | 8 | 4 | truncation length in blocks: what lies behind is in this file, or is zeros |
//! | 12 | 4 each | the blocks' numbers, rising |
//!
//! Little-endian; if there are blocks, zeros up to a multiple of their size, and then they follow.
//!
//! Each block comes from the newest backup that has it, down to the whole file; one that none has
//! was added to the file without anything being written into it. Everything that is read is held
//! against its own backup's manifest, also what isn't taken.

use super::plan::Stored;
use crate::BackupError;

/// `INCREMENTAL_MAGIC` (`backup/basebackup_incremental.h`, 17–18).
const MAGIC: u32 = 0xd3ae_1f0d;
/// Magic, count, truncation length.
const FIXED_LEN: u64 = 12;
/// A file has 131,072 blocks of 8 KiB; servers may be built with files up to this.
const MAX_BLOCKS: u32 = 1 << 24;
/// No backup has the block.
const NOWHERE: u16 = u16::MAX;
/// So many backups in a chain can be told apart.
pub(super) const MAX_CHAIN: usize = NOWHERE as usize;

/// What an `INCREMENTAL.*` file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Below this older backups have what isn't in this file.
    truncation: u32,
    /// The blocks that are in it, rising.
    pub(super) blocks: Vec<u32>,
    /// Where the first of them begins.
    pub(super) len: u64,
}

impl Header {
    /// Reads it; `read` fills a buffer from an offset of the file, which has `size` bytes.
    pub(super) fn read(
        stored: &Stored,
        block_size: u32,
        mut read: impl FnMut(&mut [u8], u64) -> Result<(), BackupError>,
    ) -> Result<Self, BackupError> {
        let size = stored.file.size;
        let wrong = |what: String| BackupError::NotAsListed { path: stored.path.clone(), what };
        let short = || wrong(format!("it has {size} bytes, too few for its header"));
        if size < FIXED_LEN {
            return Err(short());
        }
        let mut fixed = [0; FIXED_LEN as usize];
        read(&mut fixed, 0)?;
        let [magic, count, truncation] = [0, 4, 8].map(|at| word(&fixed, at));
        if magic != MAGIC {
            return Err(wrong(format!(
                "it begins with {magic:08X}, which no incremental file does"
            )));
        }
        if truncation > MAX_BLOCKS {
            return Err(wrong(format!("it would have {truncation} blocks")));
        }
        let (block, count) = (u64::from(block_size), u64::from(count));
        let numbers = FIXED_LEN.saturating_add(count.saturating_mul(4));
        let len = if count == 0 { numbers } else { numbers.next_multiple_of(block) };
        let whole = len.saturating_add(count.saturating_mul(block));
        if whole != size {
            return Err(wrong(format!(
                "it has {size} bytes, and {count} blocks of {block_size} make {whole}"
            )));
        }
        // No more than the file, which is as long as its manifest says.
        let mut bytes = vec![0; usize::try_from(numbers - FIXED_LEN).map_err(|_| short())?];
        read(&mut bytes, FIXED_LEN)?;
        let blocks: Vec<u32> = bytes.chunks_exact(4).map(|bytes| word(bytes, 0)).collect();
        if !blocks.is_sorted_by(|a, b| a < b) {
            return Err(wrong("its block numbers don't rise".to_owned()));
        }
        if blocks.last().is_some_and(|last| *last >= MAX_BLOCKS) {
            return Err(wrong("a block's number is beyond any file".to_owned()));
        }
        Ok(Self { truncation, blocks, len })
    }

    /// How many blocks the whole file has.
    fn length(&self) -> u32 {
        self.truncation.max(self.blocks.last().map_or(0, |last| last + 1))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

/// Which backup each block of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sources {
    /// Places among the file's sources.
    from: Vec<u16>,
}

impl Sources {
    /// Of these headers, the newest first, and a whole file of so many blocks behind them.
    pub(super) fn of(headers: &[Header], whole_blocks: u64) -> Self {
        let Some(newest) = headers.first() else { return Self { from: Vec::new() } };
        let mut from = vec![NOWHERE; newest.length() as usize];
        for (place, header) in headers.iter().enumerate() {
            // What lies behind the truncation is the newest one's, or nobody's.
            let below = if place == 0 { u32::MAX } else { newest.truncation };
            for block in header.blocks.iter().filter(|block| **block < below) {
                if let Some(source) = from.get_mut(*block as usize).filter(|at| **at == NOWHERE) {
                    *source = u16::try_from(place).unwrap_or(NOWHERE);
                }
            }
        }
        let place = u16::try_from(headers.len()).unwrap_or(NOWHERE);
        let below = u64::from(newest.truncation).min(whole_blocks);
        let below = usize::try_from(below).unwrap_or(usize::MAX);
        for source in from.iter_mut().take(below).filter(|source| **source == NOWHERE) {
            *source = place;
        }
        Self { from }
    }

    /// How many blocks the file has.
    pub(super) fn blocks(&self) -> u64 {
        self.from.len() as u64
    }

    /// Whether a block comes from the source of this place.
    pub(super) fn is_from(&self, block: u64, place: usize) -> bool {
        let from = usize::try_from(block).ok().and_then(|block| self.from.get(block));
        from.is_some_and(|from| usize::from(*from) == place)
    }
}

/// The lines of a `backup_label` that tell what an incremental backup was taken after: with them a
/// server refuses to start (`backup/basebackup.c`, 17–18).
const LABEL_LINES: [&str; 2] = ["INCREMENTAL FROM LSN: ", "INCREMENTAL FROM TLI: "];

/// The `backup_label` of what was combined.
pub(super) fn whole_label(label: &[u8]) -> Vec<u8> {
    let lines = label.split_inclusive(|byte| *byte == b'\n');
    let kept = lines.filter(|line| !LABEL_LINES.iter().any(|of| line.starts_with(of.as_bytes())));
    kept.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Algorithm, EntryPath, ManifestFile};

    const BLOCK: u32 = 1024;

    fn bytes(magic: u32, truncation: u32, blocks: &[u32]) -> Vec<u8> {
        let words = [magic, blocks.len() as u32, truncation].into_iter().chain(blocks.to_vec());
        let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        if !blocks.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
            bytes.resize(bytes.len() + blocks.len() * BLOCK as usize, 7);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Header, BackupError> {
        let path = EntryPath::new(b"base/1/INCREMENTAL.2").unwrap();
        let (size, algorithm) = (bytes.len() as u64, Algorithm::None);
        let file = ManifestFile { size, algorithm, sum: Box::default() };
        let stored = Stored { backup: 0, archive: None, path, at: 0, file };
        Header::read(&stored, BLOCK, |buf, at| {
            let from = usize::try_from(at).unwrap();
            buf.copy_from_slice(&bytes[from..from + buf.len()]);
            Ok(())
        })
    }

    #[test]
    fn headers_are_read_and_checked() {
        let header = read(&bytes(MAGIC, 4, &[1, 9])).unwrap();
        assert_eq!((header.truncation, header.len, header.length()), (4, 1024, 10));
        assert_eq!(read(&bytes(MAGIC, 4, &[])).unwrap().len, 12);
        let many: Vec<u32> = (0..300).collect();
        assert_eq!(read(&bytes(MAGIC, 4, &many)).unwrap().len, 2048);
        let refused = |bytes: &[u8], expect: &str| {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        refused(&bytes(0xd3ae_1f0c, 4, &[1]), "begins with D3AE1F0C");
        refused(&bytes(MAGIC, 4, &[2, 2]), "don't rise");
        refused(&bytes(MAGIC, MAX_BLOCKS + 1, &[]), "would have");
        refused(&bytes(MAGIC, 4, &[MAX_BLOCKS]), "beyond any file");
        refused(&bytes(MAGIC, 4, &[1, 2])[..3000], "it has 3000 bytes");
        refused(&[0; 11], "too few");
    }

    #[test]
    fn the_newest_that_has_a_block_gives_it() {
        let header =
            |truncation, blocks: &[u32]| Header { truncation, blocks: blocks.to_vec(), len: 0 };
        let check = |headers: &[Header], whole, expect: &[u16]| {
            assert_eq!(Sources::of(headers, whole).from, expect);
        };
        check(&[header(4, &[1])], 9, &[1, 0, 1, 1]);
        check(&[header(4, &[1, 5])], 9, &[1, 0, 1, 1, NOWHERE, 0]);
        check(&[header(4, &[1]), header(2, &[0, 1, 6])], 3, &[1, 0, 2, NOWHERE]);
        check(&[header(0, &[])], 3, &[]);
    }

    #[test]
    fn a_label_loses_what_makes_it_incremental() {
        let label =
            b"START TIME: x\nINCREMENTAL FROM LSN: 0/2\nLABEL: a\nINCREMENTAL FROM TLI: 1\n";
        assert_eq!(whole_label(label), b"START TIME: x\nLABEL: a\n");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_refused(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut input = input;
            if let Some(magic) = input.get_mut(..4) {
                magic.copy_from_slice(&MAGIC.to_le_bytes());
            }
            _ = read(&input);
        }
    }
}
