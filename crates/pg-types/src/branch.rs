//! A timeline and the ones that it comes from, as its history file says
//! (`readTimeLineHistory`, `access/transam/timeline.c`, 10–18).

use crate::{Lsn, SegmentNumber, SegmentSize, TimelineId};

/// A part of a branch: what lies on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it begins: the end of the stretch before; the first one begins at 0/0.
    pub begin: Lsn,
    /// Where the next one begins; `None` for the newest.
    pub end: Option<Lsn>,
}

/// A line of history from the first timeline to the newest, in which every position lies on just
/// one timeline. Never empty; timelines increase, ends never decrease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch(Vec<Stretch>);

/// What is wrong with a history file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the history of timeline {timeline}: {what}")]
pub struct BranchError {
    timeline: TimelineId,
    line: usize,
    what: &'static str,
}

impl Branch {
    /// A timeline without a history.
    #[must_use]
    pub fn root(timeline: TimelineId) -> Self {
        Self(vec![Stretch { timeline, begin: Lsn::INVALID, end: None }])
    }

    /// Reads `timeline`'s history file: a line for each ancestor, with its number and the position
    /// where it was left; what follows them is for people.
    ///
    /// # Errors
    /// If a line isn't that, or timelines don't increase.
    pub fn parse(timeline: TimelineId, file: &[u8]) -> Result<Self, BranchError> {
        let mut ancestors: Vec<(TimelineId, Lsn)> = Vec::new();
        for (at, line) in file.split(|byte| *byte == b'\n').enumerate() {
            let error = |what| BranchError { timeline, line: at + 1, what };
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (ancestor, end) = ancestor(line).map_err(error)?;
            let before = ancestors.last().map(|(before, _)| *before);
            if before.is_some_and(|before| before >= ancestor) || ancestor >= timeline {
                return Err(error("timelines must increase"));
            }
            ancestors.push((ancestor, end));
        }
        // A recovery that was to end on an ancestor, before a later one was begun, leaves that one all
        // the same, before its begin (028_pitr_timelines.pl): nothing lies on it.
        let mut later = Lsn::new(u64::MAX);
        for (_, end) in ancestors.iter_mut().rev() {
            later = later.min(*end);
            *end = later;
        }
        let mut begin = Lsn::INVALID;
        let of = |(timeline, end)| Stretch {
            timeline,
            begin: std::mem::replace(&mut begin, end),
            end: Some(end),
        };
        let mut stretches: Vec<Stretch> = ancestors.into_iter().map(of).collect();
        stretches.push(Stretch { timeline, begin, end: None });
        Ok(Self(stretches))
    }

    /// The newest timeline.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.0.last().map_or(TimelineId::FIRST, |newest| newest.timeline)
    }

    /// From the oldest to the newest.
    #[must_use]
    pub fn stretches(&self) -> &[Stretch] {
        &self.0
    }

    /// The stretch whose timeline has the file of a segment: of two that share one, the newer, which
    /// begins with a copy of the older one's bytes.
    #[must_use]
    pub fn stretch_of(&self, number: SegmentNumber, size: SegmentSize) -> Option<Stretch> {
        self.0.iter().rev().find(|stretch| stretch.begin.segment(size) <= number).copied()
    }

    /// The same line of history, as far as one of its timelines; `None` for a timeline that isn't
    /// in it.
    #[must_use]
    pub fn up_to(&self, timeline: TimelineId) -> Option<Self> {
        let place = self.0.iter().position(|stretch| stretch.timeline == timeline)?;
        let mut stretches: Vec<Stretch> = self.0.iter().take(place + 1).copied().collect();
        if let Some(newest) = stretches.last_mut() {
            newest.end = None;
        }
        Some(Self(stretches))
    }
}

fn ancestor(line: &[u8]) -> Result<(TimelineId, Lsn), &'static str> {
    let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut text = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let timeline = text().and_then(|word| TimelineId::new(word.parse().ok()?));
    let timeline = timeline.ok_or("a timeline's number was expected first")?;
    let end = text().and_then(|word| word.parse().ok());
    Ok((timeline, end.ok_or("a position was expected behind the timeline's number")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn a_history_as_servers_write_it() {
        let file = b"1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tat restore point \"a 9\t9/9\"\n\n";
        let branch = Branch::parse(tli(4), file).unwrap();
        assert_eq!(branch.timeline(), tli(4));
        let (first, second) = (Lsn::new(0x300_0158), Lsn::new(0x500_0000));
        let stretches = [
            Stretch { timeline: tli(1), begin: Lsn::INVALID, end: Some(first) },
            Stretch { timeline: tli(2), begin: first, end: Some(second) },
            Stretch { timeline: tli(4), begin: second, end: None },
        ];
        assert_eq!(branch.stretches(), stretches);
        let older = branch.up_to(tli(2)).unwrap();
        assert_eq!(older.timeline(), tli(2));
        assert_eq!(older.stretches()[1].end, None);
        assert_eq!(branch.up_to(tli(3)), None);
    }

    #[test]
    fn a_segment_with_a_switch_in_it_is_the_newer_timelines() {
        let branch = Branch::parse(tli(3), b"1\t0/2800000\n2\t0/5000000\n").unwrap();
        let size = SegmentSize::DEFAULT;
        let of = |number| {
            let stretch = branch.stretch_of(SegmentNumber::new(number), size);
            stretch.map(|stretch| stretch.timeline.as_u32())
        };
        assert_eq!([0, 1, 2, 4, 5, 9].map(of), [1, 1, 2, 2, 3, 3].map(Some));
    }

    #[test]
    fn comments_and_switches_in_one_place_are_fine() {
        let file = b"# by hand\r\n  1 0/10\tx\r\n2 0/10";
        assert_eq!(Branch::parse(tli(3), file).unwrap().stretches().len(), 3);
        assert_eq!(Branch::parse(tli(3), b"").unwrap(), Branch::root(tli(3)));
    }

    #[test]
    fn what_was_left_before_it_was_begun_has_nothing() {
        let branch = Branch::parse(tli(4), b"1\t0/900000\n2\t0/920778\n3\t0/920710\n").unwrap();
        let (first, second) = (Lsn::new(0x90_0000), Lsn::new(0x92_0710));
        let stretches = [
            Stretch { timeline: tli(1), begin: Lsn::INVALID, end: Some(first) },
            Stretch { timeline: tli(2), begin: first, end: Some(second) },
            Stretch { timeline: tli(3), begin: second, end: Some(second) },
            Stretch { timeline: tli(4), begin: second, end: None },
        ];
        assert_eq!(branch.stretches(), stretches);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |file: &str, expect: &str| {
            let error = Branch::parse(tli(3), file.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, expect, "{file:?}");
        };
        let of = "of the history of timeline 3:";
        check("x\t0/1\t", &format!("line 1 {of} a timeline's number was expected first"));
        check("\n0\t0/1", &format!("line 2 {of} a timeline's number was expected first"));
        let position = "a position was expected behind the timeline's number";
        check("1", &format!("line 1 {of} {position}"));
        check("1\t000000010000000000000003\tx", &format!("line 1 {of} {position}"));
        check("2\t0/1\n1\t0/2", &format!("line 2 {of} timelines must increase"));
        check("3\t0/1", &format!("line 1 {of} timelines must increase"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(branch) = Branch::parse(tli(9), &file) {
                let stretches = branch.stretches();
                prop_assert!(stretches.windows(2).all(|pair| pair[0].end == Some(pair[1].begin)));
                prop_assert!(stretches.iter().all(|on| on.end.is_none_or(|end| on.begin <= end)));
            }
        }
    }
}
