//! What has been asked of a task and is said again after each reconnect of its shim. Pure: times come in.

use std::fs::File;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long after the grace a shim that has not taken note of a stop is left alive.
const SILENT_PATIENCE: Duration = Duration::from_secs(5);
/// The same for one that has: it kills, reads the last output, writes and records, each with a deadline of its own.
const ENDING_PATIENCE: Duration = Duration::from_secs(60);
/// How long until what was killed over the shim's head is killed again.
const FORCE_AGAIN: Duration = Duration::from_secs(30);
/// What a frame can carry.
const LONGEST_GRACE: Duration = Duration::from_millis(u32::MAX as u64);

#[derive(Debug, Default)]
pub struct Wanted {
    pub command: Option<File>,
    /// When the grace of the stop ends.
    pub stop_by: Option<Instant>,
    /// The shim has taken note of this stop.
    pub stop_taken: bool,
    force_again: Option<Instant>,
    pub lease_until: Option<Duration>,
    /// By the clock that nobody sets.
    pub started_boottime: Option<Duration>,
    /// The stop is for how long it has run.
    pub over: bool,
    pub launches: Vec<oneshot::Sender<()>>,
    pub renewals: Vec<oneshot::Sender<()>>,
}

impl Wanted {
    /// The shortest grace that was ever given counts.
    pub fn stop(&mut self, now: Instant, grace: Duration) {
        let by = now + grace.min(LONGEST_GRACE);
        if self.stop_by.is_none_or(|earlier| by < earlier) {
            self.stop_by = Some(by);
            self.stop_taken = false;
        }
    }

    /// When the task is to be ended over its shim's head.
    pub fn force_at(&self) -> Option<Instant> {
        let patience = if self.stop_taken { ENDING_PATIENCE } else { SILENT_PATIENCE };
        self.force_again.or_else(|| self.stop_by.map(|by| by + patience))
    }

    /// It has been done; what does not die at once is stuck in the kernel.
    pub fn forced(&mut self, now: Instant) {
        self.force_again = Some(now + FORCE_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_forced_after_its_grace_and_sooner_on_a_silent_shim() {
        let now = Instant::now();
        let mut wanted = Wanted::default();
        assert_eq!(wanted.force_at(), None);
        wanted.stop(now, Duration::from_secs(30));
        assert_eq!(wanted.force_at(), Some(now + Duration::from_secs(30) + SILENT_PATIENCE));
        wanted.stop_taken = true;
        assert_eq!(wanted.force_at(), Some(now + Duration::from_secs(30) + ENDING_PATIENCE));
        wanted.stop(now, Duration::from_secs(60));
        assert!(wanted.stop_taken, "a longer grace changes nothing");
        wanted.stop(now, Duration::ZERO);
        assert_eq!(wanted.force_at(), Some(now + SILENT_PATIENCE), "the shim has not heard of the shorter one");
        wanted.forced(now);
        assert_eq!(wanted.force_at(), Some(now + FORCE_AGAIN));
        wanted.stop(now, Duration::MAX);
    }
}
