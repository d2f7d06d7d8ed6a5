//! What an end leads to: other tasks stopped, another run or none, and how that is told.

use crate::harness::cluster::wharf;
use crate::harness::job::with;
use crate::harness::{Cluster, job, role, until};
use serde_json::{Value, json};

fn retried(name: &str, command: &str, retry_count: i64) -> Value {
    with(job(name, &[role("main", 1, command)]), &json!({ "retryCount": retry_count }))
}

/// Ends with the next of `statuses` each time it runs.
fn one_after_the_other(cluster: &Cluster, name: &str, statuses: &[i32]) -> String {
    let file = cluster.path(name).display().to_string();
    let cases: Vec<String> =
        statuses.iter().enumerate().map(|(nth, status)| format!("{}) exit {status};;", nth + 1)).collect();
    format!("echo run >> '{file}'; case $(wc -l < '{file}') in {} esac", cases.join(" "))
}

#[test]
fn the_deciding_task_is_named_by_those_that_were_stopped_for_it() {
    let cluster = Cluster::start(&["none"]);
    let command = "if [ $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX = 1 ]; then exit 3; fi; sleep 600";
    let id = cluster.submit(&job("gang", &[role("worker", 3, command), role("ps", 1, "sleep 600")]));
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!("FAILED"), &json!(3)), "{shown}");
    for task in shown["tasks"].as_array().unwrap() {
        let (role, index) = (task["role"].as_str().unwrap(), task["index"].as_u64().unwrap());
        let reason = task["exit"]["reason"].as_str().unwrap();
        if (role, index) == ("worker", 1) {
            assert_eq!(task["state"], "FAILED", "{task}");
        } else {
            assert_eq!(task["state"], "STOPPED", "{task}");
            assert!(reason.contains("worker[1]") && reason.contains("status 3"), "{reason}");
        }
    }
    let roles = [
        with(
            role("worker", 3, "[ $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX = 2 ] || sleep 600"),
            &json!({
                "minSucceededTaskCount": 1
            }),
        ),
        role("ps", 1, "sleep 600"),
    ];
    let shown = cluster.wait_end(&cluster.submit(&job("enough", &roles)));
    assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("worker[2]")), "{shown}");
    let stopped = shown["tasks"].as_array().unwrap().iter().filter(|task| task["state"] == "STOPPED").count();
    assert_eq!(stopped, 3, "{shown}");
}

#[test]
fn the_jobs_own_words_decide_and_every_retry_is_told() {
    let cluster = Cluster::start(&["none"]);
    let again = one_after_the_other(&cluster, "again", &[193, 193, 0]);
    let again = cluster.submit(&retried("again", &again, 0));
    let enough = cluster.submit(&retried("enough", "exit 194", -1));
    let broken = cluster.submit(&retried("broken", "kill -SEGV $$", 7));
    let nowhere = with(retried("nowhere", "true", -1), &json!({ "image": "dir:/no/such/folder" }));
    let nowhere = cluster.submit(&nowhere);
    let counted = one_after_the_other(&cluster, "counted", &[9, 137, 5]);
    let counted = cluster.submit(&retried("counted", &counted, 2));
    for (id, code) in [(&enough, json!(194)), (&broken, Value::Null), (&nowhere, Value::Null)] {
        let shown = cluster.wait_end(id);
        assert_eq!((&shown["state"], &shown["exit"]["code"]), (&json!("FAILED"), &code), "{shown}");
        assert_eq!(shown["runs"].as_array().map(Vec::len), Some(1), "{shown}");
        assert_eq!(shown["retries"], json!({ "user": 0, "platform": 0, "hardware": 0, "asked": 0 }));
    }
    let shown = cluster.wait_end(&again);
    assert_eq!((&shown["state"], &shown["retries"]["asked"]), (&json!("SUCCEEDED"), &json!(2)), "{shown}");
    assert_eq!((&shown["retries"]["user"], shown["runs"].as_array().map(Vec::len)), (&json!(0), Some(3)), "{shown}");
    let shown = cluster.wait_end(&counted);
    assert_eq!((&shown["state"], &shown["retries"]["user"]), (&json!("FAILED"), &json!(2)), "{shown}");
    assert_eq!(shown["exit"]["code"], 5);
    let events = cluster.cli(&["--json", "events", "--job", &counted]).expect(0).json_lines();
    let told: Vec<&str> =
        events.iter().filter(|e| e["kind"] == "job.retried").filter_map(|e| e["message"].as_str()).collect();
    assert!(told.len() == 2 && told[0].contains("user retry 1") && told[1].contains("status 137"), "{told:?}");
}

#[test]
fn a_job_without_end_says_how_often_why_and_when_again() {
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&retried("endless", "echo no luck; exit 9", -1));
    // By then the pauses are long enough to be seen.
    let shown = until("it waits for its fourth run or a later one", || {
        let shown = cluster.show(&id);
        (shown["state"] == "WAITING" && shown["retries"]["user"].as_u64() >= Some(3)).then_some(shown)
    });
    assert!(shown["next_run_at"].is_string(), "{shown}");
    let reason = shown["reason"].as_str().unwrap();
    for part in ["user", "status 9", "not before", "attempt"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let text = cluster.cli(&["job", "show", &id]).expect(0).text();
    assert!(text.contains("Retries") && text.contains("user"), "{text}");
    cluster.cli(&["stop", &id]).expect(0);
    let shown = cluster.wait_end(&id);
    assert_eq!((&shown["state"], &shown["next_run_at"]), (&json!("STOPPED"), &Value::Null), "{shown}");
}

#[test]
fn the_table_of_ends_is_printed() {
    let run = |args: &[&str]| crate::harness::Running::start(wharf(args)).finish();
    let rows = run(&["--json", "doctor", "--exits"]).expect(0).json();
    let rows = rows.as_array().unwrap();
    let of = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id} is a row"));
    assert_eq!(of("user")["retried"], json!({ "-2": true, "-1": true, "0": false, "N": true }));
    assert_eq!((&of("asked_again")["counted_as"], &of("oom")["retried"]["-1"]), (&json!("asked"), &json!(false)));
    let text = run(&["doctor", "--exits"]).expect(0).text();
    assert!(rows.iter().all(|row| text.contains(row["id"].as_str().unwrap())), "{text}");
}

#[test]
fn the_doctor_says_what_is_there() {
    let cluster = Cluster::start(&["none"]);
    let checks =
        cluster.cli(&["--json", "doctor", "--agent", &format!("unix:{}", cluster.path("a0.sock").display())]);
    let checks = checks.json();
    let state =
        |name: &str| checks.as_array().unwrap().iter().find(|check| check["name"] == name).unwrap()["state"].clone();
    assert_eq!(
        (state("shim"), state("controller"), state("agent")),
        (json!("ok"), json!("ok"), json!("ok")),
        "{checks}"
    );
    let alone = wharf(&["doctor", "--controller", "127.0.0.1:1"]);
    let alone = crate::harness::Running::start(alone).finish().expect(1).text();
    assert!(alone.contains("controller") && alone.contains("FAILED") && alone.contains("--exits"), "{alone}");
}
