//! What is done about a fault: restarts elsewhere, checks, and what an operator configures.

use crate::faults::{KernelLog, gpu, gpu_of, held, xid};
use crate::harness::{Cluster, job, role, until};
use crate::harness::job::{quoted, with};
use serde_json::json;

#[test]
fn a_job_that_a_contained_error_ended_runs_again_on_another_gpu_at_once() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "hardware_restarts = 1");
    let (once, go) = (cluster.path("once"), cluster.path("go"));
    // Fails in both of its runs.
    let wait = |file: &std::path::Path| format!("until [ -e {} ]; do sleep 0.05; done; exit 1", quoted(file));
    let second = cluster.path("again");
    let command = format!("if mkdir {}; then {}; else {}; fi", quoted(once), wait(&go), wait(&second));
    let id = cluster.submit(&job("twice", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]));
    let used = gpu_of(&cluster, &cluster.wait_running(&id));
    let contained = "pid=77, name=python, Contained: SM (0x1). RST: No, D-RST: No";
    log.say(&[xid(&used, 94, contained)]);
    cluster.touch("go");
    let shown = until("it runs again", || {
        let shown = cluster.show(&id);
        (shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING").then_some(shown)
    });
    let other = gpu_of(&cluster, &shown);
    assert_ne!(other["uuid"], used["uuid"], "nothing else spoke against it: {shown}");
    let first = cluster.json(&["job", "show", &id, "--run", "-1"]);
    assert_eq!(first["tasks"][0]["exit"]["faulty_gpus"], json!([used["uuid"]]), "{first}");
    // Once is all that this cluster allows.
    log.say(&[xid(&other, 94, contained)]);
    cluster.touch("again");
    let end = cluster.wait_end(&id);
    assert_eq!((&end["state"], &end["exit"]["class"]), (&json!("FAILED"), &json!("hardware")), "{end}");
    let reason = end["exit"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("hardware_restarts allows 1"), "{reason}");
}

#[test]
fn an_operator_looks_at_the_gpus_of_a_node() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let id = cluster.submit(&held(&cluster, "holds"));
    let shown = cluster.wait_running(&id);
    let used = gpu_of(&cluster, &shown)["index"].to_string();
    let checked = cluster.json(&["node", "check", "n0"]);
    assert_eq!((&checked["node"], &checked["outcome"]), (&json!("n0"), &json!("ok")), "{checked}");
    let gpus = checked["gpus"].as_array().expect("a list");
    let tasks: Vec<bool> = gpus.iter().map(|gpu| gpu["task"].is_string()).collect();
    assert_eq!((gpus.len(), tasks.iter().filter(|held| **held).count()), (2, 1), "{checked}");
    let infiniband = checked["host"].as_array().expect("a list").iter().find(|thing| thing["what"] == "InfiniBand");
    assert_ne!(infiniband.expect("it is looked at")["outcome"], "failed");
    let table = cluster.cli(&["node", "check", "n0", "--gpus", &used]).expect(0).text();
    assert!(table.contains("nothing wrong was found") && table.lines().all(|line| line.len() <= 100), "{table}");
    let refused = cluster.cli(&["node", "check", "n0", "--gpus", &used, "--deep"]).expect(1);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds GPU"), "{refused:?}");
    cluster.cli(&["node", "check", "n0", "--gpus", "9"]).expect(2);
    cluster.cli(&["node", "check", "nowhere"]).expect(2);
    cluster.touch("go-holds");
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    cluster.wait_idle();
    let deep = cluster.json(&["node", "check", "n0", "--deep"]);
    assert_eq!(deep["outcome"], "ok", "simulated memory is no fault: {deep}");
    assert_eq!(gpu(&cluster, &gpu_of(&cluster, &shown)["uuid"])["state"], "FREE");
}
