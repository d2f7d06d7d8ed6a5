//! Waiting for conditions. A deadline is for a machine that is busy with other things: it is far longer than
//! anything takes, and its end is a failure.

use std::time::{Duration, Instant};

/// Longest wait for one thing.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until there is an answer, and fails with what was waited for.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, ask)
}

/// The same for what takes long even on an idle machine.
#[track_caller]
pub fn until_within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", patience.as_secs());
        pause(Duration::from_millis(15));
    }
}

/// Between two looks at a condition.
#[allow(clippy::disallowed_methods, reason = "a test's own thread, which has nothing else to do")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
