//! A scratch server's configuration files.

use std::fmt::Write as _;
use std::path::Path;

use super::ServerOptions;

/// What every server gets; a test's own lines come after it and win.
/// Dynamic shared memory lies in the data directory, so that a killed server leaves none behind.
const DEFAULTS: &str = "
wal_level = replica
max_wal_senders = 10
max_replication_slots = 10
max_connections = 60
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
logging_collector = off
log_line_prefix = '%m [%p] %a '
log_replication_commands = on
fsync = on
";

/// The lines appended to postgresql.conf.
pub(super) fn postgresql_conf(
    major: u32,
    options: &ServerOptions,
    port: u16,
    socket_dir: &Path,
) -> String {
    let mut conf = DEFAULTS.to_owned();
    // A gigabyte, with segments of 16 MB.
    conf.push_str(if major >= 13 { "wal_keep_size = 1GB\n" } else { "wal_keep_segments = 64\n" });
    conf.push_str(if major >= 11 { "jit = off\n" } else { "" });
    let listen = if options.tcp { "127.0.0.1" } else { "" };
    let _ = writeln!(conf, "listen_addresses = '{listen}'\nport = {port}");
    let _ = writeln!(conf, "unix_socket_directories = '{}'", socket_dir.display());
    for line in &options.conf {
        conf.push_str(line);
        conf.push('\n');
    }
    conf
}

/// pg_hba.conf: the superuser comes in over the socket without a password, so that the test can
/// always look; everybody else, and everything over TCP, by the method asked for.
pub(super) fn pg_hba_conf(options: &ServerOptions) -> String {
    if let Some(whole) = &options.hba {
        return whole.clone();
    }
    let auth = &options.auth;
    format!(
        "local all postgres trust\n\
         local all all {auth}\n\
         local replication all {auth}\n\
         host all all 127.0.0.1/32 {auth}\n\
         host replication all 127.0.0.1/32 {auth}\n"
    )
}
