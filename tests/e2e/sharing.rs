//! Who gets what: gangs, GPUs that one task alone holds, and the reasons of a wait.

use crate::harness::job::{ended, quoted, with};
use crate::harness::{Cluster, Node, job, role, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::TcpListener;

fn gpus(count: u32) -> Value {
    json!({ "gpuNumber": count })
}

#[test]
fn a_gpu_is_held_by_one_task() {
    let cluster = Cluster::start(&["sim:8xH100"]);
    let command = |name: &str| format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path(name)));
    let first = cluster.submit(&job("first", &[with(role("main", 1, &command("go1")), &gpus(5))]));
    cluster.wait_running(&first);
    let small = cluster.submit(&job("small", &[with(role("main", 1, &command("go3")), &gpus(3))]));
    cluster.wait_running(&small);
    let second = cluster.submit(&job("second", &[with(role("main", 1, &command("go2")), &gpus(5))]));
    let held = |id: &str| {
        let listed = cluster.json(&["gpus"]);
        let prefix = format!("{id}.");
        let of_job = |gpu: &&Value| gpu["task"].as_str().is_some_and(|task| task.starts_with(&prefix));
        let held: Vec<&Value> = listed.as_array().unwrap().iter().filter(of_job).collect();
        assert!(held.iter().all(|gpu| gpu["state"] == "HELD"), "{listed}");
        held.iter().map(|gpu| gpu["uuid"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let (of_first, of_small) = (held(&first), held(&small));
    assert_eq!((of_first.len(), of_small.len()), (5, 3));
    assert!(of_first.is_disjoint(&of_small));
    let shown: BTreeSet<String> = cluster.show(&first)["tasks"][0]["gpus"]
        .as_array()
        .unwrap()
        .iter()
        .map(|gpu| gpu.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(shown, of_first);
    assert_eq!(cluster.json(&["nodes"])[0]["gpus_free"], 0);
    let explained = cluster.json(&["job", "explain", &second]);
    assert_eq!(explained["state"], "WAITING", "{explained}");
    assert!(explained["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()), "{explained}");
    cluster.touch("go1");
    let shown = cluster.wait_running(&second);
    let of_first = cluster.wait_end(&first);
    assert!(
        shown["tasks"][0]["started_at"].as_str() >= of_first["tasks"][0]["ended_at"].as_str(),
        "{shown} {of_first}"
    );
    cluster.touch("go2");
    cluster.touch("go3");
    assert_eq!(cluster.wait_end(&second)["state"], "SUCCEEDED");
    assert_eq!(cluster.wait_end(&small)["state"], "SUCCEEDED");
    cluster.wait_idle();
}

#[test]
fn a_gang_spans_nodes_and_knows_its_members() {
    let cluster = Cluster::start(&["sim:4xH100", "sim:4xH100"]);
    let print = "env | grep -E '^PAI_(HOST_IP|PORT_LIST)_' | LC_ALL=C sort";
    let roles = [with(role("ps", 1, print), &gpus(4)), with(role("worker", 1, print), &gpus(4))];
    let id = cluster.submit(&job("gang", &roles));
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["runs"][0]["node_count"]), (&json!("SUCCEEDED"), &json!(2)), "{shown}");
    let mut expected = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for task in shown["tasks"].as_array().unwrap() {
        let of = format!("{}_{}", task["role"].as_str().unwrap(), task["index"]);
        expected.insert(format!("PAI_HOST_IP_{of}={}", task["ip"].as_str().unwrap()));
        for (label, ports) in task["ports"].as_object().expect("ports by label") {
            let ports: Vec<String> = ports.as_array().unwrap().iter().map(ToString::to_string).collect();
            expected.insert(format!("PAI_PORT_LIST_{of}_{label}={}", ports.join(",")));
        }
        nodes.insert(task["node"].to_string());
    }
    assert_eq!((expected.len(), nodes.len()), (6, 2), "{expected:?}");
    for role in ["ps", "worker"] {
        let printed = cluster.cli(&["logs", &id, "--role", role]).expect(0).text();
        assert_eq!(printed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected, "{role}");
    }
}

#[test]
fn a_gang_holds_nothing_until_all_of_it_fits() {
    let cluster = Cluster::start(&["sim:4xH100", "sim:4xH100", "sim:2xH100"]);
    let command = format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path("go")));
    let hog = cluster.submit(&job("hog", &[with(role("main", 1, &command), &gpus(3))]));
    cluster.wait_running(&hog);
    let gang = cluster.submit(&job("gang", &[with(role("main", 2, "true"), &gpus(4))]));
    // What it waits for is kept for it, not held; something small passes on the node that is of no use to it.
    let small = cluster.submit(&job("small", &[with(role("main", 1, "true"), &gpus(1))]));
    let shown = cluster.wait_end(&small);
    assert_eq!((&shown["state"], &shown["tasks"][0]["node"]), (&json!("SUCCEEDED"), &json!("n2")), "{shown}");
    assert_eq!(cluster.show(&gang)["state"], "WAITING");
    let holders: BTreeSet<String> = cluster
        .json(&["gpus"])
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|gpu| Some(gpu["task"].as_str()?.split('.').next()?.to_owned()))
        .collect();
    assert!(!holders.contains(&gang), "{holders:?}");
    cluster.touch("go");
    let shown = cluster.wait_end(&gang);
    assert_eq!((&shown["state"], &shown["runs"][0]["node_count"]), (&json!("SUCCEEDED"), &json!(2)), "{shown}");
}

#[test]
fn jobs_go_where_their_gpu_type_is() {
    let nodes = vec![Node::new("old", "sim:2xTITANX"), Node::new("new", "sim:2xH100")];
    let cluster = Cluster::with(nodes, "");
    for (name, kind, node) in [("a", "TITANX", "old"), ("b", "H100", "new"), ("c", "titanx", "old")] {
        let file = with(job(name, &[with(role("main", 1, "true"), &gpus(2))]), &json!({ "gpuType": kind }));
        let shown = cluster.wait_end(&cluster.submit(&file));
        assert_eq!((&shown["state"], &shown["tasks"][0]["node"]), (&json!("SUCCEEDED"), &json!(node)), "{shown}");
    }
    let models: Vec<Value> = cluster.json(&["gpus", "--node", "old"]).as_array().unwrap().clone();
    assert!(models.len() == 2 && models.iter().all(|gpu| gpu["node"] == "old"), "{models:?}");
}

#[test]
fn what_cannot_fit_waits_and_says_why() {
    let cluster = Cluster::start(&["sim:8xH100"]);
    let too_many = cluster.submit(&job("greedy", &[with(role("main", 1, "true"), &gpus(9))]));
    let other_type = with(job("picky", &[with(role("main", 1, "true"), &gpus(1))]), &json!({ "gpuType": "P100" }));
    let other_type = cluster.submit(&other_type);
    for (id, what) in [(&too_many, "gpus"), (&other_type, "gpu_type")] {
        let explained = until("there are reasons", || {
            let explained = cluster.json(&["job", "explain", id]);
            explained["reasons"].as_array().is_some_and(|reasons| !reasons.is_empty()).then_some(explained)
        });
        let reasons = explained["reasons"].as_array().unwrap();
        let named = reasons.iter().find(|reason| reason["reason"] == *what).unwrap_or_else(|| panic!("{explained}"));
        assert_eq!(named["node"], "n0", "{explained}");
        assert!(
            ["need", "have"].iter().all(|key| named[key].as_str().is_some_and(|text| !text.is_empty())),
            "{explained}"
        );
        assert!(!ended(&cluster.show(id)["state"]));
        let text = cluster.cli(&["job", "explain", id]).expect(0).text();
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn a_placement_that_an_agent_refuses_is_given_back_and_tried_again() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    // Somebody else has the ports that the controller believes to be free.
    let taken: Vec<TcpListener> =
        cluster.ports(0).filter_map(|port| TcpListener::bind(("0.0.0.0", port)).ok()).collect();
    let id =
        cluster.submit(&job("patient", &[with(role("main", 1, "echo at last; echo really >&2; exit 3"), &gpus(2))]));
    let followers = [cluster.spawn(&["logs", &id, "--follow"]), cluster.spawn(&["--json", "logs", &id, "--follow"])];
    let refusal = until("the agent refuses", || {
        let events = cluster.cli(&["--json", "events", "--job", &id]).expect(0).json_lines();
        events.into_iter().find(|event| event["kind"] == "task.refused")
    });
    assert!(
        refusal["node"] == "n0" && refusal["message"].as_str().is_some_and(|text| text.contains("port")),
        "{refusal}"
    );
    assert!(!ended(&cluster.show(&id)["state"]));
    drop(taken);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!("FAILED"), &json!(3)), "{shown}");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "a refused placement is no attempt: {shown}");
    // Who followed from the first placement on has the output of the last.
    let [text, records] = followers.map(crate::harness::Running::finish);
    assert_eq!((text.text().as_str(), text.errors().as_str()), ("at last\n", "really\n"));
    assert_eq!(records.json_lines().len(), 2, "{}", records.text());
    cluster.wait_idle();
}
