//! Real servers of 10–18 and the real `seawall` program (`cargo build -p seawall` first).
//!
//! Everything asked is asked of what a user has: the program's exit codes, the archive's files,
//! the server's views, and PostgreSQL's own pg_waldump. Complete on the oldest and the newest
//! version, shorter on the ones between; complete on all with `SEAWALL_FULL=1`.

mod common;

mod adopt;
mod alignment;
mod backup;
mod check;
mod compression;
mod connecting;
mod decoding;
mod describing;
mod disk_full;
mod divergence;
mod faults;
mod find;
mod gaps;
mod guard;
mod index;
mod init;
mod keeping;
mod many_segments;
mod memory;
mod network;
mod old_versions;
mod program;
mod refusals;
mod restart;
mod restore_wal;
mod serve;
mod service;
mod shipping;
mod shutdown;
mod slots;
mod status;
mod strace;
mod streaming;
mod synchronous;
mod terminal;
mod timelines;
mod tls;
mod upstream;
mod waldump;
