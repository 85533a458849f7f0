//! Hash indexes (`Hash`; `access/hash_xlog.h`).

use serde::Serialize;
use wal_format::Reader;

use crate::layout::{Field, layout};
use crate::text::{Put, letter, put};
use crate::{Source, Style};

/// What a record of a hash index says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Hash {
    /// `XLOG_HASH_INIT_META_PAGE`
    InitMetaPage(InitMetaPage),
    /// `XLOG_HASH_INIT_BITMAP_PAGE`
    InitBitmapPage(InitBitmapPage),
    /// `XLOG_HASH_INSERT`
    Insert(Insert),
    /// `XLOG_HASH_ADD_OVFL_PAGE`
    AddOverflowPage(AddOverflowPage),
    /// `XLOG_HASH_SPLIT_ALLOCATE_PAGE`
    SplitAllocatePage(SplitAllocatePage),
    /// `XLOG_HASH_SPLIT_COMPLETE`
    SplitComplete(SplitComplete),
    /// `XLOG_HASH_MOVE_PAGE_CONTENTS`
    MovePageContents(MovePageContents),
    /// `XLOG_HASH_SQUEEZE_PAGE`
    SqueezePage(SqueezePage),
    /// `XLOG_HASH_DELETE`
    Delete(Delete),
    /// `XLOG_HASH_UPDATE_META_PAGE`
    UpdateMetaPage(UpdateMetaPage),
    /// `XLOG_HASH_VACUUM_ONE_PAGE`
    VacuumOnePage(VacuumOnePage),
    /// `XLOG_HASH_SPLIT_PAGE`, `XLOG_HASH_SPLIT_CLEANUP`: all is in the pages' images.
    Nothing,
}

layout! {
    /// `xl_hash_init_meta_page` (10–18).
    InitMetaPage {
        /// `num_tuples`
        tuples: Double,
        /// `procid`: the function that hashes
        function: u32,
        /// `ffactor`
        fill_factor: u16,
    }
}

layout! {
    /// `xl_hash_init_bitmap_page` (10–18).
    InitBitmapPage {
        /// `bmsize`
        bitmap_bytes: u16,
    }
}

layout! {
    /// `xl_hash_insert` (10–18).
    Insert {
        /// `offnum`
        offset: u16,
    }
}

layout! {
    /// `xl_hash_add_ovfl_page` (10–18).
    AddOverflowPage {
        /// `bmsize`
        bitmap_bytes: u16,
        /// `bmpage_found`
        bitmap_page_found: bool,
    }
}

layout! {
    /// `xl_hash_split_allocate_page` (10–18).
    SplitAllocatePage {
        /// `new_bucket`
        new_bucket: u32,
        /// `old_bucket_flag`
        old_bucket_flag: u16,
        /// `new_bucket_flag`
        new_bucket_flag: u16,
        /// `flags`: `XLH_SPLIT_META_UPDATE_…`
        flags: u8,
    }
}

layout! {
    /// `xl_hash_split_complete` (10–18).
    SplitComplete {
        /// `old_bucket_flag`
        old_bucket_flag: u16,
        /// `new_bucket_flag`
        new_bucket_flag: u16,
    }
}

layout! {
    /// `xl_hash_move_page_contents` (10–18).
    MovePageContents {
        /// `ntups`
        tuples: u16,
        /// `is_prim_bucket_same_wrt`
        to_primary: bool,
    }
}

layout! {
    /// `xl_hash_squeeze_page` (10–18).
    SqueezePage {
        /// `prevblkno`
        previous: u32,
        /// `nextblkno`
        next: u32,
        /// `ntups`
        tuples: u16,
        /// `is_prim_bucket_same_wrt`
        to_primary: bool,
        /// `is_prev_bucket_same_wrt`
        to_previous: bool,
    }
}

layout! {
    /// `xl_hash_delete` (10–18).
    Delete {
        /// `clear_dead_marking`
        clear_dead_marking: bool,
        /// `is_primary_bucket_page`
        primary: bool,
    }
}

layout! {
    /// `xl_hash_update_meta_page` (10–18).
    UpdateMetaPage {
        /// `ntuples`
        tuples: Double,
    }
}

/// `xl_hash_vacuum_one_page` (11–18).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VacuumOnePage {
    /// `snapshotConflictHorizon`; `latestRemovedXid` up to 15
    pub conflict_horizon: u32,
    /// `ntuples`; an `int` up to 15
    pub tuples: i32,
    /// `isCatalogRel`, from 16 on
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<bool>,
}

/// A number of tuples, which is a `double`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Double(pub f64);

impl Field for Double {
    const SIZE: usize = 8;
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        reader.array().map(f64::from_le_bytes).map(Self)
    }
}

/// `%g`: six significant digits without trailing zeros, with an exponent where it is less than -4
/// or more than 5 (`fmtfloat`, port/snprintf.c, for what isn't a number).
impl Put for Double {
    fn put(self, out: &mut Vec<u8>) {
        let value = self.0;
        if value.is_nan() {
            return put!(out, "NaN");
        }
        if value.is_infinite() {
            return put!(out, if value < 0.0 { "-Infinity" } else { "Infinity" });
        }
        let scientific = format!("{value:.5e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let text = if (-4..6).contains(&exponent) {
            let decimals = usize::try_from(5_i32.saturating_sub(exponent)).unwrap_or(0);
            format!("{value:.decimals$}")
        } else {
            digits.to_owned()
        };
        let text = match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.'),
            false => &text,
        };
        put!(out, text);
        if !(-4..6).contains(&exponent) {
            put!(out, if exponent < 0 { "e-" } else { "e+" });
            if exponent.unsigned_abs() < 10 {
                put!(out, "0");
            }
            put!(out, exponent.unsigned_abs());
        }
    }
}

/// `XLH_SPLIT_META_UPDATE_…`
const UPDATE_MASKS: u8 = 1;
const UPDATE_SPLITPOINT: u8 = 1 << 1;

impl Hash {
    pub(crate) fn read(source: &Source<'_>) -> Option<Self> {
        let mut data = Reader::new(source.body.main_data);
        let reader = &mut data;
        Some(match source.info() {
            0x00 => Self::InitMetaPage(InitMetaPage::read(reader)?),
            0x10 => Self::InitBitmapPage(InitBitmapPage::read(reader)?),
            0x20 => Self::Insert(Insert::read(reader)?),
            0x30 => Self::AddOverflowPage(AddOverflowPage::read(reader)?),
            0x40 => Self::SplitAllocatePage(SplitAllocatePage::read(reader)?),
            0x60 => Self::SplitComplete(SplitComplete::read(reader)?),
            0x70 => Self::MovePageContents(MovePageContents::read(reader)?),
            0x80 => Self::SqueezePage(SqueezePage::read(reader)?),
            0x90 => Self::Delete(Delete::read(reader)?),
            0xB0 => Self::UpdateMetaPage(UpdateMetaPage::read(reader)?),
            0xC0 => Self::VacuumOnePage(VacuumOnePage::read(reader, source.version.major())?),
            _ => Self::Nothing,
        })
    }

    pub(crate) fn text(&self, style: &Style<'_>, out: &mut Vec<u8>) {
        match self {
            Self::InitMetaPage(init) => {
                put!(out, "num_tuples ", init.tuples, ", fillfactor ", init.fill_factor);
            }
            Self::InitBitmapPage(init) => put!(out, "bmsize ", init.bitmap_bytes),
            Self::Insert(insert) => put!(out, "off ", insert.offset),
            Self::AddOverflowPage(add) => {
                put!(out, "bmsize ", add.bitmap_bytes);
                put!(out, ", bmpage_found ", letter(add.bitmap_page_found));
            }
            Self::SplitAllocatePage(split) => {
                let has = |flag: u8| letter(split.flags & flag != 0);
                put!(out, "new_bucket ", split.new_bucket);
                put!(out, ", meta_page_masks_updated ", has(UPDATE_MASKS));
                put!(out, ", issplitpoint_changed ", has(UPDATE_SPLITPOINT));
            }
            Self::SplitComplete(split) => {
                put!(out, "old_bucket_flag ", split.old_bucket_flag);
                put!(out, ", new_bucket_flag ", split.new_bucket_flag);
            }
            Self::MovePageContents(moved) => {
                put!(out, "ntups ", moved.tuples, ", is_primary ", letter(moved.to_primary));
            }
            Self::SqueezePage(squeeze) => {
                put!(out, "prevblkno ", squeeze.previous, ", nextblkno ", squeeze.next);
                put!(out, ", ntups ", squeeze.tuples);
                put!(out, ", is_primary ", letter(squeeze.to_primary));
            }
            Self::Delete(delete) => {
                put!(out, "clear_dead_marking ", letter(delete.clear_dead_marking));
                put!(out, ", is_primary ", letter(delete.primary));
            }
            Self::UpdateMetaPage(update) => put!(out, "ntuples ", update.tuples),
            Self::VacuumOnePage(vacuum) => vacuum.text(style, out),
            Self::Nothing => {}
        }
    }
}

impl VacuumOnePage {
    fn read(reader: &mut Reader<'_>, major: u32) -> Option<Self> {
        let conflict_horizon = reader.u32()?;
        let (tuples, catalog) = if major >= 16 {
            (reader.u16()?.into(), Some(bool::read(reader)?))
        } else {
            (i32::read(reader)?, None)
        };
        Some(Self { conflict_horizon, tuples, catalog })
    }

    fn text(self, style: &Style<'_>, out: &mut Vec<u8>) {
        let label =
            if style.since(16) { ", snapshotConflictHorizon " } else { ", latestRemovedXid " };
        put!(out, "ntuples ", self.tuples, label, self.conflict_horizon);
        if let Some(catalog) = self.catalog.filter(|_| style.since(17)) {
            put!(out, ", isCatalogRel ", letter(catalog));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, expected: &str) {
        let mut out = Vec::new();
        Double(value).put(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{value}");
    }

    #[test]
    fn doubles_are_printf_gs() {
        check(0.0, "0");
        check(-0.0, "-0");
        check(1270.0, "1270");
        check(999_999.0, "999999");
        check(999_999.5, "1e+06");
        check(1_234_567.0, "1.23457e+06");
        check(100_000.0, "100000");
        check(0.5, "0.5");
        check(0.000_123_456_7, "0.000123457");
        check(0.000_012_345_67, "1.23457e-05");
        check(-2.5e120, "-2.5e+120");
        check(f64::NAN, "NaN");
        check(f64::NEG_INFINITY, "-Infinity");
    }
}
