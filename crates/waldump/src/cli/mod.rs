//! The command line: pure parsing, with the words of PostgreSQL's own program.

pub mod getopt;
mod help;
pub mod options;
mod scan;
pub mod words;

pub use options::{Options, Parsed, Program};
