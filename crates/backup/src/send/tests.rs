//! Stored backups made on the spot, sent in every form and read by the `tar` crate and by the
//! manifest's own reader; and damaged ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use ::archive::{Archive, Identity};
use disk::RealFiles;
use pg_types::{Geometry, SegmentSize, SystemId};
use proptest::prelude::*;

use super::*;
use crate::checksum::Hasher;
use crate::description::tests::sample;
use crate::{Manifest, TablespaceArchive};

const SPACE: u32 = 16384;
const INSIDE: u32 = 16385;
const LABEL: &[u8] = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
    START TIME: 2026-01-31 12:00:00 UTC\nLABEL: nightly\nSTART TIMELINE: 1\n";

/// A backup that is stored.
struct Scene {
    root: tempfile::TempDir,
    description: Description,
    /// What its tar files have: the tablespace's, the one's within, the data directory's.
    tars: [Vec<u8>; 3],
    listed: Vec<String>,
    algorithm: Algorithm,
}

impl Scene {
    /// As servers of this version send it, with the links in it or a map.
    fn new(version: u32, algorithm: Algorithm, map: bool) -> Self {
        let mut description = sample("b");
        description.server_version = version;
        let inside =
            TablespaceArchive { oid: INSIDE, location: format!("pg_tblspc/{INSIDE}"), bytes: 0 };
        description.tablespaces.push(inside);
        let (root, tars) = (tempfile::tempdir().unwrap(), Default::default());
        let mut scene = Self { root, description, tars, listed: Vec::new(), algorithm };
        scene.entry(0, "PG_18/", b'5', b"", "");
        scene.file(0, "PG_18/1", &[7; 100_000]);
        scene.file(0, "PG_18/empty", b"");
        scene.file(1, "PG_18/2", &[9; 513]);
        scene.file(2, "backup_label", LABEL);
        if map {
            scene.file(2, "tablespace_map", b"16384 /srv/one\n");
        }
        scene.entry(2, "pg_tblspc/", b'5', b"", "");
        if !map {
            scene.entry(2, "pg_tblspc/16384/", b'2', b"", "/srv/one");
            scene.entry(2, "pg_tblspc/16385/", b'5', b"", "");
        }
        scene.file(2, "base/1/1259", &[3; 8192]);
        scene.file(2, "it's a\\\"b", b"odd");
        scene.file(2, "global/pg_control", &[1; 8192]);
        scene
    }

    fn entry(&mut self, tar: usize, name: &str, kind: u8, content: &[u8], link: &str) {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(::tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(1_769_860_800);
        header.set_cksum();
        let tar = &mut self.tars[tar];
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }

    fn file(&mut self, tar: usize, name: &str, content: &[u8]) {
        self.entry(tar, name, b'0', content, "");
        let path = EntryPath::new(name.as_bytes()).unwrap();
        let path = match tar {
            0 => path.in_tablespace(SPACE),
            1 => path.in_tablespace(INSIDE),
            _ => path,
        };
        let mut sum = Hasher::new(self.algorithm);
        sum.update(content);
        let (size, algorithm) = (content.len() as u64, self.algorithm);
        let mut line = String::new();
        let file = ManifestFile { size, algorithm, sum: sum.finish() };
        file.write(&path, Some("2026-01-31 12:00:00 GMT"), false, &mut line);
        self.listed.push(line);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("backups/b").join(name)
    }

    fn stored(mut self) -> Self {
        let identity = Identity {
            system_id: SystemId(7),
            server_major: 18,
            geometry: Geometry::new(SegmentSize::MIN),
        };
        let files = Arc::new(RealFiles::new(self.root.path().to_owned()));
        drop(Archive::claim(files, "test").unwrap().open(&identity, &[0; 16]).unwrap());
        fs::create_dir_all(self.path("")).unwrap();
        let names = ["16384.tar", "16385.tar", "base.tar"];
        for (name, tar) in names.into_iter().zip(0..) {
            let len = self.tars[tar].len() + 1024;
            self.tars[tar].resize(len, 0);
            fs::write(self.path(name), &self.tars[tar]).unwrap();
        }
        let [space, inside, base] = self.tars.each_ref().map(|tar| tar.len() as u64);
        self.description.base_bytes = base;
        self.description.tablespaces[0].bytes = space;
        self.description.tablespaces[1].bytes = inside;
        let text = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\
             \"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": 1, \"Start-LSN\": \
             \"0/2000028\", \"End-LSN\": \"0/2000120\" }}\n],\n",
            self.listed.join(",\n")
        );
        fs::write(self.path("backup_manifest"), Manifest::seal(text)).unwrap();
        self
    }

    fn outgoing(&self, form: Form) -> Result<Outgoing, BackupError> {
        let files = Arc::new(RealFiles::new(self.root.path().to_owned()));
        let catalogue = Catalogue::open(files).unwrap();
        let backups = Backups::open(self.root.path()).unwrap();
        Outgoing::new(catalogue, &backups, self.description.clone(), form)
    }

    fn send(&self, form: Form) -> Result<Got, BackupError> {
        let mut outgoing = self.outgoing(form)?;
        let (mut got, mut buffer) = (Got::default(), Vec::new());
        loop {
            match outgoing.next(&mut buffer)? {
                Part::Archive(place) => {
                    assert_eq!(place, got.parts.len());
                    got.parts.push(Vec::new());
                }
                Part::Manifest => got.parts.push(Vec::new()),
                Part::Data => {
                    assert!(!buffer.is_empty() && buffer.len() <= 2 * PIECE_BYTES);
                    got.pieces.push(buffer.len());
                    got.parts.last_mut().unwrap().extend_from_slice(&buffer);
                }
                Part::End => break,
            }
        }
        Ok(got)
    }
}

/// What a client gets.
#[derive(Default)]
struct Got {
    parts: Vec<Vec<u8>>,
    pieces: Vec<usize>,
}

impl Got {
    fn manifest(&self) -> Manifest {
        Manifest::parse(&self.parts[3]).unwrap()
    }

    /// Every entry of the tar files, as the oracle reads them; files are held against the manifest.
    fn entries(&self, manifest: Option<&Manifest>) -> BTreeMap<String, String> {
        let (mut entries, mut files) = (BTreeMap::new(), 0);
        for (tar, before) in self.parts.iter().zip(["pg_tblspc/16384/", "pg_tblspc/16385/", ""]) {
            for entry in ::tar::Archive::new(tar.as_slice()).entries().unwrap() {
                let mut entry = entry.unwrap();
                let name = format!("{before}{}", entry.path().unwrap().display());
                let link = entry.link_name().unwrap().map(|link| link.display().to_string());
                let mode = entry.header().mode().unwrap();
                let kind = entry.header().entry_type();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                if kind.is_file()
                    && let Some(manifest) = manifest
                {
                    files += 1;
                    let file = &manifest.files[&EntryPath::new(name.as_bytes()).unwrap()];
                    let mut sum = Hasher::new(file.algorithm);
                    sum.update(&content);
                    assert_eq!((file.size, &file.sum), (content.len() as u64, &sum.finish()));
                }
                let what = match link {
                    Some(link) => format!("-> {link} {mode:o}"),
                    None if kind.is_dir() => format!("dir {mode:o}"),
                    None => format!("{} bytes {mode:o}", content.len()),
                };
                assert_eq!(entries.insert(name, what), None);
            }
        }
        if let Some(manifest) = manifest {
            assert_eq!(manifest.files.len(), files);
        }
        entries
    }
}

fn form(algorithm: Algorithm) -> Form {
    Form {
        label: "it's another".to_owned(),
        tablespace_map: false,
        wal: false,
        manifest: Some(ManifestForm { algorithm, force_encode: false }),
        compression: None,
    }
}

#[test]
fn whichever_way_it_is_stored_it_goes_out_as_it_is_wanted() {
    for (version, stored_map) in [(140_023, false), (180_006, true), (180_006, false)] {
        let scene = Scene::new(version, Algorithm::Crc32c, stored_map).stored();
        for tablespace_map in [false, true] {
            let got = scene.send(Form { tablespace_map, ..form(Algorithm::Crc32c) }).unwrap();
            let manifest = got.manifest();
            assert_eq!(manifest.system_identifier, Some(7));
            assert_eq!(manifest.wal.len(), 1);
            let entries = got.entries(Some(&manifest));
            let there = |name: &str| entries.get(name).map(String::as_str);
            if tablespace_map {
                assert_eq!(there("tablespace_map"), Some("15 bytes 600"));
                assert_eq!(there("pg_tblspc/16384"), None);
            } else {
                assert_eq!(there("tablespace_map"), None);
                assert_eq!(there("pg_tblspc/16384/"), Some("-> /srv/one 777"));
                assert_eq!(there("pg_tblspc/16385/"), Some("dir 700"));
            }
            assert_eq!(there("pg_tblspc/16384/PG_18/1"), Some("100000 bytes 600"));
            let label = LABEL.len() + "it's another".len() - "nightly".len();
            assert_eq!(there("backup_label"), Some(format!("{label} bytes 600").as_str()));
        }
    }
}

#[test]
fn up_to_14_a_piece_has_bytes_of_one_file_and_a_tar_file_no_end() {
    let scene = Scene::new(140_023, Algorithm::Crc32c, false).stored();
    let got = scene.send(form(Algorithm::Crc32c)).unwrap();
    // The directory, and the file: its header, its bytes in two pieces, its padding.
    let rest = 100_000 - PIECE_BYTES;
    assert_eq!(got.pieces[..6], [512, 512, PIECE_BYTES, rest, 352, 512]);
    assert_eq!(got.parts[1].len(), 512 + 1024, "{:?}", got.pieces);
    let whole = Scene::new(180_006, Algorithm::Crc32c, true).stored();
    let got = whole.send(form(Algorithm::Crc32c)).unwrap();
    assert_eq!(got.parts[1].len(), 512 + 1024 + 1024);
}

#[test]
fn sums_of_every_kind() {
    let all = ["none", "crc32c", "sha224", "sha256", "sha384", "sha512"];
    for stored in [Algorithm::None, Algorithm::Crc32c, Algorithm::Sha256] {
        let scene = Scene::new(180_006, stored, true).stored();
        for algorithm in all.map(|name| Algorithm::parse(name).unwrap()) {
            for force_encode in [false, true] {
                let manifest = Some(ManifestForm { algorithm, force_encode });
                let got = scene.send(Form { manifest, ..form(algorithm) }).unwrap();
                let manifest = got.manifest();
                got.entries(Some(&manifest));
                assert!(manifest.files.values().all(|file| file.algorithm == algorithm));
                let text = String::from_utf8(got.parts[3].clone()).unwrap();
                assert_eq!(text.matches("\"Path\"").count() > 0, !force_encode);
                assert_eq!(text.matches("Last-Modified\": \"2026-01-31 12:00:00 GMT\"").count(), 7);
            }
        }
    }
}

#[test]
fn without_a_manifest_and_compressed() {
    let scene = Scene::new(180_006, Algorithm::Crc32c, true).stored();
    let form = Form { manifest: None, ..form(Algorithm::None) };
    let plain = scene.send(form.clone()).unwrap();
    assert_eq!(plain.parts.len(), 3);
    let lengths: usize = plain.parts.iter().map(Vec::len).sum();
    use compression::Method::{Gzip, Lz4, Zstd};
    for (method, level) in [(Gzip, 6), (Gzip, 9), (Lz4, 12), (Zstd, 3), (Zstd, 22), (Zstd, -99)] {
        let compression = Compression { method, level };
        let got = scene.send(Form { compression: Some(compression), ..form.clone() }).unwrap();
        let bytes: usize = got.parts.iter().map(Vec::len).sum();
        assert!(bytes < lengths / 4, "{compression:?}: {bytes}");
        for (part, plain) in got.parts.iter().zip(&plain.parts) {
            let mut out = Vec::new();
            let mut decoder = method.decoder(part.as_slice(), plain.len() as u64);
            assert_eq!(decoder.read_to_end(&mut out).unwrap(), plain.len());
            assert!(out == *plain);
        }
    }
}

#[test]
fn what_is_damaged_does_not_come_to_its_end() {
    let refused = |change: &dyn Fn(&mut Scene), expect: &str| {
        let mut scene = Scene::new(180_006, Algorithm::Crc32c, true);
        change(&mut scene);
        let scene = scene.stored();
        let error = scene.send(form(Algorithm::Sha256)).map(drop).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    let damaged = "the stored backup is damaged";
    refused(&|scene| scene.tars[0][1500] ^= 1, damaged);
    refused(&|scene| scene.tars[2][520] ^= 1, damaged);
    refused(&|scene| drop(scene.listed.remove(3)), "it isn't listed");
    refused(&|scene| scene.listed.swap(0, 1), "it isn't listed");
    refused(&|scene| scene.listed.push(scene.listed[0].clone()), "it is missing");
    refused(&|scene| scene.entry(2, "base/x/", b'2', b"", "/etc"), "it is a link");
    let name = "\"System-Identifier\": 7";
    let scene = Scene::new(180_006, Algorithm::Crc32c, true).stored();
    let manifest = fs::read_to_string(scene.path("backup_manifest")).unwrap();
    fs::write(scene.path("backup_manifest"), manifest.replace(name, &name.replace('7', "8")))
        .unwrap();
    let error = scene.send(form(Algorithm::Crc32c)).map(drop).unwrap_err().to_string();
    assert!(error.contains("its checksum doesn't hold"), "{error}");
}

#[test]
fn a_link_that_does_not_fit_is_refused_as_the_server_does() {
    let mut scene = Scene::new(180_006, Algorithm::Crc32c, true);
    scene.description.tablespaces[0].location = format!("/{}", "x".repeat(99));
    let scene = scene.stored();
    let error = scene.send(form(Algorithm::Crc32c)).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("symbolic link target too long for tar format: file name"));
    scene.send(Form { tablespace_map: true, ..form(Algorithm::Crc32c) }).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_flipped_byte_is_an_error_or_makes_no_difference(tar in 0_usize..3, at in any::<u32>()) {
        let scene = Scene::new(180_006, Algorithm::Crc32c, true).stored();
        let form = form(Algorithm::Crc32c);
        let good = scene.send(form.clone()).unwrap();
        let names = ["16384.tar", "base.tar", "backup_manifest"];
        let mut bytes = fs::read(scene.path(names[tar])).unwrap();
        let at = at as usize % bytes.len();
        bytes[at] ^= 0x20;
        fs::write(scene.path(names[tar]), bytes).unwrap();
        if let Ok(got) = scene.send(form) {
            // Padding, and what follows the end.
            prop_assert!(got.entries(Some(&got.manifest())) == good.entries(None));
        }
    }
}
