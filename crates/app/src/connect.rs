//! Connection settings from flags, connection string, environment and password file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use pg_wire::Secret;
use pg_wire::settings::{
    ConnectionSettings, DEFAULT_SOCKET_DIRS, Flags, Inputs, REPLICATION_DATABASE,
};

use crate::Failure;
use crate::cli::ConnectionArgs;
use crate::terminal;

/// More than any password file has; libpq reads line by line without a bound.
const MAX_PASSFILE_BYTES: u64 = 4 << 20;

/// What a user set up, resolved as libpq does. `application_name` wins over everything;
/// `fallback` is used where nobody gave one.
pub(crate) fn settings(
    args: &ConnectionArgs,
    application_name: Option<&str>,
    fallback: &str,
) -> Result<ConnectionSettings, Failure> {
    readable_environment()?;
    let password = if args.password { Some(Secret::new(terminal::ask_password()?)) } else { None };
    let flags = Flags {
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.username.clone(),
        application_name: application_name.map(ToOwned::to_owned),
        password,
        ..Flags::default()
    };
    let socket_dirs = DEFAULT_SOCKET_DIRS.iter().map(PathBuf::from).filter(|dir| dir.is_dir());
    let mut settings = ConnectionSettings::resolve(&Inputs {
        flags,
        conninfo: args.conninfo.clone(),
        env: &|name| std::env::var(name).ok(),
        os_user: os_user(),
        home: std::env::home_dir(),
        read_file: &|path| fs::read(path),
        socket_dirs: socket_dirs.collect(),
        fallback_application_name: Some(fallback.to_owned()),
    })?;
    read_password_file(&mut settings);
    Ok(settings)
}

/// Refuses a variable that would have to be passed over.
fn readable_environment() -> Result<(), Failure> {
    let mut ours =
        std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG"));
    match ours.find(|(_, value)| value.to_str().is_none()) {
        Some((name, _)) => Err(Failure::usage(format!(
            "{} isn't UTF-8, and can't be used (such a password can stand in the password file)",
            name.display()
        ))),
        None => Ok(()),
    }
}

fn read_password_file(settings: &mut ConnectionSettings) {
    let Some(path) = settings.password_file().map(PathBuf::from) else { return };
    let Ok(metadata) = fs::metadata(&path) else { return };
    if !metadata.is_file() || metadata.len() > MAX_PASSFILE_BYTES {
        tracing::warn!("password file {} is ignored: it isn't a plain file", path.display());
        return;
    }
    let mode = metadata.permissions().mode();
    match fs::read(&path) {
        Ok(content) => {
            if let Some(warning) = settings.use_password_file(&content, mode, REPLICATION_DATABASE)
            {
                tracing::warn!("password file {}: {warning}", path.display());
            }
        }
        Err(error) => tracing::warn!("password file {}: {error}", path.display()),
    }
}

/// The name of the user that runs this: what `/etc/passwd` says, as libpq asks.
fn os_user() -> Option<String> {
    // A user of a directory service isn't in the file.
    let name = runtime::user_name(rustix::process::geteuid().as_raw());
    name.or_else(|| std::env::var("USER").ok())
}
