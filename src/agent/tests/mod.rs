//! The agent against a scripted machine: what it does, refuses, survives, and never waits for.

mod checks;
mod controller;
mod failing;
mod faults;
pub(crate) mod fuzz;
mod gpus;
mod levels;
mod life;
mod machine;
mod remedies;
mod reporting;
mod restart;
mod store;

use super::{AgentHandle, AgentParts, AgentRunning, Deadlines, Tuning, start};
use crate::api::controller::ControllerApi;
use crate::domain::command::CommandHeader;
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuSample, Topology};
use crate::domain::ids::{Generation, GpuUuid, NodeName, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::principal::{Principal, Role};
use crate::domain::spec::CommandStyle;
use crate::domain::task::{AssignedPorts, TaskSpec, TaskState, TaskStatus};
use crate::domain::time::Timestamp;
use crate::gpu::{GpuError, GpuSource};
use crate::telemetry::clock::ManualClock;
use async_trait::async_trait;
use machine::Machine;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use store::MemoryStore;
use tokio_util::sync::CancellationToken;

/// 2026-11-22T12:00:00Z.
const NOON: Timestamp = Timestamp(1_795_348_800_000_000_000);
const PATIENCE: Duration = Duration::from_secs(20);

/// An agent and the machine it runs on; the machine and the disk outlive it.
struct Node {
    machine: Machine,
    store: Arc<MemoryStore>,
    controller: Option<Arc<dyn ControllerApi>>,
    gpus: Arc<dyn GpuSource>,
    tuning: Tuning,
    clock: Arc<ManualClock>,
    agent: AgentHandle,
    running: Option<AgentRunning>,
    cancel: CancellationToken,
}

impl Node {
    async fn new() -> Self {
        Self::with(None, tuning()).await
    }

    async fn with(controller: Option<Arc<dyn ControllerApi>>, tuning: Tuning) -> Self {
        Self::with_gpus(Arc::new(TwoGpus), controller, tuning).await
    }

    async fn with_gpus(gpus: Arc<dyn GpuSource>, controller: Option<Arc<dyn ControllerApi>>, tuning: Tuning) -> Self {
        let (machine, store) = (Machine::default(), Arc::new(MemoryStore::default()));
        let clock = Arc::new(ManualClock::new(NOON));
        let cancel = CancellationToken::new();
        let (agent, running) =
            start(parts(&machine, &store, &gpus, &controller, &tuning, &clock), cancel.clone()).await.unwrap();
        Self { machine, store, gpus, controller, tuning, clock, agent, running: Some(running), cancel }
    }

    async fn end(&mut self) {
        self.cancel.cancel();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running.join()).await.expect("the agent ends").unwrap();
        }
    }

    async fn restart(&mut self) {
        self.end().await;
        self.begin().await;
    }

    async fn begin(&mut self) {
        self.cancel = CancellationToken::new();
        let parts = parts(&self.machine, &self.store, &self.gpus, &self.controller, &self.tuning, &self.clock);
        let (agent, running) = start(parts, self.cancel.clone()).await.unwrap();
        (self.agent, self.running) = (agent, Some(running));
    }

    async fn status(&self, id: TaskId) -> Option<TaskStatus> {
        use crate::api::AgentApi;
        let (tasks, _) = self.agent.list_tasks(&me(), 0, "").await.unwrap();
        tasks.into_iter().find(|task| task.id == id)
    }

    async fn until(&self, id: TaskId, state: TaskState) -> TaskStatus {
        self.until_status(id, &format!("{id} is {state}"), |status| status.state == state).await
    }

    async fn until_status(&self, id: TaskId, what: &str, wanted: impl Fn(&TaskStatus) -> bool) -> TaskStatus {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                match self.status(id).await {
                    Some(status) if wanted(&status) => return status,
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        });
        match waited.await {
            Ok(status) => status,
            Err(_) => panic!("waited for: {what}; it is {:?}", self.status(id).await),
        }
    }
}

/// Waits for what no status shows.
async fn eventually(what: &str, mut wanted: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !wanted() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for: {what}");
}

fn parts(
    machine: &Machine,
    store: &Arc<MemoryStore>,
    gpus: &Arc<dyn GpuSource>,
    controller: &Option<Arc<dyn ControllerApi>>,
    tuning: &Tuning,
    clock: &Arc<ManualClock>,
) -> AgentParts {
    let (runtime, runtime_events) = machine.runtime();
    AgentParts {
        name: NodeName::from("n1"),
        address: "127.0.0.1:7601".to_owned(),
        task_ip: "127.0.0.1".to_owned(),
        version: "0.1.0".to_owned(),
        labels: BTreeMap::new(),
        cpus: 400,
        memory_mb: 400_000,
        ports: (15000, 29999),
        runtime,
        runtime_events,
        gpus: Arc::clone(gpus),
        gpu_events: None,
        store: store.clone(),
        controller: controller.clone(),
        clock: clock.clone(),
        tuning: tuning.clone(),
    }
}

/// Deadlines short enough to be met in a test.
fn tuning() -> Tuning {
    let short = Duration::from_millis(200);
    Tuning {
        deadlines: Deadlines {
            stage: short,
            prepare: short,
            launch: short,
            stop: short,
            remove: short,
            adopt: short,
            purge: short,
            renew: short,
            retry: (Duration::from_millis(5), Duration::from_millis(20)),
        },
        garbage_period: Duration::from_millis(20),
        ..Tuning::default()
    }
}

fn me() -> Principal {
    Principal { user: "test".to_owned(), uid: None, roles: vec![Role::Controller] }
}

fn header(generation: u64) -> CommandHeader {
    CommandHeader {
        cluster_id: "c1".to_owned(),
        term: Term(1),
        generation: Generation(generation),
        request_id: String::new(),
        deadline_ms: 20_000,
        principal: me(),
        level: Level::own(),
    }
}

pub(super) fn task(index: u32) -> TaskId {
    format!("1.1.0.{index}").parse().unwrap()
}

pub(super) fn spec(id: TaskId, gpus: &[&str]) -> TaskSpec {
    TaskSpec {
        id,
        job_name: "job".to_owned(),
        user: "u".to_owned(),
        role_name: "worker".to_owned(),
        image: String::new(),
        command: "true".to_owned(),
        command_style: CommandStyle::Shell,
        cpus: 1,
        memory_mb: 100,
        shm_mb: 64,
        gpus: gpus.iter().map(|gpu| GpuUuid::from(*gpu)).collect(),
        ports: Vec::new(),
        lease_s: None,
        debug_hold_s: None,
        files: Default::default(),
        container: Default::default(),
    }
}

fn with_port(mut spec: TaskSpec, port: u16) -> TaskSpec {
    spec.ports.push(AssignedPorts { label: "http".to_owned(), ports: vec![port] });
    spec
}

#[derive(Debug)]
struct TwoGpus;

#[async_trait]
impl GpuSource for TwoGpus {
    fn name(&self) -> &'static str {
        "two"
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        let gpu = |index| Gpu {
            uuid: GpuUuid(format!("GPU-{index}")),
            index,
            minor: index,
            model: "NVIDIA H100".to_owned(),
            gpu_type: "H100".to_owned(),
            memory_mb: 81_920,
            pci: format!("00000000:0{index}:00.0"),
            numa_node: None,
            mig_parent: None,
            ..Gpu::default()
        };
        Ok((vec![gpu(0), gpu(1)], Topology::default()))
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        Ok(vec![(GpuUuid::from("GPU-0"), GpuSample { power_w: Some(70), ..GpuSample::default() })])
    }

    async fn processes(&self, _: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        Ok(GpuProcesses::default())
    }

    fn driver(&self) -> GpuDriver {
        GpuDriver { state: DriverState::Ok, ..GpuDriver::default() }
    }
}
