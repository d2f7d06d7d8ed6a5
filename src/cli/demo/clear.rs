//! The end of the demo: nothing of it stays, or it is said what does.

use super::{JOB_NAME, LOOK, PATIENCE, STOP_GRACE_MS};
use crate::api::{AgentApi, ControllerApi};
use crate::cli::context::Context;
use crate::cli::fail::Failure;
use crate::cli::serve::Both;
use crate::cli::wait::{has_ended, wait_for_end};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::JobId;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// For the daemons to end once they were told.
const ENDING: Duration = Duration::from_secs(10);

/// The demo leaves nothing behind: its job is stopped if it has not ended, and its folder goes only when none of its
/// tasks uses it any more.
pub(super) async fn clear_away(
    context: &Context,
    controller: &dyn ControllerApi,
    agent: &dyn AgentApi,
) -> Result<(), Error> {
    let cleared = async {
        let job = match controller.get_job(&context.who, JOB_NAME, None).await {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            job => job?,
        };
        let id = job.job_id.to_string();
        if !has_ended(&job) {
            controller.stop_job(&context.who, &id, Some(STOP_GRACE_MS)).await?;
            // Until then a task could begin yet.
            wait_for_end(controller, context, &id).await?;
        }
        while holds_tasks_of(context, agent, JobId(job.job_id)).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    let seconds = PATIENCE.as_secs();
    let late = |_| Error::new(ErrorKind::DeadlineExceeded, format!("they are not gone in {seconds} s"));
    tokio::time::timeout(PATIENCE, cleared).await.map_err(late)?
}

/// Whether the agent still has something of a job: processes, GPUs, ports.
async fn holds_tasks_of(context: &Context, agent: &dyn AgentApi, job: JobId) -> Result<bool, Error> {
    let mut token = String::new();
    loop {
        let (tasks, next) = agent.list_tasks(&context.who, 0, &token).await?;
        if tasks.iter().any(|task| task.id.job == job && (task.holding || !task.state.is_terminal())) {
            return Ok(true);
        }
        if next.is_empty() || next == token {
            return Ok(false);
        }
        token = next;
    }
}

pub(super) async fn end(both: Both, cancel: CancellationToken) {
    cancel.cancel();
    match tokio::time::timeout(ENDING, both.join()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "ending the demo"),
        Err(_) => tracing::warn!("controller and agent of the demo do not end"),
    }
}

/// The demo's state: a folder of its own that goes with it, or one that the caller names and keeps.
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) keep: bool,
}

impl Folder {
    pub(super) fn make(named: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self { path: std::path::absolute(path)?, keep: true });
        }
        let path = std::env::temp_dir().join(format!("wharf-demo-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path)?;
        Ok(Self { path, keep: false })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, folder = %self.path.display(), "the demo's folder is not removed");
        }
    }
}
