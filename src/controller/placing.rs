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
    /// queue in one does not hide what waits in another. Of all together at most `all`, as anybody may make up names.
    pub(super) fn in_order<T>(&self, all: usize, most: usize, mut take: impl FnMut(QueueKey) -> Option<T>) -> Vec<T> {
        let mut queues: Vec<_> = self.queues.values().map(|queue| (queue.iter(), most)).collect();
        let mut heads = BTreeSet::new();
        for (at, (queue, _)) in queues.iter_mut().enumerate() {
            heads.extend(queue.next().map(|key| (*key, at)));
        }
        let mut taken = Vec::new();
        while taken.len() < all
            && let Some((key, at)) = heads.pop_first()
        {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::RunId;
    use crate::domain::time::Timestamp;
    use std::cmp::Reverse;

    fn key(priority: i32, id: u64) -> QueueKey {
        (Reverse(priority), Timestamp(i64::try_from(id).unwrap()), RunId(id))
    }

    fn ids(placing: &Placing, most: usize, take: impl Fn(u64) -> bool) -> Vec<u64> {
        placing.in_order(1000, most, |(_, _, id)| take(id.0).then_some(id.0))
    }

    #[test]
    fn a_long_queue_in_one_virtual_cluster_hides_no_other() {
        let mut placing = Placing::default();
        (1..=1000).for_each(|id| placing.waits("flood", key(0, id)));
        placing.waits("other", key(0, 2000));
        placing.waits("other", key(7, 3000));
        assert_eq!(ids(&placing, 3, |_| true), [3000, 1, 2, 3, 2000]);
        assert_eq!(ids(&placing, 2, |id| id > 500), [3000, 501, 502, 2000], "who is passed over does not count");
        assert_eq!(placing.in_order(2, 100, Some).len(), 2);
        placing.waits_no_more("other", key(7, 3000), JobId(1));
        placing.waits_no_more("other", key(0, 2000), JobId(1));
        assert_eq!(
            (ids(&placing, 1, |_| true), placing.queues.len()),
            (vec![1], 1),
            "nothing is left of an empty queue"
        );
    }
}
