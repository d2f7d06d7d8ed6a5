//! Stopping a job wherever it is.

use super::cluster::Cluster;
use super::jobs::{job, role};
use super::user;
use crate::api::ControllerApi;
use crate::domain::command::ErrorKind;
use crate::domain::principal::{Principal, Role};
use crate::domain::run::{Phase, Verb};

/// A gang of two on two nodes, held up where `script` says.
async fn held_up(verb: Option<Verb>, phase: Phase) -> (Cluster, u64) {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    if let Some(verb) = verb {
        cluster.agent("n2").script(|script| _ = script.hangs.insert(verb));
    }
    let id = cluster.submit(&job("stopped", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, phase).await;
    if let Some(verb) = verb {
        cluster.until("the command is under way", |c| c.agent("n2").see(|inner| inner.count(verb) > 0)).await;
    }
    (cluster, id)
}

async fn ends_stopped(cluster: &Cluster, id: u64) {
    cluster.stop(id).await;
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "STOPPED");
    assert_eq!(view.exit.unwrap().reason, "stopped by ann");
    assert!(view.tasks.unwrap().iter().all(|task| task.state == "STOPPED"));
    cluster.check_all_free().await;
    cluster.stop(id).await;
    assert_eq!(cluster.job(id).await.state, "STOPPED", "again changes nothing");
}

#[tokio::test]
async fn while_it_waits() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&job("big", &[role("worker", 1, 8)])).await;
    cluster.some_ticks().await;
    let explained = cluster.controller.explain_job(&user("ann"), "big").await.unwrap();
    assert_eq!((explained.queue_position, explained.state.as_str()), (Some(1), "WAITING"));
    ends_stopped(&cluster, id).await;
}

#[tokio::test]
async fn while_it_is_staged() {
    let (cluster, id) = held_up(Some(Verb::Stage), Phase::Staging).await;
    ends_stopped(&cluster, id).await;
    // What was on its way all the time must not begin anything.
    cluster.agent("n2").script(|script| script.hangs.clear());
    cluster.some_ticks().await;
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_is_prepared() {
    let (cluster, id) = held_up(Some(Verb::Prepare), Phase::Preparing).await;
    ends_stopped(&cluster, id).await;
    cluster.agent("n2").script(|script| script.hangs.clear());
    cluster.some_ticks().await;
    cluster.check_all_free().await;
    assert!(cluster.launches(cluster.run(id).id).is_empty());
}

#[tokio::test]
async fn while_it_is_launched() {
    let (cluster, id) = held_up(Some(Verb::Launch), Phase::Launching).await;
    ends_stopped(&cluster, id).await;
    cluster.agent("n2").script(|script| script.hangs.clear());
    cluster.some_ticks().await;
    cluster.check_all_free().await;
    assert!(cluster.agent("n2").see(|inner| inner.launches.is_empty()));
}

#[tokio::test]
async fn while_it_runs() {
    let (cluster, id) = held_up(None, Phase::Running).await;
    ends_stopped(&cluster, id).await;
}

#[tokio::test]
async fn while_it_is_stopping_already_with_less_grace() {
    let (cluster, id) = held_up(None, Phase::Running).await;
    cluster.script(|script| script.ignores_stop = true);
    cluster.controller.stop_job(&user("ann"), "stopped", Some(60_000)).await.unwrap();
    let grace = |c: &Cluster| c.agent("n1").see(|i| i.tasks.values().next().and_then(|t| t.stop.map(|s| s.grace_ms)));
    cluster.until("the first stop is there", |c| grace(c) == Some(60_000)).await;
    assert_eq!(cluster.state(id), "STOPPING");
    cluster.controller.stop_job(&user("ann"), "stopped", Some(1_000)).await.unwrap();
    cluster.until("the second stop is there", |c| grace(c) == Some(1_000)).await;
    cluster.controller.stop_job(&user("ann"), "stopped", Some(90_000)).await.unwrap();
    cluster.some_ticks().await;
    assert_eq!(grace(&cluster), Some(1_000), "a grace is never made longer");
    cluster.script(|script| script.ignores_stop = false);
    cluster
        .end_tasks(id, &crate::domain::exit::Exit::without_status(crate::domain::exit::ExitClass::Stopped, "killed"));
    assert_eq!(cluster.until_ended(id).await.state, "STOPPED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_waits_for_its_next_run() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    let file = super::jobs::with(job("again", &[role("worker", 1, 1)]), "retryCount", serde_json::json!(5));
    let id = cluster.submit(&file).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.end_tasks(id, &super::failure(1));
    cluster.until("the next run waits", |c| c.run(id).attempt == 2).await;
    cluster.stop(id).await;
    let view = cluster.until_ended(id).await;
    assert_eq!((view.state.as_str(), view.runs.len()), ("STOPPED", 2));
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_waits_to_be_placed_again() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.agent("n1").script(|script| {
        script.vetoes = 1;
        script.hangs.insert(Verb::Release);
    });
    let id = cluster.submit(&job("vetoed", &[role("worker", 1, 1)])).await;
    cluster.until("it was given back", |c| c.run(id).rollbacks == 1).await;
    cluster.stop(id).await;
    assert_eq!(cluster.state(id), "STOPPED");
    cluster.agent("n1").script(|script| script.hangs.clear());
    cluster.until_ended(id).await;
    cluster.check_all_free().await;
    // Seats of a placement that was given back are nobody's.
    cluster.restart().await;
    let view = cluster.job(id).await;
    let task = &view.tasks.unwrap()[0];
    assert_eq!((view.state.as_str(), task.state.as_str(), &task.node), ("STOPPED", "STOPPED", &None));
}

#[tokio::test]
async fn only_its_owner_an_operator_or_an_admin_may_stop_a_job() {
    let (cluster, id) = held_up(None, Phase::Running).await;
    let name = id.to_string();
    let refused = cluster.controller.stop_job(&user("bob"), &name, None).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotAllowed);
    assert!(refused.message.contains("belongs to ann"), "{}", refused.message);
    for roles in [vec![], vec![Role::Agent], vec![Role::Controller]] {
        let who = Principal { roles, ..user("bob") };
        let refused = cluster.controller.stop_job(&who, &name, None).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotAllowed);
    }
    let task = cluster.run(id).task_id(0, 0);
    let exec = crate::api::stream::ExecSpec {
        argv: vec!["sh".to_owned()],
        tty: None,
        ..crate::api::stream::ExecSpec::default()
    };
    let refused = cluster.controller.exec(&user("bob"), task, exec).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotAllowed);
    assert_eq!(cluster.phase(id), Phase::Running);
    let operator = Principal { roles: vec![Role::Operator], ..user("bob") };
    cluster.controller.stop_job(&operator, &name, None).await.unwrap();
    assert_eq!(cluster.until_ended(id).await.exit.unwrap().reason, "stopped by bob");
}
