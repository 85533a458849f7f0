//! `seawall init`: the lines that it gives are put where it says, and work.

use std::fs;
use std::process::Command;

use testkit::process::seawall_bin;
use testkit::servers::{Server, ServerOptions};

use super::common::{Must, pg, scratch};
use super::program::{ended, seawall};

fn init(server: &Server, archive: &std::path::Path, args: &[&str]) -> Command {
    let mut init = seawall(&["init", "-w", "-h", "127.0.0.1", "-U", "keeper", "-A"]);
    init.arg(archive).args(["-p", &server.port().to_string()]).args(args);
    init.env("PGPASSWORD", "secret");
    init
}

/// The lines that are set in below one that begins so.
fn lines<'a>(text: &'a str, below: &str) -> Vec<&'a str> {
    let rest = text.lines().skip_while(|line| !line.starts_with(below)).skip(1);
    rest.map_while(|line| line.strip_prefix("    ")).collect()
}

#[test]
fn the_lines_it_gives_do_it() {
    let hba = Some("local all all trust\nhost all postgres 127.0.0.1/32 trust\n".to_owned());
    let options = ServerOptions { segment_size_mb: 1, hba, ..Default::default() };
    let server = Server::start(&pg(18), &options).must();
    let scratch = scratch();
    let archive = scratch.path().join("archive");

    let refused = ended(&mut init(&server, &archive, &[]));
    refused.says(1, &["pg_hba: ", "CREATE ROLE keeper REPLICATION LOGIN PASSWORD '…';"]);
    assert!(!archive.exists(), "nothing is made for a server that isn't reached");
    let line = lines(&refused.stderr, "in the server's pg_hba.conf")[0].to_owned();
    assert_eq!(line, "host  replication  keeper  127.0.0.1/32  scram-sha-256");
    let hba = server.data_dir().join("pg_hba.conf");
    let old = fs::read_to_string(&hba).must();
    fs::write(&hba, format!("{line}\n{old}")).must();
    server.sql("CREATE ROLE keeper LOGIN PASSWORD 'secret'").must();
    server.reload().must();
    let refused = ended(&mut init(&server, &archive, &[]));
    refused.says(1, &["replication_privilege: "]);
    let grant = lines(&refused.stderr, "seawall: replication_privilege")[0].to_owned();
    assert_eq!(grant, "ALTER ROLE keeper REPLICATION LOGIN;");
    server.sql(&grant).must();

    let before = server.sql("SELECT count(*) FROM pg_replication_slots").must();
    let ready = ended(&mut init(&server, &archive, &["--synchronous"]));
    ready.is_well();
    assert!(archive.join("seawall.json").is_file());
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots").must(), before);
    let settings = lines(&ready.stdout, "in the server's postgresql.conf");
    let sync = settings.iter().find(|line| line.starts_with("synchronous_standby_names"));
    assert_eq!(sync, Some(&"synchronous_standby_names = 'seawall'"));
    let conf = server.data_dir().join("postgresql.conf");
    let old = fs::read_to_string(&conf).must();
    fs::write(&conf, format!("{old}\n{}\n", settings.join("\n"))).must();
    server.reload().must();
    assert_eq!(server.sql("SHOW synchronous_standby_names").must(), "seawall");
    assert_eq!(server.sql("SHOW max_slot_wal_keep_size").must(), "10GB");

    let applied = ended(&mut init(&server, &archive, &["--apply"]));
    applied.is_well();
    assert!(applied.stdout.contains("the replication slot \"seawall\" was made"), "{applied:#?}");
    assert!(applied.stdout.contains("nothing has to be changed on the server"), "{applied:#?}");
    let kept = server.sql("SELECT restart_lsn > '0/0' FROM pg_replication_slots").must();
    assert_eq!(kept, "t");

    // The line to begin with, as a shell runs it.
    let start = lines(&applied.stdout, "by hand:")[0].to_owned();
    let program = seawall_bin().must().display().to_string();
    let start = start.replacen("seawall", &program, 1);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec {start} -w -n -E 0/1")]);
    shell.env("PGHOST", "127.0.0.1").env("PGPORT", server.port().to_string());
    shell.env("PGUSER", "keeper").env("PGPASSWORD", "secret");
    ended(&mut shell).is_well();
}

#[test]
fn without_an_archive_it_says_what_is_needed() {
    let nothing = ended(&mut seawall(&["init", "-w", "-h", "127.0.0.1", "-p", "1"]));
    nothing.says(2, &["--archive"]);
}
