//! One simulated file: what readers see, what the device has, and what is sure to survive.
//!
//! Invariant: `real` is always `durable` with all of `pending` applied in order; `seen`, where it
//! differs, is a page cache that still shows what a failed fsync lost. A file never gets shorter,
//! but by being made anew.

use std::sync::Arc;

use super::content::{Content, SECTOR};
use super::rng::Rng;

/// A change that no successful fsync has covered.
#[derive(Clone)]
pub(super) struct Pending {
    /// When; a sync that began earlier doesn't cover it.
    pub(super) seq: u64,
    /// Where its first sector starts, in bytes.
    pub(super) at: u64,
    /// Whole sectors as they were in the cache after the write. Empty where only the length
    /// changed.
    pub(super) data: Arc<[u8]>,
    /// The file's length afterwards.
    pub(super) len_after: u64,
    /// Whether the bytes are past the page cache, in the device's own.
    pub(super) direct: bool,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What a direct read finds.
    pub(super) real: Content,
    /// What a buffered read finds, where that differs.
    pub(super) seen: Option<Content>,
    pub(super) len: u64,
    /// What the last successful fsync covered.
    pub(super) durable: Content,
    pub(super) durable_len: u64,
    /// In ext4's ordered mode: writes up to this one are on the disk, because the journal holds
    /// a rename over an older file that depends on them.
    pub(super) ordered_seq: u64,
    /// In ext4's ordered mode: the length that the journal holds.
    pub(super) ordered_len: u64,
    pub(super) pending: Vec<Pending>,
    /// Created since the last sync, so that a sync must commit the journal.
    pub(super) fresh: bool,
}

impl Inode {
    /// A file as a boot finds it: all of it durable.
    pub(super) fn booted(content: Content, len: u64) -> Self {
        Self {
            real: content.clone(),
            len,
            durable: content,
            durable_len: len,
            ordered_len: len,
            ..Self::default()
        }
    }

    /// Copies to `out` what a read finds; the number of bytes before the end of the file.
    pub(super) fn read(&self, offset: u64, out: &mut [u8], direct: bool) -> usize {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(out.len());
        let view = if direct { &self.real } else { self.seen.as_ref().unwrap_or(&self.real) };
        view.read(offset, &mut out[..len]);
        len
    }

    pub(super) fn write(&mut self, seq: u64, offset: u64, bytes: &[u8], direct: bool) {
        if bytes.is_empty() {
            return;
        }
        let sector = SECTOR as u64;
        let at = offset / sector * sector;
        let end = offset + bytes.len() as u64;
        let mut data = vec![0u8; (end.div_ceil(sector) * sector - at) as usize];
        let view = if direct { &self.real } else { self.seen.as_ref().unwrap_or(&self.real) };
        // Only the first and the last sector can keep bytes of their own.
        let last = data.len() - SECTOR;
        view.read(at, &mut data[..SECTOR]);
        view.read(at + last as u64, &mut data[last..]);
        let within = (offset - at) as usize;
        data[within..within + bytes.len()].copy_from_slice(bytes);
        self.real.write(at, &data);
        if let Some(seen) = &mut self.seen {
            seen.write(at, &data);
        }
        self.len = self.len.max(end);
        self.pending.push(Pending { seq, at, data: data.into(), len_after: self.len, direct });
    }

    pub(super) fn extend(&mut self, seq: u64, len: u64) {
        if len > self.len {
            self.len = len;
            let data = Arc::from([]);
            self.pending.push(Pending { seq, at: 0, data, len_after: len, direct: false });
        }
    }

    /// Whether a sync of the file commits the journal too.
    pub(super) fn is_metadata_dirty(&self) -> bool {
        self.fresh || self.pending.iter().any(|change| change.len_after > self.durable_len)
    }

    /// A successful fsync that began at `start`.
    pub(super) fn sync(&mut self, start: u64) {
        let covered = self.covered(start);
        if covered == self.pending.len() {
            self.durable = self.real.clone();
            self.durable_len = self.len;
            self.pending.clear();
        } else {
            for change in self.pending.drain(..covered) {
                self.durable.write(change.at, &change.data);
                self.durable_len = change.len_after;
            }
        }
        self.ordered_len = self.ordered_len.max(self.durable_len);
        self.fresh = false;
    }

    /// A failed fsync that began at `start`: the page cache's dirty pages are dropped, and clean
    /// from now on; what was in the device's cache is lost or not. Readers of the cache may see
    /// the lost bytes as before.
    pub(super) fn fail_sync(&mut self, start: u64, rng: &mut Rng) {
        let before = self.pending.len();
        self.pending.retain(|change| change.seq > start || (change.direct && rng.coin()));
        if self.pending.len() == before {
            return;
        }
        let view = self.seen.take().unwrap_or_else(|| self.real.clone());
        self.real = self.durable.clone();
        let mut grown = self.durable_len;
        for change in &self.pending {
            self.real.write(change.at, &change.data);
            grown = change.len_after;
        }
        if rng.chance(3, 4) {
            self.seen = Some(view);
        }
        if grown < self.len {
            // The length is the inode's and not the pages': it stays, and is durable with the
            // next success.
            let seq = self.pending.last().map_or(start, |change| change.seq);
            let data = Arc::from([]);
            let len_after = self.len;
            self.pending.push(Pending { seq, at: 0, data, len_after, direct: false });
        }
    }

    fn covered(&self, start: u64) -> usize {
        self.pending.iter().take_while(|change| change.seq <= start).count()
    }
}
