//! WAL that doesn't arrive as it was sent: a flipped bit is never acknowledged past, is fetched
//! again once, and stops the receiver with an alarm when it is there again.

use std::fs;
use std::process::Command;

use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::process::run_unchecked;
use testkit::proxy::{Action, At, ClientMessageKind, Fault, Proxy};
use testkit::scratch::Scratch;
use testkit::servers::Server;

use super::common::{
    LIMIT, Must, Receiver, ReceiverOptions, compare_with_primary, lsn, restart_lsn, scratch,
    server, server_flush,
};

/// Where the small segments of these tests begin.
const SEGMENT: SegmentSize = SegmentSize::MIN;

/// A server with segments of 1 MB, a proxy before it, and a place for the archive.
struct Scene {
    server: Server,
    proxy: Proxy,
    scratch: Scratch,
    receiver: Receiver,
}

impl Scene {
    /// With a receiver that streams by way of the proxy.
    fn new(major: u32) -> Self {
        let server = server(major, 1, &[]);
        let proxy = Proxy::start(server.port()).must();
        let scratch = scratch();
        let mut receiver = Receiver::start(&server, &scratch.path().join("archive"), &via(&proxy));
        receiver.await_streaming(&server);
        Self { server, proxy, scratch, receiver }
    }

    /// A new segment's start.
    fn next_segment(&self) -> Lsn {
        let at = "SELECT pg_switch_wal()\\g /dev/null\nSELECT pg_current_wal_insert_lsn()";
        lsn(&self.server, at).segment_start(SEGMENT)
    }

    fn flip(&self, at: Lsn, times: u32) {
        self.fault(at, Action::FlipBit(3), times);
    }

    fn fault(&self, at: Lsn, action: Action, times: u32) {
        self.proxy.add(Fault { at: At::Lsn(at.as_u64()), action, times });
    }

    /// One record of about so many bytes, flushed by its commit.
    fn emit(&self, bytes: u64) {
        let emit = format!("SELECT pg_logical_emit_message(true, 'live', repeat('x', {bytes}))");
        self.server.sql(&emit).must();
    }

    /// Whatever came, all of it is there now, and the primary's.
    fn converges(&mut self) {
        let end = server_flush(&self.server);
        self.receiver.await_flush(&self.server, end);
        compare_with_primary(&self.receiver.wal_dir(), &self.server, end);
    }

    /// The connections that streamed with the slot, by the proxy's numbers: without it the server
    /// is asked whether its history is the archive's.
    fn streams(&self) -> Vec<usize> {
        let messages = self.proxy.messages().into_iter();
        let starts = messages.filter(|message| {
            let ClientMessageKind::Query(text) = &message.kind else { return false };
            text.starts_with("START_REPLICATION SLOT")
        });
        starts.map(|message| message.connection).collect()
    }

    /// There were so many streams, and the first `harmed` of them claimed nothing past `proved`.
    fn assert_claims(&self, streams: usize, harmed: usize, proved: Lsn) {
        assert_eq!(self.streams().len(), streams, "{}", self.receiver.running.output_tail());
        for stream in self.streams().into_iter().take(harmed) {
            for status in self.proxy.statuses().iter().filter(|s| s.connection == stream) {
                let (write, flush) = (Lsn::new(status.write), Lsn::new(status.flush));
                assert!(write <= proved, "{write} is claimed written, proved is {proved}");
                assert!(flush <= proved, "{flush} is claimed flushed, proved is {proved}");
            }
        }
    }
}

fn via(proxy: &Proxy) -> ReceiverOptions {
    ReceiverOptions { port: Some(proxy.port()), ..ReceiverOptions::with(&["--json"]) }
}

fn segment_name(at: Lsn) -> String {
    let name = WalFileName::segment(TimelineId::FIRST, at.segment(SEGMENT));
    name.display(SEGMENT).to_string()
}

/// The start of the record that holds the byte at `at`, by the server's own pg_waldump.
fn record_at(server: &Server, from: Lsn, at: Lsn) -> Lsn {
    let mut waldump: Command = server.install().client_command("pg_waldump");
    waldump.arg("-p").arg(server.wal_dir()).args(["-s", &from.to_string()]);
    let output = run_unchecked(&mut waldump, "", LIMIT, "pg_waldump").must();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let starts = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once("lsn: ")?;
        rest.split(',').next()?.parse::<Lsn>().ok()
    });
    let record = starts.filter(|start| *start <= at).max();
    record.unwrap_or_else(|| panic!("no record at {at}: {text}"))
}

fn flipped_once_is_fetched_again(major: u32) {
    let mut scene = Scene::new(major);
    let base = scene.next_segment();
    let flip = base.saturating_add(0x2_0123);
    scene.flip(flip, 1);
    scene
        .server
        .sql("CREATE TABLE t AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 6000) i")
        .must();
    scene.converges();
    assert_eq!(scene.proxy.fired().len(), 1, "the bit was flipped");
    scene.assert_claims(2, 1, record_at(&scene.server, base, flip));
    scene.receiver.stop();
}

#[test]
fn a_bit_flipped_once_is_fetched_again_14() {
    flipped_once_is_fetched_again(14);
}

#[test]
fn a_bit_flipped_once_is_fetched_again_18() {
    flipped_once_is_fetched_again(18);
}

fn flipped_twice_is_an_alarm(major: u32) {
    let mut scene = Scene::new(major);
    let base = scene.next_segment();
    let flip = base.saturating_add(0x1_0200);
    // Also where the server is asked about its history in between.
    scene.flip(flip, u32::MAX);
    scene.emit(300_000);
    let status = scene.receiver.wait();
    let output = scene.receiver.running.output_tail();
    let record = record_at(&scene.server, base, flip);
    assert_eq!(status.code(), Some(4), "{output}");
    let alarm = output.lines().find(|line| line.contains("ALARM")).unwrap_or_default();
    assert!(alarm.contains(&format!("at {record}: CRC ")), "{record}: {output}");
    scene.assert_claims(2, 2, record);
    assert!(restart_lsn(&scene.server) <= record);
    // The operator has mended the network.
    scene.proxy.clear_faults();
    let archive = scene.scratch.path().join("archive");
    scene.receiver = Receiver::start(&scene.server, &archive, &ReceiverOptions::default());
    scene.converges();
    scene.receiver.stop();
}

#[test]
fn a_bit_flipped_again_is_an_alarm_14() {
    flipped_twice_is_an_alarm(14);
}

#[test]
fn a_bit_flipped_again_is_an_alarm_18() {
    flipped_twice_is_an_alarm(18);
}

/// A record of 3 MB from a segment's start on; a bit is flipped in the segment number `part` of
/// those that it runs over, and the record's end is held back until the first ones are sealed.
fn in_a_record_over_sealed_segments(major: u32, part: u64) {
    const MB: u64 = 1 << 20;
    let mut scene = Scene::new(major);
    let base = scene.next_segment();
    let flip = base.saturating_add(part * MB + 0x6_0200);
    scene.flip(flip, 1);
    scene.fault(base.saturating_add(2 * MB + 0x2_0000), Action::Stall, 1);
    scene.emit(3 * MB);
    let sealed = [base, base.saturating_add(MB)].map(segment_name);
    let paths = sealed.clone().map(|name| scene.receiver.wal_dir().join(name));
    scene
        .proxy
        .wait_until("the first segments to be sealed", LIMIT, |_| {
            paths.iter().all(|path| path.is_file())
        })
        .must();
    let record = record_at(&scene.server, base, flip);
    assert_eq!(segment_name(record), sealed[0], "the record doesn't begin where it should");
    scene.proxy.resume();
    let withdrawn = scene.receiver.running.wait_for_line("\"withdrawn\"", LIMIT).must();
    assert!(withdrawn.text.contains(&sealed[0]), "{}", withdrawn.text);
    scene.converges();
    scene.assert_claims(2, 1, record);
    let kept = fs::read_dir(scene.scratch.path().join("archive/quarantine")).must();
    let kept: Vec<String> =
        kept.map(|entry| entry.must().file_name().to_string_lossy().into_owned()).collect();
    for name in &sealed {
        assert!(kept.iter().any(|evidence| evidence.starts_with(name)), "{name}: {kept:?}");
    }
    scene.receiver.stop();
}

#[test]
fn a_flip_in_a_sealed_segment_withdraws_it_14() {
    in_a_record_over_sealed_segments(14, 0);
}

#[test]
fn a_flip_in_a_sealed_segment_withdraws_it_18() {
    in_a_record_over_sealed_segments(18, 1);
}

#[test]
fn a_flip_behind_a_sealed_segment_withdraws_it() {
    in_a_record_over_sealed_segments(18, 2);
}

#[test]
fn two_flips_in_different_records_are_no_alarm() {
    let mut scene = Scene::new(18);
    let base = scene.next_segment();
    scene.flip(base.saturating_add(0x1_0200), 1);
    scene.flip(base.saturating_add(0x8_0200), 1);
    scene.emit(300_000);
    scene.emit(300_000);
    scene.emit(300_000);
    scene.converges();
    assert_eq!(scene.proxy.fired().len(), 2);
    assert!(scene.streams().len() <= 3);
    scene.receiver.stop();
}
