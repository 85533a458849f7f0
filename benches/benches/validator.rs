//! The validator on OLTP-like WAL (some seventy bytes a record) and on bulk WAL (full pages).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_types::{Geometry, Lsn, SegmentSize, TimelineId};
use sim::wal::WalBuilder;
use wal_format::{Expect, Record, Validator};

/// What a server sends at once.
const MESSAGE: usize = 128 << 10;

fn log(record_len: usize) -> WalBuilder {
    let geometry = Geometry::new(SegmentSize::DEFAULT);
    let mut wal = WalBuilder::new(geometry, 17, Lsn::new(16 << 20));
    while wal.bytes().len() < 16 << 20 {
        wal.message(record_len);
    }
    wal
}

fn validator(c: &mut Criterion) {
    let mut group = c.benchmark_group("validator");
    for (name, len) in [("oltp", 44), ("mixed", 300), ("bulk", 8200)] {
        let wal = log(len);
        let expect = Expect {
            geometry: Geometry::new(SegmentSize::DEFAULT),
            timeline: TimelineId::FIRST,
            system_id: None,
        };
        group.throughput(Throughput::Bytes(wal.bytes().len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut validator = Validator::new(expect, wal.start());
                let mut records = 0_u64;
                for message in wal.bytes().chunks(MESSAGE) {
                    let proved = validator.feed(message, &mut |_: &Record| records += 1);
                    assert!(proved.is_ok());
                }
                records
            });
        });
    }
    group.finish();
}

criterion_group!(benches, validator);
criterion_main!(benches);
