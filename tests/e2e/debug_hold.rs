//! `isDebug`: what a failed task leaves is there to be looked at, for as long as was said.

use crate::harness::job::{ended, with};
use crate::harness::{Cluster, Node, job, role, until};
use serde_json::{Value, json};

/// A job that is kept after a failure; for `hold_s`, if given.
fn debugged(name: &str, roles: &[Value], hold_s: Option<u32>) -> Value {
    let mut file = with(job(name, roles), &json!({ "jobEnvs": { "isDebug": true, "GREETING": "hello" } }));
    if let Some(seconds) = hold_s {
        file["extras"] = json!({ "wharf": { "debugHoldSeconds": seconds } });
    }
    file
}

fn wait_held(cluster: &Cluster, id: &str) -> Value {
    until(&format!("a task of job {id} is held"), || {
        let shown = cluster.show(id);
        assert!(!ended(&shown["state"]), "{shown}");
        shown["tasks"].as_array()?.iter().any(|task| task["held_until"].is_string()).then_some(shown)
    })
}

#[test]
fn a_failed_task_stays_with_everything_it_holds_until_it_is_stopped() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let main = with(role("main", 1, "echo before; exit 3"), &json!({ "gpuNumber": 2 }));
    let id = cluster.submit(&debugged("look", &[main], None));
    let shown = wait_held(&cluster, &id);
    let (task, until_when) = (&shown["tasks"][0], shown["tasks"][0]["held_until"].clone());
    assert_eq!(
        (&shown["state"], &task["state"], &task["exit"]),
        (&json!("RUNNING"), &json!("RUNNING"), &Value::Null)
    );
    let reason = shown["reason"].as_str().unwrap();
    assert!(reason.contains("held until") && reason.contains("status 3") && reason.contains("main[0]"), "{reason}");
    let text = cluster.cli(&["job", "show", &id]).expect(0).text();
    assert!(text.contains("held until"), "{text}");
    let listed = cluster.json(&["jobs"]);
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.contains("held until")), "{listed}");
    let held = || cluster.json(&["gpus"]).as_array().unwrap().iter().filter(|gpu| gpu["state"] == "HELD").count();
    assert_eq!(held(), 2);
    let errors = cluster.cli(&["logs", &id, "--stream", "stderr"]).expect(0).errors();
    assert!(errors.contains("isDebug") && errors.contains("604800 s"), "{errors}");

    let inside = ["exec", &id, "--", "/bin/sh", "-c", "echo $GREETING $WHARF_JOB_ID; exit 5"];
    assert_eq!(cluster.cli(&inside).expect(5).text(), format!("hello {id}\n"));
    // Neither the agent's end nor the controller's moves anything.
    cluster.kill9_agent(0);
    cluster.kill9_controller();
    cluster.start_controller();
    cluster.start_agent(0);
    cluster.wait_ready();
    assert_eq!(cluster.cli(&inside).expect(5).text(), format!("hello {id}\n"));
    let again = cluster.show(&id);
    assert_eq!((&again["state"], &again["tasks"][0]["held_until"]), (&json!("RUNNING"), &until_when), "{again}");
    assert_eq!(held(), 2);

    cluster.cli(&["stop", &id, "--grace", "600"]).expect(0);
    let shown = cluster.wait_end(&id);
    let exit = &shown["tasks"][0]["exit"];
    assert_eq!((&shown["state"], &exit["class"], &exit["code"]), (&json!("STOPPED"), &json!("stopped"), &json!(3)));
    assert!(exit["reason"].as_str().is_some_and(|reason| reason.contains("status 3")), "{exit}");
    assert_eq!(shown["tasks"][0].get("held_until"), None, "{shown}");
    cluster.wait_idle();
    let events = cluster.cli(&["--json", "events", "--job", &id]).expect(0).json_lines();
    assert_eq!(events.iter().filter(|event| event["kind"] == "task.held").count(), 1, "{events:?}");
}

#[test]
fn a_container_is_kept_just_so() {
    let test = "debug_hold: a_container_is_kept_just_so";
    let Some(dockerd) = crate::harness::docker::Dockerd::get(test) else { return };
    let node = Node {
        runtime: "docker".to_owned(),
        more: format!("docker_socket = '{}'\n", dockerd.socket().display()),
        ..Node::new("n0", "none")
    };
    let cluster = Cluster::with(vec![node], "");
    let main = role("main", 1, "echo found > /tmp/left; exit 3");
    let file = with(debugged("look", &[main], None), &json!({ "image": "wharf-test/busybox:1" }));
    let id = cluster.submit(&file);
    let until_when = wait_held(&cluster, &id)["tasks"][0]["held_until"].clone();
    cluster.kill9_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    let inside = cluster.cli(&["exec", &id, "--", "/bin/sh", "-c", "cat /tmp/left; echo $GREETING"]).expect(0);
    assert_eq!(inside.text(), "found\nhello\n");
    assert_eq!(cluster.show(&id)["tasks"][0]["held_until"], until_when);
    cluster.cli(&["stop", &id]).expect(0);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["tasks"][0]["exit"]["code"]), (&json!("STOPPED"), &json!(3)), "{shown}");
    cluster.wait_idle();
    for uid in cluster.node_uids() {
        let filter = format!("label=wharf.node_uid={uid}");
        until("the container is gone", || {
            dockerd.docker(&["ps", "-aq", "--filter", &filter]).is_empty().then_some(())
        });
    }
}

#[test]
fn it_ends_by_itself_with_the_commands_own_status_and_is_retried_only_then() {
    let cluster = Cluster::start(&["none"]);
    let file = with(debugged("short", &[role("main", 1, "kill -SEGV $$")], Some(2)), &json!({ "retryCount": 4 }));
    let id = cluster.submit(&file);
    wait_held(&cluster, &id);
    let shown = cluster.wait_end(&id);
    let exit = &shown["exit"];
    assert_eq!((&shown["state"], &exit["signal"], &exit["class"]), (&json!("FAILED"), &json!(11), &json!("user")));
    assert!(exit["reason"].as_str().is_some_and(|reason| reason.contains("held for debugging for")), "{exit}");
    assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1));
    cluster.wait_idle();
}

#[test]
fn a_node_may_allow_less_and_success_is_not_kept() {
    let node = Node { more: "debug_hold_s = 1\n".to_owned(), ..Node::new("n0", "none") };
    let cluster = Cluster::with(vec![node], "");
    let failed = cluster.submit(&debugged("failed", &[role("main", 1, "exit 3")], None));
    let fine = cluster.submit(&debugged("fine", &[role("main", 1, "true")], None));
    assert_eq!(cluster.wait_end(&fine)["state"], "SUCCEEDED");
    let shown = cluster.wait_end(&failed);
    assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!("FAILED"), &json!(3)));
}

#[test]
fn the_rest_of_the_gang_goes_on_and_the_run_is_judged_when_the_hold_is_over() {
    let cluster = Cluster::start(&["none"]);
    let go = format!("until [ -e {} ]; do sleep 0.05; done", crate::harness::job::quoted(cluster.path("go")));
    let roles = [role("bad", 1, "exit 3"), role("good", 1, &go), role("other", 1, "sleep 600")];
    let id = cluster.submit(&debugged("gang", &roles, None));
    wait_held(&cluster, &id);
    cluster.touch("go");
    let state = |shown: &Value, index: usize| shown["tasks"][index]["state"].clone();
    let shown =
        until("the good one succeeded", || Some(cluster.show(&id)).filter(|shown| state(shown, 1) == "SUCCEEDED"));
    assert_eq!(
        (&shown["state"], state(&shown, 0), state(&shown, 2)),
        (&json!("RUNNING"), json!("RUNNING"), json!("RUNNING"))
    );
    cluster.cli(&["stop", &id]).expect(0);
    assert_eq!(cluster.wait_end(&id)["state"], "STOPPED");
    cluster.wait_idle();
}
