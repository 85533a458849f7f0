//! What the tests of the real program share: the program as a value, the comparison with the
//! primary's own WAL, and the archive decoded.

// Each of the binary's modules uses its part.
#![allow(clippy::allow_attributes, dead_code, reason = "modules come and go with their needs")]

mod archived;
mod decoded;
mod random;
mod receiver;
mod waldump;

use std::fmt::Display;
use std::time::Duration;

use pg_types::Lsn;
use testkit::scratch::Scratch;
use testkit::servers::{Install, Server, ServerOptions, install};

pub(crate) use archived::{Segments, compare_with_primary};
pub(crate) use decoded::Decoded;
pub(crate) use random::Random;
pub(crate) use receiver::{Receiver, ReceiverOptions, SLOT};
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

/// The programs of this version.
pub(crate) fn pg(major: u32) -> Install {
    install(major).must()
}

/// A server that keeps all the WAL that a test makes, with these lines in its configuration.
///
/// It doesn't fsync, unless the lines say so: a SIGKILL keeps the page cache, and its recovery
/// would sync the whole cluster each time. The receiver does.
pub(crate) fn server(major: u32, segment_size_mb: u32, conf: &[&str]) -> Server {
    let keep = ["wal_keep_size = 8GB", "max_wal_size = 4GB", "fsync = off"];
    let conf = keep.iter().chain(conf).map(ToString::to_string).collect();
    Server::start(&pg(major), &ServerOptions { segment_size_mb, conf, ..Default::default() }).must()
}

/// A directory for an archive, and whatever else a test keeps.
pub(crate) fn scratch() -> Scratch {
    Scratch::new("live").must()
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
