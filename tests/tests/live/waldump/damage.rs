//! Damaged segments: the same stop as the server's program, no panic, little memory.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use testkit::corpus::{self, CorpusOptions};
use testkit::servers::full;

use super::{equal, names, ours, theirs};
use crate::common::{Must, Random, on_each_major, pg, scratch};

on_each_major!(flips_and_truncations_stop_where_the_servers_program_stops, super::damage);

/// Damaged files on 14 and 18 together: a thousand with each.
const CASES: usize = 500;

fn damage(major: u32) {
    let install = pg(major);
    let options = CorpusOptions { segment_size_mb: 1, ..CorpusOptions::default() };
    let corpus = corpus::shared(major, &options).must();
    let segments = names(&corpus.dir());
    let cases = if full(major) { CASES } else { CASES / 10 };
    let next = AtomicUsize::new(0);
    let random = Mutex::new(Random::new("damage"));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let scratch = scratch();
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    let (name, bytes, what) = {
                        let mut random = random.lock().unwrap();
                        let name = &segments[random.below(segments.len() as u64 - 1) as usize];
                        let mut bytes = fs::read(corpus.dir().join(name)).must();
                        let what = harm(&mut bytes, &mut random);
                        (name, bytes, what)
                    };
                    fs::write(scratch.path().join(name), &bytes).must();
                    // Where it stops is all in the messages and the last position.
                    let args = ["--stats=record", name.as_str()];
                    let theirs = theirs(&install, scratch.path(), &args);
                    let ours = ours(&install, scratch.path(), &args);
                    equal(&theirs, &ours, &format!("{major}, case {case}, {name}, {what}"));
                    fs::remove_file(scratch.path().join(name)).must();
                }
            });
        }
    });
}

/// One bit, or all behind some byte; half of the bits in headers, which are few.
fn harm(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let len = bytes.len() as u64;
    match random.below(4) {
        0 => {
            let to = random.below(len);
            bytes.truncate(to as usize);
            format!("cut at {to}")
        }
        1 => {
            let (page, within) = (random.below(len / 8192), random.below(40));
            flip(bytes, (page * 8192 + within) as usize, random)
        }
        _ => flip(bytes, random.below(len) as usize, random),
    }
}

fn flip(bytes: &mut [u8], at: usize, random: &mut Random) -> String {
    let bit = random.below(8);
    bytes[at] ^= 1 << bit;
    format!("bit {bit} of byte {at}")
}
