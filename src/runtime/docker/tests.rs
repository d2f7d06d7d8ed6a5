//! The contract of runtimes against containers, and what only containers do. Needs root and Docker's programs; where
//! they are missing, every test says by name that it did not run.

mod creation;
mod ending;
mod fixture;
mod folders;
mod gpus;
mod hijack;
mod images;
mod limits;
mod outage;
mod ownership;
mod rules;

use super::*;
use crate::api::stream::ExecOutput;
use crate::domain::exit::ExitClass;
use crate::domain::ids::Generation;
use crate::runtime::contract::{self, Site, output, text};
use crate::runtime::{Adopted, Launch};
use fixture::{Dockerd, Place};

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let Some(place) = Place::new(concat!("docker: ", stringify!($promise))) else { return };
            contract::$promise(&place).await;
        }
    )*};
}

contract!(
    a_task_waits_at_its_barrier_and_then_runs,
    operations_may_be_repeated,
    unknown_tasks_are_gone,
    a_stop_at_the_barrier_ends_at_once,
    grace_ends_with_sigkill,
    failures_are_the_commands,
    removing_ends_everything_and_keeps_the_log,
    output_is_exact_to_the_byte,
    a_new_runtime_adopts_waiting_and_running_tasks,
    a_task_may_end_while_nobody_looks,
    what_was_not_adopted_can_be_removed,
    a_lease_that_is_not_renewed_ends_the_task,
    commands_run_beside_a_task,
    a_dropped_session_kills_its_command,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_beyond_the_limit_is_told() {
    let Some(place) = Place::new("docker: memory_beyond_the_limit_is_told") else { return };
    let mut subject = place.start();
    let task = TaskSpec { memory_mb: 32, ..place.task("head -c 300000000 /dev/zero | tail") };
    let exit = subject.run(&task).await;
    assert!(exit.oom && exit.class == ExitClass::User, "{exit:?}");
    assert!(exit.reason.contains("32 MB"), "{}", exit.reason);
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_shim_is_the_platforms_fault_and_leaves_nothing() {
    let Some(place) = Place::new("docker: a_killed_shim_is_the_platforms_fault") else { return };
    let mut subject = place.start();
    let task = place.task("echo up; sleep 600 & sleep 600");
    subject.launch(&task).await;
    subject.wait_for_output(task.id, "up").await;
    place.shim(task.id).open().unwrap().unwrap().kill().unwrap();
    let exit = subject.exited().await;
    assert_eq!((exit.class, exit.reason.as_str()), (ExitClass::Platform, "the task ended without an exit record"));
    assert_eq!(place.members(task.id), [0; 0]);
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_gives_every_byte() {
    let Some(place) = Place::new("docker: a_terminal_gives_every_byte") else { return };
    let mut subject = place.start();
    let task = place.task("sleep 600");
    subject.launch(&task).await;
    // Each begins like a frame of a command without a terminal, with a length that never comes.
    let script = "for i in 0 1 2; do printf \"\\\\00$i\\\\000\\\\000\\\\000\\\\177\\\\000\\\\000\\\\001text\"; sleep 0.2; done; exit 9";
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).into();
    let mut session =
        subject.runtime.exec(task.id, ExecSpec { argv, tty: Some((24, 80)), ..ExecSpec::default() }).await.unwrap();
    let (mut bytes, mut code) = (Vec::new(), None);
    while let Some(said) = session.output.recv().await {
        match said.unwrap() {
            ExecOutput::Stdout(more) => bytes.extend(more),
            ExecOutput::Stderr(more) => panic!("a terminal has one output: {more:?}"),
            ExecOutput::Exited(status) => code = Some(status),
        }
    }
    let expected: Vec<u8> =
        (0..3u8).flat_map(|kind| [&[kind], b"\0\0\0\x7f\0\0\x01text".as_slice()].concat()).collect();
    assert_eq!((bytes, code), (expected, Some(9)));
    subject.runtime.remove(task.id).await.unwrap();
    subject.exited().await;
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_say_whose_a_container_is_and_on_whose_word() {
    let Some(place) = Place::new("docker: labels_say_whose_a_container_is") else { return };
    let mut subject = place.start();
    let task = place.task("true");
    let decision = Decision { cluster_id: "c-1".into(), generation: Generation(12) };
    subject.runtime.prepare_decided(&task, &[], &decision).await.unwrap();
    let container = place.container(task.id).unwrap();
    let labels = place.dockerd.docker(&["inspect", "--format", "{{json .Config.Labels}}", &container]);
    let labels: std::collections::BTreeMap<String, String> = serde_json::from_str(&labels).unwrap();
    for (name, value) in [
        ("wharf.cluster", "c-1"),
        ("wharf.generation", "12"),
        ("wharf.task", &task.id.to_string()),
        ("wharf.node_uid", &place.node_uid),
    ] {
        assert_eq!(labels.get(name).map(String::as_str), Some(value), "{name} in {labels:?}");
    }
    subject.runtime.remove(task.id).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_logs_shows_one_line_that_says_where_the_output_is() {
    let Some(place) = Place::new("docker: docker_logs_shows_one_line") else { return };
    let mut subject = place.start();
    let task = place.task("echo of the task");
    assert!(subject.run(&task).await.is_success());
    let shown = place.dockerd.docker(&["logs", &place.container(task.id).unwrap()]);
    assert_eq!(shown, "wharf keeps the output of this task: wharf logs 7 --role main --index 3\n");
    subject.finish(task.id).await;
}
