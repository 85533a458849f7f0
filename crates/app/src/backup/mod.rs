//! `seawall backup`

mod incremental;
mod wal;

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{Archive, ArchiveError, Catalogue};
use backup::{BackupError, Backups, Description, Held, Point, TablespaceArchive, Taken};
use disk::{Files, RealFiles};
use jiff::Timestamp;
use pg_wire::base_backup::{BackupArchive, BackupPoint, BaseBackup, MAX_LINK_LEN, has_manifest};
use pg_wire::command::{self, SlotName};
use pg_wire::message::SqlState;
use pg_wire::row::show_value;
use pg_wire::settings::ConnectionSettings;
use replication::Timing;
use runtime::{
    BackupFailure, BackupReceived, Facts, Link, SessionError, Shutdown, base_backup, keep_wal,
};
use tokio::sync::watch;

use crate::cli::{BackupArgs, Checkpoint};
use crate::log::{self, Log};
use crate::observer::size;
use crate::receive::stop_on_signal;
use crate::{Failure, connect, expire, terminal};

/// The name that the server knows it by.
const APPLICATION_NAME: &str = "seawall backup";
/// The first major version whose tablespace_map has the tablespaces within the data directory.
const MAP_HAS_ALL_SINCE_MAJOR: u32 = 16;
/// An expiry decides within seconds, in the largest archive.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(60);
/// Who has just taken the lock may not have said yet who it is.
const NAME_PATIENCE: Duration = Duration::from_millis(500);
const EXPIRY_POLL: Duration = Duration::from_millis(20);
/// Nothing is streamed on this connection.
const TIMING: Timing = Timing::NONE;
/// A receiver makes the archive when it is connected, which takes it less than this.
const IN_THE_MAKING: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &BackupArgs) -> Result<(), Failure> {
    let log = log::start(args.talk, args.json, Some(&args.archive));
    let settings = connect::settings(&args.connection, None, APPLICATION_NAME)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start: {error}")))?;
    let result = runtime.block_on(async {
        let (stop, shutdown) = watch::channel(false);
        let signals = tokio::spawn(stop_on_signal(stop));
        let taken = take(args, &settings, shutdown, &log).await;
        signals.abort();
        taken
    });
    runtime.shutdown_background();
    let backup = result?;
    let line = if args.json {
        crate::list::backup_as_json(&backup).to_string()
    } else {
        backup.id.clone()
    };
    let written = writeln!(io::stdout(), "{line}");
    written.map_err(|error| Failure::failed(format!("can't write the answer: {error}")))?;
    if backup.damage.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the backup {} is kept, and marked: the server found its own files damaged: {}",
        backup.id,
        backup.damage.join("; ")
    )))
}

async fn take(
    args: &BackupArgs,
    settings: &ConnectionSettings,
    shutdown: Shutdown,
    log: &Log,
) -> Result<Description, Failure> {
    let mut stop = shutdown.clone();
    let (mut link, facts) = tokio::select! {
        connected = runtime::connect(settings, TIMING) => connected?,
        _ = stop.changed() => return Err(stopped()),
    };
    let about = |failure: Failure| failure.of(&format!("the archive {}", args.archive.display()));
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.archive.clone()));
    let catalogue = open(&files, &facts, &mut stop).await.map_err(about)?;
    let holder = format!("seawall backup, process {}", std::process::id());
    let held = hold(&args.archive, &*files, &holder).await?;
    let data_checksums = show(&mut link, "data_checksums").await? == "on";
    let parent = match &args.incremental {
        Some(wanted) => {
            let server = (&facts, data_checksums);
            let wanted = wanted.as_deref();
            Some(incremental::parent(&mut link, server, &args.archive, wanted).await?)
        }
        None => None,
    };
    let (parent, _reading) = parent.unzip();
    for left in held.clear()? {
        tracing::info!("removed {left}, which a backup left that failed or was killed");
    }
    if !keep_wal(&mut link, facts.version, &slot_name()).await? {
        tracing::warn!(
            "the server has no replication slot to spare: it may remove WAL that the backup needs, \
             unless something else archives it"
        );
    }
    let started = Timestamp::now();
    let (id, directory) = held.begin(&started.strftime("%Y%m%dT%H%M%SZ").to_string())?;
    let facts = &facts;
    let job = Job { args, settings, facts, data_checksums, held: &held, id, log, parent };
    let result = job.run(&mut link, directory, &catalogue, started, shutdown).await;
    if result.is_err()
        && let Err(error) = held.abandon(&job.id)
    {
        tracing::warn!("{error}; the next backup removes {}", job.id);
    }
    result
}

async fn show(link: &mut Link, name: &'static str) -> Result<String, Failure> {
    let rows = link.ask(&command::show(name)).await?;
    Ok(show_value(&rows).map_err(SessionError::from)?)
}

/// The archive of this server, made if need be. A receiver that has just been started makes it.
async fn open(
    files: &Arc<dyn Files>,
    facts: &Facts,
    stop: &mut Shutdown,
) -> Result<Catalogue, Failure> {
    let (identity, began) = (facts.identity(), Instant::now());
    loop {
        match Catalogue::open(Arc::clone(files)) {
            Err(ArchiveError::NoArchive) => {}
            catalogue => {
                let catalogue = catalogue?;
                catalogue.identity().admits(&identity)?;
                return Ok(catalogue);
            }
        }
        match Archive::claim(Arc::clone(files), "seawall backup") {
            Err(ArchiveError::Locked { .. }) if began.elapsed() < IN_THE_MAKING => {}
            claim => {
                let mut random = [0; 16];
                _ = getrandom::fill(&mut random);
                drop(claim?.open(&identity, &random)?);
                continue;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            _ = stop.changed() => return Err(stopped()),
        }
    }
}

/// The right to take a backup. An expiry has it for a moment, and is waited for.
async fn hold(archive: &Path, files: &dyn Files, holder: &str) -> Result<Held, Failure> {
    let began = Instant::now();
    loop {
        match Backups::open(archive)?.hold(files, holder) {
            Err(BackupError::Locked { holder })
                if began.elapsed() < NAME_PATIENCE
                    || holder.starts_with(expire::HOLDER) && began.elapsed() < EXPIRY_PATIENCE =>
            {
                tokio::time::sleep(EXPIRY_POLL).await;
            }
            held => return Ok(held?),
        }
    }
}

/// Keeps the WAL that a backup needs from being expired, and refuses one whose WAL is.
fn keep_from(
    held: &Held,
    catalogue: &Catalogue,
    id: &str,
    start: Point,
) -> Result<(), BackupError> {
    held.hold_wal(id, start)?;
    let expired = catalogue.expired()?.into_iter().find(|of| of.timeline == start.timeline);
    match expired.filter(|expired| start.lsn < expired.before) {
        None => Ok(()),
        Some(expired) => Err(BackupError::NotABackup(format!(
            "it would begin at {}, and WAL before {} was expired: the server is a standby that is \
             behind; take the backup from the primary, or when the standby has got further",
            start.lsn, expired.before
        ))),
    }
}

/// A slot's name that no other backup has.
fn slot_name() -> SlotName {
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
    let name = format!("seawall_backup_{random:08x}");
    name.parse().unwrap_or_else(|_| unreachable!("{name} is a slot's name"))
}

fn stopped() -> Failure {
    Failure::failed("stopped by a signal: the backup isn't kept")
}

struct Job<'a> {
    args: &'a BackupArgs,
    settings: &'a ConnectionSettings,
    facts: &'a Facts,
    data_checksums: bool,
    held: &'a Held,
    id: String,
    log: &'a Log,
    /// What an incremental backup is taken after.
    parent: Option<Description>,
}

/// Passes bytes on to where they are kept.
struct Keep(backup::Intake);

/// Why bytes aren't kept.
enum NotTaken {
    Refused(BackupError),
    /// The server is about to fail, since a link doesn't fit into a tar file.
    LongLink,
}

impl From<BackupError> for NotTaken {
    fn from(error: BackupError) -> Self {
        Self::Refused(error)
    }
}

impl runtime::Intake for Keep {
    type Error = NotTaken;

    fn archive(&mut self, place: usize) -> Result<(), Self::Error> {
        Ok(self.0.begin_archive(place)?)
    }

    fn manifest(&mut self) -> Result<(), Self::Error> {
        Ok(self.0.begin_manifest()?)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        Ok(self.0.data(bytes)?)
    }
}

impl Job<'_> {
    async fn run(
        &self,
        link: &mut Link,
        directory: disk::Tree,
        catalogue: &Catalogue,
        started: Timestamp,
        mut shutdown: Shutdown,
    ) -> Result<Description, Failure> {
        // Since 11; before, nobody but the owner had access.
        let mode = match self.facts.version.major() {
            10 => "0700".to_owned(),
            _ => show(link, "data_directory_mode").await?,
        };
        let incremental = match &self.parent {
            Some(parent) => {
                let block_size = show(link, "block_size").await?;
                incremental::upload(link, &self.args.archive, parent, &mut shutdown).await?;
                Some(incremental::link(parent, &block_size)?)
            }
            None => None,
        };
        let received = self.receive(link, directory, catalogue, &mut shutdown).await?;
        let ended = Timestamp::now();
        let BackupReceived { intake, start, stop, archives, warnings, damaged } = received;
        let (start, stop) = (point(start), point(stop));
        let taken = intake.0.finish(start, stop, self.facts.system.system_id.0)?;
        let from = incremental.as_ref().map(|link| link.from);
        if taken.label.incremental_from != from {
            let what = "its backup_label isn't that of a backup after the one that was named";
            return Err(BackupError::NotABackup(what.to_owned()).into());
        }
        tracing::info!(
            "{} in {} files, from {} to {}; waiting for the WAL between",
            size(taken.bytes.iter().sum::<u64>() as f64),
            taken.files,
            start.lsn,
            stop.lsn
        );
        let wal = wal::Wanted {
            archive: &self.args.archive,
            settings: self.settings,
            start,
            stop,
            from_standby: taken.label.from_standby,
        };
        wal.await_archived(catalogue, shutdown, self.log).await?;
        let locations = archives.iter().zip(&taken.bytes);
        let tablespaces = locations.filter_map(|(archive, bytes)| {
            let location = archive.location.clone()?;
            Some(TablespaceArchive { oid: archive.oid?, location, bytes: *bytes })
        });
        let base = archives.iter().zip(&taken.bytes).find(|(archive, _)| archive.oid.is_none());
        let damage = damaged.iter().map(ToString::to_string);
        let damage =
            damage.chain(damaged.iter().flat_map(|_| warnings.iter().map(ToString::to_string)));
        let Taken { label, files, manifest_of_server, .. } = &taken;
        let backup = Description {
            format: Description::format_of(incremental.as_ref(), self.args.compress),
            id: self.id.clone(),
            label: self.args.label.as_str().to_owned(),
            server_version: self.facts.version.num(),
            system_identifier: self.facts.system.system_id.to_string(),
            from_standby: label.from_standby,
            start,
            checkpoint: label.checkpoint,
            stop,
            started: text(started),
            ended: text(ended),
            data_checksums: self.data_checksums,
            group_access: matches!(mode.as_str(), "0750" | "750"),
            manifest_of_server: *manifest_of_server,
            files: *files,
            base_bytes: base.map_or(0, |(_, bytes)| *bytes),
            tablespaces: tablespaces.collect(),
            damage: damage.collect(),
            incremental,
            compression: self.args.compress,
        };
        self.held.finish(&backup)?;
        Ok(backup)
    }

    /// Receives it: from 16 on with a map of the tablespaces, before that with their links, since
    /// the map leaves out those within the data directory; unless a link is too long for that.
    async fn receive(
        &self,
        link: &mut Link,
        directory: disk::Tree,
        catalogue: &Catalogue,
        shutdown: &mut Shutdown,
    ) -> Result<BackupReceived<Keep>, Failure> {
        let version = self.facts.version;
        if !has_manifest(version) {
            tracing::info!("this server sends no manifest: one is made of what is received");
        }
        if version.major() < MAP_HAS_ALL_SINCE_MAJOR {
            match self.receive_with(link, (&directory, catalogue), shutdown, false).await {
                Ok(received) => return Ok(received),
                Err(BackupFailure::Intake(NotTaken::LongLink)) => {}
                Err(failure) => return Err(self.failed(failure)),
            }
            tracing::info!("a tablespace's path is too long for a link: the backup begins again");
            link.close();
            *link = runtime::connect(self.settings, TIMING).await?.0;
            keep_wal(link, version, &slot_name()).await?;
        }
        let received = self.receive_with(link, (&directory, catalogue), shutdown, true).await;
        received.map_err(|failure| self.failed(failure))
    }

    async fn receive_with(
        &self,
        link: &mut Link,
        (directory, catalogue): (&disk::Tree, &Catalogue),
        shutdown: &mut Shutdown,
        tablespace_map: bool,
    ) -> Result<BackupReceived<Keep>, BackupFailure<NotTaken>> {
        let (algorithm, method) = (self.args.manifest_checksums, self.args.compress);
        let command = BaseBackup {
            label: &self.args.label,
            fast: self.args.checkpoint == Checkpoint::Fast,
            max_rate_kb: self.args.max_rate,
            tablespace_map,
            manifest_checksums: algorithm.name(),
            incremental: self.parent.is_some(),
        };
        let command = command.command(self.facts.version);
        let begin = |start: &BackupPoint, archives: &[BackupArchive]| {
            let long = |path: &String| path.len() > MAX_LINK_LEN;
            if !tablespace_map && archives.iter().any(|a| a.location.as_ref().is_some_and(long)) {
                return Err(NotTaken::LongLink);
            }
            keep_from(self.held, catalogue, &self.id, point(*start))?;
            let oids = archives.iter().map(|archive| archive.oid).collect();
            let directory = directory.below(Path::new("")).map_err(BackupError::from)?;
            Ok(Keep(backup::Intake::new(directory, oids, algorithm, method)?))
        };
        if self.args.progress {
            tracing::info!("waiting for the server's checkpoint");
        }
        let mut progress = Progress::new(self.args.progress);
        let mut show = |done, total| progress.show(done, total);
        let version = self.facts.version;
        let received = base_backup(link, (&command, version), begin, shutdown, &mut show).await;
        progress.end();
        received
    }

    fn failed(&self, failure: BackupFailure<NotTaken>) -> Failure {
        match (failure, &self.parent) {
            // It has no summaries of the WAL since then.
            (BackupFailure::Session(SessionError::Refused { message, .. }), Some(parent))
                if message.sqlstate == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE =>
            {
                let (id, full) = (&parent.id, incremental::FULL);
                Failure::failed(format!(
                    "an incremental backup after {id} can't be taken: {message}; {full}"
                ))
            }
            (BackupFailure::Session(error), _) => error.into(),
            (BackupFailure::Intake(NotTaken::Refused(error)), _) => error.into(),
            (BackupFailure::Intake(NotTaken::LongLink), _) => {
                Failure::failed("a tablespace's path is too long for a link in a tar file")
            }
            (BackupFailure::Stopped, _) => stopped(),
        }
    }
}

fn point(point: BackupPoint) -> Point {
    Point { timeline: point.timeline, lsn: point.lsn }
}

fn text(at: Timestamp) -> String {
    at.strftime("%FT%T%.6fZ").to_string()
}

/// A line that lives, on a terminal; a line now and then elsewhere.
pub(crate) struct Progress {
    wanted: bool,
    live: bool,
    shown: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { wanted, live: terminal::is_watched(), shown: None }
    }

    pub(crate) fn show(&mut self, done: u64, total: u64) {
        let often = Duration::from_secs(if self.live { 0 } else { 5 });
        let recently = self.shown.is_some_and(|shown| shown.elapsed() < often);
        if !self.wanted || recently {
            return;
        }
        self.shown = Some(Instant::now());
        // The server's total is an estimate from before.
        let total = total.max(done).max(1);
        let percent = done as f64 * 100.0 / total as f64;
        let (begin, end) = if self.live { ("\r\x1b[K", "") } else { ("", "\n") };
        let line =
            format!("{begin}{} of {} ({percent:.0} %){end}", size(done as f64), size(total as f64));
        _ = io::stderr().write_all(line.as_bytes());
    }

    pub(crate) fn end(&self) {
        if self.wanted && self.live && self.shown.is_some() {
            _ = io::stderr().write_all(b"\n");
        }
    }
}
