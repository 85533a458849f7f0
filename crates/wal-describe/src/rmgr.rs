//! Resource managers by number and by name.

use std::fmt;

use wal_format::{RmgrId, WalVersion};

use crate::text::put;

/// A manager's name as pg_waldump prints it: `Heap`, or `custom130`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RmgrName(RmgrId);

/// The name of a manager. The built-in ones have the same names in 10–18; what isn't built in is
/// an extension's.
#[must_use]
pub fn rmgr_name(rmgr: RmgrId) -> RmgrName {
    RmgrName(rmgr)
}

impl RmgrName {
    /// Appends it.
    pub fn put(self, out: &mut Vec<u8>) {
        match self.0.name() {
            Some(name) => put!(out, name),
            None => put!(out, "custom", self.0.0),
        }
    }
}

impl fmt::Display for RmgrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The built-in managers in their order, which is that of `--rmgr=list` and of the statistics.
pub fn builtin_rmgrs() -> impl Iterator<Item = RmgrId> {
    (0..=u8::MAX).map(RmgrId).take_while(|rmgr| rmgr.name().is_some())
}

/// The managers that an extension may have, from 15 on.
pub fn custom_rmgrs(version: WalVersion) -> impl Iterator<Item = RmgrId> {
    (128..=u8::MAX).map(RmgrId).filter(move |rmgr| rmgr.is_valid(version))
}

/// The manager of this name: a built-in one in any case of letters, as the server's programs
/// compare names, or, from 15 on, `custom###`.
#[must_use]
pub fn rmgr_by_name(version: WalVersion, name: &str) -> Option<RmgrId> {
    let builtin = builtin_rmgrs()
        .find(|rmgr| rmgr.name().is_some_and(|known| known.eq_ignore_ascii_case(name)));
    builtin.or_else(|| {
        let digits = name.strip_prefix("custom").filter(|digits| digits.len() == 3)?;
        custom_rmgrs(version).find(|rmgr| digits.parse() == Ok(rmgr.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_pg_waldumps() {
        let v14 = WalVersion::from_major(14).unwrap();
        let v18 = WalVersion::from_major(18).unwrap();
        assert_eq!(builtin_rmgrs().count(), 22);
        assert_eq!(rmgr_by_name(v18, "heap2"), Some(RmgrId(9)));
        assert_eq!(rmgr_by_name(v18, "custom130"), Some(RmgrId(130)));
        assert_eq!(rmgr_by_name(v14, "custom130"), None);
        assert_eq!(rmgr_by_name(v18, "custom020"), None);
        let mut out = Vec::new();
        rmgr_name(RmgrId(10)).put(&mut out);
        rmgr_name(RmgrId(130)).put(&mut out);
        assert_eq!(out, b"Heapcustom130");
        assert_eq!(rmgr_name(RmgrId(255)).to_string(), "custom255");
    }
}
