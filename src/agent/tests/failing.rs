//! A journal that cannot be written.

use super::{Node, header, spec, task};
use crate::api::AgentApi;
use crate::domain::command::ErrorKind;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use std::sync::Arc;

#[tokio::test]
async fn new_work_is_refused_and_running_tasks_can_be_stopped() {
    let controller = Arc::new(super::controller::Scripted::default());
    let mut node = Node::with(Some(controller.clone()), super::tuning()).await;
    controller.until("a heartbeat", |seen| seen.heartbeats > 0).await;
    for index in 0..2 {
        node.agent.prepare(header(1), spec(task(index), &[])).await.unwrap();
        node.agent.launch(header(1), task(index), Vec::new(), TaskSecrets::default()).await.unwrap();
        node.until(task(index), TaskState::Running).await;
    }
    node.store.set_full(true);
    // The first write that fails is the stop's own; it is carried out all the same.
    node.agent.stop(header(1), task(0), 0).await.ok();
    controller
        .until("the end is reported", |seen| {
            seen.statuses.values().any(|status| status.id == task(0) && status.state == TaskState::Stopped)
        })
        .await;
    let error = node.agent.prepare(header(1), spec(task(5), &["GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("the disk is full"), "{}", error.message);
    assert_eq!(node.machine.count("prepare", task(5)), 0);
    assert_eq!(node.agent.stop(header(1), task(1), 0).await.unwrap().id, task(1));
    node.store.set_full(false);
    assert!(!node.agent.release(header(1), task(0)).await.unwrap().holding);
    node.agent.prepare(header(1), spec(task(5), &["GPU-0"])).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn nothing_runs_before_it_is_durable() {
    let mut node = Node::new().await;
    node.store.set_hanging(true);
    let mut hasty = header(1);
    hasty.deadline_ms = 50;
    let error = node.agent.prepare(hasty, spec(task(0), &["GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    assert_eq!(node.machine.count("prepare", task(0)), 0);
    node.store.set_hanging(false);
    node.until(task(0), TaskState::Ready).await;
    assert_eq!(node.machine.count("prepare", task(0)), 1);
    node.end().await;
}

#[tokio::test]
async fn a_specification_too_long_for_the_journal_is_named() {
    let mut node = Node::new().await;
    let mut long = spec(task(0), &[]);
    long.command = "x".repeat(300 * 1024);
    let error = node.agent.prepare(header(1), long).await.unwrap_err();
    assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::Invalid, "task.command"));
    node.end().await;
}

#[tokio::test]
async fn a_specification_that_json_makes_too_long_is_named_too() {
    let mut node = Node::new().await;
    let mut long = spec(task(0), &[]);
    long.command = "\u{1}".repeat(60 * 1024);
    let error = node.agent.stage(header(1), long).await.unwrap_err();
    assert_eq!((error.kind, error.violations[0].field.as_str()), (ErrorKind::Invalid, "task.command"));
    assert!(error.violations[0].found.contains("JSON"), "{error:?}");
    node.end().await;
}

#[tokio::test]
async fn no_record_is_too_long_for_the_journal() {
    let mut node = Node::new().await;
    // As long as it may be, in characters that JSON writes in six bytes each.
    node.machine.set_notices((0..50).map(|n| format!("{n}{}", "\u{1}".repeat(4000))).collect());
    node.machine.fail("prepare", &"\u{2}".repeat(1 << 20), false);
    let mut long = spec(task(0), &[]);
    long.command = "x".repeat(220 * 1024);
    node.agent.stage(header(1), long.clone()).await.unwrap();
    node.agent.prepare(header(1), long).await.unwrap_err();
    // Others are written, and so is it.
    node.agent.stop(header(1), task(1), 0).await.unwrap();
    assert!(node.store.text(&format!("task/{}", task(0))).unwrap().contains("too long for the node's journal"));
    node.restart().await;
    assert_eq!(node.until(task(0), TaskState::Failed).await.id, task(0));
    node.agent.release(header(1), task(0)).await.unwrap();
    node.end().await;
}
