//! The command line, as PostgreSQL's own client programs name their flags.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};
use pg_types::Lsn;
use pg_wire::command::SlotName;

use crate::Exit;

/// Receives, proves and keeps PostgreSQL's write-ahead log.
#[derive(Debug, Parser)]
#[command(
    name = "seawall",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print help.
    #[arg(short = '?', long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    /// Print the version.
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
}

impl Cli {
    /// What this process was asked for. What can't be understood is said, and ends it; so does
    /// `--help`.
    #[must_use]
    pub fn of_process() -> Self {
        let restoring = std::env::args_os().nth(1).is_some_and(|arg| arg == "restore-wal");
        if restoring
            && let Ok(RestoreWalAlone { args }) =
                RestoreWalAlone::try_parse_from(std::env::args_os().skip(1))
        {
            let command = Command::RestoreWal(args);
            return Self { command, help: None, version: None };
        }
        Self::try_parse().unwrap_or_else(|error| {
            // A server takes every code below 126 for "there is no such file".
            if restoring && error.exit_code() != 0 {
                _ = error.print();
                std::process::exit(Exit::Unsure as i32);
            }
            error.exit()
        })
    }
}

/// `restore-wal` without the other commands, whose options take longer to set up than a history
/// takes to deliver: a server runs it for every segment. What it can't parse, [`Cli`] explains.
#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct RestoreWalAlone {
    #[command(flatten)]
    args: RestoreWalArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try the connection, make the archive, and say what is left to do on the server.
    Init(Box<InitArgs>),
    /// Stream one cluster's WAL into an archive, in the foreground.
    Receive(Box<ReceiveArgs>),
    /// Take a base backup of a primary or a standby into an archive.
    Backup(Box<BackupArgs>),
    /// Make a data directory from an archive: a standby, or recovery to its end or a point in time.
    Restore(Box<RestoreArgs>),
    /// Say which backups there are, and what can be recovered.
    List(ListArgs),
    /// Put a file of WAL into an archive: archive_command = 'seawall archive-wal %p -A DIR'.
    ArchiveWal(ArchiveWalArgs),
    /// Get a file of WAL from an archive: restore_command = 'seawall restore-wal %f %p -A DIR'.
    RestoreWal(RestoreWalArgs),
    /// Make an archive of a directory that pg_receivewal has filled.
    Adopt(AdoptArgs),
    /// Say whether a receiver runs, where it stands, what is archived, and what is wrong.
    Status(StatusArgs),
    /// Find where recovery would stop: a time or a restore point to the LSN.
    Find(FindArgs),
    /// Say what is missing from an archive, and why.
    Gaps(GapsArgs),
    /// Check the server's set-up and the archive, before it matters; quiet where all is well.
    Check(Box<CheckArgs>),
    /// Read all that is archived again, and say what is damaged and what can be recovered.
    Verify(VerifyArgs),
    /// Remove backups that nobody needs any more, and the WAL before those that are kept.
    Expire(ExpireArgs),
    /// Fetch what is missing or damaged from another archive, a directory, or by a command.
    Repair(RepairArgs),
    /// Print records of WAL of any version, as pg_waldump does, and more: seawall waldump --help.
    #[command(disable_help_flag = true)]
    Waldump(WaldumpArgs),
    /// Serve an archive: standbys, pg_receivewal and other receivers stream from it.
    Serve(Box<ServeArgs>),
    /// Say who may stream from an archive that is served.
    User(UserArgs),
    /// Create, read or drop a replication slot.
    Slot(Box<SlotArgs>),
}

/// `seawall waldump`: its options are pg_waldump's, abbreviations and all, and are parsed as those
/// are, by `waldump`.
#[derive(Debug, Args)]
pub(crate) struct WaldumpArgs {
    /// As of pg_waldump.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

/// How to reach the server. A connection string may have a password in it.
#[derive(Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Connection string or URI; flags win over what it says.
    #[arg(short = 'd', long = "dbname", value_name = "CONNSTR")]
    pub(crate) conninfo: Option<String>,
    /// Server's host name, or the directory of its socket.
    #[arg(short = 'h', long, value_name = "HOSTNAME")]
    pub(crate) host: Option<String>,
    /// Server's port.
    #[arg(short = 'p', long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Role to connect as; it needs REPLICATION.
    #[arg(short = 'U', long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Never ask for a password.
    #[arg(short = 'w', long, conflicts_with = "password")]
    pub(crate) no_password: bool,
    /// Ask for a password before connecting.
    #[arg(short = 'W', long)]
    pub(crate) password: bool,
}

impl fmt::Debug for ConnectionArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ConnectionArgs");
        shown.field("host", &self.host).field("port", &self.port).field("user", &self.username);
        shown.finish_non_exhaustive()
    }
}

/// `seawall receive`
#[derive(Debug, Args)]
pub(crate) struct ReceiveArgs {
    /// The archive's directory; it is made if it doesn't exist.
    #[arg(
        short = 'A',
        long,
        visible_short_alias = 'D',
        visible_alias = "directory",
        value_name = "DIR",
        env = "SEAWALL_ARCHIVE"
    )]
    pub(crate) archive: PathBuf,
    /// Replication slot that keeps WAL while this receiver is away.
    #[arg(short = 'S', long, value_name = "SLOT", value_parser = slot_name)]
    pub(crate) slot: Option<SlotName>,
    /// Make the slot first, keeping WAL from now on.
    #[arg(long, requires = "slot")]
    pub(crate) create_slot: bool,
    /// With --create-slot: use the slot if it exists already.
    #[arg(long, requires = "create_slot")]
    pub(crate) if_not_exists: bool,
    /// Let the slot go when it keeps more than this (16MB, 10GB) on the server and this receiver
    /// gets no further: an alarm, and made anew later. It guards the server's disk.
    #[arg(long, value_name = "SIZE", requires = "create_slot", value_parser = bytes)]
    pub(crate) max_slot_retention: Option<u64>,
    /// Stream without a slot: what the server recycles while this receiver is away is missing.
    #[arg(long, conflicts_with = "slot")]
    pub(crate) no_slot: bool,
    /// End when everything before this position is durable.
    #[arg(short = 'E', long, value_name = "LSN")]
    pub(crate) endpos: Option<Lsn>,
    /// Don't connect again after the connection is lost.
    #[arg(short = 'n', long)]
    pub(crate) no_loop: bool,
    /// Time between status reports to the server: seconds, or as 500ms, 1min; 0 for none but
    /// those that the server needs.
    #[arg(short = 's', long, value_name = "INTERVAL", default_value = "10", value_parser = interval)]
    pub(crate) status_interval: Duration,
    /// The name that synchronous_standby_names and pg_stat_replication know this receiver by.
    #[arg(long, value_name = "NAME")]
    pub(crate) application_name: Option<String>,
    /// Never fsync: nothing is ever acknowledged as flushed, and a power loss loses it.
    #[arg(long, conflicts_with = "slot")]
    pub(crate) no_sync: bool,
    /// Accepted for pg_receivewal's sake: every commit is synced as soon as it arrives, always.
    #[arg(long, conflicts_with = "no_sync", hide = true)]
    pub(crate) synchronous: bool,
    /// Compress segments once nothing can change them any more: zstd, lz4 or gzip. Everything
    /// reads them as before.
    #[arg(short = 'Z', long, value_name = "METHOD")]
    pub(crate) compress: Option<archive::Method>,
    /// Print events as JSON lines on standard output.
    #[arg(long)]
    pub(crate) json: bool,
    /// Serve the archive, too, as `seawall serve --listen` does; several times for several.
    #[arg(long, value_name = "ADDR", conflicts_with = "no_sync")]
    pub(crate) serve: Vec<runtime::Listen>,
    /// Tell the server what those who are served need of it: a standby with hot_standby_feedback
    /// keeps rows from being removed there that its queries still see. Also of those that a
    /// `seawall serve` of its own serves from the archive.
    #[arg(long)]
    pub(crate) hot_standby_feedback: bool,
    #[command(flatten)]
    pub(crate) serving: ServingArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
}

/// `seawall backup`, `seawall restore` and `seawall list`.
pub(crate) use backups::{
    BackupArgs, Checkpoint, ListArgs, RestoreArgs, TargetAction, TargetArgs, TargetTimeline,
};
/// `seawall verify`, `seawall repair` and `seawall expire`.
pub(crate) use keeping::{ExpireArgs, RepairArgs, VerifyArgs};

mod backups;
mod keeping;

/// `seawall serve` and `seawall user`.
pub(crate) use serving::{AuthArg, ServeArgs, ServingArgs, UserAction, UserArgs, users_file};

mod serving;

/// `seawall archive-wal`
#[derive(Debug, Args)]
pub(crate) struct ArchiveWalArgs {
    /// The file, as the server gives it for %p; its name says what it is.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The archive's directory; it is made if it doesn't exist.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
}

/// `seawall adopt`
#[derive(Debug, Args)]
pub(crate) struct AdoptArgs {
    /// The directory; stop pg_receivewal there first.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// `seawall restore-wal`
#[derive(Debug, Args)]
pub(crate) struct RestoreWalArgs {
    /// The file's name, as the server gives it for %f.
    #[arg(value_name = "NAME")]
    pub(crate) name: OsString,
    /// Where it goes, as the server gives it for %p.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// The archive's directory; several are asked one after the other.
    #[arg(short = 'A', long, required = true, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// Deliver the last segment too, which isn't whole, up to the last record that is proved.
    #[arg(long)]
    pub(crate) partial: bool,
    /// With --partial: deliver that of a timeline which a newer one has left, too, for recovery to
    /// the end of a lost branch.
    #[arg(long, requires = "partial")]
    pub(crate) lost_branch: bool,
    /// For a standby, which waits for what isn't there: never end it because something can't be
    /// had at the moment.
    #[arg(long)]
    pub(crate) standby: bool,
    /// How long to try again what may be mended: seconds, or as 500ms, 1min.
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = interval)]
    pub(crate) retry_for: Duration,
}

/// `seawall status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Look again each second, until interrupted.
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `seawall find`
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// The first commit or abort later than this, with its zone: "2026-01-31 12:00:00+01".
    #[arg(short = 't', long, value_name = "TIME", required_unless_present_any = ["name", "xid"])]
    pub(crate) time: Option<String>,
    /// The commit or abort of this transaction.
    #[arg(short = 'x', long, value_name = "XID", conflicts_with_all = ["time", "name"])]
    pub(crate) xid: Option<u32>,
    /// The restore point of this name.
    #[arg(long, value_name = "NAME", conflicts_with = "time")]
    pub(crate) name: Option<String>,
    /// On this timeline and those that it comes from; the newest one unless told otherwise.
    #[arg(long, value_name = "TLI")]
    pub(crate) timeline: Option<u32>,
    /// Print one JSON object, also if nothing is found.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `seawall gaps`
#[derive(Debug, Args)]
pub(crate) struct GapsArgs {
    /// The archive's directory.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: PathBuf,
    /// Print each gap as a line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `seawall init`
#[derive(Clone, Debug, Args)]
pub(crate) struct InitArgs {
    /// The archive's directory, which is made.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: Option<PathBuf>,
    /// The receiver's replication slot.
    #[arg(short = 'S', long, value_name = "SLOT", default_value = "seawall", value_parser = slot_name)]
    pub(crate) slot: SlotName,
    /// The receiver's name on the server.
    #[arg(long, value_name = "NAME")]
    pub(crate) application_name: Option<String>,
    /// Commits are to wait for it.
    #[arg(long)]
    pub(crate) synchronous: bool,
    /// Make the slot on the server now. Nothing else is changed there, ever.
    #[arg(long)]
    pub(crate) apply: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// `seawall check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The archive's directory; without it, only the server is looked at.
    #[arg(short = 'A', long, value_name = "DIR", env = "SEAWALL_ARCHIVE")]
    pub(crate) archive: Option<PathBuf>,
    /// The receiver's replication slot.
    #[arg(short = 'S', long, value_name = "SLOT", value_parser = slot_name)]
    pub(crate) slot: Option<SlotName>,
    /// The receiver's name on the server.
    #[arg(long, value_name = "NAME")]
    pub(crate) application_name: Option<String>,
    /// Don't connect: look at the archive alone.
    #[arg(long, requires = "archive")]
    pub(crate) no_server: bool,
    /// Warn when the receiver is behind by more than this.
    #[arg(long, value_name = "SIZE", default_value = "1GB", value_parser = bytes)]
    pub(crate) max_lag: u64,
    /// Warn when the newest base backup is older than this.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    pub(crate) max_backup_age: Duration,
    /// Show what is well, too.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "nagios")]
    pub(crate) json: bool,
    /// Print and end as a Nagios plugin: 0 fine, 1 warning, 2 critical.
    #[arg(long)]
    pub(crate) nagios: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// How much is said.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TalkArgs {
    /// Say more; twice: still more.
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say only what is wrong.
    #[arg(short = 'q', long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

/// `seawall slot`
#[derive(Debug, Args)]
pub(crate) struct SlotArgs {
    #[command(subcommand)]
    pub(crate) action: SlotAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SlotAction {
    /// Create a physical slot.
    Create {
        /// Its name.
        #[arg(value_parser = slot_name)]
        name: SlotName,
        /// Don't keep WAL before something connects with it.
        #[arg(long)]
        no_reserve: bool,
        /// Succeed if it exists already.
        #[arg(long)]
        if_not_exists: bool,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Print a slot's state.
    Read {
        /// Its name.
        #[arg(value_parser = slot_name)]
        name: SlotName,
        /// As JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
    /// Drop a slot.
    Drop {
        /// Its name.
        #[arg(value_parser = slot_name)]
        name: SlotName,
        /// Wait until nobody uses it.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        connection: ConnectionArgs,
    },
}

fn slot_name(text: &str) -> Result<SlotName, String> {
    SlotName::new(text).map_err(|error| error.to_string())
}

/// A size as the server writes it.
fn bytes(text: &str) -> Result<u64, String> {
    pg_wire::row::parse_size(text)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected a size such as 512MB, 10GB or 1TB".to_owned())
}

/// A time as the server writes it.
fn duration(text: &str) -> Result<Duration, String> {
    pg_wire::row::parse_duration(text)
        .ok_or_else(|| "expected a time such as 90min, 12h or 7d".to_owned())
}

/// Seconds as pg_receivewal takes them, or a duration as the server writes it.
fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()));
    seconds
        .or_else(|| pg_wire::row::parse_duration(text))
        .filter(|interval| *interval <= Duration::from_secs(86_400))
        .ok_or_else(|| "expected seconds, or a time such as 500ms or 1min, up to a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_debug_text_shows_no_connection_string() {
        let args = ["seawall", "slot", "read", "s", "-d", "password=canary host=db"];
        let parsed = Cli::try_parse_from(args).unwrap();
        assert!(!format!("{parsed:?}").contains("canary"));
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let check = |args: &[&str], ok: bool| {
            let all = ["seawall", "receive", "-A", "x"].iter().chain(args);
            assert_eq!(Cli::try_parse_from(all).is_ok(), ok, "{args:?}");
        };
        check(&["-S", "slot", "--create-slot", "--if-not-exists"], true);
        check(&["-D", "y"], false);
        check(&["-S", "slot", "--no-sync"], false);
        check(&["--no-sync"], true);
        check(&["--create-slot"], false);
        check(&["-S", "slot", "--no-slot"], false);
        check(&["-S", "Slot"], false);
        check(&["-E", "0/3000000", "-n", "-s", "500ms", "-h", "db", "-p", "5433"], true);
        check(&["-E", "12"], false);
    }
}
