//! A node whose agent is gone: its tasks go on, nothing is placed there, and nothing is replaced before a lease is over.
//! (The least lease is five minutes: what comes then is proved with a clock that can be moved, in `controller::tests::lost`,
//! and for the shim in the contract of runtimes.)

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, job, role, until};
use serde_json::{Value, json};
use std::fs;

#[test]
fn tasks_of_a_lost_node_go_on_and_are_told_of_once_when_it_is_back() {
    let cluster = Cluster::start(&["none"]);
    let command = |name: &str, end: &str| {
        let (starts, stop) = (cluster.path(&format!("{name}.starts")), cluster.path(&format!("{name}.stop")));
        format!("echo $$ >> {}; until [ -e {} ]; do sleep 0.05; done; {end}", quoted(&starts), quoted(&stop))
    };
    let restarts = json!({ "extras": { "wharf": { "onNodeLost": "restart", "leaseSeconds": 300 } } });
    let jobs =
        [("waits", "exit 0"), ("restarts", "exit 0"), ("ends", "echo told once; exit 7")].map(|(name, end)| {
            let mut job = job(name, &[role("main", 1, &command(name, end))]);
            if name == "restarts" {
                job = with(job, &restarts);
            }
            (name, cluster.submit(&job))
        });
    for (name, id) in &jobs {
        cluster.wait_running(id);
        cluster.wait_file(&format!("{name}.starts"));
    }
    cluster.kill9_agent(0);
    let shown = until("the node is missed", || {
        let shown = cluster.json(&["node", "show", "n0"]);
        (shown["state"] == "UNREACHABLE").then_some(shown)
    });
    assert_eq!((&shown["standing"], &shown["tasks_held"]), (&json!("READY"), &json!(3)), "{shown}");
    // One ends while nobody looks; a new one is not placed there.
    cluster.touch("ends.stop");
    let late = cluster.submit(&job("late", &[role("main", 1, "true")]));
    let explained = cluster.json(&["job", "explain", &late]);
    assert!(
        explained["reasons"].as_array().is_some_and(|all| all.iter().any(|r| r["have"] == "UNREACHABLE")),
        "{explained}"
    );
    for (_, id) in &jobs {
        assert_eq!(cluster.show(id)["state"], "RUNNING");
    }
    cluster.start_agent(0);
    cluster.wait_ready();
    assert_eq!(cluster.wait_end(&late)["state"], "SUCCEEDED");
    cluster.touch("waits.stop");
    cluster.touch("restarts.stop");
    for (name, id) in &jobs {
        let shown = cluster.wait_end(id);
        let (state, code) = if *name == "ends" { ("FAILED", 7) } else { ("SUCCEEDED", 0) };
        assert_eq!((&shown["state"], &shown["tasks"][0]["exit"]["code"]), (&json!(state), &json!(code)), "{shown}");
        assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{name} was run again: {shown}");
        let starts = fs::read_to_string(cluster.path(&format!("{name}.starts"))).unwrap();
        assert_eq!(starts.lines().count(), 1, "{name} was started more than once");
        let events = cluster.cli(&["--json", "events", "--job", id]).expect(0).text();
        let ends = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        assert_eq!(ends.filter(|event| event["kind"] == "task.ended").count(), 1, "{events}");
    }
}
