//! Jobs that wait for their turn, in order; a pass looks at the first [`LOOK_AHEAD`], as the controller does.

use crate::domain::ids::JobId;
use crate::domain::time::Timestamp;
use crate::scheduler::Waiting;
use crate::scheduler::queue::LOOK_AHEAD;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The order of turns; see [`crate::scheduler::queue::sort`].
type Key = (Reverse<i32>, Timestamp, JobId);

fn key(waiting: &Waiting) -> Key {
    (Reverse(waiting.priority), waiting.submitted_at, waiting.job)
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// In order, all before those behind.
    first: Vec<Waiting>,
    behind: BTreeMap<Key, Waiting>,
}

impl Queue {
    pub(super) fn first(&self) -> &[Waiting] {
        &self.first
    }

    pub(super) fn len(&self) -> usize {
        self.first.len() + self.behind.len()
    }

    /// Adds a job, or replaces what was said of it.
    pub(super) fn insert(&mut self, waiting: Waiting) {
        let key_of = key(&waiting);
        let at = self.first.partition_point(|other| key(other) < key_of);
        if let Some(known) = self.first.get_mut(at).filter(|known| known.job == waiting.job) {
            *known = waiting;
        } else if at == self.first.len() && (at == LOOK_AHEAD || !self.behind.is_empty()) {
            self.behind.insert(key_of, waiting);
        } else {
            self.first.insert(at, waiting);
            if self.first.len() > LOOK_AHEAD
                && let Some(last) = self.first.pop()
            {
                self.behind.insert(key(&last), last);
            }
        }
    }

    /// Takes out those that got their places, and lets others move up.
    pub(super) fn remove(&mut self, mut is_placed: impl FnMut(JobId) -> bool) {
        self.first.retain(|waiting| !is_placed(waiting.job));
        while self.first.len() < LOOK_AHEAD
            && let Some((_, next)) = self.behind.pop_first()
        {
            self.first.push(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Request;

    fn waiting(job: u64, priority: i32) -> Waiting {
        Waiting {
            job: JobId(job),
            priority,
            submitted_at: Timestamp(0),
            not_before: None,
            request: Request::default(),
        }
    }

    #[test]
    fn a_pass_sees_the_first_whoever_comes_and_goes() {
        let mut queue = Queue::default();
        let all = LOOK_AHEAD as u64 + 100;
        // Every other first, then those between: none may be lost or out of order.
        (1..=all).filter(|job| job % 2 == 0).for_each(|job| queue.insert(waiting(job, 0)));
        (1..=all).filter(|job| job % 2 == 1).for_each(|job| queue.insert(waiting(job, 0)));
        queue.insert(waiting(all, 0));
        assert_eq!(queue.len() as u64, all);
        let expected: Vec<u64> = (1..=LOOK_AHEAD as u64).collect();
        assert_eq!(queue.first().iter().map(|waiting| waiting.job.0).collect::<Vec<_>>(), expected);
        queue.insert(waiting(all + 1, 9));
        assert_eq!(queue.first()[0].job.0, all + 1);
        queue.remove(|job| job.0 > 50);
        assert_eq!(
            queue.first().iter().map(|waiting| waiting.job.0).take(52).collect::<Vec<_>>()[49..],
            [50, 2000, 2001]
        );
        assert_eq!(queue.len(), 50 + 101);
    }
}
