//! Reading records from files, with the semantics of the server's own reader
//! (`access/transam/xlogreader.c`) and the words of each version's.
//!
//! wal-format's `Validator` proves a live stream: it is fed, knows the cluster, and finds more
//! wrong than a server would (padding, the rest of a switched segment). What a file's dump stops
//! at has to be what the server's reader stops at, in its order of checks, with the positions that
//! its messages name; hence a reader of its own, over the same headers, bodies and CRC.

pub mod again;
pub mod files;
mod gathering;
mod packed;
pub mod reader;
pub mod reason;
pub mod trouble;
mod window;
