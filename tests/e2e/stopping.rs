//! Stopping: gently, by force, and everything that a task has started with it.

use crate::harness::job::quoted;
use crate::harness::{Cluster, job, proc, role, until};
use serde_json::json;

#[test]
fn a_stop_lets_a_task_end_by_itself() {
    let cluster = Cluster::start(&["none"]);
    let command = "trap 'echo cleaning up; exit 0' TERM; echo begun; while :; do sleep 0.05; done";
    let id = cluster.submit(&job("gentle", &[role("main", 1, command)]));
    until("the task has begun", || (cluster.cli(&["logs", &id]).text() == "begun\n").then_some(()));
    cluster.cli(&["stop", &id]).expect(0);
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "STOPPED", "{shown}");
    assert_eq!(shown["tasks"][0]["exit"]["class"], "stopped", "{shown}");
    assert_eq!(cluster.cli(&["logs", &id]).expect(0).text(), "begun\ncleaning up\n");
    // Again: nothing changes.
    cluster.cli(&["stop", &id]).expect(0);
    assert_eq!(cluster.show(&id), shown);
}

#[test]
fn who_ignores_the_stop_is_killed_after_the_grace() {
    let cluster = Cluster::start(&["none"]);
    let command = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done", quoted(cluster.path("pid")));
    let id = cluster.submit(&job("stubborn", &[role("main", 1, &command)]));
    let pid: i32 = cluster.wait_file("pid").parse().expect("a process id");
    assert!(proc::is_alive(pid));
    cluster.cli(&["stop", &id, "--grace", "1"]).expect(0);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["tasks"][0]["exit"]["signal"]), (&json!("STOPPED"), &json!(9)), "{shown}");
    assert!(!proc::is_alive(pid), "the process outlived its job");
}

#[test]
fn the_whole_tree_goes_with_its_task() {
    let cluster = Cluster::start(&["none"]);
    // A child, one in a session of its own, one that was given away to init, one that ignores everything.
    let folder = cluster.folder().display();
    let command = format!(
        "sleep 1000 & echo $! > '{folder}/child'\n\
         setsid bash -c 'echo $$ > \"{folder}/session\"; exec sleep 1000' &\n\
         (setsid bash -c 'echo $$ > \"{folder}/orphan\"; exec sleep 1000' &) &\n\
         (trap \"\" TERM INT HUP; setsid bash -c 'trap \"\" TERM; echo $$ > \"{folder}/deaf\"; while :; do sleep 1; done' &)\n\
         wait"
    );
    let stopped = cluster.submit(&job("tree", &[role("main", 1, &command)]));
    let names = ["child", "session", "orphan", "deaf"];
    let pids: Vec<i32> = names.iter().map(|name| cluster.wait_file(name).parse().expect("a process id")).collect();
    assert!(pids.iter().all(|pid| proc::is_alive(*pid)));
    cluster.cli(&["stop", &stopped, "--grace", "1"]).expect(0);
    assert_eq!(cluster.wait_end(&stopped)["state"], "STOPPED");
    for (name, pid) in names.iter().zip(&pids) {
        until(&format!("{name} is gone"), || (!proc::is_alive(*pid)).then_some(()));
    }
}

#[test]
fn what_a_task_leaves_behind_ends_with_it() {
    let cluster = Cluster::start(&["none"]);
    let folder = cluster.folder().display();
    let command = format!(
        "(setsid bash -c 'echo $$ > \"{folder}/left\"; exec sleep 1000 >/dev/null 2>&1' &)\n\
         until [ -s '{folder}/left' ]; do sleep 0.02; done; exit 3"
    );
    let id = cluster.submit(&job("leaves", &[role("main", 1, &command)]));
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["tasks"][0]["exit"]["code"], 3, "{shown}");
    let pid: i32 = cluster.wait_file("left").parse().expect("a process id");
    until("the left process is gone", || (!proc::is_alive(pid)).then_some(()));
}

#[test]
fn a_waiting_job_is_stopped_without_having_run() {
    let cluster = Cluster::start(&["none"]);
    let mut wants = role("main", 1, "echo never");
    wants["gpuNumber"] = json!(1);
    let id = cluster.submit(&job("waits", &[wants]));
    assert_eq!(cluster.show(&id)["state"], "WAITING");
    cluster.cli(&["stop", &id]).expect(0);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["tasks"][0]["started_at"]), (&json!("STOPPED"), &json!(null)), "{shown}");
}

#[test]
fn only_the_owner_and_operators_stop_a_job() {
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit_with(&job("hers", &[role("main", 1, "sleep 600")]), &["--user", "alice"]);
    cluster.wait_running(&id);
    let refused = cluster.cli(&["--json", "--as-user", "bob", "stop", &id]).expect(4);
    assert_eq!(refused.json()["error"]["code"], "not_allowed");
    assert!(refused.errors().contains("alice"), "{}", refused.errors());
    assert_eq!(cluster.cli(&["--as-user", "bob", "exec", &id, "--", "true"]).code, 4);
    assert_eq!(cluster.show(&id)["state"], "RUNNING");
    cluster.cli(&["--as-user", "alice", "stop", "hers"]).expect(0);
    assert_eq!(cluster.wait_end(&id)["state"], "STOPPED");
}

#[test]
fn wait_tells_of_a_stop_and_ctrl_c_stops_nothing() {
    let cluster = Cluster::start(&["none"]);
    let mut waiting = cluster.spawn(&["submit", "-", "--wait"]);
    waiting.feed(job("interrupted", &[role("main", 1, "sleep 600")]).to_string().as_bytes());
    let id = until("the job's id is printed", || {
        String::from_utf8(waiting.stdout_so_far())
            .ok()
            .filter(|text| text.ends_with('\n'))
            .map(|text| text.trim().to_owned())
    });
    cluster.wait_running(&id);
    waiting.signal(nix::sys::signal::Signal::SIGINT);
    assert_eq!(waiting.finish().code, 130);
    assert_eq!(cluster.show(&id)["state"], "RUNNING");
    let follower = cluster.spawn(&["logs", &id, "--follow"]);
    cluster.cli(&["stop", &id]).expect(0);
    follower.finish().expect(0);
    assert_eq!(cluster.show(&id)["state"], "STOPPED");
    let stopped = {
        let mut waiting = cluster.spawn(&["submit", "-", "--wait"]);
        waiting.feed(job("stopped", &[role("main", 1, "sleep 600")]).to_string().as_bytes());
        until("it is there", || (cluster.cli(&["job", "show", "stopped"]).code == 0).then_some(()));
        cluster.cli(&["stop", "stopped"]).expect(0);
        waiting.finish()
    };
    assert_eq!(stopped.code, 1, "{}", stopped.errors());
}
