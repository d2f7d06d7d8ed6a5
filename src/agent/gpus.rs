//! What the agent knows of its GPUs: asked for again and again, so that no query ever waits for a driver.
//!
//! [`Poller`] asks and reports; the actor keeps what it was told in a [`GpuBook`] and decides from it which GPUs new
//! tasks may not have. [`Gate`] looks once more right before a task is prepared.

mod gate;
mod poll;
mod remembered;

pub use gate::{CheckUnderWay, Gate, Promised};
pub(super) use poll::bounded;
pub use poll::{Answers, GpuReport, Poller, devices};
pub use remembered::Remembered;

use super::actor::Actor;
use super::journal;
use crate::domain::gpu::condition::{Findings, GpuCondition, conditions};
use crate::domain::gpu::occupancy::IgnoredProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuState, Topology};
use crate::domain::ids::GpuUuid;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

/// The actor's knowledge beside the inventory.
#[derive(Debug)]
pub struct GpuBook {
    pub(super) found: Findings,
    ignored: IgnoredProcesses,
    /// When tasks gave GPUs back: what was seen on them before was the task's own.
    freed: BTreeMap<GpuUuid, Instant>,
    /// As it is written in the journal.
    remembered: Remembered,
    poll_now: Arc<Notify>,
}

impl GpuBook {
    /// `shown`: what the driver showed at the start, or why it did not.
    pub fn new(
        shown: Result<&[Gpu], String>,
        remembered: Remembered,
        ignored: IgnoredProcesses,
        poll_now: Arc<Notify>,
    ) -> Self {
        let (present, unanswered) = match shown {
            Ok(gpus) => (uuids(gpus), None),
            // Nothing says that they are gone.
            Err(why) => (remembered.present(), Some(why)),
        };
        let found = Findings { present, unanswered, ..Findings::default() };
        Self { found, ignored, freed: BTreeMap::new(), remembered, poll_now }
    }

    /// A round that began at `begun`. One without answers changes nothing: what was seen on a GPU before its task gave
    /// it back goes on being the task's until somebody has looked again.
    fn take(&mut self, begun: Instant, answers: Option<Answers>, unanswered: Option<String>) {
        let Some((samples, processes)) = answers else { return };
        self.freed.retain(|_, freed| *freed > begun);
        self.found.samples = samples.into_iter().collect();
        self.found.processes = processes;
        self.found.unanswered = unanswered;
    }

    /// What was seen on it is of the task that had it.
    fn is_freed(&self, gpu: &GpuUuid) -> bool {
        self.freed.contains_key(gpu)
    }
}

fn uuids(gpus: &[Gpu]) -> Vec<GpuUuid> {
    gpus.iter().map(|gpu| gpu.uuid.clone()).collect()
}

impl Actor {
    /// Takes over what a round of questions found, and tells the controller what has changed.
    pub(super) fn gpu_report(&mut self, report: GpuReport) {
        let GpuReport { begun, driver, devices, answers, unanswered } = report;
        let before = self.inventory.clone();
        if let Some((gpus, topology)) = devices {
            self.take_devices(gpus, topology);
        }
        // Old numbers that look like new ones are worse than none; what stands against a GPU goes on to do so.
        self.samples = answers.as_ref().map_or_else(BTreeMap::new, |(samples, _)| samples.iter().cloned().collect());
        self.gpu_book.take(begun, answers, unanswered);
        self.say_driver(&driver);
        self.inventory.gpu_driver = driver;
        self.judge_gpus();
        if self.inventory != before {
            self.hint.send_modify(|hint| hint.register += 1);
        }
    }

    /// A device that vanishes stays in the books, as LOST; a slice goes when its device is divided anew.
    fn take_devices(&mut self, mut gpus: Vec<Gpu>, topology: Topology) {
        let present = uuids(&gpus);
        let remade = |gpu: &Gpu| gpu.mig_parent.as_ref().is_some_and(|parent| present.contains(parent));
        let gone = self.inventory.gpus.iter().filter(|gpu| !present.contains(&gpu.uuid));
        let kept = gone.filter(|gpu| !remade(gpu) || self.ledger.holder_of_gpu(&gpu.uuid).is_some());
        // A device that could not say its UUID is known by its place until it can.
        gpus.extend(kept.filter(|gpu| !gpu.uuid.is_placeholder()).cloned());
        if present != self.gpu_book.found.present {
            info!(node = %self.facts.name, gpus = present.len(), in_all = gpus.len(), "the GPUs that the driver shows");
        }
        self.gpu_book.found.present = present;
        self.ledger.set_gpus(&gpus);
        self.inventory.gpus = gpus;
        self.inventory.topology = topology;
        self.identify_gpus();
        self.remember_gpus();
    }

    /// After the driver has told its devices: forgets what was absent for long, and writes down what has changed.
    pub(super) fn remember_gpus(&mut self) {
        let (now, book) = (self.clock.now(), &self.gpu_book);
        let after = |gpus: &[Gpu]| book.remembered.after(gpus, &book.found.present, now);
        let all = after(&self.inventory.gpus);
        let stays = |gpu: &Gpu| !all.is_over(&gpu.uuid, now) || self.ledger.holder_of_gpu(&gpu.uuid).is_some();
        self.inventory.gpus.retain(stays);
        let new = after(&self.inventory.gpus);
        if new == book.remembered {
            return;
        }
        self.ledger.set_gpus(&self.inventory.gpus);
        if let Some(text) = journal::gpus_text(&new) {
            self.writer.set_meta(journal::GPUS, text);
        }
        self.gpu_book.remembered = new;
    }

    /// What stands against each GPU, as far as is known.
    pub(super) fn judge_gpus(&mut self) {
        self.gpu_book.found.faults = self.faulty_gpus();
        let book = &self.gpu_book;
        let held = |gpu: &GpuUuid| self.ledger.holder_of_gpu(gpu).is_some() || book.is_freed(gpu);
        self.set_conditions(conditions(&self.inventory.gpus, &book.found, &book.ignored, &held));
    }

    fn set_conditions(&mut self, now: Vec<GpuCondition>) {
        let before = &self.inventory.gpu_conditions;
        for condition in now.iter().filter(|condition| !before.contains(condition)) {
            let GpuCondition { gpu, state, reason } = condition;
            warn!(node = %self.facts.name, %gpu, ?state, reason, "a GPU is not to be used");
        }
        for condition in before.iter().filter(|before| !now.iter().any(|now| now.gpu == before.gpu)) {
            info!(node = %self.facts.name, gpu = %condition.gpu, "a GPU can be used again");
            self.ledger.mark_available(&condition.gpu);
        }
        let parents: Vec<&GpuUuid> = self.inventory.gpus.iter().filter_map(|gpu| gpu.mig_parent.as_ref()).collect();
        for GpuCondition { gpu, state, reason } in &now {
            // A divided device is withheld for the sake of its slices, which the ledger must go on giving away.
            if *state == GpuState::Withheld && parents.contains(&gpu) {
                self.ledger.mark_available(gpu);
            } else {
                self.ledger.mark_unavailable(gpu, reason.clone());
            }
        }
        self.inventory.gpu_conditions = now;
        self.hold_for_remedy();
        self.hold_for_test();
    }

    fn say_driver(&self, driver: &GpuDriver) {
        let before = &self.inventory.gpu_driver;
        if (before.state, &before.sentence) == (driver.state, &driver.sentence) {
            return;
        }
        let (state, sentence) = (driver.state.as_str(), driver.sentence.as_deref().unwrap_or_default());
        if driver.state.is_fine() {
            info!(node = %self.facts.name, state, version = driver.driver_version, "the GPU driver");
        } else {
            warn!(node = %self.facts.name, state, reason = sentence, "the GPU driver");
        }
    }

    /// A task gave these back: what is on them is looked at now, and what was seen on them before does not count.
    pub(super) fn gpus_freed(&mut self, gpus: Vec<GpuUuid>) {
        if !gpus.is_empty() {
            let now = Instant::now();
            self.gpu_book.freed.extend(gpus.into_iter().map(|gpu| (gpu, now)));
            self.look_at_gpus_now();
            self.consider_remedies();
        }
    }

    pub(super) fn look_at_gpus_now(&self) {
        self.gpu_book.poll_now.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::occupancy::GpuProcesses;

    #[test]
    fn what_a_task_had_stays_its_own_until_a_later_round_has_answers() {
        let (gpu, freed) = (GpuUuid::from("A"), Instant::now());
        let (before, after) = (freed - std::time::Duration::from_secs(1), freed + std::time::Duration::from_secs(1));
        let mut book = GpuBook::new(Ok(&[]), Remembered::default(), IgnoredProcesses::default(), Arc::default());
        book.freed.insert(gpu.clone(), freed);
        let answers = || Some((Vec::new(), GpuProcesses::default()));
        book.take(before, answers(), None);
        assert!(book.is_freed(&gpu), "the round began before");
        book.take(after, None, None);
        assert!(book.is_freed(&gpu), "nobody has looked");
        book.take(after, answers(), None);
        assert!(!book.is_freed(&gpu));
    }
}
