//! The controller is killed and another one starts on the same store, wherever a job is.

use super::cluster::Cluster;
use super::jobs::{job, role, with};
use crate::domain::exit::Exit;
use crate::domain::run::{Phase, Verb};
use serde_json::json;
use std::time::Duration;

/// A gang of two that is held up by `n2` when the controller is killed; then it goes on to a good end.
async fn survives(verb: Verb, phase: Phase) {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| _ = script.hangs.insert(verb));
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, phase).await;
    cluster.until("the command is under way", |c| c.agent("n2").see(|inner| inner.count(verb) > 0)).await;
    let before = cluster.run(id);
    cluster.restart().await;
    cluster.agent("n2").script(|script| script.hangs.clear());
    cluster.until_phase(id, Phase::Running).await;
    let after = cluster.run(id);
    assert_eq!((after.id, after.generation, after.rollbacks), (before.id, before.generation, 0));
    assert_eq!(cluster.launches(after.id), [1, 1]);
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_is_staged() {
    survives(Verb::Stage, Phase::Staging).await;
}

#[tokio::test]
async fn while_it_is_prepared() {
    survives(Verb::Prepare, Phase::Preparing).await;
}

#[tokio::test]
async fn while_it_is_launched() {
    survives(Verb::Launch, Phase::Launching).await;
}

#[tokio::test]
async fn while_it_waits() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let first = cluster.submit(&job("first", &[role("worker", 1, 1)])).await;
    cluster.until_phase(first, Phase::Running).await;
    let second = cluster.submit(&job("second", &[role("worker", 1, 1)])).await;
    let third = cluster.submit(&with(job("third", &[role("worker", 1, 1)]), "retryCount", json!(1))).await;
    cluster.restart().await;
    cluster.some_ticks().await;
    assert_eq!((cluster.phase(first), cluster.phase(second)), (Phase::Running, Phase::Waiting));
    for id in [first, second, third] {
        cluster.until_phase(id, Phase::Running).await;
        cluster.end_tasks(id, &Exit::success());
        assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    }
    assert_eq!(cluster.launches(cluster.run(first).id), [1]);
}

#[tokio::test]
async fn while_it_runs_and_its_tasks_end_meanwhile() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    cluster.restart().await;
    cluster.until("both nodes are back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Running);
    cluster.kill().await;
    let other = if run.tasks[0].seat.node.0 == "n1" { 1 } else { 0 };
    cluster.agent("n2").end(run.task_id(0, other), super::failure(3));
    cluster.begin().await;
    let view = cluster.until_ended(id).await;
    assert_eq!((view.state.as_str(), view.exit.unwrap().code), ("FAILED", Some(3)));
    assert_eq!(cluster.launches(run.id), [1, 1]);
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_is_stopping() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n2").script(|script| _ = script.hangs.insert(Verb::Stop));
    cluster.stop(id).await;
    cluster.until("the stop is under way", |c| c.agent("n2").see(|inner| inner.count(Verb::Stop) > 0)).await;
    cluster.restart().await;
    assert_eq!(cluster.state(id), "STOPPING");
    cluster.agent("n2").script(|script| script.hangs.clear());
    let view = cluster.until_ended(id).await;
    assert_eq!((view.state.as_str(), view.exit.unwrap().reason.as_str()), ("STOPPED", "stopped by ann"));
    cluster.check_all_free().await;
}

#[tokio::test]
async fn while_it_is_released() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n2").script(|script| _ = script.hangs.insert(Verb::Release));
    cluster.end_tasks(id, &Exit::success());
    cluster.until("the release is under way", |c| c.agent("n2").see(|inner| inner.count(Verb::Release) > 0)).await;
    assert_eq!(cluster.state(id), "SUCCEEDED");
    cluster.restart().await;
    assert!(!cluster.is_over(id), "what n2 holds is still promised");
    cluster.agent("n2").script(|script| script.hangs.clear());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
    // Everything about it is still known to the next one.
    let before = cluster.job(id).await;
    cluster.restart().await;
    assert_eq!(cluster.job(id).await, before);
}

#[tokio::test]
async fn while_a_placement_is_given_back() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| script.vetoes = 1);
    cluster.agent("n1").script(|script| _ = script.hangs.insert(Verb::Release));
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until("it was given back", |c| c.run(id).rollbacks == 1).await;
    cluster.until("n2 has released", |c| c.run(id).leftovers.len() == 1).await;
    // What n2 gave back already goes to another job; that must not be forgotten.
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    cluster.restart().await;
    cluster.check();
    assert_eq!(cluster.run(id).leftovers.len(), 1);
    cluster.until("both nodes are back", |c| c.agents.iter().all(|agent| c.is_ready(&agent.name))).await;
    let third = cluster.submit(&job("third", &[role("worker", 1, 1)])).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(third), Phase::Waiting, "nothing is free");
    cluster.agent("n1").script(|script| script.hangs.clear());
    cluster.until_phase(third, Phase::Running).await;
    for id in [other, third] {
        cluster.end_tasks(id, &Exit::success());
        cluster.until_ended(id).await;
    }
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
}

#[tokio::test]
async fn while_a_part_of_a_running_job_has_been_released_and_given_to_another() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    let tolerant = with(role("worker", 2, 1), "minFailedTaskCount", json!(2));
    let id = cluster.submit(&job("tolerant", &[tolerant])).await;
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n1").end(cluster.run(id).task_id(0, 0), super::failure(1));
    cluster.until("it is released", |c| c.run(id).tasks[0].released).await;
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    cluster.restart().await;
    cluster.check();
    cluster.until("the node is back", |c| c.is_ready(&"n1".into())).await;
    let third = cluster.submit(&job("third", &[role("worker", 1, 1)])).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(third), Phase::Waiting, "both GPUs are in use");
    cluster.end_tasks(other, &Exit::success());
    cluster.until_phase(third, Phase::Running).await;
}

#[tokio::test]
async fn a_job_that_was_staged_on_a_node_that_never_comes_back_goes_elsewhere() {
    let mut cluster = Cluster::new(&[("n1", 1), ("n2", 2)]).await;
    cluster.node_timeout = Duration::from_millis(500);
    cluster.agent("n1").script(|script| _ = script.hangs.insert(Verb::Stage));
    let id = cluster.submit(&job("staged", &[role("worker", 1, 1)])).await;
    cluster.until("it is staged on n1", |c| c.agent("n1").see(|inner| inner.count(Verb::Stage) > 0)).await;
    cluster.kill().await;
    cluster.agent("n1").script(|script| script.silent = true);
    cluster.begin().await;
    cluster.until_as_time_passes("it runs elsewhere", |c| c.phase(id) == Phase::Running).await;
    assert_eq!(cluster.run(id).tasks[0].seat.node.0, "n2");
    // Nothing was held, yet the node has to say so once it is back.
    cluster.agent("n1").script(|script| (script.silent, script.hangs) = (false, Default::default()));
    cluster.until("nothing of it is left", |c| c.run(id).leftovers.is_empty()).await;
    cluster.check();
}

#[tokio::test]
async fn a_controller_that_was_replaced_ends_and_says_so() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let (old, running) = (cluster.controller.clone(), cluster.take_running());
    cluster.begin().await;
    let submit = super::jobs::submission(&job("late", &[role("worker", 1, 1)]), "");
    let refused = crate::api::ControllerApi::submit(&old, &super::user("ann"), submit).await.unwrap_err();
    assert_eq!(refused.kind, crate::domain::command::ErrorKind::Stale, "{refused}");
    assert_eq!(running.join().await.unwrap_err().kind, crate::domain::command::ErrorKind::Stale);
    assert_eq!(cluster.keys().await, Vec::<String>::new());
}
