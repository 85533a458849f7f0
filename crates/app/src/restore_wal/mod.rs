//! `seawall restore-wal`: what the server's restore_command runs, and `pg_rewind -c` with it.
//!
//! The server takes an exit code of 0 for "delivered", 126 and more for a failure that ends it,
//! and every other code for "there is no such file", which recovery without a target takes for the
//! end of the log: it opens. So 1 is given only where that is known, and nothing else that can
//! happen here, a wrong command line or a bug of our own included, ends with less than 126. Death
//! by a signal is left to the signal.
//!
//! Short-lived: no threads but the one that writes, no survey of the archive unless a file is
//! missing, no fsync (the server syncs what it keeps).

mod archived;
mod deliver;

use std::io::{self, Write};
use std::panic;
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cli::RestoreWalArgs;
use crate::failure::{Exit, Failure};

/// The first pause between two tries: what another process is just finishing takes no longer.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest one. A try among a million segments may take half a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a file wasn't delivered. The greater ones count where several archives differ: one that may
/// have it outweighs one that hasn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// It is known to be past the end.
    Absent,
    /// It is being streamed, or lies in a `.partial` that wasn't asked for.
    Unfinished,
    /// Nothing tells: the archive, the network, the target directory.
    Unsure,
    /// It has to be somewhere, and isn't here.
    Hole,
    /// It is here and doesn't hold.
    Damaged,
    /// What was asked for makes no sense, and never will.
    Refused,
}

/// A file that wasn't delivered.
#[derive(Debug)]
struct Refusal {
    kind: Kind,
    message: String,
}

impl Refusal {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl Kind {
    fn exit(self) -> Exit {
        match self {
            Self::Absent => Exit::Failed,
            Self::Unsure | Self::Refused => Exit::Unsure,
            Self::Hole => Exit::Hole,
            Self::Damaged => Exit::Damaged,
            Self::Unfinished => Exit::Unfinished,
        }
    }
}

pub(crate) fn run(args: &RestoreWalArgs) -> Result<(), Failure> {
    fail_loudly();
    let until = Instant::now() + args.retry_for;
    let (mut pause, mut announced) = (FIRST_PAUSE, false);
    loop {
        let Err(refusal) = archived::deliver(args) else { return Ok(()) };
        let final_ = match refusal.kind {
            Kind::Absent | Kind::Refused => true,
            // A standby streams what isn't archived yet, and shouldn't be kept from it.
            Kind::Unfinished => args.standby,
            Kind::Unsure | Kind::Hole | Kind::Damaged => false,
        };
        if final_ || Instant::now() + pause > until {
            return Err(end(args, refusal));
        }
        if !announced {
            let seconds = args.retry_for.as_secs_f64();
            say(&format!("{}; trying again for {seconds} s", refusal.message));
            announced = true;
        }
        sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the server is told. A standby never opens because something is absent, and ends at
/// anything worse: it is told so of everything that may be mended while it runs.
fn end(args: &RestoreWalArgs, refusal: Refusal) -> Failure {
    let exit = match refusal.kind {
        Kind::Refused => Exit::Unsure,
        _ if args.standby => Exit::Failed,
        kind => kind.exit(),
    };
    // A standby asks every few seconds for what isn't there yet.
    let quiet = args.standby && matches!(refusal.kind, Kind::Absent | Kind::Unfinished);
    Failure::new(exit, if quiet { String::new() } else { refusal.message })
}

fn say(message: &str) {
    // Where nobody listens, the exit code still says it.
    _ = writeln!(io::stderr(), "seawall: {message}");
}

/// A bug of our own must not end with 101, which would read as "absent".
fn fail_loudly() {
    panic::set_hook(Box::new(|info| {
        say(&format!("a bug in seawall: {info}"));
        process::exit(Exit::Unsure as i32);
    }));
}
