//! How far a receiver has come, in four steps that must not be confused, and the one rule that
//! says what of it may be acknowledged.
//!
//! Each step is a type of its own, so that the wrong one can't be reported: what was received is
//! not proved, and what is proved is not durable.

use crate::Lsn;

macro_rules! step {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name(pub Lsn);
    };
}

step! {
    /// Every byte before this has arrived, in this session. Nothing follows from it.
    Received
}
step! {
    /// The end (8-aligned) of the last record whose CRC and links hold, with no doubtful byte
    /// before it since the stream's start; the stream's start before the first such record; the
    /// segment's end once the zeros after an XLOG_SWITCH have arrived.
    Proved
}
step! {
    /// Every byte before this was handed to the operating system: it survives this process.
    Written
}
step! {
    /// Every byte before this, and the name of the file that it is in, survives a loss of power.
    Durable
}

/// The four positions at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// See [`Received`].
    pub received: Received,
    /// See [`Proved`].
    pub proved: Proved,
    /// See [`Written`].
    pub written: Written,
    /// See [`Durable`].
    pub durable: Durable,
}

/// What a receiver tells its upstream: the `write` and `flush` of a standby status update.
/// `apply` isn't here: a receiver applies nothing, and reports 0, since a claimed apply would
/// satisfy `remote_apply` falsely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// What `synchronous_commit = remote_write` waits for.
    pub write: Lsn,
    /// What `synchronous_commit = on` waits for, and what lets a slot's WAL be recycled.
    pub flush: Lsn,
}

impl Positions {
    /// All four at one position: where a stream starts from.
    #[must_use]
    pub const fn all_at(start: Lsn) -> Self {
        Self {
            received: Received(start),
            proved: Proved(start),
            written: Written(start),
            durable: Durable(start),
        }
    }

    /// What may be acknowledged: never a byte that isn't proved, and as flushed never one that
    /// isn't durable. This is invariant I1, and this function is the only place that decides it.
    #[must_use]
    pub fn acknowledgement(&self) -> Acknowledgement {
        Acknowledgement {
            write: self.proved.0.min(self.written.0),
            flush: self.proved.0.min(self.durable.0),
        }
    }
}
