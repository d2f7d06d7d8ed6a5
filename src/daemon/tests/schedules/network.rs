//! What lies between the controllers and the agents: calls take a moment, and either direction may be cut.

use super::gate::Gate;
use crate::agent::AgentHandle;
use crate::api::agent::{AgentDialer, NodeInfo, WatchedStatus};
use crate::api::controller::{EventFilter, JobFilter, Submit};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::api::{AgentApi, ControllerApi};
use crate::controller::Controller;
use crate::domain::command::{
    CommandHeader, Error, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::event::Event;
use crate::domain::ids::{JournalId, NodeName, NodeUid, TaskId};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{TaskSpec, TaskStatus};
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One way, when nothing is wrong.
const LATENCY: Duration = Duration::from_millis(3);
/// After which a caller gives up on somebody who does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything between one node and the controllers, and who is at its two ends at present.
#[derive(Debug, Default)]
pub struct Link {
    pub to_agent_cut: AtomicBool,
    pub to_controller_cut: AtomicBool,
    pub agent: Mutex<Option<AgentHandle>>,
}

async fn lost<T>() -> Result<T, Error> {
    tokio::time::sleep(PATIENCE).await;
    Err(Error::unavailable("no answer within 5 s"))
}

/// One call over two directions. What has reached the other side is done there, whether or not anybody hears of it.
async fn call<T: Send + 'static>(
    there: &AtomicBool,
    back: &AtomicBool,
    gate: &Gate,
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    gate.pass().await;
    tokio::time::sleep(LATENCY).await;
    if there.load(Ordering::Acquire) {
        return lost().await;
    }
    let answer = tokio::spawn(work).await.unwrap_or_else(|_| Err(Error::unavailable("the other side has gone")));
    tokio::time::sleep(LATENCY).await;
    gate.pass().await;
    if back.load(Ordering::Acquire) {
        return lost().await;
    }
    answer
}

fn unscripted<T>() -> Result<T, Error> {
    Err(Error::internal("nobody asks this in a schedule"))
}

/// How one controller's process reaches the agents.
#[derive(Debug)]
pub struct Agents {
    pub links: BTreeMap<String, Arc<Link>>,
    pub gate: Gate,
}

impl AgentDialer for Agents {
    fn dial(&self, _node: &NodeName, address: &str) -> Result<Arc<dyn AgentApi>, Error> {
        let link = self.links.get(address).ok_or_else(|| Error::unavailable(format!("nobody is at {address}")))?;
        Ok(Arc::new(ToAgent { link: link.clone(), gate: self.gate.clone() }))
    }
}

#[derive(Debug)]
struct ToAgent {
    link: Arc<Link>,
    gate: Gate,
}

impl ToAgent {
    async fn ask<T, F>(&self, work: impl FnOnce(AgentHandle) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let link = self.link.clone();
        let there = async move {
            let agent = link.agent.lock().expect("nobody panics with it").clone();
            match agent {
                Some(agent) => work(agent).await,
                None => Err(Error::unavailable("the connection was refused")),
            }
        };
        call(&self.link.to_agent_cut, &self.link.to_controller_cut, &self.gate, there).await
    }
}

#[async_trait]
impl AgentApi for ToAgent {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.ask(|agent| async move { agent.stage(header, task).await }).await
    }

    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.ask(|agent| async move { agent.prepare(header, task).await }).await
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        self.ask(move |agent| async move { agent.launch(header, id, env, secrets).await }).await
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error> {
        self.ask(move |agent| async move { agent.stop(header, id, grace_ms).await }).await
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        self.ask(move |agent| async move { agent.release(header, id).await }).await
    }

    async fn list_tasks(
        &self,
        who: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error> {
        let (who, token) = (who.clone(), token.to_owned());
        self.ask(move |agent| async move { agent.list_tasks(&who, page_size, &token).await }).await
    }

    async fn get_node(&self, _: &Principal) -> Result<NodeInfo, Error> {
        unscripted()
    }

    async fn watch(&self, _: &Principal, _: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        unscripted()
    }

    async fn logs(&self, _: &Principal, _: LogQuery) -> Result<Answers<LogBatch>, Error> {
        unscripted()
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        unscripted()
    }
}

/// Who leads at present, as the agents know it.
pub type Leader = Arc<Mutex<Option<Controller>>>;

/// How one agent's process reaches the controller.
#[derive(Debug)]
pub struct ToController {
    pub link: Arc<Link>,
    pub leader: Leader,
    pub gate: Gate,
}

impl ToController {
    async fn ask<T, F>(&self, work: impl FnOnce(Controller) -> F + Send + 'static) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let leader = self.leader.clone();
        let there = async move {
            let controller = leader.lock().expect("nobody panics with it").clone();
            match controller {
                Some(controller) => work(controller).await,
                None => Err(Error::unavailable("the connection was refused")),
            }
        };
        call(&self.link.to_controller_cut, &self.link.to_agent_cut, &self.gate, there).await
    }
}

#[async_trait]
impl ControllerApi for ToController {
    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error> {
        let who = who.clone();
        self.ask(|controller| async move { controller.register(&who, registration).await }).await
    }

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        let who = who.clone();
        self.ask(|controller| async move { controller.heartbeat(&who, heartbeat).await }).await
    }

    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        let who = who.clone();
        self.ask(|controller| async move { controller.report(&who, node_uid, journal_id, statuses).await }).await
    }

    async fn submit(&self, _: &Principal, _: Submit) -> Result<Submitted, Error> {
        unscripted()
    }

    async fn list_jobs(&self, _: &Principal, _: JobFilter, _: u32, _: &str) -> Result<(Vec<JobView>, String), Error> {
        unscripted()
    }

    async fn get_job(&self, _: &Principal, _: &str, _: Option<i64>) -> Result<JobView, Error> {
        unscripted()
    }

    async fn explain_job(&self, _: &Principal, _: &str) -> Result<Explanation, Error> {
        unscripted()
    }

    async fn stop_job(&self, _: &Principal, _: &str, _: Option<u64>) -> Result<JobView, Error> {
        unscripted()
    }

    async fn list_nodes(&self, _: &Principal) -> Result<Vec<NodeView>, Error> {
        unscripted()
    }

    async fn describe_node(&self, _: &Principal, _: &str) -> Result<NodeDetail, Error> {
        unscripted()
    }

    async fn change_node(&self, _: &Principal, _: &str, _: NodeChange) -> Result<NodeView, Error> {
        unscripted()
    }

    async fn list_gpus(&self, _: &Principal, _: Option<&str>) -> Result<Vec<GpuView>, Error> {
        unscripted()
    }

    async fn watch(&self, _: &Principal, _: EventFilter) -> Result<Answers<Event>, Error> {
        unscripted()
    }

    async fn logs(&self, _: &Principal, _: LogQuery) -> Result<Answers<LogBatch>, Error> {
        unscripted()
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        unscripted()
    }
}
