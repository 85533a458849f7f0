//! PostgreSQL's own receiver, for what a test or a bench compares seawall with.

use std::path::Path;
use std::time::Duration;

use crate::Error;
use crate::process::{Running, run};
use crate::servers::Install;

/// Making a slot takes a checkpoint at most.
const SLOT_LIMIT: Duration = Duration::from_secs(60);

/// How pg_receivewal runs.
#[derive(Debug, Clone)]
pub struct ReceiveOptions {
    /// Streams with this slot, which is made if it isn't there.
    pub slot: Option<String>,
    /// Flushes as soon as WAL comes in (`--synchronous`).
    pub synchronous: bool,
    /// Its name in pg_stat_replication.
    pub application_name: String,
    /// Seconds between status updates.
    pub status_interval_s: u32,
    /// Ends at this LSN.
    pub endpos: Option<String>,
    /// More arguments, such as `--no-loop`.
    pub extra: Vec<String>,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self {
            slot: None,
            synchronous: false,
            application_name: "peer".into(),
            status_interval_s: 1,
            endpos: None,
            extra: Vec::new(),
        }
    }
}

/// Starts pg_receivewal into `dir`, which must exist, as the user of this process.
pub fn pg_receivewal(
    install: &Install,
    conninfo: &str,
    dir: &Path,
    options: &ReceiveOptions,
) -> Result<Running, Error> {
    let conninfo = format!("{conninfo} application_name={}", options.application_name);
    if let Some(slot) = &options.slot {
        let mut create = install.client_command("pg_receivewal");
        create.args(["--create-slot", "--if-not-exists", "--slot", slot, "-d", &conninfo]);
        run(&mut create, SLOT_LIMIT, &format!("creating slot {slot}"))?;
    }
    let mut command = install.client_command("pg_receivewal");
    command.args(["--verbose", "-d", &conninfo, "-D"]).arg(dir);
    command.args(["--status-interval", &options.status_interval_s.to_string()]);
    if let Some(slot) = &options.slot {
        command.args(["--slot", slot]);
    }
    if options.synchronous {
        command.arg("--synchronous");
    }
    if let Some(endpos) = &options.endpos {
        command.args(["--endpos", endpos]);
    }
    Running::spawn(command.args(&options.extra), "pg_receivewal")
}
