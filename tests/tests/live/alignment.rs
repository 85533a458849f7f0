//! Where records end: every synchronous commit of a lone client is acknowledged after a write and
//! an fsync, wherever its record ends, and a clean shutdown waits for nothing.
//!
//! A timer that somebody waits for shows each time, and a disk that is busy for a moment doesn't:
//! so a slow commit is made again, at another such place, and one of a few has to be fast.

use std::time::Duration;

use pg_types::Lsn;
use testkit::load::Session;
use testkit::servers::{Server, full};

use crate::common::{LIMIT, Must, Receiver, ReceiverOptions, on_each_major, scratch, server};

/// No commit takes as long, whatever the disk does: timers in receiver and server that would be
/// noticed so are those of keepalives and status reports, 10 s and more.
const SLOW: Duration = Duration::from_secs(4);

/// The receiver's shortest timer is 50 ms; what one of a few tries is faster than waits for none.
const TIMER: Duration = Duration::from_millis(45);

/// So often a commit is tried at one kind of place.
const TRIES: u32 = 6;

/// So often a place is aimed at: the server's own records may come in between.
const AIMS: u32 = 20;

const PAGE: u64 = 8192;

/// What the server's `XLogRecord` takes, and `xl_logical_message` with an empty prefix.
const HEADER_LEN: u64 = 24;
const MESSAGE_LEN: u64 = 25;
/// The length of main data of more than 255 bytes.
const LONG_DATA_LEN: u64 = 5;

/// Where a record ends: so many bytes before a page's end, or behind the next one's header.
const PLACES: [i64; 7] = [-32, -24, -16, -8, 0, 8, 16];

on_each_major!(no_commit_waits_for_a_timer, super::commits);

fn commits(major: u32) {
    let sizes: &[u32] = if full(major) { &[1, 16] } else { &[1] };
    for &size in sizes {
        let conf = ["fsync = on", "autovacuum = off", "checkpoint_timeout = 1h"];
        let (primary, scratch) = (server(major, size, &conf), scratch());
        let archive = scratch.path().join("archive");
        let options = ReceiverOptions::with(&["-s", "10"]);
        let receiver = Receiver::start_synchronous(&primary, &archive, &options);
        let mut client = Client::new(&primary, u64::from(size) << 20);
        client.every_short_payload();
        for place in PLACES {
            client.at_edge(PAGE, place);
        }
        // Whole segments of 16 MB are written for each of these.
        for place in if size == 1 { &PLACES[..] } else { &[0] } {
            client.at_edge(client.segment_size, *place);
        }
        client.around_a_switch(&primary);
        receiver.stop();
    }
}

/// One idle client.
struct Client {
    session: Session,
    segment_size: u64,
    /// The length of its commit records, 8-aligned.
    commit_len: u64,
    /// What a commit takes at most that waits for no timer.
    limit: Duration,
}

impl Client {
    fn new(primary: &Server, segment_size: u64) -> Self {
        let session = Session::open(primary.connection(), "SET synchronous_commit = on").must();
        let mut client = Self { session, segment_size, commit_len: 40, limit: TIMER };
        client.limit = TIMER.max(client.local_commit() * 5);
        client.commit_len = client.measure_commit();
        client
    }

    /// What a commit takes that waits for the primary's disk alone.
    fn local_commit(&mut self) -> Duration {
        self.session.run("SET synchronous_commit = local", LIMIT).must();
        let mut took: Vec<Duration> = (0..9).map(|_| self.emit("true", 20).1).collect();
        self.session.run("SET synchronous_commit = on", LIMIT).must();
        took.sort();
        took[took.len() / 2]
    }

    /// A commit with a message of this length; when its answer came.
    fn emit(&mut self, transactional: &str, len: u64) -> (String, Duration) {
        // A message that isn't transactional takes no part in the commit: the xid makes one.
        let sql = format!(
            "SELECT pg_current_xact_id(), \
             pg_logical_emit_message({transactional}, '', repeat('x', {len}))"
        );
        self.session.timed_row(&sql, LIMIT).must()
    }

    fn lsn(&mut self, function: &str) -> Lsn {
        let (text, _) = self.session.timed_row(&format!("SELECT {function}()"), LIMIT).must();
        text.parse().must()
    }

    fn measure_commit(&mut self) -> u64 {
        for _ in 0..AIMS {
            let before = self.lsn("pg_current_wal_insert_lsn");
            self.emit("true", 300);
            let after = self.lsn("pg_current_wal_flush_lsn");
            let used = self.room(before, after);
            let len = used.saturating_sub(message_record_len(300));
            // 34 bytes, and more where the transaction has something to tell.
            if (40..=80).contains(&len) {
                return len;
            }
        }
        panic!("commit records of unknown length")
    }

    /// The bytes of records that fit between two positions, page headers left away.
    fn room(&self, from: Lsn, to: Lsn) -> u64 {
        let (mut at, to, mut room) = (from.as_u64(), to.as_u64(), 0);
        while at < to {
            if at.is_multiple_of(PAGE) {
                at += self.page_header_len(at);
            }
            let until = (at - at % PAGE + PAGE).min(to);
            room += until.saturating_sub(at);
            at = until.max(at);
        }
        room
    }

    fn page_header_len(&self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment_size) { 40 } else { 24 }
    }

    /// Makes a commit that ends in such a place until one is fast.
    fn until_fast(&mut self, what: &str, mut commit: impl FnMut(&mut Self) -> Duration) {
        let mut all = Vec::new();
        for _ in 0..TRIES {
            let took = commit(self);
            assert!(took < SLOW, "{what}: a commit took {took:?}");
            if took < self.limit {
                return;
            }
            all.push(took);
        }
        panic!("{what}: no commit took less than {:?}: {all:?}", self.limit);
    }

    fn every_short_payload(&mut self) {
        for len in 1..=64 {
            for transactional in ["true", "false"] {
                let what = format!("{len} bytes, transactional {transactional}");
                self.until_fast(&what, |client| client.emit(transactional, len).1);
            }
        }
    }

    /// Commits whose record ends at this place of the next page's or segment's end.
    fn at_edge(&mut self, unit: u64, place: i64) {
        let what = format!("{place} bytes from the end of a unit of {unit}");
        self.until_fast(&what, |client| client.commit_at_edge(unit, place));
    }

    fn commit_at_edge(&mut self, unit: u64, place: i64) -> Duration {
        for _ in 0..AIMS {
            let from = self.lsn("pg_current_wal_insert_lsn");
            let mut end = from.as_u64() - from.as_u64() % unit + unit;
            // The last page is left for the commit that is measured.
            let before_last_page = Lsn::new(end - PAGE / 2);
            let filler = self.room(from, before_last_page);
            if unit > PAGE && filler > PAGE {
                self.emit("true", filler - 200);
                continue;
            }
            if self.room(from, Lsn::new(end)) < 1000 {
                end += PAGE;
            }
            let target = match u64::try_from(place) {
                Ok(0) => end,
                Ok(behind) => end + self.page_header_len(end) + behind,
                Err(_) => end.saturating_add_signed(place),
            };
            let record = self.room(from, Lsn::new(target)) - self.commit_len;
            let (_, took) = self.emit("true", record - HEADER_LEN - LONG_DATA_LEN - MESSAGE_LEN);
            if self.lsn("pg_current_wal_flush_lsn").as_u64() == target && end.is_multiple_of(unit) {
                return took;
            }
        }
        panic!("no commit ended {place} bytes from the end of a unit of {unit}");
    }

    /// A switched segment's padding is acknowledged by itself, and the commits around it are.
    fn around_a_switch(&mut self, primary: &Server) {
        for len in [1, 40] {
            self.until_fast("before a switch", |client| client.emit("true", len).1);
            let switched = self.lsn("pg_switch_wal").as_u64();
            self.until_fast("after a switch", |client| client.emit("true", len).1);
            let end = Lsn::new(switched.next_multiple_of(self.segment_size));
            assert!(Receiver::flush_lsn(primary) > end, "the commit was acknowledged before {end}");
            // And one that no commit follows.
            let switched = self.lsn("pg_switch_wal").as_u64();
            let end = Lsn::new(switched.next_multiple_of(self.segment_size));
            let acknowledged =
                format!("EXISTS (SELECT FROM pg_stat_replication WHERE flush_lsn >= '{end}')");
            primary.wait_until("the padding's acknowledgement", SLOW, &acknowledged).must();
        }
    }
}

/// The length of a logical message's record, 8-aligned.
fn message_record_len(len: u64) -> u64 {
    (HEADER_LEN + LONG_DATA_LEN + MESSAGE_LEN + len).next_multiple_of(8)
}
