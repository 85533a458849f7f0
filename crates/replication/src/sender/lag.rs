//! How long ago a position was sent that a client now says it has (`LagTrackerRead`,
//! walsender.c).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pg_types::Lsn;

/// So many positions are remembered; a client that is further behind has its lag measured from
/// the oldest of them. At a sample for each commit that is some seconds' worth, in 24 KiB.
const SAMPLES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Sent(VecDeque<(Lsn, Instant)>);

impl Sent {
    /// Everything before `end` is on its way.
    pub(super) fn add(&mut self, end: Lsn, now: Instant) {
        if self.0.len() == SAMPLES {
            // Every second one: what is old is remembered less exactly.
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((end, now));
    }

    /// How long ago the last of what is before `at` was sent; `None` if nothing new is.
    pub(super) fn lag(&self, at: Lsn, now: Instant) -> Option<Duration> {
        let after = self.0.partition_point(|(end, _)| *end <= at);
        let sample = after.checked_sub(1).and_then(|place| self.0.get(place));
        sample.map(|(_, sent)| now.saturating_duration_since(*sent))
    }

    /// Nobody asks for what is before this any more, but for the last such position.
    pub(super) fn forget(&mut self, at: Lsn) {
        while self.0.front().is_some_and(|(end, _)| *end <= at) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_time_since_it_was_sent() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut sent = Sent::default();
        for n in 1..=5000_u32 {
            sent.add(Lsn::new(u64::from(n) * 10), start + second * n);
        }
        assert!(sent.0.len() <= SAMPLES);
        let now = start + second * 5001;
        assert_eq!(sent.lag(Lsn::new(50_000), now), Some(second));
        assert_eq!(sent.lag(Lsn::new(9), now), None);
        sent.forget(Lsn::new(49_999));
        assert_eq!((sent.0.len(), sent.lag(Lsn::new(49_999), now)), (1, None));
    }
}
