//! What a node's tasks hold, from the moment they are prepared until they are really gone.
//!
//! The controller promises, the agent's [`Ledger`] says what is held and may only veto. The ledger decides
//! nothing else: it neither chooses GPUs nor knows the state of a task. It lives in memory and is rebuilt with
//! [`Ledger::restore`] from the journalled records of tasks that hold.

use super::command::{Error, ErrorKind};
use super::gpu::Gpu;
use super::ids::{Generation, GpuUuid, TaskId};
use super::policy::{OverLimit, UserLimits};
use super::task::{Inventory, TaskSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What one task needs for itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Claim {
    pub gpus: Vec<GpuUuid>,
    pub ports: Vec<u16>,
    pub cpus: u32,
    /// Shared memory is part of it.
    pub memory_mb: u64,
    /// Whose it is, and how much shared memory, for the node's limits on each user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(default)]
    pub shm_mb: u64,
}

impl Claim {
    /// What the specification promises to the task.
    pub fn of(spec: &TaskSpec) -> Self {
        Self {
            gpus: spec.gpus.clone(),
            ports: spec.ports.iter().flat_map(|label| label.ports.iter().copied()).collect(),
            cpus: spec.cpus,
            memory_mb: spec.memory_mb,
            user: spec.user.clone(),
            shm_mb: spec.shm_mb,
        }
    }
}

/// A claim in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub generation: Generation,
    pub claim: Claim,
}

/// Why a claim cannot be held: what is missing, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Veto {
    #[error("GPU {gpu} is held by task {holder}")]
    Gpu { gpu: GpuUuid, holder: TaskId },
    #[error("GPU {gpu} shares silicon with {relative}, which task {holder} holds")]
    GpuRelative { gpu: GpuUuid, relative: GpuUuid, holder: TaskId },
    #[error("this node has no GPU {gpu}")]
    GpuUnknown { gpu: GpuUuid },
    #[error("GPU {gpu} is not available: {reason}")]
    GpuUnavailable { gpu: GpuUuid, reason: String },
    #[error("GPU {gpu} is claimed twice by one task, by itself or as a slice and its parent")]
    GpuTwice { gpu: GpuUuid },
    #[error("port {port} is held by task {holder}")]
    Port { port: u16, holder: TaskId },
    #[error("{need} CPUs are needed, {free} are free")]
    Cpus { need: u32, free: u32 },
    #[error("{need} MB of memory are needed, {free} are free")]
    MemoryMb { need: u64, free: u64 },
    #[error(
        "{rule} in {file} of this node: {need} are needed, user {user} holds {held} here already; allowed are {allowed}"
    )]
    PerUser { rule: &'static str, file: String, user: String, need: u64, held: u64, allowed: u64 },
    /// Not a matter of resources: the same decision arrived with another content.
    #[error("task {task} already holds something else in generation {generation}")]
    OtherClaim { task: TaskId, generation: Generation },
    #[error(
        "task {task} still holds what generation {held} was promised; generation {asked} must wait for its release"
    )]
    OtherGeneration { task: TaskId, held: Generation, asked: Generation },
}

impl From<Veto> for Error {
    fn from(veto: Veto) -> Self {
        let busy_ports = if let Veto::Port { port, .. } = veto { vec![port] } else { Vec::new() };
        let kind = match veto {
            Veto::OtherClaim { .. } => ErrorKind::AlreadyExists,
            Veto::OtherGeneration { .. } => ErrorKind::Refused,
            _ => ErrorKind::Exhausted,
        };
        Self { busy_ports, ..Self::new(kind, format!("prepare: {veto}")) }
    }
}

/// What is held on one node. Claims are the only truth: holders are looked up in them, so nothing can disagree.
/// A node has tens of tasks at most, so the walks are short.
#[derive(Debug, Clone)]
pub struct Ledger {
    cpus: u32,
    memory_mb: u64,
    gpus: BTreeSet<GpuUuid>,
    /// MIG slice to its device.
    parents: BTreeMap<GpuUuid, GpuUuid>,
    unavailable: BTreeMap<GpuUuid, String>,
    ports: RangeInclusive<u16>,
    claims: BTreeMap<TaskId, Held>,
    /// What the tasks of one user may hold together, and where that is set.
    per_user: UserLimits,
    limits_file: String,
}

impl Ledger {
    /// An empty ledger. `ports` are the node's ports for tasks; fixed ports of jobs may lie outside.
    pub fn new(cpus: u32, memory_mb: u64, gpus: &[GpuUuid], ports: RangeInclusive<u16>) -> Self {
        Self {
            cpus,
            memory_mb,
            gpus: gpus.iter().cloned().collect(),
            parents: BTreeMap::new(),
            unavailable: BTreeMap::new(),
            ports,
            claims: BTreeMap::new(),
            per_user: UserLimits::default(),
            limits_file: String::new(),
        }
    }

    /// An empty ledger of what an agent tells the controller it has, MIG slices and their parents included.
    pub fn of(inventory: &Inventory) -> Self {
        let (first, last) = inventory.ports;
        let mut ledger = Self::new(inventory.cpus, inventory.memory_mb, &[], first..=last);
        ledger.set_gpus(&inventory.gpus);
        ledger
    }

    /// Replaces the devices of the node, e.g. when the driver answers anew. Claims stay as they are.
    pub fn set_gpus(&mut self, gpus: &[Gpu]) {
        self.gpus = gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
        self.parents = gpus.iter().filter_map(|gpu| Some((gpu.uuid.clone(), gpu.mig_parent.clone()?))).collect();
    }

    /// Sets what the tasks of one user may hold together; `file` is where, for those who read a veto.
    pub fn limit_users(&mut self, per_user: UserLimits, file: impl Into<String>) {
        (self.per_user, self.limits_file) = (per_user, file.into());
    }

    /// Makes `slice` exclude its device and the device exclude `slice`.
    pub fn set_mig_parent(&mut self, slice: GpuUuid, parent: GpuUuid) {
        self.parents.insert(slice, parent);
    }

    /// Vetoes new claims of a GPU. Who holds it goes on holding it.
    pub fn mark_unavailable(&mut self, gpu: &GpuUuid, reason: impl Into<String>) {
        self.unavailable.insert(gpu.clone(), reason.into());
    }

    /// Undoes [`Ledger::mark_unavailable`]; false if it was available.
    pub fn mark_available(&mut self, gpu: &GpuUuid) -> bool {
        self.unavailable.remove(gpu).is_some()
    }

    pub fn unavailable(&self) -> &BTreeMap<GpuUuid, String> {
        &self.unavailable
    }

    /// Holds the whole claim or nothing. The same claim of the same task and generation again changes nothing.
    pub fn hold(&mut self, task: TaskId, generation: Generation, claim: Claim) -> Result<(), Veto> {
        if let Some(held) = self.claims.get(&task) {
            return match held {
                held if held.generation != generation => {
                    Err(Veto::OtherGeneration { task, held: held.generation, asked: generation })
                }
                held if held.claim != claim => Err(Veto::OtherClaim { task, generation }),
                _ => Ok(()),
            };
        }
        match self.first_veto(&claim) {
            Some(veto) => Err(veto),
            None => {
                self.claims.insert(task, Held { generation, claim });
                Ok(())
            }
        }
    }

    /// Records a claim that is known to be in force (from the journal, at start), whatever stands against it:
    /// a GPU that got lost is still held by its task. Answers what a new claim would have been told.
    pub fn restore(&mut self, task: TaskId, generation: Generation, claim: Claim) -> Option<Veto> {
        self.claims.remove(&task);
        let veto = self.first_veto(&claim);
        self.claims.insert(task, Held { generation, claim });
        veto
    }

    /// Gives everything of the task back; false if it held nothing.
    pub fn release(&mut self, task: TaskId) -> bool {
        self.claims.remove(&task).is_some()
    }

    pub fn holder_of_gpu(&self, gpu: &GpuUuid) -> Option<TaskId> {
        self.claims.iter().find(|(_, held)| held.claim.gpus.contains(gpu)).map(|(task, _)| *task)
    }

    pub fn holder_of_port(&self, port: u16) -> Option<TaskId> {
        self.claims.iter().find(|(_, held)| held.claim.ports.contains(&port)).map(|(task, _)| *task)
    }

    /// Everything in force, in task order.
    pub fn held(&self) -> impl Iterator<Item = (TaskId, &Held)> {
        self.claims.iter().map(|(task, held)| (*task, held))
    }

    pub fn claim_of(&self, task: TaskId) -> Option<&Held> {
        self.claims.get(&task)
    }

    pub fn cpus_free(&self) -> u32 {
        self.claims.values().fold(self.cpus, |free, held| free.saturating_sub(held.claim.cpus))
    }

    pub fn memory_mb_free(&self) -> u64 {
        self.claims.values().fold(self.memory_mb, |free, held| free.saturating_sub(held.claim.memory_mb))
    }

    /// GPUs that a new claim could have, one by one, in UUID order.
    pub fn gpus_free(&self) -> Vec<GpuUuid> {
        self.gpus.iter().filter(|gpu| self.gpu_veto(gpu).is_none()).cloned().collect()
    }

    /// Free ports of the node's range.
    pub fn ports_free(&self) -> usize {
        let held: BTreeSet<u16> = self.claims.values().flat_map(|held| held.claim.ports.iter().copied()).collect();
        self.ports.len() - held.range(self.ports.clone()).count()
    }

    fn first_veto(&self, claim: &Claim) -> Option<Veto> {
        let twice = claim.gpus.iter().enumerate().find(|(position, gpu)| {
            claim.gpus.iter().take(*position).any(|other| other == *gpu || self.are_relatives(other, gpu))
        });
        if let Some((_, gpu)) = twice {
            return Some(Veto::GpuTwice { gpu: gpu.clone() });
        }
        if let Some(veto) = claim.gpus.iter().find_map(|gpu| self.gpu_veto(gpu)) {
            return Some(veto);
        }
        let port = claim.ports.iter().find_map(|port| Some((*port, self.holder_of_port(*port)?)));
        if let Some((port, holder)) = port {
            return Some(Veto::Port { port, holder });
        }
        let (cpus, memory_mb) = (self.cpus_free(), self.memory_mb_free());
        if claim.cpus > cpus {
            return Some(Veto::Cpus { need: claim.cpus, free: cpus });
        }
        if claim.memory_mb > memory_mb {
            return Some(Veto::MemoryMb { need: claim.memory_mb, free: memory_mb });
        }
        self.user_veto(claim)
    }

    fn user_veto(&self, claim: &Claim) -> Option<Veto> {
        let held = self.claims.values().map(|held| &held.claim).filter(|held| held.user == claim.user);
        let OverLimit { rule, need, held, allowed } = self.per_user.first_over(claim, held)?;
        let (file, user) = (self.limits_file.clone(), claim.user.clone());
        Some(Veto::PerUser { rule, file, user, need, held, allowed })
    }

    fn gpu_veto(&self, gpu: &GpuUuid) -> Option<Veto> {
        if let Some(holder) = self.holder_of_gpu(gpu) {
            return Some(Veto::Gpu { gpu: gpu.clone(), holder });
        }
        if !self.gpus.contains(gpu) {
            return Some(Veto::GpuUnknown { gpu: gpu.clone() });
        }
        let out = |gpu: &GpuUuid| self.unavailable.get(gpu);
        // What makes a device unavailable does so to its slices.
        if let Some(reason) = out(gpu).or_else(|| self.parents.get(gpu).and_then(out)) {
            return Some(Veto::GpuUnavailable { gpu: gpu.clone(), reason: reason.clone() });
        }
        let held = self.claims.iter().flat_map(|(task, held)| held.claim.gpus.iter().map(move |gpu| (*task, gpu)));
        held.into_iter()
            .find(|(_, other)| self.are_relatives(other, gpu))
            .map(|(holder, relative)| Veto::GpuRelative { gpu: gpu.clone(), relative: relative.clone(), holder })
    }

    /// One is a slice of the other.
    fn are_relatives(&self, a: &GpuUuid, b: &GpuUuid) -> bool {
        self.parents.get(a) == Some(b) || self.parents.get(b) == Some(a)
    }
}

#[cfg(test)]
mod tests;
