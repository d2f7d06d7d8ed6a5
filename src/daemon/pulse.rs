//! An agent's sign of life: one line on its tasks and GPUs, as its actor answers. The actor waits for nothing, so
//! whatever it answers proves that it works; what it cannot prove is that the disk or a driver does.

use crate::agent::AgentHandle;
use crate::api::AgentApi;
use crate::domain::command::Error;
use crate::domain::gpu::GpuState;
use crate::domain::principal::{Principal, Role};
use crate::domain::task::TaskState;

/// Through the queue of every other request: a full one is no sign of life, and is asked again.
pub(super) async fn of_agent(agent: &AgentHandle) -> Result<String, Error> {
    let who = Principal { user: "root".to_owned(), uid: Some(0), roles: vec![Role::Agent] };
    let node = agent.get_node(&who).await?;
    let (tasks, more) = agent.list_tasks(&who, 0, "").await?;
    let running = tasks.iter().filter(|task| task.state == TaskState::Running).count();
    let held = node.gpus.iter().filter(|gpu| gpu.state == GpuState::Held).count();
    let or_more = if more.is_empty() { "" } else { " or more" };
    let gpus = node.gpus.len();
    Ok(format!("node {}: {}{or_more} tasks, {running} RUNNING; {held} of {gpus} GPUs held", node.name, tasks.len()))
}
