//! What is asked of a server.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_types::ServerVersion;
use pg_wire::command;
use pg_wire::row::{parse_duration, parse_size, show_value};
use pg_wire::settings::ConnectionSettings;
use pg_wire::startup::Startup;
use replication::Timing;

use crate::{AskError, Link, SessionError};

/// The settings that matter, from 10 on.
const ALWAYS: [&str; 5] = [
    "wal_level",
    "max_wal_senders",
    "synchronous_standby_names",
    "synchronous_commit",
    "wal_sender_timeout",
];
/// From 13 on.
const SINCE_13: [&str; 2] = ["wal_keep_size", "max_slot_wal_keep_size"];
/// Up to 12.
const UP_TO_12: [&str; 1] = ["wal_keep_segments"];

/// A server's settings, as SHOW gives them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// Asks for them, over any kind of connection.
    ///
    /// # Errors
    /// If the connection breaks; what the server won't show is left out.
    pub async fn ask(link: &mut Link, version: ServerVersion) -> Result<Self, SessionError> {
        let keep: &[_] = if version.major() >= 13 { &SINCE_13 } else { &UP_TO_12 };
        let mut settings = BTreeMap::new();
        for name in ALWAYS.iter().chain(keep) {
            match link.ask(&command::show(name)).await {
                Ok(rows) => {
                    settings.insert(*name, show_value(&rows)?);
                }
                Err(AskError::Server(_)) => {}
                Err(AskError::Session(error)) => return Err(error),
            }
        }
        Ok(Self(settings))
    }

    /// A setting's text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A size, bytes; `None` for −1 as well.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.text(name).and_then(parse_size)
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        self.text(name).and_then(parse_duration)
    }

    #[cfg(test)]
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.0.insert(name, value.to_owned());
        self
    }
}

/// What only a plain connection to a database tells. A pg_hba may refuse that, which is no fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Plain {
    /// Whether the role has REPLICATION, or is a superuser.
    pub may_replicate: bool,
    /// How many WAL senders are at work.
    pub senders: u64,
    /// The server's clock less ours, s.
    pub clock_ahead_s: f64,
    /// Its settings.
    pub settings: Settings,
}

impl Plain {
    /// Asks, if the server lets this role into a database.
    ///
    /// # Errors
    /// If it doesn't, or the connection breaks.
    pub async fn ask(settings: &ConnectionSettings) -> Result<Self, AskError> {
        // The database that every cluster has, unless another is named.
        let dbname = settings.dbname.clone().unwrap_or_else(|| "postgres".to_owned());
        let settings = &ConnectionSettings { dbname: Some(dbname), ..settings.clone() };
        let startup =
            Startup::new(settings, &[]).map_err(|error| SessionError::Protocol(error.into()))?;
        let (mut link, info) = Link::open(settings, startup, Timing::NONE).await?;
        let version = info.version.ok_or_else(|| SessionError::Version(String::new()))?;
        let before = std::time::SystemTime::now();
        let rows = link
            .ask(
                "SELECT rolreplication OR rolsuper, \
                 (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
                 extract(epoch FROM clock_timestamp())::float8 \
                 FROM pg_catalog.pg_roles WHERE rolname = current_user",
            )
            .await?;
        let mut row = rows.rows.first().into_iter().flatten().map(|column| {
            column.as_deref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        });
        let mut text = || row.next().flatten().unwrap_or_default();
        let (may_replicate, senders, clock) = (text() == "t", text(), text());
        // The middle of the question and its answer is when it was answered, near enough.
        let asked = before + before.elapsed().unwrap_or_default() / 2;
        let ours = asked.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let settings = Settings::ask(&mut link, version).await?;
        link.close();
        Ok(Self {
            may_replicate,
            senders: senders.parse().unwrap_or(0),
            clock_ahead_s: clock.parse().map_or(0.0, |theirs: f64| theirs - ours.as_secs_f64()),
            settings,
        })
    }
}
