//! A backup made on the spot, and harmed in each way that `pg_verifybackup` knows.

use std::fs;

use disk::Readers;

use super::*;
use crate::Algorithm;
use crate::description::tests::sample;

const SPACE: u32 = 16384;

struct Scene {
    dir: tempfile::TempDir,
    description: Description,
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = ::tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn listed(content: &[u8]) -> ManifestFile {
    let mut hasher = Hasher::new(Algorithm::Crc32c);
    hasher.update(content);
    let (algorithm, sum) = (Algorithm::Crc32c, hasher.finish());
    ManifestFile { size: content.len() as u64, algorithm, sum }
}

const BASE: [(&str, &[u8]); 3] = [("a", &[1; 700]), ("b", b""), ("c", &[3; 20_000])];
const TABLESPACE: [(&str, &[u8]); 1] = [("PG_18/1", &[7; 1000])];

impl Scene {
    /// Of tar files with these files, where the manifest lists those above.
    fn of(base: &[(&str, &[u8])], tablespace: &[(&str, &[u8])]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut description = sample("b");
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let (base, tablespace) = (tar(base), tar(tablespace));
        description.base_bytes = base.len() as u64;
        description.tablespaces[0].bytes = tablespace.len() as u64;
        write("base.tar", &base);
        write("16384.tar", &tablespace);
        write("backup.json", b"{}");
        let path = |name: &str| EntryPath::new(name.as_bytes()).unwrap();
        let mut files: std::collections::BTreeMap<_, _> =
            BASE.iter().map(|(name, content)| (path(name), listed(content))).collect();
        for (name, content) in TABLESPACE {
            files.insert(path(name).in_tablespace(SPACE), listed(content));
        }
        let (start, end) = (description.start.lsn, description.stop.lsn);
        let wal = vec![manifest::WalRange { timeline: description.stop.timeline, start, end }];
        let manifest = Manifest { system_identifier: None, files, wal };
        write("backup_manifest", manifest.write().as_bytes());
        Self { dir, description }
    }

    fn new() -> Self {
        Self::of(&BASE, &TABLESPACE)
    }

    fn change(self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let path = self.dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap_or_default();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
        self
    }

    fn remove(self, name: &str) -> Self {
        fs::remove_file(self.dir.path().join(name)).unwrap();
        self
    }

    #[track_caller]
    fn check(self, expect: &[&str]) {
        let tree = Tree::open(self.dir.path(), Readers::Owner).unwrap();
        let contents = Contents::of(&tree, &self.description);
        let mut buf = vec![0; 4096];
        let checked = contents.members.iter().map(|member| contents.check(member, &mut buf));
        let mut faults: Vec<String> =
            checked.filter_map(Result::err).map(|fault| fault.to_string()).collect();
        faults.splice(0..0, contents.faults.iter().map(ToString::to_string));
        assert_eq!(faults, expect);
    }
}

#[test]
fn a_sound_backup_has_no_faults() {
    Scene::new().check(&[]);
    Scene::new().change(".backup.json.tmp", |_| {}).check(&[]);
}

#[test]
fn what_is_wrong_with_files_is_named() {
    let changed = "it was changed: its checksum is another";
    Scene::new()
        .change("base.tar", |tar| tar[512 + 9] ^= 1)
        .check(&[&format!("base.tar: a: {changed}")]);
    Scene::new()
        .change("16384.tar", |tar| tar[512] ^= 1)
        .check(&[&format!("16384.tar: pg_tblspc/16384/PG_18/1: {changed}")]);
    Scene::new()
        .change("base.tar", |tar| tar[512 + 700] ^= 1)
        .check(&["base.tar: a: the padding behind it isn't zero"]);
    let without = [BASE[0], BASE[2]];
    Scene::of(&without, &TABLESPACE).check(&["backup_manifest: b: it is missing"]);
    let more = [BASE[0], BASE[1], BASE[2], ("d", b"x")];
    Scene::of(&more, &TABLESPACE).check(&["base.tar: d: it isn't part of the backup"]);
    let twice = [BASE[0], BASE[1], BASE[2], BASE[0]];
    Scene::of(&twice, &TABLESPACE).check(&[
        "base.tar: at byte 23040: the tar file has a twice; what is behind it can't be reached",
    ]);
    let longer = [BASE[0], ("b", b"x"), BASE[2]];
    Scene::of(&longer, &TABLESPACE)
        .check(&["base.tar: b: something was appended: it has 1 bytes, and should have 0"]);
    let shorter: [(&str, &[u8]); 3] = [("a", b"x"), BASE[1], BASE[2]];
    Scene::of(&shorter, &TABLESPACE)
        .check(&["base.tar: a: it is truncated: it has 1 bytes, and should have 700"]);
}

#[test]
fn what_is_wrong_with_tar_files_is_named() {
    Scene::new().remove("16384.tar").check(&["16384.tar: it is missing"]);
    Scene::new().change("17.tar", |_| {}).check(&["17.tar: it isn't part of the backup"]);
    let size = Scene::new().description.base_bytes;
    Scene::new().change("base.tar", |tar| tar.push(0)).check(&[&format!(
        "base.tar: something was appended: it has {} bytes, and should have {size}",
        size + 1
    )]);
    Scene::new()
        .change("base.tar", |tar| tar.truncate(2048))
        .check(&[&format!("base.tar: it is truncated: it has 2048 bytes, and should have {size}")]);
    // The second header: the first file can be reached, the manifest's others not.
    let scene = Scene::new().change("base.tar", |tar| tar[1536] ^= 1);
    let tree = Tree::open(scene.dir.path(), Readers::Owner).unwrap();
    let contents = Contents::of(&tree, &scene.description);
    assert_eq!(contents.faults.len(), 1, "{:?}", contents.faults);
    assert!(contents.faults[0].to_string().starts_with("base.tar: at byte 1536: "));
    assert_eq!(contents.members.len(), 2);
}

#[test]
fn a_manifest_that_does_not_hold_is_named() {
    let begins = "the backup's manifest can't be believed";
    Scene::new()
        .change("backup_manifest", |text| text[60] ^= 1)
        .check(&[&format!("backup_manifest: {begins}: its checksum doesn't hold")]);
    Scene::new().remove("backup_manifest").check(&["backup_manifest: it is missing"]);
    let mut other = Scene::new();
    other.description.stop.lsn = pg_types::Lsn::new(0x900_0000);
    other.check(&[
        "backup_manifest: it is of a backup that needs other WAL than from 0/2000028 to 0/9000000",
    ]);
}
