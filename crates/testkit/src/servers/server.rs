//! A scratch cluster and what a test does with it.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::postmaster::{Postmaster, STOP_LIMIT, StartError};
use super::{Install, place, segments_in, settings, template};
use crate::Error;
use crate::process::{Signal, run, run_with_input, tail};
use crate::scratch::Scratch;

/// Ports for servers: below Linux's ephemeral range, so that no outgoing connection takes a
/// stopped server's port before it is started again.
const PORTS: std::ops::Range<u32> = 15_000..32_000;

/// Tries for a free port; each failure means another program took it between look and start.
const PORT_TRIES: u32 = 50;

/// A statement of a test; one that waits for a standby that never comes ends here.
const SQL_LIMIT: Duration = Duration::from_secs(120);

/// How often a condition is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How a scratch server differs from the usual one.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The WAL segment size, a power of two of megabytes.
    pub segment_size_mb: u32,
    /// Lines for postgresql.conf; they win over testkit's own.
    pub conf: Vec<String>,
    /// The whole pg_hba.conf, in place of the one that `auth` makes. [`Server::sql`] comes over
    /// the socket as `postgres` and must get in.
    pub hba: Option<String>,
    /// The authentication method of TCP connections and of users other than postgres.
    pub auth: String,
    /// Whether it listens on 127.0.0.1; the unix socket is there in any case.
    pub tcp: bool,
    /// Makes the cluster by an initdb of its own: clusters of the same version and segment size
    /// share their system identifier otherwise.
    pub new_system_id: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            segment_size_mb: 16,
            conf: Vec::new(),
            hba: None,
            auth: "trust".into(),
            tcp: true,
            new_system_id: false,
        }
    }
}

/// How to shut a server down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for clients to leave (SIGTERM).
    Smart,
    /// Ends clients, writes the shutdown checkpoint, waits for standbys to have it (SIGINT).
    Fast,
    /// Ends at once, leaving recovery to the next start (SIGQUIT).
    Immediate,
}

/// Where clients find a server.
#[derive(Debug, Clone)]
pub struct PgConnection {
    /// Its programs.
    pub install: Install,
    /// The directory of its unix socket.
    pub socket_dir: PathBuf,
    /// Its port, over TCP and in the socket's name.
    pub port: u16,
}

impl PgConnection {
    /// `host=127.0.0.1 port=… user=postgres`.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    /// The same by way of the unix socket.
    pub fn socket_conninfo(&self) -> String {
        format!("host={} port={} user=postgres", self.socket_dir.display(), self.port)
    }

    /// psql over the socket as the superuser: no psqlrc, unaligned tuples only, stops at errors.
    pub fn psql(&self) -> Command {
        let mut psql = self.install.client_command("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d"]);
        psql.arg(format!("{} dbname=postgres", self.socket_conninfo()));
        psql
    }

    /// Runs an SQL script, statement by statement, and gives its output trimmed.
    pub fn sql(&self, sql: &str) -> Result<String, Error> {
        self.sql_within(sql, SQL_LIMIT)
    }

    /// As [`Self::sql`], with a limit of its own.
    pub fn sql_within(&self, sql: &str, limit: Duration) -> Result<String, Error> {
        let output = run_with_input(&mut self.psql(), sql, limit, &format!("sql: {sql}"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// A scratch cluster with its server, running or stopped. Dropping it ends the server and removes
/// the cluster.
pub struct Server {
    postmaster: Option<Postmaster>,
    connection: PgConnection,
    data: PathBuf,
    log: PathBuf,
    scratch: Scratch,
}

impl Server {
    /// Makes a cluster and starts its server.
    pub fn start(install: &Install, options: &ServerOptions) -> Result<Self, Error> {
        let prefix = format!("pg{}", install.major);
        let scratch = Scratch::new(&prefix)?;
        let data = template::make_data_dir(
            install,
            &scratch,
            options.segment_size_mb,
            options.new_system_id,
        )?;
        let socket_dir = scratch.server_dir("sock")?;
        let log = scratch.path().join("log");
        let hba = data.join("pg_hba.conf");
        fs::write(&hba, settings::pg_hba_conf(options)).map_err(Error::io("write", &hba))?;
        let connection = PgConnection { install: install.clone(), socket_dir, port: 0 };
        let mut server = Self { postmaster: None, connection, data, log, scratch };
        server.start_on_free_port(options)?;
        Ok(server)
    }

    /// Lets a stopped server start as a standby of nobody, so that it can be
    /// [promoted](Self::promote) once more.
    pub fn make_standby(&self) -> Result<(), Error> {
        let (name, content) = match self.install().major {
            12.. => ("standby.signal", ""),
            _ => ("recovery.conf", "standby_mode = on\nrecovery_target_timeline = 'latest'\n"),
        };
        let path = self.data.join(name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        super::place::give_to_server_user(&path)
    }

    /// Makes a standby of this server by pg_basebackup, and starts it; it is read-only until it is
    /// [promoted](Self::promote). `conf`: lines for its postgresql.conf, after this server's own.
    pub fn standby(&self, conf: &[&str]) -> Result<Self, Error> {
        let mut server = self.copy(&["-X", "fetch", "-R"])?;
        server.start_on_free_port(&with_conf(conf))?;
        Ok(server)
    }

    /// A base backup of this server without WAL, to be [started](Self::restart): its WAL has to
    /// come from an archive. `signal` is its `recovery.signal` or `standby.signal`; `conf` as for
    /// [`standby`](Self::standby).
    pub fn base_backup(&self, signal: &str, conf: &[&str]) -> Result<Self, Error> {
        let mut server = self.copy(&["-X", "none"])?;
        server.add_file(signal, "")?;
        let port = free_port()?;
        let original = server.original_conf()?;
        server.configure(&original, &with_conf(conf), port)?;
        Ok(server)
    }

    /// A server of a data directory that `fill` makes, which is empty and belongs to the server's
    /// user; to be [started](Self::restart). `conf` as for [`standby`](Self::standby).
    pub fn of_data_dir(
        install: &Install,
        conf: &[&str],
        fill: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let scratch = Scratch::new(&format!("pg{}-made", install.major))?;
        let (data, socket_dir) = (scratch.server_dir("data")?, scratch.server_dir("sock")?);
        fill(&data)?;
        let log = scratch.path().join("log");
        let connection = PgConnection { install: install.clone(), socket_dir, port: 0 };
        let mut server = Self { postmaster: None, connection, data, log, scratch };
        let (original, port) = (server.original_conf()?, free_port()?);
        server.configure(&original, &with_conf(conf), port)?;
        Ok(server)
    }

    fn copy(&self, args: &[&str]) -> Result<Self, Error> {
        let scratch = Scratch::new(&format!("pg{}-copy", self.install().major))?;
        let (data, socket_dir) = (scratch.server_dir("data")?, scratch.server_dir("sock")?);
        let mut backup = self.install().command("pg_basebackup");
        backup.args(["-d", &self.socket_conninfo(), "-c", "fast"]).args(args);
        run(backup.arg("-D").arg(&data), SQL_LIMIT, "pg_basebackup")?;
        let recovery = data.join("recovery.conf");
        if let Ok(mut file) = fs::OpenOptions::new().append(true).open(&recovery) {
            // Below 12 a standby stays on its timeline otherwise.
            file.write_all(b"recovery_target_timeline = 'latest'\n")
                .map_err(Error::io("write", &recovery))?;
        }
        let log = scratch.path().join("log");
        let connection = PgConnection { install: self.install().clone(), socket_dir, port: 0 };
        Ok(Self { postmaster: None, connection, data, log, scratch })
    }

    /// Writes a file into its data directory, as its own.
    pub fn add_file(&self, name: &str, content: &str) -> Result<(), Error> {
        let path = self.data.join(name);
        fs::write(&path, content).map_err(Error::io("write", &path))?;
        place::give_to_server_user(&path)
    }

    /// Adds a line to its postgresql.conf, which wins over those before it.
    pub fn add_conf(&self, line: &str) -> Result<(), Error> {
        let conf = self.data.join("postgresql.conf");
        let text = fs::read_to_string(&conf).map_err(Error::io("read", &conf))?;
        fs::write(&conf, format!("{text}\n{line}\n")).map_err(Error::io("write", &conf))
    }

    /// Makes a standby a primary, on a new timeline; returns when it can be written to.
    pub fn promote(&self) -> Result<(), Error> {
        // Not pg_promote(): its session is one that recovery may cancel.
        let mut promote = self.install().command("pg_ctl");
        run(promote.arg("promote").arg("-D").arg(&self.data), SQL_LIMIT, "pg_ctl promote")?;
        self.wait_until("the end of recovery", SQL_LIMIT, "NOT pg_is_in_recovery()")
    }

    fn start_on_free_port(&mut self, options: &ServerOptions) -> Result<(), Error> {
        let original = self.original_conf()?;
        for _ in 0..PORT_TRIES {
            self.configure(&original, options, free_port()?)?;
            match Postmaster::start(&self.connection.install, &self.data, &self.log) {
                Ok(postmaster) => {
                    self.postmaster = Some(postmaster);
                    return Ok(());
                }
                Err(StartError::PortTaken) => {}
                Err(StartError::Other(error)) => return Err(error),
            }
        }
        Err(Error::Other(format!("no free port in {PORTS:?} after {PORT_TRIES} tries")))
    }

    fn original_conf(&self) -> Result<String, Error> {
        let conf = self.data.join("postgresql.conf");
        fs::read_to_string(&conf).map_err(Error::io("read", &conf))
    }

    fn configure(
        &mut self,
        original: &str,
        options: &ServerOptions,
        port: u16,
    ) -> Result<(), Error> {
        let major = self.install().major;
        let ours = settings::postgresql_conf(major, options, port, &self.connection.socket_dir);
        let conf = self.data.join("postgresql.conf");
        fs::write(&conf, format!("{original}{ours}")).map_err(Error::io("write", &conf))?;
        self.connection.port = port;
        Ok(())
    }

    /// Its TCP port, also in its socket's name.
    pub fn port(&self) -> u16 {
        self.connection.port
    }

    /// The directory of its unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.connection.socket_dir
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// Its `pg_wal`.
    pub fn wal_dir(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// A directory that lives as long as the server, for the test's own files.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The programs it was started from.
    pub fn install(&self) -> &Install {
        &self.connection.install
    }

    /// Where clients find it; a value for threads of their own.
    pub fn connection(&self) -> &PgConnection {
        &self.connection
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Postmaster::pid)
    }

    /// Its log so far.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// See [`PgConnection::conninfo`].
    pub fn conninfo(&self) -> String {
        self.connection.conninfo()
    }

    /// See [`PgConnection::socket_conninfo`].
    pub fn socket_conninfo(&self) -> String {
        self.connection.socket_conninfo()
    }

    /// See [`PgConnection::psql`].
    pub fn psql(&self) -> Command {
        self.connection.psql()
    }

    /// See [`PgConnection::sql`].
    pub fn sql(&self, sql: &str) -> Result<String, Error> {
        self.connection.sql(sql)
    }

    /// See [`PgConnection::sql_within`].
    pub fn sql_within(&self, sql: &str, limit: Duration) -> Result<String, Error> {
        self.connection.sql_within(sql, limit)
    }

    /// pgbench on the database `postgres`, over the socket, with `args`.
    pub fn pgbench<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        let mut pgbench = self.install().client_command("pgbench");
        pgbench.arg("-h").arg(self.socket_dir()).args(["-p", &self.port().to_string()]);
        pgbench.args(["-U", "postgres"]).args(args).arg("postgres");
        pgbench
    }

    /// Shuts the server down and gives the time it took.
    pub fn stop(&mut self, mode: StopMode) -> Result<Duration, Error> {
        let from = Instant::now();
        let Some(mut postmaster) = self.postmaster.take() else {
            return Ok(Duration::ZERO);
        };
        let with = match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        if !postmaster.end(with, STOP_LIMIT) {
            self.postmaster = Some(postmaster);
            return Err(self.timeout(&format!("the server to stop ({mode:?})"), STOP_LIMIT));
        }
        Ok(from.elapsed())
    }

    /// SIGKILL for the postmaster and all its processes; returns when they are gone.
    pub fn kill9(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.kill9();
        }
    }

    /// Starts the server again, after a stop or a kill, on the same port; a running one is shut
    /// down fast before.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop(StopMode::Fast)?;
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            match Postmaster::start(&self.connection.install, &self.data, &self.log) {
                Ok(postmaster) => {
                    self.postmaster = Some(postmaster);
                    return Ok(());
                }
                Err(StartError::PortTaken) if Instant::now() < deadline => {
                    thread::sleep(POLL_INTERVAL);
                }
                Err(StartError::PortTaken) => {
                    return Err(
                        self.timeout(&format!("port {} to be free", self.port()), STOP_LIMIT)
                    );
                }
                Err(StartError::Other(error)) => return Err(error),
            }
        }
    }

    /// Lets the log go on in the segment of this name, as if all before it had been written.
    pub fn reset_wal(&mut self, segment: &str) -> Result<(), Error> {
        self.stop(StopMode::Fast)?;
        let mut reset = self.install().command("pg_resetwal");
        super::as_server_user(&mut reset);
        run(reset.args(["-l", segment]).arg(&self.data), STOP_LIMIT, "pg_resetwal")?;
        self.restart()
    }

    /// Gives all pages checksums, or none of them.
    pub fn set_checksums(&mut self, wanted: bool) -> Result<(), Error> {
        if (self.sql("SHOW data_checksums")? == "on") == wanted {
            return Ok(());
        }
        self.stop(StopMode::Fast)?;
        let mut checksums = self.install().command("pg_checksums");
        super::as_server_user(&mut checksums);
        checksums.arg(if wanted { "--enable" } else { "--disable" }).arg("--no-sync");
        run(checksums.arg("-D").arg(&self.data), STOP_LIMIT, "pg_checksums")?;
        self.restart()
    }

    /// Waits until it has ended by itself; what it said is in its log.
    pub fn await_end(&mut self) -> Result<(), Error> {
        let ended = self.postmaster.take().is_none_or(|mut ended| ended.await_end(STOP_LIMIT));
        if ended { Ok(()) } else { Err(self.timeout("the server to end by itself", STOP_LIMIT)) }
    }

    /// Rereads the configuration; returns when new sessions have it.
    pub fn reload(&self) -> Result<(), Error> {
        let before = self.sql("SELECT pg_conf_load_time(); SELECT pg_reload_conf()")?;
        let before = before.lines().next().unwrap_or_default().to_owned();
        let changed = format!("pg_conf_load_time() > '{before}'");
        self.wait_until("the configuration to be reloaded", SQL_LIMIT, &changed)
    }

    /// ALTER SYSTEM and reload. A setting that needs a restart takes effect with
    /// [`Self::restart`].
    pub fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let value = value.replace('\'', "''");
        self.sql(&format!("SET synchronous_commit = local; ALTER SYSTEM SET {name} = '{value}'"))?;
        self.reload()
    }

    /// Sets `synchronous_standby_names` and returns when commits do wait: the checkpointer is the
    /// process that switches that on, so one checkpoint has to have gone by.
    pub fn set_synchronous_standbys(&self, names: &str) -> Result<(), Error> {
        self.set("synchronous_standby_names", names)?;
        self.sql("CHECKPOINT").map(drop)
    }

    /// Files in `pg_wal` that are segments, in order.
    pub fn wal_segments(&self) -> Result<Vec<PathBuf>, Error> {
        segments_in(&self.wal_dir())
    }

    /// `pg_current_wal_flush_lsn()`.
    pub fn current_lsn(&self) -> Result<String, Error> {
        self.sql("SELECT pg_current_wal_flush_lsn()")
    }

    /// Asks for a boolean SQL expression until it is true. The error carries the end of the
    /// server's log and pg_stat_replication.
    pub fn wait_until(&self, what: &str, timeout: Duration, condition: &str) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        while self.sql(&format!("SELECT ({condition})::bool"))? != "t" {
            if Instant::now() >= deadline {
                return Err(self.timeout(&format!("{what} ({condition})"), timeout));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// A base of rows for pgbench: `pgbench -i` at this scale.
    pub fn init_pgbench(&self, scale: u32) -> Result<(), Error> {
        let mut pgbench = self.pgbench(&["-i", "-q", "-s", &scale.to_string()]);
        run(&mut pgbench, SQL_LIMIT, "pgbench -i").map(drop)
    }

    fn timeout(&self, what: &str, waited: Duration) -> Error {
        const LOOK: Duration = Duration::from_secs(5);
        let replication = self
            .sql_within("\\x\nSELECT * FROM pg_stat_replication", LOOK)
            .unwrap_or_else(|error| error.to_string());
        let log = self.log_text();
        let detail = format!(
            "pg_stat_replication:\n{replication}\nlog, {}:\n{}",
            self.log.display(),
            tail(&log)
        );
        Error::Timeout { what: what.to_owned(), waited, detail }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        const END_LIMIT: Duration = Duration::from_secs(10);
        if let Some(mut postmaster) = self.postmaster.take()
            && !postmaster.end(Signal::QUIT, END_LIMIT)
        {
            postmaster.kill9();
        }
        if thread::panicking() {
            // The directory stays, too; a test's output has the reason at hand.
            let _ = write!(
                std::io::stderr(),
                "the end of {}:\n{}\n",
                self.log.display(),
                tail(&self.log_text())
            );
        }
    }
}

fn with_conf(conf: &[&str]) -> ServerOptions {
    let conf = conf.iter().map(ToString::to_string).collect();
    ServerOptions { conf, ..ServerOptions::default() }
}

/// A port that nobody listens on right now. Processes start their search at different places.
pub fn free_port() -> Result<u16, Error> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    for _ in 0..count {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(127).wrapping_add(step) % count;
        let port = u16::try_from(PORTS.start + offset).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Error::Other(format!("every port of {PORTS:?} is taken on 127.0.0.1")))
}
