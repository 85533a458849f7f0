//! What systemd is told: that the receiver is up, what it is doing, and that it isn't stuck.
//!
//! Ready means that the archive is this receiver's and that it is at work, not that the server is
//! there: one that is down would fail the service's start otherwise. Whoever started the program
//! without `$NOTIFY_SOCKET` isn't told anything.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that the service has started.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says what it is doing, in a line.
pub(crate) fn status(text: &str) {
    tell(&[NotifyState::Status(text)]);
}

/// Says that it ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells the watchdog, if there is one, that the thread that receives is alive; without an end.
pub(crate) async fn pat_watchdog() -> ! {
    let Some(patience) = sd_notify::watchdog_enabled() else { std::future::pending().await };
    // As sd_watchdog_enabled(3) recommends.
    let mut due = tokio::time::interval((patience / 2).max(Duration::from_millis(1)));
    loop {
        due.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("systemd can't be told {state:?}: {error}");
    }
}
