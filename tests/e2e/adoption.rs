//! A new agent takes over everything that the one before it has left: many tasks at once, also those that have ended
//! meanwhile; and what a reboot of the host leaves, which is nothing but records.

use crate::harness::job::quoted;
use crate::harness::{Cluster, job, proc, role, until};
use serde_json::{Value, json};
use std::fs;

const TASKS: usize = 100;
const ENDED: usize = 10;

/// The index of a task, in its own shell.
const INDEX: &str = "$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX";

#[test]
fn a_hundred_tasks_are_adopted_and_those_that_ended_meanwhile_too() {
    let cluster =
        Cluster::with(vec![crate::harness::Node { cpus: 128, ..crate::harness::Node::new("n0", "none") }], "");
    let folder = cluster.folder().display();
    let command = format!(
        "echo $$ >> '{folder}'/starts; echo begun {INDEX}; until [ -e '{folder}'/go ] || [ -e '{folder}'/go.{INDEX} ]; \
         do sleep 0.3; done; echo ended {INDEX}; exit $(({INDEX} % 50))"
    );
    let mut main = role("main", TASKS as u32, &command);
    // One that fails does not end the others.
    main["minFailedTaskCount"] = Value::Null;
    main["minSucceededTaskCount"] = Value::Null;
    let id = cluster.submit(&job("many", &[main]));
    cluster.wait_running(&id);
    let starts = || fs::read_to_string(cluster.path("starts")).unwrap_or_default();
    until("all have begun", || (starts().lines().count() == TASKS).then_some(()));
    let pids: Vec<i32> = starts().lines().filter_map(|line| line.parse().ok()).collect();
    cluster.kill9_agent(0);
    (0..ENDED).for_each(|index| cluster.touch(&format!("go.{index}")));
    until("some end while nobody looks", || {
        (pids.iter().filter(|pid| proc::is_alive(**pid)).count() == TASKS - ENDED).then_some(())
    });
    cluster.start_agent(0);
    cluster.wait_ready();
    let shown = until("the ends are known", || {
        let shown = cluster.show(&id);
        let ended = shown["tasks"].as_array()?.iter().filter(|task| !task["exit"].is_null()).count();
        (ended == ENDED).then_some(shown)
    });
    for (index, task) in shown["tasks"].as_array().unwrap().iter().enumerate() {
        let (state, code) =
            if index < ENDED { (&task["exit"]["code"], json!(index)) } else { (&task["state"], json!("RUNNING")) };
        assert_eq!(*state, code, "{task}");
    }
    let adopted = cluster.log_of("agent0").lines().filter(|line| line.contains("taken over")).count();
    assert_eq!(adopted, TASKS);
    cluster.touch("go");
    let shown = cluster.wait_end(&id);
    for (index, task) in shown["tasks"].as_array().unwrap().iter().enumerate() {
        assert_eq!(task["exit"]["code"], json!(index % 50), "{task}");
    }
    assert_eq!((starts().lines().count(), shown["runs"].as_array().map(Vec::len)), (TASKS, Some(1)));
    let events = cluster.cli(&["--json", "events", "--job", &id]).expect(0).json_lines();
    assert_eq!(events.iter().filter(|event| event["kind"] == "task.ended").count(), TASKS);
}

/// What a reboot does to a node, as far as its agent can see: every process is gone, and so is the run directory; process
/// ids are given out anew, here to this test; and the records are of another boot.
#[test]
fn a_reboot_ends_every_task_once_as_the_platforms() {
    let cluster = Cluster::start(&["none"]);
    let command = format!("echo $$ >> {}; sleep 600", quoted(cluster.path("pids")));
    let id = cluster.submit(&job("rebooted", &[role("main", 3, &command)]));
    cluster.wait_running(&id);
    let pids = || fs::read_to_string(cluster.path("pids")).unwrap_or_default();
    until("all have begun", || (pids().lines().count() == 3).then_some(()));
    cluster.kill9_agent(0);
    let own = std::process::id();
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let start_ticks: u64 =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok()).expect("a number");
    let tasks: Vec<_> = fs::read_dir(cluster.path("a0/tasks")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(tasks.len(), 3);
    for task in tasks {
        let path = task.join("shim.json");
        let mut shim: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let pid = shim["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a process id");
        proc::kill9(pid);
        until("its shim is gone", || (!proc::is_alive(pid)).then_some(()));
        assert!(shim["boot_id"].is_string() && shim["start_ticks"].as_u64().is_some(), "{shim}");
        (shim["boot_id"], shim["pid"], shim["start_ticks"]) =
            (json!("of another boot"), json!(own), json!(start_ticks));
        fs::write(&path, shim.to_string()).unwrap();
    }
    for pid in pids().lines().filter_map(|line| line.parse().ok()) {
        proc::kill9(pid);
        until("its command is gone", || (!proc::is_alive(pid)).then_some(()));
    }
    fs::remove_dir_all(cluster.path("r0")).unwrap();
    cluster.start_agent(0);
    cluster.wait_ready();
    let shown = until("the first run has ended", || {
        Some(cluster.show(&id)).filter(|shown| !shown["runs"][0]["exit"].is_null())
    });
    assert_eq!(shown["runs"][0]["exit"]["class"], "platform", "{shown}");
    // It is run again, uncounted, although the job asks for no retry.
    until("the second run has begun", || (pids().lines().count() == 6).then_some(()));
    let events = cluster.cli(&["--json", "events", "--job", &id]).expect(0).json_lines();
    let of_first = |event: &&Value| {
        event["kind"] == "task.ended"
            && event["task"].as_str().is_some_and(|task| task.starts_with(&format!("{id}.{id}.")))
    };
    assert_eq!(events.iter().filter(of_first).count(), 3, "{events:?}");
    cluster.cli(&["stop", &id]).expect(0);
    assert_eq!(cluster.wait_end(&id)["runs"].as_array().map(Vec::len), Some(2));
}
