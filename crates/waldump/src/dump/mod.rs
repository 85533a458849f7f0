//! From segments to output: which records are taken, what is made of each, one after another or
//! on several threads with the same output in the same order.

pub mod bounds;
mod filter;
mod mend;
pub mod output;
mod parallel;
mod sequence;
mod taker;

pub use filter::Filter;
pub use parallel::parallel;
pub use sequence::{Patience, sequence};
pub use taker::{Config, Mode, Taker};

use pg_types::Lsn;

use crate::cli::words::Failure;
use crate::read::reader::Stop;

/// Why no further record is taken.
#[derive(Debug)]
pub enum End {
    /// There is none.
    Stop(Stop),
    /// As many as were asked for, or all before the bound, or a signal came.
    Enough,
    /// The output can't be written, or an image be unpacked.
    Failure(Failure),
    /// What was read doesn't go on where what came before ended: to be read again from there.
    Misfit,
}

impl From<Stop> for End {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// How a dump ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub end: End,
    /// The last record that was read.
    pub last: Lsn,
}
