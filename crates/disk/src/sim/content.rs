//! The bytes of a simulated file, sparse and shared.
//!
//! Invariant: a page that was never written reads as zeros and costs nothing; a clone shares all
//! pages until one side writes. That is what makes a crash at every operation affordable.

use std::collections::BTreeMap;
use std::sync::Arc;

/// What a power loss tears: a device writes a sector whole or not at all.
pub(super) const SECTOR: usize = 512;
/// The unit of sharing; the page cache's.
const PAGE: usize = 4096;
/// Pages in an extent: 1 MiB, so that the clone of a 16 MiB file copies 16 pointers.
const EXTENT_PAGES: u64 = 256;

type Page = [u8; PAGE];

#[derive(Clone)]
struct Extent {
    pages: Vec<Option<Arc<Page>>>,
}

impl Default for Extent {
    fn default() -> Self {
        Self { pages: vec![None; EXTENT_PAGES as usize] }
    }
}

/// A sparse array of bytes without a length of its own.
#[derive(Clone, Default)]
pub(super) struct Content {
    extents: BTreeMap<u64, Arc<Extent>>,
}

impl Content {
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        for_pages(offset, out.len(), |page, within, range| {
            let out = &mut out[range];
            match self.page(page) {
                Some(bytes) => out.copy_from_slice(&bytes[within..within + out.len()]),
                None => out.fill(0),
            }
        });
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_pages(offset, bytes.len(), |page, within, range| {
            let bytes = &bytes[range];
            self.page_mut(page)[within..within + bytes.len()].copy_from_slice(bytes);
        });
    }

    /// Forgets everything from `len` on.
    pub(super) fn truncate(&mut self, len: u64) {
        let last_page = len.div_ceil(PAGE as u64);
        self.extents.retain(|extent, _| extent * EXTENT_PAGES < last_page);
        if let Some((index, extent)) = self.extents.iter_mut().next_back() {
            let first = last_page.saturating_sub(index * EXTENT_PAGES);
            let stale = extent.pages.iter().skip(first as usize).any(Option::is_some);
            if stale {
                Arc::make_mut(extent).pages[first as usize..].fill(None);
            }
        }
        let within = (len % PAGE as u64) as usize;
        if within != 0 && self.page(len / PAGE as u64).is_some() {
            self.page_mut(len / PAGE as u64)[within..].fill(0);
        }
    }

    fn page(&self, page: u64) -> Option<&Page> {
        let extent = self.extents.get(&(page / EXTENT_PAGES))?;
        extent.pages[(page % EXTENT_PAGES) as usize].as_deref()
    }

    fn page_mut(&mut self, page: u64) -> &mut Page {
        let extent = Arc::make_mut(self.extents.entry(page / EXTENT_PAGES).or_default());
        let slot = &mut extent.pages[(page % EXTENT_PAGES) as usize];
        Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE])))
    }
}

/// Calls `each` with the page, the place within it, and the range of the caller's slice.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let part = (PAGE - within).min(len - done);
        each(at / PAGE as u64, within, done..done + part);
        done += part;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_like_a_vector(ops in proptest::collection::vec(
            (0u64..3_000_000, 0usize..9000, any::<u8>(), any::<bool>()), 0..20)
        ) {
            let mut model = vec![0u8; 3_010_000];
            let mut content = Content::default();
            let before = content.clone();
            for (offset, len, byte, truncate) in ops {
                if truncate {
                    content.truncate(offset);
                    model[offset as usize..].fill(0);
                } else {
                    content.write(offset, &vec![byte; len]);
                    model[offset as usize..offset as usize + len].fill(byte);
                }
            }
            let mut read = vec![1u8; model.len()];
            content.read(0, &mut read);
            prop_assert!(read == model);
            before.read(0, &mut read);
            prop_assert!(read.iter().all(|byte| *byte == 0));
        }
    }
}
