//! Whether a server is set up so that its WAL can be received, and what its settings mean here:
//! what would have warned yesterday.
//!
//! Facts are asked for ([`Settings::ask`]) and judged apart ([`judge()`]), so that a check-list and a
//! receiver's own start say the same. Nothing is changed on the server.

mod judge;
mod settings;
mod sync_names;

pub use judge::{Intent, judge, judge_refusal, judge_slot};
pub use settings::{Plain, Settings};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Fine,
    /// It works, and will not under some circumstances.
    Warning,
    /// It doesn't work.
    Error,
}

impl Level {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the check-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check's name, which doesn't change.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What to do about it; nothing where all is well.
    pub hint: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn fine(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, level: Level::Fine, what: what.into(), hint: None }
    }

    /// It works, for now.
    #[must_use]
    pub fn warning(check: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, what: what.into(), hint: Some(hint.into()) }
    }

    /// It doesn't work.
    #[must_use]
    pub fn error(check: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { check, level: Level::Error, what: what.into(), hint: Some(hint.into()) }
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.check, self.what)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}
