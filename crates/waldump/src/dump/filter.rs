//! Which records are taken.

use wal_format::{RecordBody, RecordHeader, RelFileLocator, WalVersion};

use crate::cli::Options;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Filter {
    rmgrs: Option<Box<[bool; 256]>>,
    xid: Option<u32>,
    relation: Option<RelFileLocator>,
    block: Option<u32>,
    fork: Option<u8>,
    fullpage: bool,
}

impl Filter {
    /// What the options say. Up to 14 the last `-r` wins, from 15 on they add up.
    #[must_use]
    pub fn new(options: &Options, version: WalVersion) -> Self {
        let given = options.rmgrs.as_slice();
        let count = if version.major() >= 15 { given.len() } else { given.len().min(1) };
        let mut rmgrs = None;
        for rmgr in given.iter().rev().take(count) {
            let places = rmgrs.get_or_insert_with(|| Box::new([false; 256]));
            if let Some(place) = places.get_mut(usize::from(rmgr.0)) {
                *place = true;
            }
        }
        Self {
            rmgrs,
            xid: options.xid,
            relation: options.relation,
            block: options.block,
            fork: options.fork,
            fullpage: options.fullpage,
        }
    }

    /// Whether headers alone tell which records are taken.
    #[must_use]
    pub fn is_by_header(&self) -> bool {
        !self.is_by_block() && !self.fullpage
    }

    fn is_by_block(&self) -> bool {
        self.relation.is_some() || self.block.is_some() || self.fork.is_some()
    }

    /// Whether a record is taken.
    #[inline]
    #[must_use]
    pub fn takes(&self, header: &RecordHeader, body: &RecordBody<'_>) -> bool {
        self.takes_header(header) && self.takes_blocks(body)
    }

    /// Whether a record may be taken; it is if [`Self::is_by_header`].
    #[inline]
    #[must_use]
    pub fn takes_header(&self, header: &RecordHeader) -> bool {
        if let Some(rmgrs) = &self.rmgrs
            && !rmgrs.get(usize::from(header.rmgr.0)).copied().unwrap_or(false)
        {
            return false;
        }
        self.xid.is_none_or(|xid| xid == header.xid)
    }

    fn takes_blocks(&self, body: &RecordBody<'_>) -> bool {
        let mut blocks = body.blocks.iter();
        let matches = |block: &wal_format::BlockReference<'_>| {
            self.fork.is_none_or(|fork| fork == block.fork)
                && self.relation.is_none_or(|relation| relation == block.locator)
                && self.block.is_none_or(|number| number == block.block)
        };
        if self.is_by_block() && !blocks.any(matches) {
            return false;
        }
        !self.fullpage || body.blocks.iter().any(|block| block.image.is_some())
    }
}
