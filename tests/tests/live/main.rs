//! Real servers of 14–18 and the real `seawall` program (`cargo build -p seawall` first).
//!
//! Everything asked is asked of what a user has: the program's exit codes, the archive's files,
//! the server's views, and PostgreSQL's own pg_waldump. Complete on the oldest and the newest
//! version, shorter on the ones between; complete on all with `SEAWALL_FULL=1`.

mod common;

mod alignment;
mod connecting;
mod decoding;
mod describing;
mod disk_full;
mod faults;
mod find;
mod gaps;
mod index;
mod many_segments;
mod memory;
mod network;
mod program;
mod refusals;
mod restart;
mod shipping;
mod shutdown;
mod slots;
mod status;
mod strace;
mod streaming;
mod synchronous;
mod terminal;
mod timelines;
mod upstream;
mod waldump;
