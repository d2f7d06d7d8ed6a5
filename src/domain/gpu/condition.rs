//! GPUs that new tasks may not have, and why. Decided by the agent, told to the controller with the inventory.

use super::occupancy::{GpuProcesses, IgnoredProcesses, withheld_by};
use super::{Gpu, GpuDriver, GpuHealth, GpuSample, GpuState};
use crate::domain::ids::GpuUuid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What stands against using a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuCondition {
    pub gpu: GpuUuid,
    /// WITHHELD, FAULTY or LOST.
    pub state: GpuState,
    /// One sentence.
    pub reason: String,
}

/// Everything that was found out about the GPUs of a node.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub driver: GpuDriver,
    /// Of this round; none of them while the driver does not answer.
    pub samples: BTreeMap<GpuUuid, GpuSample>,
    pub processes: GpuProcesses,
    /// The devices were there when the driver was last asked for them.
    pub present: Vec<GpuUuid>,
    /// Why the driver does not answer, where it does not.
    pub unanswered: Option<String>,
    /// Faults that take a device out of use: for each one sentence.
    pub faults: BTreeMap<GpuUuid, String>,
}

/// What stands against each of `gpus`, at most one thing each. `held`: a task has it.
pub fn conditions(
    gpus: &[Gpu],
    found: &Findings,
    ignored: &IgnoredProcesses,
    held: &dyn Fn(&GpuUuid) -> bool,
) -> Vec<GpuCondition> {
    let own: BTreeMap<&GpuUuid, (GpuState, String)> = gpus
        .iter()
        .filter_map(|gpu| {
            Some((&gpu.uuid, trouble(gpu, found).or_else(|| occupied(gpu, gpus, found, ignored, held))?))
        })
        .collect();
    let of = |gpu: &Gpu| {
        // What befalls a device befalls its slices; what is on one slice concerns that slice alone.
        let parent = gpu.mig_parent.as_ref().and_then(|parent| own.get(parent));
        let parent = parent.filter(|(state, _)| *state != GpuState::Withheld);
        let (state, reason) = own.get(&gpu.uuid).or(parent)?.clone();
        Some(GpuCondition { gpu: gpu.uuid.clone(), state, reason })
    };
    gpus.iter().filter_map(of).collect()
}

fn trouble(gpu: &Gpu, found: &Findings) -> Option<(GpuState, String)> {
    if let Some(why) = &found.unanswered {
        return Some((GpuState::Faulty, why.clone()));
    }
    if !found.present.contains(&gpu.uuid) {
        return Some((GpuState::Lost, format!("the driver does not show it any more; it was at {}", gpu.pci)));
    }
    let health = found.samples.get(&gpu.uuid).map(|sample| &sample.health);
    if let Some(why) = found.faults.get(&gpu.uuid).filter(|_| !matches!(health, Some(GpuHealth::Lost(_)))) {
        return Some((GpuState::Faulty, why.clone()));
    }
    match health {
        // Nobody could check who is on it, and no container could be given it.
        None | Some(GpuHealth::Ok) if gpu.uuid.is_placeholder() => {
            Some((GpuState::Faulty, format!("GPU {} has never told the driver what it is", gpu.index)))
        }
        None | Some(GpuHealth::Ok) => None,
        Some(GpuHealth::Faulty(why)) => Some((GpuState::Faulty, why.clone())),
        Some(GpuHealth::Lost(why)) => Some((GpuState::Lost, why.clone())),
    }
}

fn occupied(
    gpu: &Gpu,
    all: &[Gpu],
    found: &Findings,
    ignored: &IgnoredProcesses,
    held: &dyn Fn(&GpuUuid) -> bool,
) -> Option<(GpuState, String)> {
    let withheld = |reason: String| Some((GpuState::Withheld, reason));
    let slices = all.iter().filter(|other| other.mig_parent.as_ref() == Some(&gpu.uuid)).count();
    if slices > 0 {
        return withheld(format!("it is divided; its {slices} MIG slices can be used instead"));
    }
    if gpu.mig_mode == Some(true) && gpu.mig_parent.is_none() {
        return withheld("MIG is on and there are no slices: make some, or turn MIG off".to_owned());
    }
    if held(&gpu.uuid) {
        // What is on it is the task's.
        return None;
    }
    let concerns = |device: &GpuUuid| *device == gpu.uuid || gpu.mig_parent.as_ref() == Some(device);
    let silent = found.processes.failed.iter().find(|(failed, _)| concerns(failed));
    if let Some((_, why)) = silent {
        return withheld(format!("it cannot be seen who is on it: {why}"));
    }
    withheld_by(gpu, all, &found.processes.processes, ignored, held).and_then(withheld)
}

#[cfg(test)]
mod tests {
    use super::super::occupancy::GpuProcess;
    use super::*;

    fn gpu(uuid: &str, parent: Option<&str>) -> Gpu {
        Gpu {
            uuid: uuid.into(),
            pci: "00000000:1B:00.0".into(),
            mig_parent: parent.map(Into::into),
            ..Gpu::default()
        }
    }

    fn all_present(gpus: &[Gpu]) -> Findings {
        Findings { present: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(), ..Findings::default() }
    }

    fn states(gpus: &[Gpu], found: &Findings, held: &[&str]) -> Vec<(String, GpuState)> {
        let held = |gpu: &GpuUuid| held.contains(&gpu.0.as_str());
        let all = conditions(gpus, found, &IgnoredProcesses::default(), &held);
        all.into_iter().map(|condition| (condition.gpu.0, condition.state)).collect()
    }

    fn sick(health: GpuHealth) -> GpuSample {
        GpuSample { health, ..GpuSample::default() }
    }

    #[test]
    fn healthy_gpus_have_no_condition() {
        let gpus = [gpu("A", None), gpu("B", None)];
        assert_eq!(states(&gpus, &all_present(&gpus), &[]), []);
    }

    #[test]
    fn each_trouble_has_its_state_and_the_rest_stay_usable() {
        let gpus = [gpu("A", None), gpu("B", None), gpu("C", None), gpu("D", None), gpu("E", None)];
        let mut found = all_present(&gpus);
        found.present.retain(|gpu| gpu.0 != "B");
        found.samples.insert("A".into(), sick(GpuHealth::Lost("fell off the bus".into())));
        found.samples.insert("C".into(), sick(GpuHealth::Faulty("does not answer".into())));
        let process =
            GpuProcess { gpu: "D".into(), pid: 5, memory_mb: None, command: None, container: None, contained: false };
        found.processes.processes.push(process);
        let expected = [("A", GpuState::Lost), ("B", GpuState::Lost), ("C", GpuState::Faulty)];
        let mut expected: Vec<_> = expected.map(|(gpu, state)| (gpu.to_owned(), state)).into();
        assert_eq!(states(&gpus, &found, &["D"]), expected, "what a task holds is not withheld");
        expected.push(("D".to_owned(), GpuState::Withheld));
        assert_eq!(states(&gpus, &found, &[]), expected);
    }

    #[test]
    fn a_gpu_without_a_name_is_never_free() {
        let gpus = [Gpu { uuid: GpuUuid::placeholder(3), index: 3, ..Gpu::default() }];
        let reason = |found: &Findings| {
            let all = conditions(&gpus, found, &IgnoredProcesses::default(), &|_| true);
            assert_eq!(all.iter().map(|condition| condition.state).collect::<Vec<_>>(), [GpuState::Faulty]);
            all[0].reason.clone()
        };
        let mut found = all_present(&gpus);
        assert_eq!(reason(&found), "GPU 3 has never told the driver what it is");
        found.samples.insert(gpus[0].uuid.clone(), sick(GpuHealth::Ok));
        assert_eq!(reason(&found), "GPU 3 has never told the driver what it is");
        found.samples.insert(gpus[0].uuid.clone(), sick(GpuHealth::Faulty("asking GPU 3: no".into())));
        assert_eq!(reason(&found), "asking GPU 3: no", "its own sentence goes before");
    }

    #[test]
    fn a_driver_that_does_not_answer_withholds_everything() {
        let gpus = [gpu("A", None), gpu("B", None)];
        let found = Findings { unanswered: Some("it hangs".into()), ..all_present(&gpus) };
        assert_eq!(states(&gpus, &found, &["A"]).len(), 2);
    }

    #[test]
    fn divided_devices_are_used_by_their_slices() {
        let on = |gpu: Gpu| Gpu { mig_mode: Some(true), ..gpu };
        let gpus = [on(gpu("P", None)), gpu("S1", Some("P")), gpu("S2", Some("P")), on(gpu("Q", None))];
        let mut found = all_present(&gpus);
        let withheld = [("P".to_owned(), GpuState::Withheld), ("Q".to_owned(), GpuState::Withheld)];
        assert_eq!(states(&gpus, &found, &["S1"]), withheld);
        found.samples.insert("P".into(), sick(GpuHealth::Lost("gone".into())));
        let lost = states(&gpus, &found, &[]).into_iter().filter(|(_, state)| *state == GpuState::Lost);
        assert_eq!(lost.map(|(gpu, _)| gpu).collect::<Vec<_>>(), ["P", "S1", "S2"], "slices go with their device");
    }

    #[test]
    fn a_device_that_cannot_say_is_allowed_and_one_that_fails_to_is_not() {
        let gpus = [gpu("A", None), gpu("B", None)];
        let mut found = all_present(&gpus);
        found.processes.unsupported.insert("A".into());
        found.processes.failed.push(("B".into(), "an error".into()));
        assert_eq!(states(&gpus, &found, &[]), [("B".to_owned(), GpuState::Withheld)]);
    }
}
