//! Queues with quotas, nodes that jobs select, and what a user is told: at the submit, while a job waits, after its end.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, role, until};
use serde_json::{Value, json};
use std::fs;

/// A job of one role that ends when it is told to.
fn held(cluster: &Cluster, name: &str, tasks: u32, gpus: u32) -> Value {
    let command = format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path(&format!("go-{name}"))));
    job(name, &[with(role("main", tasks, &command), &json!({ "gpuNumber": gpus }))])
}

fn in_queue(value: Value, queue: &str) -> Value {
    with(value, &json!({ "virtualCluster": queue }))
}

fn wharf(value: Value, extras: &Value) -> Value {
    with(value, &json!({ "extras": { "wharf": extras } }))
}

#[track_caller]
fn reason<'a>(explained: &'a Value, word: &str) -> &'a Value {
    let reasons = explained["reasons"].as_array().expect("reasons are a list");
    reasons.iter().find(|reason| reason["reason"] == *word).unwrap_or_else(|| panic!("no {word} in {explained}"))
}

fn says(value: &Value, part: &str) -> bool {
    value.as_str().is_some_and(|text| text.contains(part))
}

/// What a submit answers.
fn answer(cluster: &Cluster, job: &Value) -> Value {
    cluster.cli_with(&["--json", "submit", "-"], job.to_string().as_bytes()).expect(0).json()
}

fn listed(cluster: &Cluster, id: &str) -> Value {
    let jobs = cluster.json(&["jobs", "--all"]);
    let found = jobs.as_array().unwrap().iter().find(|job| job["job_id"].as_u64() == id.parse().ok());
    found.cloned().unwrap_or_else(|| panic!("no {id} in {jobs}"))
}

#[test]
fn a_quota_holds_up_its_own_queue_only() {
    let controller = "[virtual_clusters.vision]\ngpus = 2\n[virtual_clusters.speech]\n";
    let cluster = Cluster::with(vec![Node::new("n0", "sim:6xH100")], controller);
    let unknown = in_queue(held(&cluster, "lost", 1, 1), "visoin");
    for args in [&["--json", "submit", "-"][..], &["--json", "submit", "--dry-run", "-"]] {
        let error = cluster.cli_with(args, unknown.to_string().as_bytes()).expect(2).json()["error"].clone();
        assert!(says(&error["message"], "did you mean vision?"), "{error}");
        assert!(error.to_string().contains("speech, vision, default"), "{error}");
    }

    let first = cluster.submit(&in_queue(held(&cluster, "first", 1, 2), "vision"));
    cluster.wait_running(&first);
    let second = cluster.submit(&in_queue(held(&cluster, "second", 1, 1), "vision"));
    let greedy = answer(&cluster, &in_queue(held(&cluster, "greedy", 1, 3), "vision"));
    assert!(says(&greedy["warnings"][0], "'vision' may never hold more than 2"), "{greedy}");
    // Behind both in the queue, and not in theirs.
    let other = cluster.submit(&held(&cluster, "other", 1, 4));
    cluster.wait_running(&other);

    let explained = until("its quota is what it waits for", || {
        let explained = cluster.json(&["job", "explain", &second]);
        (explained["state"] == "WAITING").then_some(explained)
    });
    let quota = reason(&explained, "quota");
    assert_eq!((&quota["need"], &quota["node"]), (&json!("1 GPUs"), &Value::Null), "{explained}");
    assert!(says(&quota["have"], "2 of 2 GPUs of 'vision' in use"), "{explained}");
    assert_eq!(
        [&explained["queue_position"], &explained["queue_length"], &explained["virtual_cluster"]],
        [&json!(1), &json!(2), &json!("vision")]
    );
    assert!(explained["earliest"].is_null() && says(&explained["earliest_note"], "nobody knows"), "{explained}");
    assert!(says(&listed(&cluster, &second)["reason"], "quota"), "{}", listed(&cluster, &second));

    let greedy = greedy["job_id"].to_string();
    let never = cluster.json(&["job", "explain", &greedy]);
    assert_eq!(never["never_possible"], true, "{never}");
    assert!(says(&reason(&never, "never_possible")["have"], "may never hold more than 2"), "{never}");
    assert!(says(&listed(&cluster, &greedy)["reason"], "may never hold more than 2"));

    cluster.touch("go-first");
    cluster.touch("go-second");
    assert_eq!(cluster.wait_end(&second)["state"], "SUCCEEDED");
    assert_eq!(cluster.show(&greedy)["state"], "WAITING");
    cluster.touch("go-other");
    cluster.wait_end(&other);
}

#[test]
fn jobs_go_to_the_nodes_they_select() {
    let labelled =
        |name: &str, labels: &str| Node { more: format!("[labels]\n{labels}"), ..Node::new(name, "sim:2xH100") };
    let cluster = Cluster::with(vec![labelled("n0", "zone = 'a'\nspot = 'yes'"), labelled("n1", "zone = 'b'")], "");
    let short = |name: &str, nodes: Value| wharf(job(name, &[role("main", 1, "true")]), &json!({ "nodes": nodes }));
    for (name, nodes, node) in [
        ("zone", json!({ "labels": { "zone": ["b", "c"] } }), "n1"),
        ("spot", json!({ "labels": { "spot": "*" } }), "n0"),
        ("no-spot", json!({ "without": { "spot": "*" } }), "n1"),
        ("name", json!({ "names": ["n*"], "avoid": ["n1"] }), "n0"),
    ] {
        let shown = cluster.wait_end(&cluster.submit(&short(name, nodes)));
        assert_eq!((&shown["state"], &shown["tasks"][0]["node"]), (&json!("SUCCEEDED"), &json!(node)), "{shown}");
    }

    let submitted = answer(&cluster, &short("nowhere", json!({ "labels": { "zone": "c" } })));
    assert!(says(&submitted["warnings"][0], "ever hold this job"), "{submitted}");
    let id = submitted["job_id"].to_string();
    let explained = cluster.json(&["job", "explain", &id]);
    assert_eq!(explained["never_possible"], true, "{explained}");
    for (node, has) in [("n0", "zone is a"), ("n1", "zone is b")] {
        let said = json!({ "node": node, "reason": "labels", "need": "zone is c", "have": has });
        assert!(explained["reasons"].as_array().unwrap().contains(&said), "{explained}");
    }
    assert!(says(&listed(&cluster, &id)["reason"], "ever hold this job"));
    let text = cluster.cli(&["job", "explain", &id]).expect(0).text();
    assert!(text.contains("zone is c") && text.contains("job.submitted"), "{text}");

    // It is what the cluster is that decides: a node of that zone, and the job runs.
    cluster.stop_agent(1);
    let file = cluster.path("agent1.toml");
    let settings = fs::read_to_string(&file).expect("it is ours").replace("zone = 'b'", "zone = 'c'");
    fs::write(&file, settings).expect("it is ours");
    cluster.start_agent(1);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["tasks"][0]["node"]), (&json!("SUCCEEDED"), &json!("n1")), "{shown}");
}

#[test]
fn who_waits_behind_a_reservation_is_told_so() {
    let cluster = Cluster::start(&["sim:2xH100", "sim:2xH100", "sim:2xH100"]);
    // A gang of three has one GPU of each node.
    let spread = wharf(held(&cluster, "spread", 3, 1), &json!({ "placement": "spread" }));
    let spread = cluster.submit(&spread);
    assert_eq!(cluster.wait_running(&spread)["runs"][0]["node_count"], 3);
    let head = cluster.submit(&held(&cluster, "head", 3, 2));
    let small = cluster.submit(&held(&cluster, "small", 1, 1));
    let explained = until("the small one is behind the head", || {
        let explained = cluster.json(&["job", "explain", &small]);
        (explained["behind"].as_u64() == head.parse().ok()).then_some(explained)
    });
    let on_nodes: Vec<&Value> =
        explained["reasons"].as_array().unwrap().iter().filter(|reason| !reason["node"].is_null()).collect();
    assert_eq!(on_nodes.len(), 3, "{explained}");
    assert!(on_nodes.iter().all(|reason| reason["reason"] == "reservation"), "{explained}");
    assert!(says(&explained["summary"], &format!("job {head} (head)")), "{explained}");
    let text = cluster.cli(&["job", "explain", &small]).expect(0).text();
    assert!(text.contains("and 2 more nodes") && text.contains("Place in the queue: 2 of 2"), "{text}");
    let first = cluster.json(&["job", "explain", &head]);
    assert!(says(&first["summary"], "first in line"), "{first}");
    assert_eq!(reason(&first, "gpus")["need"], "2", "{first}");
    for name in ["spread", "head", "small"] {
        cluster.touch(&format!("go-{name}"));
    }
    for id in [&head, &small] {
        assert_eq!(cluster.wait_end(id)["state"], "SUCCEEDED");
    }
}

#[test]
fn what_was_decided_about_a_job_outlives_the_controller() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let go = quoted(cluster.path("go"));
    let fails = format!("until [ -e {go} ]; do sleep 0.02; done; rm {go}; exit 3");
    let roles = [role("fails", 1, &fails), role("waits", 1, "sleep 600")];
    let id = cluster.submit(&with(job("brief", &roles), &json!({ "retryCount": 1 })));
    let chain = || -> Vec<(String, String)> {
        let explained = cluster.json(&["job", "explain", &id]);
        let Some(decisions) = explained["decisions"].as_array().cloned() else { return Vec::new() };
        let word = |decision: &Value, key: &str| decision[key].as_str().expect("a text").to_owned();
        decisions.iter().map(|decision| (word(decision, "event"), word(decision, "detail"))).collect()
    };
    let events = || cluster.cli(&["events", "--json", "--job", &id]).expect(0).text();
    for runs in 1..=2 {
        until(&format!("all tasks of run {runs} run"), || {
            (events().matches("\"run.started\"").count() == runs).then_some(())
        });
        cluster.touch("go");
    }
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], shown["runs"].as_array().map(Vec::len)), (&json!("FAILED"), Some(2)), "{shown}");
    let told = chain();
    let order = |events: &[&str]| {
        let mut from = 0;
        for event in events {
            let at = told[from..].iter().position(|(told, _)| told == event);
            from += at.unwrap_or_else(|| panic!("no {event} behind {from} in {told:?}")) + 1;
        }
    };
    order(&["job.submitted", "run.placed", "run.started", "task.ended", "run.ended", "job.retried"]);
    order(&["job.retried", "run.placed", "run.ended", "job.ended", "job.not_retried"]);
    assert_eq!(told.iter().filter(|(event, _)| event == "run.started").count(), 2, "{told:?}");
    let detail = |event: &str| &told.iter().find(|(told, _)| told == event).expect("it is there").1;
    assert!(detail("run.placed").contains("on n0"), "{told:?}");
    assert!(detail("run.ended").contains("fails[0]"), "{told:?}");
    assert!(detail("job.not_retried").contains("retryCount is 1, 1 retries were counted"), "{told:?}");

    cluster.kill9_controller();
    cluster.start_controller();
    cluster.wait_ready();
    assert_eq!(chain(), told);
    // History may be lost; what the job's own records have is not.
    cluster.stop_controller();
    fs::remove_file(cluster.path("c/events.db")).expect("it is there");
    cluster.start_controller();
    cluster.wait_ready();
    let left: Vec<String> = chain().into_iter().map(|(event, _)| event).collect();
    for event in ["job.submitted", "run.placed", "run.started", "run.ended", "job.ended", "job.not_retried"] {
        assert!(left.iter().any(|told| told == event), "no {event} in {left:?}");
    }
}
