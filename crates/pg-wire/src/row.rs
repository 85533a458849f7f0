//! The answers to the replication commands, read from their rows.
//!
//! Columns are taken by their place, as libpq's clients do; a server may add columns behind them.
//! A NULL where a value belongs is an error, never a default.

use std::time::Duration;

use pg_types::{Lsn, SystemId, TimelineId};

use crate::query::Rows;

/// Longest piece of a value that an error shows, in characters.
const SHOWN_CHARS: usize = 60;

/// An answer that isn't the command's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// Not exactly one row of enough columns.
    #[error(
        "the server's answer about {what} has {rows} rows of {columns} columns, where one row of \
         at least {expected} was expected"
    )]
    Shape {
        /// What was asked for.
        what: &'static str,
        /// How many rows came.
        rows: usize,
        /// How many columns they have.
        columns: usize,
        /// How many columns were expected.
        expected: usize,
    },
    /// A value that can't be read.
    #[error("the server's answer about {what} has in column {column} {found}, not {expected}")]
    Value {
        /// What was asked for.
        what: &'static str,
        /// Which column, from 1.
        column: usize,
        /// What is there, shortened, or `NULL`.
        found: String,
        /// What should be there.
        expected: &'static str,
    },
}

/// The one row of an answer.
pub(crate) struct RowReader<'a> {
    what: &'static str,
    row: &'a [Option<Vec<u8>>],
}

impl<'a> RowReader<'a> {
    /// The answer's only row, which has at least `expected` columns.
    pub(crate) fn single(
        what: &'static str,
        rows: &'a Rows,
        expected: usize,
    ) -> Result<Self, RowError> {
        match rows.rows.as_slice() {
            [row] if row.len() >= expected => Ok(Self { what, row }),
            others => Err(RowError::Shape {
                what,
                rows: others.len(),
                columns: others.first().map_or(rows.columns.len(), Vec::len),
                expected,
            }),
        }
    }

    /// All of an answer's rows, which have at least `expected` columns each.
    pub(crate) fn each(
        what: &'static str,
        rows: &'a Rows,
        expected: usize,
    ) -> Result<impl Iterator<Item = Self>, RowError> {
        match rows.rows.iter().find(|row| row.len() < expected) {
            Some(short) => {
                let (rows, columns) = (rows.rows.len(), short.len());
                Err(RowError::Shape { what, rows, columns, expected })
            }
            None => Ok(rows.rows.iter().map(move |row| Self { what, row })),
        }
    }

    pub(crate) fn bytes(&self, column: usize) -> Option<&'a [u8]> {
        self.row.get(column).and_then(Option::as_deref)
    }

    fn text(&self, column: usize) -> Option<&'a str> {
        self.bytes(column).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    fn error(&self, column: usize, expected: &'static str) -> RowError {
        let found = self.bytes(column).map_or_else(
            || "NULL".to_owned(),
            |bytes| {
                let text: String =
                    String::from_utf8_lossy(bytes).chars().take(SHOWN_CHARS).collect();
                format!("{text:?}")
            },
        );
        RowError::Value { what: self.what, column: column.saturating_add(1), found, expected }
    }

    /// What `read` makes of the column's text.
    fn value<T>(
        &self,
        column: usize,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, RowError> {
        self.text(column).and_then(read).ok_or_else(|| self.error(column, expected))
    }

    pub(crate) fn optional<T>(
        &self,
        column: usize,
        expected: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, RowError> {
        match self.bytes(column) {
            None => Ok(None),
            Some(_) => self.value(column, expected, read).map(Some),
        }
    }

    pub(crate) fn timeline(&self, column: usize) -> Result<TimelineId, RowError> {
        self.value(column, "a timeline's number", timeline)
    }

    pub(crate) fn lsn(&self, column: usize) -> Result<Lsn, RowError> {
        self.value(column, "an LSN", |text| text.parse().ok())
    }
}

fn timeline(text: &str) -> Option<TimelineId> {
    text.parse().ok().and_then(TimelineId::new)
}

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Which cluster it is.
    pub system_id: SystemId,
    /// The timeline that the server writes, or replays.
    pub timeline: TimelineId,
    /// Up to where it has WAL to send: flushed, or on a standby received.
    pub xlogpos: Lsn,
    /// The database; none in physical replication.
    pub dbname: Option<String>,
}

impl SystemIdentity {
    /// Reads the answer.
    ///
    /// # Errors
    /// Rows that aren't it.
    pub fn from_rows(rows: &Rows) -> Result<Self, RowError> {
        let row = RowReader::single("its identity", rows, 3)?;
        Ok(Self {
            system_id: row.value(0, "a system identifier", |t| t.parse().ok().map(SystemId))?,
            timeline: row.timeline(1)?,
            xlogpos: row.lsn(2)?,
            dbname: row.optional(3, "a database's name", |text| Some(text.to_owned()))?,
        })
    }
}

/// The answer to READ_REPLICATION_SLOT about a slot that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// `physical`; the server refuses to read others.
    pub slot_type: String,
    /// From where it keeps WAL; none if it never reserved any, or was invalidated.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that position.
    pub restart_tli: Option<TimelineId>,
}

impl SlotState {
    /// Reads the answer; `None` if there is no such slot (all NULLs).
    ///
    /// # Errors
    /// Rows that aren't it.
    pub fn from_rows(rows: &Rows) -> Result<Option<Self>, RowError> {
        let row = RowReader::single("the slot", rows, 3)?;
        let slot_type = row.optional(0, "a slot's type", |text| Some(text.to_owned()))?;
        let restart_lsn = row.optional(1, "an LSN", |text| text.parse().ok())?;
        let restart_tli = row.optional(2, "a timeline's number", timeline)?;
        // A slot without a type is none; a position without a slot isn't an answer at all.
        match (slot_type, restart_lsn, restart_tli) {
            (Some(slot_type), restart_lsn, restart_tli) => {
                Ok(Some(Self { slot_type, restart_lsn, restart_tli }))
            }
            (None, None, None) => Ok(None),
            (None, ..) => Err(row.error(0, "a slot's type")),
        }
    }
}

/// The answer to TIMELINE_HISTORY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The file's name, such as `00000002.history`: the server's word, to be checked before use.
    pub file_name: String,
    /// The file's bytes, raw.
    pub content: Vec<u8>,
}

impl TimelineHistory {
    /// Reads the answer.
    ///
    /// # Errors
    /// Rows that aren't it.
    pub fn from_rows(rows: &Rows) -> Result<Self, RowError> {
        let row = RowReader::single("the timeline's history", rows, 2)?;
        let content = row.bytes(1).ok_or_else(|| row.error(1, "a file's content"))?.to_vec();
        Ok(Self { file_name: row.value(0, "a file's name", |t| Some(t.to_owned()))?, content })
    }
}

/// The answer to SHOW.
///
/// # Errors
/// Rows that aren't it.
pub fn show_value(rows: &Rows) -> Result<String, RowError> {
    RowReader::single("the setting", rows, 1)?.value(0, "text", |text| Some(text.to_owned()))
}

/// Reads a size in bytes as SHOW writes it: `16MB`, `1GB`, `8192` (`guc.c`'s units, 10–18).
/// `None` for anything else, and past the number range.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Reads a duration as SHOW writes it: `1min`, `60s`, `500ms`, `0`. A bare number is milliseconds,
/// the unit of `wal_sender_timeout`. `None` for anything else, and past the number range.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let micros: u64 = match unit {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "min" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(micros).map(Duration::from_micros)
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::EndOfTimeline;

    fn rows(values: &[&[Option<&str>]]) -> Rows {
        let row = |row: &&[Option<&str>]| {
            row.iter().map(|value| value.map(|text| text.as_bytes().to_vec())).collect()
        };
        Rows { columns: Vec::new(), rows: values.iter().map(row).collect() }
    }

    #[test]
    fn identity() {
        let answer = [Some("7530000000000000001"), Some("3"), Some("0/3000060"), None];
        let identity = SystemIdentity {
            system_id: SystemId(7_530_000_000_000_000_001),
            timeline: TimelineId::new(3).unwrap(),
            xlogpos: Lsn::new(0x300_0060),
            dbname: None,
        };
        assert_eq!(SystemIdentity::from_rows(&rows(&[&answer])), Ok(identity));
        let check = |values: &[&[Option<&str>]], expect: &str| {
            let error = SystemIdentity::from_rows(&rows(values)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(&[], "0 rows");
        check(&[&answer, &answer], "2 rows");
        check(&[&answer[..2]], "1 rows of 2 columns");
        check(&[&[Some("x\u{1b}"), Some("1"), Some("0/0")]], "column 1 \"x\\u{1b}\", not a system");
        check(&[&[Some("1"), Some("0"), Some("0/0")]], "column 2 \"0\"");
        check(&[&[Some("1"), Some("1"), None]], "column 3 NULL, not an LSN");
    }

    #[test]
    fn slots() {
        let check = |values: [Option<&str>; 3], expect| {
            assert_eq!(SlotState::from_rows(&rows(&[&values])), expect);
        };
        let slot = |restart_lsn, restart_tli| {
            Ok(Some(SlotState { slot_type: "physical".into(), restart_lsn, restart_tli }))
        };
        check([None; 3], Ok(None));
        check([Some("physical"), None, None], slot(None, None));
        let state = slot(Some(Lsn::new(0x28)), TimelineId::new(1));
        check([Some("physical"), Some("0/28"), Some("1")], state);
        assert!(SlotState::from_rows(&rows(&[&[None, Some("0/28"), None]])).is_err());
        assert!(SlotState::from_rows(&rows(&[&[Some("physical"), Some("x"), None]])).is_err());
    }

    #[test]
    fn other_answers() {
        let history = rows(&[&[Some("00000002.history"), Some("1\t0/28\tno reason\n")]]);
        let history = TimelineHistory::from_rows(&history).unwrap();
        assert_eq!(history.file_name, "00000002.history");
        assert_eq!(history.content, b"1\t0/28\tno reason\n");
        assert_eq!(show_value(&rows(&[&[Some("16MB")]])), Ok("16MB".to_owned()));
        let end = EndOfTimeline {
            next_timeline: TimelineId::new(5).unwrap(),
            switch_point: Lsn::new(0x300_0000),
        };
        let row = rows(&[&[Some("5"), Some("0/3000000")]]);
        assert_eq!(EndOfTimeline::from_rows(&row), Ok(Some(end)));
        assert_eq!(EndOfTimeline::from_rows(&rows(&[])), Ok(None));
        assert!(EndOfTimeline::from_rows(&rows(&[&[Some("5"), None]])).is_err());
    }

    #[test]
    fn sizes_and_durations_as_show_writes_them() {
        let size = |text, expect| assert_eq!(parse_size(text), expect, "{text}");
        size("16MB", Some(16 << 20));
        size("1GB", Some(1 << 30));
        size("8192", Some(8192));
        size("64kB", Some(64 << 10));
        for text in ["", "MB", "-1", "16mb", "1.5GB", "99999999999TB", "18446744073709551616"] {
            size(text, None);
        }
        let duration = |text, expect: Option<u64>| {
            assert_eq!(parse_duration(text), expect.map(Duration::from_millis), "{text}");
        };
        duration("1min", Some(60_000));
        duration("60s", Some(60_000));
        duration("500ms", Some(500));
        duration("0", Some(0));
        duration("2h", Some(7_200_000));
        duration("1d", Some(86_400_000));
        for text in ["", "-1", "1 week", "18446744073709551615d"] {
            duration(text, None);
        }
    }
}
