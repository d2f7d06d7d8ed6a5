//! An agent of the level before, or after, has had the journal and the controller.

use super::controller::Scripted;
use super::{Node, eventually, header, me, parts, spec, task, tuning};
use crate::agent::start;
use crate::api::AgentApi;
use crate::domain::command::{CommandHeader, ErrorKind};
use crate::domain::level::Level;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use crate::store::{Op, Store, Transaction};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

async fn put(node: &Node, key: &str, value: impl ToString) {
    let op = Op::Put { key: key.to_owned(), value: value.to_string().into_bytes() };
    node.store.commit(Transaction { compares: Vec::new(), ops: vec![op] }).await.unwrap();
}

async fn running(node: &Node, index: u32) {
    node.agent.prepare(header(1), spec(task(index), &["GPU-0"])).await.unwrap();
    node.agent.launch(header(1), task(index), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(index), TaskState::Running).await;
}

/// What the next level does to a journal: its mark, fields, and kinds of keys.
async fn as_of_the_next_level(node: &Node) {
    let key = format!("task/{}", task(0));
    let mut record: Value = serde_json::from_str(&node.store.text(&key).unwrap()).unwrap();
    record["of_the_next_level"] = json!({ "a": [1] });
    record["record"]["of_the_next_level"] = json!("a");
    put(node, &key, &record).await;
    put(node, "meta/of_the_next_level", "x").await;
    put(node, "of_the_next_level/1", "x").await;
    put(node, "meta/level", Level::newest()).await;
}

#[tokio::test]
async fn a_journal_of_the_next_level_is_gone_on_with_and_keeps_its_mark() {
    let mut node = Node::new().await;
    assert_eq!(node.store.text("meta/level"), Some(Level::own().to_string()));
    running(&node, 0).await;
    node.end().await;
    as_of_the_next_level(&node).await;
    node.begin().await;
    node.until(task(0), TaskState::Running).await;
    assert_eq!(node.machine.count("prepare", task(0)), 1);
    assert_eq!(node.store.text("meta/level"), Some(Level::newest().to_string()), "what it holds is still there");
    assert_eq!(node.store.text("of_the_next_level/1").as_deref(), Some("x"));
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    node.until(task(0), TaskState::Stopped).await;
    node.end().await;
}

#[tokio::test]
async fn a_journal_from_before_there_were_marks_is_of_the_first_level() {
    let mut node = Node::new().await;
    running(&node, 0).await;
    node.end().await;
    let op = Op::Delete { key: "meta/level".to_owned() };
    node.store.commit(Transaction { compares: Vec::new(), ops: vec![op] }).await.unwrap();
    node.begin().await;
    node.until(task(0), TaskState::Running).await;
    node.end().await;
}

#[tokio::test]
async fn a_journal_beyond_the_next_level_is_refused_as_it_is() {
    let mut node = Node::new().await;
    running(&node, 0).await;
    node.end().await;
    for (mark, said) in
        [(Level(Level::newest().0 + 1).to_string(), "written by a newer wharf"), ("x".to_owned(), "'x'")]
    {
        put(&node, "meta/level", mark).await;
        let before = node.store.everything();
        let parts = parts(&node.machine, &node.store, &node.gpus, &node.controller, &node.tuning, &node.clock);
        let error = start(parts, CancellationToken::new()).await.unwrap_err();
        assert!(error.message.contains(said), "{error}");
        assert_eq!(node.store.everything(), before);
    }
    put(&node, "meta/level", Level::own()).await;
    node.begin().await;
    node.until(task(0), TaskState::Running).await;
    node.end().await;
}

#[tokio::test]
async fn a_controller_that_is_too_far_away_is_not_joined_and_its_tasks_go_on() {
    let controller = Arc::new(Scripted::default());
    controller.with(|seen| seen.level = Level(Level::newest().0 + 1));
    let mut node = Node::with(Some(controller.clone()), tuning()).await;
    controller.until("a registration", |seen| !seen.registrations.is_empty()).await;
    assert_eq!(controller.with(|seen| seen.registrations[0].level), Level::own());
    node.end().await;
    assert_eq!(controller.with(|seen| seen.heartbeats), 0);
    assert_eq!(node.store.text("meta/cluster_id"), None, "it belongs to nobody yet");
    // The next level's is joined.
    controller.with(|seen| seen.level = Level::newest());
    node.begin().await;
    controller.until("a heartbeat", |seen| seen.heartbeats > 0).await;
    eventually("it belongs to the cluster", || node.store.text("meta/cluster_id").is_some()).await;
    node.end().await;
}

#[tokio::test]
async fn commands_say_the_level_of_the_controller() {
    let mut node = Node::new().await;
    let of = |level| CommandHeader { level, ..header(1) };
    let far = of(Level(Level::newest().0 + 1));
    let error = node.agent.prepare(far, spec(task(0), &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("speaks level"), "{error}");
    assert!(node.agent.list_tasks(&me(), 0, "").await.unwrap().0.is_empty());
    node.agent.prepare(of(Level::newest()), spec(task(0), &[])).await.unwrap();
    node.end().await;
}
