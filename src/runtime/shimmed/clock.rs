//! The clocks that tasks are measured by.

use crate::domain::time::Timestamp;
use std::time::Duration;

/// The wall clock.
pub fn now() -> Timestamp {
    exact(libc::CLOCK_REALTIME).map_or_else(Timestamp::default, |time| Timestamp::default().plus(time))
}

/// Since the machine started; goes on while it sleeps, and nobody sets it.
pub fn boottime() -> Option<Duration> {
    exact(libc::CLOCK_BOOTTIME)
}

fn exact(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a timespec of ours to fill.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    let nanos = u32::try_from(time.tv_nsec).ok()?;
    (result == 0).then(|| Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos))
}
