//! `seawall serve`, and what `seawall receive --serve` does beside receiving: a thread of its own
//! with a runtime of its own, so that followers never hold up an acknowledgement.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use archive::{ArchiveError, Catalogue};
use disk::{Files, RealFiles};
use pg_wire::feedback::Horizons;
use replication::sender::Status;
use runtime::{
    Followed, Follower, Listen, Needs, Serve, ServeError, ServeReport, Server, Tip, TipReceiver,
    TipSender, Watcher,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::board::{self, Run, SERVER_SOCKET, TIP_SOCKET};
use crate::cli::{AuthArg, ReceiveArgs, ServeArgs, ServingArgs, users_file};
use crate::observer::size;
use crate::{Failure, log, receive, serve_backup, service};

/// Threads for what takes the disk, beside one for each follower that catches up.
const MORE_THREADS: usize = 8;

pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let _log = log::start(args.talk, false, Some(&args.archive));
    let files: Arc<dyn Files> = Arc::new(RealFiles::new(args.archive.clone()));
    Catalogue::open(Arc::clone(&files)).map_err(|error| {
        Failure::from(error).of(&format!("the archive {}", args.archive.display()))
    })?;
    let tip = TipSender::new(None);
    // Whoever connects as soon as somebody listens gets it.
    runtime::publish_archived(&files, &tip)?;
    let what = plan(&args.archive, &args.listen, &args.serving)?;
    let server = bind(what, &files, tip.subscribe())?;
    publish_followers(&args.archive, server.watcher());
    let (stop, shutdown) = watch::channel(false);
    let (socket, wal) = (Run::open(&args.archive), args.archive.join(archive::Layout::WAL));
    let socket = socket.map_err(|error| Failure::failed(format!("run/ can't be read: {error}")))?;
    let followed = Followed { socket: socket.path(TIP_SOCKET), wal, files };
    let trouble = |error: &ArchiveError| tracing::error!("{error}");
    let following = runtime::follow(followed, tip, server.needed(), shutdown.clone(), trouble);
    service::ready();
    let runtime = runtime(&args.serving)?;
    runtime.block_on(async {
        let signals = tokio::spawn(receive::stop_on_signal(stop));
        let serving = server.run(shutdown);
        tokio::select! {
            () = async { _ = tokio::join!(following, serving) } => {}
            never = service::pat_watchdog() => never,
        }
        signals.abort();
    });
    // What still waits for the disk isn't waited for.
    runtime.shutdown_background();
    tracing::info!("stopped");
    Ok(())
}

pub(crate) fn plan(
    archive: &Path,
    listen: &[Listen],
    args: &ServingArgs,
) -> Result<Serve, Failure> {
    let tls = args.tls();
    let has_authorities = tls.as_ref().is_some_and(|tls| tls.authorities.is_some());
    if args.serve_auth == AuthArg::Cert && !has_authorities {
        let text = "--serve-auth cert takes --tls-cert, --tls-key and --tls-ca";
        return Err(Failure::usage(text));
    }
    let is_open = listen.iter().any(|listen| !listen.is_here());
    if is_open && tls.is_none() {
        tracing::warn!(
            "clients of other machines are served without encryption, and all of the cluster's \
             changes go over the network readable: use --tls-cert and --tls-key"
        );
    }
    Ok(Serve {
        listen: listen.to_vec(),
        auth: args.serve_auth.into(),
        users: users_file(archive, args.users.as_ref()),
        max_connections: args.max_connections.into(),
        max_slot_retention: args.max_follower_retention,
        wal_sender_timeout: args.wal_sender_timeout,
        tls,
        backups: Arc::new(serve_backup::Stored(archive.to_owned())),
    })
}

/// Listens, and says where.
fn bind(what: Serve, files: &Arc<dyn Files>, tip: TipReceiver) -> Result<Server, Failure> {
    let listen = what.listen.clone();
    let holder = format!("seawall, process {}", std::process::id());
    let bound = Server::bind(what, Arc::clone(files), tip, &holder, Arc::new(say));
    let server = bound.map_err(|error| match error {
        ServeError::Archive(error) => error.into(),
        error => Failure::failed(error),
    })?;
    for address in listen {
        let text = format!("serving on {address}");
        log::say(
            tracing::Level::INFO,
            &json!({"event": "serving", "address": address.to_string()}),
            &text,
        );
    }
    Ok(server)
}

/// A thread is made when it is needed, and ends when it isn't.
fn runtime(args: &ServingArgs) -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(usize::from(args.max_connections) + MORE_THREADS)
        .enable_all()
        .build();
    runtime.map_err(|error| Failure::failed(format!("can't start: {error}")))
}

/// Clients that are served beside receiving.
pub(crate) struct Beside {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    needed: watch::Receiver<Horizons>,
}

impl Beside {
    /// Serves on a thread of its own. What listens, listens when this returns.
    pub(crate) fn start(
        archive: &Path,
        args: &ReceiveArgs,
        tip: &TipSender,
    ) -> Result<Self, Failure> {
        let serve = plan(archive, &args.serve, &args.serving)?;
        let files: Arc<dyn Files> = Arc::new(RealFiles::new(archive.to_owned()));
        let server = bind(serve, &files, tip.subscribe())?;
        publish_followers(archive, server.watcher());
        // The server may be down: what is archived can be had at once.
        if let Err(error) = runtime::publish_archived(&files, tip) {
            tracing::error!("what is archived can't be served yet: {error}");
        }
        let needed = server.needed();
        let runtime = runtime(&args.serving)?;
        let (stop, shutdown) = watch::channel(false);
        let work = move || {
            runtime.block_on(server.run(shutdown));
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("serve".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Failure::failed(format!("can't start: {error}")))?;
        Ok(Self { stop, thread: Some(thread), needed })
    }

    /// What the followers need of the primary.
    pub(crate) fn needed(&self) -> watch::Receiver<Horizons> {
        self.needed.clone()
    }
}

impl Drop for Beside {
    /// Followers get what is left, for a moment.
    fn drop(&mut self) {
        _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

/// Tells a `seawall serve` of its own how far this receiver is, and is told what its followers need.
pub(crate) async fn announce(archive: &Path, tip: &TipSender, needs: &Arc<Needs>) -> ! {
    match Run::open(archive).and_then(|run| run.listen(TIP_SOCKET)) {
        Ok(listener) => runtime::announce(listener, tip.subscribe(), Arc::clone(needs)).await,
        Err(error) => {
            tracing::warn!("a `seawall serve` of its own won't hear of this receiver: {error}");
        }
    }
    std::future::pending().await
}

/// A client by its application name, which it need not have.
fn who(name: &str, pid: u32) -> String {
    if name.is_empty() { format!("client {pid}") } else { format!("{name} ({pid})") }
}

fn say(report: &ServeReport<'_>) {
    use tracing::Level;
    let (level, facts, text) = match report {
        ServeReport::Connected { pid, address, user, name } => (
            Level::DEBUG,
            json!({"event": "follower", "pid": pid, "address": address, "user": user, "name": name}),
            format!("{} from {address} logged in as {user}", who(name, *pid)),
        ),
        ServeReport::Streaming { pid, name, timeline, start } => (
            Level::INFO,
            json!({"event": "follower_streams", "pid": pid, "name": name,
                   "timeline": timeline.as_u32(), "start": start.to_string()}),
            format!("{} streams timeline {timeline} from {start}", who(name, *pid)),
        ),
        ServeReport::Disconnected { pid, name } => (
            Level::DEBUG,
            json!({"event": "follower_left", "pid": pid, "name": name}),
            format!("{} is gone", who(name, *pid)),
        ),
        ServeReport::Note { pid, address, text } => (
            Level::WARN,
            json!({"event": "client_note", "pid": pid, "address": address, "note": text}),
            format!("client {address} ({pid}): {text}"),
        ),
        ServeReport::Reloaded => (
            Level::INFO,
            json!({"event": "tls_reloaded"}),
            "the files of TLS were read again".to_owned(),
        ),
        ServeReport::Trouble(text) => {
            (Level::ERROR, json!({"event": "serving_trouble", "error": text}), (*text).to_owned())
        }
        ServeReport::SlotCreated(slot) => (
            Level::INFO,
            json!({"event": "follower_slot_created", "slot": slot}),
            format!("created the follower's slot \"{slot}\""),
        ),
        ServeReport::SlotDropped(slot) => (
            Level::INFO,
            json!({"event": "follower_slot_dropped", "slot": slot}),
            format!("dropped the follower's slot \"{slot}\""),
        ),
        ServeReport::SlotLost { slot, retained, limit } => (
            Level::ERROR,
            json!({"event": "follower_slot_lost", "slot": slot, "retained_bytes": retained,
                   "limit_bytes": limit}),
            format!(
                "ALARM: the follower's slot \"{slot}\" kept {} in the archive, more than \
                 --max-follower-retention allows: it keeps nothing any more, and can't be streamed \
                 with; drop it, and make it anew",
                size(*retained as f64)
            ),
        ),
        _ => return,
    };
    log::say(level, &facts, &text);
}

/// Has `seawall status` find the followers.
fn publish_followers(archive: &Path, watcher: Watcher) {
    let published = board::publish(archive, SERVER_SOCKET, move || followers(&watcher));
    if let Err(error) = published {
        tracing::warn!("`seawall status` won't find the followers: {error}");
    }
}

fn followers(watcher: &Watcher) -> Value {
    let tip = watcher.tip();
    let followers = watcher.followers();
    let slots = watcher.slots().into_iter().map(|(slot, active)| {
        json!({
            "name": slot.name,
            "temporary": slot.temporary,
            "restart_lsn": slot.restart.map(|(_, at)| at.to_string()),
            "active_pid": active,
            "lost": slot.lost,
        })
    });
    json!({
        "process": std::process::id(),
        "timeline": tip.map(|tip| tip.timeline.as_u32()),
        "end": tip.map(|tip| tip.end.to_string()),
        "followers": followers.iter().map(|one| as_json(one, tip)).collect::<Vec<_>>(),
        "slots": slots.collect::<Vec<_>>(),
    })
}

/// As `pg_stat_replication` has it.
fn as_json(follower: &Follower, tip: Option<Tip>) -> Value {
    let Follower { pid, address, since, user, name, slot, in_backup, standing } = follower;
    let state = match standing.map(|standing| standing.status) {
        None if *in_backup => "backup",
        None => "startup",
        Some(Status::Catchup) => "catchup",
        Some(Status::Streaming) => "streaming",
        Some(Status::Stopping) => "stopping",
    };
    let at = |lsn: Option<pg_types::Lsn>| lsn.filter(|lsn| lsn.is_valid()).map(|at| at.to_string());
    let seconds = |lag: Option<std::time::Duration>| lag.map(|lag| lag.as_secs_f64());
    let lag = standing.zip(tip).map(|(standing, tip)| tip.end.saturating_since(standing.flush));
    json!({
        "pid": pid,
        "application_name": name,
        "user": user,
        "address": address,
        "since": since.strftime("%FT%TZ").to_string(),
        "state": state,
        "slot": slot,
        "timeline": standing.map(|standing| standing.timeline.as_u32()),
        "sent": at(standing.map(|standing| standing.sent)),
        "write": at(standing.map(|standing| standing.write)),
        "flush": at(standing.map(|standing| standing.flush)),
        "replay": at(standing.map(|standing| standing.apply)),
        "write_lag": seconds(standing.and_then(|standing| standing.write_lag)),
        "flush_lag": seconds(standing.and_then(|standing| standing.flush_lag)),
        "replay_lag": seconds(standing.and_then(|standing| standing.apply_lag)),
        "lag_bytes": lag,
    })
}

/// Asks who is connected; `None` if nobody serves the archive.
pub(crate) fn ask(archive: &Path) -> io::Result<Option<Value>> {
    board::ask_on(archive, SERVER_SOCKET)
}

/// What `seawall status` shows.
pub(crate) fn describe(text: &mut String, server: &Value) {
    use std::fmt::Write as _;
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let followers = server["followers"].as_array().map_or(&[][..], Vec::as_slice);
    // Writing to a string doesn't fail.
    _ = writeln!(
        text,
        "serving     up to {}, {} connected",
        shown(&server["end"]),
        followers.len()
    );
    for one in followers {
        let get = |key: &str| shown(&one[key]);
        _ = writeln!(
            text,
            "follower    {} ({}) from {}, {}: sent {}, write {}, flush {}, replay {}, lag {}",
            get("application_name"),
            get("pid"),
            get("address"),
            get("state"),
            get("sent"),
            get("write"),
            get("flush"),
            get("replay"),
            one["lag_bytes"].as_u64().map_or("-".to_owned(), |lag| size(lag as f64)),
        );
    }
    for slot in server["slots"].as_array().into_iter().flatten() {
        let (name, at) = (shown(&slot["name"]), shown(&slot["restart_lsn"]));
        _ = match slot["lost"].as_str() {
            Some(why) => writeln!(text, "slot        {name}, ALARM: let go, since {why}"),
            None => writeln!(text, "slot        {name}, of a follower, keeps what is behind {at}"),
        };
    }
}
