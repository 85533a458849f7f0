//! One tar file, passed on entry by entry. Most pass as they are stored; those few in which the
//! client's form differs are made anew: `backup_label`, `tablespace_map`, the tablespaces' links,
//! and the WAL behind everything.

use std::collections::VecDeque;

use super::listed::Listed;
use super::wal::{Segment, Tail, Waiting};
use super::{Added, PIECE_BYTES, Sent, not_as_listed};
use crate::checksum::Hasher;
use crate::label::{self, MAX_LABEL_BYTES, with_label};
use crate::tar::{BLOCK, Entry, EntryKind, Headers, Made, TarError};
use crate::{BackupError, EntryPath, ManifestFile, StoredTar};

/// The tablespaces' links as a file.
pub(super) const TABLESPACE_MAP: &str = "tablespace_map";
/// The directory that the tablespaces' links are in.
const TABLESPACES: &str = "pg_tblspc";

/// See the [module](self).
pub(super) struct Walk {
    tar: StoredTar,
    at: u64,
    /// The tablespace that it is of.
    oid: Option<u32>,
    /// Pieces that go before anything else: headers, padding, files that were made.
    made: VecDeque<Vec<u8>>,
    content: Option<Content>,
    /// What the made headers are like; known from the first file on.
    headers: Option<(Headers, i64)>,
    tail: Option<Tail>,
    ended: bool,
}

/// What is being passed on.
enum Content {
    Stored(Box<Stored>),
    Wal(Box<Segment>),
}

/// The rest of a stored file.
struct Stored {
    path: EntryPath,
    size: u64,
    left: u64,
    /// Whether it is only read, and not sent.
    silent: bool,
    expected: Box<[u8]>,
    sum: Hasher,
    resum: Option<Hasher>,
}

impl Walk {
    pub(super) fn new(tar: StoredTar, oid: Option<u32>) -> Self {
        Self {
            tar,
            at: 0,
            oid,
            made: VecDeque::new(),
            content: None,
            headers: None,
            tail: None,
            ended: false,
        }
    }

    /// Adds the next bytes to an empty buffer; `false` if there are none any more.
    pub(super) fn fill(
        &mut self,
        sent: &mut Sent,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, BackupError> {
        let piece = if sent.bare { 1 } else { PIECE_BYTES };
        while buffer.len() < piece {
            if let Some(piece) = self.made.pop_front() {
                buffer.extend_from_slice(&piece);
            } else if let Some(content) = self.content.take() {
                self.content = match content {
                    Content::Stored(stored) => self.stored(stored, sent, buffer)?,
                    Content::Wal(mut segment) => {
                        segment.read(buffer)?.then_some(Content::Wal(segment))
                    }
                };
            } else if !self.advance(sent)? {
                break;
            }
        }
        sent.done += buffer.len() as u64;
        Ok(!buffer.is_empty())
    }

    /// Reads on in a stored file; gives it back if it goes on.
    fn stored(
        &mut self,
        mut stored: Box<Stored>,
        sent: &mut Sent,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Content>, BackupError> {
        let have = buffer.len();
        let room = PIECE_BYTES.saturating_sub(have);
        let len = usize::try_from(stored.left).unwrap_or(usize::MAX).min(room);
        buffer.resize(have + len, 0);
        let bytes = buffer.get_mut(have..).unwrap_or_default();
        self.tar.read_exact_at(bytes, self.at)?;
        stored.sum.update(bytes);
        if let Some(resum) = &mut stored.resum {
            resum.update(bytes);
        }
        if stored.silent {
            buffer.truncate(have);
        }
        self.at += len as u64;
        stored.left -= len as u64;
        if stored.left > 0 {
            return Ok(Some(Content::Stored(stored)));
        }
        self.stored_end(*stored, sent)?;
        Ok(None)
    }

    fn stored_end(&mut self, stored: Stored, sent: &mut Sent) -> Result<(), BackupError> {
        if stored.sum.finish() != stored.expected {
            let what = "its checksum is another: the stored backup is damaged";
            return Err(not_as_listed(&stored.path, what));
        }
        if let Some(resum) = stored.resum {
            sent.notes.sums.extend_from_slice(&resum.finish());
        }
        let padding = padding(stored.size);
        self.at += padding as u64;
        if !stored.silent {
            self.make(vec![0; padding]);
        }
        Ok(())
    }

    fn make(&mut self, piece: Vec<u8>) {
        // An empty piece would be taken for the end.
        if !piece.is_empty() {
            self.made.push_back(piece);
        }
    }

    /// Goes to what comes next; `false` if nothing does.
    fn advance(&mut self, sent: &mut Sent) -> Result<bool, BackupError> {
        if self.ended {
            return Ok(false);
        }
        if let Some(tail) = &mut self.tail {
            match tail.next(&sent.catalogue)? {
                Some(waiting) => self.waiting(waiting, sent)?,
                None => self.end(sent),
            }
            return Ok(true);
        }
        let mut header = [0; BLOCK];
        if self.at < self.tar.len() {
            self.tar.read_exact_at(&mut header, self.at)?;
            self.at += BLOCK as u64;
        }
        if header.iter().any(|byte| *byte != 0) {
            self.entry(Entry::parse(&header)?, header, sent)?;
        } else if self.oid.is_none() && sent.form.wal {
            self.tail = Some(Tail::of(&sent.description, &sent.catalogue)?);
        } else {
            self.end(sent);
        }
        Ok(true)
    }

    fn end(&mut self, sent: &Sent) {
        if !sent.bare {
            self.make(vec![0; 2 * BLOCK]);
        }
        self.ended = true;
    }

    fn entry(
        &mut self,
        entry: Entry,
        header: [u8; BLOCK],
        sent: &mut Sent,
    ) -> Result<(), BackupError> {
        let in_base = self.oid.is_none();
        let oids: Vec<u32> = sent.description.tablespaces.iter().map(|space| space.oid).collect();
        let of_tablespace = in_base && entry.path.is_link_of(&oids);
        match entry.kind {
            // They are made from what `backup.json` says.
            EntryKind::Link | EntryKind::Directory if of_tablespace => Ok(()),
            EntryKind::Link => {
                Err(not_as_listed(&entry.path, "it is a link, and not a tablespace's"))
            }
            EntryKind::Directory => {
                self.make(header.to_vec());
                if in_base && entry.path.is(TABLESPACES) && !sent.form.tablespace_map {
                    self.links(sent)?;
                }
                Ok(())
            }
            EntryKind::File { size } => {
                let path = match self.oid {
                    Some(oid) => entry.path.in_tablespace(oid),
                    None => entry.path,
                };
                self.headers.get_or_insert_with(|| (Headers::like(header), Headers::time(&header)));
                self.file_entry(path, size, &header, sent)
            }
        }
    }

    /// A file, which has to be the next one that the stored manifest lists.
    fn file_entry(
        &mut self,
        path: EntryPath,
        size: u64,
        header: &[u8; BLOCK],
        sent: &mut Sent,
    ) -> Result<(), BackupError> {
        let listed = sent.lines.next_file()?.filter(|listed| listed.path == path);
        let listed = listed.ok_or_else(|| not_as_listed(&path, "it isn't listed there"))?;
        if listed.file.size != size {
            let what = format!("it has {size} bytes, and should have {}", listed.file.size);
            return Err(not_as_listed(&path, &what));
        }
        if path.is(label::NAME) {
            return self.label(&listed, sent);
        }
        let algorithm = listed.file.algorithm;
        let silent = path.is(TABLESPACE_MAP);
        let resummed = if silent { None } else { sent.resummed(algorithm) };
        if !silent {
            self.make(header.to_vec());
        }
        let stored = Stored {
            path,
            size,
            left: size,
            silent,
            expected: listed.file.sum,
            sum: Hasher::new(algorithm),
            resum: resummed.map(Hasher::new),
        };
        if size == 0 {
            return self.stored_end(stored, sent);
        }
        self.content = Some(Content::Stored(Box::new(stored)));
        Ok(())
    }

    /// `backup_label` with the client's label in it, and the map of the tablespaces behind it.
    fn label(&mut self, listed: &Listed, sent: &mut Sent) -> Result<(), BackupError> {
        let size = usize::try_from(listed.file.size).unwrap_or(usize::MAX);
        if size > MAX_LABEL_BYTES {
            return Err(not_as_listed(&listed.path, "it is longer than any"));
        }
        let mut content = vec![0; size];
        self.tar.read_exact_at(&mut content, self.at)?;
        self.at += (size + padding(size as u64)) as u64;
        let mut sum = Hasher::new(listed.file.algorithm);
        sum.update(&content);
        if sum.finish() != listed.file.sum {
            let what = "its checksum is another: the stored backup is damaged";
            return Err(not_as_listed(&listed.path, what));
        }
        let content = with_label(&content, &sent.form.label);
        let added = self.file(label::NAME, content, sent)?;
        sent.notes.in_front.push(added);
        if sent.form.tablespace_map {
            let map = tablespace_map(sent);
            let added = self.file(TABLESPACE_MAP, map, sent)?;
            sent.notes.in_front.push(added);
        }
        Ok(())
    }

    /// The tablespaces' links, or the directories of those that are within the data directory.
    fn links(&mut self, sent: &Sent) -> Result<(), BackupError> {
        for space in &sent.description.tablespaces {
            let name = format!("{TABLESPACES}/{}", space.oid);
            let header = match space.location.starts_with('/') {
                // A link is everybody's.
                true => self.header(&name, Made::Link(&space.location), 0o777),
                false => self.header(&name, Made::Directory, mode(sent, true)),
            };
            let header = header.ok_or_else(|| BackupError::LongLink {
                name: name.clone(),
                target: space.location.clone(),
            })?;
            self.make(header.to_vec());
        }
        Ok(())
    }

    fn waiting(&mut self, waiting: Waiting, sent: &mut Sent) -> Result<(), BackupError> {
        match waiting {
            Waiting::Segment(segment) => {
                let made = Made::File(segment.len());
                let header = self.header(segment.name(), made, mode(sent, false));
                let header = header.ok_or(TarError::NotAHeader)?;
                self.make(header.to_vec());
                self.content = Some(Content::Wal(segment));
            }
            Waiting::File(name, content) => {
                let added = self.file(&name, content, sent)?;
                sent.notes.behind.push(added);
            }
        }
        Ok(())
    }

    /// Makes a file, and what the manifest says of it.
    fn file(&mut self, name: &str, content: Vec<u8>, sent: &Sent) -> Result<Added, BackupError> {
        let size = content.len() as u64;
        let header = self.header(name, Made::File(size), mode(sent, false));
        self.make(header.ok_or(TarError::NotAHeader)?.to_vec());
        let algorithm = sent.form.manifest.map(|form| form.algorithm).unwrap_or_default();
        let mut sum = Hasher::new(algorithm);
        sum.update(&content);
        self.make(content);
        self.make(vec![0; padding(size)]);
        let path = EntryPath::new(name.as_bytes()).map_err(|_| TarError::NotAHeader)?;
        let file = ManifestFile { size, algorithm, sum: sum.finish() };
        let changed = self.headers.as_ref().map_or(0, |(_, time)| *time);
        let changed = jiff::Timestamp::from_second(changed).unwrap_or_default();
        Ok(Added { path, file, modified: changed.strftime("%F %T GMT").to_string() })
    }

    fn header(&self, name: &str, made: Made<'_>, mode: u16) -> Option<[u8; BLOCK]> {
        self.headers.as_ref().and_then(|(headers, _)| headers.make(name, made, mode))
    }
}

/// The mode that the server gives its files and directories.
fn mode(sent: &Sent, directory: bool) -> u16 {
    match (sent.description.group_access, directory) {
        (false, false) => 0o600,
        (false, true) => 0o700,
        (true, false) => 0o640,
        (true, true) => 0o750,
    }
}

/// What is missing to a whole block.
fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over == 0 { 0 } else { BLOCK - over }
}

/// A line for each tablespace that isn't within the data directory (`do_pg_backup_start`).
fn tablespace_map(sent: &Sent) -> Vec<u8> {
    let outside =
        sent.description.tablespaces.iter().filter(|space| space.location.starts_with('/'));
    let mut map = String::new();
    for space in outside {
        map.push_str(&space.oid.to_string());
        map.push(' ');
        for c in space.location.chars() {
            if matches!(c, '\n' | '\r' | '\\') {
                map.push('\\');
            }
            map.push(c);
        }
        map.push('\n');
    }
    map.into_bytes()
}
