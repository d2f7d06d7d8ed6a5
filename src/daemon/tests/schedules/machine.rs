//! A played machine: tasks that outlive the agent, and the records that they write themselves.

use super::gate::Gate;
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::gpu::Gpu;
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::task::TaskSpec;
use crate::runtime::{Adopted, Launch, Notices, Runtime, RuntimeError, RuntimeEvent, RuntimeEventKind};
use crate::telemetry::clock::Clock;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// Of everything that a runtime is asked for.
const LATENCY: Duration = Duration::from_millis(20);
/// How long a shim lets a task end by itself after its lease.
const LEASE_GRACE: Duration = Duration::from_secs(10);

/// Why an execution came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The command ended by itself.
    Own,
    /// The agent asked for it.
    Stopped,
    LeaseRanOut,
    /// The machine was rebooted.
    Reboot,
}

/// What a command writes down of itself, wherever anybody else is.
#[derive(Debug, Clone)]
pub struct Execution {
    pub task: TaskId,
    pub node: String,
    pub gpus: Vec<GpuUuid>,
    pub ports: Vec<u16>,
    pub from: Instant,
    pub until: Option<Instant>,
    pub cause: Option<Cause>,
    /// How it ends if nobody ends it before.
    pub own_code: i32,
}

#[derive(Debug)]
struct Live {
    spec: TaskSpec,
    found: Adopted,
    /// Asked to end: how long it may take.
    stop: Arc<Notify>,
    lease_until: Arc<watch::Sender<Option<Instant>>>,
    /// Which of the executions is its.
    execution: Option<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: BTreeMap<TaskId, Live>,
    executions: Vec<Execution>,
    sink: Option<mpsc::Sender<RuntimeEvent>>,
    failing_prepares: u32,
}

#[derive(Debug)]
pub struct Machine {
    pub name: String,
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// The daemon that runs containers answers nobody while this is set.
    pub hung: watch::Sender<bool>,
}

/// How a command behaves, as its text says: milliseconds, exit status, and whether it pays attention to SIGTERM.
fn behaviour(command: &str) -> (Duration, i32, bool) {
    let mut words = command.split(' ');
    let mut number = || words.next().and_then(|word| word.parse::<i32>().ok()).expect("a behaviour");
    (Duration::from_millis(u64::try_from(number()).expect("not negative")), number(), number() != 0)
}

impl Machine {
    pub fn new(name: &str, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), clock, inner: Mutex::default(), hung: watch::channel(false).0 })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().expect("nobody panics with it"))
    }

    /// The runtime of an agent's process.
    pub fn runtime(self: &Arc<Self>, gate: Gate) -> (Arc<Played>, mpsc::Receiver<RuntimeEvent>) {
        let (sink, events) = mpsc::channel(1024);
        self.with(|inner| inner.sink = Some(sink));
        (Arc::new(Played { machine: self.clone(), gate }), events)
    }

    /// The agent's process is gone.
    pub fn orphan(&self) {
        self.with(|inner| inner.sink = None);
    }

    pub fn fail_prepares(&self, count: u32) {
        self.with(|inner| inner.failing_prepares = count);
    }

    /// Everything that ran is gone at once, without a trace.
    pub fn reboot(&self) {
        let now = Instant::now();
        self.with(|inner| {
            inner.sink = None;
            for live in std::mem::take(&mut inner.tasks).into_values() {
                if let Some(execution) = live.execution.map(|index| &mut inner.executions[index])
                    && execution.until.is_none()
                {
                    (execution.until, execution.cause) = (Some(now), Some(Cause::Reboot));
                }
            }
        });
    }

    pub fn executions(&self) -> Vec<Execution> {
        self.with(|inner| inner.executions.clone())
    }

    /// Whether anything is left of a task.
    pub fn left(&self) -> Vec<TaskId> {
        self.with(|inner| inner.tasks.keys().copied().collect())
    }

    fn begin(self: &Arc<Self>, id: TaskId) {
        let now = self.clock.now();
        let (duration, own_code, heeds) = self.with(|inner| behaviour(&inner.tasks[&id].spec.command));
        let started = self.with(|inner| {
            let node = self.name.clone();
            let live = inner.tasks.get_mut(&id)?;
            if live.found != Adopted::Waiting {
                return None;
            }
            live.found = Adopted::Running { started_at: now };
            live.execution = Some(inner.executions.len());
            inner.executions.push(Execution {
                task: id,
                node,
                gpus: live.spec.gpus.clone(),
                ports: live.spec.ports.iter().flat_map(|label| label.ports.clone()).collect(),
                from: Instant::now(),
                until: None,
                cause: None,
                own_code,
            });
            Some((live.stop.clone(), live.lease_until.subscribe(), inner.executions.len() - 1))
        });
        let Some((stop, lease, execution)) = started else { return };
        self.tell(id, RuntimeEventKind::Started { at: now });
        let machine = self.clone();
        tokio::spawn(async move {
            let own = tokio::time::sleep(duration);
            tokio::pin!(own);
            let cause = tokio::select! {
                () = &mut own => Cause::Own,
                () = stop.notified() => {
                    let grace = if heeds { Duration::from_millis(100) } else { Duration::from_secs(5) };
                    tokio::select! {
                        () = &mut own => Cause::Own,
                        () = tokio::time::sleep(grace) => Cause::Stopped,
                    }
                }
                () = ran_out(lease) => {
                    tokio::time::sleep(LEASE_GRACE).await;
                    Cause::LeaseRanOut
                }
            };
            machine.end(id, execution, cause);
        });
    }

    fn end(&self, id: TaskId, execution: usize, cause: Cause) {
        let at = self.clock.now();
        let exit = self.with(|inner| {
            let record = &mut inner.executions[execution];
            if record.until.is_some() {
                // The machine was rebooted meanwhile.
                return None;
            }
            (record.until, record.cause) = (Some(Instant::now()), Some(cause));
            let exit = exit_of(cause, record.own_code);
            let live = inner.tasks.get_mut(&id).filter(|live| live.execution == Some(execution))?;
            let Adopted::Running { started_at } = live.found else { return None };
            live.found = Adopted::Ended { started_at: Some(started_at), at, exit: exit.clone() };
            Some(exit)
        });
        if let Some(exit) = exit {
            self.tell(id, RuntimeEventKind::Exited { at, exit });
        }
    }

    fn tell(&self, id: TaskId, kind: RuntimeEventKind) {
        let sink = self.with(|inner| inner.sink.clone());
        if let Some(sink) = sink {
            // An agent that has gone is told when it adopts.
            let _ = sink.try_send(RuntimeEvent { id, kind });
        }
    }
}

fn exit_of(cause: Cause, code: i32) -> Exit {
    match cause {
        Cause::Own if code == 0 => Exit::success(),
        Cause::Own => Exit {
            code: Some(code),
            ..Exit::without_status(ExitClass::User, format!("the command ended with status {code}"))
        },
        Cause::Stopped => Exit { signal: Some(15), ..Exit::without_status(ExitClass::Stopped, "stopped by SIGTERM") },
        Cause::LeaseRanOut | Cause::Reboot => Exit::without_status(ExitClass::Platform, "its lease ran out"),
    }
}

/// Waits until nobody has renewed for as long as the lease says.
async fn ran_out(mut lease: watch::Receiver<Option<Instant>>) {
    loop {
        let until = *lease.borrow_and_update();
        let Some(until) = until else { return std::future::pending().await };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = lease.changed() => if changed.is_err() { return std::future::pending().await },
        }
    }
}

/// The machine, as one agent's process reaches it.
#[derive(Debug)]
pub struct Played {
    machine: Arc<Machine>,
    gate: Gate,
}

impl Played {
    async fn call(&self) {
        tokio::time::sleep(LATENCY).await;
        let mut hung = self.machine.hung.subscribe();
        let _ = hung.wait_for(|hung| !hung).await;
        self.gate.pass().await;
    }

    fn failed(operation: &'static str, task: TaskId) -> RuntimeError {
        RuntimeError { operation, task, message: "the runtime has no memory left".to_owned(), user_error: false }
    }
}

#[async_trait]
impl Runtime for Played {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn stage(&self, _: &TaskSpec) -> Result<Notices, RuntimeError> {
        self.call().await;
        Ok(Notices::default())
    }

    async fn prepare(&self, task: &TaskSpec, _: &[Gpu]) -> Result<Notices, RuntimeError> {
        self.call().await;
        let made = self.machine.with(|inner| {
            if inner.failing_prepares > 0 {
                inner.failing_prepares -= 1;
                return false;
            }
            let lease = task.lease_s.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
            let lease_until = Arc::new(watch::channel(lease).0);
            let live = Live {
                spec: task.clone(),
                found: Adopted::Waiting,
                stop: Arc::default(),
                lease_until,
                execution: None,
            };
            inner.tasks.entry(task.id).or_insert(live);
            true
        });
        self.call().await;
        if made { Ok(Notices::default()) } else { Err(Self::failed("prepare", task.id)) }
    }

    async fn launch(&self, id: TaskId, _: &Launch) -> Result<(), RuntimeError> {
        self.call().await;
        if !self.machine.with(|inner| inner.tasks.contains_key(&id)) {
            return Err(Self::failed("launch", id));
        }
        self.machine.begin(id);
        self.call().await;
        Ok(())
    }

    async fn stop(&self, id: TaskId, _: Duration) -> Result<(), RuntimeError> {
        self.call().await;
        let at = self.machine.clock.now();
        let at_barrier = self.machine.with(|inner| {
            let live = inner.tasks.get_mut(&id)?;
            if live.found != Adopted::Waiting {
                live.stop.notify_one();
                return None;
            }
            let exit = exit_of(Cause::Stopped, 0);
            live.found = Adopted::Ended { started_at: None, at, exit: exit.clone() };
            Some(exit)
        });
        if let Some(exit) = at_barrier {
            self.machine.tell(id, RuntimeEventKind::Exited { at, exit });
        }
        Ok(())
    }

    async fn remove(&self, id: TaskId) -> Result<(), RuntimeError> {
        self.call().await;
        self.machine.with(|inner| {
            let Some(live) = inner.tasks.remove(&id) else { return };
            if let Some(execution) = live.execution.map(|index| &mut inner.executions[index])
                && execution.until.is_none()
            {
                (execution.until, execution.cause) = (Some(Instant::now()), Some(Cause::Stopped));
            }
        });
        Ok(())
    }

    async fn adopt(&self, task: &TaskSpec) -> Result<Adopted, RuntimeError> {
        self.call().await;
        Ok(self.machine.with(|inner| inner.tasks.get(&task.id).map_or(Adopted::Gone, |live| live.found.clone())))
    }

    async fn renew_lease(&self, id: TaskId, sent_boottime: Duration) -> Result<(), RuntimeError> {
        self.call().await;
        let ago = self.machine.clock.boottime().saturating_sub(sent_boottime);
        self.machine.with(|inner| {
            let Some(live) = inner.tasks.get(&id) else { return };
            let Some(lease) = live.spec.lease_s else { return };
            let until = Instant::now() + Duration::from_secs(lease.into()) - ago;
            live.lease_until
                .send_if_modified(|now| now.is_some_and(|at| at < until).then(|| *now = Some(until)).is_some());
        });
        Ok(())
    }

    async fn exec(&self, id: TaskId, _: ExecSpec) -> Result<ExecSession, RuntimeError> {
        Err(Self::failed("exec", id))
    }

    fn log_dir(&self, id: TaskId) -> PathBuf {
        PathBuf::from("/nonexistent/wharf-played-machine").join(id.to_string())
    }

    async fn clear_work(&self, _: TaskId) -> Result<(), RuntimeError> {
        self.call().await;
        Ok(())
    }

    async fn purge(&self, _: TaskId) -> Result<(), RuntimeError> {
        self.call().await;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<TaskId>, RuntimeError> {
        self.call().await;
        Ok(self.machine.left())
    }
}
