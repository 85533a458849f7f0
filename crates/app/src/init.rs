//! `seawall init`: tries the connection, makes the archive, and says what is left to do on the
//! server, as exact lines. Nothing is changed there without `--apply`.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use archive::Archive;
use backup::quote_conf;
use disk::RealFiles;
use pg_wire::command::SlotName;
use pg_wire::settings::{ConnectionSettings, Host, Server};
use runtime::check::{Finding, Intent, Level, Plain, Settings, judge, judge_refusal};
use runtime::{Facts, Link, SessionError, create_slot, read_slot};

use crate::cli::{InitArgs, TalkArgs};
use crate::{Failure, connect, log};

pub(crate) fn run(args: &InitArgs) -> Result<(), Failure> {
    let _log = log::start(TalkArgs { verbose: 0, quiet: true }, true, None);
    let mut args = args.clone();
    let archive = complete(&mut args)?;
    let name = args.application_name.as_deref();
    let settings = connect::settings(&args.connection, name, crate::receive::APPLICATION_NAME)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start: {error}")))?;
    let text = runtime.block_on(set_up(&args, &archive, &settings))?;
    let written = io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))
}

/// Asks for what is needed and wasn't given, if somebody is there to answer.
fn complete(args: &mut InitArgs) -> Result<PathBuf, Failure> {
    let there = io::stdin().is_terminal() && io::stderr().is_terminal();
    let connection = &mut args.connection;
    if there && connection.conninfo.is_none() {
        for (value, what) in [
            (&mut connection.host, "the server's host, or the directory of its socket"),
            (&mut connection.port, "its port"),
            (&mut connection.username, "the role to connect as, which has REPLICATION"),
        ] {
            if value.is_none() {
                *value = ask(what)?;
            }
        }
    }
    let archive = match args.archive.take() {
        Some(archive) => Some(archive),
        None if there => ask("the archive's directory")?.map(PathBuf::from),
        None => None,
    };
    archive.ok_or_else(|| Failure::usage("name the archive's directory with --archive"))
}

/// One answer; none for an empty one, which leaves the default.
fn ask(what: &str) -> Result<Option<String>, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("can't ask: {error}"));
    write!(io::stderr(), "{what}: ").map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    let answer = line.trim();
    Ok((!answer.is_empty()).then(|| answer.to_owned()))
}

async fn set_up(
    args: &InitArgs,
    archive: &Path,
    settings: &ConnectionSettings,
) -> Result<String, Failure> {
    let (mut link, facts) = match runtime::connect(settings, replication::Timing::NONE).await {
        Ok(connected) => connected,
        Err(error) => return Err(refused(&error, settings).await),
    };
    let here = link.same_server(settings);
    let intent = Intent {
        application_name: here.application_name.as_deref().unwrap_or_default(),
        has_slot: true,
        has_bound: true,
    };
    let server = Settings::ask(&mut link, facts.version).await?;
    let findings = judge(facts.version, &server, &intent);
    make_archive(archive, &facts)?;
    let mut text = String::new();
    // Writing to a string doesn't fail.
    _ = writeln!(text, "connected to {}, PostgreSQL {}", here.endpoint(), facts.version);
    _ = writeln!(text, "the archive {} is ready", archive.display());
    text += &slot(args, &mut link, &here, &facts).await?;
    for finding in findings.iter().filter(|finding| finding.level > Level::Fine) {
        _ = writeln!(text, "{:<8} {finding}", finding.level.name());
    }
    text += &for_the_server(args, &server, intent.application_name);
    text += &for_this_machine(args, archive, &here);
    link.close();
    Ok(text)
}

/// What to put into pg_hba.conf, or whatever else keeps a receiver out.
async fn refused(error: &SessionError, settings: &ConnectionSettings) -> Failure {
    let plain = match error {
        SessionError::Connect { .. } | SessionError::ConnectTimeout { .. } => None,
        _ => Plain::ask(settings).await.ok(),
    };
    let finding = judge_refusal(error, plain.as_ref());
    let role = quote_name(&settings.user);
    let lines = match finding.check {
        "pg_hba" => {
            let line = match settings.servers.first().and_then(origin) {
                Some(address) => format!("host  replication  {role}  {address}  scram-sha-256"),
                None => format!("local  replication  {role}  scram-sha-256"),
            };
            format!(
                "\nin the server's pg_hba.conf, before any line that rejects it; then SELECT \
                 pg_reload_conf();\n    {line}\nand, unless the role is there:\n    CREATE ROLE \
                 {role} REPLICATION LOGIN PASSWORD '…';"
            )
        }
        "replication_privilege" => format!("\n    ALTER ROLE {role} REPLICATION LOGIN;"),
        _ => String::new(),
    };
    let Finding { check, what, hint, .. } = &finding;
    let hint = hint.as_deref().unwrap_or_default();
    Failure::failed(format!("{check}: {what}; {hint}{lines}"))
}

/// The address that the server sees this machine come from, as pg_hba.conf has it; none where it
/// comes by a Unix socket, or that can't be told.
fn origin(server: &Server) -> Option<String> {
    let Host::Tcp { host } = &server.host else { return None };
    let host = server.hostaddr.map_or_else(|| host.clone(), |address| address.to_string());
    // Nothing is sent: connecting a datagram's socket only finds the way.
    let found = ["0.0.0.0:0", "[::]:0"].into_iter().find_map(|any| {
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((host.as_str(), server.port)).ok()?;
        socket.local_addr().ok()
    });
    Some(match found?.ip() {
        IpAddr::V4(address) => format!("{address}/32"),
        IpAddr::V6(address) => format!("{address}/128"),
    })
}

fn make_archive(archive: &Path, facts: &Facts) -> Result<(), Failure> {
    let about = |error| Failure::from(error).of(&format!("the archive {}", archive.display()));
    let mut name = [0; 16];
    // A name is for people; a machine without randomness has a worse one.
    _ = getrandom::fill(&mut name);
    let files = Arc::new(RealFiles::new(archive.to_owned()));
    let holder = format!("seawall init, process {}", std::process::id());
    Archive::claim(files, &holder)
        .and_then(|claim| claim.open(&facts.identity(), &name))
        .map_err(about)?;
    Ok(())
}

/// Makes the slot, if that is allowed, or says how it comes to be.
async fn slot(
    args: &InitArgs,
    link: &mut Link,
    here: &ConnectionSettings,
    facts: &Facts,
) -> Result<String, Failure> {
    let slot: &SlotName = &args.slot;
    if args.apply {
        let made = create_slot(link, facts.version, slot, true).await?;
        let how = if made { "was made" } else { "is there already" };
        return Ok(format!("the replication slot \"{}\" {how}\n", slot.as_str()));
    }
    let is_there = matches!(read_slot(link, here, facts.version, slot).await, Ok(Some(_)));
    Ok(if is_there {
        format!("the replication slot \"{}\" is there already\n", slot.as_str())
    } else {
        format!("the replication slot \"{}\" isn't there: the receiver makes it\n", slot.as_str())
    })
}

/// Lines for postgresql.conf.
fn for_the_server(args: &InitArgs, server: &Settings, name: &str) -> String {
    let mut lines = String::new();
    // Writing to a string doesn't fail.
    if server.text("max_slot_wal_keep_size") == Some("-1") {
        lines += "    max_slot_wal_keep_size = '10GB'   # what its disk has room for\n";
    }
    if args.synchronous && server.text("synchronous_standby_names") == Some("") {
        let names = quote_conf(&quote_name(name));
        _ = writeln!(lines, "    synchronous_standby_names = {names}");
        if server.text("synchronous_commit") == Some("remote_apply") {
            lines += "    synchronous_commit = on   # a receiver applies nothing\n";
        }
    }
    if lines.is_empty() {
        return "nothing has to be changed on the server\n".to_owned();
    }
    format!("in the server's postgresql.conf; then SELECT pg_reload_conf();\n{lines}")
}

/// Lines for this machine: by hand, and as a service.
fn for_this_machine(args: &InitArgs, archive: &Path, here: &ConnectionSettings) -> String {
    let slot = args.slot.as_str();
    let whole = std::path::absolute(archive).unwrap_or_else(|_| archive.to_owned());
    let mut environment = String::new();
    // Writing to a string doesn't fail.
    if let Some(server) = here.servers.first() {
        let host = match &server.host {
            Host::Tcp { host } => host.clone(),
            Host::Unix { dir } => dir.display().to_string(),
        };
        _ = writeln!(environment, "    PGHOST={host}\n    PGPORT={}", server.port);
    }
    _ = writeln!(environment, "    PGUSER={}", here.user);
    let name = here.application_name.as_deref().unwrap_or_default();
    format!(
        "by hand:\n    seawall receive -A {} -S {slot} --create-slot --if-not-exists \
         --application-name {name}\nas a service, archive /var/lib/seawall/main: in \
         /etc/seawall/main.env\n{environment}    PGPASSFILE=/etc/seawall/main.pgpass\n    \
         SEAWALL_OPTIONS=--slot {slot} --create-slot --if-not-exists --application-name {name}\n\
         then: systemctl enable --now seawall-receive@main\n",
        backup::quote_shell(&whole.display().to_string())
    )
}

/// A name as SQL, pg_hba.conf and `synchronous_standby_names` take it: in quotes unless it is plain.
fn quote_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let starts_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    // What pg_hba.conf gives another meaning.
    let special = ["all", "replication"].contains(&name);
    if starts_plain && name.chars().all(plain) && !special {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_have_to_be() {
        let check = |name: &str, expect: &str| assert_eq!(quote_name(name), expect);
        check("seawall", "seawall");
        check("sea_wall2", "sea_wall2");
        check("2sea", "\"2sea\"");
        check("Sea wall", "\"Sea wall\"");
        check("a\"b", "\"a\"\"b\"");
        check("all", "\"all\"");
        check("", "\"\"");
    }
}
