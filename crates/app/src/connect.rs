//! Connection settings from flags, connection string, environment and password file.

use std::fs;
use std::path::PathBuf;

use pg_wire::Secret;
use pg_wire::settings::{
    ConnectionSettings, DEFAULT_SOCKET_DIRS, Flags, Inputs, REPLICATION_DATABASE,
};

use crate::Failure;
use crate::cli::ConnectionArgs;
use crate::terminal;

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
    if let Some(warning) = runtime::read_passwords(&mut settings, REPLICATION_DATABASE) {
        tracing::warn!("{warning}");
    }
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

/// The name of the user that runs this: what `/etc/passwd` says, as libpq asks.
fn os_user() -> Option<String> {
    // A user of a directory service isn't in the file.
    let name = runtime::user_name(rustix::process::geteuid().as_raw());
    name.or_else(|| std::env::var("USER").ok())
}
