//! The password file, read at each connection: a password that was changed counts from the next one
//! on.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pg_wire::settings::ConnectionSettings;

/// More than any password file has; libpq reads line by line without a bound.
const MAX_PASSFILE_BYTES: u64 = 1 << 20;

/// Takes the servers' passwords for this database from the password file, where none was given.
/// Gives what a person should hear about a file that isn't used.
pub fn read_passwords(settings: &mut ConnectionSettings, database: &str) -> Option<String> {
    let path = settings.password_file().map(PathBuf::from)?;
    let metadata = fs::metadata(&path).ok()?;
    let about = |what: String| Some(format!("password file {}: {what}", path.display()));
    if !metadata.is_file() || metadata.len() > MAX_PASSFILE_BYTES {
        return about("it isn't a plain file, or too long, and is not used".to_owned());
    }
    let mut content = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take(MAX_PASSFILE_BYTES).read_to_end(&mut content));
    if let Err(error) = read {
        return about(error.to_string());
    }
    let mode = metadata.permissions().mode();
    settings.use_password_file(&content, mode, database).and_then(|it| about(it.to_string()))
}
