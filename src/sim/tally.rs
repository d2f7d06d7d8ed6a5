//! What is counted while time goes by.

use super::histogram::Histogram;
use super::report::{Counts, Report, WaitReport};
use crate::domain::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Job sizes that are told apart, by GPUs: name, least, most.
const CLASSES: [(&str, u64, u64); 6] =
    [("0", 0, 0), ("1", 1, 1), ("2-7", 2, 7), ("8", 8, 8), ("9-63", 9, 63), ("64+", 64, u64::MAX)];

/// GPUs in a state, by time.
#[derive(Debug, Default)]
struct Integral {
    now: u64,
    since: Timestamp,
    /// GPU-nanoseconds.
    sum: u128,
}

impl Integral {
    fn until(&mut self, now: Timestamp) {
        self.sum += u128::from(self.now) * now.since(self.since).as_nanos();
        self.since = now;
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: Counts,
    /// How often each waiting time, in milliseconds, was seen: exact, and of few different values in traces of whole seconds.
    waits: [BTreeMap<u64, u64>; CLASSES.len()],
    running: Integral,
    promised: Integral,
    /// Tasks that hold their places.
    promises: u64,
    first: Option<Timestamp>,
    last_submitted: Timestamp,
    running_at_last: u128,
    last: Timestamp,
    /// Of passes that placed something, for each gang placed; and of all passes. Nanoseconds of this machine.
    pub(super) placing: Histogram,
    pub(super) passing: Histogram,
    pub(super) passing_ns: u128,
}

impl Tally {
    pub(super) fn submitted(&mut self, now: Timestamp, tasks: u32) {
        self.counts.jobs += 1;
        self.counts.tasks += u64::from(tasks);
        self.first.get_or_insert(now);
        self.running.until(now);
        self.last_submitted = now;
        self.running_at_last = self.running.sum;
    }

    /// A job's tasks run for the first time; it waited so long for its place.
    pub(super) fn started(&mut self, gpus: u64, waited: Duration) {
        let class = CLASSES.iter().position(|(_, least, most)| (*least..=*most).contains(&gpus)).unwrap_or(0);
        *self.waits[class].entry(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX)).or_default() += 1;
    }

    pub(super) fn running(&mut self, now: Timestamp, more: u64, fewer: u64) {
        self.running.until(now);
        self.running.now = (self.running.now + more).saturating_sub(fewer);
        self.last = self.last.max(now);
    }

    /// A gang of so many tasks got its places.
    pub(super) fn placed(&mut self, now: Timestamp, tasks: u64, gpus: u64) {
        self.counts.tasks_placed += tasks;
        self.promises += tasks;
        self.promised.until(now);
        self.promised.now += gpus;
    }

    /// A task's place is free again.
    pub(super) fn given_back(&mut self, now: Timestamp, gpus: u64) {
        self.promises = self.promises.saturating_sub(1);
        self.promised.until(now);
        self.promised.now = self.promised.now.saturating_sub(gpus);
        self.last = self.last.max(now);
    }

    /// Nothing is promised to anybody.
    pub(super) fn is_idle(&self) -> bool {
        self.promises == 0
    }

    pub(super) fn ended(&mut self, now: Timestamp) {
        self.last = self.last.max(now);
    }

    /// The outcome so far, for a cluster of so many GPUs.
    pub(super) fn report(&mut self, now: Timestamp, gpus: u64) -> Report {
        let end = if self.counts.unfinished() > 0 { now } else { self.last };
        self.running.until(end);
        self.promised.until(end);
        let first = self.first.unwrap_or(end);
        let part = |sum: u128, span: Duration| {
            let all = u128::from(gpus) * span.as_nanos();
            (all > 0).then(|| sum as f64 / all as f64)
        };
        let arriving = self.last_submitted.since(first);
        let mut all: BTreeMap<u64, u64> = BTreeMap::new();
        for (wait, jobs) in self.waits.iter().flatten() {
            *all.entry(*wait).or_default() += jobs;
        }
        let classes = CLASSES.iter().zip(&self.waits).map(|((name, ..), waits)| WaitReport::of(name, waits));
        let waits = std::iter::once(WaitReport::of("all", &all)).chain(classes).collect();
        Report {
            counts: self.counts.clone(),
            gpu_utilisation: part(self.running.sum, end.since(first)),
            gpu_utilisation_while_submitting: part(self.running_at_last, arriving),
            gpu_allocation: part(self.promised.sum, end.since(first)),
            makespan_s: end.since(first).as_secs_f64(),
            waits,
        }
    }
}
