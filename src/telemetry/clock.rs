//! The time. The only place that reads the wall clock and the boot clock; whoever needs them holds a [`Clock`], so that
//! tests and simulations decide what time it is.

use crate::domain::time::Timestamp;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// What time it is.
pub trait Clock: std::fmt::Debug + Send + Sync + 'static {
    /// What people call the time. It may jump either way: for what is shown and recorded, never for deadlines.
    fn now(&self) -> Timestamp;

    /// Since boot, suspended time included. Never goes back while the machine is up: for leases.
    fn boottime(&self) -> Duration;
}

/// The machine's clocks: `CLOCK_REALTIME` and `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let time = read(ClockId::CLOCK_REALTIME);
        Timestamp::from_nanos(time.tv_sec().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec()))
    }

    fn boottime(&self) -> Duration {
        Duration::from(read(ClockId::CLOCK_BOOTTIME))
    }
}

fn read(clock: ClockId) -> TimeSpec {
    clock_gettime(clock).expect("both clocks exist on every Linux that wharf runs on, and the pointer is valid")
}

/// Notices when somebody sets the wall clock. Times that something waits for, and that are kept as people call them, are
/// to be moved with it: an hour that nobody has lived through must end nothing, nor make anything wait.
#[derive(Debug, Clone, Default)]
pub struct ClockSteps {
    seen: Option<(Timestamp, Duration)>,
}

impl ClockSteps {
    /// Less is a clock that is being adjusted, or a look that took long.
    pub const LEAST: Duration = Duration::from_secs(2);

    /// The time, and by how many nanoseconds the wall clock was set since the last look; negative when it was set back.
    pub fn look(&mut self, clock: &dyn Clock) -> (Timestamp, Option<i64>) {
        let (before, now, after) = (clock.boottime(), clock.now(), clock.boottime());
        if after.saturating_sub(before) > Self::LEAST / 4 {
            // Between the two readings this thread stood still: they say nothing about each other.
            return (now, None);
        }
        let Some((wall, boot)) = self.seen.replace((now, after)) else { return (now, None) };
        let lived = i64::try_from(after.saturating_sub(boot).as_nanos()).unwrap_or(i64::MAX);
        let step = now.0.saturating_sub(wall.0).saturating_sub(lived);
        (now, Some(step).filter(|step| u128::from(step.unsigned_abs()) >= Self::LEAST.as_nanos()))
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: AtomicI64,
    boottime: AtomicU64,
}

impl ManualClock {
    /// Starts at `now`, with the machine just booted.
    pub fn new(now: Timestamp) -> Self {
        Self { now: AtomicI64::new(now.0), boottime: AtomicU64::new(0) }
    }

    /// Both clocks go on.
    pub fn advance(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.now.fetch_add(i64::try_from(nanos).unwrap_or(i64::MAX), Ordering::AcqRel);
        self.boottime.fetch_add(nanos, Ordering::AcqRel);
    }

    /// Somebody sets the wall clock, to earlier or later; the boot clock does not notice.
    pub fn set_now(&self, now: Timestamp) {
        self.now.store(now.0, Ordering::Release);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now.load(Ordering::Acquire))
    }

    fn boottime(&self) -> Duration {
        Duration::from_nanos(self.boottime.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clocks_are_plausible() {
        let clock = SystemClock;
        let year_2024 = Timestamp::parse_rfc3339("2024-01-01T00:00:00Z").unwrap();
        assert!(clock.now() > year_2024);
        let first = clock.boottime();
        assert!(first > Duration::ZERO && clock.boottime() >= first);
    }

    #[test]
    fn steps_of_the_wall_clock_are_told_once_and_time_that_passes_is_none() {
        let clock = ManualClock::new(Timestamp(1_000_000_000_000));
        let (hour, mut steps) = (3_600_000_000_000, ClockSteps::default());
        assert_eq!(steps.look(&clock).1, None);
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(steps.look(&clock), (clock.now(), None));
        for by in [hour, -24 * hour, 24 * hour] {
            clock.advance(Duration::from_secs(60));
            clock.set_now(clock.now().moved(by));
            assert_eq!(steps.look(&clock), (clock.now(), Some(by)));
            assert_eq!(steps.look(&clock).1, None);
        }
        clock.set_now(clock.now().moved(1_900_000_000));
        assert_eq!(steps.look(&clock).1, None, "as when it is adjusted");
    }

    #[test]
    fn a_manual_clock_moves_when_told() {
        let clock = ManualClock::new(Timestamp(1_000));
        clock.advance(Duration::from_nanos(500));
        assert_eq!((clock.now(), clock.boottime()), (Timestamp(1_500), Duration::from_nanos(500)));
        clock.set_now(Timestamp(7));
        assert_eq!((clock.now(), clock.boottime()), (Timestamp(7), Duration::from_nanos(500)));
    }
}
