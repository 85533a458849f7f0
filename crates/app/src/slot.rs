//! `seawall slot`

use std::io::{self, Write};

use pg_types::Lsn;
use pg_wire::command::{SlotName, drop_replication_slot};
use pg_wire::row::SlotState;
use pg_wire::settings::ConnectionSettings;
use replication::Timing;
use runtime::{AskError, Facts, Link, create_slot, read_slot};
use serde_json::json;

use crate::cli::{ConnectionArgs, SlotAction, SlotArgs, TalkArgs};
use crate::{Failure, connect, log};

pub(crate) fn run(args: &SlotArgs) -> Result<(), Failure> {
    // For warnings, such as of a password file that is ignored; no line lives below them.
    let _log = log::start(TalkArgs { verbose: 0, quiet: true }, true, None);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start: {error}")))?;
    runtime.block_on(act(&args.action))
}

async fn act(action: &SlotAction) -> Result<(), Failure> {
    match action {
        SlotAction::Create { name, no_reserve, if_not_exists, connection } => {
            let (mut link, facts, _) = open(connection).await?;
            let created = create_slot(&mut link, facts.version, name, !no_reserve).await?;
            if created || *if_not_exists {
                return Ok(());
            }
            let name = name.as_str();
            Err(Failure::failed(format!(
                "the replication slot \"{name}\" exists already: add --if-not-exists to accept it"
            )))
        }
        SlotAction::Read { name, json, connection } => {
            let (mut link, facts, settings) = open(connection).await?;
            let Some(state) = read_slot(&mut link, &settings, facts.version, name).await? else {
                return Err(missing(name));
            };
            let line = describe(name, &state, *json);
            writeln!(io::stdout(), "{line}")
                .map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
        }
        SlotAction::Drop { name, wait, connection } => {
            let (mut link, _, _) = open(connection).await?;
            match link.ask(&drop_replication_slot(name, *wait)).await {
                Ok(_) => Ok(()),
                Err(AskError::Server(message))
                    if message.sqlstate == pg_wire::message::SqlState::UNDEFINED_OBJECT =>
                {
                    Err(missing(name))
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

async fn open(args: &ConnectionArgs) -> Result<(Link, Facts, ConnectionSettings), Failure> {
    let settings = connect::settings(args, None, "seawall slot")?;
    let (link, facts) = runtime::connect(&settings, Timing::NONE).await?;
    Ok((link, facts, settings))
}

fn missing(name: &SlotName) -> Failure {
    Failure::failed(format!("the replication slot \"{}\" doesn't exist", name.as_str()))
}

fn describe(name: &SlotName, state: &SlotState, json: bool) -> String {
    let lsn = state.restart_lsn.filter(|lsn| *lsn != Lsn::INVALID);
    if json {
        let restart_lsn = lsn.map(|lsn| lsn.to_string());
        let restart_tli = state.restart_tli.map(pg_types::TimelineId::as_u32);
        let value = json!({
            "slot": name.as_str(),
            "slot_type": state.slot_type,
            "restart_lsn": restart_lsn,
            "restart_tli": restart_tli,
        });
        return value.to_string();
    }
    match lsn {
        Some(lsn) => format!("{}: keeps WAL from {lsn} on", name.as_str()),
        None => format!("{}: keeps no WAL", name.as_str()),
    }
}
