//! What must hold of every decision, kept by itself and compared: a gang is placed whole, on nodes that take tasks, with what
//! it asked for; nothing is promised twice; no node promises more than it has.

use crate::domain::ids::{GpuUuid, JobId, NodeName};
use crate::domain::promise::Promise;
use crate::domain::run::Run;
use crate::domain::spec::JobSpec;
use crate::scheduler::{NodeState, Snapshot};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is promised, by node.
#[derive(Debug, Default)]
pub(super) struct Checks {
    nodes: HashMap<NodeName, Sum>,
    hosts: HashMap<String, HashSet<u16>>,
}

#[derive(Debug, Default)]
struct Sum {
    gpus: HashSet<GpuUuid>,
    cpus: u64,
    memory_mb: u64,
}

impl Checks {
    /// A gang was placed: `run` has its seats, and the snapshot what it takes.
    pub(super) fn placed(
        &mut self,
        run: &Run,
        spec: &JobSpec,
        promises: &[Promise],
        snapshot: &Snapshot,
    ) -> Result<(), String> {
        let seated: Vec<(u32, u32)> = run.tasks.iter().map(|task| (task.role, task.index)).collect();
        if seated != spec.tasks().collect::<Vec<_>>() {
            return Err(format!("job {} was placed in part: {seated:?}", run.job));
        }
        for (task, promise) in run.tasks.iter().zip(promises) {
            let role = &spec.roles[task.role as usize];
            let gpus: BTreeSet<&GpuUuid> = promise.claim.gpus.iter().collect();
            if gpus.len() != role.gpus as usize {
                return Err(format!("job {} asked for {} GPUs a task and got {gpus:?}", run.job, role.gpus));
            }
            self.take(run.job, promise, snapshot)?;
        }
        Ok(())
    }

    fn take(&mut self, job: JobId, promise: &Promise, snapshot: &Snapshot) -> Result<(), String> {
        let (name, claim) = (&promise.node, &promise.claim);
        let node =
            snapshot.node(name).ok_or_else(|| format!("job {job} was placed on {name}, which is not there"))?;
        if node.state != NodeState::Ready {
            return Err(format!("job {job} was placed on {name}, which is {}", node.state.as_str()));
        }
        let sum = self.nodes.entry(name.clone()).or_default();
        for gpu in &claim.gpus {
            if !node.gpus.iter().any(|slot| slot.gpu.uuid == *gpu) || !sum.gpus.insert(gpu.clone()) {
                return Err(format!("GPU {gpu} of {name} was promised to job {job} and is not to be had"));
            }
        }
        let ports = self.hosts.entry(promise.host.clone()).or_default();
        if let Some(port) = claim.ports.iter().find(|port| !ports.insert(**port)) {
            return Err(format!("port {port} of {name} was promised to job {job} and is not to be had"));
        }
        sum.cpus += u64::from(claim.cpus);
        sum.memory_mb += claim.memory_mb;
        if sum.cpus > u64::from(node.cpus_total) || sum.memory_mb > node.memory_mb_total {
            return Err(format!("{name} promised {} CPUs and {} MB, more than it has", sum.cpus, sum.memory_mb));
        }
        Ok(())
    }

    pub(super) fn given_back(&mut self, promise: &Promise) -> Result<(), String> {
        let (name, claim) = (&promise.node, &promise.claim);
        let sum = self.nodes.entry(name.clone()).or_default();
        let ports = self.hosts.entry(promise.host.clone()).or_default();
        let had =
            claim.gpus.iter().all(|gpu| sum.gpus.remove(gpu)) && claim.ports.iter().all(|port| ports.remove(port));
        let left = sum.cpus.checked_sub(u64::from(claim.cpus)).zip(sum.memory_mb.checked_sub(claim.memory_mb));
        let (cpus, memory_mb) =
            left.filter(|_| had).ok_or_else(|| format!("{name} was given back what it had not promised"))?;
        (sum.cpus, sum.memory_mb) = (cpus, memory_mb);
        Ok(())
    }

    /// The snapshot counts the same, on these nodes.
    pub(super) fn compare<'a>(
        &self,
        snapshot: &Snapshot,
        nodes: impl IntoIterator<Item = &'a NodeName>,
    ) -> Result<(), String> {
        for name in nodes {
            let Some((sum, node)) = self.nodes.get(name).zip(snapshot.node(name)) else { continue };
            let free = node.gpus.len() - sum.gpus.len();
            if (node.cpus_used, node.memory_mb_used, node.gpus_free()) != (sum.cpus, sum.memory_mb, free) {
                return Err(format!("the snapshot of {name} says otherwise than what is promised on it"));
            }
        }
        Ok(())
    }

    /// Nothing is promised any more.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.values().all(|sum| sum.gpus.is_empty() && (sum.cpus, sum.memory_mb) == (0, 0))
            && self.hosts.values().all(HashSet::is_empty)
    }
}
