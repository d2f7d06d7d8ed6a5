//! What the scheduler needs between two passes, and what it found out. All of it follows from the state, so nothing of
//! it is stored.

use super::possible::Possible;
use super::state::QueueKey;
use crate::domain::ids::JobId;
use crate::scheduler::quota::OverQuota;
use crate::scheduler::{Quotas, Snapshot};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is promised, as the scheduler counts it.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub(super) snapshot: Snapshot,
    pub(super) quotas: Quotas,
}

/// What the last pass that looked at a job found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    NoRoom { reserved: bool, behind: Option<JobId> },
    OverQuota(OverQuota),
}

#[derive(Debug, Default)]
pub(super) struct Placing {
    /// None when the nodes have changed.
    pub(super) books: Option<Books>,
    /// The queue by virtual cluster; none of them is empty.
    pub(super) queues: BTreeMap<String, BTreeSet<QueueKey>>,
    /// Of jobs that wait.
    pub(super) found: HashMap<JobId, Found>,
    /// Jobs that could never run, or only in a way that their users should know of.
    pub(super) doubts: HashMap<JobId, super::possible::Doubt>,
    pub(super) possible: Possible,
}

impl Placing {
    pub(super) fn waits(&mut self, cluster: &str, key: QueueKey) {
        match self.queues.get_mut(cluster) {
            Some(queue) => drop(queue.insert(key)),
            None => drop(self.queues.insert(cluster.to_owned(), BTreeSet::from([key]))),
        }
    }

    pub(super) fn waits_no_more(&mut self, cluster: &str, key: QueueKey, job: JobId) {
        self.found.remove(&job);
        self.doubts.remove(&job);
        if let Some(queue) = self.queues.get_mut(cluster) {
            queue.remove(&key);
            if queue.is_empty() {
                self.queues.remove(cluster);
            }
        }
    }

    /// What nodes have was changed, not only whether they can be reached: what could never run may be possible now.
    pub(super) fn capacity_changed(&mut self) {
        self.possible.forget();
    }

    /// What `take` makes of waiting runs in the order of their turns, of each virtual cluster as many as `most`: a long
    /// queue in one does not hide what waits in another.
    pub(super) fn in_order<T>(&self, most: usize, mut take: impl FnMut(QueueKey) -> Option<T>) -> Vec<T> {
        let mut queues: Vec<_> = self.queues.values().map(|queue| (queue.iter(), most)).collect();
        let mut heads = BTreeSet::new();
        for (at, (queue, _)) in queues.iter_mut().enumerate() {
            heads.extend(queue.next().map(|key| (*key, at)));
        }
        let mut taken = Vec::new();
        while let Some((key, at)) = heads.pop_first() {
            let (queue, left) = &mut queues[at];
            if let Some(what) = take(key) {
                taken.push(what);
                *left -= 1;
            }
            if *left > 0 {
                heads.extend(queue.next().map(|key| (*key, at)));
            }
        }
        taken
    }
}
