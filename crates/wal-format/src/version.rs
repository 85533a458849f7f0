//! Which server wrote a page: the one table of per-version facts.

/// The format of a log, named by the major version that writes it; told by `XLOG_PAGE_MAGIC`
/// (`access/xlog_internal.h`) in each page's header. An unknown magic is refused, never guessed
/// at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalVersion {
    major: u32,
}

/// `XLOG_PAGE_MAGIC` of each major version.
const MAGICS: [(u16, u32); 9] = [
    (0xD097, 10),
    (0xD098, 11),
    (0xD101, 12),
    (0xD106, 13),
    (0xD10D, 14),
    (0xD110, 15),
    (0xD113, 16),
    (0xD116, 17),
    (0xD118, 18),
];

impl WalVersion {
    /// The newest one.
    pub const NEWEST: Self = Self { major: 18 };

    /// The version that writes pages with this magic.
    #[must_use]
    pub fn from_magic(magic: u16) -> Option<Self> {
        let (_, major) = MAGICS.iter().find(|(known, _)| *known == magic)?;
        Some(Self { major: *major })
    }

    /// The version of this major number.
    #[must_use]
    pub fn from_major(major: u32) -> Option<Self> {
        MAGICS.iter().any(|(_, known)| *known == major).then_some(Self { major })
    }

    /// The major version: 17.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.major
    }

    /// What its pages begin with.
    #[must_use]
    pub fn magic(self) -> u16 {
        MAGICS.iter().find(|(_, major)| *major == self.major).map_or(0, |(magic, _)| *magic)
    }

    /// Whether resource managers 128–255 may be an extension's.
    pub(crate) const fn has_custom_rmgrs(self) -> bool {
        self.major >= 15
    }

    /// Whether the rest of a switched segment keeps its page headers; from 11 on it is all zeros.
    pub(crate) const fn switch_keeps_page_headers(self) -> bool {
        self.major <= 10
    }

    /// The bytes of an `xl_xact_stats_item` in a commit record, which there is from 15 on.
    pub(crate) const fn dropped_stats_bytes(self) -> usize {
        if self.major >= 18 { 16 } else { 12 }
    }

    /// Whether a page image says how it was compressed; before, it could only be pglz.
    pub(crate) const fn names_image_compression(self) -> bool {
        self.major >= 15
    }
}
