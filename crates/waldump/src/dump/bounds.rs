//! Times to positions: where the records lie that recovery to a time would replay.

use pg_types::Lsn;
use wal_format::{RecordBody, RecordHeader, RmgrId, SpareBlocks, TimestampTz};

use crate::cli::Options;
use crate::cli::words::Failure;
use crate::read::reader::{FileTrouble, Reader, Stop};

/// From where to where records are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first record, or where it may start.
    pub from: Lsn,
    /// The first that isn't shown any more; [`Lsn::MAX`] for none.
    pub before: Lsn,
}

/// What was asked for of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub(crate) from: Option<TimestampTz>,
    pub(crate) to: Option<TimestampTz>,
    pub(crate) at: Option<TimestampTz>,
}

/// When a transaction ended (`xact_time` of `xl_xact_commit` and `xl_xact_abort`,
/// `access/xact.h`, 10–18): what recovery compares its target with.
#[must_use]
pub fn time_of(header: &RecordHeader, body: &RecordBody<'_>) -> Option<TimestampTz> {
    /// `XLOG_XACT_OPMASK`
    const OPERATION: u8 = 0x70;
    /// Commit, abort, and both of prepared transactions.
    const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
    let ends = header.rmgr == RmgrId::TRANSACTION && ENDS.contains(&(header.info & OPERATION));
    let bytes = if ends { body.main_data.first_chunk() } else { None };
    bytes.map(|bytes| TimestampTz(i64::from_le_bytes(*bytes)))
}

impl Times {
    /// `None` where nothing was asked for.
    #[must_use]
    pub fn of(options: &Options) -> Option<Self> {
        let Options { from_time, to_time, at_time, .. } = *options;
        let any = from_time.or(to_time).or(at_time).is_some();
        any.then_some(Self { from: from_time, to: to_time, at: at_time })
    }

    /// Reads from where the reader stands until it is known. Nothing that is later than `to` starts
    /// before `end`, which needn't be read for it.
    ///
    /// # Errors
    /// If there is nothing to show, or a file can't be read.
    pub fn find(self, reader: &mut Reader, first: Lsn, end: Lsn) -> Result<Bounds, Failure> {
        let mut search = Search {
            times: self,
            bounds: Bounds { from: first, before: Lsn::MAX },
            begun: self.from.is_none(),
            behind: first,
            last: None,
        };
        let mut spare = SpareBlocks::default();
        loop {
            let skips = search.begun && self.at.is_none() && reader.standing().next < end;
            let begun = if skips { reader.start_at(end).map(drop) } else { Ok(()) };
            match begun.and_then(|()| reader.next_record()) {
                Ok(()) => {}
                // A file that isn't there is where this log ends, as far as times go.
                Err(Stop::End | Stop::Invalid(_) | Stop::Files(FileTrouble::Open { .. })) => break,
                Err(Stop::Files(trouble)) => return Err(trouble.failure(reader.version())),
            }
            let found = reader.found();
            let Ok(body) = reader.decode(&mut spare) else { break };
            let time = time_of(&found.header, &body);
            body.give_back(&mut spare);
            if let Some(time) = time
                && search.ends_with(time, found.lsn, found.end)
            {
                return Ok(search.bounds);
            }
        }
        search.at_end()
    }
}

struct Search {
    times: Times,
    bounds: Bounds,
    /// Whether the beginning is known.
    begun: bool,
    /// Behind the last commit or abort.
    behind: Lsn,
    /// The last commit or abort.
    last: Option<Lsn>,
}

impl Search {
    /// Takes a commit or abort; whether nothing behind it is shown.
    fn ends_with(&mut self, time: TimestampTz, lsn: Lsn, end: Lsn) -> bool {
        if self.times.at.is_some_and(|at| time > at) {
            let from = self.last.unwrap_or(self.bounds.from);
            self.bounds = Bounds { from, before: end };
            return true;
        }
        if !self.begun && self.times.from.is_some_and(|from| time >= from) {
            self.bounds.from = self.behind;
            self.begun = true;
        }
        if self.times.to.is_some_and(|to| time > to) {
            self.bounds.before = lsn;
            return true;
        }
        (self.behind, self.last) = (end, Some(lsn));
        // With no end to look for, the rest needn't be read.
        self.begun && self.times.to.is_none() && self.times.at.is_none()
    }

    fn at_end(mut self) -> Result<Bounds, Failure> {
        if self.times.at.is_some() {
            self.bounds.from = self.last.unwrap_or(self.bounds.from);
        } else if !self.begun {
            return Err(Failure::fatal(
                "no commit or abort is as late as --from-time: the log ends before",
            ));
        }
        Ok(self.bounds)
    }
}
