//! What goes wrong, from the seed. With a rate of R:
//!
//! - a task fails with probability R, at any time of its duration: half of them by their own doing, a quarter each by
//!   the platform's and by hardware's. Jobs with an even id have `retryCount` 3, the others 0;
//! - an agent vetoes a prepare with probability R;
//! - a node goes down R times a day on average, is missed 30 s later, and comes back after 5 to 60 minutes with
//!   nothing of what was on it.

use super::chance::Chance;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::TaskId;
use crate::domain::run::Run;
use std::time::Duration;

/// Silence after which the controller counts a node as unreachable.
pub(super) const MISSED_AFTER: Duration = Duration::from_secs(30);
const DAY_S: f64 = 86_400.0;

/// Purposes, so that one chance has nothing to do with another.
const TASK: u64 = 1;
const VETO: u64 = 2;
const NODE: u64 = 3;

#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    pub(super) seed: u64,
    pub(super) rate: f64,
}

impl Faults {
    pub(super) fn retry_count(self, job: u64) -> i64 {
        if self.rate > 0.0 && job.is_multiple_of(2) { 3 } else { 0 }
    }

    /// When, as a part of its duration, and how a task of this attempt fails, if it does.
    pub(super) fn of_task(self, run: &Run, task: TaskId) -> Option<(f64, Exit)> {
        let mut chance = self.chance(TASK, run, task)?;
        if !chance.happens(self.rate) {
            return None;
        }
        let kinds = [
            ((ExitClass::User, Some(1), "the command ended with status 1"), 2.0),
            ((ExitClass::Platform, None, "scripted: the platform ended it"), 1.0),
            ((ExitClass::Hardware, None, "scripted: a GPU failed"), 1.0),
        ];
        let (class, code, why) = chance.weighted(&kinds)?;
        Some((chance.uniform(), Exit { code, ..Exit::without_status(class, why) }))
    }

    pub(super) fn vetoes(self, run: &Run, task: TaskId) -> bool {
        self.chance(VETO, run, task).is_some_and(|mut chance| chance.happens(self.rate))
    }

    fn chance(self, purpose: u64, run: &Run, task: TaskId) -> Option<Chance> {
        let at = u64::from(task.role) << 32 | u64::from(task.index);
        let key = [self.seed, purpose, task.job.0, u64::from(run.attempt), u64::from(run.rollbacks), at];
        (self.rate > 0.0).then(|| Chance::of(&key))
    }

    /// After what time a node goes down for the nth time, and for how long.
    pub(super) fn of_node(self, node: usize, nth: u64) -> Option<(Duration, Duration)> {
        if self.rate <= 0.0 {
            return None;
        }
        let mut chance = Chance::of(&[self.seed, NODE, node as u64, nth]);
        let up = chance.exponential(DAY_S / self.rate).clamp(1.0, 1e9);
        let down = 300.0 + chance.uniform() * 3300.0;
        Some((Duration::from_secs(up as u64), Duration::from_secs(down as u64)))
    }
}
