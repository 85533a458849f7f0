//! The programs from their arguments to their exit code.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use pg_types::Lsn;
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use wal_describe::Zone;
use wal_format::WalVersion;

use crate::approach::Approach;
use crate::cli::options::Statistics;
use crate::cli::words::{Failure, Words};
use crate::cli::{Options, Parsed, Program};
use crate::dump::bounds::{Bounds, Times};
use crate::dump::output::Stdout;
use crate::dump::{Config, End, Ended, Filter, Mode, Patience, Taker, parallel, sequence};
use crate::read::reader::{Reader, Stop};
use crate::show::line::Style;
use crate::show::stats::Stats;
use crate::show::top::Makers;
use crate::target::Target;

/// As a shell shows a program that died of SIGPIPE.
const EXIT_UNHEARD: u8 = 141;

/// Runs a program: `args` as it was called, its own name first. Gives its exit code.
#[must_use]
pub fn run(program: Program, args: &[OsString]) -> u8 {
    let (argv0, rest) =
        args.split_first().map_or((None, args), |(first, rest)| (Some(first), rest));
    let argv0 = argv0.cloned().unwrap_or_else(|| "pg_waldump".into());
    let words = Words::of(&argv0);
    let done = match Stdout::open() {
        Ok(stdout) => Run { program, words: &words, stdout: &stdout }.all(&argv0, rest),
        Err(error) => Err((Failure::fatal(format!("could not open stdout: {error}")), None)),
    };
    match done {
        Ok(()) => 0,
        Err((Failure::Unheard, _)) => EXIT_UNHEARD,
        Err((failure, version)) => {
            say(&words.say(&failure, version));
            1
        }
    }
}

/// Where nobody listens, the exit code still says it.
fn say(text: &[u8]) {
    _ = io::stderr().write_all(text);
}

type Refusal = (Failure, Option<WalVersion>);

struct Run<'a> {
    program: Program,
    words: &'a Words,
    stdout: &'a Stdout,
}

impl Run<'_> {
    fn all(&self, argv0: &OsStr, args: &[OsString]) -> Result<(), Refusal> {
        let name = String::from_utf8_lossy(&self.words.name);
        let in_order = env::var_os("POSIXLY_CORRECT").is_some();
        let parsed = Options::parse(self.program, &name, argv0, args, in_order);
        let options = match parsed.map_err(|failure| (failure, None))? {
            Parsed::Print(text) => {
                return self.stdout.write(text.as_bytes()).map_err(|failure| (failure, None));
            }
            Parsed::Read(options) => options,
        };
        let target = Target::find(self.program, &options)?;
        let version = target.version;
        self.dump(&options, &target).map_err(|failure| (failure, Some(version)))
    }

    /// Dumps what was found.
    fn dump(&self, options: &Options, target: &Target) -> Result<(), Failure> {
        let version = target.version;
        let make = || Reader::new(target.segments.clone(), version, target.end);
        let mut reader = make();
        let times = Times::of(options);
        let approach = Approach::of(options, times.as_ref(), target)?;
        let mut first = self.first_record(options, target, approach.start, &mut reader)?;
        let mut before = Lsn::MAX;
        if let Some(times) = times {
            let bounds = times.find(&mut reader, first, approach.end)?;
            Bounds { from: first, before } = bounds;
            reader = make();
            reader.begin(first);
        }
        // Statistics of what was read so far are shown then, and the exit code is 0. Where it can't
        // be had, SIGINT ends the program as it does by default.
        let interrupted = Arc::new(AtomicBool::new(false));
        _ = flag::register(SIGINT, Arc::clone(&interrupted));
        let config = Config {
            filter: Filter::new(options, version),
            mode: Mode::of(options),
            style: Style { zone: zone(), details: options.details },
            save: options.save_fullpage.as_ref().map(PathBuf::from),
            limit: options.limit,
            before,
            interrupted,
        };
        let jobs = self.jobs(options, target, first);
        let (ended, stats, makers) = if jobs == 1 {
            let mut taker = Taker::new(&config, first);
            let patience = Patience {
                follow: options.follow,
                forever: self.program == Program::Seawall,
                keep_going: options.keep_going,
            };
            let mut tell = |text: &str| say(&self.words.info(text));
            let ended =
                sequence(&mut reader, &mut taker, &config, patience, self.stdout, &mut tell);
            (ended, taker.stats, taker.makers)
        } else {
            let dumped = parallel(reader, &make, &config, first, jobs, self.stdout);
            (dumped.ended, dumped.stats, dumped.makers)
        };
        self.finish(options, version, ended, stats, makers)
    }

    /// Lets the reader stand before the first record from `start` on.
    fn first_record(
        &self,
        options: &Options,
        target: &Target,
        start: Lsn,
        reader: &mut Reader,
    ) -> Result<Lsn, Failure> {
        let version = target.version;
        let found = reader.try_find_first(start);
        let first = match found {
            Ok(first) => first,
            Err(Stop::Files(trouble)) => return Err(trouble.failure(version)),
            Err(stop @ (Stop::End | Stop::Invalid(_))) => {
                if self.program == Program::Seawall
                    && let Stop::Invalid(reason) = &stop
                {
                    say(&self.words.info(&reason.text(version)));
                }
                let text = format!("could not find a valid record after {start}");
                return Err(Failure::fatal(text));
            }
        };
        if first != start && start.segment_offset(target.segments.size) != 0 {
            let skipped = first.saturating_since(start);
            let bytes = if skipped == 1 { "byte" } else { "bytes" };
            // `%u` of it.
            let shown = skipped & u64::from(u32::MAX);
            let text =
                format!("first record is after {start}, at {first}, skipping over {shown} {bytes}");
            if version.major() < 17 && !options.json {
                self.stdout.write(format!("{text}\n").as_bytes())?;
            } else {
                say(&self.words.info(&text));
            }
        }
        Ok(first)
    }

    /// On how many threads; one where records have to come one after another.
    fn jobs(&self, options: &Options, target: &Target, first: Lsn) -> usize {
        /// Below this it isn't worth a thread.
        const LEAST_BYTES: u64 = 1 << 20;
        /// By default no more: whoever reads the text keeps no more busy, and each takes memory.
        const MOST_JOBS: usize = 16;
        let in_sequence = options.follow
            || options.limit.is_some()
            || options.save_fullpage.is_some()
            || options.keep_going;
        let is_short = target.end.is_valid() && target.end.saturating_since(first) < LEAST_BYTES;
        if in_sequence || is_short {
            return 1;
        }
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        options.jobs.unwrap_or_else(|| cores().min(MOST_JOBS))
    }

    /// Shows what was counted, and says why there is no more.
    fn finish(
        &self,
        options: &Options,
        version: WalVersion,
        ended: Ended,
        stats: Option<Stats>,
        makers: Option<Makers>,
    ) -> Result<(), Failure> {
        let shows = match &ended.end {
            End::Stop(Stop::Files(_)) | End::Failure(_) => false,
            End::Stop(_) | End::Enough | End::Misfit => true,
        };
        if let Some(stats) = stats.filter(|_| shows) {
            let by = options.statistics.unwrap_or(Statistics::Rmgr);
            self.stdout.write(stats.text(by, version).as_bytes())?;
        }
        if let Some(makers) = makers.filter(|_| shows) {
            let text =
                if options.json { makers.json() } else { makers.text(io::stdout().is_terminal()) };
            self.stdout.write(text.as_bytes())?;
        }
        match ended.end {
            End::Enough | End::Misfit | End::Stop(Stop::End) => Ok(()),
            End::Failure(failure) => Err(failure),
            End::Stop(Stop::Files(trouble)) => Err(trouble.failure(version)),
            End::Stop(Stop::Invalid(reason)) => {
                let last = ended.last;
                let text = format!("error in WAL record at {last}: {}", reason.text(version));
                if self.program == Program::Seawall
                    && let Some(verdict) = reason.verdict()
                {
                    say(&self.words.info(&verdict));
                }
                Err(Failure::fatal(text))
            }
        }
    }
}

/// The zone that libc would show times in.
fn zone() -> Zone {
    let tz = env::var_os("TZ").map(|tz| tz.to_string_lossy().into_owned());
    Zone::of_environment(tz.as_deref(), zone_file)
}

/// A file of rules, if it is one.
fn zone_file(path: &Path) -> Option<Vec<u8>> {
    /// The largest have a few kilobytes.
    const MOST_BYTES: u64 = 1 << 20;
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|of| of.is_file()))?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
