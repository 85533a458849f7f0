//! What was stored is proved again, in runs of every length, and each damage is named once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use archive::{Archive, Catalogue, Damage, Identity, Run};
use disk::sim::SimDisk;
use disk::{AlignedBuf, Files};
use pg_types::{Geometry, Lsn, SegmentNumber, SegmentSize, TimelineId};
use sim::wal::WalBuilder;

const SIZE: SegmentSize = SegmentSize::MIN;
const SEGMENTS: u64 = 9;

/// A log of nine segments: short records, one over a border, one over two segments, a switch.
fn log(seed: usize) -> WalBuilder {
    let mut wal = WalBuilder::new(Geometry::new(SIZE), 17, Lsn::new(SIZE.bytes()));
    wal.message(900);
    while wal.end() < Lsn::new(3 * SIZE.bytes() - 5000) {
        wal.message(40 + (seed + wal.records().len()) % 300);
    }
    wal.message(2 * 1024 * 1024 + 70_000);
    wal.message(100);
    while wal.end() < Lsn::new(6 * SIZE.bytes() + 300_000) {
        wal.message(3000);
    }
    wal.switch();
    while wal.end() < Lsn::new((SEGMENTS + 1) * SIZE.bytes()) {
        wal.message(700);
    }
    wal
}

fn stored(wal: &WalBuilder) -> Vec<(SegmentNumber, Vec<u8>)> {
    let size = usize::try_from(SIZE.bytes()).unwrap();
    let segments = wal.bytes().chunks_exact(size).enumerate();
    let segments =
        segments.map(|(place, bytes)| (SegmentNumber::new(place as u64 + 1), bytes.to_vec()));
    segments.take(usize::try_from(SEGMENTS).unwrap()).collect()
}

fn catalogue(wal: &WalBuilder, segments: &[(SegmentNumber, Vec<u8>)]) -> Catalogue {
    let files: Arc<dyn Files> = Arc::new(SimDisk::new(1));
    let system_id = wal.system_id();
    let identity = Identity { system_id, server_major: 17, geometry: Geometry::new(SIZE) };
    let claim = Archive::claim(Arc::clone(&files), "test").unwrap();
    drop(claim.open(&identity, &[0; 16]).unwrap());
    let catalogue = Catalogue::open(Arc::clone(&files)).unwrap();
    for (number, bytes) in segments {
        let path = catalogue.layout().segment(TimelineId::FIRST, *number);
        files.write_new(&path, bytes).unwrap();
    }
    catalogue
}

/// All that is found with runs of so many segments; and those that hold.
fn verify(catalogue: &Catalogue, len: u64) -> (Vec<Damage>, Vec<u64>) {
    let mut buf = AlignedBuf::zeroed(256 << 10);
    let timeline = TimelineId::FIRST;
    let starts = (1..=SEGMENTS).step_by(usize::try_from(len).unwrap());
    let runs: Vec<Run> = starts
        .map(|start| {
            let end = (start + len).min(SEGMENTS + 1);
            let segments = SegmentNumber::new(start)..SegmentNumber::new(end);
            Run { timeline, segments }
        })
        .collect();
    let mut verdicts: Vec<_> = runs.iter().map(|run| catalogue.verify_run(run, &mut buf)).collect();
    let mut damages: Vec<Damage> = verdicts.iter().flat_map(|of| of.damages.clone()).collect();
    let mut settled: Vec<u64> =
        verdicts.iter().flat_map(|of| of.settled.iter().map(|number| number.as_u64())).collect();
    for place in 1..runs.len() {
        let before = verdicts[place - 1].end.clone();
        let behind = Some((&runs[place], &verdicts[place]));
        let start = runs[place].segments.start;
        let border =
            catalogue.verify_border(timeline, start, Some(&before), behind, &mut buf).unwrap();
        for damage in border.damages {
            let same = |other: &Damage| (&other.path, other.at) == (&damage.path, damage.at);
            if !damages.iter().any(same) {
                damages.push(damage);
            }
        }
        settled.extend(border.settled.iter().map(|number| number.as_u64()));
        if let Some(end) = border.end {
            verdicts[place].end = end;
        }
    }
    damages.sort_by_key(|damage| damage.at);
    settled.sort_unstable();
    settled.dedup();
    (damages, settled)
}

fn path(number: u64) -> PathBuf {
    Path::new("wal").join(format!("{:024X}", (1_u128 << 64) | u128::from(number)))
}

/// With runs of one, two, four and nine segments: these damages, by file, position and text.
#[track_caller]
fn check(wal: &WalBuilder, segments: &[(SegmentNumber, Vec<u8>)], expect: &[(u64, Lsn, &str)]) {
    for len in [1, 2, 4, 9] {
        let (damages, settled) = verify(&catalogue(wal, segments), len);
        let found: Vec<_> = damages.iter().map(|d| (d.path.clone(), d.at)).collect();
        let wanted: Vec<_> = expect.iter().map(|(number, at, _)| (path(*number), *at)).collect();
        assert_eq!(found, wanted, "runs of {len}: {damages:#?}");
        for (damage, (.., text)) in damages.iter().zip(expect) {
            assert!(damage.kind.to_string().contains(text), "{damage:?}");
        }
        for (number, ..) in expect {
            assert!(!settled.contains(number), "runs of {len}: {number} isn't settled");
        }
        if expect.is_empty() {
            // All but the last one, whose last record runs on.
            assert_eq!(settled, (1..SEGMENTS).collect::<Vec<_>>(), "runs of {len}");
        }
    }
}

fn offset(lsn: Lsn) -> usize {
    usize::try_from(lsn.segment_offset(SIZE)).unwrap()
}

#[test]
fn what_holds_has_no_damage() {
    let wal = log(0);
    check(&wal, &stored(&wal), &[]);
}

#[test]
fn each_damaged_record_and_page_is_named_where_it_is() {
    let wal = log(0);
    let whole = stored(&wal);
    let in_segment = |number: u64| {
        let within = move |lsn: &Lsn| lsn.segment(SIZE).as_u64() == number;
        wal.records().iter().map(|record| record.lsn).filter(within).collect::<Vec<_>>()
    };
    // A byte of a record's body.
    let record = in_segment(2)[5];
    let mut segments = whole.clone();
    segments[1].1[offset(record) + 30] ^= 4;
    check(&wal, &segments, &[(2, record, "CRC")]);
    // Two records, far apart, and a page.
    let other = in_segment(2)[3000];
    segments[1].1[offset(other) + 30] ^= 4;
    let page = Lsn::new(7 * SIZE.bytes() + 8192);
    segments[6].1[8192] ^= 1;
    check(&wal, &segments, &[(2, record, "CRC"), (2, other, "CRC"), (7, page, "page magic")]);
    // The middle of a record that runs over two borders, within a segment in which none begins.
    let long = *in_segment(2).last().unwrap();
    let mut segments = whole.clone();
    segments[2].1[500_000] ^= 1;
    check(&wal, &segments, &[(2, long, "CRC")]);
    // Zeros from the middle on.
    let mut segments = whole.clone();
    segments[8].1[512 * 1024..].fill(0);
    let at = Lsn::new(9 * SIZE.bytes() + 512 * 1024);
    check(&wal, &segments, &[(9, at, "page magic 0000")]);
    // The switch itself, whose padding isn't taken for more.
    let switch = in_segment(6).last().copied().unwrap();
    let mut segments = whole;
    segments[5].1[offset(switch) + 20] ^= 1;
    check(&wal, &segments, &[(6, switch, "CRC")]);
}

#[test]
fn what_holds_by_itself_and_belongs_elsewhere_is_named() {
    let (wal, other) = (log(0), log(1));
    // Another segment under its name.
    let mut segments = stored(&wal);
    segments[7].1 = segments[8].1.clone();
    let (damages, _) = verify(&catalogue(&wal, &segments), 1);
    assert!(damages.iter().all(|damage| damage.path == path(8)), "{damages:#?}");
    assert!(damages[0].kind.to_string().contains("belongs elsewhere"), "{damages:#?}");
    // The same segment of another history: only the link tells.
    let mut segments = stored(&wal);
    segments[1].1 = stored(&other)[1].1.clone();
    for len in [1, 2, 4, 9] {
        let (damages, _) = verify(&catalogue(&wal, &segments), len);
        assert!(!damages.is_empty(), "runs of {len}");
        let near = |damage: &Damage| damage.at >= Lsn::new(2 * SIZE.bytes() - 9000);
        assert!(damages.iter().all(near), "runs of {len}: {damages:#?}");
    }
}

/// Only the segment in which it starts is new, as when it came back: the two behind it were verified
/// while it was missing, and what runs into them couldn't be.
#[test]
fn a_record_is_proved_through_segments_that_are_not_read_again() {
    let wal = log(1);
    let mut segments = stored(&wal);
    let number = SegmentNumber::new;
    let check = |segments: &[(SegmentNumber, Vec<u8>)], damages: usize| {
        let catalogue = catalogue(&wal, segments);
        let mut buf = AlignedBuf::zeroed(256 << 10);
        let run = Run { timeline: TimelineId::FIRST, segments: number(2)..number(3) };
        let verdict = catalogue.verify_run(&run, &mut buf);
        let (on, end) = (TimelineId::FIRST, Some(&verdict.end));
        let border = catalogue.verify_border(on, number(3), end, None, &mut buf).unwrap();
        assert_eq!(border.damages.len(), damages, "{:?}", border.damages);
        assert_eq!(border.settled.contains(&number(2)), damages == 0);
    };
    check(&segments, 0);
    segments[3].1[500_000] ^= 4;
    check(&segments, 1);
}
