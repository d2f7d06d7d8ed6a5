//! A controller of the level before, or after, has had the store; agents of other levels want to join.

use super::cluster::{Cluster, history};
use super::jobs::{job, role};
use super::{NOON, node_agent, user};
use crate::api::ControllerApi;
use crate::controller::transfer::{Kind, Source, transfer};
use crate::domain::command::{ErrorKind, Registration};
use crate::domain::exit::Exit;
use crate::domain::level::Level;
use crate::domain::run::Phase;
use crate::store::snapshot::Snapshot;
use crate::store::sqlite::SqliteStore;
use crate::store::{Entry, Op, Range, Store, StoreError, Transaction};
use serde_json::{Value, json};
use std::sync::Arc;

async fn put(store: &dyn Store, key: &str, value: impl ToString) {
    let op = Op::Put { key: key.to_owned(), value: value.to_string().into_bytes() };
    store.commit(Transaction { compares: Vec::new(), ops: vec![op] }).await.unwrap();
}

async fn text(store: &dyn Store, key: &str) -> Option<String> {
    store.get(key).await.unwrap().map(|entry| String::from_utf8(entry.value).unwrap())
}

async fn everything(store: &dyn Store) -> Vec<Entry> {
    store.range(Range::prefix("")).await.unwrap().0
}

/// What the next level does to a store: its mark, fields, and kinds of keys.
async fn as_of_the_next_level(store: &dyn Store) {
    let mut grown = 0;
    for entry in everything(store).await {
        let Ok(Value::Object(mut object)) = serde_json::from_slice::<Value>(&entry.value) else { continue };
        object.insert("of_the_next_level".to_owned(), json!({ "a": [1] }));
        put(store, &entry.key, Value::Object(object)).await;
        grown += 1;
    }
    assert!(grown > 3, "jobs, runs, tasks and nodes are objects");
    put(store, "meta/of_the_next_level", "x").await;
    put(store, "of_the_next_level/1", "x").await;
    put(store, "meta/level", Level::newest()).await;
}

#[tokio::test]
async fn a_store_of_the_next_level_is_gone_on_with_and_keeps_its_mark() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    assert_eq!(text(&*cluster.store, "meta/level").await, Some(Level::own().to_string()));
    let id = cluster.submit(&job("before", &[role("worker", 1, 1)])).await;
    let waiting = cluster.submit(&job("waiting", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.kill().await;
    as_of_the_next_level(&*cluster.store).await;
    cluster.begin().await;
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.until_phase(waiting, Phase::Running).await;
    assert_eq!(cluster.launches(cluster.run(id).id), [1]);
    assert_eq!(text(&*cluster.store, "meta/level").await, Some(Level::newest().to_string()));
    assert_eq!(text(&*cluster.store, "of_the_next_level/1").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_store_beyond_the_next_level_is_refused_as_it_is() {
    let store = Arc::new(SqliteStore::open_in_memory().unwrap());
    put(&*store, "meta/cluster_id", "c").await;
    put(&*store, "meta/term", 7).await;
    for mark in [Level(Level::newest().0 + 1).to_string(), "x".to_owned()] {
        put(&*store, "meta/level", &mark).await;
        let before = everything(&*store).await;
        let error = crate::controller::persist::take_term(&*store, "fresh").await.unwrap_err().to_string();
        assert!(error.contains("level") && error.contains(&mark), "{error}");
        assert_eq!(everything(&*store).await, before);
    }
    // Without a mark it is of the first level.
    let op = Op::Delete { key: "meta/level".to_owned() };
    store.commit(Transaction { compares: Vec::new(), ops: vec![op] }).await.unwrap();
    let (cluster_id, term) = crate::controller::persist::take_term(&*store, "fresh").await.unwrap();
    assert_eq!((cluster_id.as_str(), term.0), ("c", 8));
}

#[derive(Debug)]
struct From(Arc<dyn Store>);

#[async_trait::async_trait]
impl Source for From {
    fn name(&self) -> String {
        "sqlite:/from".to_owned()
    }

    async fn open(&self) -> Result<Snapshot, StoreError> {
        Ok(Snapshot::of_quiet(self.0.clone()))
    }

    fn store(&self) -> Option<Arc<dyn Store>> {
        None
    }
}

#[tokio::test]
async fn only_what_can_be_read_is_restored() {
    let (source, target) = (SqliteStore::open_in_memory().unwrap(), Arc::new(SqliteStore::open_in_memory().unwrap()));
    put(&source, "meta/cluster_id", "c").await;
    put(&source, "meta/level", Level(Level::newest().0 + 1)).await;
    put(&*target, "meta/cluster_id", "old").await;
    let (source, target) = (From(Arc::new(source)), target as Arc<dyn Store>);
    let (kind, tell) = (Kind::Restore { made_at: NOON, now: NOON }, |_: &str, _: u64| {});
    let error = transfer(&source, &target, "sqlite:/to", kind.clone(), true, &tell).await.unwrap_err();
    assert!(error.message.starts_with("sqlite:/from was written by a newer wharf"), "{error}");
    assert_eq!(text(&*target, "meta/cluster_id").await.as_deref(), Some("old"), "nothing was deleted for it");
    put(&*source.0, "meta/level", Level::newest()).await;
    transfer(&source, &target, "sqlite:/to", kind, true, &tell).await.unwrap();
    assert_eq!(text(&*target, "meta/level").await, Some(Level::newest().to_string()), "the mark goes with it");
}

#[tokio::test]
async fn agents_one_level_away_join_and_others_are_told_why_not() {
    let cluster = Cluster::on(Arc::new(SqliteStore::open_in_memory().unwrap()), history(), &[("n1", 1)]).await;
    let of = |level| Registration { level, ..cluster.agent("n1").registration() };
    let registered = cluster.controller.register(&node_agent("n1"), of(Level::newest())).await.unwrap();
    assert_eq!(registered.level, Level::own());
    let refused = cluster.controller.register(&node_agent("n1"), of(Level(Level::newest().0 + 1))).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    assert!(refused.message.contains("the agent of node n1, wharf 0.1.0, speaks level"), "{refused}");
    assert_eq!(cluster.controller.list_nodes(&user("ann")).await.unwrap().len(), 1);
}
