//! Records of write-ahead log on standard output: what `pg_waldump` and `seawall waldump` do.
//!
//! The text, the messages and the exit codes are those of the pg_waldump of the WAL's own version,
//! 14 to 18, which is found out from the WAL; before any has been read they are those of 18.
//!
//! - [`cli`]: the command line, pure;
//! - [`target`]: which files, from where to where;
//! - [`read`]: records, with the server's reader's semantics;
//! - [`dump`]: which are taken, on how many threads;
//! - [`show`]: what is made of them.
//!
//! No tokio and no TLS below this crate. Memory is bounded whatever the input: nothing is
//! allocated by a length that was read, and text that has to wait for its turn waits where it is
//! made.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod approach;
pub mod cli;
pub mod dump;
mod program;
pub mod read;
pub mod show;
pub mod target;
pub mod text;

pub use cli::Program;
pub use program::run;
