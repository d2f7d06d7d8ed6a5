//! Numbers that only grow, compared between rounds.

use crate::health::SeenAt;
use std::fmt;
use std::time::Duration;

/// How a counter has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Growth {
    pub before: u64,
    pub after: u64,
    /// None where no clock tells.
    pub took: Option<Duration>,
}

impl Growth {
    pub const fn by(&self) -> u64 {
        self.after.saturating_sub(self.before)
    }

    /// Whether it is more than so many in this time, which may be a part of one.
    pub fn is_above(&self, most: f64, per: Duration) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a rate is compared, not counted")]
        let by = self.by() as f64;
        self.took.is_some_and(|took| by > most * (took.as_secs_f64() / per.as_secs_f64()).max(1.0))
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} before, {} now", self.before, self.after)?;
        self.took.map_or(Ok(()), |took| write!(f, ", within {} s", took.as_secs()))
    }
}

/// A counter of which every step is news.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter(Option<(u64, SeenAt)>);

impl Counter {
    /// How it has grown since it was last known; not at all where that is not known, or it was reset meanwhile.
    pub fn step(&mut self, value: u64, seen: SeenAt) -> Option<Growth> {
        let (before, earlier) = self.0.replace((value, seen))?;
        (value > before).then(|| Growth { before, after: value, took: elapsed(&earlier, &seen) })
    }
}

/// A counter of which the rate is news: over windows of at least a given time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    base: Option<(u64, SeenAt)>,
    last: u64,
    standing: Option<Growth>,
}

impl Rate {
    /// How it grew over the last whole window; none before the first one is over.
    pub fn over(&mut self, window: Duration, value: u64, seen: SeenAt) -> Option<Growth> {
        if value < self.last {
            *self = Self::default();
        }
        self.last = value;
        let (before, earlier) = *self.base.get_or_insert((value, seen));
        let took = elapsed(&earlier, &seen);
        if took.is_some_and(|took| took >= window) {
            self.standing = Some(Growth { before, after: value, took });
            self.base = Some((value, seen));
        }
        self.standing
    }
}

/// By the clock that does not jump, where there is one.
pub(super) fn elapsed(earlier: &SeenAt, later: &SeenAt) -> Option<Duration> {
    if let (Some(earlier), Some(later)) = (earlier.boot_us, later.boot_us) {
        return Some(Duration::from_micros(later.saturating_sub(earlier)));
    }
    Some(later.time?.since(earlier.time?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SeenAt {
        SeenAt { boot_us: Some(seconds * 1_000_000), ..SeenAt::default() }
    }

    #[test]
    fn steps_are_told_once_and_a_reset_is_none() {
        let mut counter = Counter::default();
        let mut by = |value, seconds| counter.step(value, at(seconds)).map(|growth| growth.by());
        assert_eq!((by(7, 0), by(7, 15), by(9, 30), by(9, 45)), (None, None, Some(2), None));
        assert_eq!((by(1, 60), by(2, 75), by(u64::MAX, 90)), (None, Some(1), Some(u64::MAX - 2)));
        let growth = Growth { before: 7, after: 9, took: Some(Duration::from_secs(15)) };
        assert_eq!(growth.to_string(), "7 before, 9 now, within 15 s");
    }

    #[test]
    fn rates_are_told_after_a_window_and_stand_until_the_next() {
        const MINUTE: Duration = Duration::from_secs(60);
        let mut rate = Rate::default();
        let mut by = |value, seconds| rate.over(MINUTE, value, at(seconds)).map(|growth| growth.by());
        assert_eq!((by(5, 0), by(50, 59), by(60, 60), by(61, 75)), (None, None, Some(55), Some(55)));
        assert_eq!(by(62, 120), Some(2));
        assert_eq!((by(3, 135), by(9, 180), by(10, 195)), (None, None, Some(7)));
    }

    #[test]
    fn a_rate_is_that_of_its_time_and_short_times_are_no_excuse() {
        let grown = |by, seconds| Growth { before: 0, after: by, took: Some(Duration::from_secs(seconds)) };
        const MINUTE: Duration = Duration::from_secs(60);
        assert!(grown(11, 60).is_above(10.0, MINUTE) && !grown(10, 60).is_above(10.0, MINUTE));
        assert!(!grown(20, 120).is_above(10.0, MINUTE) && grown(21, 120).is_above(10.0, MINUTE));
        assert!(!grown(10, 1).is_above(10.0, MINUTE));
        assert!(!Growth { took: None, ..grown(1000, 0) }.is_above(10.0, MINUTE));
    }

    #[test]
    fn without_clocks_nothing_has_a_rate() {
        let mut rate = Rate::default();
        for value in 0..100 {
            assert_eq!(rate.over(Duration::from_secs(1), value, SeenAt::default()), None);
        }
    }
}
