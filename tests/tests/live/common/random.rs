//! Random moments, said so that a failure can be looked into.

use std::time::{SystemTime, UNIX_EPOCH};

/// Numbers from a seed (SplitMix64): `SEAWALL_SEED`, or the time.
pub(crate) struct Random(u64);

impl Random {
    /// Prints its seed, which a failed test's output shows.
    #[expect(clippy::print_stderr, reason = "shown with a failure only")]
    pub(crate) fn new(what: &str) -> Self {
        let given = std::env::var("SEAWALL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            now.as_secs() ^ u64::from(now.subsec_nanos()) << 20
        });
        eprintln!("{what}: SEAWALL_SEED={seed}");
        Self(seed)
    }

    /// The numbers of this seed.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end.max(1)
    }
}
