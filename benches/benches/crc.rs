//! CRC-32C by record size: ours, and the two crates that it is made of.

use std::hint::black_box;

use crc_fast::{CrcAlgorithm, checksum};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn crc(c: &mut Criterion) {
    let mut group = c.benchmark_group("crc32c");
    for len in [24_usize, 80, 256, 512, 1024, 8192] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 131) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("wal-format", len), &bytes, |b, bytes| {
            b.iter(|| wal_format::crc::crc32c(black_box(bytes)));
        });
        group.bench_with_input(BenchmarkId::new("crc32c", len), &bytes, |b, bytes| {
            b.iter(|| crc32c::crc32c(black_box(bytes)));
        });
        group.bench_with_input(BenchmarkId::new("crc-fast", len), &bytes, |b, bytes| {
            b.iter(|| checksum(CrcAlgorithm::Crc32Iscsi, black_box(bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, crc);
criterion_main!(benches);
