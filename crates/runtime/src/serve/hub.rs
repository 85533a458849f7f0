//! What the connections of a server share, and who they are.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use archive::{ArchiveError, Catalogue, Layout};
use disk::Files;
use jiff::Timestamp;
use pg_types::{Geometry, Lsn, SegmentNumber, SegmentSize, ServerVersion, SystemId, TimelineId};
use pg_wire::base_backup::BackupPoint;
use pg_wire::feedback::Horizons;
use pg_wire::message::SqlState;
use pg_wire::server::Verifier;
use pg_wire::server::response::Refusal;
use pg_wire::server::same_secret;
use pg_wire::server::users::{self, MAX_USERS_BYTES};
use replication::sender::{Host, Login, Secrets, Standing};
use tokio::sync::{Notify, watch};

use super::slots::Table;
use super::source::Sources;
use super::{Auth, Serve, ServeReport, Tell};
use crate::tls::ServerTls;
use crate::{Tip, TipReceiver, TlsError, world};

/// `seawall.json` is shorter.
const MAX_FORMAT_BYTES: usize = 64 << 10;

pub(super) struct Hub {
    pub(super) what: Serve,
    files: Arc<dyn Files>,
    pub(super) tip: TipReceiver,
    pub(super) slots: Table,
    pub(super) sources: Sources,
    catalogue: OnceLock<Arc<Catalogue>>,
    mock: OnceLock<Vec<u8>>,
    /// By number.
    members: Mutex<BTreeMap<u32, Arc<Member>>>,
    tls: Mutex<Option<Arc<ServerTls>>>,
    /// How many there are.
    count: watch::Sender<usize>,
    /// What all of them need of the primary.
    needed: watch::Sender<Horizons>,
    next_pid: AtomicU32,
    tell: Arc<Tell>,
}

/// A connection, as others see it.
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) address: String,
    secrets: Secrets,
    since: Timestamp,
    /// Its task has something to look at.
    pub(super) woken: Notify,
    logged_in: AtomicBool,
    must_leave: AtomicBool,
    cancelled: AtomicBool,
    /// The connection whose end it waits for; none is 0.
    held_by: AtomicU32,
    shown: Mutex<Shown>,
}

/// What it is doing.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    pub(super) user: String,
    pub(super) name: String,
    pub(super) slot: Option<String>,
    pub(super) in_backup: bool,
    /// Where the backup begins that it was given.
    pub(super) backup: Option<BackupPoint>,
    pub(super) standing: Option<Standing>,
}

/// Which way a client comes.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By a Unix socket.
    Local,
    /// By TCP, not encrypted.
    Plain,
    /// By TCP, encrypted; what is known of its certificate.
    Tls { common_name: Option<String> },
}

/// A connection, for people and programs.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Its number.
    pub pid: u32,
    /// Where it comes from.
    pub address: String,
    /// Since when.
    pub since: Timestamp,
    /// Who it is.
    pub user: String,
    /// `application_name`.
    pub name: String,
    /// The slot that it streams with.
    pub slot: Option<String>,
    /// Whether it is being sent a base backup.
    pub in_backup: bool,
    /// Where its stream stands, while there is one.
    pub standing: Option<Standing>,
}

/// Tells who is connected.
#[derive(Clone)]
pub struct Watcher(Arc<Hub>);

impl Watcher {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }

    /// Those that have logged in, in the order in which they came.
    #[must_use]
    pub fn followers(&self) -> Vec<Follower> {
        let members = self.0.members.lock().unwrap_or_else(PoisonError::into_inner);
        let members = members.values().filter(|member| member.is_logged_in());
        members.map(|member| member.follower()).collect()
    }

    /// Up to where WAL is handed on.
    #[must_use]
    pub fn tip(&self) -> Option<Tip> {
        *self.0.tip.borrow()
    }

    /// The slots, and the numbers of the connections that use them.
    #[must_use]
    pub fn slots(&self) -> Vec<(archive::Slot, Option<u32>)> {
        self.0.slots.all()
    }
}

impl Member {
    pub(super) fn is_logged_in(&self) -> bool {
        self.logged_in.load(Ordering::Relaxed)
    }

    /// Whether it has to go, since others wait for its place.
    pub(super) fn must_leave(&self) -> bool {
        self.must_leave.load(Ordering::Relaxed)
    }

    /// Whether somebody wants its stream cancelled; said once.
    pub(super) fn take_cancelled(&self) -> bool {
        self.cancelled.swap(false, Ordering::Relaxed)
    }

    pub(super) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    pub(super) fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether both are one client's: its user, its name, and where it comes from.
    fn is_of_the_same(&self, other: &Self) -> bool {
        let of = |member: &Self| {
            let shown = member.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let host = member.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned();
            (shown.user.clone(), shown.name.clone(), host)
        };
        of(self) == of(other)
    }

    /// Whether it was given a backup that begins in this segment.
    fn has_backup(&self, timeline: TimelineId, number: SegmentNumber, size: SegmentSize) -> bool {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let here =
            |backup: BackupPoint| (backup.timeline, backup.lsn.segment(size)) == (timeline, number);
        shown.backup.is_some_and(here)
    }

    /// Whether its stream waits for another connection's end.
    pub(super) fn is_held(&self) -> bool {
        self.held_by.load(Ordering::Relaxed) != 0
    }

    /// What it needs of the primary, once it has said so.
    pub(super) fn horizons(&self) -> Option<Horizons> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.standing.and_then(|standing| standing.horizons)
    }

    fn follower(&self) -> Follower {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Shown { user, name, slot, in_backup, standing, .. } = shown;
        let (pid, address, since) = (self.pid, self.address.clone(), self.since);
        Follower { pid, address, since, user, name, slot, in_backup, standing }
    }
}

impl Hub {
    pub(super) fn new(
        what: Serve,
        files: Arc<dyn Files>,
        tip: TipReceiver,
        slots: Table,
        tell: Arc<Tell>,
    ) -> Result<Self, TlsError> {
        let hub = Self {
            what,
            files,
            tip,
            slots,
            sources: Sources::default(),
            catalogue: OnceLock::new(),
            mock: OnceLock::new(),
            members: Mutex::default(),
            tls: Mutex::default(),
            count: watch::Sender::new(0),
            needed: watch::Sender::new(Horizons::NONE),
            // As the server's: connections after a restart have other numbers, mostly.
            next_pid: AtomicU32::new(std::process::id()),
            tell,
        };
        hub.load_tls()?;
        // Of those that were there before.
        hub.need();
        Ok(hub)
    }

    /// Reads the files of TLS.
    pub(super) fn load_tls(&self) -> Result<(), TlsError> {
        let Some(files) = &self.what.tls else { return Ok(()) };
        let tls = ServerTls::new(files)?;
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tls));
        Ok(())
    }

    pub(super) fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tell(&self, report: &ServeReport<'_>) {
        (self.tell)(report);
    }

    pub(super) fn trouble(&self, text: &str) {
        self.tell(&ServeReport::Trouble(text));
    }

    /// The archive; `None` until there is one.
    pub(super) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        if let Some(catalogue) = self.catalogue.get() {
            return Some(Arc::clone(catalogue));
        }
        match Catalogue::open(Arc::clone(&self.files)) {
            Ok(catalogue) => Some(Arc::clone(self.catalogue.get_or_init(|| Arc::new(catalogue)))),
            Err(ArchiveError::NoArchive) => None,
            Err(error) => {
                self.trouble(&error.to_string());
                None
            }
        }
    }

    /// What is served; `None` while nothing can be.
    fn ready(&self) -> Option<(Arc<Catalogue>, Tip)> {
        let tip = *self.tip.borrow();
        Some((self.catalogue()?, tip?))
    }

    /// What a connection says of the server, and whether that is so: before there is an archive it
    /// is what lets the connection be refused.
    pub(super) fn host(&self) -> (Host, bool) {
        let ready = self.ready();
        let (version, system_id, geometry) = match &ready {
            Some((catalogue, tip)) => {
                let identity = catalogue.identity();
                (tip.version, identity.system_id, identity.geometry)
            }
            None => {
                let geometry = Geometry::new(SegmentSize::DEFAULT);
                (ServerVersion::from_num(140_000), SystemId(0), geometry)
            }
        };
        let wal_sender_timeout = self.what.wal_sender_timeout;
        (Host { version, system_id, geometry, wal_sender_timeout }, ready.is_some())
    }

    /// How a user logs in who comes this way.
    pub(super) fn login(&self, user: &str, way: &Way) -> Result<Login, Refusal> {
        let others = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if others.values().filter(|member| member.is_logged_in()).count()
            >= self.what.max_connections
        {
            let text = "sorry, too many clients already";
            return Err(Refusal::fatal(SqlState::TOO_MANY_CONNECTIONS, text));
        }
        drop(others);
        let refused = |text: String| Refusal::fatal(SqlState::INVALID_AUTHORIZATION, text);
        let common_name = match way {
            // Nobody but the socket's owner comes this way.
            Way::Local => return Ok(Login::Trust),
            Way::Plain if self.what.tls.is_some() => {
                return Err(refused(
                    "this server wants TLS, and the connection has none".to_owned(),
                )
                .hint("Connect with sslmode=require, or a stronger one."));
            }
            Way::Plain => None,
            Way::Tls { common_name } => common_name.as_deref(),
        };
        match self.what.auth {
            Auth::Trust => Ok(Login::Trust),
            Auth::Cert if common_name == Some(user) => Ok(Login::Trust),
            Auth::Cert if common_name.is_none() => {
                Err(refused("connection requires a valid client certificate".to_owned()))
            }
            Auth::Cert => {
                Err(refused(format!("certificate authentication failed for user \"{user}\"")))
            }
            Auth::Scram => self.verifier(user).map(Login::Scram),
        }
    }

    /// The file is read each time: whoever is put in may log in at once.
    fn verifier(&self, user: &str) -> Result<Verifier, Refusal> {
        let path = self.what.users.display();
        let found = read_users(&self.what.users).map_err(|error| error.to_string());
        let secret = self.mock();
        let find = |text: String| users::find(&text, user, &secret);
        let found = found.and_then(|text| find(text).map_err(|error| error.to_string()));
        found.map_err(|error| {
            self.trouble(&format!("{path}: {error}; nobody can log in"));
            Refusal::fatal(SqlState::INTERNAL_ERROR, "the server's users file can't be read")
        })
    }

    /// What the salts of users who don't exist are made of: known to nobody but the archive's owner,
    /// and the same for as long as that lives.
    fn mock(&self) -> Vec<u8> {
        let read = || self.files.read(Layout::FORMAT.as_ref(), MAX_FORMAT_BYTES).ok();
        let known = self.mock.get().cloned();
        let found = known.or_else(|| read().map(|mock| self.mock.get_or_init(|| mock).clone()));
        found.unwrap_or_default()
    }

    /// A new connection. Where too many haven't logged in yet, the oldest of those has to go.
    pub(super) fn join(&self, address: String, max_pending: usize) -> io::Result<Arc<Member>> {
        let mut secrets = Secrets {
            process_id: self.next_pid.fetch_add(1, Ordering::Relaxed) & 0x7FFF_FFFF,
            cancel_key: [0; 32],
            nonce: [0; 18],
        };
        getrandom::fill(&mut secrets.cancel_key).map_err(io::Error::other)?;
        getrandom::fill(&mut secrets.nonce).map_err(io::Error::other)?;
        let member = Arc::new(Member {
            pid: secrets.process_id,
            address,
            secrets,
            since: world::timestamp(),
            woken: Notify::new(),
            logged_in: AtomicBool::new(false),
            must_leave: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            held_by: AtomicU32::new(0),
            shown: Mutex::default(),
        });
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let pending = |member: &&Arc<Member>| !member.is_logged_in() && !member.must_leave();
        if members.values().filter(pending).count() >= max_pending
            && let Some(oldest) = members.values().find(pending)
        {
            oldest.must_leave.store(true, Ordering::Relaxed);
            oldest.woken.notify_one();
        }
        members.insert(member.pid, Arc::clone(&member));
        self.count.send_replace(members.len());
        Ok(member)
    }

    pub(super) fn logged_in(&self, member: &Member) {
        member.logged_in.store(true, Ordering::Relaxed);
    }

    pub(super) fn leave(&self, member: &Member) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.remove(&member.pid);
        for held in members.values() {
            let (by, none) = (member.pid, 0);
            let order = Ordering::Relaxed;
            if held.held_by.compare_exchange(by, none, order, order).is_ok() {
                held.woken.notify_one();
            }
        }
        self.count.send_replace(members.len());
        drop(members);
        self.need();
    }

    /// What the followers need of the primary.
    pub(super) fn needed(&self) -> watch::Receiver<Horizons> {
        self.needed.subscribe()
    }

    /// Sums up what followers need: one of them needs something else now, or has gone.
    pub(super) fn need(&self) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = members.values().filter_map(|member| member.horizons()).collect::<Vec<_>>();
        all.extend(self.slots.needs());
        let all = Horizons::of_all(&all);
        self.needed.send_if_modified(|needed| std::mem::replace(needed, all) != all);
    }

    /// A stream begins with this segment. If it is the WAL of a backup that its client is given on
    /// another connection, it isn't led to another timeline for as long as that one is there: the
    /// client would stop somewhere on the new one, and have the beginning of a file that no server
    /// starts with.
    pub(super) fn hold(&self, me: &Member, timeline: TimelineId, at: Lsn, size: SegmentSize) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let others = members.values().filter(|other| other.pid != me.pid);
        let mut backups = others.filter(|other| other.has_backup(timeline, at.segment(size), size));
        let by = backups.find(|other| other.is_of_the_same(me)).map_or(0, |other| other.pid);
        me.held_by.store(by, Ordering::Relaxed);
    }

    /// Cancels what a connection does, for somebody who knows its key.
    pub(super) fn cancel(&self, pid: u32, key: &[u8]) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(member) = members.get(&pid) else { return };
        let whole = &member.secrets.cancel_key;
        // Until 3.2 a key has four bytes.
        let known = whole.get(..key.len()).filter(|known| matches!(known.len(), 4 | 32));
        if known.is_some_and(|known| same_secret(known, key)) {
            member.cancelled.store(true, Ordering::Relaxed);
            member.woken.notify_one();
        }
    }

    /// The slot that a connection streams with was let go.
    pub(super) fn cancel_pid(&self, pid: u32) {
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(member) = members.get(&pid) {
            member.cancelled.store(true, Ordering::Relaxed);
            member.woken.notify_one();
        }
    }

    /// Waits until nobody is connected any more.
    pub(super) async fn all_gone(&self) {
        _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// What is said before anything can be streamed.
pub(super) fn starting_up() -> Refusal {
    Refusal::fatal(SqlState::CANNOT_CONNECT_NOW, "the database system is starting up")
        .detail("Nothing is archived yet that could be streamed.")
}

/// The longest wait for a login; as the server's `authentication_timeout`.
pub(super) const LOGIN_LIMIT: Duration = Duration::from_secs(60);

fn read_users(path: &std::path::Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    let file = match std::fs::File::open(path) {
        // Nobody was put in yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(text),
        file => file?,
    };
    let max = MAX_USERS_BYTES as u64;
    if file.take(max + 1).read_to_string(&mut text)? > MAX_USERS_BYTES {
        return Err(io::Error::other(format!("it has more than {max} bytes")));
    }
    Ok(text)
}
