//! `seawall receive`

use std::path::Path;
use std::sync::Arc;

use archive::{Archive, ArchiveError, Options};
use disk::{RealDisk, RealFiles};
use runtime::{Ended, Needs, Receive};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::board::Board;
use crate::cli::ReceiveArgs;
use crate::observer::Talk;
use crate::{Failure, compress, connect, log, serve, service, terminal};

/// The name that `synchronous_standby_names` knows a receiver by unless told otherwise.
pub(crate) const APPLICATION_NAME: &str = "seawall";

pub(crate) fn run(args: &ReceiveArgs) -> Result<(), Failure> {
    let log = log::start(args.talk, args.json, Some(&args.archive));
    let mut what = plan(args)?;
    if what.slot.is_none() && !args.no_slot {
        tracing::warn!(
            "streaming without a replication slot: WAL that the server recycles while this \
             receiver is away will be missing; use --slot, or say --no-slot if that is meant"
        );
    }
    // Locked before connecting: a second receiver is told so at once.
    let files = Arc::new(RealFiles::new(args.archive.clone()));
    let claim = Archive::claim(files, &holder()).map_err(|error| match error {
        error @ ArchiveError::Disk(_) => {
            Failure::from(error).of(&format!("the archive {}", args.archive.display()))
        }
        error => error.into(),
    })?;
    let board = Board::new(args.slot.as_ref().map(|slot| slot.as_str().to_owned()));
    if let Err(error) = board.serve(&args.archive) {
        tracing::warn!("`seawall status` won't find this receiver: {error}");
    }
    let beside = match args.serve.is_empty() {
        true => None,
        false => Some(serve::Beside::start(&args.archive, args, &what.tip)?),
    };
    let needs = Arc::new(Needs::default());
    what.needed = args.hot_standby_feedback.then(|| match &beside {
        Some(beside) => beside.needed(),
        // Of those that a `seawall serve` of its own serves.
        None => needs.together(),
    });
    service::ready();
    let server = what.settings.endpoint().to_string();
    let mut talk = Talk::new(&args.archive, server, board, args.json, &log);
    if let Some(method) = args.compress {
        talk = talk.compressing(compress::start(&args.archive, method));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start: {error}")))?;
    let result = runtime.block_on(async {
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let mut disk = open_disk(&args.archive, Arc::new(move || wake.notify_one()))?;
        let (stop, shutdown) = watch::channel(false);
        let signals = tokio::spawn(stop_on_signal(stop));
        let ended = tokio::select! {
            ended = runtime::receive(&what, &claim, &mut disk, &woken, shutdown, &mut talk) => ended,
            never = service::pat_watchdog() => never,
            never = serve::announce(&args.archive, &what.tip, &needs) => never,
        };
        signals.abort();
        ended.map_err(Failure::from)
    });
    // What the disk still does isn't waited for: it isn't acknowledged either.
    runtime.shutdown_background();
    drop(beside);
    match result? {
        Ended::AtEndPosition(lsn) => talk.ended(&format!("reached {lsn}")),
        Ended::Stopped(_) => talk.ended("stopped"),
    }
    Ok(())
}

fn plan(args: &ReceiveArgs) -> Result<Receive, Failure> {
    let name = args.application_name.as_deref();
    Ok(Receive {
        settings: connect::settings(&args.connection, name, APPLICATION_NAME)?,
        slot: args.slot.clone(),
        create_slot: args.create_slot,
        if_not_exists: args.if_not_exists,
        max_slot_retention: args.max_slot_retention,
        start_position: None,
        end_position: args.endpos,
        reconnect: !args.no_loop,
        status_interval: args.status_interval,
        writer: Options { sync: !args.no_sync, ..Options::default() },
        tip: runtime::TipSender::new(None),
        needed: None,
    })
}

pub(crate) fn open_disk(
    root: &Path,
    wake: Arc<dyn Fn() + Send + Sync>,
) -> Result<RealDisk, Failure> {
    RealDisk::new(root.to_owned(), wake)
        .map_err(|error| Failure::failed(format!("{}: {error}", root.display())))
}

/// What another process is told of this one.
fn holder() -> String {
    format!("seawall receive, process {}", std::process::id())
}

pub(crate) async fn stop_on_signal(stop: watch::Sender<bool>) {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        tracing::warn!("signals can't be handled: stopping won't be orderly");
        return stop.closed().await;
    };
    let has_terminal = terminal::is_watched();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // Its terminal went away. Without one, as under nohup or as a service, there is nothing
        // that it could mean: no configuration is to be read again.
        _ = hangup.recv(), if has_terminal => {}
    }
    // The receiver may have ended by itself.
    _ = stop.send(true);
    // Kept open, since a closed channel would read as a change.
    stop.closed().await;
}
