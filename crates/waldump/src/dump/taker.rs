//! What is made of each record.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pg_types::Lsn;
use wal_describe::far::Rest;
use wal_describe::{Source, describe_long};
use wal_format::{MalformedRecord, RecordBody, SpareBlocks};

use super::output::{PIECE_BYTES, Sink};
use super::{End, Filter};
use crate::cli::options::{Options, Top};
use crate::read::again::Again;
use crate::read::reader::Reader;
use crate::show::images::{self, Of};
use crate::show::line::{self, Style};
use crate::show::stats::Stats;
use crate::show::top::Makers;
use crate::show::{image_bytes, json};

/// Beyond this a buffer isn't kept for the next record's text.
const KEPT_BYTES: usize = 5 << 20;

/// What is made of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: only errors are of interest.
    Quiet,
    /// Lines of text.
    Text,
    /// Lines of JSON.
    Json,
    /// Statistics.
    Stats,
    /// The greatest makers of WAL.
    Top(Top),
}

impl Mode {
    /// What the options say.
    #[must_use]
    pub fn of(options: &Options) -> Self {
        match (options.top, options.statistics) {
            _ if options.quiet => Self::Quiet,
            (Some(top), _) => Self::Top(top),
            (None, Some(_)) => Self::Stats,
            _ if options.json => Self::Json,
            _ => Self::Text,
        }
    }
}

/// What a dump does, for all its threads.
#[derive(Debug)]
pub struct Config {
    /// Which records are taken.
    pub filter: Filter,
    /// What is made of them.
    pub mode: Mode,
    /// How text is written.
    pub style: Style,
    /// Where page images are saved.
    pub save: Option<PathBuf>,
    /// So many records at the most.
    pub limit: Option<u32>,
    /// Records from here on aren't taken; [`Lsn::MAX`] for no bound.
    pub before: Lsn,
    /// Set by a signal: no further record is taken.
    pub interrupted: Arc<AtomicBool>,
}

/// Takes records, on one thread.
#[derive(Debug)]
pub struct Taker<'a> {
    config: &'a Config,
    /// Whether records are only counted, for which their blocks needn't be put together.
    counts: bool,
    spare: SpareBlocks,
    /// Text that isn't written yet.
    pub text: Vec<u8>,
    /// What was counted.
    pub stats: Option<Stats>,
    /// Who made it.
    pub makers: Option<Makers>,
    taken: u32,
    /// The first record that was read since the last [`Self::clear`], and its link.
    pub first: Option<(Lsn, Lsn)>,
}

impl<'a> Taker<'a> {
    /// Nothing taken yet; `start` is the first record of all.
    #[must_use]
    pub fn new(config: &'a Config, start: Lsn) -> Self {
        let stats = (config.mode == Mode::Stats).then(|| Stats::new(start));
        let makers = match config.mode {
            Mode::Top(what) => Some(Makers::new(what)),
            _ => None,
        };
        let (spare, text) = (SpareBlocks::default(), Vec::new());
        let counts = matches!(config.mode, Mode::Quiet | Mode::Stats)
            && config.filter.is_by_header()
            && config.save.is_none();
        Self { config, counts, spare, text, stats, makers, taken: 0, first: None }
    }

    /// Forgets what was made of records.
    pub fn clear(&mut self) {
        if self.text.capacity() > KEPT_BYTES {
            self.text = Vec::new();
        }
        self.text.clear();
        self.first = None;
        if let Some(stats) = &mut self.stats
            && stats.end.is_valid()
        {
            stats.clear();
        }
        if let Some(makers) = &mut self.makers {
            makers.clear();
        }
    }

    /// Takes records up to the first that starts at `until` or later, or as long as there are
    /// any.
    ///
    /// # Errors
    /// Why there is none before `until`.
    pub fn run(&mut self, reader: &mut Reader, until: Lsn, sink: &mut dyn Sink) -> Result<(), End> {
        if self.counts {
            reader.expect_only_counting();
        }
        while reader.standing().next < until {
            if self.config.interrupted.load(Ordering::Relaxed) {
                return Err(End::Enough);
            }
            self.step(reader, sink)?;
        }
        Ok(())
    }

    /// Reads the next record, and takes it if it passes the filter.
    #[inline]
    fn step(&mut self, reader: &mut Reader, sink: &mut dyn Sink) -> Result<(), End> {
        let before = reader.last_read();
        reader.next_record()?;
        let found = reader.found();
        if found.lsn >= self.config.before {
            return Err(End::Enough);
        }
        if self.counts {
            return match self.count(reader) {
                Ok(()) => self.is_enough(),
                Err(how) => Err(reader.malformed(before, how).into()),
            };
        }
        // Not moved out of the result: that costs as much as taking a small record apart.
        let decoded = reader.decode(&mut self.spare);
        let takes = match &decoded {
            Ok(body) => {
                self.first.get_or_insert((found.lsn, found.header.prev));
                let takes = self.config.filter.takes(&found.header, body);
                if takes && reader.missing() > 0 {
                    self.take_long(reader, body, sink)?;
                } else if takes {
                    self.take(reader, body)?;
                }
                takes
            }
            Err(how) => {
                let how = *how;
                return Err(reader.malformed(before, how).into());
            }
        };
        if let Ok(body) = decoded {
            body.give_back(&mut self.spare);
        }
        if !takes {
            return Ok(());
        }
        if self.text.len() >= PIECE_BYTES {
            sink.drain(&mut self.text, self.first)?;
        }
        self.taken = self.taken.saturating_add(1);
        self.is_enough()
    }

    /// Whether as many were taken as were asked for.
    #[inline]
    fn is_enough(&self) -> Result<(), End> {
        match self.config.limit {
            Some(limit) if self.taken >= limit => Err(End::Enough),
            _ => Ok(()),
        }
    }

    /// Counts a record, if it passes the filter.
    #[inline]
    fn count(&mut self, reader: &Reader) -> Result<(), MalformedRecord> {
        let found = reader.found();
        let image_bytes = reader.image_bytes()?;
        self.first.get_or_insert((found.lsn, found.header.prev));
        if self.config.filter.takes_header(&found.header) {
            if let Some(stats) = &mut self.stats {
                stats.record(&found.header, image_bytes, found.end);
            }
            self.taken = self.taken.saturating_add(1);
        }
        Ok(())
    }

    /// Makes of a record what is asked for.
    fn take(&mut self, reader: &Reader, body: &RecordBody<'_>) -> Result<(), End> {
        let (version, found) = (reader.version(), reader.found());
        let header = &found.header;
        let source = Source { version, lsn: found.lsn, header, body, rest: None };
        match self.config.mode {
            Mode::Quiet => {}
            Mode::Text => line::put_record(&source, &self.config.style, &mut self.text),
            Mode::Json => {
                let timeline = timeline_of(reader, found.lsn);
                json::put_record(&source, found.end, timeline, &mut self.text);
            }
            Mode::Stats => {
                if let Some(stats) = &mut self.stats {
                    stats.record(header, image_bytes(body), found.end);
                }
            }
            Mode::Top(_) => {
                if let Some(makers) = &mut self.makers {
                    makers.record(header, body);
                }
            }
        }
        if let Some(dir) = &self.config.save {
            let of = Of { timeline: timeline_of(reader, found.lsn), lsn: found.lsn, version };
            images::save(of, &body.blocks, dir)?;
        }
        Ok(())
    }

    /// The same of a record that isn't all in memory: it is read again, and what is made of it
    /// written as it comes.
    fn take_long(
        &mut self,
        reader: &Reader,
        body: &RecordBody<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), End> {
        if !matches!(self.config.mode, Mode::Text | Mode::Json) {
            return self.take(reader, body);
        }
        let (version, found) = (reader.version(), reader.found());
        let len = body.main_data.len().saturating_add(reader.missing());
        let (again, name) = (Again::new(reader, len), OnceCell::new());
        let rest = Some(Rest { far: &again, len, name: &name });
        let source = Source { version, lsn: found.lsn, header: &found.header, body, rest };
        let (mut failed, first) = (None, self.first);
        let mut relieve = |text: &mut Vec<u8>| {
            if failed.is_none() {
                failed = sink.drain(text, first).err();
            }
            if failed.is_some() {
                text.clear();
            }
        };
        let (style, text) = (&self.config.style, &mut self.text);
        if self.config.mode == Mode::Json {
            let timeline = timeline_of(reader, found.lsn);
            json::put_long(&source, found.end, timeline, &mut relieve, text);
        } else {
            line::put_head(&source, text);
            describe_long(&source, &style.zone, &mut relieve, text);
            line::put_blocks(&source, style, text);
        }
        match (failed, again.failed()) {
            (Some(end), _) => Err(end),
            (None, Some(stop)) => Err(stop.into()),
            (None, None) => Ok(()),
        }
    }
}

fn timeline_of(reader: &Reader, lsn: Lsn) -> u32 {
    let segments = reader.segments();
    segments.timeline_of(lsn.segment(segments.size))
}
