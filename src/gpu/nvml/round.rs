//! One question over all devices.

use super::answers;
use super::supervisor::{Refused, Supervisor};
use super::topology::topology;
use super::wire::{Answer, Failure, FailureKind, Links, Question};
use crate::domain::checked::DeviceCheck;
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{DriverState, Gpu, GpuHealth, GpuSample, Topology};
use crate::domain::ids::GpuUuid;
use crate::gpu::snapshot::{DeviceHealth, NoAnswer, NoSnapshot};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Asked twice, it is to be over within `gpu::CHECK_DEADLINE`.
const CHECK_QUESTION: Duration = Duration::from_secs(2);

impl Supervisor {
    /// Every device with its slices, in the driver's order. One that cannot be asked is as it was known before.
    pub(super) fn all_devices(&mut self) -> Result<(Vec<Gpu>, Topology), String> {
        if self.sick {
            // It may have come back: only a driver that is opened anew says so.
            let _ = self.end_worker();
        }
        let Some(count) = self.count()? else { return Ok((Vec::new(), Topology::default())) };
        let indices: Vec<u32> = (0..count).collect();
        let limit = self.options.deadlines.device;
        let mut healthy = Vec::new();
        let found = self.each(&indices, |index| Question::Device { index }, limit).map_err(sentence)?;
        for (index, answer) in found {
            match answer {
                Ok(Answer::Device(device)) => {
                    healthy.push(index);
                    self.known.insert(index, device);
                }
                _ => self.sick = true,
            }
        }
        answers::forget_moved(&mut self.known, &healthy, count);
        let links = self.links(&healthy)?;
        let devices: Vec<&Gpu> = healthy.iter().filter_map(|index| Some(&self.known.get(index)?.gpu)).collect();
        let topology = topology(&devices, &links);
        Ok((indices.iter().flat_map(|index| answers::gpus_at(&self.known, *index)).collect(), topology))
    }

    fn links(&mut self, indices: &[u32]) -> Result<BTreeMap<u32, Links>, String> {
        let after = |index: u32| indices.iter().copied().filter(|other| *other > index).collect();
        let question = |index| Question::Links { index, others: after(index) };
        let limit = self.options.deadlines.device;
        let found = self.each(indices, question, limit).map_err(sentence)?;
        Ok(found
            .into_iter()
            .filter_map(|(index, answer)| match answer {
                Ok(Answer::Links(links)) => Some((index, links)),
                // The slowest way then: it costs speed and no more.
                _ => None,
            })
            .collect())
    }

    /// One sample for each device and slice, also for those in trouble.
    pub(super) fn all_samples(&mut self) -> Result<Vec<(GpuUuid, GpuSample)>, String> {
        let Some(count) = self.count()? else { return Ok(Vec::new()) };
        let indices: Vec<u32> = (0..count).collect();
        let limit = self.options.deadlines.sample;
        let found = self.each(&indices, |index| Question::Sample { index }, limit).map_err(sentence)?;
        let mut samples = Vec::new();
        for (index, answer) in found {
            match answer {
                Ok(Answer::Sample(of_device)) => samples.extend(of_device),
                Ok(other) => samples.extend(self.trouble(index, &unexpected(&other))),
                Err(failure) => samples.extend(self.trouble(index, &failure)),
            }
        }
        self.sick |= samples.iter().any(|(_, sample)| sample.health != GpuHealth::Ok);
        Ok(samples)
    }

    fn trouble(&self, index: u32, failure: &Failure) -> Vec<(GpuUuid, GpuSample)> {
        let sentence = failure.sentence.clone();
        let health = match failure.kind {
            FailureKind::Lost => GpuHealth::Lost(sentence),
            FailureKind::Device | FailureKind::Hung | FailureKind::Driver(_) => GpuHealth::Faulty(sentence),
        };
        let sample = |gpu: Gpu| (gpu.uuid, GpuSample { health: health.clone(), ..GpuSample::default() });
        answers::gpus_at(&self.known, index).into_iter().map(sample).collect()
    }

    /// What each device says about its health, also those that do not answer. Sick devices do not cost the others their
    /// answer: what there is no time for is left out, and it is the sick ones that come last.
    pub(super) fn all_health(&mut self) -> Result<Vec<DeviceHealth>, String> {
        let limit = self.options.deadlines.health;
        // The last question begins so early that the caller still hears its answer.
        let end = Instant::now() + self.options.deadlines.whole;
        let Some(count) = self.count()? else { return Ok(Vec::new()) };
        let indices: Vec<u32> = (0..count).collect();
        let question = |index| Question::Health { index };
        let found = self.each_until(&indices, question, limit, Some(end)).map_err(sentence)?;
        Ok(found.into_iter().map(|(index, answer)| self.health_of(index, answer)).collect())
    }

    fn health_of(&self, index: u32, answer: Result<Answer, Failure>) -> DeviceHealth {
        let failure = match answer {
            Ok(Answer::Health(snapshot)) => {
                return DeviceHealth { gpu: snapshot.gpu.clone(), index, answer: Ok(snapshot) };
            }
            Ok(other) => unexpected(&other),
            Err(failure) => failure,
        };
        let why = match failure.kind {
            FailureKind::Lost => NoAnswer::Lost,
            FailureKind::Hung => NoAnswer::Hung,
            FailureKind::Device | FailureKind::Driver(_) => NoAnswer::Failed,
        };
        let gpu = self.known.get(&index).map_or_else(|| GpuUuid::placeholder(index), |known| known.gpu.uuid.clone());
        DeviceHealth { gpu, index, answer: Err(NoSnapshot { why, sentence: failure.sentence }) }
    }

    /// One device alone; `begun` is set once it is the device's turn to answer.
    pub(super) fn check(&mut self, gpu: &GpuUuid, begun: &AtomicBool) -> Result<DeviceCheck, String> {
        if self.count()?.is_none() {
            return Err("there is no driver".to_owned());
        }
        let known = self.known.iter().find(|(_, known)| known.gpu.uuid == *gpu);
        let Some(index) = known.map(|(index, _)| *index) else {
            return Err(format!("the driver has not shown {gpu}"));
        };
        begun.store(true, Ordering::Relaxed);
        let limit = self.options.deadlines.health.min(CHECK_QUESTION);
        let found = self.each(&[index], |index| Question::Check { index }, limit).map_err(sentence)?;
        let Some((_, answer)) = found.into_iter().next() else { return Err("there was no answer".to_owned()) };
        let (answer, node) = match answer {
            Ok(Answer::Checked { health, node }) => (Ok(Answer::Health(health)), node),
            // The driver's trouble is no single device's.
            Err(Failure { kind: FailureKind::Driver(_), sentence }) => return Err(sentence),
            other => (other, None),
        };
        Ok(DeviceCheck { health: self.health_of(index, answer), node })
    }

    /// Who is on the devices of `of`, slices included; on all where none is named.
    pub(super) fn all_processes(&mut self, of: &[GpuUuid]) -> Result<GpuProcesses, String> {
        let mut all = GpuProcesses::default();
        let Some(count) = self.count()? else { return Ok(all) };
        let wanted = |gpu: &Gpu| of.is_empty() || of.contains(&gpu.uuid);
        let of_index: BTreeMap<u32, Vec<GpuUuid>> = (0..count)
            .map(|index| (index, answers::gpus_at(&self.known, index)))
            .map(|(index, gpus)| (index, gpus.into_iter().filter(|gpu| wanted(gpu)).map(|gpu| gpu.uuid).collect()))
            .filter(|(_, gpus): &(u32, Vec<GpuUuid>)| !gpus.is_empty())
            .collect();
        let seen: Vec<&GpuUuid> = of_index.values().flatten().collect();
        let unseen = of.iter().filter(|gpu| !seen.contains(gpu));
        all.failed.extend(unseen.map(|gpu| (gpu.clone(), "the driver does not show it".to_owned())));
        let indices: Vec<u32> = of_index.keys().copied().collect();
        let limit = self.options.deadlines.sample;
        let found = self.each(&indices, |index| Question::Processes { index }, limit).map_err(sentence)?;
        for (index, answer) in found {
            let gpus = of_index.get(&index).cloned().unwrap_or_default();
            match answer {
                Ok(Answer::Processes(found)) => {
                    let expected = self.known.get(&index).map(|known| &known.gpu.uuid);
                    all.processes.extend(found.processes);
                    if expected != Some(&found.device) {
                        let why = format!("GPU {index} is another one now, {}", found.device);
                        all.failed.extend(gpus.into_iter().map(|gpu| (gpu, why.clone())));
                    } else if found.unsupported {
                        all.unsupported.extend(gpus);
                    }
                }
                Ok(other) => all.failed.extend(gpus.into_iter().map(|gpu| (gpu, unexpected(&other).sentence))),
                Err(failure) => all.failed.extend(gpus.into_iter().map(|gpu| (gpu, failure.sentence.clone()))),
            }
        }
        Ok(all)
    }

    /// `None`: this node has no driver, and is not expected to.
    fn count(&mut self) -> Result<Option<u32>, String> {
        match self.open() {
            Ok(count) => Ok(Some(count)),
            Err(Refused { state: DriverState::None, .. }) => Ok(None),
            Err(refused) => Err(sentence(refused)),
        }
    }
}

fn sentence(refused: Refused) -> String {
    refused.sentence
}

fn unexpected(answer: &Answer) -> Failure {
    let sentence = format!("the GPU worker answered something else: {answer:?}").chars().take(200).collect();
    Failure { kind: FailureKind::Device, sentence }
}
