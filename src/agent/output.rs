//! Serves a task's output to one reader; the log stays as long as the reader does.

use super::api::AgentHandle;
use super::message::TaskAccess;
use crate::api::stream::{Answers, LogBatch, LogQuery};
use crate::domain::command::{Error, ErrorKind};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Batches that wait in one connection; each is at most a message.
const CONNECTION: usize = 2;

/// Starts the stream; dropping the receiver ends it. Refused when too many are served already.
pub fn stream(agent: &AgentHandle, access: TaskAccess, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
    let Ok(place) = Arc::clone(&agent.log_streams).try_acquire_owned() else {
        let (task, node) = (query.task, &agent.node);
        let message = format!("logs of {task}: node {node} serves as many log streams as it may already");
        return Err(Error { retry_after_ms: Some(5000), ..Error::new(ErrorKind::Exhausted, message) });
    };
    let (batches, reader) = mpsc::channel(CONNECTION);
    let dir = agent.runtime.log_dir(query.task);
    let cancel = agent.cancel.clone();
    agent.tracker.spawn(async move {
        let TaskAccess { ended, in_use, .. } = access;
        crate::logs::stream(dir, query, ended, batches, cancel).await;
        drop((in_use, place));
    });
    Ok(reader)
}

/// What a reader of an unknown task is told.
pub fn unknown(what: &str, node: &str) -> Error {
    Error::not_found(format!("{what}: node {node} does not know this task, or has deleted its output"))
}
