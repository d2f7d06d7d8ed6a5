//! The check of the GPUs of a task that failed by itself: over within seconds, and until then the next task waits for it
//! at its gate. What is found wrong is a fault; a GPU with such a fault is checked again and again until it is well.

use super::super::actor::Actor;
use super::super::gpus::CheckUnderWay;
use super::super::message::Inside;
use super::attribution::is_crash;
use super::{Changed, Keep};
use crate::domain::checked::DeviceCheck;
use crate::domain::exit::Exit;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject};
use crate::domain::gpu::Gpu;
use crate::domain::gpu::health::{DeviceHealth, NoAnswer, NoSnapshot};
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::time::Timestamp;
use crate::gpu::{CHECK_DEADLINE, GpuSource};
use crate::health::checks::Modes;
use crate::health::self_check::{Looked, Wrong, of_device};
use crate::health::{Change, Observation, SeenAt, Source};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// A source keeps its deadline itself; this is for one that breaks its word.
const SLACK: Duration = Duration::from_millis(500);
/// A GPU that failed its check is well once checks have found nothing for so long.
const WELL_AFTER: Duration = Duration::from_secs(120);

/// Checks that are going on.
#[derive(Debug, Default)]
pub struct SelfChecks {
    /// How far each check may go, as in the rounds.
    pub(super) modes: Arc<Modes>,
    running: BTreeMap<GpuUuid, CheckUnderWay>,
    /// Since when checks of a GPU that has failed one find nothing.
    well_since: BTreeMap<GpuUuid, Timestamp>,
    /// An operator's, one at a time.
    pub(super) for_operator: bool,
    /// GPUs and slices whose memory is being tested for one.
    pub(super) under_test: Vec<GpuUuid>,
}

impl SelfChecks {
    pub fn new(modes: Modes) -> Self {
        Self { modes: Arc::new(modes), ..Self::default() }
    }

    /// Those of these GPUs, or of their devices.
    pub fn of(&self, gpus: &[Gpu]) -> Vec<(GpuUuid, CheckUnderWay)> {
        let of = |gpu: &Gpu| {
            let device = gpu.mig_parent.as_ref().unwrap_or(&gpu.uuid);
            Some((device.clone(), self.running.get(device)?.clone()))
        };
        gpus.iter().filter_map(of).collect()
    }
}

/// What came of the check of one GPU.
#[derive(Debug)]
pub struct SelfChecked {
    pub gpu: GpuUuid,
    /// After whose failure.
    pub task: Option<TaskId>,
    /// None: nobody could look.
    pub wrong: Option<Vec<Wrong>>,
}

impl Actor {
    /// A task's command has failed by itself: its GPUs are checked before anybody else gets them.
    pub(in crate::agent) fn check_after(&mut self, id: TaskId, exit: &Exit) {
        let Some(record) = self.entries.get(&id).map(|entry| &entry.record) else { return };
        let by_itself = is_crash(exit) && record.exit.is_none() && record.stop.is_none();
        let Some(spec) = record.spec.as_ref().filter(|_| by_itself) else { return };
        let gpus = self.inventory.gpus.iter().filter(|gpu| spec.gpus.contains(&gpu.uuid));
        let mut devices: Vec<GpuUuid> =
            gpus.map(|gpu| gpu.mig_parent.as_ref().unwrap_or(&gpu.uuid).clone()).collect();
        devices.dedup();
        self.begin_checks(devices, Some(id));
    }

    /// GPUs that a check found ill may be well by now.
    pub(in crate::agent) fn check_again(&mut self) {
        let ill = |fault: &&Fault| fault.kind == FaultKind::SelfCheck && fault.takes_out_of_use();
        let ill = self.fault_book.faults.iter().filter(ill).filter_map(|fault| fault.subject.gpu.clone());
        let devices: Vec<GpuUuid> = ill.collect();
        self.begin_checks(devices, None);
    }

    fn begin_checks(&mut self, devices: Vec<GpuUuid>, task: Option<TaskId>) {
        // One whose process broke tells nothing any more.
        self.self_checks.running.retain(|_, check| check.has_changed().is_ok());
        let mut begun = Vec::new();
        for gpu in devices {
            if !self.self_checks.running.contains_key(&gpu) {
                let (done, under_way) = watch::channel(None);
                self.self_checks.running.insert(gpu.clone(), under_way);
                begun.push((gpu, done));
            }
        }
        if begun.is_empty() {
            return;
        }
        let (executor, modes) = (self.executor.clone(), Arc::clone(&self.self_checks.modes));
        self.executor.tracker.spawn(async move {
            for (gpu, done) in begun {
                let checked = look(&executor.gate.source, &gpu, &modes);
                let Some(looked) = executor.cancel.run_until_cancelled(checked).await else { return };
                let condemned = looked.as_ref().and_then(Looked::condemned);
                let verdict = condemned.map_or(Ok(()), |wrong| Err(wrong.judgement.reason.clone()));
                // The actor first: whoever is turned away at the gate is not sent here again.
                let wrong = looked.map(|looked| looked.wrong);
                let word = Inside::SelfChecked(Box::new(SelfChecked { gpu, task, wrong }));
                let _ = executor.inside.send(word).await;
                done.send_replace(Some(verdict));
            }
        });
    }

    /// Takes note of what a check found.
    pub(in crate::agent) fn self_checked(&mut self, SelfChecked { gpu, task, wrong }: SelfChecked) {
        self.self_checks.running.remove(&gpu);
        let Some(wrong) = wrong else { return };
        if wrong.iter().any(Wrong::condemns) {
            self.self_checks.well_since.remove(&gpu);
        } else {
            self.found_well(&gpu);
        }
        let place = self.inventory.gpus.iter().find(|known| known.uuid == gpu).map(|known| known.pci.parse());
        let pci = place.and_then(Result::ok);
        let mut changed = Changed::default();
        for Wrong { kind, judgement, evidence } in wrong {
            let subject = Subject { part: Part::Gpu, gpu: Some(gpu.clone()), pci, ..Subject::default() };
            let seen = SeenAt { time: Some(self.clock.now()), ..SeenAt::default() };
            let mut observation = Observation::new(Source::Driver, kind, subject, judgement, seen);
            (observation.evidence, observation.task) = (evidence, task);
            changed.add(self.count(observation));
        }
        self.act_on(&changed, Keep::Now);
    }

    /// One look may have met a good moment: the faults of earlier checks end once all looks for a while found nothing.
    fn found_well(&mut self, gpu: &GpuUuid) {
        let of_check = |fault: &&Fault| {
            let kind = fault.kind == FaultKind::SelfCheck && fault.action == Action::ResetGpu;
            kind && fault.state == FaultState::Active && fault.subject.gpu.as_ref() == Some(gpu)
        };
        let ill: Vec<FaultId> = self.fault_book.faults.iter().filter(of_check).map(|fault| fault.id).collect();
        let now = self.clock.now();
        if ill.is_empty() {
            self.self_checks.well_since.remove(gpu);
            return;
        }
        let since = *self.self_checks.well_since.entry(gpu.clone()).or_insert(now);
        if now.since(since) >= WELL_AFTER {
            self.self_checks.well_since.remove(gpu);
            info!(node = %self.facts.name, %gpu, "a GPU passes its checks again");
            let over: Vec<Change> = ill.into_iter().filter_map(|id| self.fault_book.faults.clear(id)).collect();
            self.changed(over);
        }
    }
}

/// A quick look, over in time whatever the source does. `None`: nobody could look, which is no fault of the GPU.
pub(super) async fn look(source: &Arc<dyn GpuSource>, gpu: &GpuUuid, modes: &Modes) -> Option<Looked> {
    match tokio::time::timeout(CHECK_DEADLINE + SLACK, source.check(gpu)).await {
        Ok(Ok(check)) => Some(of_device(gpu, &check, modes)),
        Ok(Err(error)) => {
            warn!(%gpu, %error, "a GPU could not be checked");
            None
        }
        Err(_) => {
            let sentence = format!("no answer within {} s", CHECK_DEADLINE.as_secs());
            let answer = Err(NoSnapshot { why: NoAnswer::Hung, sentence });
            let health = DeviceHealth { gpu: gpu.clone(), index: 0, answer };
            Some(of_device(gpu, &DeviceCheck { health, node: None }, modes))
        }
    }
}
