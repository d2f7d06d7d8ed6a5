//! Nodes that are emptied, forgotten and joined again, with real processes.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, job, role, until};
use serde_json::{Value, json};
use std::fs;

/// Runs until the file `stop` is there. Its folder is there while it lives: a second copy at a time notes itself.
fn lonely(cluster: &Cluster, name: &str) -> String {
    let (lock, doubled) = (cluster.path(&format!("{name}.lock")), cluster.path("doubled"));
    let (starts, stop) = (cluster.path(&format!("{name}.starts")), cluster.path("stop"));
    format!(
        "L={}.$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX; mkdir \"$L\" || echo $L >> {}; \
         trap 'rmdir \"$L\"; exit 143' TERM; echo $$ >> {}; until [ -e {} ]; do sleep 0.05; done; rmdir \"$L\"",
        quoted(&lock),
        quoted(&doubled),
        quoted(&starts),
        quoted(&stop)
    )
}

fn node(cluster: &Cluster, name: &str) -> Value {
    cluster.json(&["node", "show", name])
}

#[test]
fn a_drain_moves_a_running_gang_and_survives_the_controllers_death() {
    let cluster = Cluster::start(&["sim:1xH100", "sim:1xH100", "sim:1xH100"]);
    let refused = cluster.cli(&["--as-user", "bob", "node", "cordon", "n2"]);
    assert_eq!(refused.code, 4, "{}", refused.errors());
    cluster.cli(&["node", "cordon", "n2", "--reason", "not yet"]).expect(0);
    let worker = with(role("worker", 2, &lonely(&cluster, "gang")), &json!({ "gpuNumber": 1 }));
    let id = cluster.submit(&job("gang", &[worker]));
    cluster.wait_running(&id);
    until("both have begun", || {
        let starts = fs::read_to_string(cluster.path("gang.starts")).ok()?;
        (starts.lines().count() == 2).then_some(())
    });
    assert!(cluster.cli(&["nodes"]).expect(0).text().contains("cordoned by"));
    cluster.cli(&["node", "uncordon", "n2"]).expect(0);
    let drained = cluster.json(&["node", "drain", "n0", "--reason", "new driver", "--deadline", "1s"]);
    assert_eq!((&drained["state"], &drained["tasks_held"]), (&json!("DRAINING"), &json!(1)), "{drained}");
    cluster.kill9_controller();
    cluster.start_controller();
    until("it answers again", || (cluster.cli(&["nodes"]).code == 0).then_some(()));
    cluster.cli(&["node", "drain", "n0", "--reason", "new driver", "--deadline", "1s", "--wait"]).expect(0);
    let shown = node(&cluster, "n0");
    assert_eq!((&shown["state"], &shown["tasks_held"]), (&json!("DRAINED"), &json!(0)), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|why| why.ends_with("new driver")), "{shown}");
    let shown = until("it runs elsewhere", || {
        let shown = cluster.show(&id);
        let runs = shown["runs"].as_array()?.len();
        (runs == 2 && shown["tasks"].as_array()?.iter().all(|task| task["state"] == "RUNNING")).then_some(shown)
    });
    let nodes: Vec<&Value> = shown["tasks"].as_array().into_iter().flatten().map(|task| &task["node"]).collect();
    assert!(!nodes.contains(&&json!("n0")), "{shown}");
    assert_eq!(shown["runs"][0]["exit"]["class"], "preempted", "{shown}");
    cluster.touch("stop");
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    assert!(!cluster.path("doubled").exists(), "two copies lived at once");
    let kinds: Vec<String> = cluster
        .cli(&["--json", "events", "--node", "n0"])
        .expect(0)
        .text()
        .lines()
        .filter_map(|line| Some(serde_json::from_str::<Value>(line).ok()?["kind"].as_str()?.to_owned()))
        .collect();
    for kind in ["node.draining", "run.preempted", "node.drained"] {
        assert!(kinds.iter().any(|found| found == kind), "{kind} is not among {kinds:?}");
    }
    cluster.cli(&["node", "uncordon", "n0"]).expect(0);
    assert_eq!(node(&cluster, "n0")["state"], "READY");
}

#[test]
fn a_removed_node_is_forgotten_and_may_join_anew() {
    let cluster = Cluster::start(&["none", "none"]);
    let refused = cluster.cli(&["node", "remove", "n1"]);
    assert_eq!(refused.code, 1, "{}", refused.errors());
    assert!(refused.errors().contains("join again"), "{}", refused.errors());
    cluster.kill9_agent(1);
    until("it is missed", || (node(&cluster, "n1")["state"] == "UNREACHABLE").then_some(()));
    cluster.cli(&["node", "remove", "n1"]).expect(0);
    cluster.kill9_controller();
    cluster.start_controller();
    let nodes = until("the controller answers", || {
        let output = cluster.cli(&["--json", "nodes"]);
        (output.code == 0).then(|| output.json())
    });
    let names: Vec<&Value> = nodes.as_array().into_iter().flatten().map(|node| &node["name"]).collect();
    assert_eq!(names, ["n0"]);
    cluster.start_agent(1);
    cluster.wait_ready();
}
