//! `seawall find`

use std::io::{self, Write};
use std::sync::Arc;

use archive::{ArchiveError, Catalogue, FoundKind, Search, Target};
use disk::RealFiles;
use jiff::Timestamp;
use pg_types::TimelineId;
use serde_json::json;
use wal_format::TimestampTz;

use crate::Failure;
use crate::cli::FindArgs;
use crate::failure::steady;

/// 2000-01-01 00:00:00 UTC, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

pub(crate) fn run(args: &FindArgs) -> Result<(), Failure> {
    let files = Arc::new(RealFiles::new(args.archive.clone()));
    let about = |error: ArchiveError| {
        Failure::from(error).of(&format!("the archive {}", args.archive.display()))
    };
    let target = match (&args.time, args.xid, &args.name) {
        (Some(time), ..) => Target::Time(parse_time(time)?),
        (_, Some(xid), _) => Target::Xid(xid),
        (.., name) => Target::RestorePoint(name.clone().unwrap_or_default().into_bytes()),
    };
    let timeline = match args.timeline {
        None => None,
        Some(number) => {
            Some(TimelineId::new(number).ok_or_else(|| Failure::usage("there is no timeline 0"))?)
        }
    };
    let catalogue = Catalogue::open(files).map_err(about)?;
    let search = steady(|| catalogue.find(timeline, &target).map_err(about))?;
    if search.found.is_none() && !args.json {
        return Err(Failure::failed(nothing(&target, &search)));
    }
    let line = if args.json { as_json(&search) } else { as_text(&target, &search) };
    let written = writeln!(io::stdout(), "{line}");
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}

/// A time with its zone, as PostgreSQL writes it: `2026-01-31 12:00:00.5+01`.
pub(crate) fn parse_time(text: &str) -> Result<TimestampTz, Failure> {
    let parsed: Result<Timestamp, _> = text.trim().parse();
    let time = parsed.map_err(|error| {
        Failure::usage(format!(
            "\"{text}\" is no time with a zone, such as 2026-01-31 12:00:00+01: {error}"
        ))
    })?;
    Ok(TimestampTz(time.as_microsecond() - POSTGRES_EPOCH_US))
}

pub(crate) fn show_time(time: TimestampTz) -> String {
    let since_1970 = time.0.saturating_add(POSTGRES_EPOCH_US);
    Timestamp::from_microsecond(since_1970).map_or_else(
        |_| format!("{} µs since 2000", time.0),
        |time| time.strftime("%F %T%.6f+00").to_string(),
    )
}

fn nothing(target: &Target, search: &Search) -> String {
    let (from, to) = (search.searched_from, search.searched_to);
    match target {
        Target::Time(time) => {
            let last = search.last_time.map_or_else(
                || "there is none at all".to_owned(),
                |last| format!("the last one is of {}", show_time(last)),
            );
            format!(
                "no commit or abort later than {} is between {from} and {to}; {last}: recovery \
                 with that target goes to the end of WAL, and fails from PostgreSQL 13 on",
                show_time(*time)
            )
        }
        Target::Xid(xid) => format!(
            "transaction {xid} neither committed nor aborted between {from} and {to}{}: recovery \
             with that target goes to the end of WAL, and fails from PostgreSQL 13 on",
            match search.untold {
                0 => String::new(),
                untold => format!(
                    ", unless it is one of {untold} prepared transactions whose xid lies too far \
                     behind in their records"
                ),
            }
        ),
        Target::Position(at) => format!("no record starts at {at} or behind it, before {to}"),
        Target::RestorePoint(name) => format!(
            "no restore point \"{}\" is between {from} and {to}",
            String::from_utf8_lossy(name)
        ),
    }
}

fn as_text(target: &Target, search: &Search) -> String {
    let Some(found) = search.found else { return String::new() };
    let what = match found.what {
        FoundKind::Commit => "commit",
        FoundKind::Abort => "abort",
        FoundKind::RestorePoint => "restore point",
        FoundKind::Record => "record",
    };
    let stops = match target {
        Target::Time(_) => "before",
        Target::Xid(_) | Target::RestorePoint(_) | Target::Position(_) => "behind",
    };
    format!(
        "{} on timeline {}: a {what} of {}; recovery stops {stops} it",
        found.lsn,
        found.timeline,
        found.time.map(show_time).unwrap_or_default()
    )
}

fn as_json(search: &Search) -> String {
    let found = search.found.map(|found| {
        json!({
            "timeline": found.timeline.as_u32(),
            "lsn": found.lsn.to_string(),
            "end": found.end.to_string(),
            "time": found.time.map(show_time),
            "kind": match found.what {
                FoundKind::Commit => "commit",
                FoundKind::Abort => "abort",
                FoundKind::RestorePoint => "restore_point",
                FoundKind::Record => "record",
            },
        })
    });
    let value = json!({
        "found": found,
        "searched_from": search.searched_from.to_string(),
        "searched_to": search.searched_to.to_string(),
        "last_time": search.last_time.map(show_time),
        "untold": search.untold,
    });
    value.to_string()
}
