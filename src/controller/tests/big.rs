//! Gangs whose plan is bigger than any transaction.

use super::cluster::{Cluster, history};
use super::jobs::{job, role, submission};
use super::user;
use crate::api::ControllerApi;
use crate::domain::exit::Exit;
use crate::domain::run::Phase;
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{MAX_TRANSACTION_BYTES, MAX_VALUE_BYTES, Range};
use std::sync::Arc;

/// Names long enough for a plan of more bytes than one value, or one transaction, may have.
fn nodes(length: usize) -> Vec<(String, u32)> {
    (1..=4).map(|number| (format!("n{number}-{}", "x".repeat(length)), 8)).collect()
}

fn borrowed(nodes: &[(String, u32)]) -> Vec<(&str, u32)> {
    nodes.iter().map(|(name, gpus)| (name.as_str(), *gpus)).collect()
}

async fn plan_bytes(cluster: &Cluster) -> usize {
    let (entries, _) = cluster.store.range(Range::prefix("plan/")).await.unwrap();
    entries.iter().map(|entry| entry.value.len()).sum()
}

#[tokio::test]
async fn a_thousand_tasks_are_one_decision_and_survive_a_restart() {
    let nodes = nodes(500);
    let mut cluster = Cluster::new(&borrowed(&nodes)).await;
    let id = cluster.submit(&job("thousand", &[role("trainer", 32, 1), role("reader", 968, 0)])).await;
    cluster.until_phase(id, Phase::Running).await;
    assert!(plan_bytes(&cluster).await > MAX_TRANSACTION_BYTES);
    let before = cluster.run(id);
    cluster.restart().await;
    assert_eq!(cluster.run(id), before);
    cluster.until("the nodes are back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    let launches = cluster.launches(cluster.run(id).id);
    assert_eq!((launches.len(), launches.iter().all(|count| *count == 1)), (1000, true));
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_plan_that_is_not_written_whole_is_made_again() {
    let (history, nodes) = (history(), nodes(4000));
    let file = job("gang", &[role("trainer", 32, 1), role("reader", 118, 0)]);
    // The first commits are those of the term, of the nodes, and of the job.
    for failing in 4..=8 {
        for failure in [Failure::NotWritten, Failure::AnswerLost] {
            let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
            let store = Arc::new(FlakyStore::new(inner, failing..=failing, failure));
            let mut cluster = Cluster::on(store, history.clone(), &borrowed(&nodes)).await;
            cluster.script(|script| script.exit_at_start = Some(Exit::success()));
            let mut answers = Vec::new();
            while answers.last().is_none_or(Result::is_err) && answers.len() < 3 {
                answers.push(cluster.controller.submit(&user("ann"), submission(&file, "request")).await);
            }
            let id = answers.pop().unwrap().unwrap().job_id;
            assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED", "{failing} {failure:?}");
            assert!(plan_bytes(&cluster).await > MAX_VALUE_BYTES);
            let launches = cluster.launches(cluster.run(id).id);
            assert_eq!((launches.len(), launches.iter().all(|count| *count == 1)), (150, true));
            let before = cluster.run(id);
            cluster.restart().await;
            assert_eq!(cluster.run(id), before);
            cluster.check_all_free().await;
        }
    }
}
