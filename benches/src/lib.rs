//! seawall beside the server's own programs, in one run, alternating: absolute times drift on
//! shared machines, and the medians of ratios don't.
//!
//! Peers get their defaults and the same durability. Each bench prints both sides, the ratio, CPU
//! seconds and peak memory, as a table and as JSON, and says which real binary it ran.

pub mod backup;
pub mod catchup;
pub mod compress;
pub mod delay;
pub mod dump;
pub mod measure;
pub mod memory;
pub mod restore_wal;
pub mod scale;
pub mod serve;
pub mod sink;
pub mod sync;
pub mod verify;
