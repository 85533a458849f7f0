//! What the tests stand on: real PostgreSQL servers of each supported version, loads that note
//! what was acknowledged, a proxy that does harm to a byte stream, and WAL made on the spot.
//!
//! Invariant: nothing in here uses a product crate, so that a mistake in seawall's idea of WAL or
//! of the protocol cannot hide in the test that looks for it. Never does: skip. A server that
//! cannot be had is an error that says what to do.
//!
//! - [`servers`]: fetching, starting, killing PostgreSQL 14–18;
//! - [`process`]: child processes with time limits, their output and what they used;
//! - [`proxy`]: a TCP proxy with faults at chosen LSNs and a record of what was acknowledged;
//! - [`load`]: clients that note acknowledged commits, and the look-up of those in WAL;
//! - [`peers`]: PostgreSQL's own receiver;
//! - [`corpus`]: WAL with every resource manager's records.

pub mod corpus;
mod error;
pub mod load;
pub mod peers;
pub mod process;
pub mod proxy;
pub mod scratch;
pub mod servers;

pub use error::Error;
