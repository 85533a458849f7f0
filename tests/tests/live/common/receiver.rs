//! The real program, `seawall receive`, started against a server and watched.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use pg_types::Lsn;
use testkit::process::{Running, Signal, seawall_bin};
use testkit::servers::{Server, as_server_user};

use super::{LIMIT, Must, lsn};

/// The receiver's name, for pg_stat_replication and synchronous_standby_names.
pub(crate) const NAME: &str = "live";

/// The slot that it streams with.
pub(crate) const SLOT: &str = "live_slot";

/// A SIGTERM is obeyed within this.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(2);

/// How a receiver is started.
#[derive(Clone, Debug)]
pub(crate) struct ReceiverOptions {
    /// With [`SLOT`], made if it isn't there; else without a slot.
    pub(crate) slot: bool,
    /// This program, as the server's user, so that it shares an archive with the archive_command.
    pub(crate) as_server: Option<PathBuf>,
    /// More arguments.
    pub(crate) extra: Vec<String>,
    /// Connects to this port in place of the server's own: a proxy's.
    pub(crate) port: Option<u16>,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self { slot: true, as_server: None, extra: Vec::new(), port: None }
    }
}

impl ReceiverOptions {
    /// With more arguments.
    pub(crate) fn with(extra: &[&str]) -> Self {
        Self { extra: extra.iter().map(ToString::to_string).collect(), ..Self::default() }
    }
}

/// A running receiver. Dropping it kills it.
pub(crate) struct Receiver {
    pub(crate) running: Running,
    archive: PathBuf,
}

impl Receiver {
    /// Starts one into `archive`.
    pub(crate) fn start(server: &Server, archive: &Path, options: &ReceiverOptions) -> Self {
        let mut seawall = match &options.as_server {
            Some(program) => {
                let mut seawall = Command::new(program);
                as_server_user(&mut seawall);
                seawall
            }
            None => Command::new(seawall_bin().must()),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                seawall.env_remove(name);
            }
        }
        let port = options.port.unwrap_or(server.port()).to_string();
        seawall.args(["receive", "-v", "--archive"]).arg(archive);
        seawall.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-w"]);
        seawall.args(["--application-name", NAME]);
        if options.slot {
            seawall.args(["--slot", SLOT, "--create-slot", "--if-not-exists"]);
        } else {
            seawall.arg("--no-slot");
        }
        let running = Running::spawn(seawall.args(&options.extra), "seawall receive").must();
        Self { running, archive: archive.to_path_buf() }
    }

    /// Starts one that the server's commits wait for.
    pub(crate) fn start_synchronous(
        server: &Server,
        archive: &Path,
        options: &ReceiverOptions,
    ) -> Self {
        let mut receiver = Self::start(server, archive, options);
        receiver.await_streaming(server);
        server.set_synchronous_standbys(NAME).must();
        receiver.await_synchronous(server);
        receiver
    }

    /// Where its segments come.
    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.archive.join("wal")
    }

    /// Waits until the server says that it streams.
    pub(crate) fn await_streaming(&mut self, server: &Server) {
        self.wait_until(server, "streaming", &with_stat("state = 'streaming'"));
    }

    /// Waits until the server's commits wait for it, and nothing is left that it hasn't said.
    pub(crate) fn await_synchronous(&mut self, server: &Server) {
        self.wait_until(
            server,
            "the synchronous standby",
            &with_stat("state = 'streaming' AND sync_state = 'sync'"),
        );
    }

    /// Waits until it has acknowledged everything before `end`.
    pub(crate) fn await_flush(&mut self, server: &Server, end: Lsn) {
        let what = format!("durable up to {end}");
        self.wait_until(server, &what, &with_stat(&format!("flush_lsn >= '{end}'")));
    }

    /// Waits for something that the server knows, as long as the receiver runs.
    fn wait_until(&mut self, server: &Server, what: &str, condition: &str) {
        let what = format!("the receiver to be {what}");
        if let Err(error) = server.wait_until(&what, LIMIT, condition) {
            let ended = self.running.ended();
            panic!("{error}\nthe receiver ({ended:?}):\n{}", self.running.output_tail());
        }
    }

    /// What it has acknowledged as durable, as the server knows it.
    pub(crate) fn flush_lsn(server: &Server) -> Lsn {
        let query = format!(
            "SELECT coalesce(max(flush_lsn), '0/0') FROM pg_stat_replication \
             WHERE application_name = '{NAME}'"
        );
        lsn(server, &query)
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.running.wait(LIMIT).must()
    }

    /// SIGTERM: it has to end with success, and soon.
    pub(crate) fn stop(mut self) {
        let (status, took) = self.running.stop(Signal::TERM, LIMIT).must();
        let output = self.running.output_tail();
        assert!(status.success(), "it ended with {status}:\n{output}");
        assert!(took < STOP_LIMIT, "it took {took:?} to end:\n{output}");
    }

    /// SIGKILL.
    pub(crate) fn kill9(mut self) {
        self.running.kill9();
    }

    /// SIGKILL, where another one takes its place.
    pub(crate) fn kill9_in_place(&mut self) {
        self.running.kill9();
    }
}

fn with_stat(condition: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{NAME}' AND {condition})"
    )
}
