//! What is asked of a server before its WAL is streamed.

use std::time::Duration;

use archive::{Archive, ArchiveError, Identity};
use pg_types::{Branch, Geometry, Lsn, SegmentSize, ServerVersion, TimelineId};
use pg_wire::command::{
    self, CreatePhysicalSlot, SlotName, create_physical_slot, read_replication_slot,
};
use pg_wire::message::SqlState;
use pg_wire::query::Rows;
use pg_wire::row::{
    SlotState, SystemIdentity, TimelineHistory, parse_duration, parse_size, show_value,
};
use pg_wire::settings::ConnectionSettings;
use pg_wire::startup::{ServerInfo, Startup};
use replication::Timing;

use crate::{AskError, Link, SessionError};

/// How a session ended that was meant to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything before the end position is durable.
    AtEndPosition(Lsn),
    /// Somebody said so; this much is acknowledged.
    Stopped(Lsn),
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its version.
    pub version: ServerVersion,
    /// Its identity, timeline and end of WAL.
    pub system: SystemIdentity,
    /// The sizes of its segments and pages.
    pub geometry: Geometry,
    /// `wal_sender_timeout`; zero where it has none.
    pub wal_sender_timeout: Duration,
}

impl Facts {
    /// Whose WAL it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let server_major = self.version.major();
        Identity { system_id: self.system.system_id, server_major, geometry: self.geometry }
    }
}

/// Connects for physical replication, and asks what a receiver has to know.
///
/// # Errors
/// If the server can't be reached, refuses, or is none that is known.
pub async fn connect(
    settings: &ConnectionSettings,
    timing: Timing,
) -> Result<(Link, Facts), SessionError> {
    let startup = Startup::physical_replication(settings)
        .map_err(|error| SessionError::Protocol(error.into()))?;
    let (mut link, info) = Link::open(settings, startup, timing).await?;
    let version = known_version(&info)?;
    let system = SystemIdentity::from_rows(&link.ask(&command::identify_system()).await?)?;
    let geometry = geometry(&mut link, version).await?;
    let timeout = show(&mut link, "wal_sender_timeout").await?;
    let wal_sender_timeout = parse_duration(&timeout)
        .ok_or(SessionError::Setting { name: "wal_sender_timeout", value: timeout })?;
    link.connection.set_timing(Timing { wal_sender_timeout, ..timing });
    Ok((link, Facts { version, system, geometry, wal_sender_timeout }))
}

/// The server's line of history, with every history file of it kept in the archive, durably.
///
/// # Errors
/// If the server refuses, the connection breaks, or the archive has other files or can't keep
/// these.
pub(crate) async fn history(
    link: &mut Link,
    archive: &Archive,
    timeline: TimelineId,
) -> Result<Branch, SessionError> {
    let Some(content) = ask_history(link, timeline).await? else {
        return Ok(Branch::root(timeline));
    };
    let branch = Branch::parse(timeline, &content).map_err(ArchiveError::from)?;
    for stretch in branch.stretches() {
        let ancestor = stretch.timeline;
        if ancestor == timeline || archive.history(ancestor)?.is_some() {
            continue;
        }
        if let Some(content) = ask_history(link, ancestor).await? {
            archive.keep_history(ancestor, &content)?;
        }
    }
    // Last, so that with it all are there.
    archive.keep_history(timeline, &content)?;
    Ok(branch)
}

/// The server's line of history, of which nothing is kept.
///
/// # Errors
/// If the server refuses, the connection breaks, or its history can't be read.
pub async fn line_of_history(link: &mut Link, facts: &Facts) -> Result<Branch, SessionError> {
    let timeline = facts.system.timeline;
    match ask_history(link, timeline).await? {
        None => Ok(Branch::root(timeline)),
        Some(content) => Ok(Branch::parse(timeline, &content).map_err(ArchiveError::from)?),
    }
}

/// A timeline's history file; `None` if the server has none, as it never has of the first one.
async fn ask_history(
    link: &mut Link,
    timeline: TimelineId,
) -> Result<Option<Vec<u8>>, SessionError> {
    if timeline == TimelineId::FIRST {
        return Ok(None);
    }
    match link.ask(&command::timeline_history(timeline)).await {
        Ok(rows) => Ok(Some(TimelineHistory::from_rows(&rows)?.content)),
        Err(AskError::Server(message)) if message.sqlstate == SqlState::UNDEFINED_FILE => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn known_version(info: &ServerInfo) -> Result<ServerVersion, SessionError> {
    let known = |version: &ServerVersion| (10..=18).contains(&version.major());
    info.version.filter(known).ok_or_else(|| {
        let text = info.parameters.get("server_version").cloned();
        SessionError::Version(text.unwrap_or_default())
    })
}

async fn show(link: &mut Link, name: &'static str) -> Result<String, SessionError> {
    Ok(show_value(&link.ask(&command::show(name)).await?)?)
}

async fn geometry(link: &mut Link, version: ServerVersion) -> Result<Geometry, SessionError> {
    // 10 counts `wal_segment_size` in pages, and can have no other than a build-time size;
    // the long page header tells if it has.
    let name = "wal_segment_size";
    let value = show(link, name).await?;
    let bytes = parse_size(&value)
        .map(|size| if version.major() == 10 && size <= 131_072 { size * 8192 } else { size });
    let segment_size = bytes.and_then(|bytes| SegmentSize::new(bytes).ok());
    let segment_size = segment_size.ok_or(SessionError::Setting { name, value })?;
    let name = "wal_block_size";
    let value = show(link, name).await?;
    let block_size = parse_size(&value).and_then(|bytes| u32::try_from(bytes).ok());
    block_size
        .and_then(|block_size| Geometry::with_block_size(segment_size, block_size))
        .ok_or(SessionError::Setting { name, value })
}

/// The slot's state; `None` if there is no such slot.
///
/// Below 15 no replication command tells; there a plain connection asks `pg_replication_slots`.
///
/// # Errors
/// If the server refuses, or can't be reached.
pub async fn read_slot(
    link: &mut Link,
    settings: &ConnectionSettings,
    version: ServerVersion,
    slot: &SlotName,
) -> Result<Option<SlotState>, AskError> {
    if let Some(command) = read_replication_slot(slot, version) {
        let rows = link.ask(&command).await?;
        return Ok(SlotState::from_rows(&rows).map_err(SessionError::from)?);
    }
    // The database that every cluster has, unless another is named.
    let dbname = settings.dbname.clone().unwrap_or_else(|| "postgres".to_owned());
    let settings = &ConnectionSettings { dbname: Some(dbname), ..link.same_server(settings) };
    let startup =
        Startup::new(settings, &[]).map_err(|error| SessionError::Protocol(error.into()))?;
    let timing = Timing::NONE;
    let (mut plain, _) = Link::open(settings, startup, timing).await?;
    // A slot's name has no quotes in it.
    let query = format!(
        "SELECT slot_type, restart_lsn::text, NULL::int8 FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = '{}'",
        slot.as_str()
    );
    let rows = plain.ask(&query).await?;
    plain.close();
    if rows.rows.is_empty() {
        return Ok(None);
    }
    Ok(SlotState::from_rows(&rows).map_err(SessionError::from)?)
}

/// Makes a physical slot that keeps WAL from now on; `false` if it exists already.
///
/// # Errors
/// If the server refuses, or the connection breaks.
pub async fn create_slot(
    link: &mut Link,
    version: ServerVersion,
    slot: &SlotName,
    reserve_wal: bool,
) -> Result<bool, AskError> {
    let create = CreatePhysicalSlot { name: slot, temporary: false, reserve_wal };
    match link.ask(&create_physical_slot(&create, version)).await {
        Ok(Rows { .. }) => Ok(true),
        Err(AskError::Server(message)) if message.sqlstate == SqlState::DUPLICATE_OBJECT => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
