//! One seed's life: a receiver, a server, and what happens to both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use archive::{Archive, ArchiveError, Options, Stop};
use disk::sim::{Fault, FaultKind, OpClass, OpMatch, PowerLoss, Rng, SimDisk, Times};
use pg_types::{Lsn, TimelineId};
use pg_wire::command::SlotName;
use pg_wire::settings::{ConnectionSettings, Inputs};
use runtime::{Ended, Observer, Progress, Receive, Report, SessionError, Wire, World, within};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::check::{self, Promised};
use super::log::{Log, SEGMENT_SIZE};
use super::server::Server;
use crate::crash::{Cut, Ledger, Violation};

/// What happens to a receiver and its server, before they are left in peace.
const FAULTS: u64 = 24;
/// A log isn't longer: a run takes a fraction of a second.
const MAX_LOG_BYTES: u64 = 5 << 20;
/// The world's turns, about a thousand for each fault; in so many nothing ends that ends at all.
const MAX_TURNS: u64 = 60_000;
/// How many turns another server is in the primary's place.
const ELSEWHERE_TURNS: u64 = 400;

/// What a life came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lived {
    /// How often each thing happened.
    pub faults: BTreeMap<&'static str, u64>,
    /// The timelines that the server had.
    pub timelines: u64,
    /// The gaps that were told of.
    pub gaps: u64,
    /// Of all that the disks did, and of all that was acknowledged.
    pub trace_hash: u64,
}

/// The network: whoever connects waits to be accepted.
struct Net {
    state: Mutex<NetState>,
}

struct NetState {
    arrived: Vec<Arc<Wire>>,
    is_reachable: bool,
    rng: Rng,
}

impl Net {
    fn with<T>(&self, look: impl FnOnce(&mut NetState) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl World for Net {
    fn connect(&self) -> io::Result<Arc<Wire>> {
        self.with(|state| {
            if !state.is_reachable {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let wire = Arc::new(Wire::default());
            state.arrived.push(Arc::clone(&wire));
            Ok(wire)
        })
    }

    fn random(&self) -> u32 {
        self.with(|state| state.rng.next() as u32)
    }
}

/// What the receiver said that is to be checked.
struct Watcher {
    began: Arc<Mutex<Option<Lsn>>>,
    gaps: Vec<Lsn>,
    lost: u64,
}

impl Observer for Watcher {
    fn report(&mut self, report: &Report<'_>) {
        match report {
            Report::Streaming { start, begins: Some(_), .. } => {
                *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(*start);
            }
            Report::Gap(gap) => self.gaps.push(gap.to),
            Report::LostBranch(_) => self.lost += 1,
            _ => {}
        }
    }

    fn progress(&mut self, _progress: &Progress) {}
}

/// Why the world stood still.
enum Halt {
    /// The receiver's process or machine ends.
    Crash(Cut),
    /// Everything is archived, and nothing more will happen.
    Done,
    /// A promise is broken.
    Broken(Violation),
}

struct Life {
    seed: u64,
    rng: Rng,
    net: Arc<Net>,
    woken: Arc<Notify>,
    disk: SimDisk,
    server: Server,
    /// Another server in its place, how long yet, and the end of what both have.
    elsewhere: Option<(Server, u64, Lsn)>,
    /// A copy of the log as it once was.
    copy: Option<Log>,
    /// The starts of the segments that were ever the oldest.
    oldest: BTreeSet<Lsn>,
    gap_ends: BTreeSet<Lsn>,
    left: u64,
    /// Turns until the server can be reached again.
    down: u64,
    /// Turns until the disk has room again.
    full: u64,
    flips: u64,
    has_disk_faults: bool,
    turns: u64,
    lived: Lived,
    begin: Option<Lsn>,
    /// Where the receiver that runs now began with nothing.
    began: Arc<Mutex<Option<Lsn>>>,
    /// The log has got its last record.
    is_concluded: bool,
}

/// Lives one seed.
///
/// # Errors
/// The first violation.
pub fn live(seed: u64) -> Result<Lived, Violation> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Violation::new(error.to_string()))?;
    let mut life = Life::new(seed);
    let lived = runtime.block_on(life.run());
    let within = |v: Violation| v.within(format_args!("seed {seed}: {:?}", life.lived.faults));
    lived.map_err(within)?;
    Ok(life.lived)
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xF1EE7);
        let state = NetState { arrived: Vec::new(), is_reachable: true, rng: Rng::new(seed) };
        let server = Server::new(Log::new(&mut rng));
        let oldest = BTreeSet::from([server.oldest]);
        let lived = Lived { faults: BTreeMap::new(), timelines: 1, gaps: 0, trace_hash: 0 };
        Self {
            seed,
            rng,
            net: Arc::new(Net { state: Mutex::new(state) }),
            woken: Arc::new(Notify::new()),
            disk: SimDisk::new(seed),
            server,
            elsewhere: None,
            copy: None,
            oldest,
            gap_ends: BTreeSet::new(),
            left: FAULTS,
            down: 0,
            full: 0,
            flips: 0,
            has_disk_faults: false,
            turns: 0,
            lived,
            begin: None,
            began: Arc::default(),
            is_concluded: false,
        }
    }

    async fn run(&mut self) -> Result<(), Violation> {
        let what = receive(self.seed)?;
        loop {
            let began = Arc::clone(&self.began);
            let mut watcher = Watcher { began, gaps: Vec::new(), lost: 0 };
            let claim = Archive::claim(Arc::new(self.disk.clone()), "the simulation");
            let claim = claim.map_err(|error| self.wrong(format!("claim: {error}")))?;
            let (_stop, shutdown) = watch::channel(false);
            let (mut disk, woken) = (self.disk.clone(), Arc::clone(&self.woken));
            let net: Arc<dyn World> = Arc::clone(&self.net) as _;
            let ended = {
                let receiver =
                    runtime::receive(&what, &claim, &mut disk, &woken, shutdown, &mut watcher);
                tokio::select! {
                    biased;
                    ended = within(net, receiver) => Err(ended),
                    halt = self.turn() => Ok(halt),
                }
            };
            drop(claim);
            self.look(&watcher)?;
            match ended {
                Ok(Halt::Done) => return self.finish(),
                Ok(Halt::Broken(violation)) => return Err(violation),
                Ok(Halt::Crash(cut)) => self.crash(cut)?,
                Err(ended) => self.ended(ended)?,
            }
        }
    }

    fn wrong(&self, what: impl Into<String>) -> Violation {
        Violation::new(what).logged(&self.disk)
    }

    /// What the receiver said must be so.
    fn look(&mut self, watcher: &Watcher) -> Result<(), Violation> {
        self.gap_ends.extend(&watcher.gaps);
        for to in &watcher.gaps {
            if !self.oldest.contains(to) {
                return Err(self.wrong(format!("a gap to {to}: {:?}", self.oldest)));
            }
        }
        self.lived.gaps += watcher.gaps.len() as u64;
        Ok(())
    }

    /// A receiver that began with nothing: then nothing may have been promised.
    fn look_at_beginning(&mut self) -> Result<(), Violation> {
        let began = self.began.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(began) = began.filter(|_| self.elsewhere.is_none()) else { return Ok(()) };
        // The position at which one begins is acknowledged at once.
        let nothing = self.begin.unwrap_or(began);
        if self.server.acknowledged.values().any(|flush| *flush > nothing && *flush != began) {
            return Err(self.wrong(format!("it began anew at {began}")));
        }
        self.server.acknowledged.clear();
        self.begin = Some(began);
        Ok(())
    }

    /// The receiver gave up: with a reason.
    fn ended(&mut self, ended: Result<Ended, SessionError>) -> Result<(), Violation> {
        let expected = match &ended {
            Err(SessionError::Diverged { .. } | SessionError::Stopped(Stop::Diverged { .. })) => {
                self.count("refused another history");
                self.elsewhere.is_some()
            }
            Err(SessionError::Stopped(Stop::Corrupt(_))) => {
                self.flips > 1 || self.elsewhere.is_some()
            }
            Err(SessionError::Archive(ArchiveError::Disk(_))) => self.has_disk_faults,
            _ => false,
        };
        if !expected {
            let what = match ended {
                Ok(ended) => format!("it ended: {ended:?}"),
                Err(error) => format!("it gave up: {error}"),
            };
            return Err(self.wrong(what));
        }
        self.come_back();
        self.crash(Cut::Kill)
    }

    fn crash(&mut self, cut: Cut) -> Result<(), Violation> {
        self.server.cut();
        self.trace(self.disk.trace_hash());
        let seed = self.rng.next();
        self.disk = cut.apply(&self.disk, &Ledger::new(Lsn::INVALID), seed).0;
        self.disk.clear_faults();
        self.disk.set_capacity(None);
        self.full = 0;
        self.check()
    }

    fn check(&self) -> Result<(), Violation> {
        let (begin, flush) = (self.begin, self.server.acknowledged.clone());
        let gap_ends = self.gap_ends.clone();
        check::kept(&self.disk, &self.server.log, &Promised { begin, flush, gap_ends })
    }

    fn finish(&mut self) -> Result<(), Violation> {
        self.trace(self.disk.trace_hash());
        for (timeline, flush) in self.server.acknowledged.clone() {
            self.trace(u64::from(timeline.as_u32()) << 48 ^ flush.as_u64());
        }
        self.lived.timelines = self.server.log.left.len() as u64 + 1;
        self.check()
    }

    fn trace(&mut self, value: u64) {
        let mixed = self.lived.trace_hash.rotate_left(7) ^ value;
        self.lived.trace_hash = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn count(&mut self, what: &'static str) {
        *self.lived.faults.entry(what).or_default() += 1;
    }

    /// The world's turns, until the receiver has to end.
    async fn turn(&mut self) -> Halt {
        loop {
            self.turns += 1;
            if self.turns > MAX_TURNS {
                let end = self.server.log.end();
                let acknowledged = &self.server.acknowledged;
                return Halt::Broken(self.wrong(format!("stuck: {acknowledged:?} of {end}")));
            }
            let arrived = self.net.with(|state| std::mem::take(&mut state.arrived));
            let server = self.elsewhere.as_mut().map_or(&mut self.server, |(other, ..)| other);
            for wire in arrived {
                server.accept(wire);
            }
            server.serve(&mut self.rng);
            let mut moved = server.has_sessions();
            for _ in 0..=self.rng.below(6) {
                moved |= self.disk.step();
            }
            if self.disk.is_off() {
                return Halt::Crash(Cut::ALL[self.rng.index(2)]);
            }
            self.woken.notify_one();
            if let Err(violation) = self.look_at_beginning() {
                return Halt::Broken(violation);
            }
            if let Some(violation) = self.elsewhere_turn() {
                return Halt::Broken(violation);
            }
            self.pass();
            if let Some(halt) = self.happen() {
                return halt;
            }
            let pause = if moved { 100 + self.rng.below(2_000) } else { 50_000 };
            sleep(Duration::from_micros(pause)).await;
        }
    }

    /// What ends by itself.
    fn pass(&mut self) {
        let length = self.server.log.end().saturating_since(self.server.log.start());
        if length < MAX_LOG_BYTES && !self.is_concluded && self.rng.below(5) == 0 {
            self.server.log.grow(&mut self.rng);
        }
        self.down = self.down.saturating_sub(1);
        let is_reachable = self.down == 0;
        self.net.with(|state| state.is_reachable = is_reachable);
        if self.full > 0 {
            self.full -= 1;
            if self.full == 0 {
                self.disk.set_capacity(None);
            }
        }
        if self.rng.below(200) == 0 {
            let mut copy = self.server.log.clone();
            copy.finish();
            self.copy = Some(copy);
        }
    }

    /// Something happens, or nothing more will.
    fn happen(&mut self) -> Option<Halt> {
        if self.left == 0 {
            return self.is_done().then_some(Halt::Done);
        }
        if self.elsewhere.is_some() || self.rng.below(40) != 0 {
            return None;
        }
        self.left -= 1;
        match self.rng.below(14) {
            0 | 1 => {
                self.count("connections cut");
                self.server.cut();
            }
            2 | 3 => {
                let broken = self.server.log.crash(&mut self.rng);
                self.count(if broken { "crashed in mid-record" } else { "crashed" });
                self.server.cut();
                self.down = self.rng.below(100);
            }
            4 => {
                self.count("promoted");
                self.server.log.promote(&mut self.rng);
                // A standby has WAL of its own.
                let switch = self.server.log.left.last().map_or(Lsn::INVALID, |(_, at)| *at);
                self.server.oldest = self.server.oldest.min(switch.segment_start(SEGMENT_SIZE));
                self.oldest.insert(self.server.oldest);
                self.server.cut();
            }
            5 => self.recycle("recycled"),
            6 => {
                let (what, slot) = match self.rng.below(3) {
                    0 => ("slot dropped", None),
                    1 => ("slot invalidated", Some(None)),
                    _ => ("slot advanced", Some(Some(self.server.log.end()))),
                };
                self.server.slot = slot;
                self.server.cut();
                self.recycle(what);
            }
            7 | 8 => {
                self.count("receiver without power");
                let loss = [PowerLoss::StrictPosix, PowerLoss::Ext4Ordered][self.rng.index(2)];
                return Some(Halt::Crash(Cut::Power(loss)));
            }
            9 => {
                self.count("receiver killed");
                return Some(Halt::Crash(Cut::Kill));
            }
            10 => {
                self.count("bit flipped");
                self.flips += 1;
                self.server.flip_next = true;
            }
            11 => {
                self.count("disk failed once");
                self.has_disk_faults = true;
                let at = OpMatch::nth(OpClass::Change, self.rng.below(10));
                self.disk.inject(Fault { at, what: FaultKind::Eio, times: Times::Count(1) });
            }
            12 => {
                self.count("disk full");
                self.has_disk_faults = true;
                self.full = 1 + self.rng.below(300);
                self.disk.set_capacity(Some(self.disk.used_bytes() + self.rng.below(1 << 20)));
            }
            _ => self.go_elsewhere(),
        }
        None
    }

    fn recycle(&mut self, what: &'static str) {
        self.count(what);
        let end = self.server.log.end().segment_start(SEGMENT_SIZE);
        self.server.recycle(end);
        self.oldest.insert(self.server.oldest);
    }

    /// The server comes back as it once was, and goes ways of its own; if the archive is further.
    fn go_elsewhere(&mut self) {
        let Some(mut log) = self.copy.take() else { return };
        let (timeline, common) = (log.timeline, log.end());
        // By a whole record, that is: the beginning of one may be acknowledged to a server that asks
        // for just it, and so is the end of a gap; neither tells one history from another.
        let archived = self.server.acknowledged.get(&timeline).copied();
        let archived = archived.filter(|end| !self.gap_ends.contains(end)).unwrap_or(Lsn::INVALID);
        let is_further = self.server.log.truth(timeline).is_some_and(|truth| {
            truth.records().iter().any(|record| record.lsn >= common && record.end <= archived)
        });
        if !is_further {
            return;
        }
        self.count("an old copy in its place");
        let more = self.rng.below(1 << 20);
        while log.end().saturating_since(common) < 100 + more {
            log.grow(&mut self.rng);
        }
        log.finish();
        self.server.cut();
        let mut other = Server::new(log);
        other.slot = Some(Some(common));
        self.elsewhere = Some((other, ELSEWHERE_TURNS, common));
    }

    fn elsewhere_turn(&mut self) -> Option<Violation> {
        let (other, turns, common) = self.elsewhere.as_mut()?;
        *turns -= 1;
        let common = *common;
        let said: Vec<(TimelineId, Lsn)> =
            other.acknowledged.iter().map(|(timeline, flush)| (*timeline, *flush)).collect();
        if *turns == 0 {
            self.come_back();
        }
        let wrong = said.into_iter().find(|(_, flush)| *flush > common)?;
        Some(self.wrong(format!("another history was acknowledged from {common} on: {wrong:?}")))
    }

    fn come_back(&mut self) {
        if let Some((mut other, ..)) = self.elsewhere.take() {
            other.cut();
        }
    }

    fn is_done(&mut self) -> bool {
        self.disk.clear_faults();
        self.disk.set_capacity(None);
        if !std::mem::replace(&mut self.is_concluded, true) {
            self.server.log.conclude();
        }
        let log = &self.server.log;
        self.elsewhere.is_none()
            && self.server.acknowledged.get(&log.timeline) == Some(&log.end())
            && self.disk.pending() == 0
    }
}

fn receive(seed: u64) -> Result<Receive, Violation> {
    let inputs = Inputs {
        flags: pg_wire::settings::Flags {
            host: Some("127.0.0.1".into()),
            user: Some("sim".into()),
            ..Default::default()
        },
        // The simulated server has no TLS, and nobody asks it.
        conninfo: Some("sslmode=disable".into()),
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        env: &|_| None,
        os_user: None,
        home: None,
        socket_dirs: Vec::new(),
        fallback_application_name: None,
    };
    let settings =
        ConnectionSettings::resolve(&inputs).map_err(|error| Violation::new(error.to_string()))?;
    let buffer_bytes = [16 << 10, 64 << 10, 256 << 10][(seed % 3) as usize];
    Ok(Receive {
        needed: None,
        settings,
        slot: SlotName::new("s").ok(),
        create_slot: true,
        if_not_exists: true,
        max_slot_retention: None,
        start_position: None,
        end_position: None,
        reconnect: true,
        status_interval: Duration::from_secs(10),
        writer: Options { buffers: 6, buffer_bytes, sync: true },
        tip: runtime::TipSender::new(None),
    })
}
