//! Whether a job could ever run: on all nodes that are known, ready and empty, within its virtual cluster's quota.
//!
//! The answer changes only with the nodes and the limits, not with what runs, so one empty cluster serves every question
//! until the nodes change.

use super::explain::reasons;
use super::place::could_place;
use super::quota::{OverQuota, Quotas};
use super::request::Request;
use super::reservation::could_hold;
use super::snapshot::Snapshot;
use crate::domain::view::ExplainedReason;

/// What could become of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Feasibility {
    Possible,
    /// Not on idle nodes, because of what free GPUs keep from jobs without GPUs; only while other jobs use those GPUs and
    /// leave CPUs and memory.
    BesideGpuJobs,
    /// It asks for more than its virtual cluster may ever hold.
    OverQuota(OverQuota),
    /// No node or set of nodes could hold it: one reason for the whole, then one for each node.
    NoNodes(Vec<ExplainedReason>),
}

/// All nodes, with nothing on them.
#[derive(Debug)]
pub struct EmptyCluster(Snapshot);

impl EmptyCluster {
    /// The nodes of a snapshot, whatever their state; what is faulty stays so.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self(snapshot.emptied(true))
    }

    /// Whether the job could run here.
    pub fn judge(&mut self, request: &Request, quotas: &Quotas) -> Feasibility {
        if let Some(over) = quotas.over_alone(&request.virtual_cluster, &request.total()) {
            return Feasibility::OverQuota(over);
        }
        let request = request.later();
        let Err(unplaced) = self.holds(&request) else { return Feasibility::Possible };
        let unbound = Request { kept_for_gpus_percent: 0, ..request.clone().into_owned() };
        if request.keeps_for_gpus().is_some() && self.holds(&unbound).is_ok() {
            return Feasibility::BesideGpuJobs;
        }
        Feasibility::NoNodes(reasons(&self.0, &unbound, &unplaced))
    }

    fn holds(&mut self, request: &Request) -> Result<(), super::Unplaced> {
        match could_place(&mut self.0, request) {
            Err(unplaced) if !could_hold(&mut self.0, request) => Err(unplaced),
            _ => Ok(()),
        }
    }
}
