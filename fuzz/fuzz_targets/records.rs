//! Records of every version, manager and type: the body is taken apart and described, as text and
//! as fields. Nothing may panic, and no text may be out of proportion to the record.
//!
//! Input: the version, the manager, `xl_info`, and the bytes behind a record's header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_types::Lsn;
use wal_describe::{Payload, Source, Zone, describe, identify};
use wal_format::{RecordBody, RecordHeader, RmgrId, WalVersion};

/// What a byte may give at the most, and what words there are beside: as in wal-describe's tests.
const MOST_PER_BYTE: usize = 12;
const MOST_WORDS: usize = 700;

fuzz_target!(|data: &[u8]| {
    let [version, rmgr, info, bytes @ ..] = data else { return };
    let Some(version) = WalVersion::from_major(10 + u32::from(version % 9)) else { return };
    let header = RecordHeader {
        total_len: 0,
        xid: 0,
        prev: Lsn::INVALID,
        info: *info,
        rmgr: RmgrId(*rmgr),
        crc: 0,
    };
    let Ok(body) = RecordBody::read(bytes, version) else { return };
    let source = Source { version, lsn: Lsn::INVALID, header: &header, body: &body, rest: None };
    let _ = identify(version, header.rmgr, header.info);
    let mut text = Vec::new();
    describe(&source, &Zone::utc(), &mut text);
    assert!(text.len() <= MOST_WORDS + MOST_PER_BYTE * bytes.len());
    assert!(serde_json::to_string(&Payload::of(&source)).is_ok());
});
