//! Who takes part in a pass of the scheduler, and who is told that it has no hope.

use super::super::possible;
use super::super::schedule::{place_waiting, waiting};
use super::super::state::State;
use super::agent::Agent;
use super::cluster::Cluster;
use super::jobs::{job, role, with};
use super::{NOON, PATIENCE, user};
use crate::api::ControllerApi;
use crate::domain::ids::{JobId, RunId};
use crate::domain::job::{Job, JobState};
use crate::domain::retry::Retries;
use crate::domain::run::{Phase, Run, Verb};
use crate::domain::task::TaskState;
use crate::domain::view::{ExplainedTask, Explanation};
use crate::scheduler::Policy;
use crate::scheduler::quota::Limits;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Queues a job as a submit does.
fn queue(state: &mut State, file: &Value) -> JobId {
    let spec = crate::jobfile::parse("job.json", file.to_string().as_bytes()).expect("a valid job").spec;
    let id = JobId(state.jobs.len() as u64 + 1);
    let run = RunId(id.0);
    let job = Job {
        id,
        chain_id: String::new(),
        user: "ann".to_owned(),
        name: spec.name.clone(),
        priority: spec.priority,
        submitted_at: NOON,
        request_id: String::new(),
        state: JobState::Waiting,
        stop_asked: false,
        exit: None,
        runs: vec![run],
        retries: Retries::default(),
        ended_at: None,
        ended_order: 0,
        ssh: None,
    };
    state.jobs.insert(id, job);
    state.specs.insert(id, Arc::new(spec));
    state.runs.insert(run, Run::new(run, id, 1, NOON, NOON));
    state.refresh_run(run);
    id
}

fn in_queue(file: Value, name: &str) -> Value {
    with(file, "virtualCluster", json!(name))
}

fn taking_part(state: &State, policy: &Policy) -> Vec<JobId> {
    waiting(state, policy, NOON).into_iter().map(|waiting| waiting.job).collect()
}

#[test]
fn a_flood_of_jobs_over_their_quota_hides_nobody() {
    let limits = [("a".to_owned(), Limits { gpus: Some(1), ..Limits::default() })];
    let policy = Policy { clusters: limits.into(), ..Policy::default() };
    let mut state = State::default();
    let flood = in_queue(job("flood", &[role("worker", 1, 1)]), "a");
    for _ in 0..5000 {
        queue(&mut state, &flood);
    }
    let other = queue(&mut state, &job("other", &[role("worker", 1, 1)]));
    let all = taking_part(&state, &policy);
    assert_eq!((all.len(), all.last()), (1001, Some(&other)));
}

#[test]
fn a_flood_of_jobs_without_hope_hides_nobody() {
    let (policy, mut state) = (Policy::default(), State::default());
    let hopeless = job("hopeless", &[role("worker", 1, 100)]);
    let first = queue(&mut state, &hopeless);
    for _ in 0..2500 {
        queue(&mut state, &hopeless);
    }
    let other = queue(&mut state, &job("other", &[role("worker", 1, 1)]));
    assert!(!taking_part(&state, &policy).contains(&other), "nobody knows yet");
    // As many as one tick looks at, again and again.
    for _ in 0..10 {
        possible::sweep(&mut state, &policy);
    }
    assert!(state.placing.doubts.get(&first).is_some_and(|doubt| doubt.never), "there are no nodes at all");
    assert!(taking_part(&state, &policy).is_empty());
    let key = (Reverse(0), NOON, RunId(other.0));
    state.placing.judged("default", key, other, None);
    assert_eq!(taking_part(&state, &policy), [other]);
    // It is run again: nothing that happened meanwhile may keep it from being judged.
    state.placing.waits_no_more("default", key, other);
    state.refresh_run(RunId(other.0));
    possible::sweep(&mut state, &policy);
    assert!(state.placing.doubts.contains_key(&other) && taking_part(&state, &policy).is_empty());
}

#[test]
fn what_a_pass_found_is_told_until_the_job_waits_no_more() {
    let (policy, mut state) = (Policy::default(), State::default());
    let id = queue(&mut state, &job("job", &[role("worker", 1, 1)]));
    place_waiting(&mut state, &policy, NOON, &mut BTreeSet::new());
    possible::sweep(&mut state, &policy);
    assert_eq!((state.placing.found.len(), state.placing.doubts.len(), state.placing.queues.len()), (1, 1, 0));
    if let Some(run) = state.runs.get_mut(&RunId(id.0)) {
        run.stop(0, "stopped", NOON);
    }
    state.refresh_run(RunId(id.0));
    let placing = &state.placing;
    assert!(placing.found.is_empty() && placing.doubts.is_empty() && placing.queues.is_empty(), "{placing:?}");
}

#[tokio::test]
async fn a_job_without_hope_says_so_until_a_node_comes_that_could_hold_it() {
    let mut cluster = Cluster::new(&[("n1", 2)]).await;
    let id = cluster.submit(&job("wide", &[role("worker", 1, 4)])).await;
    let explain = async |cluster: &Cluster| {
        let explained = cluster.controller.explain_job(&user("ann"), "wide").await.unwrap();
        assert_eq!(explained.never_possible, explained.earliest_note.starts_with("never"), "{explained:?}");
        (explained.never_possible, cluster.job(id).await.reason.unwrap_or_default())
    };
    let (never, reason) = explain(&cluster).await;
    assert!(never && reason.contains("could ever hold this job"), "{reason}");
    assert!(reason.contains("n1: gpus: needs 4, has 2 free of 2"), "{reason}");
    cluster.restart().await;
    let told_again = async {
        while !explain(&cluster).await.0 {
            cluster.some_ticks().await;
        }
    };
    tokio::time::timeout(PATIENCE, told_again).await.expect("a controller finds it out again");
    cluster.add(Agent::new("n2", 4));
    cluster.until_phase(id, Phase::Running).await;
    assert_eq!(explain(&cluster).await, (false, String::new()));
}

#[tokio::test]
async fn a_placed_run_says_how_far_each_task_is() {
    let cluster = Cluster::new(&[("n1", 2), ("n2", 2)]).await;
    cluster.agent("n2").script(|script| script.hangs = [Verb::Stage, Verb::Prepare].into());
    let id = cluster.submit(&job("slow", &[role("worker", 2, 2)])).await;
    let explain = async || cluster.controller.explain_job(&user("ann"), "slow").await.unwrap();
    let staged = |c: &Cluster| c.run(id).tasks.iter().filter(|task| task.staged).count();
    cluster.until("one has its image", |c| c.phase(id) == Phase::Staging && staged(c) == 1).await;
    let task = cluster.run(id).task_id(0, 1);
    cluster.agent("n2").with(|inner| inner.progress = vec![(task, "pulling: 3 of 7 layers".to_owned())]);
    let told = async {
        while !explain().await.tasks.iter().any(|task| task.detail.contains("3 of 7")) {
            cluster.some_ticks().await;
        }
        explain().await
    };
    let staging = tokio::time::timeout(PATIENCE, told).await.expect("progress arrives");
    assert!(staging.summary.contains("1 of 2 tasks have theirs"), "{staging:?}");
    let lines = |explained: &Explanation| -> Vec<(String, String, String)> {
        let line = |task: &ExplainedTask| (task.node.clone(), task.state.clone(), task.detail.clone());
        explained.tasks.iter().map(line).collect()
    };
    let line = |node: &str, state: &str, detail: &str| (node.to_owned(), state.to_owned(), detail.to_owned());
    let waits = line("n1", "STAGING", "has its images and code, and waits for the others");
    assert_eq!(lines(&staging), [waits, line("n2", "STAGING", "pulling: 3 of 7 layers")]);

    cluster.agent("n2").script(|script| script.hangs = [Verb::Prepare].into());
    let ready = |c: &Cluster| c.run(id).tasks.iter().filter(|task| task.state == TaskState::Ready).count();
    cluster.until("one is at its barrier", |c| c.phase(id) == Phase::Preparing && ready(c) == 1).await;
    let preparing = explain().await;
    assert!(preparing.summary.contains("1 of 2 are at their barrier; unless all are by 2026-"), "{preparing:?}");
    assert_eq!(lines(&preparing)[0], line("n1", "READY", "is at its barrier, and waits for the others"));

    cluster.agent("n2").script(|script| script.hangs = BTreeSet::new());
    cluster.until_phase(id, Phase::Running).await;
    let running = explain().await;
    assert_eq!((running.summary.as_str(), running.tasks.len()), ("2 of 2 tasks run", 0), "{running:?}");
}
