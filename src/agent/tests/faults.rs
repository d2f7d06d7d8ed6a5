//! Hardware faults of a node: how they begin, and that they end by what happens to the hardware and by nothing else.

use super::{Node, PATIENCE, TwoGpus, me, tuning};
use crate::agent::{Looking, Tuning};
use crate::api::AgentApi;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Verdict};
use crate::domain::gpu::health::{DeviceHealth, HealthSnapshot, Reading, RecoveryAction};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{Gpu, GpuDriver, GpuSample, GpuState, Topology};
use crate::domain::ids::GpuUuid;
use crate::domain::principal::{Principal, Role};
use crate::domain::secret::TaskSecrets;
use crate::domain::view::GpuView;
use crate::gpu::{GpuError, GpuSource};
use crate::health::checks::{Check, Mode, Modes};
use crate::kernel_log::KernelLogOptions;
use crate::telemetry::clock::Clock;
use async_trait::async_trait;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const GSP: &str =
    "119, pid=7, name=python, Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76";

/// Two GPUs that say how they are.
#[derive(Debug)]
pub(super) struct Sick {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: [HealthSnapshot; 2],
    silent: bool,
    looks: u64,
}

impl Sick {
    pub(super) fn new() -> Arc<Self> {
        let of = |gpu: &str| HealthSnapshot { gpu: gpu.into(), ..HealthSnapshot::default() };
        let state = State { health: [of("GPU-0"), of("GPU-1")], silent: false, looks: 0 };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn replays(&self, count: u64) {
        self.with(|state| state.health[0].pcie.replays = Reading::Known(count));
    }

    fn recommends(&self, action: RecoveryAction) {
        self.with(|state| state.health[0].recovery_action = Reading::Known(action));
    }

    /// Waits for rounds that began from here on, and were told.
    async fn rounds(&self) {
        let begun = self.with(|state| state.looks);
        super::eventually("more rounds", || self.with(|state| state.looks > begun + 3)).await;
    }
}

#[async_trait]
impl GpuSource for Sick {
    fn name(&self) -> &'static str {
        "sick"
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        TwoGpus.devices().await
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        Ok(["GPU-0", "GPU-1"].map(|gpu| (gpu.into(), GpuSample::default())).into())
    }

    async fn processes(&self, of: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        TwoGpus.processes(of).await
    }

    async fn health(&self) -> Result<Vec<DeviceHealth>, GpuError> {
        self.with(|state| {
            state.looks += 1;
            if state.silent {
                return Err(GpuError { question: "their health", message: "silent".to_owned() });
            }
            let device = |(index, of): (u32, &HealthSnapshot)| DeviceHealth {
                gpu: of.gpu.clone(),
                index,
                answer: Ok(Box::new(of.clone())),
            };
            Ok((0..).zip(&state.health).map(device).collect())
        })
    }

    fn tells_health(&self) -> bool {
        true
    }

    fn driver(&self) -> GpuDriver {
        TwoGpus.driver()
    }
}

/// A kernel log that a test writes.
pub(super) struct Log {
    folder: tempfile::TempDir,
    next: std::cell::Cell<u64>,
}

impl Log {
    pub(super) fn new() -> Self {
        let log = Self { folder: tempfile::tempdir().unwrap(), next: std::cell::Cell::new(0) };
        log.begin();
        log
    }

    /// As it is after a boot.
    pub(super) fn begin(&self) {
        std::fs::write(self.folder.path().join("kmsg"), "").unwrap();
        self.next.set(0);
    }

    pub(super) fn tuning(&self, boot: &str) -> Tuning {
        let (path, cursor) = (self.folder.path().join("kmsg"), self.folder.path().join("cursor"));
        Tuning { kernel_log: Some(KernelLogOptions::new(path, boot.to_owned(), cursor)), ..watching() }
    }

    pub(super) fn say(&self, node: &Node, text: &str) {
        let (sequence, at_us) = (self.next.replace(self.next.get() + 1), node.clock.boottime().as_micros());
        let mut file = std::fs::OpenOptions::new().append(true).open(self.folder.path().join("kmsg")).unwrap();
        file.write_all(format!("3,{sequence},{at_us},-;{text}\n").as_bytes()).unwrap();
    }
}

fn watching() -> Tuning {
    let root = "/nonexistent".into();
    let looking = Looking { period: Duration::from_millis(5), root, ..Looking::default() };
    Tuning { sample_period: Duration::from_millis(5), looking: Some(looking), ..tuning() }
}

pub(super) async fn gpu(node: &Node, gpu: &str) -> GpuView {
    let gpus = node.agent.get_node(&me()).await.unwrap().gpus;
    gpus.into_iter().find(|view| view.uuid == gpu).unwrap()
}

async fn until(node: &Node, of: &str, state: GpuState) -> GpuView {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let view = gpu(node, of).await;
            if view.state == state {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    match waited.await {
        Ok(view) => view,
        Err(_) => panic!("{of} never was {state:?}: {:?}", gpu(node, of).await),
    }
}

fn reason(view: &GpuView) -> &str {
    view.reason.as_deref().unwrap_or_default()
}

#[tokio::test]
async fn what_the_driver_asks_for_is_over_when_it_is_seen_to_be_and_not_before() {
    let gpus = Sick::new();
    let mut node = Node::with_gpus(gpus.clone(), None, watching()).await;
    until(&node, "GPU-0", GpuState::Free).await;
    gpus.recommends(RecoveryAction::ResetGpu);
    let view = until(&node, "GPU-0", GpuState::Faulty).await;
    assert!(reason(&view).contains("recovery_action") && view.faults.len() == 1, "{view:?}");
    assert_eq!(gpu(&node, "GPU-1").await.state, GpuState::Free, "no other is concerned");
    gpus.with(|state| state.silent = true);
    node.clock.advance(Duration::from_secs(24 * 3600));
    gpus.rounds().await;
    assert_eq!(gpu(&node, "GPU-0").await.state, GpuState::Faulty, "nobody has looked");
    node.restart().await;
    gpus.rounds().await;
    assert_eq!(gpu(&node, "GPU-0").await.faults, view.faults, "a restart makes nothing well");
    gpus.recommends(RecoveryAction::None);
    gpus.with(|state| state.silent = false);
    until(&node, "GPU-0", GpuState::Free).await;
    node.end().await;
}

#[tokio::test]
async fn what_is_only_observed_goes_on_as_long_as_it_is_seen() {
    let gpus = Sick::new();
    let (check, mode) = (Check::RecoveryAction, Mode::Observe);
    let mut tuning = watching();
    tuning.looking = tuning.looking.map(|looking| Looking { modes: Modes::new([(check, mode)]), ..looking });
    let mut node = Node::with_gpus(gpus.clone(), None, tuning).await;
    gpus.recommends(RecoveryAction::ResetGpu);
    let listed = async |count: usize| {
        let waited = tokio::time::timeout(PATIENCE, async {
            while gpu(&node, "GPU-0").await.faults.len() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.expect("it is listed, or no more");
        gpu(&node, "GPU-0").await
    };
    let first = listed(1).await;
    gpus.rounds().await;
    let later = gpu(&node, "GPU-0").await;
    assert_eq!((&later.faults, later.state), (&first.faults, GpuState::Free), "one fault, and nothing follows");
    gpus.recommends(RecoveryAction::None);
    listed(0).await;
    node.end().await;
}

#[tokio::test]
async fn a_reset_ends_what_waits_for_it_and_the_third_time_is_an_inspection() {
    let (gpus, log) = (Sick::new(), Log::new());
    gpus.replays(9);
    let mut node = Node::with_gpus(gpus.clone(), None, log.tuning("boot-1")).await;
    let xid = format!("NVRM: Xid (PCI:0000:00:00): {GSP}");
    for while_away in [true, false] {
        gpus.replays(9);
        gpus.rounds().await;
        log.say(&node, &xid);
        let view = until(&node, "GPU-0", GpuState::Faulty).await;
        assert!(reason(&view).contains("Reset the GPU"), "{view:?}");
        node.clock.advance(Duration::from_secs(600));
        gpus.rounds().await;
        assert_eq!(gpu(&node, "GPU-0").await.state, GpuState::Faulty, "time resets nothing");
        if while_away {
            let store = Arc::clone(&node.store);
            super::eventually("the marks are kept", || {
                store.text("meta/gpu_marks").is_some_and(|marks| marks.contains("GPU-0"))
            })
            .await;
            node.end().await;
            gpus.replays(0);
            node.begin().await;
        } else {
            gpus.replays(0);
        }
        until(&node, "GPU-0", GpuState::Free).await;
    }
    gpus.replays(9);
    gpus.rounds().await;
    node.clock.advance(Duration::from_secs(600));
    log.say(&node, &xid);
    let view = until(&node, "GPU-0", GpuState::Faulty).await;
    assert!(reason(&view).contains("after 2 resets") && reason(&view).contains("inspected"), "{view:?}");
    gpus.replays(0);
    gpus.rounds().await;
    assert_eq!(gpu(&node, "GPU-0").await.state, GpuState::Faulty, "another reset does not help");
    let operator = Principal { roles: vec![Role::Operator], ..me() };
    node.agent.clear_fault(&operator, FaultId(view.faults[0])).await.unwrap();
    until(&node, "GPU-0", GpuState::Free).await;
    node.end().await;
}

#[tokio::test]
async fn a_fatal_error_on_a_gpus_link_is_the_gpus_until_a_boot() {
    let (gpus, log) = (Sick::new(), Log::new());
    let mut node = Node::with_gpus(gpus.clone(), None, log.tuning("boot-1")).await;
    until(&node, "GPU-1", GpuState::Free).await;
    log.say(&node, "pcieport 0000:00:1c.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0");
    let view = until(&node, "GPU-1", GpuState::Faulty).await;
    assert!(reason(&view).contains("Reboot the machine"), "{view:?}");
    assert_eq!(gpu(&node, "GPU-0").await.state, GpuState::Free);
    node.restart().await;
    gpus.rounds().await;
    assert_eq!(gpu(&node, "GPU-1").await.state, GpuState::Faulty);
    node.end().await;
    log.begin();
    node.tuning = log.tuning("boot-2");
    node.begin().await;
    until(&node, "GPU-1", GpuState::Free).await;
    node.end().await;
}

#[tokio::test]
async fn what_nobody_understands_is_over_after_an_hour_of_silence() {
    let (gpus, log) = (Sick::new(), Log::new());
    let mut node = Node::with_gpus(gpus.clone(), None, log.tuning("boot-1")).await;
    until(&node, "GPU-0", GpuState::Free).await;
    log.say(&node, "NVRM: Xid (PCI:0000:00:00): 999, pid=7, name=python, Something new");
    super::eventually("it is seen", || node.store.everything().contains("Something new")).await;
    assert_eq!(gpu(&node, "GPU-0").await.state, GpuState::Free, "nothing is taken out of use for it");
    assert_eq!(gpu(&node, "GPU-0").await.faults.len(), 1);
    node.clock.advance(Duration::from_secs(3700));
    let waited = tokio::time::timeout(PATIENCE, async {
        while !gpu(&node, "GPU-0").await.faults.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("it is over");
    node.end().await;
}

#[tokio::test]
async fn a_container_that_lost_its_gpu_is_told_of_its_task_and_condemns_nothing() {
    let (gpus, root) = (Sick::new(), tempfile::tempdir().unwrap());
    let put = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let list = "sys/fs/cgroup/devices/docker/abc/devices.list";
    std::fs::create_dir(root.path().join("dev")).unwrap();
    std::os::unix::fs::symlink("/dev/null", root.path().join("dev/nvidia0")).unwrap();
    put("proc/77/root/etc/hostname", "");
    put("proc/77/cgroup", "4:devices:/docker/abc\n");
    put(list, "c 1:3 rwm\n");
    let mut tuning = watching();
    let there = root.path().to_owned();
    tuning.looking = tuning.looking.map(|looking| Looking { root: there, ..looking });
    let controller = Arc::new(super::controller::Scripted::default());
    let mut node = Node::with_gpus(gpus.clone(), Some(controller.clone()), tuning).await;
    controller.until("it has joined", |seen| seen.heartbeats > 0).await;
    let id = super::task(0);
    node.machine.set_process(id, 77);
    node.agent.prepare(super::header(1), super::spec(id, &["GPU-0"])).await.unwrap();
    node.agent.launch(super::header(1), id, Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(id, crate::domain::task::TaskState::Running).await;
    gpus.rounds().await;
    controller.with(|seen| assert_eq!(seen.faults, []));

    // As systemd makes it anew.
    put(list, "c 1:9 rwm\n");
    controller.until("it is told", |seen| seen.faults.iter().any(|fault| fault.task == Some(id))).await;
    let fault = controller.with(|seen| seen.faults[0].clone());
    assert_eq!((fault.kind, fault.verdict), (FaultKind::DeviceAccess, Verdict::Node));
    assert_eq!((fault.action, fault.job), (Action::RestartApp, Some(id.job)));
    assert!(fault.evidence[0].contains("does not allow /dev/nvidia0"), "{:?}", fault.evidence);
    let view = gpu(&node, "GPU-0").await;
    assert_eq!((view.state, view.task.is_some()), (GpuState::Held, true), "{view:?}");

    node.agent.release(super::header(1), id).await.unwrap();
    let over = |fault: &Fault| fault.state == FaultState::Cleared;
    controller.until("it ends with its task", |seen| seen.faults.iter().all(over)).await;
    node.end().await;
}

#[tokio::test]
async fn a_fault_that_lasts_is_not_written_down_in_every_round() {
    let gpus = Sick::new();
    let mut node = Node::with_gpus(gpus.clone(), None, watching()).await;
    gpus.recommends(RecoveryAction::ResetGpu);
    let view = until(&node, "GPU-0", GpuState::Faulty).await;
    let (fault, marks) = (format!("fault/{:020}", view.faults[0]), "meta/gpu_marks");
    let written = |node: &Node| (node.store.text(&fault), node.store.text(marks));
    let is_there = || written(&node).0.is_some() && written(&node).1.is_some();
    super::eventually("fault and marks are written", is_there).await;
    gpus.rounds().await;
    let before = written(&node);
    node.clock.advance(Duration::from_secs(20));
    gpus.rounds().await;
    assert_eq!(written(&node), before);
    node.clock.advance(Duration::from_secs(41));
    super::eventually("it is written again", || written(&node).0 != before.0 && written(&node).1 != before.1).await;
    node.end().await;
}

#[tokio::test]
async fn settings_end_faults_of_checks_and_say_so() {
    let gpus = Sick::new();
    let controller = Arc::new(super::controller::Scripted::default());
    let mut node = Node::with_gpus(gpus.clone(), Some(controller.clone()), watching()).await;
    gpus.recommends(RecoveryAction::ResetGpu);
    until(&node, "GPU-0", GpuState::Faulty).await;
    let with = |mode| {
        let mut tuning = watching();
        let modes = Modes::new([(Check::RecoveryAction, mode)]);
        tuning.looking = tuning.looking.map(|looking| Looking { modes, ..looking });
        tuning
    };
    node.tuning = with(Mode::Observe);
    node.restart().await;
    until(&node, "GPU-0", GpuState::Free).await;
    let says = |words: &str| {
        let has = |fault: &Fault| {
            fault.state == FaultState::Cleared && fault.evidence.iter().any(|line| line.contains(words))
        };
        controller.with(|seen| seen.faults.iter().any(has))
    };
    super::eventually("it says why", || says("only observes now")).await;
    // It is found anew, and listed.
    let listed = async |count: usize| {
        let waited = tokio::time::timeout(PATIENCE, async {
            while gpu(&node, "GPU-0").await.faults.len() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        waited.await.expect("it is listed, or no more");
    };
    listed(1).await;
    node.tuning = with(Mode::Off);
    node.restart().await;
    super::eventually("it says why", || says("is off in [checks]")).await;
    node.end().await;
}
