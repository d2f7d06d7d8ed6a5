//! The cluster's own wishes, as its operator configured them.

use super::quota::Limits;
use crate::domain::placement::Arrangement;
use std::collections::BTreeMap;

/// What a free GPU keeps of its node by default, in percent of its even share.
pub const KEPT_FOR_GPUS_PERCENT: u8 = 50;

/// Rules that hold for every job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// For jobs that do not choose.
    pub arrangement: Arrangement,
    /// Jobs without GPUs leave every free GPU of a node this part of its even share of the node's CPUs and memory, 0
    /// to 100. The whole share would keep them off idle GPU nodes for good, so it is a part.
    pub kept_for_gpus_percent: u8,
    /// Quotas by virtual cluster. Without any, every name is accepted and none has a limit.
    pub clusters: BTreeMap<String, Limits>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            arrangement: Arrangement::Pack,
            kept_for_gpus_percent: KEPT_FOR_GPUS_PERCENT,
            clusters: BTreeMap::new(),
        }
    }
}
