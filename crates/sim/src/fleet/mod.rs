//! The real receiver in a world that is made of memory: `runtime::receive`, with the real protocol
//! machine and the real archive, on a simulated disk, network and clock, against a primary that
//! crashes in the middle of records, is promoted, comes back as an old copy, recycles WAL, and loses
//! or advances the slot; while the receiver loses its power, its connections and its disk.
//!
//! - `Log` is the primary's log over the years, and the truth.
//! - `Server` is what a replication client sees of it.
//! - [`live`] is one seed's life, whose faults it counts, and the checks after each crash of the
//!   receiver and at the end.
//!
//! Invariant: every choice comes from the seed; the same seed gives the same [`Lived`], trace hash
//! included. Never here: a real clock, socket, file or thread.

mod check;
mod life;
mod log;
mod server;

pub use life::{Lived, live};
