//! What is borne once and not again and again.

use crate::health::observation::SeenAt;
use std::time::Duration;

/// So many times within [`WITHIN`] are too many.
const TOO_MANY: usize = 3;
const WITHIN: Duration = Duration::from_secs(3600);
/// What comes closer together is one incident: a hanging disk names every request that waits for it.
const APART: Duration = Duration::from_secs(60);

/// The last incidents, by their first sightings.
#[derive(Debug, Clone, Default)]
pub struct Repeats {
    incidents: Vec<SeenAt>,
}

impl Repeats {
    /// Notes a sighting; true where there were too many by now. Where no clock tells how far sightings are apart, all of
    /// them are one incident.
    pub fn note(&mut self, seen: SeenAt) -> bool {
        let near = |earlier: &SeenAt, within| earlier.is_shortly_before(&seen, within, u64::MAX);
        if self.incidents.last().is_none_or(|last| !near(last, APART)) {
            self.incidents.retain(|earlier| near(earlier, WITHIN));
            self.incidents.push(seen);
        }
        if self.incidents.len() > TOO_MANY {
            self.incidents.remove(0);
        }
        self.incidents.len() == TOO_MANY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(seconds: &[u64]) -> bool {
        let mut repeats = Repeats::default();
        let at = |seconds: &u64| SeenAt { boot_us: Some(seconds * 1_000_000), ..SeenAt::default() };
        let told = seconds.iter().map(|seconds| repeats.note(at(seconds))).last().expect("some");
        assert!(repeats.incidents.len() <= TOO_MANY);
        told
    }

    #[test]
    fn three_incidents_within_an_hour_are_too_many() {
        assert!(!noted(&[0]) && !noted(&[0, 100]) && noted(&[0, 100, 200]));
        assert!(noted(&[0, 100, 3600]) && !noted(&[0, 100, 3700]));
        assert!(!noted(&[0, 4000, 8000, 12_000, 16_000]));
        // One that does not end is borne for two minutes.
        assert!(!noted(&[0, 1, 2, 59, 60, 61, 62]) && noted(&[0, 30, 61, 90, 122]));
    }

    #[test]
    fn without_a_clock_nobody_knows_how_far_they_are_apart() {
        let mut repeats = Repeats::default();
        assert!(!(0..1000).any(|order| repeats.note(SeenAt { order: order * 1000, ..SeenAt::default() })));
    }
}
