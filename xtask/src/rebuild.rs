//! The demo's end: the primary is gone, directory and all. A server is restored from the archive,
//! promoted, and a standby of it from the same archive; what clients were told is compared.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use testkit::load::Acked;
use testkit::process::run;
use testkit::servers::{Server, StopMode, as_server_user};

use crate::demo::shown;

/// Recovery of some seconds' WAL takes as long; a busy machine gets more.
const LIMIT: Duration = Duration::from_secs(120);

/// A backup that was taken.
pub(crate) struct Rebuild {
    program: PathBuf,
    archive: PathBuf,
}

/// Takes the base backup that everything is rebuilt from, beside the receiver.
pub(crate) fn backup(program: &Path, archive: &Path, primary: &Server) -> Result<Rebuild> {
    let mut backup = Command::new(program);
    as_server_user(&mut backup);
    backup.args(["backup", "-A"]).arg(archive).args(["-c", "fast", "-d", &primary.conninfo()]);
    println!("{}", shown(&backup));
    let taken = run(&mut backup, LIMIT, "seawall backup")?;
    println!("the backup {} is in the archive", String::from_utf8_lossy(&taken.stdout).trim());
    Ok(Rebuild { program: program.to_owned(), archive: archive.to_owned() })
}

impl Rebuild {
    /// Deletes the primary's directory, and makes a server from the archive.
    pub(crate) fn run(&self, primary: &Server, acked: &[Acked]) -> Result<()> {
        fs::remove_dir_all(primary.data_dir())?;
        println!("the primary's directory is deleted");
        let mut new = self.restored(primary, &[])?;
        new.restart()?;
        new.wait_until("the end of recovery", LIMIT, "NOT pg_is_in_recovery()")?;
        println!("a new primary has recovered to the archive's end, and is promoted");
        let rows = new.sql("SELECT client || ' ' || counter FROM seawall_load")?;
        let rows: HashSet<&str> = rows.lines().collect();
        let there = |commit: &&Acked| {
            rows.contains(format!("{} {}", commit.client, commit.counter).as_str())
        };
        let found = acked.iter().filter(there).count();
        if found < acked.len() {
            bail!("{} of {} acknowledged commits are missing", acked.len() - found, acked.len());
        }
        println!("all {found} acknowledged commits are rows of it, among {}", rows.len());

        // The old primary waits for its synchronous standby; its successor has none.
        new.set("synchronous_standby_names", "")?;
        let conninfo = new.conninfo();
        let follow = ["--standby", "--primary-conninfo", &conninfo];
        let mut standby = self.restored(primary, &follow)?;
        standby.restart()?;
        let streams = "EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
        new.wait_until("the rebuilt standby to stream", LIMIT, streams)?;
        let end = new.current_lsn()?;
        let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
        standby.wait_until("the standby to have it all", LIMIT, &replayed)?;
        self.compare(&new, &standby)?;
        standby.stop(StopMode::Fast)?;
        new.stop(StopMode::Fast)?;
        Ok(())
    }

    /// Every row of every table that the load wrote.
    fn compare(&self, new: &Server, standby: &Server) -> Result<()> {
        for table in ["seawall_load", "pgbench_accounts", "pgbench_tellers", "pgbench_history"] {
            let sum = format!(
                "SELECT count(*) || ' rows, sum ' || coalesce(sum(hashtext(t::text)), 0) FROM {table} t"
            );
            let (one, other) = (new.sql(&sum)?, standby.sql(&sum)?);
            if one != other {
                bail!("{table}: the new primary has {one}, its standby {other}");
            }
            println!("{table:<17} new primary {one}; standby {other}");
        }
        println!("a standby rebuilt from {} streams, and has the same", self.archive.display());
        Ok(())
    }

    fn restored(&self, primary: &Server, more: &[&str]) -> Result<Server> {
        let quick = ["wal_retrieve_retry_interval = 200ms"];
        Ok(Server::of_data_dir(primary.install(), &quick, |data| {
            let mut restore = Command::new(&self.program);
            as_server_user(&mut restore);
            restore.args(["restore", "-A"]).arg(&self.archive).arg("-D").arg(data).args(more);
            println!("{}", shown(&restore));
            run(&mut restore, LIMIT, "seawall restore").map(drop)
        })?)
    }
}
