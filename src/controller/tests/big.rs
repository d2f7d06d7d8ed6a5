//! Gangs whose plan is bigger than any transaction.

use super::agent::Agent;
use super::cluster::{Cluster, history};
use super::jobs::{job, role, submission};
use super::user;
use crate::api::ControllerApi;
use crate::domain::exit::Exit;
use crate::domain::run::Phase;
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{MAX_TRANSACTION_BYTES, Range, Store};
use std::sync::Arc;

/// Addresses long enough for a plan of more bytes than one transaction may have.
fn nodes(address_bytes: usize) -> impl Iterator<Item = Arc<Agent>> {
    (1..=4).map(move |number| Agent::with_long_address(&format!("n{number}"), 8, address_bytes))
}

async fn plan_bytes(cluster: &Cluster) -> usize {
    let (entries, _) = cluster.store.range(Range::prefix("plan/")).await.unwrap();
    entries.iter().map(|entry| entry.value.len()).sum()
}

#[tokio::test]
async fn a_thousand_tasks_are_one_decision_and_survive_a_restart() {
    let mut cluster = Cluster::with(nodes(1000)).await;
    cluster.script(|script| script.forgets_environments = true);
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
    let (history, mut refused) = (history(), 0);
    let file = job("gang", &[role("trainer", 32, 1), role("reader", 118, 0)]);
    // The first commit is that of the term; the second and third are those of the plan and the job.
    for failing in 2..=5 {
        for failure in [Failure::NotWritten, Failure::AnswerLost] {
            let inner: Arc<dyn Store> = Arc::new(SqliteStore::open_in_memory().unwrap());
            let mut cluster = Cluster::of(inner.clone(), history.clone(), nodes(8000)).await;
            // Nodes that are known already write nothing when they come back.
            cluster.store = Arc::new(FlakyStore::new(inner, failing..=failing, failure));
            cluster.restart().await;
            let ready = |c: &Cluster| c.agents.iter().all(|agent| c.is_ready(&agent.name));
            cluster.until("the nodes are back", ready).await;
            cluster.script(|script| {
                (script.exit_at_start, script.forgets_environments) = (Some(Exit::success()), true);
            });
            let mut answers = Vec::new();
            while answers.last().is_none_or(Result::is_err) && answers.len() < 3 {
                answers.push(cluster.controller.submit(&user("ann"), submission(&file, "request")).await);
            }
            refused += answers.len() - 1;
            let id = answers.pop().unwrap().unwrap().job_id;
            assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED", "{failing} {failure:?}");
            assert!(plan_bytes(&cluster).await > MAX_TRANSACTION_BYTES);
            let launches = cluster.launches(cluster.run(id).id);
            assert_eq!((launches.len(), launches.iter().all(|count| *count == 1)), (150, true));
            let before = cluster.run(id);
            cluster.restart().await;
            assert_eq!(cluster.run(id), before);
            cluster.check_all_free().await;
        }
    }
    assert_eq!(refused, 4, "failures of both kinds hit both transactions of the plan, and nobody was told else");
}
