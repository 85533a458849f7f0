//! What is said between a PostgreSQL server and its client, as values: connection settings
//! ([`settings`], [`pgpass`]), messages and their frames ([`message`]), the start of a connection
//! with its authentication ([`startup`]), the replication commands and their answers
//! ([`command`], [`query`], [`row`]), what travels inside a physical stream ([`stream`]), and what
//! a base backup is made of ([`base_backup`]).
//!
//! Nothing here has a socket, a file, a clock or an environment: callers bring bytes and values,
//! and get bytes and values back. Bytes from outside never reach a panic, and never size an
//! allocation before they are there. A password is never part of an error or of a debug text.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::arithmetic_side_effects,
        clippy::panic
    )
)]

pub mod base_backup;
pub mod command;
pub mod feedback;
pub mod message;
pub mod pgpass;
pub mod query;
pub mod row;
pub mod server;
pub mod settings;
pub mod startup;
pub mod stream;

mod reader;
mod secret;

pub use secret::Secret;
