//! The connection against a server whose part the test plays, with the time in its hand.

use std::time::{Duration, Instant};

use pg_types::{Acknowledgement, Lsn};
use pg_wire::message::frontend;
use pg_wire::settings::{ConnectionSettings, Flags, Inputs};
use pg_wire::startup::Startup;
use pg_wire::stream::{PrimaryKeepalive, StandbyStatusUpdate, XLogDataHeader};
use replication::{Connection, Event, ProtocolError, Timing, Want};

const START: Lsn = Lsn::new(0x300_0000);
const TIMING: Timing = Timing {
    status_interval: Duration::from_secs(10),
    wal_sender_timeout: Duration::from_secs(60),
};

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &len.to_be_bytes(), body].concat()
}

fn put(connection: &mut Connection, mut bytes: &[u8], now: Instant) -> Result<(), ProtocolError> {
    while !bytes.is_empty() {
        assert_eq!(connection.want(), Want::Input, "these bytes aren't WAL");
        let space = connection.space();
        let len = space.len().min(bytes.len());
        space[..len].copy_from_slice(&bytes[..len]);
        connection.handle_input(len, now)?;
        bytes = &bytes[len..];
    }
    Ok(())
}

fn transmitted(connection: &mut Connection) -> Vec<u8> {
    let bytes = connection.poll_transmit().unwrap_or_default().to_vec();
    connection.transmitted(bytes.len());
    bytes
}

fn connected(now: Instant) -> Connection {
    let flags = Flags { host: Some("x".into()), user: Some("x".into()), ..Flags::default() };
    let settings = ConnectionSettings::resolve(&Inputs { flags, ..Inputs::default() });
    let startup = Startup::physical_replication(&settings.unwrap()).unwrap();
    let mut connection = Connection::new(startup, TIMING);
    assert!(!transmitted(&mut connection).is_empty());
    put(&mut connection, &frame(b'R', &[0; 4]), now).unwrap();
    put(&mut connection, &frame(b'S', b"server_version\x0018.6\0"), now).unwrap();
    put(&mut connection, &frame(b'Z', b"I"), now).unwrap();
    let Some(Event::Ready(info)) = connection.poll_event() else { panic!("not ready") };
    assert_eq!(info.version.map(pg_types::ServerVersion::num), Some(180_006));
    connection
}

fn streaming(now: Instant) -> Connection {
    let mut connection = connected(now);
    connection.start_streaming("START_REPLICATION 0/3000000 TIMELINE 1", START);
    assert_eq!(transmitted(&mut connection)[0], b'Q');
    put(&mut connection, &frame(b'W', &[0; 3]), now).unwrap();
    assert_eq!(connection.poll_event(), Some(Event::Streaming));
    connection
}

/// Sends the header of WAL at `start`, and the WAL itself if it is taken.
fn wal(
    connection: &mut Connection,
    start: Lsn,
    len: usize,
    now: Instant,
) -> Result<(), ProtocolError> {
    let wal_end = start.saturating_add(len as u64);
    let header = XLogDataHeader { start, wal_end, server_time_us: 0 }.encode();
    let mut message = frame(b'd', &[&header[..], &vec![0; len]].concat());
    message.truncate(5 + header.len());
    put(connection, &message, now)?;
    assert_eq!(connection.want(), Want::Wal { at: start, len });
    connection.handle_wal(len, now);
    Ok(())
}

fn keepalive(connection: &mut Connection, wal_end: Lsn, reply_requested: bool, now: Instant) {
    let body = PrimaryKeepalive { wal_end, server_time_us: 0, reply_requested }.encode();
    put(connection, &frame(b'd', &body), now).unwrap();
}

/// The status updates that are sent now.
fn updates(connection: &mut Connection, now: Instant) -> Vec<StandbyStatusUpdate> {
    connection.send_status(now, 0);
    let bytes = transmitted(connection);
    let updates = bytes.chunks(39).map(|frame| {
        let payload: &[u8; 34] = frame[5..].try_into().unwrap();
        StandbyStatusUpdate::parse(payload).unwrap()
    });
    updates.collect()
}

/// The same as (write, flush); they ask for nothing.
fn statuses(connection: &mut Connection, now: Instant) -> Vec<(Lsn, Lsn)> {
    let positions = updates(connection, now).into_iter().map(|update| {
        assert_eq!(update.apply, Lsn::INVALID, "nothing is ever applied");
        assert!(!update.reply_requested);
        (update.write, update.flush)
    });
    positions.collect()
}

fn may(write: u64, flush: u64) -> Option<Acknowledgement> {
    Some(Acknowledgement { write: Lsn::new(write), flush: Lsn::new(flush) })
}

const NOTHING: (Lsn, Lsn) = (Lsn::INVALID, Lsn::INVALID);

#[test]
fn growth_is_acknowledged_at_once_and_only_growth() {
    let now = Instant::now();
    let mut connection = streaming(now);
    assert_eq!(statuses(&mut connection, now), [NOTHING], "a sign of life at the start");
    wal(&mut connection, START, 100, now).unwrap();
    assert_eq!(statuses(&mut connection, now), []);
    connection.acknowledge(may(0x300_0040, 0x300_0000), false);
    let first = (Lsn::new(0x300_0040), Lsn::new(0x300_0000));
    assert_eq!(statuses(&mut connection, now), [first]);
    connection.acknowledge(may(0x300_0040, 0x300_0000), false);
    assert_eq!(statuses(&mut connection, now), []);
    connection.acknowledge(None, false);
    assert_eq!(statuses(&mut connection, now), [], "what was said stays said");
}

#[test]
fn a_reply_that_is_asked_for_comes_at_once_with_the_old_position() {
    let now = Instant::now();
    let mut connection = streaming(now);
    statuses(&mut connection, now);
    keepalive(&mut connection, START.saturating_add(5), true, now);
    assert_eq!(statuses(&mut connection, now), [NOTHING]);
    keepalive(&mut connection, START.saturating_add(5), false, now);
    assert_eq!(statuses(&mut connection, now), []);
    assert_eq!(connection.wal_end(), Some(START.saturating_add(5)));
}

#[test]
fn a_status_is_due_after_the_interval_or_a_third_of_the_servers_timeout() {
    let now = Instant::now();
    let mut connection = streaming(now);
    statuses(&mut connection, now);
    assert_eq!(connection.next_timeout(), Some(now + Duration::from_secs(10)));
    assert_eq!(statuses(&mut connection, now + Duration::from_secs(9)), []);
    assert_eq!(statuses(&mut connection, now + Duration::from_secs(10)), [NOTHING]);

    let mut connection = connected(now);
    let wal_sender_timeout = Duration::from_secs(6);
    connection.set_timing(Timing { wal_sender_timeout, ..TIMING });
    connection.start_streaming("START_REPLICATION 0/3000000 TIMELINE 1", START);
    transmitted(&mut connection);
    put(&mut connection, &frame(b'W', &[0; 3]), now).unwrap();
    statuses(&mut connection, now);
    assert_eq!(connection.next_timeout(), Some(now + Duration::from_secs(2)));
}

#[test]
fn the_unproved_tail_is_acknowledged_only_to_a_server_that_asks_for_just_it() {
    let now = Instant::now();
    let mut connection = streaming(now);
    wal(&mut connection, START, 100, now).unwrap();
    statuses(&mut connection, now);
    let (proved, end) = (0x300_0040, START.saturating_add(100));
    connection.acknowledge(may(proved, proved), true);
    assert_eq!(statuses(&mut connection, now), [(Lsn::new(proved), Lsn::new(proved))]);
    assert!(!connection.wants_tail());
    keepalive(&mut connection, end.saturating_add(1), true, now);
    assert!(!connection.wants_tail(), "more is to come");
    keepalive(&mut connection, end, false, now);
    assert!(!connection.wants_tail(), "it doesn't ask");
    keepalive(&mut connection, end, true, now);
    assert!(connection.wants_tail());
    connection.acknowledge(may(proved, proved), false);
    assert_eq!(statuses(&mut connection, now), [(Lsn::new(proved), Lsn::new(proved))]);
    connection.acknowledge(may(proved, proved), true);
    assert_eq!(statuses(&mut connection, now), [(end, end)]);
}

#[test]
fn wal_that_does_not_follow_is_refused() {
    let now = Instant::now();
    let mut connection = streaming(now);
    wal(&mut connection, START, 100, now).unwrap();
    let expected = START.saturating_add(100);
    let got = START.saturating_add(108);
    let result = wal(&mut connection, got, 100, now);
    assert_eq!(result, Err(ProtocolError::NotContiguous { expected, got }));
}

#[test]
fn a_server_that_shuts_down_ends_the_stream_without_copy_done() {
    let now = Instant::now();
    let mut connection = streaming(now);
    put(&mut connection, &frame(b'C', b"COPY 0\0"), now).unwrap();
    assert_eq!(connection.poll_event(), Some(Event::ServerShutDown));
    assert_eq!(connection.want(), Want::Nothing);
}

#[test]
fn our_copy_done_in_the_middle_of_wal_passes_over_its_rest() {
    let now = Instant::now();
    let mut connection = streaming(now);
    let header = XLogDataHeader { start: START, wal_end: START, server_time_us: 0 }.encode();
    let message = frame(b'd', &[&header[..], &[0xAB; 5000]].concat());
    let (begin, rest) = message.split_at(30);
    put(&mut connection, begin, now).unwrap();
    connection.handle_wal(1000, now);
    statuses(&mut connection, now);
    connection.stop_streaming();
    assert_eq!(transmitted(&mut connection), frontend::copy_done());
    put(&mut connection, &rest[1000..], now).unwrap();
    put(&mut connection, &frame(b'd', &[&header[..], &[7; 300]].concat()), now).unwrap();
    put(&mut connection, &frame(b'c', b""), now).unwrap();
    put(&mut connection, &frame(b'C', b"COPY 0\0"), now).unwrap();
    put(&mut connection, &frame(b'C', b"START_REPLICATION\0"), now).unwrap();
    put(&mut connection, &frame(b'Z', b"I"), now).unwrap();
    assert_eq!(connection.poll_event(), Some(Event::StreamEnded));
}

/// The row that tells the next timeline, and what follows it.
fn end_of_timeline() -> Vec<u8> {
    let column = |name: &[u8]| [name, &[0; 19]].concat();
    let columns = [&column(b"next_tli")[..], &column(b"next_tli_startpos")].concat();
    let row = [&[0, 2, 0, 0, 0, 1][..], b"2", &[0, 0, 0, 9], b"0/3000100"].concat();
    [
        frame(b'T', &[&[0, 2][..], &columns].concat()),
        frame(b'D', &row),
        frame(b'C', b"SELECT 1\0"),
        frame(b'C', b"START_REPLICATION\0"),
        frame(b'Z', b"I"),
    ]
    .concat()
}

fn check_end_of_timeline(event: Option<&Event>) {
    let Some(Event::EndOfTimeline(end)) = event else { panic!("{event:?}") };
    assert_eq!((end.next_timeline.as_u32(), end.switch_point), (2, Lsn::new(0x300_0100)));
}

#[test]
fn a_timelines_end_is_told_after_copy_done() {
    let now = Instant::now();
    let mut connection = streaming(now);
    statuses(&mut connection, now);
    put(&mut connection, &frame(b'c', b""), now).unwrap();
    assert_eq!(transmitted(&mut connection), frontend::copy_done());
    put(&mut connection, &end_of_timeline(), now).unwrap();
    check_end_of_timeline(connection.poll_event().as_ref());
}

#[test]
fn a_start_exactly_at_the_timelines_end_has_no_stream() {
    let now = Instant::now();
    let mut connection = connected(now);
    connection.start_streaming("START_REPLICATION 0/3000000 TIMELINE 1", START);
    put(&mut connection, &end_of_timeline(), now).unwrap();
    check_end_of_timeline(connection.poll_event().as_ref());
}

#[test]
fn a_silent_server_is_gone_unless_it_is_us_who_do_not_listen() {
    let now = Instant::now();
    let mut connection = streaming(now);
    let later = now + Duration::from_secs(120);
    assert!(connection.handle_timeout(later, false).is_ok(), "the disk is full");
    assert!(connection.handle_timeout(later + Duration::from_secs(119), true).is_ok());
    let silent = Err(ProtocolError::Silent { seconds: 120 });
    assert_eq!(connection.handle_timeout(later + Duration::from_secs(120), true), silent);
}

#[test]
fn an_idle_server_is_asked_once_for_a_sign_of_life_and_stays() {
    let mut now = Instant::now();
    let mut connection = streaming(now);
    for _ in 0..3 {
        let began = now;
        let mut asked = Vec::new();
        while now < began + Duration::from_secs(119) {
            now = connection.next_timeout().unwrap().min(began + Duration::from_secs(119));
            connection.handle_timeout(now, true).unwrap();
            let asking = updates(&mut connection, now).into_iter().filter(|up| up.reply_requested);
            asked.extend(asking.map(|_| now.duration_since(began).as_secs()));
        }
        assert_eq!(asked, [60], "after a whole wal_sender_timeout");
        keepalive(&mut connection, START, false, now);
    }
}

#[test]
fn notices_and_parameters_in_the_stream_do_no_harm() {
    let now = Instant::now();
    let mut connection = streaming(now);
    put(&mut connection, &frame(b'S', b"in_hot_standby\0off\0"), now).unwrap();
    put(&mut connection, &frame(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0"), now).unwrap();
    let Some(Event::Notice(notice)) = connection.poll_event() else { panic!("no notice") };
    assert_eq!(notice.message, "hello");
    wal(&mut connection, START, 8, now).unwrap();
}

#[test]
fn an_error_in_the_stream_ends_it() {
    let now = Instant::now();
    let mut connection = streaming(now);
    let error = frame(b'E', b"SERROR\0VERROR\0C58P01\0Mgone\0\0");
    put(&mut connection, &error, now).unwrap();
    let Some(Event::StreamFailed(message)) = connection.poll_event() else { panic!("no error") };
    assert_eq!(message.sqlstate.0, *b"58P01");
    assert_eq!(connection.want(), Want::Nothing);
}
