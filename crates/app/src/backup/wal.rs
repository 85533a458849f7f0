//! The WAL that a backup needs, in the archive and proved: a receiver that runs brings it, and is
//! waited for; without one it is streamed here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{Archive, ArchiveError, Catalogue, Options};
use backup::{BackupError, Point};
use disk::RealFiles;
use pg_types::{Branch, Lsn, TimelineId};
use pg_wire::settings::ConnectionSettings;
use runtime::{Ended, Receive, Shutdown};
use tokio::sync::Notify;

use crate::board::{self, Board};
use crate::log::Log;
use crate::observer::Talk;
use crate::receive::open_disk;
use crate::{Exit, Failure};

/// How often a receiver is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// A receiver that makes no progress for so long won't bring it.
const PATIENCE: Duration = Duration::from_secs(300);

/// WAL that is wanted.
pub(super) struct Wanted<'a> {
    pub(super) archive: &'a Path,
    pub(super) settings: &'a ConnectionSettings,
    pub(super) start: Point,
    pub(super) stop: Point,
    pub(super) from_standby: bool,
}

impl Wanted<'_> {
    /// Waits until it is there.
    pub(super) async fn await_archived(
        &self,
        catalogue: &Catalogue,
        shutdown: Shutdown,
        log: &Log,
    ) -> Result<(), Failure> {
        let (mut progressed, mut last) = (Instant::now(), Lsn::INVALID);
        let mut streamed = false;
        loop {
            if *shutdown.borrow() {
                return Err(super::stopped());
            }
            let durable = self.durable()?;
            if let Some(durable) = durable
                && durable < self.stop.lsn
            {
                if durable != last {
                    (progressed, last) = (Instant::now(), durable);
                }
            } else {
                let proved = self.proved(catalogue)?;
                if proved >= self.stop.lsn {
                    return Ok(());
                }
                if durable.is_some() || streamed {
                    let needed = self.stop.lsn;
                    return Err(BackupError::WalMissing { proved, needed }.into());
                }
                match self.stream(shutdown.clone(), log).await {
                    // Somebody began to receive meanwhile.
                    Err(failure) if failure.exit == Exit::InUse => {}
                    result => {
                        result?;
                        streamed = true;
                        continue;
                    }
                }
            }
            if progressed.elapsed() > PATIENCE {
                return Err(Failure::failed(format!(
                    "the receiver has archived up to {last}, and the backup needs WAL up to {}: it \
                     didn't get there in {} s; the backup isn't kept",
                    self.stop.lsn,
                    PATIENCE.as_secs()
                )));
            }
            tokio::time::sleep(ASK_INTERVAL).await;
        }
    }

    /// How far a running receiver is; `None` if none runs.
    fn durable(&self) -> Result<Option<Lsn>, Failure> {
        let receiver = board::ask(self.archive)
            .map_err(|error| Failure::failed(format!("the receiver doesn't answer: {error}")))?;
        let Some(receiver) = receiver else { return Ok(None) };
        let durable = receiver["durable"].as_str().and_then(|text| text.parse().ok());
        Ok(Some(durable.unwrap_or(Lsn::INVALID)))
    }

    /// The end of what is proved from the backup's start on.
    fn proved(&self, catalogue: &Catalogue) -> Result<Lsn, ArchiveError> {
        let timeline = self.stop.timeline;
        let branch = match catalogue.history(timeline)? {
            Some(branch) => branch,
            None if timeline == TimelineId::FIRST => Branch::root(timeline),
            None => return Ok(Lsn::INVALID),
        };
        let survey = catalogue.survey()?;
        match catalogue.proved_from(&branch, &survey, self.start.lsn, self.stop.lsn) {
            Err(ArchiveError::NoWalAt { .. }) => Ok(Lsn::INVALID),
            proved => proved,
        }
    }

    /// Receives it.
    async fn stream(&self, shutdown: Shutdown, log: &Log) -> Result<(), Failure> {
        let files = Arc::new(RealFiles::new(self.archive.to_owned()));
        let holder = format!("seawall backup, process {}", std::process::id());
        let claim = Archive::claim(files, &holder)?;
        // A primary goes on in the next segment, so that this one can be had whole.
        let size = claim.format().and_then(|format| format.identity().ok());
        let end = match size.map(|identity| identity.geometry.segment_size) {
            Some(size) if !self.from_standby => {
                self.stop.lsn.saturating_add(size.bytes() - 1).segment_start(size)
            }
            _ => self.stop.lsn,
        };
        let what = Receive {
            needed: None,
            settings: self.settings.clone(),
            slot: None,
            create_slot: false,
            max_slot_retention: None,
            if_not_exists: false,
            start_position: Some(self.start.lsn),
            end_position: Some(end),
            reconnect: false,
            status_interval: Duration::from_secs(10),
            writer: Options::default(),
            tip: runtime::TipSender::new(None),
        };
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let mut disk = open_disk(self.archive, Arc::new(move || wake.notify_one()))?;
        let board = Board::new(None);
        let server = self.settings.endpoint().to_string();
        let mut talk = Talk::new(self.archive, server, board, false, log);
        match runtime::receive(&what, &claim, &mut disk, &woken, shutdown, &mut talk).await? {
            Ended::AtEndPosition(_) => Ok(()),
            Ended::Stopped(_) => Err(super::stopped()),
        }
    }
}
