//! A base backup from a server whose part the test plays, in both of the protocol's forms and in
//! pieces of every size: no byte of it ever gets among the messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_types::{Geometry, Lsn, SegmentSize, ServerVersion, SystemId, TimelineId};
use pg_wire::base_backup::{BackupArchive, BackupPoint};
use pg_wire::settings::{ConnectionSettings, Flags, Inputs};
use pg_wire::startup::Startup;
use replication::sender::{Answer, Ask, BackupPart, BackupStart, Host, Login, Secrets, Sender};
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

/// A client that has asked our own side for a base backup.
fn asked(version: u32, command: &str) -> Sender {
    let host = Host {
        version: ServerVersion::from_num(version),
        system_id: SystemId(7),
        geometry: Geometry::new(SegmentSize::MIN),
        wal_sender_timeout: Duration::ZERO,
    };
    let secrets = Secrets { process_id: 1, cancel_key: [0; 32], nonce: [0; 18] };
    let (mut sender, now) = (Sender::new(Arc::new(host), secrets), Instant::now());
    let startup = b"\0\x03\0\0user\0u\0replication\0on\0\0";
    let len = u32::try_from(startup.len() + 4).unwrap().to_be_bytes();
    sender.handle_input(&[&len[..], startup].concat(), now);
    assert!(matches!(sender.poll_ask(), Some(Ask::Login(_))));
    sender.login(Login::Trust, now);
    sender.handle_input(&frame(b'Q', &[command.as_bytes(), b"\0"].concat()), now);
    assert!(matches!(sender.poll_ask(), Some(Ask::Command(_))), "{command}");
    let len = sender.poll_transmit().unwrap().len();
    sender.transmitted(len);
    sender
}

fn offered(max_rate_kb: Option<u32>) -> BackupStart {
    let archive = |oid, location: Option<&str>, bytes| BackupArchive {
        oid,
        location: location.map(str::to_owned),
        bytes,
    };
    BackupStart {
        start: BackupPoint { lsn: Lsn::new(0x200_0028), timeline: TimelineId::FIRST },
        archives: vec![archive(Some(16384), Some("/srv/one"), 1024), archive(None, None, 20 << 10)],
        progress: true,
        suffix: "",
        max_rate_kb,
        to_client: true,
    }
}

/// What is to be sent, and taken away.
fn sent(sender: &mut Sender) -> Vec<u8> {
    let bytes = sender.poll_transmit().unwrap_or_default().to_vec();
    sender.transmitted(bytes.len());
    bytes
}

#[test]
fn what_our_own_side_sends_is_the_same_backup() {
    let stop = BackupPoint { lsn: Lsn::new(0x200_0100), timeline: TimelineId::FIRST };
    let bytes = |bytes: &'static str| BackupPart::Data { bytes: bytes.as_bytes(), done: 256 };
    let parts = [
        BackupPart::Archive(0),
        bytes("tablespace, "),
        bytes("its end"),
        BackupPart::Archive(1),
        bytes("nbase"),
        bytes(""),
        bytes("dmp"),
        BackupPart::Manifest,
        bytes("{}"),
        BackupPart::End(stop),
    ];
    for (version, command) in [(OLD, "BASE_BACKUP PROGRESS"), (NEW, "BASE_BACKUP (PROGRESS)")] {
        let mut sender = asked(version, command);
        let now = Instant::now();
        sender.answer(Answer::Backup(offered(None)), now);
        assert_eq!(
            (sender.is_in_backup(), sender.wants_backup()),
            (true, None),
            "all is sent first"
        );
        let mut stream = sent(&mut sender);
        for part in parts {
            assert_eq!(sender.wants_backup(), Some(None));
            sender.backup_part(part, now);
            stream.extend(sent(&mut sender));
        }
        assert!(!sender.is_in_backup());
        let (events, parts) = play(version, &stream, 100).unwrap();
        assert_eq!(parts, ["tablespace, its end", "nbasedmp", "{}"]);
        let Some(BackupEvent::Started(start, archives)) = events.first() else {
            panic!("{events:?}")
        };
        assert_eq!((start, archives), (&offered(None).start, &offered(None).archives));
        assert_eq!(events[events.len() - 2..], [BackupEvent::Stopped(stop), BackupEvent::Ended]);
        let progress = events.iter().filter(|event| **event == BackupEvent::Progress(256)).count();
        assert_eq!(progress, if version == OLD { 0 } else { 2 });
    }
}

#[test]
fn a_backup_that_fails_or_is_cancelled_leaves_a_connection_that_takes_commands() {
    let mut sender = asked(NEW, "BASE_BACKUP");
    let now = Instant::now();
    sender.answer(Answer::Backup(offered(Some(32))), now);
    let mut stream = sent(&mut sender);
    sender.backup_part(BackupPart::Archive(0), now);
    sender.backup_part(BackupPart::Data { bytes: &[b'x'; 32 << 10], done: 0 }, now);
    stream.extend(sent(&mut sender));
    let second = now + Duration::from_millis(1000);
    assert_eq!(sender.wants_backup(), Some(Some(second)), "32 KiB a second");
    sender.handle_input(&frame(b'Q', b"IDENTIFY_SYSTEM\0"), now);
    assert_eq!(sender.poll_ask(), None, "not before the backup's end");
    sender.cancel();
    stream.extend(sent(&mut sender));
    let (events, _) = play(NEW, &stream, 100).unwrap();
    let Some(BackupEvent::Failed(error)) = events.last() else { panic!("{events:?}") };
    assert_eq!(error.sqlstate.0, *b"57014");
    assert!(matches!(sender.poll_ask(), Some(Ask::Note(_))));
    sender.handle_timeout(now, 0);
    assert!(matches!(sender.poll_ask(), Some(Ask::Command(_))));
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
