//! GPUs that hang, vanish, fall ill and are used by others.

use super::controller::Scripted;
use super::{Node, PATIENCE, header, me, spec, task, tuning};
use crate::agent::Tuning;
use crate::api::AgentApi;
use crate::domain::checked::DeviceCheck;
use crate::domain::command::ErrorKind;
use crate::domain::gpu::health::DeviceHealth;
use crate::domain::gpu::occupancy::{GpuProcess, GpuProcesses};
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuHealth, GpuSample, GpuState, Topology};
use crate::domain::ids::GpuUuid;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use crate::domain::view::GpuView;
use crate::gpu::{GpuError, GpuSource};
use crate::store::Store;
use async_trait::async_trait;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// GPUs as a test wants them.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    /// Held while everything hangs.
    hang: tokio::sync::Mutex<()>,
    /// Held while checks hang.
    pub(super) check_hang: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What the operator chose.
    setting: &'static str,
    gpus: Vec<&'static str>,
    /// Slices and their devices.
    slices: Vec<(&'static str, &'static str)>,
    sick: Vec<(&'static str, GpuHealth)>,
    /// Who is on what; hidden from rounds over all GPUs if so wanted.
    on: Vec<(&'static str, u32, &'static str)>,
    only_when_asked_for: bool,
    blind: Vec<&'static str>,
    /// Why nothing can be asked.
    broken: Option<&'static str>,
    /// Devices whose nodes do not open.
    pub(super) shut: Vec<&'static str>,
    /// How many checks were asked for.
    pub(super) checks: usize,
}

impl Board {
    pub(super) fn of(gpus: &[&'static str]) -> Arc<Self> {
        let board = Self::default();
        board.change(|state| state.gpus = gpus.to_vec());
        Arc::new(board)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    async fn look<T>(&self, look: impl FnOnce(&State) -> T) -> Result<T, GpuError> {
        drop(self.hang.lock().await);
        let state = self.state.lock().unwrap();
        match state.broken {
            Some(why) => Err(GpuError { question: "anything", message: why.to_owned() }),
            None => Ok(look(&state)),
        }
    }
}

impl State {
    fn all(&self) -> Vec<Gpu> {
        let gpu = |uuid: &&str| Gpu { uuid: (*uuid).into(), ..Gpu::default() };
        let slice = |(uuid, parent): &(&str, &str)| Gpu { mig_parent: Some((*parent).into()), ..gpu(uuid) };
        self.gpus.iter().map(gpu).chain(self.slices.iter().map(slice)).collect()
    }

    fn sample(&self, gpu: &GpuUuid) -> GpuSample {
        let health = self.sick.iter().find(|(sick, _)| *sick == gpu.0).map(|(_, health)| health.clone());
        GpuSample { health: health.unwrap_or_default(), ..GpuSample::default() }
    }
}

#[async_trait]
impl GpuSource for Board {
    fn name(&self) -> &'static str {
        "board"
    }

    fn setting(&self) -> String {
        self.state.lock().unwrap().setting.to_owned()
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        self.look(|state| (state.all(), Topology::default())).await
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        self.look(|state| state.all().into_iter().map(|gpu| (gpu.uuid.clone(), state.sample(&gpu.uuid))).collect())
            .await
    }

    async fn processes(&self, of: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        self.look(|state| {
            let shown = !of.is_empty() || !state.only_when_asked_for;
            // A slice's device is asked as a whole.
            let device =
                |of: &GpuUuid| state.slices.iter().find(|(slice, _)| *slice == of.0).map(|(_, parent)| *parent);
            let named = |gpu: &str| of.iter().any(|of| of.0 == gpu || device(of) == Some(gpu));
            let wanted = |gpu: &str| shown && (of.is_empty() || named(gpu));
            let on = state.on.iter().filter(|(gpu, ..)| wanted(gpu)).map(|(gpu, pid, command)| GpuProcess {
                gpu: (*gpu).into(),
                pid: *pid,
                memory_mb: None,
                command: Some((*command).to_owned()),
                container: None,
                contained: false,
            });
            let blind = state.blind.iter().filter(|gpu| wanted(gpu)).map(|gpu| (*gpu).into());
            GpuProcesses { processes: on.collect(), unsupported: blind.collect(), failed: Vec::new() }
        })
        .await
    }

    async fn check(&self, gpu: &GpuUuid) -> Result<DeviceCheck, GpuError> {
        self.change(|state| state.checks += 1);
        drop(self.check_hang.lock().await);
        let shut = self.state.lock().unwrap().shut.contains(&gpu.0.as_str());
        let node = if shut { Err("I/O error".to_owned()) } else { Ok(()) };
        let health = DeviceHealth { gpu: gpu.clone(), index: 0, answer: Ok(Box::default()) };
        Ok(DeviceCheck { health, node: Some(node) })
    }

    fn driver(&self) -> GpuDriver {
        let sentence = self.state.lock().unwrap().broken.map(str::to_owned);
        let state = if sentence.is_some() { DriverState::DriverNotLoaded } else { DriverState::Ok };
        GpuDriver { state, sentence, ..GpuDriver::default() }
    }
}

pub(super) async fn node(board: &Arc<Board>) -> Node {
    Node::with_gpus(board.clone(), None, Tuning { sample_period: Duration::from_millis(5), ..tuning() }).await
}

/// Waits until a GPU is shown as wanted.
pub(super) async fn until(node: &Node, gpu: &str, state: GpuState) -> GpuView {
    let shown = tokio::time::timeout(PATIENCE, async {
        loop {
            let gpus = node.agent.get_node(&me()).await.unwrap().gpus;
            match gpus.into_iter().find(|view| view.uuid == gpu && view.state == state) {
                Some(view) => return view,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    });
    match shown.await {
        Ok(view) => view,
        Err(_) => panic!("{gpu} never was {state:?}: {:?}", node.agent.get_node(&me()).await.unwrap().gpus),
    }
}

#[tokio::test]
async fn a_foreign_process_withholds_its_gpu_until_it_is_gone() {
    let board = Board::of(&["A", "B"]);
    board.change(|state| state.on = vec![("A", 4242, "python3"), ("B", 7, "Xorg")]);
    let mut node = node(&board).await;
    let reason = until(&node, "A", GpuState::Withheld).await.reason.unwrap();
    assert!(reason.contains("4242") && reason.contains("python3"), "{reason}");
    until(&node, "B", GpuState::Free).await;
    let error = node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("4242"), "{}", error.message);
    board.change(|state| state.on.clear());
    until(&node, "A", GpuState::Free).await;
    node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn what_a_task_leaves_on_its_gpu_keeps_the_next_one_out() {
    let board = Board::of(&["A"]);
    let mut node = node(&board).await;
    node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap();
    board.change(|state| state.on = vec![("A", 31, "left-over")]);
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(0), TaskState::Running).await;
    let held = until(&node, "A", GpuState::Held).await;
    assert_eq!((held.job.as_deref(), held.user.as_deref(), held.reason), (Some("job"), Some("u"), None));
    assert!(held.since.is_some());
    node.agent.release(header(1), task(0)).await.unwrap();
    assert!(until(&node, "A", GpuState::Withheld).await.reason.unwrap().contains("process 31 (left-over)"));
    board.change(|state| state.on.clear());
    until(&node, "A", GpuState::Free).await;
    node.end().await;
}

#[tokio::test]
async fn a_process_that_no_round_has_seen_yet_is_found_before_the_task_is_prepared() {
    let board = Board::of(&["A", "B"]);
    board.change(|state| {
        state.only_when_asked_for = true;
        state.on = vec![("A", 99, "late-comer")];
    });
    let mut node = node(&board).await;
    until(&node, "A", GpuState::Free).await;
    let error = node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("process 99 (late-comer) is on it"), "{}", error.message);
    assert_eq!(node.machine.count("prepare", task(0)), 0, "nothing was begun");
    node.agent.prepare(header(1), spec(task(1), &["B"])).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_process_on_a_divided_device_keeps_its_slices_shut_unless_it_may_be_a_task_s() {
    let board = Board::of(&["P"]);
    board.change(|state| {
        state.slices = vec![("S1", "P"), ("S2", "P")];
        state.only_when_asked_for = true;
        state.on = vec![("P", 99, "late-comer")];
    });
    let mut node = node(&board).await;
    until(&node, "S1", GpuState::Free).await;
    let error = node.agent.prepare(header(1), spec(task(0), &["S1"])).await.unwrap_err();
    assert!(error.message.contains("process 99 (late-comer) is on it"), "{}", error.message);
    board.change(|state| state.on.clear());
    node.agent.prepare(header(1), spec(task(1), &["S2"])).await.unwrap();
    board.change(|state| state.on = vec![("P", 100, "the-other-task")]);
    node.agent.prepare(header(1), spec(task(2), &["S1"])).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_gpu_without_a_name_is_given_to_nobody() {
    let board = Board::of(&["unknown-0", "B"]);
    let mut node = node(&board).await;
    assert_eq!(node.agent.get_node(&me()).await.unwrap().gpus[0].state, GpuState::Faulty, "from the start");
    until(&node, "B", GpuState::Free).await;
    let error = node.agent.prepare(header(1), spec(task(0), &["unknown-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted, "{}", error.message);
    node.end().await;
}

#[tokio::test]
async fn a_gpu_that_cannot_say_who_uses_it_is_given_with_a_notice() {
    let board = Board::of(&["A"]);
    board.change(|state| state.blind = vec!["A"]);
    let mut node = node(&board).await;
    let status = node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap();
    assert!(status.notices.iter().any(|notice| notice.contains("cannot say who uses it")), "{:?}", status.notices);
    node.end().await;
}

#[tokio::test]
async fn a_hung_driver_delays_no_question_and_keeps_tasks_out() {
    let board = Board::of(&["A"]);
    let mut node = node(&board).await;
    until(&node, "A", GpuState::Free).await;
    let hang = board.hang.lock().await;
    for _ in 0..3 {
        assert_eq!(node.agent.get_node(&me()).await.unwrap().gpus.len(), 1, "from what was known");
        node.agent.stage(header(1), spec(task(5), &[])).await.unwrap();
    }
    drop(hang);
    node.end().await;
}

#[tokio::test]
async fn a_driver_that_fails_makes_all_unusable_until_it_is_mended() {
    let board = Board::of(&["A", "B"]);
    let controller = Arc::new(Scripted::default());
    let tuning = Tuning { sample_period: Duration::from_millis(5), ..tuning() };
    let mut node = Node::with_gpus(board.clone(), Some(controller.clone()), tuning).await;
    controller.until("it is registered", |seen| !seen.registrations.is_empty()).await;
    board.change(|state| state.broken = Some("the module is not loaded"));
    let view = until(&node, "B", GpuState::Faulty).await;
    assert_eq!(view.reason.as_deref(), Some("the module is not loaded"));
    controller
        .until("the controller is told", |seen| {
            let last = &seen.registrations.last().unwrap().inventory;
            last.gpu_driver.state == DriverState::DriverNotLoaded && last.gpu_conditions.len() == 2
        })
        .await;
    board.change(|state| state.broken = None);
    controller
        .until("the controller is told again", |seen| {
            let last = &seen.registrations.last().unwrap().inventory;
            last.gpu_driver.state == DriverState::Ok && last.gpu_conditions.is_empty()
        })
        .await;
    node.end().await;
}

#[tokio::test]
async fn gpus_that_come_later_are_told_and_those_that_vanish_are_lost() {
    let board = Board::of(&[]);
    let mut node = node(&board).await;
    board.change(|state| state.gpus = vec!["A", "B"]);
    until(&node, "B", GpuState::Free).await;
    board.change(|state| {
        state.gpus = vec!["B"];
        state.sick = vec![("B", GpuHealth::Faulty("it answers with an error".to_owned()))];
    });
    assert!(until(&node, "A", GpuState::Lost).await.reason.unwrap().contains("does not show it"));
    assert_eq!(until(&node, "B", GpuState::Faulty).await.reason.as_deref(), Some("it answers with an error"));
    let error = node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    board.change(|state| {
        state.gpus = vec!["A", "B"];
        state.sick.clear();
    });
    until(&node, "A", GpuState::Free).await;
    until(&node, "B", GpuState::Free).await;
    node.end().await;
}

#[tokio::test]
async fn slices_come_and_go_with_how_their_device_is_divided() {
    let board = Board::of(&["P"]);
    board.change(|state| state.slices = vec![("S1", "P"), ("S2", "P")]);
    let mut node = node(&board).await;
    let reason = until(&node, "P", GpuState::Withheld).await.reason.unwrap();
    assert!(reason.contains("2 MIG slices"), "{reason}");
    node.agent.prepare(header(1), spec(task(0), &["S1"])).await.unwrap();
    board.change(|state| state.slices = vec![("S3", "P")]);
    until(&node, "S3", GpuState::Free).await;
    until(&node, "S1", GpuState::Lost).await;
    let gpus = node.agent.get_node(&me()).await.unwrap().gpus;
    assert!(!gpus.iter().any(|gpu| gpu.uuid == "S2"), "nobody held it: {gpus:?}");
    node.end().await;
}

#[tokio::test]
async fn a_gpu_that_is_gone_after_a_restart_is_lost_until_it_is_forgotten() {
    let day = Duration::from_secs(24 * 60 * 60);
    let board = Board::of(&["A", "B"]);
    let mut node = node(&board).await;
    until(&node, "A", GpuState::Free).await;
    written(&node, |text| text.contains("\"A\"")).await;
    board.change(|state| state.broken = Some("the module is not loaded"));
    node.restart().await;
    assert!(until(&node, "A", GpuState::Faulty).await.reason.unwrap().contains("the module is not loaded"));
    node.end().await;
    board.change(|state| (state.broken, state.gpus) = (None, vec!["B"]));
    node.begin().await;
    let reason = until(&node, "A", GpuState::Lost).await.reason.unwrap();
    assert!(reason.contains("does not show it"), "{reason}");
    let error = node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    until(&node, "B", GpuState::Free).await;
    written(&node, |text| text.replace("absent_since\":null", "").contains("absent_since")).await;
    node.clock.advance(day * 6);
    node.restart().await;
    until(&node, "A", GpuState::Lost).await;
    node.clock.advance(day);
    node.restart().await;
    let gpus = node.agent.get_node(&me()).await.unwrap().gpus;
    assert_eq!(gpus.into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>(), ["B"], "after a week");
    written(&node, |text| !text.contains("\"A\"")).await;
    board.change(|state| (state.gpus, state.setting) = (vec!["C"], "other"));
    node.restart().await;
    let gpus = node.agent.get_node(&me()).await.unwrap().gpus;
    assert_eq!(gpus.into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>(), ["C"], "other GPUs were chosen");
    node.end().await;
}

/// Waits until the journal says something of the GPUs.
async fn written(node: &Node, wanted: impl Fn(&str) -> bool) {
    let said = async || {
        let entry = node.store.get(crate::agent::journal::GPUS).await.unwrap();
        entry.map(|entry| String::from_utf8(entry.value).unwrap())
    };
    let written = tokio::time::timeout(PATIENCE, async {
        while !said().await.is_some_and(|text| wanted(&text)) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    if written.await.is_err() {
        panic!("the journal says: {:?}", said().await);
    }
}
