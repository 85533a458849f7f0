//! What the server says of itself: the upstream's version and sizes, as it would.

use std::collections::BTreeMap;
use std::time::Duration;

use pg_types::{Geometry, ServerVersion, SystemId};

/// What is served, and how.
#[derive(Clone, Debug)]
pub struct Host {
    /// The upstream's version: clients refuse a server of a newer major than their own.
    pub version: ServerVersion,
    /// Whose WAL it is.
    pub system_id: SystemId,
    /// The sizes of its segments and pages.
    pub geometry: Geometry,
    /// After so long without an answer a client is gone; zero: never.
    pub wal_sender_timeout: Duration,
}

impl Host {
    /// The newest minor version of the protocol that the upstream speaks.
    #[must_use]
    pub fn newest_minor(&self) -> u32 {
        if self.version.major() >= 18 { 2 } else { 0 }
    }

    /// What is reported at the start (`ParameterStatus`), in the order of the version.
    pub(super) fn parameters(
        &self,
        settings: &BTreeMap<String, String>,
        user: &str,
    ) -> Vec<(&'static str, String)> {
        let names: &[&str] = match self.version.major() {
            ..=15 => &[
                "application_name",
                "client_encoding",
                "DateStyle",
                "default_transaction_read_only",
                "in_hot_standby",
                "integer_datetimes",
                "IntervalStyle",
                "is_superuser",
                "server_encoding",
                "server_version",
                "session_authorization",
                "standard_conforming_strings",
                "TimeZone",
            ],
            _ => &REPORTED_SINCE_16,
        };
        let reports = |name: &&&str| **name != "search_path" || self.version.major() >= 18;
        let names = names.iter().filter(reports);
        names.filter_map(|name| self.setting(name, settings, user)).collect()
    }

    /// A text of which only ASCII that can be printed is shown (`pg_clean_ascii`, common/string.c,
    /// which had a question mark for everything else up to 15).
    pub(super) fn clean(&self, text: &str) -> String {
        let clean = |byte: u8| match byte {
            b' '..=b'~' => char::from(byte).to_string(),
            _ if self.version.major() < 16 => "?".to_owned(),
            byte => format!("\\x{byte:02x}"),
        };
        text.bytes().map(clean).collect()
    }

    /// All settings, in the order of their names.
    pub(super) fn settings(
        &self,
        settings: &BTreeMap<String, String>,
        user: &str,
    ) -> impl Iterator<Item = (&'static str, String)> {
        SETTINGS.iter().filter_map(move |(name, ..)| self.setting(name, settings, user))
    }

    /// A setting, by its name in any case: its own spelling, and its value as SHOW gives it.
    pub(super) fn setting(
        &self,
        name: &str,
        settings: &BTreeMap<String, String>,
        user: &str,
    ) -> Option<(&'static str, String)> {
        let known = SETTINGS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name));
        let &(name, since, value) = known?;
        if self.version.major() < since {
            return None;
        }
        let given = settings.get(&name.to_ascii_lowercase());
        let value = match value {
            Value::Is(value) => value.to_owned(),
            Value::OrGiven(value) => given.map_or(value, String::as_str).to_owned(),
            Value::User => user.to_owned(),
            Value::Version => self.version.to_string(),
            Value::VersionNumber => self.version.num().to_string(),
            Value::SegmentSize => size(self.geometry.segment_size.bytes()),
            Value::BlockSize => self.geometry.block_size.to_string(),
            Value::Timeout => {
                let given = given.and_then(|text| pg_wire::row::parse_duration(text));
                duration(given.unwrap_or(self.wal_sender_timeout))
            }
        };
        Some((name, value))
    }
}

#[derive(Clone, Copy)]
enum Value {
    Is(&'static str),
    /// Unless the client gives it.
    OrGiven(&'static str),
    User,
    Version,
    VersionNumber,
    SegmentSize,
    BlockSize,
    Timeout,
}

/// Of these `search_path` from 18 on.
const REPORTED_SINCE_16: [&str; 15] = [
    "in_hot_standby",
    "integer_datetimes",
    "TimeZone",
    "IntervalStyle",
    "search_path",
    "is_superuser",
    "application_name",
    "default_transaction_read_only",
    "scram_iterations",
    "DateStyle",
    "standard_conforming_strings",
    "session_authorization",
    "client_encoding",
    "server_version",
    "server_encoding",
];

/// What SHOW knows: what replication clients and people ask for, and what is reported at the start,
/// in the order of SHOW ALL. A name, the first major version that has it, and its value. seawall is a
/// standby without a database: what it can't know of the upstream's is what a standby with default
/// settings has.
const SETTINGS: [(&str, u32, Value); 60] = [
    ("application_name", 0, Value::OrGiven("")),
    ("archive_command", 0, Value::Is("(disabled)")),
    ("archive_mode", 0, Value::Is("off")),
    ("block_size", 0, Value::BlockSize),
    ("bytea_output", 0, Value::OrGiven("hex")),
    ("client_encoding", 0, Value::OrGiven("SQL_ASCII")),
    ("client_min_messages", 0, Value::OrGiven("notice")),
    ("data_directory_mode", 0, Value::Is("0700")),
    ("DateStyle", 0, Value::OrGiven("ISO, MDY")),
    ("default_transaction_read_only", 0, Value::Is("off")),
    ("extra_float_digits", 0, Value::OrGiven("1")),
    ("fsync", 0, Value::Is("on")),
    ("full_page_writes", 0, Value::Is("on")),
    ("hot_standby", 0, Value::Is("on")),
    ("hot_standby_feedback", 0, Value::Is("off")),
    ("idle_session_timeout", 14, Value::OrGiven("0")),
    ("in_hot_standby", 14, Value::Is("on")),
    ("integer_datetimes", 0, Value::Is("on")),
    ("IntervalStyle", 0, Value::OrGiven("postgres")),
    ("is_superuser", 0, Value::Is("off")),
    ("lock_timeout", 0, Value::OrGiven("0")),
    ("maintenance_work_mem", 0, Value::OrGiven("64MB")),
    ("max_connections", 0, Value::Is("100")),
    ("max_replication_slots", 0, Value::Is("100")),
    ("max_slot_wal_keep_size", 13, Value::Is("-1")),
    ("max_wal_senders", 0, Value::Is("100")),
    ("max_wal_size", 0, Value::Is("1GB")),
    ("min_wal_size", 0, Value::Is("80MB")),
    ("primary_conninfo", 12, Value::Is("")),
    ("primary_slot_name", 12, Value::Is("")),
    ("recovery_min_apply_delay", 12, Value::Is("0")),
    ("recovery_target_timeline", 12, Value::Is("latest")),
    ("restore_command", 12, Value::Is("")),
    ("scram_iterations", 16, Value::Is("4096")),
    ("search_path", 0, Value::OrGiven("\"$user\", public")),
    ("server_encoding", 0, Value::Is("SQL_ASCII")),
    ("server_version", 0, Value::Version),
    ("server_version_num", 0, Value::VersionNumber),
    ("session_authorization", 0, Value::User),
    ("shared_buffers", 0, Value::Is("128MB")),
    ("ssl", 0, Value::Is("off")),
    ("standard_conforming_strings", 0, Value::OrGiven("on")),
    ("statement_timeout", 0, Value::OrGiven("0")),
    ("synchronous_commit", 0, Value::Is("on")),
    ("synchronous_standby_names", 0, Value::Is("")),
    ("TimeZone", 0, Value::OrGiven("UTC")),
    ("track_commit_timestamp", 0, Value::Is("off")),
    ("transaction_read_only", 0, Value::Is("on")),
    ("wal_block_size", 0, Value::BlockSize),
    ("wal_compression", 0, Value::Is("off")),
    ("wal_keep_size", 13, Value::Is("0")),
    ("wal_level", 0, Value::Is("replica")),
    ("wal_log_hints", 0, Value::Is("off")),
    ("wal_receiver_create_temp_slot", 13, Value::Is("off")),
    ("wal_receiver_status_interval", 0, Value::Is("10s")),
    ("wal_receiver_timeout", 0, Value::Is("1min")),
    ("wal_retrieve_retry_interval", 0, Value::Is("5s")),
    ("wal_segment_size", 0, Value::SegmentSize),
    ("wal_sender_timeout", 0, Value::Timeout),
    ("work_mem", 0, Value::OrGiven("4MB")),
];

/// A size in the largest unit that it is a multiple of.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}GB", bytes >> 30),
        bytes => format!("{}MB", bytes >> 20),
    }
}

/// A time likewise.
fn duration(time: Duration) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let ms = time.as_millis();
    let unit = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_in_the_order_of_their_names() {
        assert!(SETTINGS.is_sorted_by_key(|(name, ..)| name.to_ascii_lowercase()));
    }

    #[test]
    fn times_and_sizes_as_show_gives_them() {
        let check = |ms, expect: &str| assert_eq!(duration(Duration::from_millis(ms)), expect);
        check(60_000, "1min");
        check(5000, "5s");
        check(1500, "1500ms");
        check(0, "0");
        check(86_400_000, "1d");
        assert_eq!([1 << 20, 16 << 20, 1 << 30].map(size), ["1MB", "16MB", "1GB"]);
    }
}
