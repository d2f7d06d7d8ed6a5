//! Placements that do not work out: vetoes, silence, mistakes of the job's own.

use super::cluster::Cluster;
use super::jobs::{job, role};
use super::user;
use crate::api::ControllerApi;
use crate::domain::exit::Exit;
use crate::domain::ids::Generation;
use crate::domain::run::{Phase, Verb};
use std::time::Duration;

#[tokio::test]
async fn a_veto_gives_the_whole_gang_back_and_the_next_placement_leaves_the_node_out() {
    // n1 and n2 are fuller than n3 and so preferred.
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1), ("n3", 2)]).await;
    cluster.agent("n2").script(|script| script.vetoes = 1);
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until("it was given back", |c| c.run(id).rollbacks == 1).await;
    assert_eq!((cluster.state(id), cluster.phase(id)), ("WAITING", Phase::Waiting));
    cluster.until("nothing of it is left", |c| c.run(id).leftovers.is_empty()).await;
    for agent in &cluster.agents {
        assert_eq!(agent.see(|inner| inner.holding()), [], "{}", agent.name);
    }
    let view = cluster.job(id).await;
    let reason = view.reason.unwrap();
    assert!(reason.contains("n2: a GPU is in use by somebody else"), "{reason}");
    cluster.check_all_free().await;

    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Waiting, "it backs off");
    cluster.clock.advance(Duration::from_secs(2));
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    assert_eq!((run.generation, run.attempt), (Generation(2), 1), "a rollback is no new attempt");
    assert!(run.tasks.iter().all(|task| task.seat.node.0 != "n2"), "{:?}", run.tasks);
    assert_eq!(cluster.launches(run.id), [1, 1]);
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_node_that_vetoed_is_asked_again_if_nobody_else_can_take_the_gang() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.agent("n1").script(|script| script.vetoes = 3);
    let id = cluster.submit(&job("stubborn", &[role("worker", 1, 1)])).await;
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
    assert_eq!(cluster.run(id).rollbacks, 3);
}

#[tokio::test]
async fn what_a_gang_gave_back_is_free_for_others_only_once_it_is_released() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| script.vetoes = 1);
    cluster.agent("n1").script(|script| _ = script.hangs.insert(Verb::Release));
    let gang = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until("it was given back", |c| c.run(gang).rollbacks == 1).await;
    let other = cluster.submit(&job("other", &[role("a", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    let third = cluster.submit(&job("third", &[role("a", 1, 1)])).await;
    cluster.some_ticks().await;
    assert_eq!(cluster.run(other).tasks[0].seat.node.0, "n2");
    assert_eq!(cluster.phase(third), Phase::Waiting);
    let gpus = cluster.controller.list_gpus(&user("ann"), Some("n1")).await.unwrap();
    assert!(gpus[0].task.as_ref().is_some_and(|task| task.starts_with(&format!("{gang}."))), "{gpus:?}");
    cluster.agent("n1").script(|script| _ = script.hangs.remove(&Verb::Release));
    cluster.until_phase(third, Phase::Running).await;
    assert_eq!(cluster.run(third).tasks[0].seat.node.0, "n1");
}

#[tokio::test]
async fn a_prepare_that_never_answers_is_given_back_at_its_deadline() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1), ("n3", 2)]).await;
    cluster.agent("n2").script(|script| script.stuck_prepare = true);
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    cluster.until("both hold", |c| ["n1", "n2"].iter().all(|n| c.agent(n).see(|i| !i.holding().is_empty()))).await;
    cluster.clock.advance(Duration::from_secs(59));
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Preparing);
    cluster.clock.advance(Duration::from_secs(1));
    cluster.until("it was given back", |c| c.run(id).rollbacks == 1).await;
    let why = cluster.run(id).rolled_back.unwrap();
    assert_eq!(why, "not ready within 60 s on n2");
    cluster.until("nothing of it is left", |c| c.run(id).leftovers.is_empty()).await;
    cluster.clock.advance(Duration::from_secs(2));
    cluster.until_phase(id, Phase::Running).await;
    assert!(cluster.run(id).tasks.iter().all(|task| task.seat.node.0 != "n2"));
    cluster.check();
}

#[tokio::test]
async fn ports_of_somebody_else_cost_a_gang_nothing_but_the_ports() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    // Those that a first placement gets, and the next.
    cluster.agent("n2").script(|script| script.busy_ports = (15_000..15_010).collect());
    let id = cluster.submit(&job("gang", &[role("worker", 2, 1)])).await;
    // Nothing waits: the clock stands still.
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    assert_eq!((run.rollbacks, run.attempt), (0, 1));
    assert!(run.port_conflicts > 0, "{run:?}");
    let on_n2 = run.tasks.iter().find(|task| task.seat.node.0 == "n2").expect("the node stays in");
    assert!(on_n2.seat.ports.iter().flat_map(|label| &label.ports).all(|port| *port >= 15_010), "{on_n2:?}");
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_fixed_port_of_somebody_else_leaves_the_node_out_and_backs_off() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.agent("n1").script(|script| script.busy_ports = [9_000].into());
    let mut web = role("web", 1, 1);
    web["portList"] = serde_json::json!([{ "label": "web", "beginAt": 9000, "portNumber": 1 }]);
    let id = cluster.submit(&job("fixed", &[web])).await;
    cluster.until("it was given back", |c| c.run(id).rollbacks == 1).await;
    assert_eq!(cluster.run(id).port_conflicts, 0);
    let reason = cluster.job(id).await.reason.unwrap();
    assert!(reason.contains("port 9000"), "{reason}");
    cluster.agent("n1").script(|script| script.busy_ports.clear());
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
}

#[tokio::test]
async fn a_mistake_of_the_jobs_own_found_by_prepare_fails_it() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    cluster.agent("n2").script(|script| script.user_error = true);
    let id = cluster.submit(&job("mistake", &[role("worker", 2, 1)])).await;
    let view = cluster.until_ended(id).await;
    assert_eq!(view.state, "FAILED");
    let exit = view.exit.unwrap();
    assert_eq!(exit.class.as_str(), "user");
    assert!(exit.reason.contains("the image has no such user"), "{}", exit.reason);
    assert_eq!(cluster.run(id).rollbacks, 0);
    assert!(cluster.launches(cluster.run(id).id).is_empty());
    cluster.check_all_free().await;
}

#[tokio::test]
async fn a_late_failure_of_prepare_harms_no_task_that_is_already_running() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    // The answer is lost, the report of the agent is not.
    cluster.agent("n1").script(|script| _ = script.hangs.insert(Verb::Launch));
    let id = cluster.submit(&job("late", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Launching).await;
    let run = cluster.run(id);
    let action = crate::domain::run::Action {
        verb: Verb::Prepare,
        task: run.task_id(0, 0),
        generation: run.generation,
        node: "n1".into(),
        grace_ms: crate::domain::quantity::DEFAULT_GRACE_MS,
    };
    let late = crate::domain::command::Error::unavailable("the connection was lost");
    let message = crate::controller::core::Message::Answered { action: action.clone(), result: Err(late.clone()) };
    cluster.controller.messages.send(message).await.unwrap();
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Launching);
    cluster.agent("n1").script(|script| script.hangs.clear());
    cluster.until_phase(id, Phase::Running).await;
    let message = crate::controller::core::Message::Answered { action, result: Err(late) };
    cluster.controller.messages.send(message).await.unwrap();
    cluster.some_ticks().await;
    assert_eq!(cluster.phase(id), Phase::Running);
    cluster.end_tasks(id, &Exit::success());
    assert_eq!(cluster.until_ended(id).await.state, "SUCCEEDED");
}
