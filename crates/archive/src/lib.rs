//! The archive: where the log that was received is kept, and proved, and given its names.
//!
//! A segment's life: a temporary file is allocated ahead; it becomes `X.partial` when the stream
//! gets there; bytes are written and synced; once all of them are durable and every record that
//! *ends* in it is proved it is **sealed**, by renaming it to `X`, in the order of the segments;
//! once the record that runs over its end is proved too it is **settled**, and its entry goes into
//! the index. A settled one may be compressed, into `X.zst`, `X.lz4` or `X.gz`, which then stands
//! for it everywhere.
//!
//! Which syncs that takes is no guess: `sim::crash::mutants` leaves out each of them in turn, and
//! a simulated loss of power shows what is lost then.
//!
//! - [`Archive`] opens and locks a directory, and says where streaming goes on ([`Resume`]).
//! - [`Writer`] is the hot path, without I/O: bytes go in, disk operations come out, and
//!   [`pg_types::Positions`] say what may be acknowledged.
//!
//! - [`Catalogue`] is for everybody else: it reads, proves again ([`Run`]), and gives up what nobody
//!   needs ([`Bounds`]).
//!
//! Never here: sockets, clocks, threads. Never done: overwriting a proved byte, deciding what WAL goes.

mod absence;
mod adopt;
mod branch;
mod catalogue;
mod comparison;
mod compress;
mod end;
mod error;
mod expiry;
mod find;
mod format;
mod gap;
mod index;
mod layout;
mod open;
mod packed;
mod prove;
mod publish;
mod reader;
mod resume;
mod slots;
mod small;
mod survey;
mod verify;
mod writer;

/// How a segment is compressed.
pub use ::compression::Method;
pub use absence::Absence;
pub use adopt::{Adopted, adopt};
pub use catalogue::{Catalogue, Missing, TimelineOverview};
pub use comparison::{Comparison, Likeness};
pub use compress::Compressed;
pub use error::ArchiveError;
pub use expiry::{Bounds, Expired, Hold};
pub use find::{Found, FoundKind, Lateness, Search, Target};
pub use format::{Format, Identity};
pub use gap::{Gap, gaps};
pub use index::{ENTRIES_PER_FILE, ENTRY_LEN, IndexEntry};
pub use layout::Layout;
pub use open::{Archive, Claim, Withdrawn};
pub use packed::FRAME_LEN;
pub use publish::Published;
pub use reader::{Proof, Reader};
pub use resume::{LostBranch, Resume, Stored};
pub use slots::{Slot, Slots, slots};
pub use survey::{Form, Segments, Survey};
pub use verify::{Border, Damage, DamageKind, Names, Run, RunEnd, RunVerdict, Unfinished};
pub use writer::{Event, Options, Stop, Writer};
