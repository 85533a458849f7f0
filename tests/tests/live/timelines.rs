//! Promotions: the new primary is followed, nothing of the old timeline is touched, and what the
//! promoted server hasn't got stays where it is.

use std::fs;
use std::io::Read;
use std::path::Path;

use archive::Method;
use pg_types::{Lsn, SegmentSize, TimelineId, WalFileName};
use testkit::process::{Stream, run};
use testkit::proxy::Proxy;
use testkit::servers::{Server, StopMode};

use super::common::{LIMIT, Must, Receiver, ReceiverOptions, lsn, scratch, server, server_flush};
use super::program::{ended, fingerprint, receive};
use super::status;

const SIZE: SegmentSize = SegmentSize::MIN;

/// A receiver that doesn't know which of two servers it talks to.
struct Scene {
    receiver: Receiver,
    proxy: Proxy,
}

fn name(timeline: u32, at: Lsn) -> String {
    let timeline = TimelineId::new(timeline).must_some();
    WalFileName::segment(timeline, at.segment(SIZE)).display(SIZE).to_string()
}

trait MustSome<T> {
    fn must_some(self) -> T;
}

impl<T> MustSome<T> for Option<T> {
    #[track_caller]
    fn must_some(self) -> T {
        self.unwrap_or_else(|| panic!("nothing is there"))
    }
}

/// Some segments of WAL.
fn work(server: &Server) -> Lsn {
    server.sql("CREATE TABLE IF NOT EXISTS t(a text)").must();
    server.sql("INSERT INTO t SELECT repeat('x', 200) FROM generate_series(1, 20000)").must();
    server_flush(server)
}

/// Where a server's timeline left the one before: its history file's last line.
fn switch_point(server: &Server, timeline: u32) -> Lsn {
    let history = server.wal_dir().join(format!("{timeline:08X}.history"));
    let text = fs::read_to_string(&history).must();
    let line = text.lines().rfind(|line| !line.is_empty()).must_some();
    line.split_ascii_whitespace().nth(1).must_some().parse().must()
}

/// The archive's file and the server's are the same up to `until`, bytes from their start.
fn same(archive: &Path, server: &Server, name: &str, until: u64) {
    let until = usize::try_from(until).must();
    let [ours, theirs] = [archive.join("wal"), server.wal_dir()].map(|dir| {
        let there = [".partial", ".zst", ""].map(|ending| dir.join(format!("{name}{ending}")));
        let path = there.iter().find(|path| path.exists());
        plain(path.unwrap_or_else(|| panic!("no {name} in {}", dir.display())))
    });
    assert!(ours[..until] == theirs[..until], "{name} differs before byte {until}");
}

/// What a file has, unpacked if it is compressed.
fn plain(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).must();
    let name = path.file_name().must_some().to_string_lossy().into_owned();
    let Some(method) = Method::of_name(&name).1 else { return bytes };
    let mut plain = Vec::new();
    method.decoder(bytes.as_slice(), SIZE.bytes()).read_to_end(&mut plain).must();
    plain
}

/// Every segment of a timeline from `begin` to `end` is the server's.
fn same_from(archive: &Path, server: &Server, timeline: u32, begin: Lsn, end: Lsn) {
    let mut at = begin.segment_start(SIZE);
    while at < end {
        let next = at.saturating_add(SIZE.bytes());
        same(archive, server, &name(timeline, at), next.min(end).saturating_since(at));
        at = next;
    }
}

/// Real pg_waldump, which doesn't go from one timeline to the next, reads this one.
fn waldump_reads(archive: &Path, server: &Server, timeline: u32, begin: Lsn, end: Lsn) {
    let mut waldump = server.install().client_command("pg_waldump");
    let dir = scratch();
    for entry in fs::read_dir(archive.join("wal")).must() {
        let path = entry.must().path();
        let file = path.file_name().must_some().to_string_lossy().into_owned();
        let name = Method::of_name(file.strip_suffix(".partial").unwrap_or(&file)).0;
        if name.len() == 24 {
            fs::write(dir.path().join(name), plain(&path)).must();
        }
    }
    waldump.arg("-p").arg(dir.path()).args(["-q", "-t", &timeline.to_string()]);
    waldump.args(["-s", &begin.to_string(), "-e", &end.to_string()]);
    run(&mut waldump, LIMIT, "pg_waldump").must();
}

impl Scene {
    fn start(server: &Server, archive: &Path) -> Self {
        Self::with(server, archive, &[])
    }

    fn with(server: &Server, archive: &Path, more: &[&str]) -> Self {
        let proxy = Proxy::start(server.port()).must();
        // Nothing is decided by the words of an error.
        proxy.drop_words();
        let port = Some(proxy.port());
        let extra = ["--json"].iter().chain(more).map(ToString::to_string).collect();
        let options = ReceiverOptions { port, extra, ..ReceiverOptions::default() };
        let mut receiver = Receiver::start(server, archive, &options);
        receiver.await_streaming(server);
        Self { receiver, proxy }
    }

    /// Goes on with another server.
    fn fail_over(&mut self, to: &Server) {
        self.proxy.redirect(to.port());
        self.receiver.await_streaming(to);
    }

    /// The events of this name, as JSON.
    fn events(&self, name: &str) -> Vec<serde_json::Value> {
        let text = self.receiver.running.text(Stream::Stdout);
        let events = text.lines().map(|line| serde_json::from_str(line).must());
        events.filter(|event: &serde_json::Value| event["event"] == name).collect()
    }
}

/// The promoted standby has all of the old primary's WAL: a switchover, with the receiver there.
fn a_promotion_is_followed(major: u32) {
    let (mut primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut scene = Scene::start(&primary, &archive);
    let begin = server_flush(&primary);
    let standby = primary.standby(&[]).must();
    work(&primary);
    primary.stop(StopMode::Fast).must();
    standby.promote().must();
    scene.fail_over(&standby);
    let end = work(&standby);
    scene.receiver.await_flush(&standby, end);

    let switch = switch_point(&standby, 2);
    same_from(&archive, &primary, 1, begin, switch);
    same_from(&archive, &standby, 2, switch, end);
    let history = "00000002.history";
    let [ours, theirs] =
        [archive.join("wal"), standby.wal_dir()].map(|dir| fs::read(dir.join(history)).must());
    assert_eq!(ours, theirs);
    let old = archive.join("wal").join(format!("{}.partial", name(1, switch)));
    assert!(old.is_file(), "the old timeline's last file is gone");
    waldump_reads(&archive, &standby, 1, begin, switch);
    waldump_reads(&archive, &standby, 2, switch, end);
    assert_eq!(scene.events("lost_branch").len(), 0);
    scene.receiver.stop();
}

#[test]
fn a_promotion_is_followed_14() {
    a_promotion_is_followed(14);
}

#[test]
fn a_promotion_is_followed_18() {
    a_promotion_is_followed(18);
}

/// The server that is streamed from is itself promoted: it says where its timeline ends.
fn the_upstream_is_promoted(major: u32, on_a_boundary: bool) {
    let (mut primary, dir) = (server(major, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let standby = primary.standby(&[]).must();
    let mut scene = Scene::start(&standby, &archive);
    let begin = lsn(&standby, "SELECT pg_last_wal_replay_lsn()").segment_start(SIZE);
    work(&primary);
    if on_a_boundary {
        primary.sql("SELECT pg_switch_wal()").must();
    }
    let end = server_flush(&primary);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    standby.wait_until("the standby to have it", LIMIT, &replayed).must();
    scene.receiver.await_flush(&standby, end);
    primary.kill9();
    standby.promote().must();
    let end = work(&standby);
    scene.receiver.await_flush(&standby, end);

    let switch = switch_point(&standby, 2);
    assert_eq!(switch.segment_start(SIZE) == switch, on_a_boundary, "{switch}");
    same_from(&archive, &primary, 1, begin, switch);
    same_from(&archive, &standby, 2, switch, end);
    waldump_reads(&archive, &standby, 1, begin, switch);
    waldump_reads(&archive, &standby, 2, switch, end);
    let ended = scene.events("timeline_ended");
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0]["at"], switch.to_string());
    assert_eq!(scene.events("lost_branch").len(), 0);
    scene.receiver.stop();
}

#[test]
fn an_upstream_is_promoted_14() {
    the_upstream_is_promoted(14, false);
}

#[test]
fn an_upstream_is_promoted_18() {
    the_upstream_is_promoted(18, false);
}

#[test]
fn an_upstream_is_promoted_on_a_segments_boundary_14() {
    the_upstream_is_promoted(14, true);
}

#[test]
fn an_upstream_is_promoted_on_a_segments_boundary_18() {
    the_upstream_is_promoted(18, true);
}

/// Makes a primary a standby of nobody, and promotes it.
fn promote_again(server: &mut Server) {
    server.stop(StopMode::Fast).must();
    server.make_standby().must();
    server.restart().must();
    server.promote().must();
}

#[test]
fn promotions_while_the_receiver_is_away_are_followed_one_after_another() {
    let (mut primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut scene = Scene::start(&primary, &archive);
    let begin = server_flush(&primary);
    scene.receiver.await_flush(&primary, work(&primary));
    let before = fingerprint(&archive);
    scene.receiver.stop();
    work(&primary);
    promote_again(&mut primary);
    work(&primary);
    promote_again(&mut primary);
    // Once more within the same segment.
    promote_again(&mut primary);
    let end = work(&primary);

    let more = ["--no-slot", "-E", &end.to_string(), "-n"];
    ended(&mut receive(&primary, &archive, &more)).is_well();
    let mut from = begin;
    for timeline in 2..=4 {
        let switch = switch_point(&primary, timeline);
        same_from(&archive, &primary, timeline - 1, from, switch);
        waldump_reads(&archive, &primary, timeline - 1, from, switch);
        from = switch;
    }
    same_from(&archive, &primary, 4, from, end);
    waldump_reads(&archive, &primary, 4, from, end);
    // Nothing that was there has changed, but for the file that was still written to.
    let after = fingerprint(&archive);
    let changed = before.iter().filter(|file| !after.contains(file));
    let changed: Vec<String> = changed.map(|file| file.0.display().to_string()).collect();
    let open = [".partial", ".tmp", "index/00000001-0000000000000000"];
    let may = |path: &String| open.iter().any(|name| path.ends_with(name));
    assert!(changed.iter().all(may), "{changed:?}");
}

/// The receiver is there all the time, and streams each timeline to its end.
#[test]
fn promotions_one_after_another_are_followed() {
    let (mut primary, dir) = (server(14, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut scene = Scene::start(&primary, &archive);
    let begin = server_flush(&primary);
    scene.receiver.await_flush(&primary, work(&primary));
    for _ in 0..2 {
        promote_again(&mut primary);
        scene.receiver.await_streaming(&primary);
        scene.receiver.await_flush(&primary, server_flush(&primary));
    }
    let end = work(&primary);
    scene.receiver.await_flush(&primary, end);
    let mut from = begin;
    for timeline in 2..=3 {
        let switch = switch_point(&primary, timeline);
        same_from(&archive, &primary, timeline - 1, from, switch);
        waldump_reads(&archive, &primary, timeline - 1, from, switch);
        from = switch;
    }
    same_from(&archive, &primary, 3, from, end);
    waldump_reads(&archive, &primary, 3, from, end);
    assert_eq!(scene.events("lost_branch").len(), 0);
    scene.receiver.stop();
}

/// The receiver was synchronous and has what the promoted standby hasn't.
fn the_archive_is_ahead(online: bool, more: &[&str]) {
    let (mut primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut scene = Scene::with(&primary, &archive, more);
    let begin = server_flush(&primary);
    let mut standby = primary.standby(&[]).must();
    let fork = work(&primary);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{fork}'");
    standby.wait_until("the standby to have it", LIMIT, &replayed).must();
    standby.stop(StopMode::Fast).must();
    let ahead = work(&primary);
    assert!(ahead.saturating_since(fork) > 3 * SIZE.bytes());
    scene.receiver.await_flush(&primary, ahead);
    if !more.is_empty() {
        // The timeline is left in the middle of a compressed segment.
        let packed = archive.join("wal").join(format!("{}.zst", name(1, fork)));
        let began = std::time::Instant::now();
        while !packed.exists() || packed.with_extension("").exists() {
            assert!(began.elapsed() < LIMIT, "{} isn't there", packed.display());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    primary.kill9();
    standby.restart().must();
    standby.promote().must();
    if online {
        scene.fail_over(&standby);
    } else {
        scene.receiver.stop();
        scene = Scene::with(&standby, &archive, more);
    }
    let end = work(&standby);
    scene.receiver.await_flush(&standby, end);

    let switch = switch_point(&standby, 2);
    assert!(switch < ahead);
    let lost = scene.events("lost_branch");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(lost[0]["from"], switch.to_string());
    let to: Lsn = lost[0]["to"].as_str().must_some().parse().must();
    assert!(to >= ahead, "{to}");
    scene.receiver.running.wait_for_line("ALARM: timeline 1 was archived up to", LIMIT).must();
    scene.receiver.stop();
    same_from(&archive, &primary, 1, begin, ahead);
    same_from(&archive, &standby, 2, switch, end);
    waldump_reads(&archive, &standby, 1, begin, switch);
    waldump_reads(&archive, &standby, 2, switch, end);
    waldump_reads(&archive, &primary, 1, begin, ahead);
    let timelines = status::json(&archive)["timelines"].clone();
    assert_eq!(timelines[0]["lost_from"], switch.to_string(), "{timelines}");
    assert_eq!(timelines[0]["to"], to.to_string(), "{timelines}");
    assert_eq!(timelines[1]["parent"], 1, "{timelines}");
    let text = status::text(&archive, &[]);
    assert!(text.contains("\n            └ 2: LSN to LSN, "), "{text}");
    assert!(
        text.contains(", left 1 at LSN\nlost        timeline 1: LSN to LSN, which no"),
        "{text}"
    );
    assert!(text.contains("\nnext        look for commits that the promoted server"), "{text}");

    // The old primary comes back, and knows nothing of it.
    primary.restart().must();
    primary.sql("CREATE TABLE elsewhere()").must();
    let before = fingerprint(&archive);
    let old = ended(&mut receive(&primary, &archive, &["--no-slot", "-n"]));
    old.says(5, &["timeline 1", &switch.to_string(), "pg_rewind"]);
    let changed = fingerprint(&archive);
    assert_eq!(before, changed, "an old primary changed something");
}

#[test]
fn an_archive_ahead_of_the_promoted_server_follows_it() {
    the_archive_is_ahead(true, &[]);
}

#[test]
fn an_archive_ahead_of_the_promoted_server_follows_it_when_it_starts() {
    the_archive_is_ahead(false, &[]);
}

#[test]
fn a_timeline_is_left_in_the_middle_of_a_compressed_segment() {
    the_archive_is_ahead(true, &["--compress", "zstd"]);
}

#[test]
fn two_servers_on_one_new_timeline_are_told_apart() {
    let (mut primary, dir) = (server(18, 1, &[]), scratch());
    let archive = dir.path().join("archive");
    let mut scene = Scene::start(&primary, &archive);
    let [one, other] = [(), ()].map(|()| primary.standby(&[]).must());
    let end = work(&primary);
    for standby in [&one, &other] {
        let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
        standby.wait_until("the standby to have it", LIMIT, &replayed).must();
    }
    primary.kill9();
    one.promote().must();
    scene.fail_over(&one);
    scene.receiver.await_flush(&one, work(&one));
    scene.receiver.stop();
    // It goes on for a while before it is promoted, so that its history isn't the same.
    primary.restart().must();
    let end = work(&primary);
    let replayed = format!("pg_last_wal_replay_lsn() >= '{end}'");
    other.wait_until("the standby to have it", LIMIT, &replayed).must();
    primary.kill9();
    other.promote().must();
    let before = fingerprint(&archive);
    let refused = ended(&mut receive(&other, &archive, &["--no-slot"]));
    refused.says(5, &["00000002.history differs", "an archive of its own"]);
    assert_eq!(fingerprint(&archive), before);
}
