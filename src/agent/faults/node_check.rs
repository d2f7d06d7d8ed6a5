//! A look at GPUs that an operator asks for. It runs beside the actor; what it finds comes back as any check's.

use super::super::actor::Actor;
use super::super::executor::Executor;
use super::super::message::{Inside, Reply};
use super::self_check::{SelfChecked, look};
use crate::domain::checked::{CheckOutcome, CheckedGpu, CheckedNode, CheckedThing, DeepCheck};
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::gpu::{DriverState, Gpu, GpuDriver};
use crate::domain::host::{InfinibandDevice, PortState};
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::principal::{Principal, Role};
use crate::health::checks::{Check, Mode, Modes};
use crate::health::self_check::{Looked, memory_is_off, of_memory};
use crate::host::infiniband;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Files of the kernel's are read at once, unless a device hangs.
const HOST_DEADLINE: Duration = Duration::from_secs(2);
/// A source keeps its deadline itself; this is for one that breaks its word.
const DEEP_DEADLINE: Duration = Duration::from_secs(90);
/// Why a GPU is not given to anybody meanwhile.
const UNDER_TEST: &str = "its memory is being tested, as an operator asked";

impl Actor {
    /// Begins the look, or says why not.
    pub(in crate::agent) fn check_health(
        &mut self,
        who: &Principal,
        gpus: &[String],
        deep: bool,
        reply: Reply<Result<CheckedNode, Error>>,
    ) {
        match self.to_check(who, gpus, deep) {
            Ok(devices) => self.begin_operator_check(devices, deep, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn to_check(&self, who: &Principal, gpus: &[String], deep: bool) -> Result<Vec<(Gpu, Option<TaskId>)>, Error> {
        let node = &self.facts.name;
        if !who.roles.iter().any(|role| matches!(role, Role::Operator | Role::Admin)) {
            let message =
                format!("check of node {node}: only an operator or an admin may ask for it, not {}", who.user);
            return Err(Error::new(ErrorKind::NotAllowed, message));
        }
        if self.self_checks.for_operator {
            let message = format!("check of node {node}: another one is going on");
            return Err(Error { retry_after_ms: Some(5000), ..Error::unavailable(message) });
        }
        if deep && self.remedies.is_busy() {
            let message = format!("check --deep of node {node}: a fault is being remedied there");
            return Err(Error { retry_after_ms: Some(5000), ..Error::unavailable(message) });
        }
        let devices: Vec<&Gpu> = self.inventory.gpus.iter().filter(|gpu| gpu.mig_parent.is_none()).collect();
        let chosen = if gpus.is_empty() { devices.clone() } else { chosen(&devices, gpus)? };
        let with_holder = |gpu: &Gpu| (gpu.clone(), self.holders(&gpu.uuid, None, None).first().copied());
        let chosen: Vec<_> = chosen.into_iter().map(with_holder).collect();
        if let Some((gpu, Some(task))) = chosen.iter().find(|(_, holder)| deep && holder.is_some()) {
            let message =
                format!("check --deep: task {task} holds GPU {} ({}); its memory is the task's", gpu.index, gpu.uuid);
            return Err(Error::refused(message));
        }
        Ok(chosen)
    }

    fn begin_operator_check(
        &mut self,
        devices: Vec<(Gpu, Option<TaskId>)>,
        deep: bool,
        reply: Reply<Result<CheckedNode, Error>>,
    ) {
        self.self_checks.for_operator = true;
        let kept: Vec<GpuUuid> =
            if deep { devices.iter().map(|(gpu, _)| gpu.uuid.clone()).collect() } else { Vec::new() };
        self.self_checks.under_test = self.with_slices(&kept);
        self.hold_for_test();
        let (executor, node, time) = (self.executor.clone(), self.facts.name.clone(), self.clock.now());
        let driver = self.inventory.gpu_driver.clone();
        let modes = Arc::clone(&self.self_checks.modes);
        self.executor.tracker.spawn(async move {
            let looking = async {
                let mut host = vec![of_driver(&driver, &modes)];
                if modes.of(Check::InfinibandState) != Mode::Off {
                    host.push(of_infiniband(adapters().await));
                }
                let mut gpus = Vec::new();
                for (gpu, task) in devices {
                    gpus.push(executor.check_one(&gpu, task, deep, &modes).await);
                }
                CheckedNode::new(node, time, host, gpus)
            };
            let Some(checked) = executor.cancel.run_until_cancelled(looking).await else { return };
            let _ = executor.inside.send(Inside::OperatorChecked).await;
            // Whoever asked may have gone.
            let _ = reply.send(Ok(checked));
        });
    }

    /// The look is over: what it kept can be used again, if nothing else stands against it.
    pub(in crate::agent) fn operator_checked(&mut self) {
        self.self_checks.for_operator = false;
        for gpu in std::mem::take(&mut self.self_checks.under_test) {
            self.ledger.mark_available(&gpu);
        }
        self.judge_gpus();
        self.consider_remedies();
    }

    /// What is being tested is given to nobody, whatever becomes of its conditions meanwhile.
    pub(in crate::agent) fn hold_for_test(&mut self) {
        for gpu in &self.self_checks.under_test {
            self.ledger.mark_unavailable(gpu, UNDER_TEST.to_owned());
        }
    }

    pub(super) fn with_slices(&self, devices: &[GpuUuid]) -> Vec<GpuUuid> {
        let concerned = |gpu: &&Gpu| {
            devices.contains(&gpu.uuid) || gpu.mig_parent.as_ref().is_some_and(|of| devices.contains(of))
        };
        self.inventory.gpus.iter().filter(concerned).map(|gpu| gpu.uuid.clone()).collect()
    }
}

impl Executor {
    async fn check_one(&self, gpu: &Gpu, task: Option<TaskId>, deep: bool, modes: &Modes) -> CheckedGpu {
        let mut looked = look(&self.gate.source, &gpu.uuid, modes).await.unwrap_or_else(|| {
            let not_asked = CheckedThing::new("answer", "it could not be asked now", "its UUID", CheckOutcome::Noted);
            Looked { things: vec![not_asked], ..Looked::default() }
        });
        // One that does not answer is not touched any further.
        if deep && modes.of(Check::SelfCheck) == Mode::Off {
            looked.extend(memory_is_off());
        } else if deep && looked.condemned().is_none() {
            let deep = tokio::time::timeout(DEEP_DEADLINE, self.gate.source.deep_check(&gpu.uuid)).await;
            let late = || format!("no answer within {} s", DEEP_DEADLINE.as_secs());
            let deep = match deep {
                Ok(Ok(deep)) => deep,
                Ok(Err(error)) => DeepCheck::NotPossible(error.to_string()),
                Err(_) => DeepCheck::Broken(late()),
            };
            looked.extend(of_memory(&deep, modes));
        }
        if !looked.wrong.is_empty() {
            let checked = SelfChecked { gpu: gpu.uuid.clone(), task: None, wrong: Some(looked.wrong) };
            let _ = self.inside.send(Inside::SelfChecked(Box::new(checked))).await;
        }
        CheckedGpu { uuid: gpu.uuid.clone(), index: gpu.index, model: gpu.model.clone(), task, checks: looked.things }
    }
}

/// The devices that are named by UUID or index, each once.
fn chosen<'a>(devices: &[&'a Gpu], named: &[String]) -> Result<Vec<&'a Gpu>, Error> {
    let mut chosen: Vec<&Gpu> = Vec::new();
    for name in named {
        let is_meant = |gpu: &&&Gpu| gpu.uuid.0 == *name || name.parse() == Ok(gpu.index);
        let Some(gpu) = devices.iter().find(is_meant) else {
            let known: Vec<String> = devices.iter().map(|gpu| format!("{} ({})", gpu.index, gpu.uuid)).collect();
            let mut error = Error::new(ErrorKind::Invalid, format!("check: there is no GPU '{name}' on this node"));
            error.violations.push(Violation {
                field: "gpus".to_owned(),
                message: "is no GPU of this node".to_owned(),
                found: name.clone(),
                allowed: if known.is_empty() { "it has none".to_owned() } else { known.join(", ") },
            });
            return Err(error);
        };
        if !chosen.iter().any(|known| known.uuid == gpu.uuid) {
            chosen.push(gpu);
        }
    }
    Ok(chosen)
}

fn of_driver(driver: &GpuDriver, modes: &Modes) -> CheckedThing {
    let enforced = |check| modes.of(check) == Mode::Enforce;
    let outcome = match driver.state {
        DriverState::Ok => CheckOutcome::Ok,
        DriverState::None => CheckOutcome::Noted,
        DriverState::VersionMismatch if !enforced(Check::DriverMismatch) => CheckOutcome::Noted,
        DriverState::Hung if !enforced(Check::GpuHung) => CheckOutcome::Noted,
        _ => CheckOutcome::Failed,
    };
    let version = driver.driver_version.as_ref().map_or_else(String::new, |version| format!(", version {version}"));
    let sentence = driver.sentence.as_ref().map_or_else(String::new, |sentence| format!(": {sentence}"));
    CheckedThing::new("driver", format!("{}{version}{sentence}", driver.state.as_str()), "answers", outcome)
}

async fn adapters() -> Result<Vec<InfinibandDevice>, String> {
    let reading = tokio::task::spawn_blocking(|| infiniband::devices(Path::new("/")));
    match tokio::time::timeout(HOST_DEADLINE, reading).await {
        Ok(Ok(devices)) => devices.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HOST_DEADLINE.as_secs())),
    }
}

/// A machine may do without, and a port may be left unplugged: nothing of that is a fault by itself.
fn of_infiniband(devices: Result<Vec<InfinibandDevice>, String>) -> CheckedThing {
    let (found, outcome) = match devices {
        Err(why) => (why, CheckOutcome::Noted),
        Ok(devices) if devices.is_empty() => ("there is none".to_owned(), CheckOutcome::Ok),
        Ok(devices) => {
            let ports: Vec<_> = devices.iter().flat_map(|device| &device.ports).collect();
            let active = ports.iter().filter(|port| port.state == Some(PortState::Active)).count();
            let outcome = if active == ports.len() { CheckOutcome::Ok } else { CheckOutcome::Noted };
            (format!("{active} of {} ports active", ports.len()), outcome)
        }
    };
    CheckedThing::new("InfiniBand", found, "what is plugged in is active", outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_chosen_by_uuid_or_index_and_a_wrong_name_is_told() {
        let gpu = |uuid: &str, index| Gpu { uuid: uuid.into(), index, ..Gpu::default() };
        let all = [gpu("GPU-a", 0), gpu("GPU-b", 1)];
        let devices: Vec<&Gpu> = all.iter().collect();
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = chosen(&devices, &names(&["1", "GPU-a", "GPU-b"])).unwrap();
        assert_eq!(found.iter().map(|gpu| gpu.index).collect::<Vec<_>>(), [1, 0]);
        let error = chosen(&devices, &names(&["2"])).unwrap_err();
        assert_eq!((error.kind, error.violations[0].allowed.as_str()), (ErrorKind::Invalid, "0 (GPU-a), 1 (GPU-b)"));
    }

    #[test]
    fn a_machine_without_infiniband_or_driver_has_no_failures() {
        assert_eq!(of_infiniband(Ok(Vec::new())).outcome, CheckOutcome::Ok);
        assert_eq!(of_infiniband(Err("late".to_owned())).outcome, CheckOutcome::Noted);
        let state = |state| of_driver(&GpuDriver { state, ..GpuDriver::default() }, &Modes::default()).outcome;
        assert_eq!(state(DriverState::None), CheckOutcome::Noted);
        assert_eq!(state(DriverState::Hung), CheckOutcome::Failed);
    }
}
