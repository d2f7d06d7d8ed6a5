//! `wharf exec`: beside a task, in its environment.

use crate::harness::{Cluster, job, role};
use serde_json::json;

#[test]
fn a_command_runs_in_the_tasks_environment() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let mut wants = role("main", 1, "sleep 600");
    wants["gpuNumber"] = json!(1);
    let mut file = job("host", &[wants]);
    file["jobEnvs"] = json!({ "GREETING": "hello $HOME" });
    let id = cluster.submit(&file);
    let shown = cluster.wait_running(&id);
    let output = cluster.cli(&["exec", &id, "--", "/usr/bin/env"]).expect(0).text();
    let value = |name: &str| {
        let lines: Vec<&str> = output.lines().filter_map(|line| line.strip_prefix(&format!("{name}="))).collect();
        assert_eq!(lines.len(), 1, "{name} in {output}");
        lines[0].to_owned()
    };
    assert_eq!(value("GREETING"), "hello $HOME");
    assert_eq!(value("WHARF_JOB_ID"), id);
    assert_eq!(value("NVIDIA_VISIBLE_DEVICES"), shown["tasks"][0]["gpus"][0].as_str().expect("a UUID"));
    assert_eq!(value("PAI_CURRENT_TASK_ROLE_NAME"), "main");
    // A program that is not there, and a task that does not run.
    assert_ne!(cluster.cli(&["exec", &id, "--", "/no/such/program"]).code, 0);
    cluster.cli(&["stop", &id]).expect(0);
    cluster.wait_end(&id);
    assert_ne!(cluster.cli(&["exec", &id, "--", "true"]).code, 0);
}

#[test]
fn streams_and_exit_codes_pass() {
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&job("host", &[role("main", 2, "sleep 600")]));
    cluster.wait_running(&id);
    let to = ["exec", &id, "--role", "main", "--index", "1", "--"];
    let exec = |command: &[&str]| cluster.cli(&[&to, command].concat());
    let output = exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 42"]).expect(42);
    assert_eq!((output.text().as_str(), output.errors().as_str()), ("out\n", "err\n"));
    exec(&["/bin/sh", "-c", "kill -KILL $$"]).expect(137);
    let input: Vec<u8> = crate::harness::random::Random::new(3).bytes(300_000);
    let output = cluster.cli_with(&[&to[..], &["cat"]].concat(), &input).expect(0);
    assert!(output.stdout == input, "{} of {} bytes came back", output.stdout.len(), input.len());
    let output = exec(&["/bin/sh", "-c", "echo $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX"]).expect(0);
    assert_eq!(output.text(), "1\n");
    // Which one?
    let unclear = cluster.cli(&["exec", &id, "--", "true"]).expect(2);
    assert!(unclear.errors().contains("--index"), "{}", unclear.errors());
    let wrong = cluster.cli(&["exec", &id, "--role", "mian", "--", "true"]).expect(2);
    assert!(wrong.errors().contains("main"), "{}", wrong.errors());
}
