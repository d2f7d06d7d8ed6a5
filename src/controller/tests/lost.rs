//! Nodes that vanish with tasks of jobs that want to be run elsewhere then.

use super::cluster::{Cluster, history};
use super::jobs::{job, role, with};
use super::{node_agent, operator, user};
use crate::api::ControllerApi;
use crate::controller::core::read;
use crate::controller::state::Node;
use crate::domain::command::ErrorKind;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{NodeName, NodeUid};
use crate::domain::node::NodeChange;
use crate::domain::run::Phase;
use crate::domain::spec::OnNodeLost;
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The least that a job file may say.
const LEASE_S: u64 = 300;

fn restarting(name: &str, tasks: u32) -> Value {
    let extras = json!({ "wharf": { "onNodeLost": "restart", "leaseSeconds": LEASE_S } });
    with(job(name, &[role("worker", tasks, 1)]), "extras", extras)
}

/// The clock of leases goes on by so many seconds; then everybody had the time to say something.
async fn pass(cluster: &Cluster, seconds: u64) {
    cluster.clock.advance(Duration::from_secs(seconds));
    cluster.some_ticks().await;
}

/// A cluster that misses a node soon.
async fn cluster(nodes: &[(&str, u32)]) -> Cluster {
    let mut cluster = Cluster::new(nodes).await;
    cluster.node_timeout = Duration::from_secs(1);
    cluster.restart().await;
    cluster.until("every node is back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    cluster
}

/// These nodes are cut off, and missed. What may be renewed last was renewed when this returns, or before.
async fn cut_off(cluster: &Cluster, nodes: &[&str]) {
    for name in nodes {
        cluster.agent(name).script(|script| script.silent = true);
    }
    cluster.until("they are missed", |c| nodes.iter().all(|name| !c.is_ready(&(*name).into()))).await;
}

#[tokio::test]
async fn a_gang_on_a_lost_node_is_run_elsewhere_after_its_lease_and_not_before() {
    let cluster = cluster(&[("n1", 1), ("n2", 1), ("n3", 1)]).await;
    let id = cluster.submit(&restarting("gang", 2)).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id);
    let lost = first.tasks[0].seat.node.clone();
    cut_off(&cluster, &[&lost.0]).await;
    pass(&cluster, LEASE_S + 28).await;
    let now = cluster.run(id);
    assert_eq!((now.id, now.phase), (first.id, Phase::Running), "its lease and margin are not over");
    // By now its shim has ended it.
    let old = first.task_id(first.tasks[0].role, first.tasks[0].index);
    cluster.agent(&lost.0).end(old, Exit::without_status(ExitClass::Platform, "its lease ran out"));
    pass(&cluster, 8).await;
    cluster
        .until_as_time_passes("it runs again", |c| c.run(id).id != first.id && c.phase(id) == Phase::Running)
        .await;
    assert!(cluster.run(id).tasks.iter().all(|task| task.seat.node != lost));
    let exit = cluster.job(id).await.runs[0].exit.clone().unwrap();
    assert_eq!(exit.class.as_str(), "platform");
    assert!(exit.reason.contains(&lost.0) && exit.reason.contains("300 s"), "{exit:?}");
    // Healed: what it reports of the old run is old news, and nothing of it stays.
    cluster.agent(&lost.0).script(|script| script.silent = false);
    cluster.until("the old task is released", |c| c.agent(&lost.0).see(|inner| inner.tasks[&old].released)).await;
    assert_eq!(cluster.job(id).await.runs[0].exit.clone().unwrap(), exit, "the end is told once");
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    assert_eq!(cluster.launches(first.id), [1, 1]);
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_restarted_controller_counts_from_its_own_start() {
    let mut cluster = cluster(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&restarting("lost", 1)).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id);
    let lost = first.tasks[0].seat.node.clone();
    cut_off(&cluster, &[&lost.0]).await;
    pass(&cluster, 100).await;
    cluster.restart().await;
    pass(&cluster, LEASE_S + 28).await;
    assert_eq!(cluster.run(id).id, first.id, "the one before may have renewed until it died");
    assert!(cluster.run(id).phase == Phase::Running);
    // Another machine may not take the name of one on which tasks may live.
    let mut other = cluster.agent(&lost.0).registration();
    other.node_uid = NodeUid::from("another");
    loop {
        let refused = cluster.controller.register(&node_agent(&lost.0), other.clone()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::AlreadyExists);
        if refused.message.contains("1 task may still live") {
            assert!(refused.message.contains("until their leases are over"), "{refused}");
            break;
        }
        // The old one has its time to be heard after the start.
        assert!(refused.message.contains("a live agent"), "{refused}");
        cluster.some_ticks().await;
    }
    pass(&cluster, 8).await;
    cluster
        .until_as_time_passes("it runs again", |c| c.run(id).id != first.id && c.phase(id) == Phase::Running)
        .await;
}

#[tokio::test]
async fn a_job_that_waits_is_never_replaced() {
    let cluster = cluster(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&job("waits", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id);
    assert_eq!(read(&cluster.controller.shared).specs[&first.job].on_node_lost, OnNodeLost::Wait);
    cut_off(&cluster, &[&first.tasks[0].seat.node.0]).await;
    pass(&cluster, 400).await;
    assert_eq!((cluster.run(id).id, cluster.phase(id)), (first.id, Phase::Running));
}

#[tokio::test]
async fn a_controller_that_loses_most_nodes_at_once_replaces_none_and_says_so() {
    let mut cluster = cluster(&[("n1", 1), ("n2", 1), ("n3", 1), ("n4", 1), ("n5", 2)]).await;
    let mut jobs = Vec::new();
    for name in ["a", "b", "c", "d"] {
        jobs.push(cluster.submit(&restarting(name, 1)).await);
    }
    for id in &jobs {
        cluster.until_phase(*id, Phase::Running).await;
    }
    let firsts: Vec<_> = jobs.iter().map(|id| cluster.run(*id).id).collect();
    cut_off(&cluster, &["n1", "n2", "n3"]).await;
    pass(&cluster, 50).await;
    // What it believes of the loss is not forgotten by another one.
    cluster.restart().await;
    pass(&cluster, LEASE_S + 60).await;
    let now: Vec<_> = jobs.iter().map(|id| cluster.run(*id).id).collect();
    assert_eq!(now, firsts, "none is replaced");
    let view = cluster.controller.describe_node(&user("ann"), "n1").await.unwrap().node;
    assert!(view.reason.as_ref().is_some_and(|why| why.contains("3 of 5 nodes went silent at once")), "{view:?}");
    assert!(cluster.controller.pulse().await.unwrap().trouble.is_some_and(|trouble| trouble.contains("3 of 5")));
    // One is back: two may be lost like any others.
    cluster.agent("n1").script(|script| script.silent = false);
    let seat = |c: &Cluster, id: u64| c.run(id).tasks[0].seat.node.0.clone();
    let lost: Vec<u64> =
        jobs.iter().copied().filter(|id| ["n2", "n3"].contains(&seat(&cluster, *id).as_str())).collect();
    assert!(!lost.is_empty());
    cluster
        .until_as_time_passes("what is lost is replaced", |c| lost.iter().all(|id| !firsts.contains(&c.run(*id).id)))
        .await;
    assert_eq!(cluster.controller.pulse().await.unwrap().trouble, None);
}

/// One whose next commit fails when the test says so, and whose nodes are missed soon.
async fn unsure_cluster(nodes: &[(&str, u32)]) -> (Arc<FlakyStore>, Cluster) {
    let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
    let store = Arc::new(FlakyStore::scripted(inner, Vec::new()));
    let mut cluster = Cluster::on(store.clone(), history(), nodes).await;
    cluster.node_timeout = Duration::from_secs(1);
    cluster.restart().await;
    cluster.until("every node is back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    (store, cluster)
}

#[tokio::test]
async fn a_node_whose_removal_was_not_taken_had_its_leases_renewed_until_then() {
    let (store, cluster) = unsure_cluster(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&restarting("lost", 1)).await;
    cluster.until_phase(id, Phase::Running).await;
    pass(&cluster, 2 * LEASE_S).await;
    let first = cluster.run(id);
    let lost = first.tasks[0].seat.node.clone();
    cluster.agent(&lost.0).script(|script| script.silent = true);
    store.fail_next(Failure::NotWritten);
    let removed = cluster.controller.change_node(&operator(), &lost.0, NodeChange::Remove { force: true }).await;
    assert_eq!(removed.unwrap_err().kind, ErrorKind::Unavailable);
    cluster
        .until("it is known again, and missed", |c| node(c, &lost).is_some_and(|n| n.standing.lost_at.is_some()))
        .await;
    pass(&cluster, LEASE_S + 28).await;
    assert_eq!(
        (cluster.run(id).id, cluster.phase(id)),
        (first.id, Phase::Running),
        "it may have been heard until now"
    );
    pass(&cluster, 8).await;
    cluster
        .until_as_time_passes("it runs again", |c| c.run(id).id != first.id && c.phase(id) == Phase::Running)
        .await;
}

#[tokio::test]
async fn a_node_that_is_heard_is_not_lost_whichever_word_of_it_was_not_taken() {
    let (store, cluster) = unsure_cluster(&[("n1", 1)]).await;
    let name = NodeName::from("n1");
    let lost_at = || node(&cluster, &name).unwrap().standing.lost_at;
    cut_off(&cluster, &["n1"]).await;
    let first = lost_at().unwrap();
    pass(&cluster, 1000).await;
    store.fail_next(Failure::NotWritten);
    let registration = cluster.agent("n1").registration();
    assert!(cluster.controller.register(&node_agent("n1"), registration).await.is_err());
    cluster.until("it counts as heard", |c| node(c, &name).is_some_and(|n| n.reachable)).await;
    assert_eq!(lost_at(), None);
    cluster.until("it is missed again", |_| lost_at().is_some()).await;
    assert!(lost_at().unwrap().since(first) >= Duration::from_secs(1000), "it is another loss");
}

fn node(cluster: &Cluster, name: &NodeName) -> Option<Node> {
    read(&cluster.controller.shared).nodes.get(name).cloned()
}
