//! Layouts that no server can be made to write, the odd corners of those that it writes, and
//! payloads that contradict themselves.

use proptest::collection::vec;
use proptest::prelude::*;
use wal_format::{BlockImage, BlockReference, RelFileLocator, RmgrId};

use super::*;

const MAJORS: std::ops::RangeInclusive<u32> = 10..=18;
const RELATION: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, relation: 16384 };

fn header(rmgr: u8, info: u8) -> RecordHeader {
    let (total_len, xid, crc) = (0, 0, 0);
    RecordHeader { total_len, xid, prev: Lsn::INVALID, info, rmgr: RmgrId(rmgr), crc }
}

fn body(main_data: &[u8]) -> RecordBody<'_> {
    RecordBody { blocks: Vec::new(), main_data, origin: None, toplevel_xid: None }
}

fn block(id: u8, data: Option<&[u8]>) -> BlockReference<'_> {
    let (fork, block, will_init, image) = (0, 0, false, None);
    BlockReference { id, locator: RELATION, fork, block, will_init, image, data }
}

fn text(major: u32, header: &RecordHeader, body: &RecordBody<'_>) -> (String, String) {
    let version = WalVersion::from_major(major).unwrap();
    let source = Source { version, lsn: Lsn::INVALID, header, body, rest: None };
    let mut out = Vec::new();
    describe(&source, &Zone::utc(), &mut out);
    let fields = serde_json::to_string(&Payload::of(&source)).unwrap();
    (String::from_utf8_lossy(&out).into_owned(), fields)
}

/// A record without blocks.
fn check(major: u32, (rmgr, info): (u8, u8), main_data: &[u8], expected: &str) {
    let (text, fields) = text(major, &header(rmgr, info), &body(main_data));
    assert_eq!(text, expected, "{major}: {fields}");
}

/// A record with data of block 0.
fn check_block(major: u32, (rmgr, info): (u8, u8), main: &[u8], data: &[u8], expected: &str) {
    let body = RecordBody { blocks: vec![block(0, Some(data))], ..body(main) };
    let (text, fields) = text(major, &header(rmgr, info), &body);
    assert_eq!(text, expected, "{major}: {fields}");
}

fn bytes(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn xlog() {
    check(18, (0, 0x20), b"", "");
    check(14, (0, 0x50), &0x1_0000_0028_u64.to_le_bytes(), "1/28");
    let (time, timelines) = (0_u64.to_le_bytes(), [2, 0, 0, 0, 1, 0, 0, 0]);
    let end = "tli 2; prev tli 1; time 2000-01-01 00:00:00.000000 UTC";
    check(16, (0, 0x90), &bytes(&[&time, &timelines]), end);
    let with_level = bytes(&[&time, &timelines, &[1, 0, 0, 0]]);
    check(17, (0, 0x90), &with_level, &format!("{end}; wal_level replica"));
    let lsn = "lsn 0/FF; time 2000-01-01 00:00:00.000000 UTC";
    check(15, (0, 0xD0), &bytes(&[&[0xFF, 0, 0, 0, 0, 0, 0, 0], &time]), lsn);
    check(18, (0, 0xE0), &[9, 0, 0, 0], "wal_level ?");
    // Before 17 there is no such record.
    check(16, (0, 0xE0), &[1, 0, 0, 0], "");
}

#[test]
fn checkpoints_of_10_and_11_keep_the_epoch_by_itself() {
    let counters = [3, 4, 5, 6, 7, 8, 9].map(u32::to_le_bytes).concat();
    let end = bytes(&[&[0; 8], &[10, 11, 12].map(u32::to_le_bytes).concat()]);
    let start = bytes(&[&[0x28, 0, 0, 1, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]]);
    let expected = "redo 0/1000028; tli 1; prev tli 1; fpw true; xid 1:2; oid 3; multi 4; \
                    offset 5; oldest xid 6 in DB 7; oldest multi 8 in DB 9; oldest/newest commit \
                    timestamp xid: 10/11; oldest running xid 12; online";
    let old = bytes(&[&start, &[1, 0, 0, 0, 2, 0, 0, 0], &counters, &end]);
    check(11, (0, 0x10), &old, expected);
    let new = bytes(&[&start, &[0; 4], &[2, 0, 0, 0, 1, 0, 0, 0], &counters, &[0; 4], &end]);
    check(12, (0, 0x10), &new, expected);
    check(16, (0, 0x10), &new, expected);
}

#[test]
fn parts_of_a_commit_stand_in_their_order() {
    let xinfo = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8;
    let xinfo: u32 = xinfo | 1 << 29 | 1 << 30 | 1 << 31;
    let relation = [1664, 0, 1262].map(u32::to_le_bytes).concat();
    let mut message = vec![0; 16];
    message[0] = 0xFA;
    message[8] = 77;
    let before = bytes(&[
        &[0; 8],
        &xinfo.to_le_bytes(),
        &[5, 1663, 1, 43, 1].map(u32::to_le_bytes).concat(),
        &relation,
    ]);
    let after = bytes(&[&[1, 0, 0, 0], &message, &[42, 0, 0, 0], b"gid\0", &[0; 16]]);
    let stats = [1_u32, 2, 5, 6, 7].map(u32::to_le_bytes).concat();
    let time = "2000-01-01 00:00:00.000000 UTC";
    let relsync = "; relcache init file inval dbid 5 tsid 1663; inval msgs: relsync 77";
    let end = format!("; apply_feedback; sync; origin: node 0, lsn 0/0, at {time}");
    let wide = bytes(&[&before, &stats, &after]);
    let expected = format!(
        "42: {time}; rels: global/1262; subxacts: 43; dropped stats: 2/5/30064771078{relsync}{end}"
    );
    check(18, (1, 0x80), &wide, &expected);
    let narrow = bytes(&[&before, &stats[..16], &after]);
    let expected = expected.replace("30064771078", "6").replace("relsync 77", "unrecognized id -6");
    check(17, (1, 0x80), &narrow, &expected);
}

#[test]
fn records_that_vacuum_and_truncation_write() {
    check(14, (3, 0x10), &[7, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0], "page 7; oldestXact 8");
    let wide = [7, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0];
    check(17, (3, 0x10), &wide, "page 4294967303; oldestXact 8");
    check(16, (18, 0x10), &[7, 0, 0, 0, 8, 0, 0, 0], "pageno 7, oldestXid 8");
    check(18, (18, 0x10), &wide, "pageno 4294967303, oldestXid 8");
    check(15, (6, 0x00), &[0xFF; 4], "-1");
    let truncate = [1, 2, 3, 4, 5].map(u32::to_le_bytes).concat();
    check(13, (6, 0x30), &truncate, "offsets [2, 3), members [4, 5)");
    let members = [9, 2, 2, 100, 3, 101, 9].map(u32::to_le_bytes).concat();
    check(18, (6, 0x20), &members, "9 offset 2 nmembers 2: 100 (forupd) 101 (unk) ");
}

#[test]
fn index_records_by_version() {
    let hash = [7, 0, 0, 0, 3, 0, 1, 0];
    check(15, (12, 0xC0), &hash, "ntuples 65539, latestRemovedXid 7");
    check(16, (12, 0xC0), &hash, "ntuples 3, snapshotConflictHorizon 7");
    check(17, (12, 0xC0), &hash, "ntuples 3, snapshotConflictHorizon 7, isCatalogRel T");
    let gist = [7, 0, 0, 0, 3, 0, 0];
    check(14, (14, 0x10), &gist[..6], "delete: latestRemovedXid 7, nitems: 3");
    check(16, (14, 0x10), &gist, "delete: snapshotConflictHorizon 7, nitems: 3");
    check(18, (14, 0x10), &gist, "delete: snapshotConflictHorizon 7, nitems: 3, isCatalogRel F");
    check(14, (14, 0x70), b"", "");
    check(18, (16, 0x70), &[3, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0], "ndelete: 3");
    let unlink = [1, 2, 3, 0, 5, 1, 7, 8, 9].map(u32::to_le_bytes).concat();
    let expected = "left: 1, right: 2, level: 3, safexid: 1:5, leafleft: 7, leafright: 8, \
                    leaftopparent: 9";
    check(18, (11, 0x90), &unlink, expected);
    check(14, (11, 0x90), &unlink, &expected.replace(": ", " ").replace(',', ";"));
    check(15, (11, 0x20), &[4, 0], "off 4");
    check(10, (11, 0x20), &[4, 0], "off 4");
    let all = "nmoves: 1, parentoff: 2, nodeI: 3 (newpage) (replacedead) (nulls)";
    let moved = bytes(&[&[1, 0, 1, 1, 1, 0, 2, 0, 3, 0, 0, 0], &[0; 8]]);
    check(14, (16, 0x20), &moved, all);
}

#[test]
fn gin_segments() {
    let data = [
        &[4, 0][..],
        &[0, 1],
        &[1, 2, 0, 0, 0, 0, 1, 0, 3, 0, 9, 9, 9, 0],
        &[2, 4, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 2, 0],
        &[3, 7],
    ]
    .concat();
    let expected = " 4 segments: 0 (delete) 1 (insert) 2 (add 2 items) 3 unknown action 7 ???";
    check_block(14, (13, 0x90), b"", &data, expected);
    check_block(18, (13, 0x20), &[3, 0], &data, &format!("isdata: T isleaf: T{expected}"));
    check_block(18, (13, 0x90), b"", &data[..10], "malformed: 0 bytes of data");
}

#[test]
fn heap_records() {
    let locked = [7, 0, 0, 0, 2, 0, 0x1F, 1];
    let old = "off 2: xmax 7: flags 0x01 IS_MULTI LOCK_ONLY EXCL_LOCK KEYSHR_LOCK KEYS_UPDATED ";
    check(15, (9, 0x60), &locked, old);
    let new = "xmax: 7, off: 2, infobits: [IS_MULTI, LOCK_ONLY, EXCL_LOCK, KEYSHR_LOCK, \
               KEYS_UPDATED], flags: 0x01";
    check(16, (9, 0x60), &locked, new);
    let truncate = [5, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0];
    check(15, (10, 0x30), &truncate, "cascade restart_seqs nrelids 2 relids 8 9");
    let new = "flags: [CASCADE, RESTART_SEQS], nrelids: 2, relids: [8, 9]";
    check(16, (10, 0x30), &truncate, new);
    // Of the plan's tuples two are announced, and one is there.
    let plan = [1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 4, 0];
    check_block(17, (9, 0x20), &[0, 0x10], &plan, "malformed: 2 bytes of data");
}

#[test]
fn names_by_version() {
    let name =
        |major, rmgr, info| identify(WalVersion::from_major(major).unwrap(), RmgrId(rmgr), info);
    assert_eq!(name(18, 0, 0x20), Some("NOOP"));
    assert_eq!((name(16, 0, 0xE0), name(17, 0, 0xE0)), (None, Some("CHECKPOINT_REDO")));
    assert_eq!((name(14, 4, 0x10), name(15, 4, 0x10)), (Some("DROP"), Some("CREATE_WAL_LOG")));
    assert_eq!((name(13, 9, 0x10), name(16, 9, 0x10)), (Some("CLEAN"), Some("PRUNE")));
    assert_eq!(name(17, 9, 0x10), Some("PRUNE_ON_ACCESS"));
    // The lower four bits belong to every manager.
    assert_eq!(name(18, 10, 0xC3), Some("HOT_UPDATE+INIT"));
    assert_eq!((name(18, 10, 0x90), name(10, 10, 0x30)), (None, None));
    assert_eq!((name(10, 11, 0x50), name(12, 11, 0x50)), (Some("SPLIT_L_ROOT"), None));
    assert_eq!((name(11, 13, 0), name(12, 13, 0)), (Some("CREATE_INDEX"), None));
    assert_eq!((name(13, 1, 0x60), name(14, 1, 0xE0)), (None, Some("INVALIDATION")));
    assert_eq!((name(13, 18, 0x20), name(18, 130, 0)), (Some("SETTS"), None));
    // A HOT update of a page that is made anew, which no server writes.
    let update = [7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    let text = "old_xmax: 7, old_off: 2, old_infobits: [], flags: 0x00, new_xmax: 0, new_off: 1";
    check(18, (10, 0xC0), &update, text);
    check(15, (10, 0xC0), &update, "off 2 xmax 7 flags 0x00 ; new off 1 xmax 0");
}

#[test]
fn what_is_not_known_says_so() {
    check(18, (130, 0x10), b"abc", "rmid: 130");
    check(11, (10, 0x00), &[1, 0, 0], "not described for this version: 3 bytes of data");
    check(12, (10, 0x00), &[1, 0, 0], "off 1 flags 0x00");
    check(13, (10, 0x50), &[1, 0], "off 1");
    check(11, (0, 0x60), &[0; 26], "not described for this version: 26 bytes of data");
    check(18, (10, 0x00), &[1, 0], "malformed: 2 bytes of data");
    check(18, (21, 0x00), &[0xFF; 24], "malformed: 24 bytes of data");
    check(18, (3, 0xF0), b"", "");
}

#[test]
fn fields_have_names() {
    let (_, fields) = text(18, &header(10, 0x10), &body(&[7, 0, 0, 0, 2, 0, 0x10, 1]));
    assert_eq!(fields, r#"{"xmax":7,"offset":2,"infobits":["KEYS_UPDATED"],"flags":1}"#);
    let blocks = vec![block(0, Some(&[2, 0, 4, 0, 1, 0, 9, 0]))];
    let prune = RecordBody { blocks, ..body(&[0, 0x40]) };
    let (_, fields) = text(17, &header(9, 0x10), &prune);
    assert_eq!(
        fields,
        r#"{"reason":0,"flags":64,"catalog":false,"plans":[],"redirected":[],"dead":[4,1],"unused":[]}"#
    );
    let (_, fields) = text(18, &header(10, 0), &body(b""));
    assert_eq!(fields, r#"{"malformed_bytes":0}"#);
    let blocks = vec![block(0, Some(&[8, 0, 2, 0, 1, 1]))];
    let (text, fields) = text(18, &header(20, 0), &RecordBody { blocks, ..body(b"") });
    assert_eq!(text, "");
    assert_eq!(fields, r#"{"blocks":[{"block":0,"regions":[{"offset":8,"length":2}]}]}"#);
}

/// Bytes among which small numbers are frequent, so that counts often fit.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0_u8), 3 => 0_u8..8, 2 => any::<u8>()];
    vec(byte, 0..200)
}

/// The longest text of a byte: a segment of GIN is two, and gives 13.
const MOST_PER_BYTE: usize = 12;
/// What a checkpoint's words take, and times of the year 294277.
const MOST_WORDS: usize = 700;

proptest! {
    #[test]
    fn no_payload_panics_and_texts_are_bounded(
        major in MAJORS,
        rmgr in prop_oneof![9 => 0_u8..22, 1 => any::<u8>()],
        info in any::<u8>(),
        main in payload(),
        blocks in vec((proptest::option::of(payload()), any::<bool>()), 0..3),
    ) {
        let image = BlockImage {
            bytes: &[],
            hole_offset: 0,
            hole_length: 0,
            info: 0,
            apply: true,
            compression: None,
        };
        let blocks: Vec<_> = (0_u8..).zip(&blocks).map(|(id, (data, has_image))| {
            let image = has_image.then_some(image);
            BlockReference { image, ..block(id, data.as_deref()) }
        }).collect();
        let data = blocks.iter().filter_map(|block| block.data);
        let given = main.len() + data.map(<[u8]>::len).sum::<usize>();
        let body = RecordBody { blocks, origin: Some(1), ..body(&main) };
        let (text, _) = text(major, &header(rmgr, info), &body);
        prop_assert!(text.len() <= MOST_WORDS + MOST_PER_BYTE * given, "{} of {given}", text.len());
    }

    /// A payload that is cut anywhere is as good as any other.
    #[test]
    fn shorter_payloads_are_marked(rmgr in 0_u8..22, info in any::<u8>(), main in payload()) {
        for len in 0..main.len() {
            let _ = text(18, &header(rmgr, info), &body(&main[..len]));
        }
    }
}
