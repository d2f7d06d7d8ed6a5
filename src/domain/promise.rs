//! What the controller promises to one task on one node, from placement until release.
//!
//! The counterpart of [`super::allocation::Ledger`]: an agent may veto a promise. Who is promised what follows from
//! the runs; the scheduler's snapshot sums it up.

use super::allocation::Claim;
use super::ids::{Generation, JobId, NodeName};
use serde::{Deserialize, Serialize};

/// Resources of one node for one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub generation: Generation,
    pub node: NodeName,
    /// The address that tasks of other nodes connect to: one port space.
    pub host: String,
    pub claim: Claim,
    /// The job that waited ahead in the queue when this was promised, and was to find its place beside it.
    #[serde(default)]
    pub passed: Option<JobId>,
}
