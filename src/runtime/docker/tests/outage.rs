//! A dockerd that is killed, hangs or is not there: what runs goes on, what is to end ends, and nothing is said to be gone
//! that may be there.

use super::*;
use crate::runtime::contract::{Subject, wait_until};
use nix::sys::signal::Signal;

fn own(test: &str) -> Option<Place> {
    Dockerd::own(test).map(Place::beside)
}

fn numbered(place: &Place, index: u32, command: &str) -> TaskSpec {
    let task = place.task(command);
    TaskSpec { id: TaskId { index, ..task.id }, ..task }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_dockerd_loses_no_task_and_no_output() {
    let Some(place) = own("docker: a_killed_dockerd_loses_no_task") else { return };
    let mut subject = place.start();
    let script = "seq 1 20000; while [ ! -e /tmp/go ]; do sleep 0.05; done; seq 20001 40000";
    let tasks: Vec<_> = (0..3).map(|index| numbered(&place, index, script)).collect();
    for task in &tasks {
        subject.launch(task).await;
    }
    let shims: Vec<_> = tasks.iter().map(|task| place.shim(task.id)).collect();
    place.dockerd.signal(Signal::SIGKILL);
    for task in &tasks {
        subject.wait_for_output(task.id, "\n20000\n").await;
    }
    // One ends while there is no dockerd.
    subject.runtime.stop(tasks[2].id, Duration::ZERO).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    place.dockerd.start_again();
    assert!(shims[..2].iter().all(|shim| shim.is_alive().unwrap()));
    subject.quiet();
    for task in &tasks[..2] {
        let touch =
            ExecSpec { argv: ["touch", "/tmp/go"].map(str::to_owned).into(), tty: None, ..ExecSpec::default() };
        let mut session = subject.runtime.exec(task.id, touch).await.unwrap();
        while session.output.recv().await.is_some() {}
        let exit = subject.exited().await;
        assert!(exit.is_success(), "{exit:?}");
        let lines: String = (1..=40000).map(|number| format!("{number}\n")).collect();
        assert!(text(&output(&subject.runtime.log_dir(task.id)).0) == lines, "the output is whole");
    }
    for task in &tasks {
        subject.runtime.remove(task.id).await.unwrap();
    }
    place.assert_nothing_left(tasks[0].id);
    subject.quiet();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_dockerd_stops_no_stop() {
    let Some(place) = own("docker: a_hung_dockerd_stops_no_stop") else { return };
    let mut subject = place.start();
    let (polite, stubborn) =
        (numbered(&place, 0, "sleep 600"), numbered(&place, 1, "trap '' TERM; echo up; sleep 600; sleep 600"));
    for task in [&polite, &stubborn] {
        subject.launch(task).await;
    }
    subject.wait_for_output(stubborn.id, "up").await;
    place.dockerd.signal(Signal::SIGSTOP);
    for task in [&polite, &stubborn] {
        let grace = Duration::from_millis(500);
        let begun = std::time::Instant::now();
        subject.runtime.stop(task.id, grace).await.unwrap();
        assert_eq!(subject.exited().await.class, ExitClass::Stopped);
        assert!(begun.elapsed() < grace + Duration::from_secs(2), "{:?}", begun.elapsed());
        wait_until("its processes' end", || place.members(task.id).is_empty()).await;
    }
    // Its processes are gone, the container may be there.
    let refused = subject.runtime.remove(polite.id).await.unwrap_err();
    assert!(!refused.user_error && refused.message.contains("dockerd does not answer"), "{refused}");
    let refused = subject.runtime.prepare(&numbered(&place, 2, "true"), &[]).await.unwrap_err();
    assert!(refused.message.contains("dockerd does not answer"), "{refused}");
    place.dockerd.signal(Signal::SIGCONT);
    for task in [&polite, &stubborn] {
        subject.runtime.remove(task.id).await.unwrap();
    }
    place.assert_nothing_left(polite.id);
    subject.finish(polite.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_dockerd_does_not_keep_an_unknown_task_alive() {
    let Some(place) = own("docker: a_hung_dockerd_does_not_keep_an_unknown_task_alive") else { return };
    let task = place.task("sleep 600");
    let mut first = place.start();
    first.launch(&task).await;
    drop(first);
    place.dockerd.signal(Signal::SIGSTOP);
    let second = place.start();
    assert!(second.runtime.remove(task.id).await.is_err());
    assert_eq!(place.members(task.id), [0; 0]);
    place.dockerd.signal(Signal::SIGCONT);
    second.runtime.remove(task.id).await.unwrap();
    place.assert_nothing_left(task.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dockerd_that_comes_late_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let (sender, events) = mpsc::channel(16);
    let config = DockerConfig::new(dir.path().join("state"), &socket, NodeUid("n".into()));
    let subject = Subject { runtime: Arc::new(DockerRuntime::new(config, sender).unwrap()), events };
    let task = TaskSpec { image: "wharf-test/busybox:1".into(), ..contract::task("true") };
    for refused in [subject.runtime.stage(&task).await, subject.runtime.prepare(&task, &[]).await] {
        let refused = refused.unwrap_err();
        assert!(!refused.user_error && refused.message.contains("dockerd does not answer"), "{refused}");
    }
    assert!(!subject.runtime.log_dir(task.id).exists(), "nothing is left of the attempt");
    assert!(subject.runtime.list().await.is_err(), "what dockerd has is not known");
    let Some(dockerd) = Dockerd::any("docker: a_dockerd_that_comes_late") else { return };
    std::os::unix::fs::symlink(&dockerd.socket, &socket).unwrap();
    subject.runtime.stage(&task).await.unwrap();
    assert_eq!(subject.runtime.list().await.unwrap(), []);
}
