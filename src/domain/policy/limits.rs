//! What one user's tasks may hold together on a node.

use crate::domain::allocation::Claim;
use serde::{Deserialize, Serialize};

/// `policy.per_user`; what is not set is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<u32>,
}

/// A limit that a claim would exceed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// The key of the rule.
    pub rule: &'static str,
    pub need: u64,
    /// By the user's other tasks.
    pub held: u64,
    pub allowed: u64,
}

impl UserLimits {
    /// The first limit that `claim` would exceed beside what its user holds already.
    pub fn first_over<'a>(&self, claim: &Claim, held: impl Iterator<Item = &'a Claim> + Clone) -> Option<OverLimit> {
        type Amount = fn(&Claim) -> u64;
        let rules: [(&'static str, Option<u64>, Amount); 5] = [
            ("policy.per_user.cpus", self.cpus.map(u64::from), |claim| claim.cpus.into()),
            ("policy.per_user.memory_mb", self.memory_mb, |claim| claim.memory_mb),
            ("policy.per_user.shm_mb", self.shm_mb, |claim| claim.shm_mb),
            ("policy.per_user.gpus", self.gpus.map(u64::from), |claim| claim.gpus.len() as u64),
            ("policy.per_user.ports", self.ports.map(u64::from), |claim| claim.ports.len() as u64),
        ];
        rules.into_iter().find_map(|(rule, allowed, amount)| {
            let (allowed, need) = (allowed?, amount(claim));
            let held = held.clone().map(amount).fold(0, u64::saturating_add);
            (need > 0 && need.saturating_add(held) > allowed).then_some(OverLimit { rule, need, held, allowed })
        })
    }
}
