//! The next record that holds, behind one that doesn't.
//!
//! Every place where a record may start is tried, page by page: with a length, a manager and a
//! link that make sense it is read, and its CRC says whether it is one. A page that isn't this
//! log's is passed over.

use pg_types::Lsn;

use crate::read::reader::{PAGE_BYTES, Reader, Stop};

/// Records start at multiples of this (`MAXALIGN`).
const ALIGNMENT: u64 = 8;

/// A record that holds, and where what doesn't begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mended {
    /// Where reading had come to.
    pub(super) broken: Lsn,
    /// The record.
    pub(super) at: Lsn,
}

/// Lets the reader stand before the next record that holds; `None`, and the reader as it was, if
/// there is none in the files that are there.
pub(super) fn next_valid(reader: &mut Reader) -> Option<Mended> {
    let broken = reader.standing();
    let mut at = broken.next.saturating_add(1).align_up(ALIGNMENT);
    loop {
        match reader.holds_at(at) {
            Ok(true) => {
                reader.begin(at);
                return Some(Mended { broken: broken.next, at });
            }
            Ok(false) => at = at.saturating_add(ALIGNMENT),
            // Not a page of this log.
            Err(Stop::Invalid(_)) => {
                at = at.saturating_add(1).align_up(PAGE_BYTES as u64);
            }
            Err(Stop::End | Stop::Files(_)) => {
                reader.resume(broken);
                return None;
            }
        }
        if at == Lsn::MAX {
            reader.resume(broken);
            return None;
        }
    }
}
