//! How jobs begin and end: exits, completion rules, retries, names, and what is told meanwhile.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, job, role, until};
use serde_json::json;

#[test]
fn a_failed_task_fails_the_job_and_ends_the_others() {
    let cluster = Cluster::start(&["none"]);
    let roles = [role("good", 1, "sleep 600"), role("bad", 1, "echo no >&2; exit 7")];
    let id = cluster.submit(&job("fails", &roles));
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "FAILED", "{shown}");
    assert_eq!((&shown["exit"]["code"], &shown["exit"]["class"]), (&json!(7), &json!("user")), "{shown}");
    let tasks = shown["tasks"].as_array().expect("show lists tasks");
    assert_eq!((&tasks[0]["role"], &tasks[0]["state"]), (&json!("good"), &json!("STOPPED")), "{shown}");
    assert_eq!(tasks[0]["exit"]["class"], "stopped", "{shown}");
    assert_eq!((&tasks[1]["role"], &tasks[1]["state"]), (&json!("bad"), &json!("FAILED")), "{shown}");
}

#[test]
fn exits_are_told_as_they_were() {
    let cluster = Cluster::start(&["none"]);
    let cases = [
        ("zero", "exit 0", json!(0), json!(null), "SUCCEEDED", "success"),
        ("three", "exit 3", json!(3), json!(null), "FAILED", "user"),
        ("most", "exit 255", json!(255), json!(null), "FAILED", "user"),
        ("killed", "kill -KILL $$", json!(null), json!(9), "FAILED", "user"),
        ("segv", "kill -SEGV $$", json!(null), json!(11), "FAILED", "user"),
        ("absent", "/no/such/program", json!(127), json!(null), "FAILED", "user"),
    ];
    let ids: Vec<String> =
        cases.iter().map(|case| cluster.submit(&job(case.0, &[role("main", 1, case.1)]))).collect();
    for (id, (name, _, code, signal, state, class)) in ids.iter().zip(&cases) {
        let shown = cluster.wait_end(id);
        let exit = &shown["tasks"][0]["exit"];
        assert_eq!((&exit["code"], &exit["signal"], &exit["oom"]), (code, signal, &json!(false)), "{name}: {shown}");
        assert_eq!((&shown["state"], &exit["class"]), (&json!(state), &json!(class)), "{name}: {shown}");
        assert!(exit["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name}: {shown}");
    }
}

#[test]
fn wait_takes_the_jobs_end_as_its_own() {
    let cluster = Cluster::start(&["none"]);
    for (name, command, code) in [("good", "echo fine", 0), ("bad", "exit 9", 1)] {
        let file = job(name, &[role("main", 1, command)]).to_string();
        let output = cluster.cli_with(&["submit", "-", "--wait"], file.as_bytes());
        assert_eq!(output.code, code, "{name}: {}", output.errors());
    }
    let file = job("followed", &[role("main", 1, "echo out; echo err >&2")]).to_string();
    let output = cluster.cli_with(&["submit", "-", "--wait", "--follow"], file.as_bytes()).expect(0);
    assert!(output.text().contains("out\n") && output.errors().contains("err\n"), "{output:?}");
}

#[test]
fn enough_successes_end_the_job_as_a_success() {
    let cluster = Cluster::start(&["none"]);
    let first = with(role("first", 2, "echo done"), &json!({ "minSucceededTaskCount": 2 }));
    let id = cluster.submit(&job("enough", &[first, role("server", 1, "sleep 600")]));
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    let states: Vec<&str> =
        shown["tasks"].as_array().unwrap().iter().filter_map(|task| task["state"].as_str()).collect();
    assert_eq!(states, ["SUCCEEDED", "SUCCEEDED", "STOPPED"], "{shown}");
}

#[test]
fn both_rules_off_forgive_failures() {
    let cluster = Cluster::start(&["none"]);
    let off = json!({ "minFailedTaskCount": null, "minSucceededTaskCount": null });
    let id = cluster.submit(&job("forgiving", &[with(role("main", 2, "exit 4"), &off)]));
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    assert!(shown["tasks"].as_array().unwrap().iter().all(|task| task["exit"]["code"] == 4), "{shown}");
}

#[test]
fn a_retry_is_another_run_of_the_same_job() {
    let cluster = Cluster::start(&["none"]);
    let mark = cluster.path("tried");
    let command = format!("if [ -e {0} ]; then echo second; else touch {0}; echo first; exit 5; fi", quoted(&mark));
    let id = cluster.submit(&with(job("again", &[role("main", 1, &command)]), &json!({ "retryCount": 1 })));
    let shown = cluster.wait_end(&id);
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    let runs = shown["runs"].as_array().expect("runs is a list");
    assert_eq!(runs.len(), 2, "{shown}");
    assert_eq!((&runs[0]["state"], &runs[0]["attempt"]), (&json!("FAILED"), &json!(1)), "{shown}");
    assert_eq!((&runs[1]["state"], &runs[1]["attempt"]), (&json!("SUCCEEDED"), &json!(2)), "{shown}");
    assert_eq!(runs[0]["run_id"].to_string(), id, "the first run has the job's id");
    assert_eq!(shown["run_id"], runs[1]["run_id"]);
    assert_eq!(cluster.cli(&["logs", &id]).expect(0).text(), "second\n");
    assert_eq!(cluster.cli(&["logs", &id, "--run", "-1"]).expect(0).text(), "first\n");
    let previous = cluster.json(&["job", "show", &id, "--run", "-1"]);
    assert_eq!(previous["tasks"][0]["exit"]["code"], 5, "{previous}");
}

#[test]
fn a_name_is_taken_until_its_job_has_ended() {
    let cluster = Cluster::start(&["none"]);
    let file = job("mine", &[role("main", 1, "sleep 600")]);
    let id = cluster.submit(&file);
    let refused = cluster.cli_with(&["--json", "submit", "-"], file.to_string().as_bytes()).expect(1).json();
    assert_eq!(refused["error"]["code"], "already_exists", "{refused}");
    // Another user's is another name.
    cluster.submit_with(&file, &["--user", "bob"]);
    assert_eq!(cluster.show("mine")["job_id"].to_string(), id);
    cluster.cli(&["stop", "mine"]).expect(0);
    cluster.wait_end(&id);
    let next = cluster.submit(&file);
    assert_ne!(next, id);
    assert_eq!(cluster.show("mine")["job_id"].to_string(), next, "unfinished ones go first");
    assert_eq!(cluster.show("bob/mine")["user"], "bob");
}

#[test]
fn a_request_id_submits_once() {
    let cluster = Cluster::start(&["none"]);
    let file = job("once", &[role("main", 1, "true")]);
    let first = cluster.submit_with(&file, &["--request-id", "r-1"]);
    assert_eq!(cluster.submit_with(&file, &["--request-id", "r-1"]), first);
    cluster.wait_end(&first);
    assert_eq!(cluster.submit_with(&file, &["--request-id", "r-1"]), first, "after its end too");
    assert_ne!(cluster.submit_with(&file, &["--request-id", "r-2"]), first);
    assert_eq!(cluster.json(&["jobs", "--all"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn dry_runs_and_validation_create_nothing() {
    let cluster = Cluster::start(&["none"]);
    let file = job("dry", &[role("main", 1, "true")]).to_string();
    let answer = cluster.cli_with(&["--json", "submit", "-", "--dry-run"], file.as_bytes()).expect(0).json();
    assert_eq!(answer["name"], "dry");
    cluster.cli_with(&["validate", "-"], file.as_bytes()).expect(0);
    assert_eq!(cluster.json(&["jobs", "--all"]), json!([]));
}

#[test]
fn events_tell_a_jobs_life_in_order() {
    let cluster = Cluster::start(&["none"]);
    let follower = cluster.spawn(&["--json", "events", "--follow"]);
    let id = cluster.submit(&job("told", &[role("main", 1, "true")]));
    cluster.wait_end(&id);
    let wanted = ["job.submitted", "task.started", "task.ended", "job.ended"];
    let events = until("the follower has the end", || {
        let text = String::from_utf8(follower.stdout_so_far()).expect("JSON is UTF-8");
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let events: Vec<serde_json::Value> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        events.iter().any(|event| event["kind"] == "job.ended").then_some(events)
    });
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]) && sequences.len() == events.len(), "{events:?}");
    let kinds: Vec<&str> = events
        .iter()
        .filter(|event| event["job"].as_u64() == id.parse().ok())
        .filter_map(|e| e["kind"].as_str())
        .collect();
    let order: Vec<&&str> = kinds.iter().filter(|kind| wanted.contains(kind)).collect();
    assert_eq!(order, wanted.iter().collect::<Vec<_>>(), "{kinds:?}");
    // The same from the start and from the middle, without following.
    let all = cluster.cli(&["--json", "events", "--job", &id]).expect(0).json_lines();
    assert_eq!(all.iter().filter_map(|event| event["kind"].as_str()).collect::<Vec<_>>(), kinds);
    let after = all[1]["sequence"].to_string();
    let rest = cluster.cli(&["--json", "events", "--job", &id, "--after", &after]).expect(0).json_lines();
    assert_eq!(rest, all[2..]);
}

#[test]
fn state_survives_orderly_restarts() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let done = cluster.submit(&job("done", &[role("main", 1, "exit 6")]));
    let before = cluster.wait_end(&done);
    let command = format!(
        "echo begun; until [ -e {} ]; do sleep 0.05; done; echo finished; exit 8",
        quoted(cluster.path("go"))
    );
    let long = cluster.submit(&job("long", &[with(role("main", 1, &command), &json!({ "gpuNumber": 2 }))]));
    cluster.wait_running(&long);
    assert_eq!(cluster.stop_agent(0), 0, "an agent ends well after SIGTERM");
    assert_eq!(cluster.stop_controller(), 0, "a controller ends well after SIGTERM");
    cluster.start_controller();
    cluster.start_agent(0);
    cluster.wait_ready();
    assert_eq!(cluster.show(&done), before);
    assert_eq!(cluster.wait_running(&long)["tasks"][0]["gpus"].as_array().map(Vec::len), Some(2));
    cluster.touch("go");
    assert_eq!(cluster.wait_end(&long)["exit"]["code"], 8);
    assert_eq!(cluster.cli(&["logs", &long]).expect(0).text(), "begun\nfinished\n");
}
