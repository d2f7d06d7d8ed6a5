//! One commit of a whole life fails, each in turn: not written at all, or written without an answer.

use super::cluster::{Cluster, history};
use super::jobs::{job, role, submission, with};
use super::user;
use crate::api::ControllerApi;
use crate::domain::exit::Exit;
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::history::EventLog;
use crate::store::sqlite::SqliteStore;
use serde_json::json;
use std::sync::Arc;
use tokio::task::JoinSet;

type History = (Arc<EventLog>, Arc<tempfile::TempDir>);

fn flaky(failing: u64, failure: Failure) -> Arc<FlakyStore> {
    let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
    Arc::new(FlakyStore::new(inner, failing..=failing, failure))
}

/// Asks until there is an answer, as a client does. The request id makes that safe.
async fn submit(cluster: &Cluster, file: &serde_json::Value) -> u64 {
    for _ in 0..10 {
        if let Ok(answer) = cluster.controller.submit(&user("ann"), submission(file, "request")).await {
            return answer.job_id;
        }
    }
    panic!("the job was never admitted")
}

/// Ends whatever runs: tasks only ever run once the controller said so.
fn end_what_runs(cluster: &Cluster, exit: &Exit) {
    for agent in &cluster.agents {
        agent.with(|inner| inner.script.exit_at_start = Some(exit.clone()));
    }
}

/// A gang over two nodes, one of which vetoes first. Returns the number of commits.
async fn succeeds(failing: u64, failure: Failure, history: History) -> u64 {
    let store = flaky(failing, failure);
    let cluster = Cluster::on(store.clone(), history, &[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| script.vetoes = 1);
    end_what_runs(&cluster, &Exit::success());
    let file = job("gang", &[role("worker", 2, 1)]);
    let id = submit(&cluster, &file).await;
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "SUCCEEDED", "commit {failing} {failure:?}: {view:?}");
    assert_eq!(view.runs.len(), 1, "commit {failing} {failure:?}: {view:?}");
    assert_eq!(cluster.launches(cluster.run(id).id), [1, 1], "commit {failing} {failure:?}");
    cluster.check_all_free().await;
    assert_eq!(submit(&cluster, &file).await, id, "commit {failing} {failure:?}");
    store.commits()
}

/// A job that fails once with a retry left, and is stopped in its second run.
async fn is_retried_and_stopped(failing: u64, failure: Failure, history: History) -> u64 {
    let store = flaky(failing, failure);
    let mut cluster = Cluster::on(store.clone(), history, &[("n1", 1)]).await;
    end_what_runs(&cluster, &super::failure(1));
    let id = submit(&cluster, &with(job("again", &[role("worker", 1, 1)]), "retryCount", json!(1))).await;
    cluster.until_as_time_passes("the first run has failed", |c| c.run(id).attempt == 2).await;
    cluster.script(|script| script.exit_at_start = None);
    cluster.until_as_time_passes("the second runs", |c| c.run(id).phase == crate::domain::run::Phase::Running).await;
    for _ in 0..10 {
        if cluster.controller.stop_job(&user("ann"), "again", None).await.is_ok() {
            break;
        }
    }
    let view = cluster.until_ended(id).await;
    let states: Vec<&str> = view.runs.iter().map(|run| run.state.as_str()).collect();
    assert_eq!((view.state.as_str(), states), ("STOPPED", vec!["FAILED", "STOPPED"]), "commit {failing} {failure:?}");
    for run in &view.runs {
        assert_eq!(cluster.launches(crate::domain::ids::RunId(run.run_id)), [1], "commit {failing} {failure:?}");
    }
    cluster.check_all_free().await;
    // What another controller reads is what this one knows.
    let commits = store.commits();
    cluster.restart().await;
    assert_eq!(cluster.job(id).await, view, "commit {failing} {failure:?}");
    commits
}

#[tokio::test]
async fn a_gang_ends_right_whichever_commit_fails() {
    let history = history();
    let commits = succeeds(u64::MAX, Failure::NotWritten, history.clone()).await;
    assert!(commits > 8, "{commits}");
    let mut all = JoinSet::new();
    for failing in 1..=commits + 2 {
        for failure in [Failure::NotWritten, Failure::AnswerLost] {
            all.spawn(succeeds(failing, failure, history.clone()));
        }
    }
    all.join_all().await;
}

#[tokio::test]
async fn a_retried_and_stopped_job_ends_right_whichever_commit_fails() {
    let history = history();
    let commits = is_retried_and_stopped(u64::MAX, Failure::NotWritten, history.clone()).await;
    let mut all = JoinSet::new();
    for failing in 1..=commits + 2 {
        for failure in [Failure::NotWritten, Failure::AnswerLost] {
            all.spawn(is_retried_and_stopped(failing, failure, history.clone()));
        }
    }
    all.join_all().await;
}

#[tokio::test]
async fn a_store_that_is_away_for_a_while_costs_no_job() {
    let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
    let script = vec![(6..=9, Failure::NotWritten), (11..=13, Failure::AnswerLost), (15..=20, Failure::NotWritten)];
    let store = Arc::new(FlakyStore::scripted(inner, script));
    let cluster = Cluster::on(store, history(), &[("n1", 2)]).await;
    end_what_runs(&cluster, &Exit::success());
    let id = submit(&cluster, &job("gang", &[role("worker", 2, 1)])).await;
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    assert_eq!(cluster.launches(cluster.run(id).id), [1, 1]);
    cluster.check_all_free().await;
}
