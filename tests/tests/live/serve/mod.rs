//! What is streamed from an archive: real receivers, standbys and psql at the real program.

mod backups;
mod client_certificates;
mod commands;
mod hostile;
mod login;
mod receivers;
mod standbys;
mod tls;
mod wire;

use std::path::{Path, PathBuf};

use pg_types::Lsn;
use testkit::process::{Running, Signal, run};
use testkit::servers::{Server, free_port};

use crate::common::{LIMIT, Must, Receiver, ReceiverOptions, server_flush};
use crate::program::seawall;

/// How a receiver is told to serve, too, and on which port.
fn served(more: &[&str]) -> (ReceiverOptions, u16) {
    let port = free_port().must();
    let address = format!("127.0.0.1:{port}");
    let mut extra = vec!["--serve", &address, "--serve-auth", "trust"];
    extra.extend(more);
    (ReceiverOptions::with(&extra), port)
}

/// `seawall receive --serve`.
fn receive_and_serve(server: &Server, archive: &Path) -> (Receiver, u16) {
    let (options, port) = served(&[]);
    let mut receiver = Receiver::start(server, archive, &options);
    receiver.await_streaming(server);
    (receiver, port)
}

/// A running `seawall serve`. Dropping it kills it.
struct Serving {
    running: Running,
    port: u16,
}

impl Serving {
    fn start(archive: &Path, more: &[&str]) -> Self {
        Self::on(free_port().must(), archive, more)
    }

    fn on(port: u16, archive: &Path, more: &[&str]) -> Self {
        let mut command = seawall(&["serve", "-v", "-A"]);
        command.arg(archive).args(["--listen", &format!("127.0.0.1:{port}")]).args(more);
        let running = Running::spawn(&mut command, "seawall serve").must();
        running.wait_for_line("serving on", LIMIT).must();
        Self { running, port }
    }

    fn stop(mut self) {
        let (status, _) = self.running.stop(Signal::TERM, LIMIT).must();
        assert!(status.success(), "{status}:\n{}", self.running.output_tail());
    }
}

fn conninfo(port: u16) -> String {
    format!("host=127.0.0.1 port={port} user=postgres")
}

/// A standby that knows of nothing but what listens on `port`; not started yet.
fn standby_of(primary: &Server, port: u16, more: &[&str]) -> Server {
    let conninfo = format!("primary_conninfo = '{} application_name=standby'", conninfo(port));
    let mut conf =
        vec![conninfo.as_str(), "wal_retrieve_retry_interval = 100ms", "hot_standby = on"];
    conf.extend(more);
    let made = Server::of_data_dir(primary.install(), &conf, |data| {
        let mut backup = primary.install().command("pg_basebackup");
        backup
            .args(["-d", &primary.socket_conninfo(), "-c", "fast", "-X", "fetch", "-D"])
            .arg(data);
        run(&mut backup, LIMIT, "pg_basebackup").map(drop)
    });
    let standby = made.must();
    standby.make_standby().must();
    standby
}

/// Some segments of WAL, and where they end.
fn work(server: &Server) -> Lsn {
    server.sql("CREATE TABLE IF NOT EXISTS t(a text)").must();
    server.sql("INSERT INTO t SELECT repeat('x', 200) FROM generate_series(1, 12000)").must();
    server_flush(server)
}

/// Waits until a standby has replayed this.
fn await_replay(standby: &Server, end: Lsn) {
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    standby.wait_until("the standby to have it all", LIMIT, &replayed).must();
}

/// The files of a directory that are whole segments, by name.
fn segments(dir: &Path) -> Vec<PathBuf> {
    testkit::servers::segments_in(dir).must()
}
