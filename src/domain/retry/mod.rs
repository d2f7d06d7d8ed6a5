//! Whether a job gets another run, and when: OpenPAI's `retryCount` against how the last run ended.
//!
//! 1. An end is looked up in [`table::TABLE`]: whose doing it was, what it is counted under, which back-off it gets.
//! 2. [`decide`] holds that against `retryCount` and what was used up.
//! 3. A gang that is given back before its launch has rows in the same table; [`wait`] says when it is placed again.

pub mod table;

pub use table::{BackOff, Counter, Reaction, Row, Setback, row_before, row_of};

use super::exit::Exit;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a job was run again, by reason. Only `counted` is held against `retryCount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Retries {
    /// After failures of the job's own.
    pub counted: u64,
    /// After failures of the platform.
    pub platform: u64,
    /// After hardware faults.
    pub hardware: u64,
    /// After ends with which the job asked for it.
    #[serde(default)]
    pub asked: u64,
}

impl Retries {
    fn of(&mut self, counter: Counter) -> &mut u64 {
        match counter {
            Counter::User => &mut self.counted,
            Counter::Asked => &mut self.asked,
            Counter::Platform => &mut self.platform,
            Counter::Hardware => &mut self.hardware,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The job has ended.
    End,
    /// Another run, not before `delay` has passed.
    Retry { delay: Duration, retries: Retries, why: String },
}

/// Hardware faults that a job may be restarted after, unless the cluster says otherwise.
pub const HARDWARE_RESTARTS: u64 = 5;

/// How often a job may be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// The job's own, of OpenPAI's meaning.
    pub retry_count: i64,
    /// The cluster's, after hardware faults.
    pub hardware_restarts: u64,
}

impl From<i64> for Allowance {
    fn from(retry_count: i64) -> Self {
        Self { retry_count, hardware_restarts: HARDWARE_RESTARTS }
    }
}

/// No back-off is longer.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(3600);
/// Times in a row that nothing waits after a conflict of ports: more would keep a controller busy with nothing else.
const AT_ONCE: u64 = 16;
/// Times in a row after which a gang that is late makes room for others.
const QUICK_CONFLICTS: u64 = 2;
/// OpenPAI's range of conflict back-offs.
const CONFLICT_S: (u64, u64) = (600, 3600);
/// Conflicts until the whole of that range is used.
const CONFLICT_STEPS: u64 = 6;

/// Decides by the table of `retryCount`:
///
/// | end | -2 | -1 | 0 | N |
/// |---|---|---|---|---|
/// | succeeded | retry | end | end | end |
/// | unknown failure | retry | retry | end | retry while counted < N |
/// | transient | retry | retry | retry | retry, never counted |
/// | non-transient | retry | end | end | end |
/// | stopped | end | end | end | end |
///
/// Hardware faults are transient as often as the cluster allows. `chance` is in 0 to 1, for back-offs that leave something to it.
pub fn decide(allowance: impl Into<Allowance>, exit: &Exit, retries: Retries, chance: f64) -> Decision {
    let row = row_of(exit);
    if !is_allowed(allowance.into(), row, retries) {
        return Decision::End;
    }
    let mut after = retries;
    let counter = after.of(row.counter);
    *counter = counter.saturating_add(1);
    let nth = *counter;
    let delay = wait(row.back_off, nth, chance);
    let kind = row.counter.as_str();
    Decision::Retry { delay, retries: after, why: format!("{kind} retry {nth} after: {}", exit.reason) }
}

/// Whether an end of this row is followed by another run while nothing has been used up.
pub fn would_retry(row: &Row, retry_count: i64) -> bool {
    is_allowed(retry_count.into(), row, Retries::default())
}

/// What to tell of a job that ends because hardware faults have ended it too often.
pub fn given_up(allowance: Allowance, exit: &Exit, retries: Retries) -> Option<String> {
    let row = row_of(exit);
    let hardware = row.reaction == Reaction::Transient && row.counter == Counter::Hardware;
    let ends = hardware && !is_allowed(allowance, row, retries);
    let (used, limit) = (retries.hardware, allowance.hardware_restarts);
    ends.then(|| {
        format!(
            "not run again: it was restarted {used} times after hardware faults, and hardware_restarts allows {limit}"
        )
    })
}

fn is_allowed(allowance: Allowance, row: &Row, mut retries: Retries) -> bool {
    match (allowance.retry_count, row.reaction) {
        (_, Reaction::Final | Reaction::PlaceAgain) => false,
        (-2, _) => true,
        (_, Reaction::Succeeded | Reaction::NonTransient) => false,
        (_, Reaction::Transient) => {
            row.counter != Counter::Hardware || *retries.of(row.counter) < allowance.hardware_restarts
        }
        (-1, Reaction::Unknown) => true,
        (limit, Reaction::Unknown) => u64::try_from(limit).is_ok_and(|limit| retries.counted < limit),
    }
}

/// How long until the next try, which is the `nth` of its kind, from 1. `chance` is in 0 to 1.
pub fn wait(back_off: BackOff, nth: u64, chance: f64) -> Duration {
    match back_off {
        BackOff::None => Duration::ZERO,
        BackOff::AtOnce if nth <= AT_ONCE => Duration::ZERO,
        BackOff::AtOnce => doubling(nth - AT_ONCE, 60),
        BackOff::Short => doubling(nth, 60),
        BackOff::Growing => doubling(nth, 300),
        BackOff::Conflict if nth <= QUICK_CONFLICTS => doubling(nth, 60),
        BackOff::Conflict => {
            let (least, most) = CONFLICT_S;
            let steps = (nth - QUICK_CONFLICTS).min(CONFLICT_STEPS);
            let range = (most - least) * steps / CONFLICT_STEPS;
            let part = if chance.is_finite() { chance.clamp(0.0, 1.0) } else { 0.0 };
            Duration::from_secs(least) + Duration::from_secs(range).mul_f64(part)
        }
    }
}

/// 1 s, doubling up to `most_s`.
fn doubling(nth: u64, most_s: u64) -> Duration {
    let doublings = u32::try_from(nth.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    Duration::from_secs((1u64 << doublings).min(most_s))
}

#[cfg(test)]
mod tests;
