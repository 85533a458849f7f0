//! A base backup from a server whose part the test plays, in both of the protocol's forms and in
//! pieces of every size: no byte of it ever gets among the messages.

use std::time::{Duration, Instant};

use pg_types::ServerVersion;
use pg_wire::settings::{ConnectionSettings, Flags, Inputs};
use pg_wire::startup::Startup;
use replication::{BackupEvent, Connection, Event, ProtocolError, Timing, Want};

const OLD: u32 = 140_023;
const NEW: u32 = 180_006;

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &len.to_be_bytes(), body].concat()
}

/// A row of texts, its description before and its command's end behind.
fn rows(rows: &[&[Option<&str>]]) -> Vec<u8> {
    let columns = rows.first().map_or(0, |row| row.len());
    let mut description = u16::try_from(columns).unwrap().to_be_bytes().to_vec();
    for _ in 0..columns {
        description.extend_from_slice(b"c\0");
        description.extend_from_slice(&[0; 18]);
    }
    let mut bytes = frame(b'T', &description);
    for row in rows {
        let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
        for value in *row {
            let len = value.map_or(-1, |text| i32::try_from(text.len()).unwrap());
            body.extend_from_slice(&len.to_be_bytes());
            body.extend_from_slice(value.unwrap_or_default().as_bytes());
        }
        bytes.extend(frame(b'D', &body));
    }
    [bytes, frame(b'C', b"SELECT\0")].concat()
}

fn beginning() -> Vec<u8> {
    let start = rows(&[&[Some("0/2000028"), Some("1")]]);
    let archives = [[Some("16384"), Some("/srv/one"), Some("1")], [None, None, Some("20")]];
    [start, rows(&[&archives[0], &archives[1]])].concat()
}

fn ending() -> Vec<u8> {
    [rows(&[&[Some("0/2000100"), Some("1")]]), frame(b'C', b"BASE_BACKUP\0"), frame(b'Z', b"I")]
        .concat()
}

const OUT: &[u8] = &[0, 0, 0];

/// What a server up to 14 sends.
fn old_form() -> Vec<u8> {
    let copy = |bytes: &[&[u8]]| {
        let data: Vec<u8> = bytes.iter().flat_map(|bytes| frame(b'd', bytes)).collect();
        [frame(b'H', OUT), data, frame(b'c', b"")].concat()
    };
    [
        beginning(),
        copy(&[b"tablespace, ", b"its end"]),
        copy(&[b"nbase", b"", b"dmp"]),
        copy(&[b"{}"]),
        ending(),
    ]
    .concat()
}

/// What one from 15 on does.
fn new_form() -> Vec<u8> {
    let copy: [&[u8]; 9] = [
        b"n16384.tar\0/srv/one\0",
        b"dtablespace, ",
        b"p\0\0\0\0\0\0\x01\0",
        b"dits end",
        b"nbase.tar\0\0",
        b"dnbase",
        b"ddmp",
        b"m",
        b"d{}",
    ];
    let copy: Vec<u8> = copy.iter().flat_map(|payload| frame(b'd', payload)).collect();
    [beginning(), frame(b'H', OUT), copy, frame(b'c', b""), ending()].concat()
}

fn connected() -> Connection {
    let flags = Flags { host: Some("x".into()), user: Some("x".into()), ..Flags::default() };
    let settings = ConnectionSettings::resolve(&Inputs { flags, ..Inputs::default() }).unwrap();
    let startup = Startup::physical_replication(&settings).unwrap();
    let timing = Timing { status_interval: Duration::ZERO, wal_sender_timeout: Duration::ZERO };
    let mut connection = Connection::new(startup, timing);
    let hello = [frame(b'R', &[0; 4]), frame(b'Z', b"I")].concat();
    for byte in hello {
        connection.space()[0] = byte;
        connection.handle_input(1, Instant::now()).unwrap();
    }
    assert!(matches!(connection.poll_event(), Some(Event::Ready(_))));
    connection
}

/// Plays a stream in pieces; gives what was told, and the bytes of each part.
fn play(
    version: u32,
    mut stream: &[u8],
    piece: usize,
) -> Result<(Vec<BackupEvent>, Vec<String>), ProtocolError> {
    let mut connection = connected();
    connection.start_backup("BASE_BACKUP", ServerVersion::from_num(version));
    let (mut events, mut parts) = (Vec::new(), Vec::new());
    while !stream.is_empty() {
        let taken = match connection.want() {
            Want::Backup { len } => {
                let taken = len.min(piece).min(stream.len());
                let last: &mut String = parts.last_mut().expect("something has begun");
                last.push_str(std::str::from_utf8(&stream[..taken]).unwrap());
                connection.handle_backup(taken);
                // The next header, in the same system call.
                taken
            }
            Want::Input => {
                let space = connection.space();
                let taken = space.len().min(piece).min(stream.len());
                assert!(taken > 0, "nothing can be read, and nothing is told");
                space[..taken].copy_from_slice(&stream[..taken]);
                connection.handle_input(taken, Instant::now())?;
                taken
            }
            other => panic!("{other:?} in a base backup"),
        };
        stream = &stream[taken..];
        while let Some(event) = connection.poll_event() {
            let Event::Backup(event) = event else { panic!("{event:?}") };
            if matches!(event, BackupEvent::Archive(_) | BackupEvent::Manifest) {
                parts.push(String::new());
            }
            events.push(event);
        }
    }
    Ok((events, parts))
}

#[test]
fn both_forms_are_the_same_backup() {
    for (version, stream) in [(OLD, old_form()), (NEW, new_form())] {
        for piece in [1, 2, 3, 5, 6, 7, 100, usize::MAX] {
            let (events, parts) = play(version, &stream, piece).unwrap();
            assert_eq!(parts, ["tablespace, its end", "nbasedmp", "{}"], "{version} {piece}");
            let told = |event: &BackupEvent| !matches!(event, BackupEvent::Progress(_));
            let events: Vec<_> = events.into_iter().filter(told).collect();
            let Some(BackupEvent::Started(start, archives)) = events.first() else {
                panic!("{events:?}")
            };
            assert_eq!((start.lsn.to_string().as_str(), archives.len()), ("0/2000028", 2));
            assert_eq!((archives[0].oid, archives[1].bytes), (Some(16384), 20 * 1024));
            assert_eq!(
                events[1..4],
                [BackupEvent::Archive(0), BackupEvent::Archive(1), BackupEvent::Manifest]
            );
            assert!(matches!(events[4], BackupEvent::Stopped(_)));
            assert_eq!(events[5..], [BackupEvent::Ended]);
        }
    }
}

const ERROR: &[u8] = b"SERROR\0VERROR\0CXX001\0Mchecksum\0\0";

#[test]
fn an_error_behind_all_the_data_comes_after_the_end() {
    for (version, mut stream) in [(OLD, old_form()), (NEW, new_form())] {
        stream.truncate(stream.len() - frame(b'C', b"BASE_BACKUP\0").len() - 6);
        stream.extend([frame(b'E', ERROR), frame(b'Z', b"I")].concat());
        let (events, _) = play(version, &stream, 100).unwrap();
        let [.., BackupEvent::Stopped(_), BackupEvent::Failed(error)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(error.message, "checksum");
    }
}

#[test]
fn an_error_in_the_midst_ends_it() {
    let stream = [beginning(), frame(b'H', OUT), frame(b'E', ERROR), frame(b'Z', b"I")].concat();
    let (events, _) = play(NEW, &stream, 100).unwrap();
    assert!(matches!(events.as_slice(), [BackupEvent::Started(..), BackupEvent::Failed(_)]));
}

#[test]
fn what_doesnt_belong_is_refused() {
    let check = |version, parts: &[Vec<u8>]| {
        let stream = parts.concat();
        assert!(play(version, &stream, 100).is_err(), "{}", stream.escape_ascii());
    };
    let copy = |payload: &[u8]| [beginning(), frame(b'H', OUT), frame(b'd', payload)].concat();
    check(NEW, &[copy(b"dbytes of nothing")]);
    check(NEW, &[copy(b"x")]);
    check(NEW, &[copy(b"n../x.tar\0\0")]);
    check(NEW, &[copy(b"n16385.tar\0\0")]);
    check(NEW, &[copy(&[b'n'; 9000])]);
    check(NEW, &[frame(b'H', OUT)]);
    check(NEW, &[beginning(), frame(b'd', b"d")]);
    check(OLD, &[beginning(), frame(b'd', b"d")]);
    check(OLD, &[beginning(), frame(b'Z', b"I")]);
    let one = [frame(b'H', OUT), frame(b'c', b"")].concat();
    check(OLD, &[beginning(), one.clone(), one.clone(), one.clone(), one]);
    check(OLD, &[frame(b'Z', b"I")]);
}
