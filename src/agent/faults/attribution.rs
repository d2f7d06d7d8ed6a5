//! Whom a fault hit: by the GPU and the allocation at that moment.

use super::super::actor::Actor;
use super::sentence;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::fault::{Action, Fault, FaultKind, Verdict};
use crate::domain::gpu::health::LinkEnd;
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::time::Timestamp;
use crate::health::Observation;
use std::time::Duration;

/// Between a fault and a crash that it explains.
const WINDOW: Duration = Duration::from_secs(10);
/// The kernel's clock and the machine's may be so far apart.
const SLACK: Duration = Duration::from_secs(5);

impl Actor {
    /// Adds what only the node knows: which GPU is there, and who had it.
    pub(in crate::agent) fn attribute(&mut self, observation: &mut Observation) {
        self.fault_book.faults.resolve(observation.node.as_ref(), &mut observation.subject);
        let (subject, at) = (&observation.subject, observation.seen.time);
        let gpu = subject.gpu.as_ref().map(|gpu| (gpu, subject.gpu_instance));
        let holders = gpu.map_or_else(Vec::new, |(gpu, instance)| self.holders(gpu, instance, at));
        let former = gpu.zip(at).and_then(|((gpu, instance), at)| self.former_holder(gpu, instance, at));
        let group = subject.device.as_deref().filter(|device| device.starts_with('/'));
        let task = match (holders.as_slice(), group) {
            ([only], _) => Some(*only),
            ([], Some(group)) => self.task_of_group(group),
            (several, _) => {
                // The process says which of them, or who it is that the books do not know.
                let process = observation.pid.and_then(|pid| self.task_of_process(pid));
                let known = process.filter(|task| several.is_empty() || several.contains(task));
                known.or_else(|| several.first().copied())
            }
        };
        // What a check found is of the task that it was for, if nobody else has the GPU.
        let task = task.or(former).or(observation.task);
        observation.task = task;
        observation.job = task.map(|task| task.job);
    }

    /// The driver's message names a link by its number alone: where that leads was seen while it was up.
    pub(super) fn name_far_end(&self, observation: &mut Observation) {
        let (subject, worked) = (&observation.subject, &self.fault_book.worked.links);
        let links =
            subject.gpu.as_ref().filter(|_| observation.kind == FaultKind::Xid).and_then(|gpu| worked.get(gpu));
        let Some(end) = links.zip(subject.link).and_then(|(links, link)| *links.get(&link)?) else { return };
        let at = |pci| self.inventory.gpus.iter().find(|gpu| gpu.mig_parent.is_none() && gpu.pci.parse() == Ok(pci));
        let name = match end {
            LinkEnd::Gpu(pci) => at(pci).map(|gpu| format!("{} at {pci}", gpu.uuid)),
            LinkEnd::Switch(_) | LinkEnd::Other(_) => None,
        };
        let name = name.unwrap_or_else(|| end.to_string());
        observation.judgement.reason.push_str(&format!(" The link leads to {name}."));
    }

    /// The tasks that hold the device or a slice of it, and had it at that time.
    pub(super) fn holders(&self, gpu: &GpuUuid, instance: Option<u32>, at: Option<Timestamp>) -> Vec<TaskId> {
        let had = |task: &TaskId| {
            let started = self.entries.get(task).and_then(|entry| entry.record.started_at);
            started.zip(at).is_none_or(|(started, at)| started <= at.plus(SLACK))
        };
        let devices = self.devices_of(gpu, instance);
        let mut holders: Vec<TaskId> =
            devices.iter().filter_map(|device| self.ledger.holder_of_gpu(device)).filter(had).collect();
        holders.dedup();
        holders
    }

    fn former_holder(&self, gpu: &GpuUuid, instance: Option<u32>, at: Timestamp) -> Option<TaskId> {
        let devices = self.devices_of(gpu, instance);
        let mut former = self.fault_book.former.iter().rev();
        let had = former.find(|former| {
            let began = former.from.is_none_or(|from| from <= at.plus(SLACK));
            devices.contains(&former.gpu) && began && at <= former.until.plus(WINDOW)
        });
        had.map(|former| former.task)
    }

    /// The device and its slices; of one instance only that one's.
    fn devices_of(&self, gpu: &GpuUuid, instance: Option<u32>) -> Vec<GpuUuid> {
        let slices = self.inventory.gpus.iter().filter(|other| other.mig_parent.as_ref() == Some(gpu));
        let meant = slices.filter(|slice| {
            instance.is_none_or(|instance| slice.mig.as_ref().is_some_and(|mig| mig.gpu_instance == instance))
        });
        std::iter::once(gpu).chain(meant.map(|slice| &slice.uuid)).cloned().collect()
    }

    /// What the next run of whom a fault hit is to do without: the slices of an instance, else the whole device.
    pub(super) fn concerned(&self, gpu: &GpuUuid, instance: Option<u32>) -> Vec<GpuUuid> {
        let mut devices = self.devices_of(gpu, instance);
        if instance.is_some() && devices.len() > 1 { devices.split_off(1) } else { vec![gpu.clone()] }
    }

    /// Whether a fault may yet be heard that explains this end: the kernel's word and the command's end race.
    pub(in crate::agent) fn may_be_explained(&self, id: TaskId, exit: &Exit) -> bool {
        let Some(entry) = self.entries.get(&id) else { return false };
        let had_gpus = entry.record.spec.as_ref().is_some_and(|spec| !spec.gpus.is_empty());
        let unclear = entry.record.stop.is_none() && entry.record.exit.is_none();
        had_gpus && unclear && is_crash(exit) && self.fault_book.listening_since.is_some()
    }

    /// Puts an end to the faults around it: a crash beside a failure of its hardware is the hardware's, and what its own
    /// program did is evidence.
    pub(in crate::agent) fn explain_by_faults(&self, id: TaskId, at: Timestamp, mut exit: Exit) -> Exit {
        if !is_crash(&exit) {
            return exit;
        }
        let near = |fault: &&Fault| {
            let around = |seen: Timestamp| seen.since(at) <= WINDOW && at.since(seen) <= WINDOW;
            fault.task == Some(id) && fault.last_seen.is_some_and(around) && fault.verdict != Verdict::Unknown
        };
        let near: Vec<&Fault> = self.fault_book.faults.iter().filter(near).collect();
        exit.faults.extend(near.iter().map(|fault| fault.id.0));
        let hardware = |fault: &&&Fault| fault.verdict != Verdict::Application && fault.action != Action::None;
        if let Some(cause) = near.iter().find(hardware) {
            exit.reason = format!("{}; {}", sentence(cause), exit.reason);
            exit.class = ExitClass::Hardware;
            let gpus = near.iter().filter(hardware).filter_map(|fault| {
                let gpu = fault.subject.gpu.as_ref()?;
                Some(self.concerned(gpu, fault.subject.gpu_instance))
            });
            exit.faulty_gpus = gpus.flatten().collect();
        }
        exit
    }
}

/// The command failed by itself, as far as anybody knows.
pub(super) fn is_crash(exit: &Exit) -> bool {
    exit.class == ExitClass::User && !exit.oom && (exit.code.is_some() || exit.signal.is_some())
}
