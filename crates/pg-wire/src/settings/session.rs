//! Which of several servers will do (`target_session_attrs`), and which versions of the protocol.

use super::values::Values;
use super::{Origin, SettingsError};

/// Which server will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSession {
    /// Any.
    Any,
    /// One that takes writes.
    ReadWrite,
    /// One that doesn't.
    ReadOnly,
    /// A primary.
    Primary,
    /// A standby.
    Standby,
    /// A standby; if none is there, any.
    PreferStandby,
}

/// Whether a server will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It will.
    Yes,
    /// It won't, and why.
    No(&'static str),
    /// It didn't say whether its sessions are read-only: `SHOW transaction_read_only` tells.
    AskReadOnly,
}

impl TargetSession {
    pub(super) fn resolve(values: &Values) -> Result<Self, SettingsError> {
        let known = [
            ("any", Self::Any),
            ("read-write", Self::ReadWrite),
            ("read-only", Self::ReadOnly),
            ("primary", Self::Primary),
            ("standby", Self::Standby),
            ("prefer-standby", Self::PreferStandby),
        ];
        let expected = "any, read-write, read-only, primary, standby or prefer-standby";
        Ok(values.choice("target_session_attrs", &known, expected)?.unwrap_or(Self::Any))
    }

    /// Holds what a server says of itself against this: whether it is a standby
    /// (`in_hot_standby`), and whether its sessions are read-only. Servers say so from 14 on. What
    /// is older can't be asked on a replication connection whether it is a standby, as with libpq.
    #[must_use]
    pub fn fit(self, in_hot_standby: Option<bool>, read_only: Option<bool>) -> Fit {
        let unless = |wrong: bool, why| if wrong { Fit::No(why) } else { Fit::Yes };
        match (self, in_hot_standby, read_only) {
            (Self::Any, _, _) => Fit::Yes,
            (Self::ReadWrite | Self::ReadOnly, None, _)
            | (Self::ReadWrite | Self::ReadOnly, _, None) => Fit::AskReadOnly,
            (Self::ReadWrite, Some(standby), Some(read_only)) => {
                unless(standby || read_only, "session is read-only")
            }
            (Self::ReadOnly, Some(standby), Some(read_only)) => {
                unless(!standby && !read_only, "session is not read-only")
            }
            (_, None, _) => {
                Fit::No("servers before 14 don't say whether they are in hot standby mode")
            }
            (Self::Primary, Some(standby), _) => unless(standby, "server is in hot standby mode"),
            (Self::Standby | Self::PreferStandby, Some(standby), _) => {
                unless(!standby, "server is not in hot standby mode")
            }
        }
    }
}

/// Whether SCRAM is bound to the TLS connection that it happens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server can.
    Prefer,
    /// Or no connection.
    Require,
}

impl ChannelBinding {
    pub(super) fn resolve(values: &Values) -> Result<Self, SettingsError> {
        let known =
            [("disable", Self::Disable), ("prefer", Self::Prefer), ("require", Self::Require)];
        let given = values.choice("channel_binding", &known, "disable, prefer or require")?;
        Ok(given.unwrap_or(Self::Prefer))
    }
}

/// A version of the protocol; 3.1 there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// The number behind `3.`
    pub minor: u16,
}

impl ProtocolVersion {
    /// What all servers speak.
    pub const V3_0: Self = Self { minor: 0 };
    /// With longer cancel keys; from 18 on.
    pub const V3_2: Self = Self { minor: 2 };

    /// As in a startup packet.
    #[must_use]
    pub const fn code(self) -> u32 {
        3 << 16 | self.minor as u32
    }
}

/// Which versions of the protocol will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolRange {
    /// The oldest.
    pub min: ProtocolVersion,
    /// The newest; it is what is asked for.
    pub max: ProtocolVersion,
}

impl ProtocolRange {
    pub(super) fn resolve(values: &Values) -> Result<Self, SettingsError> {
        let given = |option| match values.get(option) {
            Some((text, origin)) => protocol_version(option, text, origin).map(Some),
            None => Ok(None),
        };
        let min = given("min_protocol_version")?.unwrap_or(ProtocolVersion::V3_0);
        // As in libpq 18: what is newer is asked for only by who needs it, since there are
        // proxies that don't know how to decline.
        let max = given("max_protocol_version")?.unwrap_or(ProtocolVersion::V3_0.max(min));
        if min > max {
            return Err(SettingsError::Conflict(
                "\"min_protocol_version\" is greater than \"max_protocol_version\"".to_owned(),
            ));
        }
        Ok(Self { min, max })
    }
}

fn protocol_version(
    option: &'static str,
    text: &str,
    origin: Origin,
) -> Result<ProtocolVersion, SettingsError> {
    match text {
        "3.0" => Ok(ProtocolVersion::V3_0),
        "3.2" | "latest" => Ok(ProtocolVersion::V3_2),
        _ => Err(SettingsError::InvalidValue {
            option,
            shown: format!(": {text:?}"),
            origin,
            expected: "3.0, 3.2 or latest",
        }),
    }
}
