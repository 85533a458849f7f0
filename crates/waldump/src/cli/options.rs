//! What was asked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use jiff::Timestamp;
use pg_types::Lsn;
use wal_describe::{builtin_rmgrs, fork_name, rmgr_by_name};
use wal_format::{RelFileLocator, RmgrId, TimestampTz, WalVersion};

use super::getopt::{Getopt, Given, Long, Table, Takes};
use super::help;
use super::scan::{self, Refused, Scan};
use super::words::Failure;

/// Which program was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `pg_waldump`: the server's own options, files and words, and nothing else.
    DropIn,
    /// `seawall waldump`: the same, and more.
    Seawall,
}

/// What statistics are by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// Resource managers.
    Rmgr,
    /// Types of records.
    Record,
}

/// What made the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// Relations.
    Relations,
    /// Resource managers.
    Rmgrs,
    /// Transactions.
    Xids,
}

/// What was asked for; positions are invalid and lists empty where nothing was.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `-b`
    pub details: bool,
    /// `-B`
    pub block: Option<u32>,
    /// `-e`
    pub end: Lsn,
    /// `-f`
    pub follow: bool,
    /// `-F`
    pub fork: Option<u8>,
    /// `-n`; none below 1.
    pub limit: Option<u32>,
    /// `-p`
    pub path: Option<OsString>,
    /// `-q`
    pub quiet: bool,
    /// `-r`, in their order
    pub rmgrs: Vec<RmgrId>,
    /// `-R`
    pub relation: Option<RelFileLocator>,
    /// `-s`
    pub start: Lsn,
    /// `-t`
    pub timeline: Option<u32>,
    /// `-w`
    pub fullpage: bool,
    /// `-x`
    pub xid: Option<u32>,
    /// `-z`
    pub statistics: Option<Statistics>,
    /// `--save-fullpage`
    pub save_fullpage: Option<OsString>,
    /// STARTSEG, ENDSEG
    pub files: Vec<OsString>,
    /// `-A`
    pub archive: Option<OsString>,
    /// `-j`
    pub jobs: Option<usize>,
    /// `--json`
    pub json: bool,
    /// `--from-time`
    pub from_time: Option<TimestampTz>,
    /// `--to-time`
    pub to_time: Option<TimestampTz>,
    /// `--at-time`
    pub at_time: Option<TimestampTz>,
    /// `--top`
    pub top: Option<Top>,
    /// `--keep-going`
    pub keep_going: bool,
}

/// What a command line comes to.
#[derive(Debug)]
pub enum Parsed {
    /// Something to read.
    Read(Box<Options>),
    /// Text to print, and nothing else.
    Print(String),
}

const SHORT: &[(u8, Takes)] = &[
    (b'b', Takes::Nothing),
    (b'B', Takes::Argument),
    (b'e', Takes::Argument),
    (b'f', Takes::Nothing),
    (b'F', Takes::Argument),
    (b'n', Takes::Argument),
    (b'p', Takes::Argument),
    (b'q', Takes::Nothing),
    (b'r', Takes::Argument),
    (b'R', Takes::Argument),
    (b's', Takes::Argument),
    (b't', Takes::Argument),
    (b'w', Takes::Nothing),
    (b'x', Takes::Argument),
    (b'z', Takes::Nothing),
    // The subcommand's own, from here on.
    (b'A', Takes::Argument),
    (b'j', Takes::Argument),
    (b'V', Takes::Nothing),
    (b'?', Takes::Nothing),
];

/// How many of [`SHORT`] are the server's.
const PG_SHORT: usize = 15;

const LONG: &[Long] = &[
    ("bkp-details", Takes::Nothing, 'b'),
    ("block", Takes::Argument, 'B'),
    ("end", Takes::Argument, 'e'),
    ("follow", Takes::Nothing, 'f'),
    ("fork", Takes::Argument, 'F'),
    ("fullpage", Takes::Nothing, 'w'),
    ("help", Takes::Nothing, '?'),
    ("limit", Takes::Argument, 'n'),
    ("path", Takes::Argument, 'p'),
    ("quiet", Takes::Nothing, 'q'),
    ("relation", Takes::Argument, 'R'),
    ("rmgr", Takes::Argument, 'r'),
    ("start", Takes::Argument, 's'),
    ("timeline", Takes::Argument, 't'),
    ("xid", Takes::Argument, 'x'),
    ("version", Takes::Nothing, 'V'),
    ("stats", Takes::Optional, 'z'),
    ("save-fullpage", Takes::Argument, SAVE_FULLPAGE),
    // The subcommand's own, from here on.
    ("archive", Takes::Argument, 'A'),
    ("jobs", Takes::Argument, 'j'),
    ("json", Takes::Nothing, JSON),
    ("from-time", Takes::Argument, FROM_TIME),
    ("to-time", Takes::Argument, TO_TIME),
    ("at-time", Takes::Argument, AT_TIME),
    ("top", Takes::Argument, TOP),
    ("keep-going", Takes::Nothing, KEEP_GOING),
];

/// How many of [`LONG`] are the server's.
const PG_LONG: usize = 18;

/// Long options without a letter.
const SAVE_FULLPAGE: char = '\u{1}';
const JSON: char = '\u{2}';
const FROM_TIME: char = '\u{3}';
const TO_TIME: char = '\u{4}';
const AT_TIME: char = '\u{5}';
const TOP: char = '\u{6}';
const KEEP_GOING: char = '\u{7}';

const PG: Table = Table { short: SHORT.split_at(PG_SHORT).0, long: LONG.split_at(PG_LONG).0 };
const OWN: Table = Table { short: SHORT, long: LONG };

/// Either something to print instead of reading, or nothing.
type Taken = Result<Option<String>, Failure>;

impl Options {
    /// Reads a command line, without the program's name. `name` is that name without a directory,
    /// `argv0` as it was called; `in_order` is whether `POSIXLY_CORRECT` is set.
    ///
    /// # Errors
    /// With the server's program's own words.
    pub fn parse(
        program: Program,
        name: &str,
        argv0: &OsStr,
        args: &[OsString],
        in_order: bool,
    ) -> Result<Parsed, Failure> {
        let beyond = program == Program::Seawall;
        let Some(first) = args.first() else {
            return Err(Failure::argument("no arguments specified"));
        };
        match first.as_bytes() {
            b"--help" | b"-?" => return Ok(Parsed::Print(help::help(name, beyond))),
            b"--version" | b"-V" => return Ok(Parsed::Print(help::version(name))),
            _ => {}
        }
        let mut options = Self::default();
        let table = if beyond { &OWN } else { &PG };
        let mut getopt = Getopt::new(table, argv0, args, in_order);
        while let Some(given) = getopt.next_option() {
            let given = given.map_err(Failure::Said)?;
            if beyond {
                match given.option {
                    '?' => return Ok(Parsed::Print(help::help(name, beyond))),
                    'V' => return Ok(Parsed::Print(help::version(name))),
                    _ => {}
                }
            }
            if let Some(print) = options.take(&given)? {
                return Ok(Parsed::Print(print));
            }
        }
        options.files = getopt.operands();
        options.check()?;
        Ok(Parsed::Read(Box::new(options)))
    }

    fn take(&mut self, given: &Given) -> Taken {
        let argument = given.argument.as_deref().unwrap_or_default();
        let bytes = argument.as_bytes();
        match given.option {
            'b' => self.details = true,
            'f' => self.follow = true,
            'q' => self.quiet = true,
            'w' => self.fullpage = true,
            'p' => self.path = Some(argument.to_os_string()),
            'B' => self.block = Some(block(bytes)?),
            'e' => self.end = position(bytes)?,
            's' => self.start = position(bytes)?,
            'F' => self.fork = Some(fork(bytes)?),
            'n' => {
                let limit = Scan(bytes).signed();
                let limit = limit.ok_or_else(|| invalid_value(bytes, "-n/--limit"))?;
                self.limit = u32::try_from(limit).ok().filter(|limit| *limit > 0);
            }
            'r' if bytes.eq_ignore_ascii_case(b"list") => return Ok(Some(rmgr_list())),
            'r' => self.rmgrs.push(rmgr(bytes)?),
            'R' => self.relation = Some(relation(bytes)?),
            't' => self.timeline = Some(timeline(bytes)?),
            'x' => {
                let wrong = || quoted("invalid transaction ID specification: ", bytes);
                self.xid = Some(Scan(bytes).unsigned().ok_or_else(wrong)?);
            }
            'z' => self.statistics = Some(statistics(given.argument.as_deref())?),
            SAVE_FULLPAGE => self.save_fullpage = Some(argument.to_os_string()),
            'A' => self.archive = Some(argument.to_os_string()),
            'j' => self.jobs = Some(jobs(bytes)?),
            JSON => self.json = true,
            FROM_TIME => self.from_time = Some(time(argument, "--from-time")?),
            TO_TIME => self.to_time = Some(time(argument, "--to-time")?),
            AT_TIME => self.at_time = Some(time(argument, "--at-time")?),
            TOP => self.top = Some(top(bytes)?),
            KEEP_GOING => self.keep_going = true,
            // Help and version, anywhere but in the first place.
            _ => return Err(Failure::Argument { text: None, detail: None }),
        }
        Ok(None)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.block.is_some() && self.relation.is_none() {
            return Err(Failure::argument(
                "option -B/--block requires option -R/--relation to be specified",
            ));
        }
        if let Some(third) = self.files.get(2) {
            let text = [b"too many command-line arguments (first is \"", third.as_bytes(), b"\")"];
            return Err(Failure::argument(text.concat()));
        }
        if self.at_time.is_some() && (self.from_time.is_some() || self.to_time.is_some()) {
            return Err(Failure::argument("--at-time excludes --from-time and --to-time"));
        }
        if self.archive.is_some() && self.path.is_some() {
            return Err(Failure::argument("-A/--archive and -p/--path exclude each other"));
        }
        Ok(())
    }
}

/// `words "text"`
fn quoted(words: &str, text: &[u8]) -> Failure {
    Failure::argument([words.as_bytes(), b"\"", text, b"\""].concat())
}

fn invalid_value(value: &[u8], option: &str) -> Failure {
    let text = [b"invalid value \"", value, b"\" for option ", option.as_bytes()];
    Failure::argument(text.concat())
}

fn block(text: &[u8]) -> Result<u32, Failure> {
    // The greatest number is no block (`InvalidBlockNumber`).
    let block = Scan(text).unsigned().filter(|block| *block != u32::MAX);
    block.ok_or_else(|| quoted("invalid block number: ", text))
}

fn position(text: &[u8]) -> Result<Lsn, Failure> {
    let position = scan::position(text).map(Lsn::new);
    position.ok_or_else(|| quoted("invalid WAL location: ", text))
}

fn fork(text: &[u8]) -> Result<u8, Failure> {
    let named = |fork: &u8| fork_name(*fork).is_some_and(|name| name.as_bytes() == text);
    (0..4).find(named).ok_or_else(|| quoted("invalid fork name: ", text))
}

fn rmgr_list() -> String {
    builtin_rmgrs().map(|rmgr| format!("{rmgr}\n")).collect()
}

fn rmgr(text: &[u8]) -> Result<RmgrId, Failure> {
    let custom = text.strip_prefix(b"custom").and_then(|number| Scan(number).signed_within(3));
    if let Some(number) = custom {
        let number = u8::try_from(number).ok().filter(|number| *number >= 128);
        return number.map(RmgrId).ok_or_else(|| {
            let text = [b"custom resource manager \"", text, b"\" does not exist"];
            Failure::argument(text.concat())
        });
    }
    let name = std::str::from_utf8(text).ok();
    let found = name.and_then(|name| rmgr_by_name(WalVersion::NEWEST, name));
    found.ok_or_else(|| {
        Failure::argument([b"resource manager \"", text, b"\" does not exist"].concat())
    })
}

fn relation(text: &[u8]) -> Result<RelFileLocator, Failure> {
    let mut scan = Scan(text);
    let mut numbers = || {
        let tablespace = scan.unsigned()?;
        scan.literal(b'/')?;
        let database = scan.unsigned()?;
        scan.literal(b'/')?;
        Some(RelFileLocator { tablespace, database, relation: scan.unsigned()? })
    };
    let relation = numbers().filter(|of| of.tablespace != 0 && of.relation != 0);
    relation.ok_or_else(|| {
        let text = [b"invalid relation specification: \"", text, b"\""].concat();
        let detail = "Expecting \"tablespace OID/database OID/relation filenode\".";
        Failure::Argument { text: Some(text), detail: Some(detail) }
    })
}

fn timeline(text: &[u8]) -> Result<u32, Failure> {
    scan::timeline(text).map_err(|refused| match refused {
        Refused::Trailing => invalid_value(text, "-t/--timeline"),
        Refused::Range => {
            Failure::argument(format!("-t/--timeline must be in range 1..{}", u32::MAX))
        }
    })
}

fn statistics(argument: Option<&OsStr>) -> Result<Statistics, Failure> {
    match argument.map(OsStr::as_bytes) {
        None | Some(b"rmgr") => Ok(Statistics::Rmgr),
        Some(b"record") => Ok(Statistics::Record),
        Some(other) => {
            let text = [b"unrecognized value for option --stats: ", other];
            Err(Failure::argument(text.concat()))
        }
    }
}

fn jobs(text: &[u8]) -> Result<usize, Failure> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.filter(|jobs| *jobs > 0).ok_or_else(|| invalid_value(text, "-j/--jobs"))
}

fn top(text: &[u8]) -> Result<Top, Failure> {
    match text {
        b"relations" => Ok(Top::Relations),
        b"rmgrs" => Ok(Top::Rmgrs),
        b"xids" => Ok(Top::Xids),
        other => {
            let text = [b"unrecognized value for option --top: ", other].concat();
            let detail = "Expecting relations, rmgrs or xids.";
            Err(Failure::Argument { text: Some(text), detail: Some(detail) })
        }
    }
}

/// 2000-01-01 00:00:00 UTC, in microseconds since 1970.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// A time with its zone, as PostgreSQL writes it: `2026-01-31 12:00:00.5+01`.
fn time(text: &OsStr, option: &str) -> Result<TimestampTz, Failure> {
    let shown = text.to_string_lossy();
    let parsed: Result<Timestamp, _> = shown.trim().parse();
    let time = parsed.map_err(|_| Failure::Argument {
        text: Some(format!("invalid value \"{shown}\" for option {option}").into_bytes()),
        detail: Some("Expecting a time with its zone, such as 2026-01-31 12:00:00+01."),
    })?;
    Ok(TimestampTz(time.as_microsecond().saturating_sub(POSTGRES_EPOCH_US)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::words::Words;

    fn parse(program: Program, args: &[&str]) -> Result<Parsed, String> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let argv0 = OsStr::new("/bin/pg_waldump");
        let parsed = Options::parse(program, "pg_waldump", argv0, &args, false);
        let words = Words::of(&argv0.to_os_string());
        parsed.map_err(|failure| String::from_utf8(words.say(&failure, None)).unwrap())
    }

    fn refused(args: &[&str], expect: &str) {
        let text = parse(Program::DropIn, args).err().unwrap_or_default();
        let hint = "pg_waldump: hint: Try \"pg_waldump --help\" for more information.\n";
        assert_eq!(text, format!("{expect}{hint}"), "{args:?}");
    }

    #[test]
    fn what_is_wrong_is_said_in_the_servers_words() {
        refused(&[], "pg_waldump: error: no arguments specified\n");
        refused(&["-B", "4294967295"], "pg_waldump: error: invalid block number: \"4294967295\"\n");
        refused(&["-e", "bad"], "pg_waldump: error: invalid WAL location: \"bad\"\n");
        refused(&["--fork=x"], "pg_waldump: error: invalid fork name: \"x\"\n");
        refused(&["-n", "x"], "pg_waldump: error: invalid value \"x\" for option -n/--limit\n");
        refused(
            &["-r", "custom127"],
            "pg_waldump: error: custom resource manager \"custom127\" does not exist\n",
        );
        refused(&["-r", "nope"], "pg_waldump: error: resource manager \"nope\" does not exist\n");
        refused(
            &["-R", "1/2"],
            "pg_waldump: error: invalid relation specification: \"1/2\"\n\
             pg_waldump: detail: Expecting \"tablespace OID/database OID/relation filenode\".\n",
        );
        refused(&["-t", "0"], "pg_waldump: error: -t/--timeline must be in range 1..4294967295\n");
        refused(&["--stats=x"], "pg_waldump: error: unrecognized value for option --stats: x\n");
        refused(&["-q", "--help"], "");
        refused(&["-q", "-V"], "/bin/pg_waldump: invalid option -- 'V'\n");
        refused(&["--json"], "/bin/pg_waldump: unrecognized option '--json'\n");
        refused(
            &["-B", "1"],
            "pg_waldump: error: option -B/--block requires option -R/--relation to be specified\n",
        );
        refused(
            &["a", "b", "c"],
            "pg_waldump: error: too many command-line arguments (first is \"c\")\n",
        );
    }

    #[test]
    fn the_subcommand_takes_more() {
        let parsed = parse(Program::Seawall, &["--json", "-j2", "--top=xids", "-b", "x"]);
        let Ok(Parsed::Read(options)) = parsed else { panic!("{parsed:?}") };
        assert!(options.json && options.details);
        assert_eq!((options.jobs, options.top), (Some(2), Some(Top::Xids)));
        assert!(matches!(parse(Program::Seawall, &["-q", "--help"]), Ok(Parsed::Print(_))));
        let time = parse(Program::Seawall, &["--to-time", "2000-01-01 00:00:01+00"]);
        let Ok(Parsed::Read(options)) = time else { panic!("{time:?}") };
        assert_eq!(options.to_time, Some(TimestampTz(1_000_000)));
        assert!(parse(Program::Seawall, &["--at-time", "yesterday"]).is_err());
    }
}
