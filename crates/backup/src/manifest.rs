//! A backup's manifest: which files it has, how long they are, what they sum up to, and which WAL
//! it needs (`backup/backup_manifest.c`, 13–18; version 1 up to 16, 2 with the system identifier
//! from 17).
//!
//! It is proved by its own last line, the SHA-256 of all that stands before. Servers up to 12 send
//! none; then [`Manifest::write`] makes one of the same form of what was received.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pg_types::{Lsn, TimelineId};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::checksum::{from_hex, hex};
use crate::{Algorithm, Description, EntryPath};

/// Some 150 bytes a file, for more files than the largest clusters have.
pub(crate) const MAX_MANIFEST_BYTES: usize = 1 << 30;

/// The file's name.
pub(crate) const NAME: &str = "backup_manifest";

/// The line that the checksum is in, and that it doesn't cover.
pub(crate) const CHECKSUM_LINE: &str = "\"Manifest-Checksum\":";

/// A file that a manifest lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Its size in bytes.
    pub size: u64,
    /// How its sum was made.
    pub algorithm: Algorithm,
    /// The sum's bytes.
    pub sum: Box<[u8]>,
}

/// WAL that a backup needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// Up to here.
    pub end: Lsn,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The cluster; from 17 on.
    pub system_identifier: Option<u64>,
    /// The files, by path.
    pub files: BTreeMap<EntryPath, ManifestFile>,
    /// The WAL.
    pub wal: Vec<WalRange>,
}

/// Not a manifest, or not a whole one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backup's manifest can't be believed: {0}")]
pub struct ManifestError(pub(crate) String);

pub(crate) fn wrong(what: impl Into<String>) -> ManifestError {
    ManifestError(what.into())
}

/// As the server's own reader has it, what it doesn't know is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files", borrow)]
    files: Vec<RawFile<'a>>,
    #[serde(rename = "WAL-Ranges", borrow)]
    wal: Vec<RawRange<'a>>,
    /// Proved before.
    #[serde(rename = "Manifest-Checksum")]
    _sum: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFile<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<&'a str>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified")]
    pub(crate) modified: Option<&'a str>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<&'a str>,
    #[serde(rename = "Checksum")]
    sum: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange<'a> {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: &'a str,
    #[serde(rename = "End-LSN")]
    end: &'a str,
}

impl Manifest {
    /// Adds the last line to a manifest's text: its checksum.
    #[must_use]
    pub fn seal(mut text: String) -> String {
        let sum = hex(Sha256::digest(text.as_bytes()).as_slice());
        // Writing to a string doesn't fail.
        _ = writeln!(text, "{CHECKSUM_LINE} \"{sum}\"}}");
        text
    }

    /// Reads a manifest and proves it by its checksum.
    ///
    /// # Errors
    /// If it doesn't hold, or is of a version that isn't known.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let text = std::str::from_utf8(text).map_err(|_| wrong("it isn't UTF-8"))?;
        let (covered, last) = split(text)?;
        let said = last
            .split('"')
            .nth(3)
            .and_then(from_hex)
            .ok_or_else(|| wrong("its checksum can't be read"))?;
        if Sha256::digest(covered.as_bytes()).as_slice() != said {
            return Err(wrong("its checksum doesn't hold"));
        }
        let raw: Raw<'_> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !(1..=2).contains(&raw.version) {
            return Err(wrong(format!("it is of version {}, and 1 and 2 are known", raw.version)));
        }
        let mut files = BTreeMap::new();
        for file in raw.files {
            let (path, file) = file.checked()?;
            if let Some((path, _)) = files.insert(path.clone(), file).map(|file| (path, file)) {
                return Err(wrong(format!("it lists {path} twice")));
            }
        }
        let wal = raw.wal.iter().map(RawRange::checked).collect::<Result<_, _>>()?;
        Ok(Self { system_identifier: raw.system_identifier, files, wal })
    }

    /// The text of a manifest: version 2 if the cluster is known, 1 if not.
    #[must_use]
    pub fn write(&self) -> String {
        let version = if self.system_identifier.is_some() { 2 } else { 1 };
        let mut text = format!("{{ \"PostgreSQL-Backup-Manifest-Version\": {version},\n");
        if let Some(system) = self.system_identifier {
            // Writing to a string doesn't fail.
            _ = writeln!(text, "\"System-Identifier\": {system},");
        }
        text.push_str("\"Files\": [");
        for (place, (path, file)) in self.files.iter().enumerate() {
            text.push_str(if place == 0 { "\n" } else { ",\n" });
            file.write(path, None, false, &mut text);
        }
        text.push_str("\n],\n\"WAL-Ranges\": [");
        for (place, range) in self.wal.iter().enumerate() {
            text.push_str(if place == 0 { "\n" } else { ",\n" });
            let WalRange { timeline, start, end } = range;
            _ = write!(
                text,
                "{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            );
        }
        text.push_str("\n],\n");
        Self::seal(text)
    }

    /// Why it can't be the manifest of this backup; nothing if it is.
    pub(crate) fn differences(&self, description: &Description) -> Vec<String> {
        let mut all = Vec::new();
        let cluster = self.system_identifier.map(|id| id.to_string());
        if cluster.is_some_and(|id| id != description.system_identifier) {
            all.push("it is another cluster's".to_owned());
        }
        let starts = self.wal.iter().map(|range| range.start).min();
        let ends = self.wal.iter().map(|range| range.end).max();
        let (start, stop) = (description.start.lsn, description.stop.lsn);
        if (starts, ends) != (Some(start), Some(stop)) {
            all.push(format!("it is of a backup that needs other WAL than from {start} to {stop}"));
        }
        all
    }
}

impl ManifestFile {
    /// Writes what a manifest says of a file, as the server does; its path in hex if it has to be.
    pub(crate) fn write(
        &self,
        path: &EntryPath,
        modified: Option<&str>,
        encode: bool,
        text: &mut String,
    ) {
        // Writing to a string doesn't fail.
        _ = match std::str::from_utf8(path.as_bytes()) {
            Ok(path) if !encode => write!(text, "{{ \"Path\": {}", serde_json::Value::from(path)),
            _ => write!(text, "{{ \"Encoded-Path\": \"{}\"", hex(path.as_bytes())),
        };
        _ = write!(text, ", \"Size\": {}", self.size);
        if let Some(modified) = modified {
            _ = write!(text, ", \"Last-Modified\": {}", serde_json::Value::from(modified));
        }
        if self.algorithm != Algorithm::None {
            let (name, sum) = (self.algorithm.name(), hex(&self.sum));
            _ = write!(text, ", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{sum}\"");
        }
        text.push_str(" }");
    }
}

/// The same manifest without one of its files, which then isn't among those to be verified.
///
/// # Errors
/// If it isn't a manifest as servers write them, a line for each file.
pub(crate) fn without(text: &[u8], path: &str) -> Result<Vec<u8>, ManifestError> {
    let text = std::str::from_utf8(text).map_err(|_| wrong("it isn't UTF-8"))?;
    let (covered, _) = split(text)?;
    let begins = format!("{{ \"Path\": \"{path}\",");
    let mut lines: Vec<&str> = covered.split_inclusive('\n').collect();
    let Some(place) = lines.iter().position(|line| line.starts_with(&begins)) else {
        return Ok(text.as_bytes().to_vec());
    };
    let last_of_its_list = !lines.remove(place).trim_end().ends_with(',');
    let mut kept: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    if last_of_its_list && let Some(before) = place.checked_sub(1).and_then(|at| kept.get_mut(at)) {
        *before = format!("{}\n", before.trim_end().trim_end_matches(','));
    }
    Ok(Manifest::seal(kept.concat()).into_bytes())
}

/// What the checksum covers, and its line.
fn split(text: &str) -> Result<(&str, &str), ManifestError> {
    let covered = text.strip_suffix('\n').and_then(|text| text.rfind('\n')).map(|at| at + 1);
    let parts = covered.and_then(|at| text.split_at_checked(at));
    let parts = parts.filter(|(_, last)| last.starts_with(CHECKSUM_LINE));
    parts.ok_or_else(|| wrong("it has no checksum in its last line: it isn't whole"))
}

impl RawFile<'_> {
    pub(crate) fn checked(self) -> Result<(EntryPath, ManifestFile), ManifestError> {
        let name = match (&self.path, self.encoded_path) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(encoded)) => {
                from_hex(encoded).ok_or_else(|| wrong("a path's hex can't be read"))?
            }
            _ => return Err(wrong("a file has no path, or two")),
        };
        let path = EntryPath::new(&name).map_err(|fault| {
            wrong(format!("a file is named \"{}\": {fault}", name.escape_ascii()))
        })?;
        let (algorithm, sum) = match (self.algorithm, self.sum) {
            (None, None) => (Algorithm::None, Vec::new()),
            (Some(algorithm), Some(sum)) => {
                let known = Algorithm::parse(algorithm);
                let known = known.ok_or_else(|| wrong(format!("{algorithm} isn't known")))?;
                (known, from_hex(sum).unwrap_or_default())
            }
            _ => return Err(wrong(format!("{path} has half of a checksum"))),
        };
        if sum.len() != algorithm.len() {
            return Err(wrong(format!("the checksum of {path} has a wrong length")));
        }
        Ok((path, ManifestFile { size: self.size, algorithm, sum: sum.into() }))
    }
}

impl RawRange<'_> {
    fn checked(&self) -> Result<WalRange, ManifestError> {
        let range = TimelineId::new(self.timeline).and_then(|timeline| {
            let (start, end) = (self.start.parse().ok()?, self.end.parse().ok()?);
            Some(WalRange { timeline, start, end })
        });
        range.ok_or_else(|| wrong("a range of WAL can't be read"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As 17 writes it.
    fn sample() -> Vec<u8> {
        Manifest::seal(
            "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
             \"System-Identifier\": 7530000000000000001,\n\
             \"Files\": [\n\
             { \"Path\": \"backup_label\", \"Size\": 9, \"Last-Modified\": \"2026-01-31 12:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"839206e3\" },\n\
             { \"Path\": \"tablespace_map\", \"Size\": 0, \"Last-Modified\": \"2026-01-31 12:00:00 GMT\" },\n\
             { \"Encoded-Path\": \"62ff\", \"Size\": 3, \"Last-Modified\": \"2026-01-31 12:00:00 GMT\" }\n\
             ],\n\
             \"WAL-Ranges\": [\n\
             { \"Timeline\": 3, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000120\" }\n\
             ],\n"
                .to_owned(),
        )
        .into_bytes()
    }

    #[test]
    fn a_manifest_as_servers_write_it() {
        let manifest = Manifest::parse(&sample()).unwrap();
        assert_eq!(manifest.system_identifier, Some(7_530_000_000_000_000_001));
        assert_eq!(manifest.files.len(), 3);
        let label = &manifest.files[&EntryPath::new(b"backup_label").unwrap()];
        assert_eq!((label.size, label.algorithm), (9, Algorithm::Crc32c));
        assert_eq!(*label.sum, 0xE306_9283_u32.to_le_bytes());
        assert!(manifest.files.contains_key(&EntryPath::new(b"b\xff").unwrap()));
        let range = manifest.wal[0];
        assert_eq!((range.timeline.as_u32(), range.start), (3, Lsn::new(0x200_0028)));
    }

    #[test]
    fn one_that_was_written_is_read() {
        let manifest = Manifest { system_identifier: None, ..Manifest::parse(&sample()).unwrap() };
        assert_eq!(Manifest::parse(manifest.write().as_bytes()), Ok(manifest));
    }

    #[test]
    fn a_file_is_left_out() {
        for (path, left) in [("tablespace_map", 2), ("backup_label", 2), ("none", 3)] {
            let text = without(&sample(), path).unwrap();
            assert_eq!(Manifest::parse(&text).unwrap().files.len(), left, "{path}");
        }
        let only = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
                    { \"Path\": \"a\", \"Size\": 0 },\n{ \"Path\": \"b\", \"Size\": 0 }\n],\n\
                    \"WAL-Ranges\": [\n],\n";
        let text = without(Manifest::seal(only.to_owned()).as_bytes(), "b").unwrap();
        assert_eq!(Manifest::parse(&text).unwrap().files.len(), 1);
    }

    #[test]
    fn damage_is_found() {
        let good = sample();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            // The last two characters close the object, and are the only ones that say nothing.
            assert!(Manifest::parse(&bad).is_err() || at + 2 >= good.len(), "byte {at}");
            assert!(Manifest::parse(&good[..at]).is_err(), "cut at {at}");
        }
        let check = |from: &str, to: &str, expect: &str| {
            let text = String::from_utf8(sample()).unwrap();
            let (covered, _) = split(&text).unwrap();
            let error =
                Manifest::parse(Manifest::seal(covered.replace(from, to)).as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        check("Version\": 2", "Version\": 3", "version 3");
        check("\"backup_label\"", "\"../x\"", "named \"../x\"");
        check("\"backup_label\"", "\"tablespace_map\"", "twice");
        check("839206e3", "839206", "wrong length");
        check("CRC32C", "MD5", "MD5 isn't known");
        check("\"Timeline\": 3", "\"Timeline\": 0", "range of WAL");
        // Each thing that pg_verifybackup's own tests (005_bad_manifest.pl) get wrong, in a manifest
        // whose checksum holds.
        check("Version\": 2", "Version\": \"phooey\"", "invalid type");
        check("Version\": 2", "Version\": 9876599", "version 9876599");
        check("\"System-Identifier\"", "\"Oops\"", "unknown field `Oops`");
        check("\"Size\": 9,", "\"Size\": \"Oops\",", "invalid type");
        check("\"Size\": 9,", "", "missing field `Size`");
        check("\"Size\": 9,", "\"Size\": 9, \"Oops\": 1,", "unknown field `Oops`");
        check("\"Path\": \"backup_label\", ", "", "has no path, or two");
        check("\"Encoded-Path\"", "\"Path\": \"x\", \"Encoded-Path\"", "has no path, or two");
        check("62ff", "62f", "hex can't be read");
        check("\"Checksum-Algorithm\": \"CRC32C\", ", "", "half of a checksum");
        check("839206e3", "83920", "wrong length");
        check("\"Start-LSN\": \"0/2000028\", ", "", "missing field `Start-LSN`");
        check(", \"End-LSN\": \"0/2000120\"", "", "missing field `End-LSN`");
        check("\"Timeline\": 3, ", "", "missing field `Timeline`");
        check("\"Timeline\": 3", "\"Timeline\": true", "invalid type");
        check("\"Timeline\": 3", "\"Oops\": 3", "unknown field `Oops`");
        check("0/2000028", "oops", "range of WAL");
        check("0/2000120", "oops", "range of WAL");
        for text in ["", "{", "{\n", "{}\n", "[]\n", "{\"not-expected\": 1}\n"] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
            let sealed = Manifest::seal(text.to_owned());
            assert!(Manifest::parse(sealed.as_bytes()).is_err(), "{sealed}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::parse(&bytes);
            let text = String::from_utf8_lossy(&bytes).into_owned() + "\n";
            let _ = Manifest::parse(Manifest::seal(text).as_bytes());
            let _ = without(&bytes, "a");
        }
    }
}
