//! The commands of docs/OPERATIONS.md, as they stand there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::process::run;
use testkit::servers::{Server, as_server_user};

use super::super::common::{LIMIT, Must, Receiver, server, server_flush};
use super::super::restore_wal::Kept;

/// The blocks of commands below a heading that begins so.
fn blocks(heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = fs::read_to_string(path).must();
    let (_, section) = text.split_once(&format!("\n## {heading}")).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    let blocks: Vec<String> =
        blocks.filter_map(|block| Some(block.split_once("```")?.0.to_owned())).collect();
    assert!(!blocks.is_empty(), "{heading} has no commands");
    blocks
}

/// Somebody who types them, as the servers' user.
struct Shell {
    program: PathBuf,
    bin: PathBuf,
    lib: PathBuf,
    env: Vec<(&'static str, String)>,
    /// Directories in which servers may run.
    started: Vec<PathBuf>,
}

impl Shell {
    fn new(kept: &Kept, server: &Server) -> Self {
        let log = kept.scratch.server_dir("log").must().join("log");
        let text = |path: &Path| path.display().to_string();
        Self {
            program: kept.program.clone(),
            bin: server.install().prefix.join("bin"),
            lib: server.install().lib(),
            env: vec![
                ("ARCHIVE", text(&kept.archive)),
                ("PRIMARY", server.conninfo()),
                ("LOG", text(&log)),
                ("PGHOST", text(server.socket_dir())),
                ("PGPORT", server.port().to_string()),
                ("PGUSER", "postgres".to_owned()),
            ],
            started: Vec::new(),
        }
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.env.retain(|(known, _)| *known != name);
        self.env.push((name, value.to_owned()));
        if name.ends_with("PGDATA") {
            self.started.push(PathBuf::from(value));
        }
    }

    fn run(&self, block: &str) -> String {
        let mut shell = Command::new("sh");
        as_server_user(&mut shell);
        let seawall = self.program.parent().unwrap_or(Path::new("/")).display();
        let path = format!("{seawall}:{}:/usr/bin:/bin", self.bin.display());
        shell.env_clear().env("PATH", path).env("LD_LIBRARY_PATH", &self.lib).env("TZ", "UTC");
        shell.envs(self.env.iter().cloned()).current_dir("/").args(["-euc", block]);
        let output = run(&mut shell, LIMIT, block).must();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn sql(&self, sql: &str) -> String {
        self.run(&format!("psql -d postgres -Atc \"{sql}\""))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for data in self.started.iter().filter(|data| data.join("postmaster.pid").exists()) {
            let mut stop = Command::new(self.bin.join("pg_ctl"));
            as_server_user(&mut stop);
            stop.env("LD_LIBRARY_PATH", &self.lib).args(["-m", "immediate", "-w", "stop", "-D"]);
            _ = run(stop.arg(data).current_dir("/"), LIMIT, "pg_ctl stop");
        }
    }
}

/// A directory that the servers' user may rename in.
fn place(kept: &Kept, name: &str) -> PathBuf {
    kept.scratch.server_dir(name).must().join("data")
}

fn free_port(server: &Server) -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).must();
    let port = listener.local_addr().must().port();
    assert_ne!(port, server.port());
    port
}

#[test]
fn a_failover_and_a_failback() {
    let (kept, mut primary) = (Kept::new(), server(18, 1, &[]));
    let mut shell = Shell::new(&kept, &primary);
    let receiver = Receiver::start_synchronous(&primary, &kept.archive, &kept.options());
    shell.run(&blocks("Base backups")[0]);
    primary.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) i").must();
    primary.kill9();
    fs::remove_dir_all(primary.data_dir()).must();
    let new = place(&kept, "new");
    shell.set("PGDATA", &new.display().to_string());
    shell.run(&blocks("Failover")[0]);
    assert_eq!(shell.sql("SELECT count(*) FROM t"), "1000");
    shell.sql("INSERT INTO t VALUES (0)");

    // The receiver finds the new primary by itself, which has the old one's place.
    let old = place(&kept, "old");
    let options = "mkdir -p \"$OLD_PGDATA\" && echo 18 > \"$OLD_PGDATA/PG_VERSION\"";
    shell.set("OLD_PGDATA", &old.display().to_string());
    shell.run(options);
    let port = free_port(&primary).to_string();
    shell.set("POSTGRES_OPTIONS", &format!("-p {port}"));
    let failback = blocks("Failback");
    shell.run(&failback[0]);
    shell.run(
        "until [ \"$(psql -d postgres -Atc \"SELECT count(*) FROM pg_stat_replication WHERE \
         state = 'streaming' AND application_name IN ('walreceiver', 'live')\")\" = 2 ]; \
         do sleep 0.1; done",
    );
    shell.run(&failback[1]);
    shell.set("PGPORT", &port);
    assert_eq!(shell.sql("SELECT count(*), pg_is_in_recovery() FROM t"), "1001|f");
    receiver.kill9();
}

#[test]
fn a_point_in_time() {
    let (kept, primary) = (Kept::new(), server(18, 1, &["track_commit_timestamp = on"]));
    let mut shell = Shell::new(&kept, &primary);
    let mut receiver = kept.receiver(&primary);
    shell.run(&blocks("Base backups")[0]);
    primary.sql("CREATE TABLE t AS SELECT 1 i").must();
    let time = "SELECT timestamp AT TIME ZONE 'UTC' || '+00' FROM pg_last_committed_xact()";
    shell.set("TIME", &primary.sql(time).must());
    primary.sql("DELETE FROM t").must();
    receiver.await_flush(&primary, server_flush(&primary));
    shell.set("PGDATA", &place(&kept, "new").display().to_string());
    let port = free_port(&primary).to_string();
    shell.set("POSTGRES_OPTIONS", &format!("-p {port}"));
    shell.set("PGPORT", &port);
    let blocks = blocks("Back to a point in time");
    shell.run(&blocks[0]);
    assert_eq!(shell.sql("SELECT count(*), pg_is_in_recovery() FROM t"), "1|t");
    shell.run(&blocks[1]);
    shell.sql("INSERT INTO t VALUES (2)");
    receiver.stop();
}
