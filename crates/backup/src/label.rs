//! `backup_label`: what tells a server where to begin (`build_backup_content`,
//! `access/transam/xlogbackup.c`, and `do_pg_start_backup` before 16).

use pg_types::{Lsn, TimelineId};

use crate::Point;

/// The label is a dozen lines; one of them may have a kilobyte.
pub(crate) const MAX_LABEL_BYTES: usize = 8 << 10;
/// The file's name.
pub(crate) const NAME: &str = "backup_label";

/// What a `backup_label` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery begins: a checkpoint's redo.
    pub start: Lsn,
    /// That checkpoint's record.
    pub checkpoint: Lsn,
    /// The timeline; from 11 on.
    pub timeline: Option<TimelineId>,
    /// Whether the server was a standby.
    pub from_standby: bool,
    /// Where the backup began that this one was taken after; from 17 on.
    pub incremental_from: Option<Point>,
}

impl BackupLabel {
    /// Reads the file; `None` if it is none.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(content).ok()?;
        let value =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let start = value("START WAL LOCATION")?.split_once(" (file ")?.0;
        let timeline = match value("START TIMELINE") {
            Some(text) => Some(TimelineId::new(text.trim().parse().ok()?)?),
            None => None,
        };
        Some(Self {
            start: start.parse().ok()?,
            checkpoint: value("CHECKPOINT LOCATION")?.parse().ok()?,
            timeline,
            from_standby: value("BACKUP FROM")? == "standby",
            incremental_from: match value("INCREMENTAL FROM LSN") {
                Some(lsn) => Some(Point {
                    lsn: lsn.trim().parse().ok()?,
                    timeline: TimelineId::new(value("INCREMENTAL FROM TLI")?.trim().parse().ok()?)?,
                }),
                None => None,
            },
        })
    }
}

/// The same file with another label in it.
pub(crate) fn with_label(content: &[u8], label: &str) -> Vec<u8> {
    const LINE: &[u8] = b"LABEL: ";
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    let relabelled = lines.map(|line| match line.starts_with(LINE) {
        true => [LINE, label.as_bytes(), b"\n"].concat(),
        false => line.to_vec(),
    });
    relabelled.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_as_servers_write_it() {
        let text = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
                    CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
                    START TIME: 2026-01-31 12:00:00 UTC\nLABEL: x: START TIMELINE: 9\n\
                    START TIMELINE: 2\n";
        let label = BackupLabel {
            start: Lsn::new(0x200_0028),
            checkpoint: Lsn::new(0x200_0060),
            timeline: TimelineId::new(2),
            from_standby: true,
            incremental_from: None,
        };
        assert_eq!(BackupLabel::parse(text.as_bytes()), Some(label));
        let incremental =
            format!("{text}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        let from = BackupLabel::parse(incremental.as_bytes()).unwrap().incremental_from;
        assert_eq!(from, Some(Point { lsn: Lsn::new(0x100_0028), timeline: TimelineId::FIRST }));
        let other = with_label(text.as_bytes(), "it's another");
        assert!(String::from_utf8(other.clone()).unwrap().contains("\nLABEL: it's another\nSTART"));
        assert_eq!(BackupLabel::parse(&other), BackupLabel::parse(text.as_bytes()));
        assert_eq!(BackupLabel::parse(b"START WAL LOCATION: 0/2000028\n"), None);
        assert_eq!(BackupLabel::parse(b"\xff"), None);
    }
}
