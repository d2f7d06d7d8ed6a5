//! How long it took, again and again.

use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    times: Vec<Duration>,
}

impl Latencies {
    pub(super) fn add(&mut self, time: Duration) {
        let at = self.times.partition_point(|other| *other <= time);
        self.times.insert(at, time);
    }

    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    /// The time that so many of a hundred did not exceed, in milliseconds; nearest rank.
    pub(super) fn percentile_ms(&self, percent: usize) -> u128 {
        let rank = (self.times.len() * percent).div_ceil(100).max(1);
        self.times.get(rank - 1).map_or(0, Duration::as_millis)
    }
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let mut times = Latencies::default();
    (1..=200).rev().for_each(|ms| times.add(Duration::from_millis(ms)));
    assert_eq!((times.count(), times.percentile_ms(50), times.percentile_ms(99)), (200, 100, 198));
    assert_eq!(Latencies::default().percentile_ms(99), 0);
}
