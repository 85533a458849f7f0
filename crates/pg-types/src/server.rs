//! What a server says of itself.

use std::fmt;
use std::num::NonZeroU32;

/// A timeline's number (`TimeLineID`, `access/xlogdefs.h`); never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that `initdb` starts.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// The timeline of this number; none is zero.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn as_u32(self) -> u32 {
        self.0.get()
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cluster's system identifier (`system_identifier`, `catalog/pg_control.h`); it is in every
/// segment's first page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A server's version as a number, `server_version_num`: 170011 for 17.11.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(u32);

impl ServerVersion {
    /// The version with this `server_version_num`.
    #[must_use]
    pub const fn from_num(num: u32) -> Self {
        Self(num)
    }

    /// Reads the parameter `server_version`: `17.11`, `18beta2`, `14.23 (Debian 14.23-1)`.
    /// `None` before 10, where versions had three parts, and for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let (digits, rest) = text.split_at(end);
            digits
                .parse::<u32>()
                .ok()
                .filter(|number| *number < 10_000)
                .map(|n| (n, rest.to_owned()))
        };
        let (major, rest) = number(text)?;
        let minor = rest.strip_prefix('.').and_then(number).map_or(0, |(n, _)| n);
        (major >= 10).then(|| Self(major * 10_000 + minor))
    }

    /// The version as `server_version_num` gives it.
    #[must_use]
    pub const fn num(self) -> u32 {
        self.0
    }

    /// The major version: 17.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.0 % 10_000)
    }
}

impl fmt::Debug for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_servers_write_them() {
        let check = |text: &str, num: Option<u32>| {
            assert_eq!(ServerVersion::parse(text).map(ServerVersion::num), num, "{text}");
        };
        check("17.11", Some(170_011));
        check("18beta2", Some(180_000));
        check("14.23 (Debian 14.23-1.pgdg120+1)", Some(140_023));
        check("9.6.24", None);
        check("", None);
        check("99999999999.1", None);
    }
}
