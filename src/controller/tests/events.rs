//! The history of a job as its user reads it.

use super::cluster::Cluster;
use super::jobs::{job, role, with};
use super::{NOON, PATIENCE, node_agent, user};
use crate::api::ControllerApi;
use crate::api::controller::EventFilter;
use crate::api::stream::Answers;
use crate::domain::command::ErrorKind;
use crate::domain::event::Event;
use crate::domain::exit::Exit;
use crate::domain::lifecycle::TaskEvent;
use crate::domain::run::Phase;
use serde_json::json;
use std::time::Duration;

async fn next(events: &mut Answers<Event>) -> Event {
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("an event comes in time");
    event.expect("the stream goes on").expect("no error")
}

#[tokio::test]
async fn events_follow_a_job_in_the_order_of_its_life() {
    let cluster = Cluster::new(&[("n1", 2)]).await;
    cluster.agent("n1").script(|script| script.vetoes = 1);
    let id = cluster.submit(&with(job("train", &[role("worker", 1, 1)]), "retryCount", json!(1))).await;
    let filter = EventFilter { follow: true, job: Some("train".into()), ..EventFilter::default() };
    let mut events = cluster.controller.watch(&user("ann"), filter).await.unwrap();
    cluster.until_as_time_passes("it runs", |c| c.phase(id) == Phase::Running).await;
    // Another's events are not of this job.
    let other = cluster.submit(&job("other", &[role("worker", 1, 1)])).await;
    cluster.until_phase(other, Phase::Running).await;
    cluster.end_tasks(id, &super::failure(1));
    cluster.until_as_time_passes("it runs again", |c| c.run(id).attempt == 2 && c.phase(id) == Phase::Running).await;
    cluster.end_tasks(id, &Exit::success());
    cluster.until_ended(id).await;
    let expected = [
        "job.submitted",
        "run.placed",
        "run.rolled_back",
        "task.refused",
        "run.placed",
        "run.prepared",
        "task.started",
        "run.started",
        "task.ended",
        "run.ended",
        "job.retried",
        "run.placed",
        "run.prepared",
        "task.started",
        "run.started",
        "task.ended",
        "run.ended",
        "job.ended",
    ];
    let mut last = 0;
    let mut kinds = Vec::new();
    for _ in expected {
        let event = next(&mut events).await;
        assert_eq!(event.job, Some(id));
        assert!(event.sequence > last);
        last = event.sequence;
        kinds.push(event.kind);
    }
    assert_eq!(kinds, expected);
    assert!(events.try_recv().is_err(), "nothing more, and the stream is open");

    let filter = EventFilter { after: Some(last - 1), job: Some(id.to_string()), ..EventFilter::default() };
    let mut rest = cluster.controller.watch(&user("ann"), filter).await.unwrap();
    assert_eq!(next(&mut rest).await.kind, "job.ended");
    assert!(rest.recv().await.is_none(), "without follow the stream ends");
    let filter = EventFilter { node: Some("n1".into()), ..EventFilter::default() };
    let mut of_node = cluster.controller.watch(&user("ann"), filter).await.unwrap();
    assert_eq!(next(&mut of_node).await.kind, "node.joined");
}

#[tokio::test]
async fn what_a_node_did_unheard_is_told_in_the_order_in_which_it_happened() {
    let cluster = Cluster::new(&[("n1", 3)]).await;
    let agent = cluster.agent("n1");
    let mut jobs = Vec::new();
    for name in ["a", "b", "c"] {
        jobs.push(cluster.submit(&job(name, &[role("worker", 1, 1)])).await);
    }
    for id in &jobs {
        cluster.until_phase(*id, Phase::Running).await;
    }
    agent.script(|script| script.silent = true);
    for (i, id) in jobs.iter().enumerate() {
        // The last ended first.
        let run = cluster.run(*id);
        let (task, at) = (run.task_id(0, 0), NOON.plus(Duration::from_secs(60 - i as u64)));
        agent.with(|inner| inner.apply(task, TaskEvent::Exited { at, exit: Exit::success() })).unwrap();
    }
    let filter = EventFilter { follow: true, ..EventFilter::default() };
    let mut events = cluster.controller.watch(&user("ann"), filter).await.unwrap();
    // The list of its tasks is here before its reports.
    cluster.controller.register(&node_agent(&agent.registration().name.0), agent.registration()).await.unwrap();
    let mut ended = Vec::new();
    while ended.len() < jobs.len() {
        let event = next(&mut events).await;
        ended.extend(event.job.filter(|_| event.kind == "task.ended"));
    }
    assert_eq!(ended, [jobs[2], jobs[1], jobs[0]]);
}

#[tokio::test]
async fn events_that_are_gone_are_out_of_range() {
    let cluster = Cluster::new(&[]).await;
    let event = Event {
        sequence: 0,
        time: NOON,
        kind: "job.submitted".into(),
        job: Some(1),
        task: None,
        node: None,
        message: String::new(),
    };
    // The history of these tests keeps ten thousand.
    let last = cluster.history.append(vec![event; 10_005]).await.unwrap();
    let watch = async |after| {
        let filter = EventFilter { after: Some(after), ..EventFilter::default() };
        cluster.controller.watch(&user("ann"), filter).await.map_err(|error| error.kind)
    };
    assert_eq!(watch(0).await.unwrap_err(), ErrorKind::OutOfRange);
    assert_eq!(watch(last - 10_001).await.unwrap_err(), ErrorKind::OutOfRange);
    assert_eq!(next(&mut watch(last - 10_000).await.unwrap()).await.sequence, last - 9_999);
    assert!(watch(last).await.unwrap().recv().await.is_none());
    assert!(watch(u64::MAX).await.unwrap().recv().await.is_none());
}

#[tokio::test]
async fn a_stream_ends_with_its_controller() {
    let mut cluster = Cluster::new(&[]).await;
    let filter = EventFilter { follow: true, ..EventFilter::default() };
    let mut events = cluster.controller.watch(&user("ann"), filter).await.unwrap();
    cluster.kill().await;
    let ended = tokio::time::timeout(PATIENCE, async { while events.recv().await.is_some() {} }).await;
    assert!(ended.is_ok());
    let error = cluster.controller.submit(&user("ann"), Default::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
}
