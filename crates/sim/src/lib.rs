//! Stand-ins for what can't be provoked of real parts: a write-ahead log made byte by byte, and
//! the harness that crashes the real archive on a simulated disk.
//!
//! For tests only, and beside tests with real servers (`testkit`), never in their place.

pub mod crash;
pub mod fleet;
pub mod wal;
