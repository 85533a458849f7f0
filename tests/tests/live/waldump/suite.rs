//! What PostgreSQL's own suite asks of pg_waldump (`src/bin/pg_waldump/t`), and pg_verifybackup of
//! its: on a server with every manager's records, by long options, with a bare data directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::process::run_unchecked;
use testkit::servers::{Install, Server, ServerOptions, StopMode, lsn_text, parse_lsn};

use super::{LIMIT, drop_in, ours, same};
use crate::common::{Must, on_each_major, pg, scratch};

on_each_major!(what_the_servers_own_suite_asks, super::suite);

/// Everyday statements with a record of nearly every manager.
const STATEMENTS: [&str; 9] = [
    "CREATE TABLE t (a int GENERATED ALWAYS AS IDENTITY, b text); CREATE INDEX ta ON t (a); CREATE INDEX tb ON t USING hash (b); INSERT INTO t (b) VALUES ('x'), ('y'); DELETE FROM t WHERE b = 'x'; TRUNCATE t",
    "BEGIN; INSERT INTO t (b) VALUES ('z'); ROLLBACK",
    "CREATE UNLOGGED TABLE u (x int); CREATE INDEX ON u (x); INSERT INTO u SELECT generate_series(1, 10)",
    "CREATE TABLE g (p point, j jsonb); CREATE INDEX ON g USING gist (p); CREATE INDEX ON g USING spgist (p); CREATE INDEX ON g USING gin (j); INSERT INTO g SELECT point(i, i), jsonb_build_object('k', i % 10) FROM generate_series(1, 500) i",
    "CREATE TABLE r (i int, a text); CREATE INDEX rb ON r USING brin (i, a) WITH (autosummarize = on); INSERT INTO r SELECT i, 'text' FROM generate_series(1, 10000) i; UPDATE r SET a = 'other' WHERE i < 5000; SELECT brin_summarize_range('rb', 0); SELECT brin_desummarize_range('rb', 0)",
    "SELECT pg_logical_emit_message(true, 'foo', 'bar')",
    "VACUUM",
    "VACUUM FULL pg_authid",
    "CREATE DATABASE d",
];

/// A place in a server's log.
fn place(server: &Server) -> (String, String) {
    let both = server.sql(
        "SELECT pg_current_wal_insert_lsn() || ' ' || pg_walfile_name(pg_current_wal_insert_lsn())",
    );
    let both = both.must();
    let (lsn, file) = both.trim().split_once(' ').unwrap();
    (lsn.to_owned(), file.to_owned())
}

fn suite(major: u32) {
    let install = pg(major);
    let conf = [
        "autovacuum = off",
        "checkpoint_timeout = 1h",
        "fsync = off",
        "archive_mode = on",
        "archive_command = ''",
        "wal_level = logical",
        "wal_keep_size = 1GB",
    ];
    let conf = conf.map(str::to_owned).to_vec();
    let options = ServerOptions { segment_size_mb: 1, conf, ..ServerOptions::default() };
    let mut server = Server::start(&install, &options).must();
    let (start, first) = place(&server);
    for statement in STATEMENTS {
        server.sql(statement).must();
    }
    server.sql("CHECKPOINT; UPDATE r SET a = 'again' WHERE i < 100").must();
    server.sql("DROP DATABASE d").must();
    let (end, last) = place(&server);
    let number = |sql: &str| server.sql(sql).must().trim().to_owned();
    let relation = |name: &str| {
        number(&format!(
            "SELECT concat_ws('/', dattablespace, d.oid, pg_relation_filenode('{name}')) FROM pg_database d WHERE datname = current_database()"
        ))
    };
    let (table, index) = (relation("t"), relation("ta"));
    server.stop(StopMode::Fast).must();
    let data = server.data_dir().display().to_string();
    let scratch = scratch();
    let asked = Asked { install: &install, dir: scratch.path(), data: &data };
    asked.ranges(&start, &end, &first, &last);
    asked.options(&start, &end, &table, &index);
    if major >= 16 {
        asked.images(&first, &last, &relation_of_images(&asked, &start, &end));
    }
}

/// A relation of which there are page images.
fn relation_of_images(asked: &Asked<'_>, start: &str, end: &str) -> String {
    let text = asked.same(&["--fullpage", "--path", asked.data, "--start", start, "--end", end]);
    let line = text.lines().find(|line| line.contains(" FPW")).unwrap();
    line.split("rel ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

struct Asked<'a> {
    install: &'a Install,
    dir: &'a Path,
    data: &'a str,
}

impl Asked<'_> {
    #[track_caller]
    fn same(&self, args: &[&str]) -> String {
        same(self.install, self.dir, args)
    }

    /// What is refused, and with which words.
    #[track_caller]
    fn refused(&self, args: &[&str], words: &str) {
        self.same(args);
        let output = ours(self.install, self.dir, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{args:?}: {said}");
    }

    /// The ways to say what is read.
    fn ranges(&self, start: &str, end: &str, first: &str, last: &str) {
        let (first, last) =
            (format!("{}/pg_wal/{first}", self.data), format!("{}/pg_wal/{last}", self.data));
        let fatal = if self.install.major == 14 { "fatal:" } else { "error:" };
        assert!(!self.same(&[&first]).is_empty());
        assert!(!self.same(&[&first, &last]).is_empty());
        self.refused(&[&first, "bar"], "could not open file \"bar\"");
        self.refused(&["-p", self.data], "no start WAL location given");
        assert!(!self.same(&["-p", self.data, "--start", start, "--end", end]).is_empty());
        let off_the_end = format!("{fatal} error in WAL record at");
        self.refused(&["-p", self.data, "--start", start], &off_the_end);
        assert_eq!(self.same(&["--quiet", &first]), "");
        self.refused(&["--quiet", "-p", self.data, "--start", start], &off_the_end);
        let within = lsn_text(parse_lsn(start).unwrap() + 1);
        self.same(&["--start", &within, &first]);
        // As pg_verifybackup asks.
        let path = format!("--path={}/pg_wal", self.data);
        let (from, to) = (format!("--start={start}"), format!("--end={end}"));
        assert_eq!(self.same(&["--quiet", &path, "--timeline=1", &from, &to]), "");
    }

    /// What is shown of it.
    fn options(&self, start: &str, end: &str, table: &str, index: &str) {
        let shown = |options: &[&str]| {
            let range = ["-p", self.data, "--start", start, "--end", end];
            let output = self.same(&[&range, options].concat());
            assert!(!output.is_empty(), "{options:?}: nothing is shown");
            output
        };
        let every = |text: &str, words: &str| {
            let odd = text.lines().find(|line| !line.contains(words));
            assert_eq!(odd, None, "not of {words}");
        };
        let all = shown(&[]);
        every(&all, "rmgr: ");
        assert_eq!(shown(&["--limit", "6"]).lines().count(), 6);
        every(&shown(&["--rmgr", "Btree"]), "rmgr: Btree");
        for stats in ["--stats", "--stats=record"] {
            assert!(!shown(&[stats]).contains("rmgr:"));
        }
        if self.install.major >= 15 {
            every(&shown(&["--fullpage"]), " FPW");
            every(&shown(&["--fork", "init"]), "fork init");
            every(&shown(&["--relation", table]), &format!("rel {table}"));
            every(&shown(&["--relation", index, "--block", "1"]), "blk 1");
        }
    }

    /// Files with the names and the bytes of the server's own program's.
    fn images(&self, first: &str, last: &str, relation: &str) {
        let save = |name: &str| self.dir.join(name).display().to_string();
        let wal = format!("{}/pg_wal", self.data);
        let args = |to: &str| {
            let (first, last) = (format!("{wal}/{first}"), format!("{wal}/{last}"));
            ["-q", "--save-fullpage", to, "--relation", relation, &first, &last].map(str::to_owned)
        };
        let (our, their) = (save("our/deep"), save("their/deep"));
        let mut command = Command::new(drop_in());
        command.args(args(&our)).current_dir(self.dir);
        let output = run_unchecked(&mut command, "", LIMIT, "pg_waldump").must();
        let mut command = self.install.client_command("pg_waldump");
        command.args(args(&their)).current_dir(self.dir);
        assert_eq!(
            run_unchecked(&mut command, "", LIMIT, "pg_waldump").must().stdout,
            output.stdout
        );
        let list = |dir: &str| {
            let entries = fs::read_dir(dir).must().map(Must::must);
            let mut files: Vec<_> =
                entries.map(|entry| (entry.file_name(), fs::read(entry.path()).must())).collect();
            files.sort();
            files
        };
        assert!(list(&our) == list(&their), "the images of {relation}");
        assert!(!list(&our).is_empty(), "no images of {relation}");
    }
}
