//! Backups made on the spot, good and hostile, restored.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::checksum::Hasher;
use crate::description::Incremental;
use crate::description::tests::sample;
use crate::manifest::WalRange;
use crate::{Algorithm, Manifest, ManifestFile};

/// A place to make a backup in, and to restore it to.
struct Scene {
    root: tempfile::TempDir,
    tars: BTreeMap<Option<u32>, ::tar::Builder<Vec<u8>>>,
    files: BTreeMap<EntryPath, ManifestFile>,
    description: Description,
}

const SPACE: u32 = 16384;

impl Scene {
    /// With everything that a backup has.
    fn new() -> Self {
        let tars = [None, Some(SPACE)].map(|oid| (oid, ::tar::Builder::new(Vec::new())));
        let root = tempfile::tempdir().unwrap();
        let (tars, files) = (tars.into_iter().collect(), BTreeMap::new());
        let mut scene = Self { root, tars, files, description: sample("b") };
        for dir in ["global", "pg_wal", "./pg_wal/archive_status", "pg_tblspc"] {
            scene.entry(None, dir, b'5', b"");
        }
        scene.file(None, "backup_label", b"label");
        scene.file(None, "tablespace_map", b"16384 /srv/one\n");
        scene.file(None, "standby.signal", b"");
        scene.file(None, "postgresql.auto.conf", b"a = '1'\n");
        scene.entry(Some(SPACE), "PG_18", b'5', b"");
        scene.file(Some(SPACE), "PG_18/1", &[7; 100_000]);
        scene.file(None, PG_CONTROL, b"control");
        scene
    }

    fn entry(&mut self, archive: Option<u32>, name: &str, kind: u8, content: &[u8]) {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(::tar::EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_mode(0o4777);
        header.set_cksum();
        self.tars.get_mut(&archive).unwrap().append(&header, content).unwrap();
    }

    fn file(&mut self, archive: Option<u32>, name: &str, content: &[u8]) {
        self.entry(archive, name, b'0', content);
        self.list(archive, name, content);
    }

    fn list(&mut self, archive: Option<u32>, name: &str, content: &[u8]) {
        let path = EntryPath::new(name.as_bytes()).unwrap();
        let path = archive.map_or(path.clone(), |oid| path.in_tablespace(oid));
        let mut hasher = Hasher::new(Algorithm::Crc32c);
        hasher.update(content);
        let (algorithm, sum) = (Algorithm::Crc32c, hasher.finish());
        let file = ManifestFile { size: content.len() as u64, algorithm, sum };
        self.files.insert(path, file);
    }

    fn destination(&self) -> Destination {
        let path = |name: &str| self.root.path().join(name);
        fs::create_dir_all(path("archive")).unwrap();
        Destination {
            data: path("data"),
            archive: path("archive"),
            tablespaces: vec![Tablespace { oid: SPACE, location: path("space") }],
            waldir: Some(path("wal")),
            replace: None,
        }
    }

    /// Stores it.
    fn link(&mut self) -> Link {
        let backup = self.root.path().join("backup");
        fs::create_dir(&backup).unwrap();
        let Description { start, stop, .. } = &self.description;
        let (start, end, timeline) = (start.lsn, stop.lsn, stop.timeline);
        let wal = vec![WalRange { timeline, start, end }];
        let manifest = Manifest { system_identifier: None, files: self.files.clone(), wal };
        fs::write(backup.join("backup_manifest"), manifest.write()).unwrap();
        for (oid, tar) in std::mem::take(&mut self.tars) {
            let bytes = tar.into_inner().unwrap();
            match oid {
                None => self.description.base_bytes = bytes.len() as u64,
                Some(_) => self.description.tablespaces[0].bytes = bytes.len() as u64,
            }
            fs::write(backup.join(crate::intake::tar_name(oid)), bytes).unwrap();
        }
        let directory = Tree::open(&backup, Readers::Owner).unwrap();
        Link { directory, description: self.description.clone() }
    }

    fn restore(mut self) -> (tempfile::TempDir, Result<Restored, BackupError>) {
        let link = self.link();
        let destination = self.destination();
        destination.examine(18).unwrap();
        let restored = restore(&[link], &destination, 3);
        (self.root, restored)
    }

    /// It is refused with these words, before anything is touched.
    #[track_caller]
    fn refused(self, expect: &str) {
        let (root, restored) = self.restore();
        let error = restored.unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        for name in ["data", "space", "wal", "escaped"] {
            assert!(!root.path().join(name).exists(), "{name} was made");
        }
    }
}

#[test]
fn a_good_one_is_restored_and_is_a_cluster_at_last() {
    let (root, restored) = Scene::new().restore();
    let restored = restored.unwrap();
    let (data, space) = (root.path().join("data"), root.path().join("space"));
    assert_eq!(restored.auto_conf(), b"a = '1'\n");
    assert!(!data.join(PG_CONTROL).exists(), "not a cluster yet");
    restored.add("x.conf", b"x").unwrap();
    assert!(restored.add("backup_label", b"x").is_err(), "nothing is written over");
    restored.complete().unwrap();
    assert_eq!(fs::read(data.join(PG_CONTROL)).unwrap(), b"control");
    assert_eq!(fs::read_link(data.join("pg_tblspc/16384")).unwrap(), space);
    assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), root.path().join("wal"));
    assert!(root.path().join("wal/archive_status").is_dir());
    assert_eq!(fs::read(space.join("PG_18/1")).unwrap(), vec![7; 100_000]);
    for name in ["standby.signal", "tablespace_map", "global/pg_control.restoring"] {
        assert!(!data.join(name).exists(), "{name}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(data.join("backup_label")), 0o600, "modes of the tar file mean nothing");
    assert_eq!(mode(data.join("global")), 0o700);
    let manifest = Manifest::parse(&fs::read(data.join("backup_manifest")).unwrap()).unwrap();
    assert!(!manifest.files.keys().any(|path| path.is("tablespace_map")));
}

#[test]
fn hostile_ones_touch_nothing() {
    let with = |name: &str, kind: u8, expect: &str| {
        let mut scene = Scene::new();
        scene.entry(None, name, kind, b"");
        scene.refused(expect);
    };
    with("../escaped", b'0', "\"..\"");
    with("/tmp/escaped", b'0', "it is absolute");
    with("pg_tblspc/9", b'2', "it is a link");
    with("base", b'2', "it is a link");
    with("base/x", b'1', "hard link");
    with("base/x", b'3', "device");
    with("backup_label", b'0', "twice");
    with("unlisted", b'0', "it isn't listed");

    let mut missing = Scene::new();
    missing.list(None, "missing", b"x");
    missing.refused("of the 7 files that its manifest lists");
    let mut longer = Scene::new();
    longer.entry(None, "longer", b'0', b"xx");
    longer.list(None, "longer", b"x");
    longer.refused("it has 2 bytes, and should have 1");
}

#[test]
fn other_content_makes_no_cluster() {
    let mut scene = Scene::new();
    scene.entry(None, "other", b'0', b"x");
    scene.list(None, "other", b"y");
    let (root, restored) = scene.restore();
    let error = restored.unwrap_err().to_string();
    assert!(error.contains("its checksum is another"), "{error}");
    assert!(!root.path().join("data").join(PG_CONTROL).exists());
    // A directory where none is, of a file that is listed.
    let mut below = Scene::new();
    below.file(None, "nodir/x", b"x");
    let (root, restored) = below.restore();
    assert!(restored.unwrap_err().to_string().contains("nodir"));
    assert!(!root.path().join("data").join(PG_CONTROL).exists());
}

#[test]
fn what_a_chain_lacks_is_said_of_the_one_that_lacks_it() {
    let chain = |full_has: bool| {
        let (mut full, mut second) = (Scene::new(), Scene::new());
        full.description.id = "full".to_owned();
        second.description.id = "second".to_owned();
        let from = full.description.start;
        let parent = "full".to_owned();
        second.description.incremental = Some(Incremental { parent, from, block_size: 8192 });
        second.entry(None, "base", b'5', b"");
        second.file(None, "base/INCREMENTAL.1", b"x");
        if full_has {
            full.file(None, "base/1", b"x");
        }
        can_restore(&[full.link(), second.link()]).map_err(|error| error.to_string())
    };
    assert_eq!(chain(true), Ok(()));
    let error = chain(false).unwrap_err();
    assert!(error.contains("the backup full: base/INCREMENTAL.1"), "{error}");
    assert!(error.contains("what it changes isn't in it"), "{error}");
}

#[test]
fn a_manifest_of_another_backup_is_refused() {
    let mut scene = Scene::new();
    let mut link = scene.link();
    link.description.stop.lsn = link.description.start.lsn;
    let error = can_restore(&[link]).unwrap_err().to_string();
    assert!(error.contains("the backup b:") && error.contains("needs other WAL"), "{error}");
}
