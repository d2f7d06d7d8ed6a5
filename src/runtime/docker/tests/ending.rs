//! A stop in whatever phase leaves no container, no process and no folder but the log.

use super::*;
use crate::runtime::contract::{PATIENCE, wait_until};

/// Begins to prepare, asks for the end as soon as `reached` says so, and removes.
async fn stopped_when(what: &str, reached: impl Fn(&Place, TaskId) -> bool) {
    let Some(place) = Place::new(&format!("docker: a stop when {what}")) else { return };
    let subject = place.start();
    let task = place.task("sleep 600");
    let (runtime, spec) = (subject.runtime.clone(), task.clone());
    let preparing = tokio::spawn(async move { runtime.prepare(&spec, &[]).await });
    wait_until(what, || reached(&place, task.id)).await;
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    subject.runtime.remove(task.id).await.unwrap();
    // Cancelled, or done before the stop came.
    preparing.await.unwrap().ok();
    place.assert_nothing_left(task.id);
    assert!(!place.task_dir(task.id).join("s").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_its_container_is_made() {
    stopped_when("its record is there", |place, id| place.task_dir(id).join("task.json").exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_its_container_is_made() {
    stopped_when("its container is there", |place, id| place.container(id).is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_its_container_is_started() {
    stopped_when("its shim is known", |place, id| place.task_dir(id).join("shim.json").exists()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_runs_and_when_it_is_gone() {
    let Some(place) = Place::new("docker: a stop while it runs") else { return };
    let mut subject = place.start();
    let task = place.task("trap '' TERM; echo up; (setsid sleep 600 &); sleep 600");
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "up").await;
    subject.runtime.stop(task.id, Duration::from_millis(100)).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    wait_until("its processes' end", || place.members(task.id).is_empty()).await;
    subject.runtime.stop(task.id, PATIENCE).await.unwrap();
    subject.runtime.remove(task.id).await.unwrap();
    place.assert_nothing_left(task.id);
    subject.runtime.stop(task.id, PATIENCE).await.unwrap();
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_somebody_has_removed_its_container() {
    let Some(place) = Place::new("docker: a stop when somebody has removed its container") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    place.dockerd.docker(&["rm", "-f", &place.container(task.id).unwrap()]);
    let exit = subject.exited().await;
    assert_eq!(exit.class, ExitClass::Platform, "{exit:?}");
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    subject.finish(task.id).await;
    place.assert_nothing_left(task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_container_is_ended_over_its_shims_head() {
    let Some(place) = Place::new("docker: a paused container is ended") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    place.dockerd.docker(&["pause", &place.container(task.id).unwrap()]);
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    subject.finish(task.id).await;
    place.assert_nothing_left(task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_others_ask_for_is_the_platforms() {
    let Some(place) = Place::new("docker: an end that others ask for") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    // As dockerd itself does when it is stopped without live-restore.
    place.dockerd.docker(&["stop", &place.container(task.id).unwrap()]);
    let exit = subject.exited().await;
    assert_eq!(exit.class, ExitClass::Platform, "{exit:?}");
    assert!(exit.reason.contains("SIGTERM"), "{}", exit.reason);
    subject.finish(task.id).await;
}
