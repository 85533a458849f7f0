//! The real archive on a simulated disk, driven by a synthetic stream: crashed at every
//! operation, with failing disks, with a stream that is wrong; and checked against the invariants
//! of reliability.md after each.
//!
//! - [`Primary`] is the log that is streamed, and the truth that the archive is compared with.
//! - [`Session`] is one run of a receiver: claim, open, resume, stream; an event at a time.
//! - [`explore`](Explorer) crashes sessions, and recovers from each crash to the end.
//! - [`io_fault`], [`tamper`] and [`mutants`] are what goes wrong, and what must be caught.
//!
//! Invariant: every choice comes from a seed; the same seed gives the same trace. Never here: a
//! clock, a thread, a real file.

mod check;
mod compression;
mod explore;
mod faults;
mod ledger;
pub mod mutants;
mod primary;
mod promotion;
mod session;
mod tamper;

pub use compression::compress;
pub use explore::{Cut, Explored, Explorer, Plan, crash_points};
pub use faults::{FaultCase, disk_full, fault_cases, io_fault};
pub use ledger::{AckRule, Ledger, Violation};
pub use primary::Primary;
pub use promotion::{promote, publish, record_gap};
pub use session::{Pace, Session, SessionError, Setup, Trouble, Turn};
pub use tamper::{diverge, flip, flip_again};
