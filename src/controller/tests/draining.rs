//! Nodes that operators close, empty, open again and forget.

use super::agent::Agent;
use super::cluster::Cluster;
use super::jobs::{job, role};
use super::{NOON, operator, user};
use crate::api::ControllerApi;
use crate::controller::holdings::WALKS;
use crate::controller::state::{Node, State};
use crate::controller::{drain, views};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::exit::Exit;
use crate::domain::ids::NodeName;
use crate::domain::node::{NodeChange, Standing, Wish};
use crate::domain::run::{Phase, Verb};
use crate::domain::view::NodeView;
use std::collections::HashMap;
use std::time::Duration;

async fn ask(cluster: &Cluster, node: &str, change: NodeChange) -> Result<NodeView, Error> {
    cluster.controller.change_node(&operator(), node, change).await
}

fn drain(deadline_s: Option<u64>) -> NodeChange {
    NodeChange::Drain { reason: "new driver".into(), deadline: deadline_s.map(Duration::from_secs) }
}

async fn node(cluster: &Cluster, name: &str) -> NodeView {
    cluster.controller.describe_node(&user("ann"), name).await.unwrap().node
}

fn nodes_of(cluster: &Cluster, job: u64) -> Vec<String> {
    let mut nodes: Vec<String> = cluster.run(job).tasks.iter().map(|task| task.seat.node.0.clone()).collect();
    nodes.sort();
    nodes
}

#[tokio::test]
async fn a_cordoned_node_takes_nothing_new_until_it_is_opened_again_also_after_a_restart() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    let first = cluster.submit(&job("first", &[role("worker", 1, 1)])).await;
    cluster.until_phase(first, Phase::Running).await;
    let cordon = NodeChange::Cordon { reason: "fan".into() };
    let refused = cluster.controller.change_node(&user("ann"), "n1", cordon.clone()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotAllowed, "{refused}");
    let view = ask(&cluster, "n1", cordon).await.unwrap();
    assert_eq!((view.state.as_str(), view.by.as_deref(), view.tasks_held), ("CORDONED", Some("olga"), 1));
    assert_eq!(view.reason.as_deref(), Some("cordoned by olga: fan"));
    let second = cluster.submit(&job("second", &[role("worker", 1, 1)])).await;
    for _ in 0..2 {
        cluster.some_ticks().await;
        assert_eq!((cluster.phase(first), cluster.phase(second)), (Phase::Running, Phase::Waiting));
        let explained = cluster.controller.explain_job(&user("ann"), "second").await.unwrap();
        assert!(explained.reasons.iter().any(|reason| reason.have == "CORDONED"), "{explained:?}");
        cluster.restart().await;
        cluster.until("the node is back", |c| c.is_ready(&"n1".into())).await;
    }
    assert_eq!(
        node(&cluster, "n1").await,
        NodeView { last_heartbeat: node(&cluster, "n1").await.last_heartbeat, ..view }
    );
    assert_eq!(ask(&cluster, "n1", NodeChange::Uncordon).await.unwrap().state, "READY");
    cluster.until_phase(second, Phase::Running).await;
    assert!(ask(&cluster, "n9", NodeChange::Uncordon).await.is_err_and(|error| error.kind == ErrorKind::NotFound));
}

#[tokio::test]
async fn a_drain_moves_a_gang_whole_at_its_deadline_also_over_a_restart() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1), ("n3", 1)]).await;
    ask(&cluster, "n3", NodeChange::Cordon { reason: String::new() }).await.unwrap();
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id).id;
    ask(&cluster, "n3", NodeChange::Uncordon).await.unwrap();
    let view = ask(&cluster, "n1", drain(Some(600))).await.unwrap();
    assert_eq!((view.state.as_str(), view.tasks_held), ("DRAINING", 1));
    cluster.some_ticks().await;
    assert_eq!((cluster.phase(id), cluster.run(id).id), (Phase::Running, first), "it may end by itself");
    cluster.restart().await;
    cluster.until("the nodes are back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    assert_eq!(node(&cluster, "n1").await.deadline, view.deadline);
    cluster.clock.advance(Duration::from_secs(600));
    cluster.until_as_time_passes("it runs again", |c| c.run(id).id != first && c.phase(id) == Phase::Running).await;
    assert_eq!(nodes_of(&cluster, id), ["n2", "n3"]);
    let exit = cluster.job(id).await.runs[0].exit.clone().unwrap();
    assert_eq!(exit.class.as_str(), "preempted", "a job that may not fail once is run again: {exit:?}");
    assert!(exit.reason.contains("n1") && exit.reason.contains("olga: new driver"), "{exit:?}");
    assert_eq!(node(&cluster, "n1").await.state, "DRAINED");
    cluster.restart().await;
    cluster.until("the node is back", |c| c.is_ready(&"n1".into())).await;
    assert_eq!(node(&cluster, "n1").await.state, "DRAINED");
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn two_drains_of_one_gang_stop_it_once() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.script(|script| script.ignores_stop = true);
    let first = cluster.run(id);
    ask(&cluster, "n1", drain(Some(0))).await.unwrap();
    assert_eq!(cluster.phase(id), Phase::Stopping);
    ask(&cluster, "n2", drain(Some(0))).await.unwrap();
    cluster.some_ticks().await;
    assert_eq!(node(&cluster, "n1").await.state, "DRAINING", "its task has not ended yet");
    cluster.end_tasks(id, &Exit::success());
    cluster.until("both are empty", |c| c.run(id).id != first.id && c.phase(id) == Phase::Waiting).await;
    for name in ["n1", "n2"] {
        cluster.until("its task is released", |c| c.agent(name).see(|inner| inner.holding().is_empty())).await;
    }
    cluster.some_ticks().await;
    assert_eq!(
        (node(&cluster, "n1").await.state, node(&cluster, "n2").await.state),
        ("DRAINED".into(), "DRAINED".into())
    );
    let view = cluster.job(id).await;
    assert_eq!(view.runs.len(), 2, "{view:?}");
    assert!(view.runs[0].exit.as_ref().is_some_and(|exit| exit.reason.contains("n1")), "{view:?}");
    for name in ["n1", "n2"] {
        ask(&cluster, name, NodeChange::Uncordon).await.unwrap();
    }
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
}

#[tokio::test]
async fn a_drain_without_a_deadline_waits_and_can_be_undone() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&job("slow", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    ask(&cluster, "n1", drain(None)).await.unwrap();
    let refused = ask(&cluster, "n1", NodeChange::Cordon { reason: String::new() }).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    cluster.clock.advance(Duration::from_secs(1_000_000));
    cluster.some_ticks().await;
    assert_eq!((cluster.phase(id), node(&cluster, "n1").await.state.as_str()), (Phase::Running, "DRAINING"));
    assert_eq!(ask(&cluster, "n1", NodeChange::Uncordon).await.unwrap().state, "READY");
    ask(&cluster, "n1", drain(None)).await.unwrap();
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.some_ticks().await;
    assert_eq!(node(&cluster, "n1").await.state, "DRAINED");
}

#[tokio::test]
async fn a_gang_that_is_being_staged_or_prepared_on_a_drained_node_goes_elsewhere() {
    for verb in [Verb::Stage, Verb::Prepare] {
        let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
        ask(&cluster, "n2", NodeChange::Cordon { reason: String::new() }).await.unwrap();
        cluster.agent("n1").script(|script| _ = script.hangs.insert(verb));
        let id = cluster.submit(&job("gang", &[role("worker", 1, 1)])).await;
        cluster.until("the command is under way", |c| c.agent("n1").see(|inner| inner.count(verb) > 0)).await;
        ask(&cluster, "n2", NodeChange::Uncordon).await.unwrap();
        // No deadline is waited for: nothing of the user's runs yet.
        ask(&cluster, "n1", drain(None)).await.unwrap();
        cluster.until_as_time_passes("it runs elsewhere", |c| c.phase(id) == Phase::Running).await;
        assert_eq!(nodes_of(&cluster, id), ["n2"]);
        assert_eq!(cluster.job(id).await.runs.len(), 1, "{verb:?}: the same run, placed again");
        cluster.agent("n1").script(|script| script.hangs.clear());
        cluster.until("n1 has let go", |c| c.run(id).leftovers.is_empty()).await;
        cluster.some_ticks().await;
        assert_eq!(node(&cluster, "n1").await.state, "DRAINED");
    }
}

#[tokio::test]
async fn a_drain_of_a_silent_node_goes_on_once_it_is_heard() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    ask(&cluster, "n2", NodeChange::Cordon { reason: String::new() }).await.unwrap();
    let id = cluster.submit(&job("waits", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id).id;
    ask(&cluster, "n2", NodeChange::Uncordon).await.unwrap();
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.until("it is missed", |c| !c.is_ready(&"n1".into())).await;
    let view = ask(&cluster, "n1", drain(Some(0))).await.unwrap();
    assert_eq!((view.state.as_str(), view.standing.as_str()), ("UNREACHABLE", "DRAINING"));
    cluster.some_ticks().await;
    assert_eq!((cluster.phase(id), cluster.run(id).id), (Phase::Running, first), "it may be alive");
    cluster.agent("n1").script(|script| script.silent = false);
    cluster.until_as_time_passes("it runs again", |c| c.run(id).id != first && c.phase(id) == Phase::Running).await;
    assert_eq!(nodes_of(&cluster, id), ["n2"]);
    assert_eq!(node(&cluster, "n1").await.state, "DRAINED");
}

#[tokio::test]
async fn a_job_that_is_stopped_while_it_makes_room_is_not_run_again() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").script(|script| script.ignores_stop = true);
    ask(&cluster, "n1", drain(Some(0))).await.unwrap();
    let reason = cluster.job(id).await.reason.unwrap();
    assert!(reason.contains("makes room") && reason.contains("n1"), "{reason}");
    cluster.stop(id).await;
    cluster.end_tasks(id, &Exit::success());
    let view = cluster.until_ended(id).await;
    assert_eq!((view.state.as_str(), view.exit.unwrap().class.as_str()), ("STOPPED", "stopped"));
}

#[tokio::test]
async fn a_removed_node_is_forgotten_with_what_it_held_and_may_join_anew() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    cluster.until("the nodes are back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    ask(&cluster, "n2", NodeChange::Cordon { reason: String::new() }).await.unwrap();
    let refused = ask(&cluster, "n2", NodeChange::Remove { force: false }).await.unwrap_err();
    assert!(refused.message.contains("join again"), "{refused}");
    let id = cluster.submit(&job("moves", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id).id;
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.until("it is missed", |c| !c.is_ready(&"n1".into())).await;
    let refused = ask(&cluster, "n1", NodeChange::Remove { force: false }).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    assert!(refused.message.contains("1 tasks") && refused.message.contains("two copies"), "{refused}");
    ask(&cluster, "n2", NodeChange::Uncordon).await.unwrap();
    assert_eq!(ask(&cluster, "n1", NodeChange::Remove { force: true }).await.unwrap().name, "n1");
    // As durable as anything else.
    cluster.restart().await;
    let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n2"]);
    cluster.until_as_time_passes("it runs again", |c| c.run(id).id != first && c.phase(id) == Phase::Running).await;
    assert_eq!(nodes_of(&cluster, id), ["n2"]);
    let exit = cluster.job(id).await.runs[0].exit.clone().unwrap();
    assert_eq!((exit.class.as_str(), exit.reason.as_str()), ("platform", "node n1 was removed by olga"));
    // The machine was alive after all: what it still has is ended, and it takes work like any new node.
    cluster.agent("n1").script(|script| script.silent = false);
    cluster.until("the old copy is gone", |c| c.agent("n1").see(|inner| inner.holding().is_empty())).await;
    assert_eq!(node(&cluster, "n1").await.state, "READY");
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    for job in [id, other] {
        cluster.end_tasks(job, &Exit::success());
        assert_eq!(cluster.until_ended(job).await.state, "SUCCEEDED");
    }
    cluster.check_all_free().await;
}

#[test]
fn a_list_of_nodes_and_a_tick_of_drains_walk_over_the_runs_as_often_for_many_nodes_as_for_one() {
    let walks = |of: &mut dyn FnMut()| {
        let before = WALKS.get();
        of();
        WALKS.get() - before
    };
    for count in [1, 50] {
        let mut state = State::default();
        for at in 0..count {
            let name = format!("n{at}");
            let node = Node {
                registration: Agent::new(&name, 1).registration(),
                standing: Standing { wish: Wish::Draining, ..Standing::default() },
                renewed: None,
                heard: None,
                last_heartbeat: None,
                reachable: true,
                unanswered: None,
                samples: HashMap::new(),
                progress: HashMap::new(),
                faults: Vec::new(),
                unlisted_faults: Vec::new(),
                knows_all_faults: true,
                faults_version: 0,
                withdrawn: crate::controller::state::Withdrawn::default(),
                permit: None,
                empties: None,
            };
            state.nodes.insert(NodeName(name), node);
        }
        assert_eq!(walks(&mut || assert_eq!(views::nodes(&state).len(), count)), 1);
        assert_eq!(walks(&mut || drain::tick(&mut state, NOON)), 2, "who is there, and what is left");
        assert!(state.nodes.values().all(|node| node.standing.drained_at.is_some()));
        assert_eq!(walks(&mut || drain::tick(&mut state, NOON)), 0, "nothing is being drained any more");
    }
}
