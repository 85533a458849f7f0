//! What a server's settings mean for a receiver.

use std::time::Duration;

use pg_types::{Lsn, ServerVersion};
use pg_wire::message::SqlState;
use pg_wire::row::SlotState;
use pg_wire::startup::StartupError;
use replication::ProtocolError;

use super::settings::{Plain, Settings};
use super::sync_names::{Part, SyncNames};
use super::{Finding, Level};
use crate::SessionError;

/// A status every third of it has to get through a slow network and a busy server.
const SHORT_SENDER_TIMEOUT: Duration = Duration::from_secs(5);
/// A receiver, a base backup and its second connection.
const FEW_SENDERS: u64 = 3;

/// How a receiver is meant to run.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    /// Its name on the server.
    pub application_name: &'a str,
    /// Whether it streams with a slot.
    pub has_slot: bool,
    /// Whether it lets the slot go at a bound (`--max-slot-retention`).
    pub has_bound: bool,
}

/// Judges the settings of a server that lets the receiver in.
#[must_use]
pub fn judge(version: ServerVersion, settings: &Settings, intent: &Intent<'_>) -> Vec<Finding> {
    let mut findings = vec![Finding::fine("version", format!("PostgreSQL {version}"))];
    findings.extend(wal_level(settings));
    findings.extend(max_wal_senders(settings));
    findings.push(kept_wal(settings, intent));
    findings.extend(slot_bound(settings, intent));
    findings.extend(synchronous(settings, intent));
    findings.extend(wal_sender_timeout(settings));
    findings
}

fn wal_level(settings: &Settings) -> Option<Finding> {
    let level = settings.text("wal_level")?;
    Some(match level {
        "minimal" => Finding::error(
            "wal_level",
            "it is minimal: the WAL is too little to recover from",
            "set wal_level = replica, and restart the server",
        ),
        level => Finding::fine("wal_level", level),
    })
}

fn max_wal_senders(settings: &Settings) -> Option<Finding> {
    let most: u64 = settings.text("max_wal_senders")?.parse().ok()?;
    Some(if most < FEW_SENDERS {
        Finding::warning(
            "max_wal_senders",
            format!("it is {most}: a base backup takes two beside this receiver"),
            "set max_wal_senders = 10, and restart the server",
        )
    } else {
        Finding::fine("max_wal_senders", most.to_string())
    })
}

/// What the server keeps for a receiver that is away.
fn kept_wal(settings: &Settings, intent: &Intent<'_>) -> Finding {
    let check = "wal_keep_size";
    let segments = || settings.text("wal_keep_segments").and_then(|text| text.parse().ok());
    let kept = settings.size("wal_keep_size").or_else(segments);
    if intent.has_slot {
        return Finding::fine(check, "the slot keeps what is needed");
    }
    match kept {
        Some(0) | None => Finding::warning(
            check,
            "there is no slot, and the server keeps no WAL: an absence of the receiver leaves a gap",
            "receive with --slot NAME --create-slot --if-not-exists",
        ),
        Some(_) => Finding::fine(
            check,
            format!("the server keeps {}", settings.text(check).unwrap_or("some segments")),
        ),
    }
}

fn slot_bound(settings: &Settings, intent: &Intent<'_>) -> Option<Finding> {
    let check = "max_slot_wal_keep_size";
    let text = settings.text(check).filter(|_| intent.has_slot)?;
    Some(if text == "-1" && !intent.has_bound {
        Finding::warning(
            check,
            "it is -1: a receiver that is away for good fills the server's disk",
            "set max_slot_wal_keep_size to what its disk has room for, and reload the server",
        )
    } else {
        Finding::fine(check, text)
    })
}

/// Who commits wait for.
fn synchronous(settings: &Settings, intent: &Intent<'_>) -> Vec<Finding> {
    let check = "synchronous_standby_names";
    let Some(text) = settings.text(check) else { return Vec::new() };
    let name = intent.application_name;
    let Some(names) = SyncNames::parse(text) else {
        return vec![Finding::fine(check, "empty: commits wait for no standby")];
    };
    let others = names.names.len();
    if names.count > others && !names.has_star() {
        let what = format!("'{text}' wants {} standbys and names {others}", names.count);
        let hint = "unless several have one name, commits wait for ever: name as many";
        return vec![Finding::warning(check, what, hint)];
    }
    let part = names.part(name);
    let finding = match part {
        _ if names.has_star() => Finding::warning(
            check,
            format!("'{text}' has a *: whoever streams may be the one that commits wait for"),
            format!("name the receiver: synchronous_standby_names = '{name}'"),
        ),
        Part::None => Finding::fine(check, format!("'{text}': commits don't wait for {name}")),
        Part::Potential => Finding::fine(check, format!("'{text}': {name} may have to stand in")),
        Part::Quorum => Finding::fine(check, format!("'{text}': {name} is one of the quorum")),
        Part::Synchronous => Finding::fine(check, format!("'{text}': commits wait for {name}")),
    };
    let mut findings = vec![finding];
    if part != Part::None {
        findings.extend(remote_apply(settings, name));
    }
    findings
}

/// A receiver applies nothing.
fn remote_apply(settings: &Settings, name: &str) -> Option<Finding> {
    let check = "remote_apply";
    let level = settings.text("synchronous_commit")?;
    Some(if level == "remote_apply" {
        Finding::error(
            check,
            format!(
                "synchronous_commit is remote_apply, and commits wait for {name}, which applies \
                 nothing: they wait for ever"
            ),
            "set synchronous_commit = on, for roles and databases too, and reload the server",
        )
    } else {
        Finding::fine(check, format!("synchronous_commit is {level}"))
    })
}

fn wal_sender_timeout(settings: &Settings) -> Option<Finding> {
    let check = "wal_sender_timeout";
    let timeout = settings.duration(check)?;
    let text = settings.text(check)?;
    Some(if timeout.is_zero() {
        Finding::warning(
            check,
            "it is 0: a receiver that is gone keeps its slot and its place",
            "set wal_sender_timeout = 60s, and reload the server",
        )
    } else if timeout < SHORT_SENDER_TIMEOUT {
        Finding::warning(
            check,
            format!("it is {text}: a busy moment ends the connection"),
            "set wal_sender_timeout = 60s, and reload the server",
        )
    } else {
        Finding::fine(check, text)
    })
}

/// Judges a slot: `None` if there is none of that name.
#[must_use]
pub fn judge_slot(name: &str, state: Option<&SlotState>, server_end: Lsn) -> Finding {
    let check = "slot";
    match state {
        None => Finding::error(
            check,
            format!("there is no replication slot \"{name}\""),
            format!("`seawall slot create {name}`, or receive with --create-slot --if-not-exists"),
        ),
        Some(SlotState { restart_lsn: None, .. }) => Finding::error(
            check,
            format!("the replication slot \"{name}\" keeps no WAL: invalidated, or never used"),
            format!("`seawall slot drop {name}`, and receive with --create-slot"),
        ),
        Some(SlotState { restart_lsn: Some(kept), .. }) => {
            let bytes = server_end.saturating_since(*kept);
            Finding::fine(check, format!("\"{name}\" keeps WAL from {kept} on, {bytes} bytes"))
        }
    }
}

/// Judges a server that doesn't let a receiver in, by what it says to one and, if it was asked, to
/// a plain connection.
#[must_use]
pub fn judge_refusal(error: &SessionError, plain: Option<&Plain>) -> Finding {
    // Of several servers, or of one with TLS and without, the last attempt's says what is wrong.
    if let SessionError::AllOf(attempts) = error
        && let Some((_, last)) = attempts.last()
    {
        return judge_refusal(last, plain);
    }
    let SessionError::Protocol(ProtocolError::Startup(StartupError::Server(message))) = error
    else {
        return Finding::error(
            "connection",
            error.to_string(),
            "look whether the server is up, and reachable under that name and port",
        );
    };
    let said = message.to_string();
    match (message.sqlstate, plain) {
        (SqlState::INVALID_PASSWORD, _) => Finding::error(
            "connection",
            said,
            "look at the password: ~/.pgpass has a line for the database replication, or *",
        ),
        (SqlState::TOO_MANY_CONNECTIONS, Some(plain)) => senders(plain, &said),
        (SqlState::TOO_MANY_CONNECTIONS, None) => Finding::error(
            "max_wal_senders",
            said,
            "raise max_wal_senders, which is 0 where wal_level is minimal, or max_connections",
        ),
        (SqlState::INSUFFICIENT_PRIVILEGE, _) => no_privilege(said),
        (_, Some(plain)) if !plain.may_replicate => no_privilege(said),
        (state, _) if state.class() == *b"28" => Finding::error(
            "pg_hba",
            said,
            "pg_hba.conf needs a line `host replication ROLE ADDRESS scram-sha-256` for this role \
             and address (all doesn't mean replication); then reload the server. The role has to \
             exist and have LOGIN",
        ),
        _ => Finding::error("connection", said, "see the server's log"),
    }
}

fn no_privilege(said: String) -> Finding {
    Finding::error("replication_privilege", said, "ALTER ROLE … REPLICATION, on the server")
}

/// No place for a WAL sender, and why.
fn senders(plain: &Plain, said: &str) -> Finding {
    let level = wal_level(&plain.settings).filter(|finding| finding.level == Level::Error);
    level.unwrap_or_else(|| {
        let most = plain.settings.text("max_wal_senders").unwrap_or_default();
        Finding::error(
            "max_wal_senders",
            format!("{said}: {} of {most} are at work", plain.senders),
            "raise max_wal_senders, and restart the server",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENT: Intent<'_> =
        Intent { application_name: "seawall", has_slot: true, has_bound: false };

    fn good() -> Settings {
        Settings::default()
            .with("wal_level", "replica")
            .with("max_wal_senders", "10")
            .with("wal_keep_size", "0")
            .with("max_slot_wal_keep_size", "10GB")
            .with("synchronous_standby_names", "seawall")
            .with("synchronous_commit", "on")
            .with("wal_sender_timeout", "1min")
    }

    fn check(settings: &Settings, intent: &Intent<'_>, expect: &[(&str, Level)]) {
        let version = ServerVersion::parse("18.6").unwrap();
        let findings = judge(version, settings, intent);
        let bad: Vec<_> = findings.iter().filter(|f| f.level > Level::Fine).collect();
        let told: Vec<_> = bad.iter().map(|f| (f.check, f.level)).collect();
        assert_eq!(told, expect, "{bad:#?}");
    }

    #[test]
    fn each_setting_is_judged() {
        use Level::{Error, Warning};
        check(&good(), &INTENT, &[]);
        let no_slot = Intent { has_slot: false, ..INTENT };
        check(&good(), &no_slot, &[("wal_keep_size", Warning)]);
        check(&good().with("wal_keep_size", "1GB"), &no_slot, &[]);
        let unbounded = good().with("max_slot_wal_keep_size", "-1");
        check(&unbounded, &INTENT, &[("max_slot_wal_keep_size", Warning)]);
        check(&unbounded, &Intent { has_bound: true, ..INTENT }, &[]);
        check(&good().with("wal_level", "minimal"), &INTENT, &[("wal_level", Error)]);
        check(&good().with("max_wal_senders", "2"), &INTENT, &[("max_wal_senders", Warning)]);
        let apply = good().with("synchronous_commit", "remote_apply");
        check(&apply, &INTENT, &[("remote_apply", Error)]);
        check(&apply.with("synchronous_standby_names", "other"), &INTENT, &[]);
        let star = good().with("synchronous_standby_names", "*");
        check(&star, &INTENT, &[("synchronous_standby_names", Warning)]);
        let hopeless = good().with("synchronous_standby_names", "ANY 2 (seawall)");
        check(&hopeless, &INTENT, &[("synchronous_standby_names", Warning)]);
        for (timeout, expect) in [("0", true), ("2s", true), ("5s", false)] {
            let expect: &[_] = if expect { &[("wal_sender_timeout", Warning)] } else { &[] };
            check(&good().with("wal_sender_timeout", timeout), &INTENT, expect);
        }
    }
}
