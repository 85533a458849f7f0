//! `seawall check`: what would have warned yesterday.
//!
//! Quiet where all is well, so that cron mails what isn't; `--nagios` says it in a line.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use archive::{ArchiveError, Catalogue};
use backup::Backups;
use disk::RealFiles;
use jiff::Timestamp;
use pg_wire::settings::ConnectionSettings;
use runtime::check::{Finding, Intent, Level, Plain, Settings, judge, judge_refusal, judge_slot};
use runtime::{SessionError, read_slot};
use serde_json::{Value, json};

use crate::cli::{CheckArgs, TalkArgs};
use crate::failure::steady;
use crate::observer::size;
use crate::{Failure, board, connect, list, log};

/// Further apart, times in WAL and in the archive's log can't be compared.
const CLOCK_TOLERANCE_S: f64 = 5.0;
/// With room for fewer segments than this, the next burst fills the disk.
const FEW_SEGMENTS: u64 = 16;
/// With a smaller part free than one of so many, somebody should look.
const LITTLE_ROOM_PART: u64 = 20;

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let _log = log::start(TalkArgs { verbose: 0, quiet: true }, true, None);
    let mut findings = Vec::new();
    if !args.no_server {
        let settings = connect::settings(
            &args.connection,
            args.application_name.as_deref(),
            crate::receive::APPLICATION_NAME,
        )?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("can't start: {error}")))?;
        findings.extend(runtime.block_on(check_server(args, &settings)));
    }
    if let Some(archive) = &args.archive {
        findings.extend(check_archive(archive, args));
    }
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine);
    let text = if args.nagios {
        nagios(&findings, worst)
    } else if args.json {
        format!("{}\n", as_json(&findings, worst))
    } else {
        as_text(&findings, args.verbose)
    };
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
    Ok(ExitCode::from(match worst {
        // As plugins for Nagios end.
        _ if args.nagios => worst as u8,
        Level::Fine | Level::Warning => 0,
        Level::Error => 1,
    }))
}

async fn check_server(args: &CheckArgs, settings: &ConnectionSettings) -> Vec<Finding> {
    let connected = runtime::connect(settings, replication::Timing::NONE).await;
    let plain = match &connected {
        // Where nobody answers, nobody is asked again.
        Err(SessionError::Connect { .. } | SessionError::ConnectTimeout { .. }) => None,
        _ => Plain::ask(settings).await.ok(),
    };
    let (mut link, facts) = match connected {
        Ok(connected) => connected,
        Err(error) => return vec![judge_refusal(&error, plain.as_ref())],
    };
    let settings = &link.same_server(settings);
    let at = settings.endpoint().to_string();
    let mut findings = vec![Finding::fine("connection", format!("connected to {at}"))];
    for check in ["pg_hba", "replication_privilege"] {
        findings.push(Finding::fine(check, "the server lets a receiver in"));
    }
    let intent = Intent {
        application_name: settings.application_name.as_deref().unwrap_or_default(),
        has_slot: args.slot.is_some(),
        has_bound: false,
    };
    match Settings::ask(&mut link, facts.version).await {
        Ok(settings) => findings.extend(judge(facts.version, &settings, &intent)),
        Err(error) => findings.push(judge_refusal(&error, None)),
    }
    if let Some(slot) = &args.slot {
        findings.push(match read_slot(&mut link, settings, facts.version, slot).await {
            Ok(state) => judge_slot(slot.as_str(), state.as_ref(), facts.system.xlogpos),
            Err(error) => Finding::warning(
                "slot",
                format!("\"{}\" can't be read: {error}", slot.as_str()),
                "below 15 that takes a line in pg_hba.conf for the database postgres as well",
            ),
        });
    }
    findings.extend(plain.map(|plain| clock(plain.clock_ahead_s)));
    link.close();
    findings
}

fn clock(ahead_s: f64) -> Finding {
    let what = format!(
        "the server's clock is {:.1} s {}",
        ahead_s.abs(),
        match ahead_s {
            ahead if ahead < 0.0 => "behind this machine's",
            _ => "ahead of this machine's",
        }
    );
    if ahead_s.abs() > CLOCK_TOLERANCE_S {
        Finding::warning("clock", what, "set both by NTP: recovery to a time goes by the server's")
    } else {
        Finding::fine("clock", what)
    }
}

fn check_archive(archive: &Path, args: &CheckArgs) -> Vec<Finding> {
    let shown = archive.display();
    let files = Arc::new(RealFiles::new(archive.to_owned()));
    let catalogue = match Catalogue::open(files) {
        Ok(catalogue) => catalogue,
        Err(error @ ArchiveError::NoArchive) => {
            let hint = "`seawall receive` makes it when it first connects";
            return vec![Finding::error("archive", format!("{shown}: {error}"), hint)];
        }
        Err(error) => {
            let what = format!("{shown}: {error}");
            return vec![Finding::error("archive", what, "see docs/OPERATIONS.md")];
        }
    };
    let identity = catalogue.identity();
    let what =
        format!("{shown}, PostgreSQL {}, system {}", identity.server_major, identity.system_id);
    let mut findings = vec![Finding::fine("archive", what)];
    findings.extend(modes(archive));
    findings.extend(space(archive, catalogue.layout().segment_size.bytes()));
    findings.extend(receiver(archive, args.max_lag));
    findings.extend(holes(&catalogue));
    findings.push(backups(&catalogue, archive, args.max_backup_age));
    findings
}

fn modes(archive: &Path) -> Option<Finding> {
    let check = "archive_modes";
    let metadata = fs::metadata(archive).ok()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    let us = rustix::process::geteuid().as_raw();
    let shown = archive.display();
    Some(if mode & 0o027 != 0 {
        Finding::warning(
            check,
            format!("mode {mode:04o}: others can get at what is in the database"),
            format!("chmod 0700 {shown}"),
        )
    } else if owner != us && us != 0 {
        Finding::error(
            check,
            format!("it belongs to user {owner}, and this is user {us}"),
            format!("run as its owner, or chown -R {shown}"),
        )
    } else {
        Finding::fine(check, format!("mode {mode:04o}, user {owner}"))
    })
}

fn space(archive: &Path, segment: u64) -> Option<Finding> {
    let check = "archive_space";
    let stat = rustix::fs::statvfs(archive).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let all = stat.f_blocks.saturating_mul(stat.f_frsize);
    let what = format!("{} of {} are free", size(free as f64), size(all as f64));
    let hint = "make room, or take the oldest backups and their WAL elsewhere";
    Some(if free < segment.saturating_mul(FEW_SEGMENTS) {
        Finding::error(check, what, hint)
    } else if free < all / LITTLE_ROOM_PART {
        Finding::warning(check, what, hint)
    } else {
        Finding::fine(check, what)
    })
}

fn receiver(archive: &Path, max_lag: u64) -> Vec<Finding> {
    let receiver = match board::ask(archive) {
        Ok(Some(receiver)) => receiver,
        Ok(None) => {
            let hint = "start `seawall receive`";
            return vec![Finding::error("receiver", "none is running", hint)];
        }
        Err(error) => {
            let hint = "`seawall status --watch`; if it stays so, start it again";
            return vec![Finding::error("receiver", format!("it doesn't answer: {error}"), hint)];
        }
    };
    let state = receiver["state"].as_str().unwrap_or_default();
    let process = &receiver["process"];
    let last_error = receiver["last_error"]["error"].as_str().unwrap_or_default();
    let mut findings = vec![match state {
        "streaming" | "starting" => {
            Finding::fine("receiver", format!("{state}, process {process}"))
        }
        state => Finding::error("receiver", format!("{state}: {last_error}"), "`seawall status`"),
    }];
    if receiver["slot"]["state"] == "let go" {
        findings.push(Finding::warning(
            "slot_let_go",
            "the slot kept more than --max-slot-retention, and was dropped",
            "look why the receiver got no further; the slot comes back when it has caught up",
        ));
    }
    if let Some(lag) = receiver["lag_bytes"].as_u64() {
        let what = format!("{}, {} s", size(lag as f64), receiver["lag_seconds"]);
        findings.push(if lag > max_lag {
            Finding::warning("lag", what, "look at the network, and at the archive's disk")
        } else {
            Finding::fine("lag", what)
        });
    }
    findings
}

fn holes(catalogue: &Catalogue) -> Vec<Finding> {
    let looked = steady(|| {
        let survey = catalogue.survey().map_err(ArchiveError::from)?;
        Ok((catalogue.missing(&survey)?, catalogue.overview(&survey)?))
    });
    let (missing, timelines) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            return vec![Finding::error("gaps", error.to_string(), "see docs/OPERATIONS.md")];
        }
    };
    let mut findings = Vec::new();
    match missing.split_first() {
        None => findings.push(Finding::fine("gaps", "nothing is missing")),
        Some((first, more)) => {
            let mut what = crate::gaps::as_text(first);
            if !more.is_empty() {
                what = format!("{what}; and {} more", more.len());
            }
            let hint = "take a base backup, or fill it with `seawall archive-wal`";
            findings.push(Finding::error("gaps", what, hint));
        }
    }
    let lost = timelines.iter().filter_map(|of| Some((of.timeline, of.lost_from?)));
    findings.extend(lost.map(|(timeline, from)| {
        Finding::warning(
            "lost_branch",
            format!("timeline {timeline} from {from} on isn't part of the newer one's history"),
            "look for commits that the promoted server hasn't got",
        )
    }));
    findings
}

/// Whether a backup is there that recovery is possible from, and young enough to be quick.
fn backups(catalogue: &Catalogue, archive: &Path, max_age: Duration) -> Finding {
    let check = "backups";
    let hint = "`seawall backup`";
    let windows = steady(|| {
        let survey = catalogue.survey().map_err(ArchiveError::from)?;
        list::widest_windows(catalogue, &survey, archive)
    });
    let newest = Backups::open(archive)
        .and_then(|backups| backups.list())
        .map(|(all, _)| all.into_iter().max_by(|one, other| one.ended.cmp(&other.ended)));
    let (windows, newest) = match (windows, newest) {
        (Ok(windows), Ok(newest)) => (windows, newest),
        (Err(error), _) => {
            return Finding::error(check, error.to_string(), "see docs/OPERATIONS.md");
        }
        (_, Err(error)) => {
            return Finding::error(check, error.to_string(), "see docs/OPERATIONS.md");
        }
    };
    let Some(newest) = newest else {
        return Finding::warning(check, "there is none: WAL alone restores nothing", hint);
    };
    if windows.is_empty() {
        let what =
            format!("WAL that is missing lets none be recovered from, {} neither", newest.id);
        return Finding::error(check, what, hint);
    }
    let ended: Option<Timestamp> = newest.ended.parse().ok();
    let age = ended.and_then(|ended| Timestamp::now().duration_since(ended).try_into().ok());
    let what = format!("the newest, {}, is of {}", newest.id, newest.ended);
    if age.is_some_and(|age: Duration| age > max_age) {
        Finding::warning(check, format!("{what}: recovery has much WAL to go through"), hint)
    } else {
        Finding::fine(check, what)
    }
}

fn as_text(findings: &[Finding], verbose: bool) -> String {
    let shown = findings.iter().filter(|finding| verbose || finding.level > Level::Fine);
    let lines = shown.map(|finding| {
        let level = finding.level.name();
        let hint = finding.hint.as_ref().map_or(String::new(), |hint| format!("\n    {hint}"));
        format!("{level:<8} {}: {}{hint}\n", finding.check, finding.what)
    });
    lines.collect()
}

fn as_json(findings: &[Finding], worst: Level) -> Value {
    let checks = findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "level": finding.level.name(),
            "what": finding.what,
            "hint": finding.hint,
        })
    });
    json!({"level": worst.name(), "checks": checks.collect::<Vec<_>>()})
}

/// One line, and a line for each thing that isn't fine (Nagios Plugin Development Guidelines).
fn nagios(findings: &[Finding], worst: Level) -> String {
    let word = match worst {
        Level::Fine => "OK",
        Level::Warning => "WARNING",
        Level::Error => "CRITICAL",
    };
    let bad: Vec<_> = findings.iter().filter(|finding| finding.level > Level::Fine).collect();
    let summary = match bad.as_slice() {
        [] => format!("{} checks", findings.len()),
        bad => bad.iter().map(|finding| finding.check).collect::<Vec<_>>().join(", "),
    };
    // A bar begins what is measured.
    let clean = |text: &str| text.replace('|', "/");
    let details = bad.iter().map(|finding| {
        let hint = finding.hint.as_deref().unwrap_or_default();
        clean(&format!("{}: {}; {hint}\n", finding.check, finding.what))
    });
    format!("SEAWALL {word} - {summary}\n{}", details.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told() {
        let check = |ahead_s: f64, level: Level, text: &str| {
            let finding = clock(ahead_s);
            assert_eq!((finding.level, finding.what.as_str()), (level, text));
        };
        check(0.2, Level::Fine, "the server's clock is 0.2 s ahead of this machine's");
        check(-4.0, Level::Fine, "the server's clock is 4.0 s behind this machine's");
        check(90.0, Level::Warning, "the server's clock is 90.0 s ahead of this machine's");
        check(-90.0, Level::Warning, "the server's clock is 90.0 s behind this machine's");
    }

    #[test]
    fn nagios_gets_a_line_and_no_bar_within() {
        let findings =
            [Finding::fine("version", "18"), Finding::error("connection", "a | b", "look")];
        let text = nagios(&findings, Level::Error);
        assert_eq!(text, "SEAWALL CRITICAL - connection\nconnection: a / b; look\n");
        assert_eq!(nagios(&findings[..1], Level::Fine), "SEAWALL OK - 1 checks\n");
    }
}
