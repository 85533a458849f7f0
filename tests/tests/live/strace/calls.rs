//! strace's log (`-f -y -xx`), call by call.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use pg_types::Lsn;

use super::Status;
use crate::common::Must;

/// A call's thread: each has one call at a time.
pub(super) type ThreadId = u32;

/// What the log says, in its order.
#[derive(Debug)]
pub(super) enum Call {
    /// A call was made, with what it was given.
    Begun(ThreadId, System),
    /// It came back, without an error or with one.
    Ended(ThreadId, bool),
}

/// A system call, as far as this test asks.
#[derive(Debug)]
pub(super) enum System {
    Write { file: String, offset: u64, bytes: Vec<u8> },
    Sync { file: String },
    Rename { from: String, to: String },
    Send { bytes: Vec<u8> },
    Other,
}

impl System {
    /// The status messages among what is sent: CopyData with 'r', three positions, the time and
    /// whether a reply is wanted.
    pub(super) fn statuses(&self) -> Vec<Status> {
        let Self::Send { bytes } = self else { return Vec::new() };
        let mut found = Vec::new();
        let mut rest = &bytes[..];
        // A startup packet has no type, and its length's first byte is none.
        while let [tag @ b'A'..=b'z', length @ ..] = rest {
            let Some(length) = length.first_chunk().map(|len| u32::from_be_bytes(*len)) else {
                break;
            };
            let Some((frame, next)) = rest.split_at_checked(1 + length as usize) else { break };
            if *tag == b'd' && frame.len() == 39 && frame[5] == b'r' {
                let position = |at: usize| {
                    frame[at..].first_chunk().map(|lsn| Lsn::new(u64::from_be_bytes(*lsn)))
                };
                let (write, flush) = (position(6), position(14));
                found.push(Status {
                    write: write.unwrap_or_default(),
                    flush: flush.unwrap_or_default(),
                });
            }
            rest = next;
        }
        found
    }
}

/// Reads a log, and hands on its calls.
pub(super) fn read_calls(log: &Path, mut each: impl FnMut(Call)) {
    for line in BufReader::new(File::open(log).must()).lines() {
        let line = line.must();
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let (Ok(thread), rest) = (thread.parse(), rest.trim_start()) else { continue };
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        let resumed = rest.starts_with("<... ");
        if !resumed {
            each(Call::Begun(thread, parse(rest)));
        }
        if !rest.ends_with("<unfinished ...>") {
            let (_, result) = rest.rsplit_once(") = ").unwrap_or_else(|| {
                let (_, result) = rest.rsplit_once(" = ").unwrap_or_default();
                ("", result)
            });
            each(Call::Ended(thread, !result.is_empty() && !result.starts_with(['-', '?'])));
        }
    }
}

fn parse(text: &str) -> System {
    let (name, args) = text.split_once('(').unwrap_or_default();
    let strings = || strings_of(args);
    match name {
        "pwrite64" => {
            let args = args.trim_end_matches(" <unfinished ...>");
            let args = args.rsplit_once(") = ").map_or(args, |(args, _)| args);
            let offset = args.rsplit(", ").next().and_then(|offset| offset.parse().ok());
            let bytes = strings().pop().unwrap_or_default();
            let Some(offset) = offset else { panic!("no offset: {}", head(text)) };
            System::Write { file: file_of(args), offset, bytes }
        }
        "fdatasync" | "fsync" => System::Sync { file: file_of(args) },
        "rename" | "renameat" | "renameat2" => {
            let names = strings();
            let [.., from, to] = &names[..] else { panic!("no two names: {text}") };
            System::Rename { from: base_name(from), to: base_name(to) }
        }
        "sendto" | "write" => System::Send { bytes: strings().pop().unwrap_or_default() },
        "unlink" | "unlinkat" => System::Other,
        other => panic!("a call that this test doesn't know: {other}: {}", head(text)),
    }
}

/// The last part of the path of the first argument, a file descriptor: `9<\x2f…>`.
fn file_of(args: &str) -> String {
    let path = args.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let Some((path, _)) = path else { panic!("no path: {}", head(args)) };
    base_name(&unescape(path))
}

fn base_name(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The quoted arguments. With `-xx` no quote and no bracket is within one.
fn strings_of(args: &str) -> Vec<Vec<u8>> {
    assert!(!args.contains("\"..."), "strace cut a string: {}", head(args));
    args.split('"').skip(1).step_by(2).map(unescape).collect()
}

fn unescape(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len() / 4), text.as_bytes());
    while let [first, after @ ..] = rest {
        if let ([b'\\'], [b'x', high, low, ..]) = ([*first], after) {
            bytes.push(digit(*high) << 4 | digit(*low));
            rest = &rest[4..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

fn head(text: &str) -> &str {
    text.get(..200).unwrap_or(text)
}
