//! How a command fails.

use std::fmt;

use archive::{ArchiveError, Stop};
use backup::BackupError;
use disk::ErrorKind;
use pg_wire::settings::SettingsError;
use runtime::{AskError, SessionError};

/// What a process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Anything that isn't one of those below; of `restore-wal`: the file is known to be absent.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Another process writes to the archive.
    InUse = 3,
    /// WAL that doesn't hold came again and again: an alarm.
    Corrupt = 4,
    /// The server has another history than the archive: an alarm.
    Diverged = 5,
    /// The archive isn't this server's, or none at all.
    WrongArchive = 6,
    /// `restore-wal`: it isn't known whether the file is there, or can't be delivered.
    Unsure = 126,
    /// `restore-wal`: the file is missing, and WAL behind it isn't.
    Hole = 200,
    /// `restore-wal`: the file doesn't hold.
    Damaged = 201,
    /// `restore-wal`: the segment isn't whole yet.
    Unfinished = 202,
}

/// A failed command: what happened, and of which kind it is.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    message: String,
    /// A file went while it was looked at: expired, or given another name.
    moved: bool,
}

/// So often an archive that changes is looked at again.
const LOOKS: usize = 5;

/// Looks at an archive that others change: again where a file went meanwhile.
pub(crate) fn steady<T>(mut look: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut looks = 1;
    loop {
        match look() {
            Err(failure) if failure.moved && looks < LOOKS => looks += 1,
            looked => return looked,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(crate) fn new(exit: Exit, message: String) -> Self {
        Self { exit, message, moved: false }
    }

    /// Whether there is nothing to be said.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.message.is_empty()
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message.into())
    }

    /// Says first what it is about.
    pub(crate) fn of(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message.to_string())
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let exit = match &error {
            ArchiveError::Disk(_)
            | ArchiveError::StagingLocked { .. }
            | ArchiveError::ShippedSize { .. }
            | ArchiveError::ShippedInvalid { .. }
            | ArchiveError::OddSize { .. }
            | ArchiveError::Damaged { .. }
            | ArchiveError::SlotExpired { .. }
            | ArchiveError::Changing => Exit::Failed,
            ArchiveError::Locked { .. }
            | ArchiveError::Served { .. }
            | ArchiveError::HeldMeanwhile { .. } => Exit::InUse,
            ArchiveError::LeftTimeline { .. }
            | ArchiveError::OtherHistory { .. }
            | ArchiveError::Differs { .. } => Exit::Diverged,
            _ => Exit::WrongArchive,
        };
        let moved =
            matches!(&error, ArchiveError::Disk(error) if error.kind() == ErrorKind::NotFound);
        Self { exit, message: error.to_string(), moved }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Archive(error) => error.into(),
            SessionError::Stopped(Stop::Corrupt(error)) => Self::new(
                Exit::Corrupt,
                format!(
                    "ALARM: the server sent WAL that doesn't hold {error}, and did so again after \
                     reconnecting; nothing from there on was acknowledged. Look at the network, \
                     and at the server's own copy with pg_waldump"
                ),
            ),
            error @ (SessionError::Diverged { .. }
            | SessionError::Stopped(Stop::Diverged { .. })) => {
                Self::new(Exit::Diverged, format!("ALARM: {error}"))
            }
            error => Self::failed(error),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Archive(error) => error.into(),
            BackupError::Disk(error) => {
                Self { moved: error.kind() == ErrorKind::NotFound, ..Self::failed(error) }
            }
            BackupError::NoneOnBranch { .. } => {
                Self::failed(format!("{error}; `seawall backup` takes one, `seawall list` has all"))
            }
            error @ BackupError::Locked { .. } => Self::new(Exit::InUse, error.to_string()),
            error => Self::failed(error),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Session(error) => error.into(),
            AskError::Server(message) => Self::failed(message),
        }
    }
}
