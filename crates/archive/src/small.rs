//! Small files of JSON that are replaced as a whole: `gaps.json`, `expired.json`, a follower's slot.

use std::path::Path;

use disk::{DiskError, Files};
use serde::Serialize;

/// Writes a file anew by way of a temporary beside it, durably: a crash leaves the old one or the
/// new one.
pub(crate) fn replace(
    files: &dyn Files,
    temporary: &Path,
    path: &Path,
    content: &impl Serialize,
) -> Result<(), DiskError> {
    let mut text = serde_json::to_string_pretty(content).unwrap_or_default();
    text.push('\n');
    // What a killed process left.
    if files.len(temporary)?.is_some() {
        files.remove(temporary)?;
    }
    files.write_new(temporary, text.as_bytes())?;
    files.sync_file(temporary)?;
    files.replace(temporary, path)?;
    files.sync_dir(path.parent().unwrap_or(Path::new("")))
}
