//! What the actor answers about itself: to callers, and to the reporter.

use super::actor::Actor;
use super::journal;
use super::message::TaskAccess;
use crate::api::agent::NodeInfo;
use crate::domain::command::{Error, ErrorKind, Heartbeat, Registered, Registration, SequencedStatus};
use crate::domain::gpu::Gpu;
use crate::domain::ids::TaskId;
use crate::domain::level::Level;
use crate::domain::task::TaskStatus;
use crate::domain::view::{GpuHolder, GpuView};
use std::ops::Bound;
use std::time::Duration;
use tracing::info;

/// Tasks whose progress one heartbeat tells: it must stay small.
const MAX_PROGRESS_TOLD: usize = 256;
/// It is journalled; a value that the store refuses would stop every write.
const MAX_CLUSTER_ID_BYTES: usize = 1024;

impl Actor {
    /// Tasks after `after`, and whether there are more. Tombstones are left out: nothing of them is here, and a
    /// controller that saw them in a full list would release them again at every reconciliation. What is missing from a
    /// list is gone: there is none as long as that is not known of a task.
    pub(super) fn list(&self, after: Option<TaskId>, limit: usize) -> Result<(Vec<TaskStatus>, bool), Error> {
        if let Some((id, why)) = self.unread.first_key_value() {
            let count = self.unread.len();
            let message = format!(
                "list tasks: of {count} tasks of this node the records cannot be read, the first is {id} ({why})"
            );
            return Err(Error { retry_after_ms: Some(5000), ..Error::unavailable(message) });
        }
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut tasks = self
            .entries
            .range((start, Bound::Unbounded))
            .filter(|(_, entry)| !entry.record.released)
            .map(|(_, entry)| entry.status());
        let page: Vec<_> = tasks.by_ref().take(limit).collect();
        let more = tasks.next().is_some();
        Ok((page, more))
    }

    /// Nothing of a purged task can be read.
    pub(super) fn access(&self, id: TaskId) -> Option<TaskAccess> {
        self.entries.get(&id).filter(|entry| !entry.purged && !entry.record.is_unknown()).map(|entry| entry.access())
    }

    pub(super) fn node_info(&self) -> NodeInfo {
        NodeInfo {
            name: self.facts.name.clone(),
            node_uid: self.facts.identity.node_uid.clone(),
            journal_id: self.facts.identity.journal_id.clone(),
            version: self.facts.version.clone(),
            inventory: self.inventory.clone(),
            gpus: self.inventory.gpus.iter().map(|gpu| self.gpu_view(gpu)).collect(),
            term: self.term,
        }
    }

    fn gpu_view(&self, gpu: &Gpu) -> GpuView {
        let holder = self.ledger.holder_of_gpu(&gpu.uuid).map(|task| self.holder(task));
        let sample = self.samples.get(&gpu.uuid).cloned().unwrap_or_default();
        let condition = self.inventory.gpu_conditions.iter().find(|condition| condition.gpu == gpu.uuid);
        let faults = self.faults_of(gpu.mig_parent.as_ref().unwrap_or(&gpu.uuid));
        GpuView { faults, ..GpuView::of(&self.facts.name.0, gpu, &sample, condition, holder) }
    }

    fn holder(&self, task: TaskId) -> GpuHolder {
        let record = self.entries.get(&task).map(|entry| &entry.record);
        let spec = record.and_then(|record| record.spec.as_ref());
        GpuHolder {
            task: task.to_string(),
            job: spec.map(|spec| spec.job_name.clone()),
            user: spec.map(|spec| spec.user.clone()),
            since: record.and_then(|record| record.started_at),
        }
    }

    pub(super) fn registration(&self) -> Registration {
        Registration {
            name: self.facts.name.clone(),
            node_uid: self.facts.identity.node_uid.clone(),
            journal_id: self.facts.identity.journal_id.clone(),
            address: self.facts.address.clone(),
            task_ip: self.facts.task_ip.clone(),
            version: self.facts.version.clone(),
            inventory: self.inventory.clone(),
            cluster_id: self.cluster_id.clone().unwrap_or_default(),
            term: self.term,
            level: Level::own(),
        }
    }

    /// The controller accepted this node. Is it ours?
    pub(super) fn registered(&mut self, registered: Registered) -> Result<(), Error> {
        let Registered { cluster_id, term, level, .. } = registered;
        level.check_peer("the controller")?;
        if cluster_id.len() > MAX_CLUSTER_ID_BYTES {
            let found = cluster_id.len();
            let message =
                format!("the controller's cluster id has {found} bytes, {MAX_CLUSTER_ID_BYTES} are allowed");
            return Err(Error::refused(message));
        }
        if let Some(ours) = self.cluster_id.as_ref().filter(|ours| **ours != cluster_id) {
            let message = format!("the controller is of cluster '{cluster_id}', this node belongs to '{ours}'");
            return Err(Error::refused(message));
        }
        if term < self.term {
            let message = format!("the controller's term {term} is outdated, {} was seen here", self.term);
            return Err(Error::new(ErrorKind::Stale, message));
        }
        if self.cluster_id.is_none() {
            info!(node = %self.facts.name, cluster = cluster_id, "this node belongs to the cluster from now on");
            self.writer.set_meta(journal::CLUSTER_ID, cluster_id.clone());
            self.cluster_id = Some(cluster_id);
        }
        let another = term > self.term;
        if another {
            self.term = term;
            self.writer.set_meta(journal::TERM, term.to_string());
        }
        // Another leader, a restored store, or one that has forgotten this node: it may lack anything.
        if std::mem::replace(&mut self.registered_before, true) || another {
            self.report_everything_again();
        }
        Ok(())
    }

    fn report_everything_again(&mut self) {
        self.acknowledged = 0;
        self.writer.set_meta(journal::ACKNOWLEDGED, "0".to_owned());
        let published = self.entries.iter().filter(|(_, entry)| entry.published > 0);
        self.unreported = published.map(|(id, entry)| (entry.published, *id)).collect();
        self.hint.send_modify(|_| {});
    }

    pub(super) fn heartbeat(&mut self) -> Heartbeat {
        let (faults_version, faults) = self.faults_to_tell();
        Heartbeat {
            node_uid: self.facts.identity.node_uid.clone(),
            journal_id: self.facts.identity.journal_id.clone(),
            samples: self.samples.iter().map(|(uuid, sample)| (uuid.clone(), sample.clone())).collect(),
            progress: self.progress(),
            faults_version,
            faults,
            going_out: self.going_out(),
        }
    }

    fn progress(&self) -> Vec<(TaskId, String)> {
        let told = self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.progress.clone()?)));
        told.take(MAX_PROGRESS_TOLD).collect()
    }

    pub(super) fn unreported(&self, limit: usize) -> Vec<SequencedStatus> {
        let newest = self.unreported.iter().take(limit).filter_map(|(sequence, id)| {
            let assigned = self.entries.get(id)?.told.clone()?;
            (assigned.sequence == *sequence).then_some(assigned)
        });
        newest.collect()
    }

    pub(super) fn acknowledge(&mut self, up_to: u64) {
        if up_to <= self.acknowledged {
            return;
        }
        self.acknowledged = up_to;
        self.unreported = self.unreported.split_off(&(up_to + 1));
        self.writer.set_meta(journal::ACKNOWLEDGED, up_to.to_string());
    }

    pub(super) fn is_acknowledged(&self, sequence: u64) -> bool {
        self.standalone || sequence <= self.acknowledged
    }

    pub(super) fn renew_leases(&mut self, sent_boottime: Duration) {
        for (id, entry) in &mut self.entries {
            let leased = entry.record.spec.as_ref().is_some_and(|spec| spec.lease_s.is_some());
            let alive = entry.record.launched && !entry.record.state.is_terminal() && !entry.is_adopting();
            // One at a time: a newer heartbeat renews for longer, but piling calls up on a hung shim helps nobody.
            if leased && alive && !std::mem::replace(&mut entry.renewing_lease, true) {
                self.executor.renew_lease(*id, sent_boottime);
            }
        }
    }
}
