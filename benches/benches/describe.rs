//! Records taken apart, counted, and as text and as JSON: their descriptions and whole lines, on WAL that a real server
//! made: the mix of every resource manager.

use std::fs;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pg_types::{Geometry, Lsn, SegmentSize, TimelineId};
use testkit::corpus::{self, Corpus, CorpusOptions};
use wal_describe::{Payload, Source, Zone, describe};
use wal_format::{Expect, Record, RecordBody, RecordHeader, Validator, Visitor, WalVersion};
use waldump::show::line::{Style, put_record};

/// Every record of a corpus, bodies one after the other.
#[derive(Default)]
struct Records {
    headers: Vec<(RecordHeader, usize)>,
    bodies: Vec<u8>,
}

impl Visitor for Records {
    fn body(&mut self, bytes: &[u8]) {
        self.bodies.extend_from_slice(bytes);
    }

    fn record(&mut self, record: &Record) {
        self.headers.push((record.header, self.bodies.len()));
    }
}

impl Records {
    fn of(corpus: &Corpus) -> Self {
        let mut records = Self::default();
        let size = SegmentSize::new(u64::from(corpus.segment_size_mb) << 20).expect("a size");
        let geometry = Geometry::new(size);
        let expect = Expect { geometry, timeline: TimelineId::FIRST, system_id: None };
        let start = corpus.start_lsn.parse().expect("an LSN");
        let mut validator = Validator::new(expect, start);
        for segment in corpus.segments().expect("segments") {
            let bytes = fs::read(segment).expect("a segment");
            if validator.feed(&bytes, &mut records).is_err() {
                break;
            }
        }
        records
    }

    fn each(&self, version: WalVersion, mut visit: impl FnMut(&Source<'_>)) {
        let mut start = 0;
        for (header, end) in &self.headers {
            let body = RecordBody::read(&self.bodies[start..*end], version).expect("a body");
            visit(&Source { version, lsn: Lsn::INVALID, header, body: &body, rest: None });
            start = *end;
        }
    }

    /// The bytes of page images, as what is only counted is looked at.
    fn count(&self, version: WalVersion) -> u64 {
        let (mut start, mut sum) = (0, 0);
        for (_, end) in &self.headers {
            let images = RecordBody::image_bytes_of(&self.bodies[start..*end], 0, version);
            sum += u64::from(images.expect("a body"));
            start = *end;
        }
        sum
    }
}

fn descriptions(c: &mut Criterion) {
    let zone = Zone::utc();
    for major in [14, 18] {
        let corpus = corpus::shared(major, &CorpusOptions::default()).expect("a corpus");
        let records = Records::of(&corpus);
        let version = WalVersion::from_major(major).expect("a version");
        let mut group = c.benchmark_group(format!("describe {major}"));
        group.throughput(Throughput::Elements(records.headers.len() as u64));
        group.sample_size(10);
        group.bench_function("take apart", |b| {
            b.iter(|| {
                records.each(version, |source| {
                    black_box(source.body.main_data);
                });
            });
        });
        let mut out = Vec::new();
        group.bench_function("text", |b| {
            b.iter(|| {
                records.each(version, |source| {
                    out.clear();
                    describe(source, &zone, &mut out);
                    black_box(&out);
                });
            });
        });
        let style = Style { zone: Zone::utc(), details: false };
        group.bench_function("line", |b| {
            b.iter(|| {
                records.each(version, |source| {
                    out.clear();
                    put_record(source, &style, &mut out);
                    black_box(&out);
                });
            });
        });
        group.bench_function("count", |b| b.iter(|| records.count(version)));
        group.bench_function("json", |b| {
            b.iter(|| {
                records.each(version, |source| {
                    out.clear();
                    serde_json::to_writer(&mut out, &Payload::of(source)).expect("JSON");
                    black_box(&out);
                });
            });
        });
        group.finish();
    }
}

criterion_group!(benches, descriptions);
criterion_main!(benches);
