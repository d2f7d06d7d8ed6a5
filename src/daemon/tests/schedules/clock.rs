//! The clocks of played machines: they follow tokio's time, and somebody may set the wall clock.

use crate::domain::time::Timestamp;
use crate::telemetry::clock::Clock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// 2026-11-22T12:00:00Z.
const NOON: i64 = 1_795_348_800_000_000_000;
/// Since the machine was booted.
const UPTIME: Duration = Duration::from_secs(1000);

#[derive(Debug)]
pub struct FleetClock {
    start: Instant,
    set_by_ns: AtomicI64,
}

impl FleetClock {
    pub fn new() -> Self {
        Self { start: Instant::now(), set_by_ns: AtomicI64::new(0) }
    }

    /// The wall clock is set, to later or earlier.
    pub fn jump(&self, seconds: i64) {
        self.set_by_ns.fetch_add(seconds * 1_000_000_000, Ordering::AcqRel);
    }
}

impl Clock for FleetClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.start.elapsed().as_nanos()).expect("no schedule lasts centuries");
        Timestamp(NOON + passed + self.set_by_ns.load(Ordering::Acquire))
    }

    fn boottime(&self) -> Duration {
        UPTIME + self.start.elapsed()
    }
}
