//! Neither memory nor the store grows with uptime.

use super::NOON;
use super::cluster::Cluster;
use super::jobs::{job, role, with};
use super::user;
use crate::api::ControllerApi;
use crate::controller::core::read;
use crate::controller::forget::old_runs;
use crate::controller::state::State;
use crate::domain::exit::Exit;
use crate::domain::ids::{JobId, RunId};
use crate::domain::run::{Phase, Run, Verb};
use crate::telemetry::clock::Clock;
use serde_json::json;
use std::time::Duration;

fn jobs_in_memory(cluster: &Cluster) -> Vec<u64> {
    read(&cluster.controller.shared).jobs.keys().map(|id| id.0).collect()
}

#[tokio::test]
async fn ended_jobs_above_the_limit_are_forgotten_everywhere() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.keep_ended_jobs = 2;
    cluster.restart().await;
    cluster.script(|script| script.exit_at_start = Some(Exit::success()));
    let mut all = Vec::new();
    for number in 0..5 {
        all.push(cluster.submit(&job(&format!("job-{number}"), &[role("worker", 1, 1)])).await);
        cluster.clock.advance(Duration::from_secs(1));
        let id = *all.last().unwrap();
        cluster.until("it has ended", |c| !jobs_in_memory(c).contains(&id) || c.is_over(id)).await;
    }
    let waiting = cluster.submit(&job("waiting", &[role("worker", 1, 9)])).await;
    let kept = [all[3], all[4], waiting];
    cluster.until("the old ones are forgotten", |c| jobs_in_memory(c) == kept).await;
    let of = |keys: &[String], id: u64| keys.iter().filter(|key| key.contains(&format!("/{id:020}"))).count();
    let mut keys = cluster.keys().await;
    while all[..3].iter().any(|id| of(&keys, *id) > 0) {
        cluster.some_ticks().await;
        keys = cluster.keys().await;
    }
    // job, secret, file, spec, run, plan, task of two; job, secret, file, spec, run of the one that waits.
    assert_eq!(kept.map(|id| of(&keys, id)), [7, 7, 5], "{keys:#?}");
    assert_eq!(keys.len(), 19, "{keys:#?}");
    {
        let state = read(&cluster.controller.shared);
        assert_eq!((state.specs.len(), state.runs.len(), state.ended.len()), (3, 3, 2));
        assert_eq!((state.requests.len(), state.names.len(), state.unsettled.len()), (0, 1, 1));
    }
    let error = cluster.controller.get_job(&user("ann"), &all[0].to_string(), None).await.unwrap_err();
    assert_eq!(error.message, format!("there is no job {}", all[0]));
    cluster.restart().await;
    assert_eq!(jobs_in_memory(&cluster), kept);
}

#[tokio::test]
async fn a_clock_that_is_set_back_forgets_no_newer_job_before_an_older_one() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.keep_ended_jobs = 2;
    cluster.restart().await;
    cluster.script(|script| script.exit_at_start = Some(Exit::success()));
    let mut all = Vec::new();
    for number in 0..5 {
        let id = cluster.submit(&job(&format!("job-{number}"), &[role("worker", 1, 1)])).await;
        all.push(id);
        cluster.until("it has ended", |c| !jobs_in_memory(c).contains(&id) || c.is_over(id)).await;
        let hour = 3_600_000_000_000;
        cluster.clock.set_now(Clock::now(&*cluster.clock).moved(-hour));
        // Also by what another controller reads.
        cluster.restart().await;
    }
    cluster.until("the old ones are forgotten", |c| jobs_in_memory(c).len() == 2).await;
    assert_eq!(jobs_in_memory(&cluster), all[3..]);
}

#[tokio::test]
async fn jobs_that_a_dead_node_never_releases_do_not_keep_the_others_from_being_forgotten() {
    let mut cluster = Cluster::new(&[("n1", 30)]).await;
    cluster.keep_ended_jobs = 0;
    cluster.restart().await;
    cluster.script(|script| {
        script.exit_at_start = Some(Exit::success());
        script.hangs.insert(Verb::Release);
    });
    let mut stuck = Vec::new();
    for number in 0..25 {
        stuck.push(cluster.submit(&job(&format!("stuck-{number}"), &[role("worker", 1, 1)])).await);
    }
    cluster.until("they have ended", |c| stuck.iter().all(|id| c.state(*id) == "SUCCEEDED")).await;
    cluster.clock.advance(Duration::from_secs(1));
    cluster.agent("n1").script(|script| script.exit_at_start = None);
    let waiting = cluster.submit(&job("later", &[role("worker", 1, 31)])).await;
    cluster.stop(waiting).await;
    cluster.until("the later one is forgotten", |c| jobs_in_memory(c) == stuck).await;
    cluster.script(|script| script.hangs.clear());
    cluster.until("all are forgotten", |c| jobs_in_memory(c).is_empty()).await;
}

#[tokio::test]
async fn what_a_rolled_back_placement_wrote_is_deleted() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.agent("n1").script(|script| script.vetoes = 3);
    let id = cluster.submit(&job("vetoed", &[role("worker", 1, 1)])).await;
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
    cluster.some_ticks().await;
    let keys = cluster.keys().await;
    let plans: Vec<&String> = keys.iter().filter(|key| key.starts_with("plan/")).collect();
    let tasks: Vec<&String> = keys.iter().filter(|key| key.starts_with("task/")).collect();
    assert_eq!(plans, [&format!("plan/{id:020}/{:010}/{:06}", 4, 0)]);
    assert_eq!(tasks, [&format!("task/{id:020}/{:010}/{:06}/{:06}", 4, 0, 0)]);
}

#[tokio::test]
async fn the_oldest_runs_of_a_job_that_is_run_for_ever_are_forgotten() {
    let cluster = Cluster::new(&[]).await;
    let id = cluster.submit(&with(job("forever", &[role("worker", 1, 1)]), "retryCount", json!(-2))).await;
    let mut state = State::default();
    {
        let known = read(&cluster.controller.shared);
        state.jobs = known.jobs.clone();
        state.specs = known.specs.clone();
    }
    let job = state.jobs.get_mut(&JobId(id)).unwrap();
    job.runs = (0..105).map(|number| RunId(id + number)).collect();
    for number in 0..105 {
        let run = Run::new(RunId(id + number), JobId(id), 1, NOON, NOON);
        state.runs.insert(run.id, run);
    }
    // The second has a task that was never released.
    state.unsettled.insert(RunId(id + 1));
    old_runs(&mut state, JobId(id));
    let kept: Vec<u64> = state.jobs[&JobId(id)].runs.iter().map(|run| run.0 - id).collect();
    assert_eq!(kept, [1].into_iter().chain(5..105).collect::<Vec<_>>());
    assert_eq!(state.runs.len(), 101);
    let first = format!("run/{id:020}");
    assert!(state.garbage.contains(&first), "{:?}", state.garbage);
    assert_eq!(state.garbage.len(), 4 * 3);
}
