//! What the tests of the real program share: the program as a value, the comparison with the
//! primary's own WAL, and the archive decoded.

// Each of the binary's modules uses its part.
#![allow(clippy::allow_attributes, dead_code, reason = "modules come and go with their needs")]

mod archived;
mod decoded;
pub(crate) mod disks;
mod random;
mod receiver;
mod waldump;

use std::fmt::Display;
use std::time::Duration;

use pg_types::Lsn;
use testkit::scratch::Scratch;
use testkit::servers::{Install, OLD_MAJORS, Server, ServerOptions, install, install_old};

pub(crate) use archived::{Segments, compare_with_primary};
pub(crate) use decoded::Decoded;
pub(crate) use random::Random;
pub(crate) use receiver::{NAME, Receiver, ReceiverOptions, SLOT};
pub(crate) use waldump::{line_blocks, line_head, waldump, waldump_in};

/// How long anything may take that takes a moment on an idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A panic with the error's own words, where `expect` would print its fields.
pub(crate) trait Must<T> {
    /// The value, or the test's end.
    fn must(self) -> T;
}

impl<T, E: Display> Must<T> for Result<T, E> {
    #[track_caller]
    fn must(self) -> T {
        self.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl<T> Must<T> for Option<T> {
    #[track_caller]
    fn must(self) -> T {
        self.unwrap_or_else(|| panic!("there is none"))
    }
}

/// Makes a module of this name with one test for each supported major version.
macro_rules! on_each_major {
    ($name:ident, $check:path) => {
        mod $name {
            #[test]
            fn pg14() {
                $check(14);
            }
            #[test]
            fn pg15() {
                $check(15);
            }
            #[test]
            fn pg16() {
                $check(16);
            }
            #[test]
            fn pg17() {
                $check(17);
            }
            #[test]
            fn pg18() {
                $check(18);
            }
        }
    };
}
pub(crate) use on_each_major;

/// The programs of this version. Whoever wants one of 10 to 13 has asked before whether it
/// [can be had](can_be_had).
pub(crate) fn pg(major: u32) -> Install {
    if OLD_MAJORS.contains(&major) {
        let old = install_old(major).must();
        return old.unwrap_or_else(|| panic!("PostgreSQL {major} can't be had"));
    }
    install(major).must()
}

/// Whether there is a server of this version. One of 10 to 13 takes npm; that it is missing is said
/// aloud, and fails under CI.
pub(crate) fn can_be_had(major: u32) -> bool {
    !OLD_MAJORS.contains(&major) || install_old(major).must().is_some()
}

/// Whether everything runs at its full length: `SEAWALL_FULL=1`, as `cargo xtask test --full` sets.
pub(crate) fn full_run() -> bool {
    std::env::var("SEAWALL_FULL").is_ok_and(|value| value == "1")
}

/// The size of a test's small segments, megabytes: 10 has what it was built with.
pub(crate) fn small_segment_mb(major: u32) -> u32 {
    if major == 10 { 16 } else { 1 }
}

/// A server that keeps all the WAL that a test makes, with these lines in its configuration.
///
/// It doesn't fsync, unless the lines say so: a SIGKILL keeps the page cache, and its recovery
/// would sync the whole cluster each time. The receiver does.
pub(crate) fn server(major: u32, segment_size_mb: u32, conf: &[&str]) -> Server {
    let keep = if major >= 13 { "wal_keep_size = 8GB" } else { "wal_keep_segments = 500" };
    let keep = [keep, "max_wal_size = 4GB", "fsync = off"];
    let conf = keep.iter().chain(conf).map(ToString::to_string).collect();
    Server::start(&pg(major), &ServerOptions { segment_size_mb, conf, ..Default::default() }).must()
}

/// Lines for a server that keeps no more WAL than it needs.
pub(crate) fn forgetful(major: u32) -> [String; 3] {
    let keep = if major >= 13 { "wal_keep_size = 0" } else { "wal_keep_segments = 0" };
    let two = 2 * small_segment_mb(major);
    [keep.to_owned(), format!("max_wal_size = {two}MB"), format!("min_wal_size = {two}MB")]
}

/// A directory for an archive, and whatever else a test keeps.
pub(crate) fn scratch() -> Scratch {
    Scratch::new("live").must()
}

/// Looks until there is what is looked for.
#[track_caller]
pub(crate) fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A query's one value, an LSN.
pub(crate) fn lsn(server: &Server, sql: &str) -> Lsn {
    let text = server.sql(sql).must();
    text.parse().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Where the server's durable WAL ends.
pub(crate) fn server_flush(server: &Server) -> Lsn {
    lsn(server, "SELECT pg_current_wal_flush_lsn()")
}

/// Where the slot keeps WAL from.
pub(crate) fn restart_lsn(server: &Server) -> Lsn {
    lsn(server, &format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{SLOT}'"))
}
