//! `backup`: a base backup into the archive and back to a data directory, the manifest checked both
//! times, against pg_basebackup -Ft, tar and pg_verifybackup.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use testkit::process::seawall_bin;
use testkit::scratch::Scratch;
use testkit::servers::{self, Install, Server, ServerOptions};

use crate::measure::{Usage, argument, median, run, usages_json};

/// No run takes longer on any machine that is worth measuring on.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the pairs: `--major`, `--scale` (of pgbench, 15 MB each), `--pairs`.
///
/// # Errors
/// If a server or a program fails.
#[expect(clippy::print_stdout, reason = "a bench prints")]
pub fn bench(args: &[String]) -> Result<()> {
    let major = u32::try_from(argument(args, "--major", 17)?)?;
    let scale = u32::try_from(argument(args, "--scale", 60)?)?;
    let pairs = argument(args, "--pairs", 5)?;
    let install = servers::install(major)?;
    let server = make(&install, scale)?;
    println!(
        "a cluster of pgbench scale {scale}, against {}, tar and pg_verifybackup",
        install.bin("pg_basebackup").display()
    );
    println!(
        "pair  seawall: backup  restore    cpu s | pg_basebackup    tar  verify    cpu s | faster"
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pair in 1..=pairs {
        let (our, their) = if pair % 2 == 1 {
            let our = seawall(&server)?;
            (our, peers(&server)?)
        } else {
            let their = peers(&server)?;
            (seawall(&server)?, their)
        };
        let (our_sum, their_sum) = (sum(&our), sum(&their));
        println!(
            "{pair:>4}  {:>15.2}  {:>7.2}  {:>7.2} | {:>13.2}  {:>5.2}  {:>6.2}  {:>7.2} | {:>5.2}x",
            our[0].seconds,
            our[1].seconds,
            our_sum.cpu_seconds,
            their[0].seconds,
            their[1].seconds,
            their[2].seconds,
            their_sum.cpu_seconds,
            their_sum.seconds / our_sum.seconds,
        );
        ours.push(our_sum);
        theirs.push(their_sum);
    }
    let each = || ours.iter().zip(&theirs);
    let faster = median(each().map(|(our, their)| their.seconds / our.seconds));
    let cpu = median(each().map(|(our, their)| our.cpu_seconds / their.cpu_seconds));
    println!("{faster:.2}x as fast (target 1.5x), with {cpu:.2}x of the CPU");
    println!(
        "{}",
        json!({
            "bench": "backup", "version": install.version, "scale": scale,
            "seawall": usages_json(&ours), "peers": usages_json(&theirs),
            "faster": faster, "cpu_ratio": cpu,
        })
    );
    Ok(())
}

fn make(install: &Install, scale: u32) -> Result<Server> {
    let conf =
        ["shared_buffers = '512MB'", "max_wal_size = '16GB'", "fsync = off", "autovacuum = off"];
    let conf = conf.map(str::to_owned).to_vec();
    let server = Server::start(install, &ServerOptions { conf, ..ServerOptions::default() })?;
    server.init_pgbench(scale)?;
    server.sql("CHECKPOINT")?;
    Ok(server)
}

/// What several programs took, one after the other.
fn sum(usages: &[Usage]) -> Usage {
    Usage {
        seconds: usages.iter().map(|usage| usage.seconds).sum(),
        cpu_seconds: usages.iter().map(|usage| usage.cpu_seconds).sum(),
        peak_rss_bytes: usages.iter().map(|usage| usage.peak_rss_bytes).max().unwrap_or(0),
    }
}

fn seawall(server: &Server) -> Result<Vec<Usage>> {
    let scratch = Scratch::new("backup-seawall")?;
    let archive = scratch.path().join("archive");
    let seawall = |args: &[&str]| -> Result<Command> {
        let mut command = Command::new(seawall_bin()?);
        command.args(args).arg("-A").arg(&archive);
        Ok(command)
    };
    rustix::fs::sync();
    let mut backup = seawall(&["backup", "-q", "-c", "fast", "-d", &server.conninfo()])?;
    let backup = run(&mut backup, LIMIT).context("seawall backup")?;
    let mut restore = seawall(&["restore", "-q"])?;
    restore.arg("-D").arg(scratch.path().join("data"));
    let restore = run(&mut restore, LIMIT).context("seawall restore")?;
    Ok(vec![backup, restore])
}

fn peers(server: &Server) -> Result<Vec<Usage>> {
    let install = server.install();
    let scratch = Scratch::new("backup-peers")?;
    let (stored, data) = (scratch.path().join("stored"), scratch.path().join("data"));
    rustix::fs::sync();
    let mut backup = install.client_command("pg_basebackup");
    backup.args(["-Ft", "-c", "fast", "-d", &server.conninfo(), "-D"]).arg(&stored);
    let backup = run(&mut backup, LIMIT).context("pg_basebackup")?;
    // With the same durability: what was unpacked is synced, too.
    fs::create_dir(&data)?;
    let unpack = unpack(&stored, &data)?;
    let mut verify = install.client_command("pg_verifybackup");
    let verify = run(verify.arg(&data), LIMIT).context("pg_verifybackup")?;
    Ok(vec![backup, unpack, verify])
}

fn unpack(stored: &Path, data: &Path) -> Result<Usage> {
    let script = "tar xf \"$1/base.tar\" -C \"$2\" && tar xf \"$1/pg_wal.tar\" -C \"$2/pg_wal\" && \
                  cp \"$1/backup_manifest\" \"$2\" && sync -f \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(stored).arg(data);
    run(&mut shell, LIMIT).context("tar")
}
