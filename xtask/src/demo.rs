//! `cargo xtask demo`: what seawall is for, shown once from end to end.
//!
//! A scratch primary with seawall as its synchronous standby; clients that note each commit the
//! primary acknowledged; SIGKILL for the primary in the middle; then the real pg_waldump reads the
//! archive, and every acknowledged transaction's commit record has to be in it. Last, with the
//! primary's directory deleted, a server is made from the archive alone ([`crate::rebuild`]), and
//! every acknowledged row has to be there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::load::{Acked, CommitLoad, Commits, LoadOptions};
use testkit::peers::{ReceiveOptions, pg_receivewal};
use testkit::process::{Running, Signal};
use testkit::scratch::Scratch;
use testkit::servers::{self, Install, Server, ServerOptions, as_server_user};

use crate::steps::run as run_shown;
use crate::{cargo, rebuild, root};

/// The newest version that seawall supports.
const MAJOR: u32 = 18;

/// The standby's name, for synchronous_standby_names.
const STANDBY: &str = "seawall";

/// How long the receiver may take to become the synchronous standby.
const SYNC_LIMIT: Duration = Duration::from_secs(60);

/// seawall ends within two seconds of a SIGTERM; a busy machine gets more.
const END_LIMIT: Duration = Duration::from_secs(20);

/// pgbench's scale: 16 MB a unit.
const PGBENCH_SCALE: u32 = 5;

struct Options {
    seconds: u64,
    clients: u32,
    peer: bool,
}

pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    let install = servers::install(MAJOR)?;
    println!("PostgreSQL {} from {}", install.version, install.prefix.display());
    if !options.peer {
        println!("building seawall");
        run_shown(cargo().args(["build", "--release", "--package", "seawall"]))?;
    }

    let mut primary = Server::start(&install, &ServerOptions::default())?;
    println!("a scratch primary runs on port {}", primary.port());
    primary.init_pgbench(PGBENCH_SCALE)?;
    // Where the servers' user can get at it: the restored server runs seawall, too.
    let scratch = Scratch::new("demo")?;
    let archive = scratch.server_dir("kept")?.join("archive");
    let program = scratch.path().join("seawall");
    if !options.peer {
        std::fs::copy(seawall_program(), &program)?;
    }
    let (mut receiver, wal) = start_receiver(&install, &primary, (&program, &archive), &options)?;
    await_synchronous(&primary, &mut receiver)?;
    println!("the receiver is its synchronous standby, archiving into {}", wal.display());

    let rebuild =
        if options.peer { None } else { Some(rebuild::backup(&program, &archive, &primary)?) };
    let acked = load_and_kill(&mut primary, &options)?;
    let (status, took) = receiver.stop(Signal::TERM, END_LIMIT)?;
    println!("SIGTERM for the receiver: it ended after {} ms with {status}", took.as_millis());
    look_up(&install, &wal, &acked)?;
    match rebuild {
        Some(rebuild) => rebuild.run(&primary, &acked),
        None => Ok(()),
    }
}

fn seawall_program() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("release/seawall")
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options { seconds: 5, clients: 4, peer: false };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => options.seconds = value()?.parse().context("--seconds")?,
            "--clients" => options.clients = value()?.parse().context("--clients")?,
            "--peer" => options.peer = true,
            other => bail!("no flag {other}: demo [--seconds N] [--clients N] [--peer]"),
        }
    }
    Ok(options)
}

/// Starts the receiver; gives the directory where its segments come, too.
fn start_receiver(
    install: &Install,
    primary: &Server,
    (program, archive): (&Path, &Path),
    options: &Options,
) -> Result<(Running, PathBuf)> {
    if options.peer {
        let receive = ReceiveOptions {
            slot: Some(STANDBY.into()),
            synchronous: true,
            application_name: STANDBY.into(),
            ..ReceiveOptions::default()
        };
        std::fs::create_dir(archive)?;
        let running = pg_receivewal(install, &primary.conninfo(), archive, &receive)?;
        return Ok((running, archive.to_path_buf()));
    }
    let mut seawall = Command::new(program);
    as_server_user(&mut seawall);
    seawall.args(["receive", "--archive"]).arg(archive);
    seawall.args(["--host", "127.0.0.1", "--port", &primary.port().to_string()]);
    seawall.args(["-U", "postgres", "-S", STANDBY, "--create-slot", "--if-not-exists"]);
    seawall.args(["--application-name", STANDBY]);
    println!("{}", shown(&seawall));
    Ok((Running::spawn(&mut seawall, "seawall receive")?, archive.join("wal")))
}

pub(crate) fn shown(command: &Command) -> String {
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    let program = command.get_program().to_string_lossy();
    std::iter::once(program).chain(args).collect::<Vec<_>>().join(" ")
}

/// Makes commits wait for the receiver, and waits until the primary counts it as synchronous.
fn await_synchronous(primary: &Server, receiver: &mut Running) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(50);
    primary.set_synchronous_standbys(STANDBY)?;
    let deadline = Instant::now() + SYNC_LIMIT;
    let state = "SELECT coalesce(max(sync_state), '') FROM pg_stat_replication";
    while primary.sql(state)? != "sync" {
        if let Some(status) = receiver.ended() {
            receiver.wait(END_LIMIT)?;
            bail!("the receiver ended with {status}:\n{}", receiver.output_tail());
        }
        if Instant::now() > deadline {
            bail!(
                "the receiver didn't become a synchronous standby within {} s; it says:\n{}\nthe primary:\n{}",
                SYNC_LIMIT.as_secs(),
                receiver.output_tail(),
                primary.log_text()
            );
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// pgbench for traffic, and clients that note what was acknowledged, until the primary is killed.
fn load_and_kill(primary: &mut Server, options: &Options) -> Result<Vec<Acked>> {
    let time = options.seconds.saturating_mul(10).max(60).to_string();
    let mut pgbench = primary.pgbench(&["-n", "-N", "-c", "4", "-T", &time]);
    let mut pgbench = Running::spawn(&mut pgbench, "pgbench")?;
    let load = LoadOptions { clients: options.clients, ..LoadOptions::default() };
    let load = CommitLoad::start(primary.connection(), &load)?;
    println!("pgbench -N runs, and {} clients that note each acknowledged commit", options.clients);
    thread::sleep(Duration::from_secs(options.seconds));
    if let Some(status) = pgbench.ended() {
        bail!("pgbench ended early, with {status}:\n{}", pgbench.output_tail());
    }
    primary.kill9();
    let acked = load.finish()?;
    println!("SIGKILL for the primary after {} acknowledged commits", acked.len());
    if acked.is_empty() {
        bail!("nothing was acknowledged in {} s: there is nothing to show", options.seconds);
    }
    Ok(acked)
}

fn look_up(install: &Install, wal: &Path, acked: &[Acked]) -> Result<()> {
    let commits = Commits::read(install, wal)?;
    println!(
        "pg_waldump {} reads {} segments of the archive: {} commit records, the last one at {}",
        install.version,
        commits.segments(),
        commits.len(),
        commits.last_lsn()
    );
    let checked = commits.check(acked);
    if !checked.missing.is_empty() {
        bail!("{checked}; pg_waldump stopped with: {}", commits.ends().join("; "));
    }
    let last = acked.iter().max_by_key(|commit| commit.at);
    if let Some((last, lsn)) = last.and_then(|last| Some((last, commits.lsn_of(last.xid)?))) {
        println!(
            "the last acknowledged one: client {}'s commit {}, transaction {}, its record at {lsn}",
            last.client, last.counter, last.xid
        );
    }
    println!("all {} acknowledged commits are in the archive", checked.acknowledged);
    Ok(())
}
