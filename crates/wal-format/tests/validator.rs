//! The validator on logs that are made byte by byte: every edge, at every cut.

use pg_types::{Geometry, Lsn, SegmentSize, SystemId, TimelineId};
use sim::wal::WalBuilder;
use wal_format::{
    DecodeError, DecodeErrorKind as Kind, Expect, Notable, Record, Validator, Visitor,
};

const GEOMETRY: Geometry = Geometry::new(SegmentSize::MIN);
const START: Lsn = Lsn::new(0x30_0000);

fn builder() -> WalBuilder {
    WalBuilder::new(GEOMETRY, 17, START)
}

fn expect(wal: &WalBuilder) -> Expect {
    let system_id = Some(wal.system_id());
    Expect { geometry: GEOMETRY, timeline: TimelineId::FIRST, system_id }
}

/// Feeds all of `bytes` from `start` in pieces of these sizes, in turn.
fn run(
    expect: Expect,
    start: Lsn,
    bytes: &[u8],
    pieces: &[usize],
) -> (Vec<Record>, Validator, Result<(), DecodeError>) {
    let mut validator = Validator::new(expect, start);
    let mut records = Vec::new();
    let (mut rest, mut turn) = (bytes, pieces.iter().cycle());
    let mut result = Ok(());
    while !rest.is_empty() && result.is_ok() {
        let (now, later) = rest.split_at((*turn.next().unwrap()).min(rest.len()));
        result = validator.feed(now, &mut |record: &Record| records.push(*record));
        rest = later;
    }
    (records, validator, result)
}

const CUTS: &[&[usize]] =
    &[&[usize::MAX], &[1], &[7], &[8192], &[131_072], &[3, 8191, 1, 40, 65_536], &[24], &[23, 17]];

/// Every record of the log is found, at every way to cut it, and proved to the end.
fn check_all(wal: &WalBuilder) {
    for pieces in CUTS {
        let (records, validator, result) = run(expect(wal), wal.start(), wal.bytes(), pieces);
        assert_eq!(result, Ok(()), "{pieces:?}");
        let got: Vec<_> = records
            .iter()
            .map(|r| (r.lsn, r.end, r.header.prev, r.header.total_len, r.header.rmgr.0))
            .collect();
        let built: Vec<_> =
            wal.records().iter().map(|r| (r.lsn, r.end, r.prev, r.total_len, r.rmgr)).collect();
        assert_eq!(got, built, "{pieces:?}");
        assert_eq!(validator.proved().0, wal.end(), "{pieces:?}");
        assert_eq!(validator.position(), wal.end(), "{pieces:?}");
    }
}

#[test]
fn records_of_every_length_around_page_ends() {
    let mut wal = builder();
    for before in (8..=200).step_by(8) {
        wal.fill_until(8192, before);
        wal.message(64);
    }
    check_all(&wal);
}

#[test]
fn a_record_header_split_over_a_page_and_over_a_segment() {
    for unit in [8192, SegmentSize::MIN.bytes()] {
        for before in [8, 16] {
            let mut wal = builder();
            wal.fill_until(unit, before);
            wal.message(10);
            wal.message(20);
            check_all(&wal);
        }
    }
}

#[test]
fn records_that_end_exactly_at_page_and_segment_ends() {
    for unit in [8192, SegmentSize::MIN.bytes()] {
        let mut wal = builder();
        wal.fill_until(unit, 64);
        wal.message(38);
        assert_eq!(wal.end().offset_in(unit), 0);
        wal.message(1);
        check_all(&wal);
    }
}

#[test]
fn a_record_over_several_segments() {
    let mut wal = builder();
    wal.message(100);
    wal.message(3 << 20);
    wal.message(100);
    check_all(&wal);
}

#[test]
fn a_switch_wherever_it_falls() {
    for major in [10, 11, 18] {
        for before in [8192, 4000, 32, 24, 16, 8] {
            let mut wal = WalBuilder::new(GEOMETRY, major, START);
            wal.message(9);
            wal.fill_until(8192, before);
            wal.switch();
            wal.message(1);
            check_all(&wal);
        }
        // The switch's record ends with the segment.
        let mut wal = WalBuilder::new(GEOMETRY, major, START);
        wal.fill_until(SegmentSize::MIN.bytes(), 24);
        wal.switch();
        wal.message(1);
        check_all(&wal);
    }
}

#[test]
fn proved_reaches_the_segments_end_only_with_the_switchs_padding() {
    let mut wal = builder();
    wal.message(9);
    wal.switch();
    let record = *wal.records().last().map(|record| &record.end).unwrap();
    let all_but_one = &wal.bytes()[..wal.bytes().len() - 1];
    let (_, validator, result) = run(expect(&wal), START, all_but_one, &[5000]);
    assert_eq!(result, Ok(()));
    assert_eq!(validator.proved().0, record);
}

#[test]
fn a_broken_off_record_is_dropped() {
    for before in [8, 16, 24, 800] {
        let mut wal = builder();
        wal.message(50);
        wal.fill_until(8192, before);
        wal.broken_record(9000);
        wal.message(5);
        check_all(&wal);
    }
}

#[test]
fn a_broken_off_record_must_be_named() {
    let mut wal = builder();
    wal.fill_until(8192, 800);
    let broken = wal.broken_record(9000);
    // The record after the break names another position, with a CRC that holds.
    let mut other = builder();
    other.fill_until(8192, 800);
    let lsn = other.end();
    let mut bytes = wal.bytes()[..wal.bytes().len()
        - wal
            .records()
            .last()
            .map_or(0, |r| usize::try_from(r.end.saturating_since(r.lsn)).unwrap())]
        .to_vec();
    assert_eq!(lsn, broken);
    let record = wal.records().last().unwrap();
    let body = sim::wal::main_data(&[9; 16]);
    let mut header = Vec::new();
    header.extend_from_slice(&(24 + body.len() as u32).to_le_bytes());
    header.extend_from_slice(&0u32.to_le_bytes());
    header.extend_from_slice(&record.prev.as_u64().to_le_bytes());
    header.extend_from_slice(&[0xD0, 0, 0, 0]);
    let crc = wal_format::crc::crc32c(&[&body[..], &header[..]].concat());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&body);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let (_, _, result) = run(expect(&wal), START, &bytes, &[usize::MAX]);
    let kind = Kind::OverwriteMissing { record: broken };
    assert_eq!(result, Err(DecodeError { at: record.lsn, kind }));
}

#[test]
fn a_start_in_the_middle_of_a_record_passes_over_its_rest() {
    let mut wal = builder();
    wal.message(100);
    wal.message(2_500_000);
    wal.message(7);
    wal.message(8);
    for segment in 1..=2 {
        let skipped = (SegmentSize::MIN.bytes() * segment) as usize;
        let start = START.saturating_add(skipped as u64);
        for pieces in CUTS {
            let (records, validator, result) =
                run(expect(&wal), start, &wal.bytes()[skipped..], pieces);
            assert_eq!(result, Ok(()));
            let lsns: Vec<_> = records.iter().map(|record| record.lsn).collect();
            assert_eq!(lsns, [wal.records()[2].lsn, wal.records()[3].lsn]);
            assert_eq!(validator.proved().0, wal.end());
        }
    }
    // Before the first record begins, nothing is proved.
    let skipped = SegmentSize::MIN.bytes() as usize;
    let start = START.saturating_add(skipped as u64);
    let (_, validator, _) = run(expect(&wal), start, &wal.bytes()[skipped..][..1 << 20], &[999]);
    assert_eq!(validator.proved().0, start);
    assert!(validator.is_before_first_record());
}

#[test]
fn every_segment_size_and_page_size() {
    for mib in [1, 2, 16, 64] {
        for block_size in [1024, 8192, 65_536] {
            let size = SegmentSize::new(mib << 20).unwrap();
            let geometry = Geometry::with_block_size(size, block_size).unwrap();
            let start = Lsn::new(2 * size.bytes());
            let mut wal = WalBuilder::new(geometry, 14, start);
            wal.message(5);
            wal.message(size.bytes() as usize);
            wal.switch();
            wal.message(5);
            let expect = Expect { geometry, ..expect(&wal) };
            let (records, validator, result) = run(expect, start, wal.bytes(), &[100_000, 31]);
            assert_eq!(result, Ok(()));
            assert_eq!(records.len(), 4);
            assert_eq!(validator.proved().0, wal.end());
        }
    }
}

struct Found(Vec<Notable>);

impl Visitor for Found {
    fn notable(&mut self, _: &Record, notable: &Notable) {
        self.0.push(*notable);
    }
}

#[test]
fn notable_records_are_told_whole_or_split() {
    for before in [4000, 80, 40, 24, 8] {
        let mut wal = builder();
        wal.fill_until(8192, before);
        wal.commit(700, 123_456_789);
        let mut name = [0; 64];
        name[..5].copy_from_slice(b"point");
        let point = [&5i64.to_le_bytes()[..], &name].concat();
        wal.data_record(0, 0x70, 0, &point);
        wal.data_record(0, 0x10, 0, &[&0x30_0028u64.to_le_bytes()[..], &[0; 80]].concat());
        wal.data_record(1, 0x20, 701, &7i64.to_le_bytes());
        for piece in [1, 7, 24, 8192, usize::MAX] {
            let mut found = Found(Vec::new());
            let mut validator = Validator::new(expect(&wal), START);
            for bytes in wal.bytes().chunks(piece) {
                assert_eq!(validator.feed(bytes, &mut found), Ok(()));
            }
            let notable = found.0;
            let [
                Notable::Commit { time: commit, xid: Some(700) },
                Notable::RestorePoint { time, name },
                Notable::Checkpoint { redo, shutdown: false },
                Notable::Abort { time: abort, xid: Some(701) },
            ] = notable[..]
            else {
                panic!("{notable:?}")
            };
            assert_eq!((commit.0, time.0, abort.0), (123_456_789, 5, 7));
            assert_eq!(name.as_bytes(), b"point");
            assert_eq!(redo, Lsn::new(0x30_0028));
        }
    }
}

/// Does `harm` to a log of some records and says what is found, at whichever cut.
fn harmed(harm: impl Fn(&mut Vec<u8>)) -> DecodeError {
    let mut wal = builder();
    for _ in 0..20 {
        wal.message(1000);
    }
    wal.message(20_000);
    let mut bytes = wal.bytes().to_vec();
    harm(&mut bytes);
    let mut found = CUTS.iter().map(|pieces| {
        let (records, validator, result) = run(expect(&wal), START, &bytes, pieces);
        let error = result.expect_err("harm is found");
        assert!(validator.proved().0 <= error.at.max_align(), "{error}");
        let intact = wal.records().iter().take_while(|r| r.end <= validator.proved().0).count();
        assert_eq!(records.len(), intact, "nothing is proved past the harm");
        error
    });
    let first = found.next().unwrap();
    assert!(found.all(|error| error == first), "the same at every cut");
    first
}

#[test]
fn each_kind_of_harm_has_its_name() {
    let first = START.saturating_add(40);
    let page = START.saturating_add(8192);
    let check = |harm: &dyn Fn(&mut Vec<u8>), at: Lsn, kind: Kind| {
        assert_eq!(harmed(harm), DecodeError { at, kind });
    };
    check(&|b| b[0] ^= 1, START, Kind::UnknownMagic(0xD117));
    check(
        &|b| b[8192] = 0x18,
        page,
        Kind::MagicChanged { got: 0xD118, log: wal_format::WalVersion::from_major(17).unwrap() },
    );
    check(&|b| b[2] |= 0x10, START, Kind::PageFlags(0x12));
    check(&|b| b[8194] |= 2, page, Kind::HeaderLength);
    check(&|b| b[4] = 2, START, Kind::PageTimeline { got: 2, least: 1, most: 1 });
    check(&|b| b[8196] = 0, page, Kind::PageTimeline { got: 0, least: 1, most: 1 });
    check(&|b| b[11] = 1, START, Kind::PageAddress(Lsn::new(0x130_0000)));
    check(
        &|b| b[24] ^= 1,
        START,
        Kind::SystemId {
            got: SystemId(7_000_000_000_000_000_000),
            expected: SystemId(7_000_000_000_000_000_001),
        },
    );
    check(&|b| b[34] = 0x20, START, Kind::SegmentSize(2 << 20));
    check(&|b| b[37] = 0x40, START, Kind::BlockSize(0x4000));
    check(&|b| b[40..44].fill(0), first, Kind::RecordLength(0));
    check(&|b| b[43] = 0x7F, first, Kind::RecordLength(0x7F00_0405));
    check(&|b| b[57] = 22, first, Kind::RecordManager(wal_format::RmgrId(22)));
    check(&|b| b[50] = 0x31, first, Kind::RecordPrevAhead(Lsn::new(0x31_FFD8)));
    assert!(matches!(harmed(|b| b[100] ^= 4).kind, Kind::RecordCrc { .. }));
    // 24 + 5 + 1000 bytes: three of padding.
    check(&|b| b[40 + 1030] = 1, first, Kind::Padding);
    assert!(matches!(harmed(|b| b[40 + 1032 + 8] ^= 8).kind, Kind::RecordPrev { .. }));
    assert!(matches!(harmed(|b| b[8194] = 0).kind, Kind::ContrecordMissing { .. }));
    assert!(matches!(harmed(|b| b[8208] ^= 8).kind, Kind::ContrecordLength { .. }));
}

#[test]
fn an_error_stays() {
    let mut wal = builder();
    wal.message(10);
    let mut validator = Validator::new(expect(&wal), START);
    let error = validator.feed(&[0; 40], &mut |_: &Record| {}).unwrap_err();
    assert_eq!(validator.feed(wal.bytes(), &mut |_: &Record| {}), Err(error));
}

/// Every bit of a log: each flip is found, but for those that nothing protects.
#[test]
fn every_bit_is_protected_but_for_a_listed_few() {
    let mut wal = builder();
    wal.message(500);
    wal.message(9000);
    wal.commit(9, 9);
    wal.message(8192);
    let intact = run(expect(&wal), START, wal.bytes(), &[usize::MAX]).0;
    let mut bytes = wal.bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        bytes[byte] ^= mask;
        let (records, validator, result) = run(expect(&wal), START, &bytes, &[usize::MAX]);
        let found = result.is_err() || validator.proved().0 < wal.end();
        // Page flags BKP_REMOVABLE (bit 2) and, where no record goes on, overwrite-contrecord;
        // four bytes of alignment at the end of a page's header.
        let in_page = byte % 8192;
        let unprotected = (in_page == 2 && matches!(mask, 4 | 8)) || (20..24).contains(&in_page);
        // The first record's prev-link is only known to point back; its CRC protects it.
        assert!(found || unprotected, "byte {byte} bit {mask:#x}");
        assert!(found || records == intact);
        bytes[byte] ^= mask;
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_an_error_or_a_log(bytes: Vec<u8>, cut in 1usize..100) {
        let wal = builder();
        let (records, _, _) = run(expect(&wal), START, &bytes, &[cut]);
        proptest::prop_assert!(records.is_empty());
    }

    #[test]
    fn any_harm_and_any_cut_never_panics(
        at in 0usize..40_000, with: [u8; 6], cut in 1usize..9000,
    ) {
        let mut wal = builder();
        wal.message(9000);
        wal.broken_record(9000);
        wal.message(9000);
        wal.switch();
        let mut bytes = wal.bytes().to_vec();
        let at = at.min(bytes.len() - 6);
        bytes[at..at + 6].copy_from_slice(&with);
        let whole = run(expect(&wal), START, &bytes, &[usize::MAX]);
        let pieces = run(expect(&wal), START, &bytes, &[cut]);
        proptest::prop_assert_eq!(whole.0, pieces.0);
        proptest::prop_assert_eq!(whole.2, pieces.2);
    }
}
