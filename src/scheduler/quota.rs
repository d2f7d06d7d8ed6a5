//! What a virtual cluster's runs may hold together.
//!
//! A run counts from its placement until each of its tasks has really been let go of, left-overs of rolled back
//! placements included: what is counted here is what the snapshot has promised.

use crate::domain::ids::JobId;
use std::collections::{BTreeMap, HashMap};

/// The virtual cluster of jobs that name none. It always exists, without limits unless it is given some.
pub const DEFAULT_CLUSTER: &str = "default";

/// Verdicts about jobs that are remembered; beyond that they are found anew.
const REMEMBERED: usize = 1024;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Gpus,
    Cpus,
    MemoryMb,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Gpus, Self::Cpus, Self::MemoryMb];

    /// For people, after a number.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Gpus => "GPUs",
            Self::Cpus => "CPUs",
            Self::MemoryMb => "MB of memory",
        }
    }
}

/// Resources of several tasks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    pub gpus: u64,
    pub cpus: u64,
    pub memory_mb: u64,
}

impl Amount {
    pub const fn of(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Gpus => self.gpus,
            Resource::Cpus => self.cpus,
            Resource::MemoryMb => self.memory_mb,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    pub fn times(self, count: u32) -> Self {
        self.zip(Self { gpus: count.into(), cpus: count.into(), memory_mb: count.into() }, u64::saturating_mul)
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            gpus: with(self.gpus, other.gpus),
            cpus: with(self.cpus, other.cpus),
            memory_mb: with(self.memory_mb, other.memory_mb),
        }
    }
}

/// The quota of one virtual cluster; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    pub gpus: Option<u64>,
    pub cpus: Option<u64>,
    pub memory_mb: Option<u64>,
}

impl Limits {
    /// Of a name that no longer is a virtual cluster: jobs of it that still wait get nothing.
    const CLOSED: Self = Self { gpus: Some(0), cpus: Some(0), memory_mb: Some(0) };

    pub const fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Gpus => self.gpus,
            Resource::Cpus => self.cpus,
            Resource::MemoryMb => self.memory_mb,
        }
    }

    /// What is too much, first of all resources.
    fn exceeded(&self, need: &Amount, used: Amount, kept: Amount) -> Option<OverQuota> {
        let over = |resource: Resource| {
            let (need, used, kept) = (need.of(resource), used.of(resource), kept.of(resource));
            let limit = self.of(resource).filter(|_| need > 0)?;
            let sum = used.saturating_add(kept).saturating_add(need);
            (sum > limit).then_some(OverQuota { resource, need, used, kept, limit })
        };
        Resource::ALL.into_iter().find_map(over)
    }
}

/// What a job lacks of its virtual cluster's quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    pub resource: Resource,
    pub need: u64,
    /// Held or promised.
    pub used: u64,
    /// Kept for jobs of the cluster that are ahead in the queue.
    pub kept: u64,
    pub limit: u64,
}

/// The limits and what is used of them.
#[derive(Debug, Clone, Default)]
pub struct Quotas {
    limits: BTreeMap<String, Limits>,
    used: HashMap<String, Amount>,
    /// Whether the nodes could hold a job if nothing else ran; true as long as the nodes stay what they are.
    holdable: HashMap<JobId, bool>,
}

impl Quotas {
    /// Nothing is used yet.
    pub fn new(limits: &BTreeMap<String, Limits>) -> Self {
        Self { limits: limits.clone(), ..Self::default() }
    }

    /// None: nothing is counted.
    pub fn limits_of(&self, cluster: &str) -> Option<Limits> {
        if self.limits.is_empty() {
            return None;
        }
        let missing = || (cluster != DEFAULT_CLUSTER).then_some(Limits::CLOSED);
        self.limits.get(cluster).copied().or_else(missing).filter(|limits| *limits != Limits::default())
    }

    /// Whether the name is one of a virtual cluster.
    pub fn knows(&self, cluster: &str) -> bool {
        self.limits.is_empty() || cluster == DEFAULT_CLUSTER || self.limits.contains_key(cluster)
    }

    pub fn used(&self, cluster: &str) -> Amount {
        self.used.get(cluster).copied().unwrap_or_default()
    }

    /// What `need` is too much of, beside what is `kept` for others.
    pub fn over(&self, cluster: &str, need: &Amount, kept: Amount) -> Option<OverQuota> {
        self.limits_of(cluster)?.exceeded(need, self.used(cluster), kept)
    }

    /// What `need` is too much of even when nothing is used.
    pub fn over_alone(&self, cluster: &str, need: &Amount) -> Option<OverQuota> {
        self.limits_of(cluster)?.exceeded(need, Amount::default(), Amount::default())
    }

    pub fn hold(&mut self, cluster: &str, amount: &Amount) {
        if self.limits_of(cluster).is_some() {
            let used = self.used.entry(cluster.to_owned()).or_default();
            *used = used.plus(*amount);
        }
    }

    pub fn give_back(&mut self, cluster: &str, amount: &Amount) {
        if let Some(used) = self.used.get_mut(cluster) {
            *used = used.minus(*amount);
        }
    }

    /// Remembers what `find` finds out about a job.
    pub(super) fn holdable(&mut self, job: JobId, find: impl FnOnce() -> bool) -> bool {
        if self.holdable.len() >= REMEMBERED && !self.holdable.contains_key(&job) {
            self.holdable.clear();
        }
        *self.holdable.entry(job).or_insert_with(find)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(text: &[(&str, Limits)]) -> Quotas {
        Quotas::new(&text.iter().map(|(name, limits)| ((*name).to_owned(), *limits)).collect())
    }

    fn need(gpus: u64, cpus: u64) -> Amount {
        Amount { gpus, cpus, memory_mb: 0 }
    }

    #[test]
    fn without_virtual_clusters_nothing_is_limited() {
        let none = Quotas::default();
        assert!(none.knows("any") && none.over("any", &need(u64::MAX, u64::MAX), need(1, 1)).is_none());
    }

    #[test]
    fn names_that_are_not_configured_get_nothing_but_default_gets_all() {
        let some = quotas(&[("a", Limits { gpus: Some(8), ..Limits::default() })]);
        assert!(some.knows("a") && some.knows("default") && !some.knows("b"));
        assert!(some.over("default", &need(100, 100), Amount::default()).is_none());
        let over = some.over_alone("b", &need(0, 1)).unwrap();
        assert_eq!((over.resource, over.need, over.limit), (Resource::Cpus, 1, 0));
    }

    #[test]
    fn what_is_held_and_kept_counts_until_it_is_given_back() {
        let mut some = quotas(&[("a", Limits { gpus: Some(8), cpus: Some(10), ..Limits::default() })]);
        some.hold("a", &need(4, 4));
        some.hold("other", &need(4, 4));
        assert_eq!((some.used("a"), some.used("other")), (need(4, 4), need(4, 4)));
        assert!(some.over("a", &need(4, 6), Amount::default()).is_none());
        let over = some.over("a", &need(4, 6), need(1, 0)).unwrap();
        assert_eq!(over, OverQuota { resource: Resource::Gpus, need: 4, used: 4, kept: 1, limit: 8 });
        assert!(some.over("a", &need(0, 6), need(9, 0)).is_none(), "what is not asked for is not lacking");
        some.give_back("a", &need(4, 4));
        assert!(some.over("a", &need(8, 10), Amount::default()).is_none());
        assert_eq!(some.over_alone("a", &need(1, 11)).unwrap().resource, Resource::Cpus);
        some.give_back("a", &need(4, 4));
        assert_eq!(some.used("a"), need(0, 0), "never below nothing");
    }
}
