//! Jobs after hardware faults: run again elsewhere, uncounted, and not for ever.

use super::cluster::Cluster;
use super::jobs::{job, role};
use super::{node_agent, user};
use crate::api::ControllerApi;
use crate::domain::command::Heartbeat;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Subject, Verdict};
use crate::domain::ids::{GpuUuid, JournalId, NodeUid};
use crate::domain::remediation::GoingOut;
use crate::domain::retry::HARDWARE_RESTARTS;
use crate::domain::run::{AVOIDED_FOR, Phase};
use crate::domain::time::Timestamp;

fn fault_of(gpu: &GpuUuid) -> Exit {
    let exit = Exit::without_status(ExitClass::Hardware, "fault 7, Xid 94");
    Exit { faults: vec![7], faulty_gpus: vec![gpu.clone()], ..exit }
}

/// The GPU of the one task of the job's newest run, once that runs.
async fn gpu_of(cluster: &Cluster, id: u64, attempt: u32) -> GpuUuid {
    let runs = |c: &Cluster| c.run(id).attempt == attempt && c.phase(id) == Phase::Running;
    cluster.until_as_time_passes("the next run", runs).await;
    cluster.run(id).tasks[0].seat.gpus[0].clone()
}

#[tokio::test]
async fn the_next_run_gets_another_gpu_and_waits_for_one_for_a_while() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    let id = cluster.submit(&job("hit", &[role("worker", 1, 1)])).await;
    let first = gpu_of(&cluster, id, 1).await;
    cluster.end_tasks(id, &fault_of(&first));
    let second = gpu_of(&cluster, id, 2).await;
    assert_ne!(first, second);

    // Now both have failed it, and both are free.
    cluster.end_tasks(id, &fault_of(&second));
    cluster.until("its third run waits", |c| c.run(id).attempt == 3 && c.phase(id) == Phase::Waiting).await;
    cluster.restart().await;
    cluster.until("the node is back", |c| c.is_ready(&"n1".into())).await;
    cluster.clock.advance(AVOIDED_FOR / 2);
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Waiting, "another GPU may come");
    let explained = cluster.controller.explain_job(&user("ann"), "hit").await.unwrap();
    let avoided = explained.reasons.iter().find(|reason| reason.reason == "avoided_gpus").expect("it is told");
    assert!(avoided.have.contains(&first.0) && avoided.have.contains(&second.0), "{avoided:?}");
    let free = explained.reasons.iter().find(|reason| reason.reason == "gpus").expect("it is told");
    assert_eq!(free.have, "0 free of 2 (2 left out after hardware faults)");
    cluster.clock.advance(AVOIDED_FOR);
    gpu_of(&cluster, id, 3).await;
    assert_eq!(cluster.job(id).await.retries.hardware, 2);
    cluster.end_tasks(id, &Exit::success());
    cluster.until_ended(id).await;
}

#[tokio::test]
async fn a_job_that_every_gpu_fails_ends_and_says_so() {
    let cluster = Cluster::new(&[("n1", 8)]).await;
    let id = cluster.submit(&job("unlucky", &[role("worker", 1, 1)])).await;
    for attempt in 1..=HARDWARE_RESTARTS + 1 {
        let gpu = gpu_of(&cluster, id, u32::try_from(attempt).unwrap()).await;
        cluster.end_tasks(id, &fault_of(&gpu));
    }
    let view = cluster.until_ended(id).await;
    let exit = view.exit.unwrap();
    assert_eq!((view.state.as_str(), exit.class), ("FAILED", ExitClass::Hardware));
    let said = "not run again: it was restarted 5 times after hardware faults, and hardware_restarts allows 5";
    assert!(exit.reason.ends_with(said), "{}", exit.reason);
}

/// A file system that went read-only, as a node tells it.
fn read_only(node: u64) -> Fault {
    Fault {
        id: FaultId(node * 10_000 + 1),
        kind: FaultKind::ReadOnly,
        code: None,
        node: None,
        subject: Subject::device("sda1"),
        pid: None,
        process: None,
        verdict: Verdict::Node,
        action: Action::Inspect,
        by_driver: false,
        reason: "A file system became read-only.".to_owned(),
        count: 1,
        related: 0,
        first_seen: Some(Timestamp(i64::try_from(node).unwrap())),
        last_seen: Some(Timestamp(9)),
        first_seen_boot_us: None,
        last_seen_boot_us: None,
        state: FaultState::Active,
        evidence: Vec::new(),
        task: None,
        job: None,
    }
}

async fn tell(cluster: &Cluster, node: u64, version: u64, faults: Vec<Fault>) {
    let heartbeat = Heartbeat {
        node_uid: NodeUid::from(format!("uid-n{node}").as_str()),
        journal_id: JournalId::from("journal"),
        samples: Vec::new(),
        progress: Vec::new(),
        faults_version: version,
        faults: Some(faults),
        going_out: None,
    };
    cluster.controller.heartbeat(&node_agent(&format!("n{node}")), heartbeat).await.unwrap();
}

#[tokio::test]
async fn what_hits_all_nodes_at_once_closes_no_more_than_a_part_of_them() {
    let nodes: Vec<String> = (1..=10).map(|node| format!("n{node}")).collect();
    let sizes: Vec<(&str, u32)> = nodes.iter().map(|name| (name.as_str(), 1)).collect();
    let mut cluster = Cluster::new(&sizes).await;
    for node in (1..=10).rev() {
        tell(&cluster, node, 7, vec![read_only(node)]).await;
    }
    let shown = async |cluster: &Cluster| {
        let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
        let closed: Vec<String> =
            nodes.iter().filter(|node| node.state == "CORDONED").map(|node| node.name.clone()).collect();
        let spared = nodes.iter().filter(|node| {
            node.state == "READY"
                && node.reason.as_ref().is_some_and(|why| why.contains("max_nodes_out_percent, 20 %"))
        });
        (closed, spared.count())
    };
    // Those that were first told are closed, and stay so.
    assert_eq!(shown(&cluster).await, (vec!["n10".to_owned(), "n9".to_owned()], 8));
    let over = Fault { state: FaultState::Cleared, ..read_only(10) };
    tell(&cluster, 10, 8, vec![over]).await;
    // The oldest fault of the rest takes its place.
    assert_eq!(shown(&cluster).await, (vec!["n1".to_owned(), "n9".to_owned()], 7));
    cluster.restart().await;
    let back = |c: &Cluster| c.agents.iter().filter(|agent| c.is_ready(&agent.name)).count() == 10;
    cluster.until("all are back", back).await;
    cluster.some_ticks().await;
    assert_eq!(shown(&cluster).await.1, 7, "no more are closed, and those that are not say why");
}

/// Says whether the node has its permit, or why not.
fn permit(cluster: &Cluster, node: &str) -> Option<Result<FaultId, String>> {
    let permit = cluster.agent(node).see(|inner| inner.permit.clone())?;
    Some(permit.refusal.map_or(Ok(permit.fault), Err))
}

#[tokio::test]
async fn nodes_take_themselves_out_one_after_the_other() {
    // 20 % of three allow one.
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1), ("n3", 1)]).await;
    let out = |fault, begun| Some(GoingOut { fault: FaultId(fault), begun });
    let ask = |cluster: &Cluster, node: &str, asked| cluster.agent(node).with(|inner| inner.script.going_out = asked);
    ask(&cluster, "n1", out(11, false));
    cluster.until("the first may", |c| permit(c, "n1") == Some(Ok(FaultId(11)))).await;
    ask(&cluster, "n2", out(21, false));
    let waits = |c: &Cluster, node: &str| permit(c, node).is_some_and(|permit| permit.is_err());
    cluster.until("the second waits", |c| waits(c, "n2")).await;
    let why = permit(&cluster, "n2").unwrap().unwrap_err();
    assert!(why.contains("1 of 3 nodes are out") && why.contains("20 %, allows 1"), "{why}");
    let state = async |cluster: &Cluster, name: &str| {
        let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
        nodes.into_iter().find(|node| node.name == name).map(|node| (node.state, node.reason)).unwrap()
    };
    let (first, reason) = state(&cluster, "n1").await;
    assert!(first == "CORDONED" && reason.clone().unwrap_or_default().contains("remedies fault 11"), "{reason:?}");
    assert_eq!(state(&cluster, "n2").await.0, "READY", "who waits is not out");

    // It is away; a controller that has just begun does not know of it, and it is not heard.
    ask(&cluster, "n1", out(11, true));
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.restart().await;
    cluster.until("the others are back", |c| c.is_ready(&"n2".into()) && c.is_ready(&"n3".into())).await;
    cluster.agent("n2").answered(None);
    cluster.until("the second waits again", |c| permit(c, "n2").is_some()).await;
    assert!(waits(&cluster, "n2"));

    // Back, and still at it: it is believed.
    cluster.agent("n1").script(|script| script.silent = false);
    cluster.until("it is heard", |c| c.is_ready(&"n1".into())).await;
    cluster.until("its word counts", |c| permit(c, "n1") == Some(Ok(FaultId(11)))).await;
    assert!(waits(&cluster, "n2"));
    ask(&cluster, "n1", None);
    cluster.until("the second may", |c| permit(c, "n2") == Some(Ok(FaultId(21)))).await;
    assert_eq!(state(&cluster, "n1").await.0, "READY");
    // The third may not be closed for a fault meanwhile.
    tell(&cluster, 3, 5, vec![read_only(3)]).await;
    assert!(state(&cluster, "n3").await.1.is_some_and(|why| why.contains("It stays open")));
}

#[tokio::test]
async fn a_node_that_tasks_hold_takes_no_new_ones_and_goes_once_it_is_empty() {
    // 20 % of two allow one.
    let cluster = Cluster::new(&[("n1", 2), ("n2", 2)]).await;
    let ask = |node: &str, asked: Option<u64>| {
        let asked = asked.map(|fault| GoingOut { fault: FaultId(fault), begun: false });
        cluster.agent(node).with(|inner| inner.script.going_out = asked);
    };
    let state = async |name: &str| {
        let nodes = cluster.controller.list_nodes(&user("ann")).await.unwrap();
        nodes.into_iter().find(|node| node.name == name).map(|node| node.state).unwrap()
    };
    let runs = async |name: &str| {
        let id = cluster.submit(&job(name, &[role("worker", 1, 2)])).await;
        gpu_of(&cluster, id, 1).await;
        (id, cluster.run(id).tasks[0].seat.node.0.clone())
    };
    let refused =
        |node: &str, words: &str| permit(&cluster, node).is_some_and(|it| it.is_err_and(|why| why.contains(words)));
    let (first, n1) = runs("first").await;
    ask(&n1, Some(11));
    cluster.until("it has to be empty first", |_| refused(&n1, "1 tasks are there or on their way")).await;
    assert_eq!(state(&n1).await, "CORDONED");
    let (second, n2) = runs("second").await;
    assert_ne!(n1, n2, "nobody is sent there");
    ask(&n2, Some(21));
    cluster.until("the other one has to wait", |_| refused(&n2, "1 take no new tasks in order to go")).await;
    assert_eq!(state(&n2).await, "READY");

    // Who is empty comes before who is not.
    cluster.end_tasks(second, &Exit::success());
    cluster.until("the other one may", |c| permit(c, &n2) == Some(Ok(FaultId(21)))).await;
    cluster.until("its place is taken", |_| refused(&n1, "1 of 2 nodes are out")).await;
    assert_eq!(state(&n1).await, "READY");
    ask(&n2, None);
    cluster.until("it is its turn again", |_| refused(&n1, "there or on their way")).await;
    cluster.end_tasks(first, &Exit::success());
    cluster.until("it is empty", |c| permit(c, &n1) == Some(Ok(FaultId(11)))).await;
    assert_eq!((state(&n1).await, state(&n2).await), ("CORDONED".to_owned(), "READY".to_owned()));
}

#[tokio::test]
async fn a_node_with_more_faults_than_it_tells_opens_each_of_them_once() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let nth =
        |n: u64, state| Fault { id: FaultId(10_000 + n), state, first_seen: Some(Timestamp(5)), ..read_only(1) };
    let active = |range: std::ops::Range<u64>| range.map(|n| nth(n, FaultState::Active)).collect::<Vec<_>>();
    let counts = async || {
        cluster.some_ticks().await;
        let events = cluster.history.read(0, 1000).await.unwrap().events;
        let of = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
        (of("fault.opened"), of("fault.cleared"))
    };
    tell(&cluster, 1, 1, active(0..64)).await;
    assert_eq!(counts().await, (64, 0));
    // Ten newer ones take the place of the ten oldest, end, and let them back in, again and again.
    for round in 0..3 {
        tell(&cluster, 1, 2 + round * 2, active(10..74)).await;
        tell(&cluster, 1, 3 + round * 2, active(0..64)).await;
    }
    assert_eq!(counts().await, (74, 0));
    // One ends while it is left out.
    tell(&cluster, 1, 20, active(10..74)).await;
    let mut last = active(10..73);
    last.insert(0, nth(3, FaultState::Cleared));
    tell(&cluster, 1, 21, last).await;
    assert_eq!(counts().await, (74, 1));
}

#[tokio::test]
async fn what_a_node_tells_late_is_told_from_its_beginning_to_its_end() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let nth =
        |n: u64, state| Fault { id: FaultId(10_000 + n), state, first_seen: Some(Timestamp(5)), ..read_only(1) };
    let many = |range: std::ops::Range<u64>, state| range.map(|n| nth(n, state)).collect::<Vec<_>>();
    let counts = async |cluster: &Cluster| {
        cluster.some_ticks().await;
        let events = cluster.history.read(0, 1000).await.unwrap().events;
        let of = |kind: &str| events.iter().filter(|event| event.kind == kind).count();
        (of("fault.opened"), of("fault.cleared"))
    };
    // A hundred at once; those that were left out come while they last, or when they are over.
    tell(&cluster, 1, 1, many(36..100, FaultState::Active)).await;
    tell(&cluster, 1, 2, [many(20..36, FaultState::Active), many(52..100, FaultState::Active)].concat()).await;
    assert_eq!(counts(&cluster).await, (80, 0));
    tell(&cluster, 1, 3, [many(0..20, FaultState::Cleared), many(56..100, FaultState::Active)].concat()).await;
    assert_eq!(counts(&cluster).await, (100, 20));
    // Those that are over are told no more than once, however often they are left out and come back.
    for round in 0..3 {
        tell(&cluster, 1, 4 + round * 2, many(36..100, FaultState::Active)).await;
        tell(
            &cluster,
            1,
            5 + round * 2,
            [many(0..20, FaultState::Cleared), many(56..100, FaultState::Active)].concat(),
        )
        .await;
    }
    assert_eq!(counts(&cluster).await, (100, 20));
    // What was left out before a restart is not known, and told by its end alone where it was told before.
    cluster.restart().await;
    cluster.until("it is back", |c| c.is_ready(&"n1".into())).await;
    tell(&cluster, 1, 20, [many(20..36, FaultState::Active), many(52..100, FaultState::Active)].concat()).await;
    assert_eq!(counts(&cluster).await, (100, 20));
}
