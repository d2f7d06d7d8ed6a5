//! Nodes that come, go, come back, lie about their name, and forget.

use super::agent::Agent;
use super::cluster::Cluster;
use super::jobs::{job, role};
use super::{node_agent, operator, user};
use crate::api::ControllerApi;
use crate::domain::command::{Error, ErrorKind, Heartbeat};
use crate::domain::exit::Exit;
use crate::domain::ids::{JournalId, NodeUid, Term};
use crate::domain::lifecycle::TaskEvent;
use crate::domain::node::NodeChange;
use crate::domain::run::{Phase, Verb};
use std::time::Duration;

async fn node_state(cluster: &Cluster, name: &str) -> String {
    let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
    nodes.into_iter().find(|node| node.name == name).expect("it is listed").state
}

#[tokio::test]
async fn a_second_live_agent_of_one_name_is_refused_and_the_same_one_is_not() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let mine = cluster.agent("n1").registration();
    let mut other = mine.clone();
    other.node_uid = NodeUid::from("another");
    let refused = cluster.controller.register(&node_agent("n1"), other.clone()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    assert!(refused.message.contains("n1:7601"), "{}", refused.message);
    let again = cluster.controller.register(&node_agent("n1"), mine.clone()).await.unwrap();
    assert_eq!((again.cluster_id.clone(), again.term), (mine.cluster_id.clone(), mine.term));

    let foreign = crate::domain::command::Registration { cluster_id: "elsewhere".into(), ..mine.clone() };
    let refused = cluster.controller.register(&node_agent("n1"), foreign).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    let ahead = crate::domain::command::Registration { term: Term(99), ..mine };
    let refused = cluster.controller.register(&node_agent("n1"), ahead).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Stale);
}

#[tokio::test]
async fn a_name_that_no_key_can_hold_is_refused_and_harms_nobody() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    for name in ["", "a/b", "new\nline", &"x".repeat(254), &"x".repeat(4000)] {
        let named = crate::domain::command::Registration {
            name: name.into(),
            node_uid: NodeUid::from("another"),
            ..cluster.agent("n1").registration()
        };
        let refused = cluster.controller.register(&node_agent(name), named).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid, "{name}: {refused}");
        assert!(refused.message.len() < 300 && refused.message.contains("253"), "{refused}");
    }
    let mut agents = vec![Agent::new(&"x".repeat(253), 1)];
    agents.push(Agent::new("n2", 1));
    Cluster::with(agents).await;
    let id = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
}

#[tokio::test]
async fn an_unknown_node_is_asked_to_register() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let beat = |uid: &str, journal: &str| Heartbeat {
        node_uid: NodeUid::from(uid),
        journal_id: JournalId::from(journal),
        samples: Vec::new(),
        progress: Vec::new(),
        faults_version: 0,
        faults: None,
        going_out: None,
    };
    let reply = cluster.controller.heartbeat(&node_agent("n1"), beat("nobody", "journal")).await.unwrap();
    assert!(reply.register_again);
    let reply = cluster.controller.heartbeat(&node_agent("n1"), beat("uid-n1", "journal")).await.unwrap();
    assert!(!reply.register_again);
    let reply = cluster.controller.heartbeat(&node_agent("n1"), beat("uid-n1", "a new journal")).await.unwrap();
    assert!(reply.register_again, "another journal is another memory");
}

#[tokio::test]
async fn a_silent_node_is_unreachable_keeps_its_tasks_and_is_ready_once_it_speaks() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    let id = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.until("it is missed", |c| !c.is_ready(&"n1".into())).await;
    assert_eq!(node_state(&cluster, "n1").await, "UNREACHABLE");
    assert_eq!(cluster.phase(id), Phase::Running, "its task lives on and is waited for");
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(other), Phase::Waiting, "nothing is placed there");
    let explained = cluster.controller.explain_job(&user("ann"), "other").await.unwrap();
    assert!(explained.reasons.iter().any(|reason| reason.reason == "node_state"), "{explained:?}");

    cluster.stop(id).await;
    cluster.some_ticks().await;
    let view = cluster.job(id).await;
    assert_eq!(
        (view.state.as_str(), view.reason.as_deref()),
        ("STOPPING", Some("its tasks on n1 cannot be reached"))
    );

    cluster.agent("n1").script(|script| script.silent = false);
    cluster.until("it is back", |c| c.is_ready(&"n1".into())).await;
    assert_eq!(node_state(&cluster, "n1").await, "READY");
    assert_eq!(cluster.until_ended(id).await.state, "STOPPED");
    cluster.until_phase(other, Phase::Running).await;
}

#[tokio::test]
async fn a_node_that_is_heard_and_does_not_answer_takes_nothing_new_and_loses_nothing() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    let id = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").script(|script| script.deaf = true);
    cluster.stop(id).await;
    let reason = || async { cluster.controller.describe_node(&user("ann"), "n1").await.unwrap().node };
    while reason().await.state != "UNREACHABLE" {
        cluster.some_ticks().await;
    }
    let why = reason().await.reason.unwrap();
    assert!(why.contains("is heard, but does not answer") && why.contains("refused"), "{why}");
    assert!(cluster.is_ready(&"n1".into()), "its heartbeats are answered");
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.some_ticks().await;
    assert_eq!((cluster.phase(id), cluster.phase(other)), (Phase::Stopping, Phase::Waiting));
    cluster.agent("n1").script(|script| script.deaf = false);
    assert_eq!(cluster.until_ended(id).await.state, "STOPPED");
    cluster.until_phase(other, Phase::Running).await;
    assert_eq!(reason().await.state, "READY");
}

#[tokio::test]
async fn an_agent_that_says_when_to_ask_again_answers_and_is_not_asked_for_its_list() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    let id = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let lists = |c: &Cluster| c.agent("n1").see(|inner| inner.script.lists);
    let stops = |c: &Cluster| {
        c.agent("n1").see(|inner| inner.commands.iter().filter(|(verb, ..)| *verb == Verb::Stop).count())
    };
    let before = lists(&cluster);
    let busy = Error { retry_after_ms: Some(500), ..Error::unavailable("it is still looking at what is left") };
    cluster.agent("n1").script(|script| script.refuses = Some(busy));
    cluster.stop(id).await;
    cluster.until("it was asked a few times", |c| stops(c) > 4).await;
    let node = cluster.controller.describe_node(&user("ann"), "n1").await.unwrap().node;
    assert_eq!((node.state.as_str(), lists(&cluster)), ("READY", before), "{node:?}");
    cluster.agent("n1").script(|script| script.refuses = None);
    assert_eq!(cluster.until_ended(id).await.state, "STOPPED");
}

#[tokio::test]
async fn tasks_that_an_agent_has_no_record_of_any_more_have_failed_and_are_run_again() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&job("lost", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let first = cluster.run(id).id;
    cluster.agent("n1").with(|inner| inner.tasks.clear());
    cluster.controller.register(&node_agent("n1"), cluster.agent("n1").registration()).await.unwrap();
    cluster.until_as_time_passes("it runs again", |c| c.run(id).id != first && c.phase(id) == Phase::Running).await;
    let view = cluster.job(id).await;
    assert_eq!((view.runs[0].state.as_str(), view.runs[1].attempt), ("FAILED", 2));
    let exit = view.runs[0].exit.clone().unwrap();
    assert_eq!(exit.class.as_str(), "platform", "no retry of the job's own is used up: {exit:?}");
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn what_no_job_has_on_a_node_is_stopped_and_released_however_often_that_takes() {
    for lost in [0, 1, 2, 5] {
        orphan_is_ended(lost).await;
    }
}

/// The first commands are lost on the way.
async fn orphan_is_ended(lost: u32) {
    let mut cluster = Cluster::new(&[]).await;
    let agent = Agent::new("n1", 1);
    agent.script(|script| script.loses = lost);
    let ours = crate::domain::task::TaskSpec {
        id: "77.78.0.0".parse().unwrap(),
        job_name: "gone".into(),
        user: "ann".into(),
        role_name: "worker".into(),
        image: String::new(),
        command: "true".into(),
        command_style: crate::domain::spec::CommandStyle::Shell,
        cpus: 1,
        memory_mb: 100,
        shm_mb: 64,
        gpus: vec!["GPU-n1-0".into()],
        ports: Vec::new(),
        lease_s: None,
        debug_hold_s: None,
        files: Default::default(),
        container: Default::default(),
    };
    let (id, generation) = (ours.id, crate::domain::ids::Generation(4));
    agent.with(|inner| {
        inner.apply(id, TaskEvent::StageAsked { generation, spec: ours.clone() }).unwrap();
        inner.apply(id, TaskEvent::PrepareAsked { generation, spec: ours }).unwrap();
        inner.apply(id, TaskEvent::LaunchAsked { generation }).unwrap();
        assert_eq!(inner.holding(), [id]);
    });
    cluster.add(agent);
    cluster.until("it is gone", |c| c.agent("n1").see(|inner| inner.tasks[&id].released)).await;
    let commands = cluster.agent("n1").see(|inner| inner.commands.clone());
    assert!(commands.contains(&(Verb::Stop, id, generation)), "{commands:?}");
    let job = cluster.submit(&job("job", &[role("worker", 1, 1)])).await;
    cluster.until_phase(job, Phase::Running).await;
}

#[tokio::test]
async fn another_machine_may_take_the_name_of_one_that_is_said_to_be_gone_and_not_before() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.node_timeout = Duration::from_millis(400);
    cluster.restart().await;
    let id = cluster.submit(&job("lost", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.until("it is missed", |c| !c.is_ready(&"n1".into())).await;
    let (first, other) = (cluster.run(id).id, Agent::new("n1", 1));
    *other.uid.lock().unwrap() = NodeUid::from("another");
    let refused = cluster.controller.register(&node_agent("n1"), other.registration()).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    for part in ["1 task may still live", "another name", "'wharf node remove n1 --force'"] {
        assert!(refused.message.contains(part), "{refused}");
    }
    cluster.agents.clear();
    cluster.add(other);
    cluster.some_ticks().await;
    assert_eq!((cluster.run(id).id, cluster.phase(id)), (first, Phase::Running), "the old machine may have it");
    cluster.controller.change_node(&operator(), "n1", NodeChange::Remove { force: true }).await.unwrap();
    // What ran on the old machine did not come with the name.
    cluster.until_as_time_passes("it runs again", |c| c.run(id).id != first && c.phase(id) == Phase::Running).await;
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_node_that_was_renamed_is_not_listed_twice_even_by_the_next_controller() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let renamed = crate::domain::command::Registration { name: "n9".into(), ..cluster.agent("n1").registration() };
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.controller.register(&node_agent("n9"), renamed).await.unwrap();
    cluster.some_ticks().await;
    cluster.restart().await;
    let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["n9"]);
}
