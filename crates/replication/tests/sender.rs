//! The sender against clients: the receiver's own connection, and bytes that no client sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pg_types::{Geometry, Lsn, SegmentSize, ServerVersion, SystemId, TimelineId};
use pg_wire::message::{BackendMessage, FrameHeader, Phase, SqlState};
use pg_wire::server::Verifier;
use pg_wire::server::grammar::Command;
use pg_wire::server::response::Refusal;
use pg_wire::stream::{EndOfTimeline, PrimaryKeepalive, StandbyStatusUpdate};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;
use replication::sender::{Answer, Ask, Host, Login, Piece, Secrets, Sender, SlotAnswer, Status};

const START: Lsn = Lsn::new(0x300_0000);
const LIMIT: Lsn = Lsn::new(0x305_0128);
const TIMELINE: TimelineId = TimelineId::FIRST;

struct Scene {
    sender: Sender,
    now: Instant,
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), body].concat()
}

fn startup(minor: u16, rest: &[u8]) -> Vec<u8> {
    let body = [&[0, 3], &minor.to_be_bytes()[..], rest].concat();
    [&u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body[..]].concat()
}

const PARAMETERS: &[u8] = b"user\0u\0replication\0true\0application_name\0walreceiver\0\0";

impl Scene {
    fn new(version: u32) -> Self {
        let host = Host {
            version: ServerVersion::from_num(version),
            system_id: SystemId(7_000_000_000_000_000_001),
            geometry: Geometry::new(SegmentSize::MIN),
            wal_sender_timeout: Duration::from_secs(60),
        };
        let secrets = Secrets { process_id: 77, cancel_key: [9; 32], nonce: [5; 18] };
        Self { sender: Sender::new(Arc::new(host), secrets), now: Instant::now() }
    }

    fn logged_in(version: u32) -> Self {
        let mut scene = Self::new(version);
        scene.says(&startup(0, PARAMETERS));
        assert_eq!(scene.sender.poll_ask(), Some(Ask::Login("u".to_owned())));
        scene.sender.login(Login::Trust, scene.now);
        assert!(scene.hears().iter().any(|said| said.starts_with("ReadyForQuery")));
        scene
    }

    fn streaming(version: u32, end: Option<EndOfTimeline>) -> Self {
        let mut scene = Self::logged_in(version);
        scene.asks("START_REPLICATION 0/3000000 TIMELINE 1");
        let stream = Answer::Stream { start: START, timeline: TIMELINE, limit: LIMIT, end };
        scene.sender.answer(stream, scene.now);
        assert_eq!(scene.hears(), ["CopyBothResponse"]);
        scene
    }

    fn says(&mut self, bytes: &[u8]) {
        self.sender.handle_input(bytes, self.now);
    }

    /// What is answered, message by message, and taken away.
    fn hears(&mut self) -> Vec<String> {
        let bytes = self.sender.poll_transmit().unwrap_or_default().to_vec();
        self.sender.transmitted(bytes.len());
        let mut rest = bytes.as_slice();
        let mut heard = Vec::new();
        while !rest.is_empty() {
            if rest[0] == b'N' && rest.len() == 1 {
                heard.push("no encryption".to_owned());
                break;
            }
            let (header, body) = FrameHeader::split(rest, Phase::Established).unwrap().unwrap();
            heard.push(format!("{:?}", BackendMessage::parse(header.tag, body).unwrap()));
            rest = &rest[FrameHeader::LEN + header.len..];
        }
        heard
    }

    fn asks(&mut self, command: &str) -> Command {
        self.says(&frame(b'Q', &[command.as_bytes(), b"\0"].concat()));
        match self.sender.poll_ask() {
            Some(Ask::Command(command)) => command,
            other => panic!("{command}: {other:?}"),
        }
    }

    /// Sends pieces until nothing is left; gives each one's end.
    fn send_all(&mut self) -> Vec<Lsn> {
        let mut ends = Vec::new();
        while let Some(piece) = self.sender.next_piece() {
            let header = self.sender.piece_header(&piece, 0);
            assert_eq!(header.len(), Piece::HEADER_LEN);
            self.sender.piece_sent(&piece, self.now);
            ends.push(piece.end());
        }
        ends
    }

    fn replies(&mut self, flush: Lsn, reply_requested: bool) {
        let update = StandbyStatusUpdate {
            write: flush,
            flush,
            apply: Lsn::INVALID,
            time_us: 0,
            reply_requested,
        };
        self.says(&update.encode());
    }
}

fn has(heard: &[String], text: &str) -> bool {
    heard.iter().any(|said| said.contains(text))
}

/// A client that knows `password` logs in as somebody who has `verifier`.
fn scram(password: &[u8], verifier: Verifier) -> Scene {
    let mut scene = Scene::new(180_006);
    scene.says(&startup(0, PARAMETERS));
    assert_eq!(scene.sender.poll_ask(), Some(Ask::Login("u".to_owned())));
    scene.sender.login(Login::Scram(verifier), scene.now);
    assert!(has(&scene.hears(), "SCRAM-SHA-256"));
    let mut client = ScramSha256::new(password, ChannelBinding::unsupported());
    let first = client.message();
    let len = u32::try_from(first.len()).unwrap().to_be_bytes();
    scene.says(&frame(b'p', &[b"SCRAM-SHA-256\0", &len[..], first].concat()));
    let challenge = scene.sender.poll_transmit().unwrap().to_vec();
    scene.sender.transmitted(challenge.len());
    client.update(&challenge[9..]).unwrap();
    scene.says(&frame(b'p', client.message()));
    scene
}

#[test]
fn a_password_lets_in_and_a_wrong_one_and_nobodys_are_refused_alike() {
    let verifier = Verifier::parse(&Verifier::text_of_password(b"right")).unwrap();
    let mut right = scram(b"right", verifier.clone());
    assert!(has(&right.hears(), "ReadyForQuery") && right.sender.is_logged_in());
    let mut wrong = scram(b"wrong", verifier);
    let mut nobody = scram(b"right", Verifier::of_nobody("u", b"secret", 4096));
    let (wrong_heard, nobody_heard) = (wrong.hears(), nobody.hears());
    assert_eq!(wrong_heard, nobody_heard);
    assert!(has(&wrong_heard, "28P01") || has(&wrong_heard, "password authentication failed"));
    assert!(wrong.sender.is_closed() && nobody.sender.is_closed());
}

#[test]
fn encryption_is_asked_for_once_each_and_refused() {
    let mut scene = Scene::new(180_006);
    let (ssl, gss) = (b"\0\0\0\x08\x04\xd2\x16\x2f", b"\0\0\0\x08\x04\xd2\x16\x30");
    scene.says(ssl);
    assert_eq!(scene.hears(), ["no encryption"]);
    scene.says(gss);
    assert_eq!(scene.hears(), ["no encryption"]);
    scene.says(ssl);
    assert!(has(&scene.hears(), "refused, before") && scene.sender.is_closed());
    let mut scene = Scene::new(180_006);
    scene.says(&[&ssl[..], &ssl[..]].concat());
    assert!(has(&scene.hears(), "received unencrypted data after SSL request"));
}

#[test]
fn the_protocols_version_and_the_keys_length_are_the_upstreams() {
    let check = |version, minor, newest: Option<u32>, key: &str| {
        let mut scene = Scene::new(version);
        scene.says(&startup(minor, PARAMETERS));
        scene.sender.login(Login::Trust, scene.now);
        let heard = scene.hears();
        let negotiated = heard.iter().find(|said| said.starts_with("Negotiate"));
        let expect = newest.map(|newest| format!("newest_minor: {}", 3 << 16 | newest));
        assert_eq!(negotiated.is_some(), expect.is_some(), "{version} {minor}");
        if let (Some(negotiated), Some(expect)) = (negotiated, expect) {
            assert!(negotiated.contains(&expect), "{negotiated}");
        }
        assert!(has(&heard, key), "{heard:?}");
    };
    let (short, long) = ("[9, 9, 9, 9] }", "[9, 9, 9, 9, 9,");
    check(140_023, 0, None, short);
    check(140_023, 2, Some(0), short);
    check(180_006, 0, None, short);
    check(180_006, 2, None, long);
    check(180_006, 9999, Some(2), long);
}

#[test]
fn what_is_reported_at_the_start_is_the_versions() {
    let names = |version| {
        let mut scene = Scene::new(version);
        scene.says(&startup(0, PARAMETERS));
        scene.sender.login(Login::Trust, scene.now);
        let heard = scene.hears();
        heard.iter().filter(|said| said.starts_with("ParameterStatus")).count()
    };
    assert_eq!([140_023, 150_019, 160_015, 170_011, 180_006].map(names), [13, 13, 14, 14, 15]);
}

#[test]
fn commands_are_answered_as_the_version_answers() {
    let mut scene = Scene::logged_in(140_023);
    assert_eq!(scene.asks("IDENTIFY_SYSTEM"), Command::IdentifySystem);
    scene.sender.answer(Answer::System { timeline: TIMELINE, at: LIMIT }, scene.now);
    let heard = scene.hears();
    assert!(has(&heard, "type_oid: 23") && has(&heard, "IDENTIFY_SYSTEM"), "{heard:?}");
    let mut scene = Scene::logged_in(180_006);
    scene.asks("IDENTIFY_SYSTEM");
    scene.sender.answer(Answer::System { timeline: TIMELINE, at: LIMIT }, scene.now);
    assert!(has(&scene.hears(), "type_oid: 20"));
    scene.asks("READ_REPLICATION_SLOT \"s\"");
    scene.sender.answer(Answer::Slot(SlotAnswer::Missing), scene.now);
    assert!(has(&scene.hears(), "DataRow([None, None, None])"));
    scene.says(&frame(b'Q', b"SHOW WAL_SEGMENT_SIZE\0"));
    assert!(has(&scene.hears(), &format!("{:?}", b"1MB")));
    scene.says(&frame(b'Q', b"SELECT 1\0"));
    assert!(has(&scene.hears(), "cannot execute SQL commands in WAL sender"));
    scene.says(&frame(b'Q', b"BASE_BACKUP (NOSUCH)\0"));
    assert!(has(&scene.hears(), "unrecognized base backup option"));
    scene.says(&frame(b'P', b""));
    scene.says(&frame(b'Q', b"SHOW wal_level\0"));
    assert_eq!(scene.hears().len(), 1, "all is passed over up to Sync");
    scene.says(&frame(b'S', b""));
    assert_eq!(scene.hears().len(), 1);
}

#[test]
fn nothing_is_sent_past_the_limit_and_pieces_end_at_pages() {
    let mut scene = Scene::streaming(180_006, None);
    let ends = scene.send_all();
    let expect = [0x302_0000, 0x304_0000, 0x305_0128].map(Lsn::new);
    assert_eq!(ends, expect);
    assert_eq!(scene.sender.standing().map(|at| at.status), Some(Status::Streaming));
    scene.sender.advance(Lsn::new(0x305_0200), None);
    assert_eq!(scene.send_all(), [Lsn::new(0x305_0200)]);
    // A smaller limit takes nothing back.
    scene.sender.advance(START, None);
    assert_eq!(scene.send_all(), []);
}

#[test]
fn a_timeline_ends_as_the_real_servers_does() {
    let next = TimelineId::new(3).unwrap();
    let end = EndOfTimeline { next_timeline: next, switch_point: Lsn::new(0x303_0000) };
    let mut scene = Scene::streaming(180_006, Some(end));
    assert_eq!(scene.send_all().last(), Some(&end.switch_point));
    assert_eq!(scene.hears(), ["CopyDone"]);
    scene.says(&frame(b'c', b""));
    let heard = scene.hears();
    assert!(has(&heard, "next_tli_startpos") && has(&heard, "[Some([51]), "), "{heard:?}");
    let completes = heard.iter().filter(|said| said.starts_with("CommandComplete")).count();
    assert_eq!((completes, heard.len()), (2, 5));
    // Exactly there, there is no stream.
    scene.asks("START_REPLICATION 0/3030000 TIMELINE 1");
    let start = end.switch_point;
    let at_end = Answer::Stream { start, timeline: TIMELINE, limit: LIMIT, end: Some(end) };
    scene.sender.answer(at_end, scene.now);
    assert_eq!(scene.hears(), heard);
    // One that ends while it is streamed.
    let mut scene = Scene::streaming(180_006, None);
    scene.send_all();
    scene.sender.advance(LIMIT, Some(EndOfTimeline { switch_point: LIMIT, ..end }));
    assert_eq!(scene.hears(), ["CopyDone"]);
}

#[test]
fn a_client_that_ends_the_stream_is_answered_without_a_row() {
    let mut scene = Scene::streaming(140_023, None);
    scene.says(&[frame(b'c', b""), frame(b'd', b"r")].concat());
    let heard = scene.hears();
    assert_eq!((heard[0].as_str(), heard.len()), ("CopyDone", 4), "{heard:?}");
    assert!(!has(&heard, "DataRow"));
}

#[test]
fn a_position_ahead_of_the_archive_is_refused_behind_copy_both() {
    let mut scene = Scene::logged_in(180_006);
    scene.asks("START_REPLICATION F/0 TIMELINE 1");
    let start = Lsn::new(15 << 32);
    let ahead = Answer::Stream { start, timeline: TIMELINE, limit: LIMIT, end: None };
    scene.sender.answer(ahead, scene.now);
    let heard = scene.hears();
    assert_eq!(heard[0], "CopyBothResponse");
    assert!(heard[1].contains("ahead of the WAL flush position of this server 0/3050128"));
}

#[test]
fn a_silent_client_is_asked_after_half_the_timeout_and_is_gone_after_it() {
    let mut scene = Scene::streaming(180_006, None);
    let (begun, second) = (scene.now, Duration::from_secs(1));
    assert_eq!(scene.sender.next_timeout(), Some(begun + second * 30));
    scene.sender.handle_timeout(begun + second * 29, 0);
    assert_eq!(scene.hears(), Vec::<String>::new());
    scene.sender.handle_timeout(begun + second * 30, 0);
    let wal_end = START;
    let keepalive = PrimaryKeepalive { wal_end, server_time_us: 0, reply_requested: true };
    assert_eq!(scene.hears(), [format!("CopyData({:?})", keepalive.encode())]);
    scene.now = begun + second * 31;
    scene.replies(START, false);
    assert_eq!(scene.sender.next_timeout(), Some(begun + second * 61));
    scene.sender.handle_timeout(begun + second * 61, 0);
    scene.sender.handle_timeout(begun + second * 91, 0);
    assert!(scene.sender.is_closed());
}

#[test]
fn a_command_that_fails_is_told_with_the_clients_name() {
    let mut scene = Scene::logged_in(180_006);
    scene.asks("START_REPLICATION SLOT nobody 0/3000000");
    let refusal = Refusal::error(SqlState::UNDEFINED_OBJECT, "there is none");
    scene.sender.answer(Answer::Refused(refusal), scene.now);
    let note = Ask::Note("walreceiver: there is none".to_owned());
    assert_eq!(scene.sender.poll_ask(), Some(note));
}

#[test]
fn replies_may_be_longer_than_they_are_today() {
    let mut scene = Scene::streaming(180_006, None);
    scene.send_all();
    let update = StandbyStatusUpdate {
        write: START,
        flush: START,
        apply: START,
        time_us: 0,
        reply_requested: false,
    };
    let (payload, more) = (update.encode()[5..].to_vec(), b"more");
    scene.says(&frame(b'd', &[&payload[..], more].concat()));
    assert_eq!(scene.sender.standing().map(|at| at.apply), Some(START));
    scene.says(&frame(b'd', &payload[..9]));
    assert!(has(&scene.hears(), "insufficient data left in message"));
}

#[test]
fn whoever_asks_much_gets_it_bit_by_bit() {
    let mut scene = Scene::logged_in(180_006);
    scene.says(&frame(b'Q', b"SHOW ALL\0").repeat(500));
    let mut answered = 0;
    while answered < 500 {
        let waiting = scene.sender.poll_transmit().unwrap().len();
        assert!(waiting < 100_000, "{waiting} bytes wait");
        assert!(!scene.sender.is_behind() && scene.sender.wants_input() == (waiting < 64 << 10));
        answered += scene.hears().iter().filter(|said| said.starts_with("ReadyForQuery")).count();
        assert_eq!(scene.sender.is_behind(), answered < 500);
        scene.sender.handle_timeout(scene.now, 0);
    }
    assert_eq!(answered, 500);
}

#[test]
fn a_name_is_told_in_ascii_as_the_version_has_it() {
    let check = |version, name: &str| {
        let mut scene = Scene::new(version);
        let parameters = "user\0u\0replication\x001\0application_name\0a\u{e9}\n\0\0";
        scene.says(&startup(0, parameters.as_bytes()));
        scene.sender.login(Login::Trust, scene.now);
        assert_eq!(scene.sender.application_name(), name);
    };
    check(150_019, "a???");
    check(160_015, "a\\xc3\\xa9\\x0a");
}

#[test]
fn replies_are_kept_and_one_from_the_future_is_noted_once() {
    let mut scene = Scene::streaming(180_006, None);
    scene.send_all();
    scene.now += Duration::from_millis(5);
    scene.replies(Lsn::new(0x304_0000), true);
    assert_eq!(scene.sender.next_timeout(), Some(scene.now), "it asked for an answer");
    scene.sender.handle_timeout(scene.now, 12);
    let wal_end = LIMIT;
    let keepalive = PrimaryKeepalive { wal_end, server_time_us: 12, reply_requested: false };
    assert_eq!(scene.hears(), [format!("CopyData({:?})", keepalive.encode())]);
    let standing = *scene.sender.standing().unwrap();
    assert_eq!(standing.flush, Lsn::new(0x304_0000));
    assert_eq!(standing.flush_lag, Some(Duration::from_millis(5)));
    for _ in 0..2 {
        scene.replies(Lsn::new(1 << 60), true);
        scene.sender.handle_timeout(scene.now, 12);
        assert_eq!(scene.hears().len(), 1);
    }
    let note = scene.sender.poll_ask();
    assert!(matches!(&note, Some(Ask::Note(text)) if text.contains("flushed")), "{note:?}");
    assert_eq!(scene.sender.poll_ask(), None);
    assert_eq!(scene.sender.standing().map(|at| at.limit), Some(LIMIT));
}

#[test]
fn what_no_standby_says_ends_the_stream_or_the_connection() {
    let check = |bytes: &[u8], text: &str, closes: bool| {
        let mut scene = Scene::streaming(180_006, None);
        scene.says(bytes);
        let heard = scene.hears();
        assert!(text.is_empty() || has(&heard, text), "{heard:?}");
        assert_eq!(scene.sender.is_closed(), closes, "{text}");
        assert_eq!(scene.sender.next_piece(), None);
    };
    check(&frame(b'd', b""), "no data left in message", false);
    check(&frame(b'd', b"r\0"), "insufficient data left in message", false);
    check(&frame(b'd', b"h\0"), "insufficient data left in message", false);
    check(&frame(b'd', b"x"), "", true);
    check(&frame(b'Q', b"x\0"), "invalid standby message type \\\"Q\\\"", true);
    check(&frame(b'X', b""), "", true);
    check(b"d\xff\xff\xff\xff", "", true);
}

#[test]
fn a_shutdown_waits_for_what_was_sent_and_says_copy_0_without_copy_done() {
    let mut scene = Scene::streaming(180_006, None);
    scene.sender.shut_down();
    assert!(!scene.sender.is_closed());
    scene.send_all();
    scene.sender.handle_timeout(scene.now, 0);
    assert_eq!(scene.hears().len(), 1, "the client is asked");
    scene.replies(LIMIT, false);
    let heard = scene.hears();
    assert!(has(&heard, "COPY 0") && !has(&heard, "CopyDone") && scene.sender.is_closed());
    let mut idle = Scene::logged_in(180_006);
    idle.sender.shut_down();
    assert!(has(&idle.hears(), "terminating connection due to administrator command"));
}

#[test]
fn a_cancelled_stream_leaves_a_connection_that_takes_commands() {
    let mut scene = Scene::streaming(180_006, None);
    scene.sender.cancel();
    assert!(has(&scene.hears(), "canceling statement due to user request"));
    assert!(matches!(scene.sender.poll_ask(), Some(Ask::Note(_))));
    scene.asks("IDENTIFY_SYSTEM");
    let refusal = Refusal::error(pg_wire::message::SqlState::INTERNAL_ERROR, "no");
    scene.sender.answer(Answer::Refused(refusal), scene.now);
    assert_eq!(scene.hears().len(), 2);
}

proptest! {
    /// Whatever comes, in whatever pieces: nothing panics, the inbox stays bounded, and nobody
    /// gets in or past the limit.
    #[test]
    fn any_bytes_are_bounded(
        cuts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
        place in 0..3_u8,
    ) {
        let mut scene = match place {
            0 => Scene::new(180_006),
            1 => Scene::logged_in(140_023),
            _ => Scene::streaming(180_006, None),
        };
        for bytes in cuts {
            scene.says(&bytes);
            while let Some(ask) = scene.sender.poll_ask() {
                if place == 0 {
                    prop_assert!(!matches!(ask, Ask::Command(_)));
                }
            }
            if let Some(piece) = scene.sender.next_piece() {
                prop_assert!(piece.end() <= LIMIT);
                scene.sender.piece_sent(&piece, scene.now);
            }
        }
    }
}

/// As libpq of 17 does with sslnegotiation=direct: what has come of the handshake is handed on.
#[test]
fn tls_that_begins_by_itself_has_to_name_the_protocol() {
    let hello = [0x16, 3, 1, 0, 200, 1];
    for (has_alpn, closed) in [(true, false), (false, true)] {
        let mut scene = Scene::new(180_006);
        scene.sender.offer_tls();
        scene.says(&hello);
        assert_eq!(scene.sender.poll_ask(), Some(Ask::Tls(hello.to_vec())));
        scene.sender.encrypted(None, has_alpn);
        assert_eq!(scene.sender.is_closed(), closed);
        assert_eq!(matches!(scene.sender.poll_ask(), Some(Ask::Note(_))), closed);
    }
    // Where there is no TLS it is no client at all.
    let mut scene = Scene::new(180_006);
    scene.says(&hello);
    assert!(scene.sender.is_closed());
}
