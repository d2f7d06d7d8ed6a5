//! `wharf demo` and `wharf dev`: everything in one process.

use crate::harness::cluster::wharf;
use crate::harness::docker::Dockerd;
use crate::harness::{Output, Running, proc, until};
use std::path::Path;

/// Simulated whatever this machine is, and big enough for the demo's job.
const DEMO: [&str; 9] =
    ["demo", "--gpus", "sim:8xH100", "--runtime", "process", "--cpus", "16", "--memory-mb", "65536"];

fn demo(folder: &Path) -> Running {
    let mut command = wharf(&DEMO);
    command.arg("--data-dir").arg(folder.join("state")).env("TMPDIR", folder);
    Running::start(command)
}

fn all_of(output: &Output) -> String {
    output.text() + &output.errors()
}

/// The commands of the demo's tasks: what their shims, which have no such variable, have started.
fn tasks(folder: &Path) -> Vec<i32> {
    let is_task = |pid: i32| proc::variable(pid, "WHARF_TASK_ID").is_some();
    let mut pids = proc::of_folder(folder);
    pids.retain(|pid| is_task(*pid) && proc::parent(*pid).is_some_and(|parent| !is_task(parent)));
    pids
}

#[test]
fn the_demo_shows_a_job_from_queue_to_end() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let output = demo(folder.path()).finish();
    let text = all_of(&output);
    assert_eq!(output.code, 0, "{text}");
    for wanted in ["QUEUE", "GPU", "TASK", "H100", "HELD", "RUNNING", "SUCCEEDED"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    assert!(text.contains("simulated") || text.contains("sim:"), "it does not say which GPUs:\n{text}");
    assert!(text.contains("process"), "it does not say which runtime:\n{text}");
    assert_eq!(proc::of_folder(folder.path()), [0; 0], "the demo left processes");
}

#[test]
fn a_demo_without_a_folder_leaves_nothing() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let mut command = wharf(&DEMO);
    command.arg("--no-color").env("TMPDIR", folder.path());
    let output = Running::start(command).finish();
    assert_eq!(output.code, 0, "{}", all_of(&output));
    assert!(!output.stdout.contains(&0x1b), "colours in: {}", output.text());
    let left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("it is ours").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_demo_that_cannot_fit_says_so() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let mut command = wharf(&["demo", "--gpus", "sim:2xH100", "--runtime", "process", "--cpus", "1"]);
    command.env("TMPDIR", folder.path());
    let output = Running::start(command).finish().expect(1);
    assert!(output.errors().contains("--cpus"), "{}", all_of(&output));
}

#[test]
fn the_demo_does_with_the_gpus_there_are() {
    for gpus in ["sim:2xTITANX", "sim:1xH100", "none"] {
        let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
        let mut command = wharf(&["demo", "--gpus", gpus, "--runtime", "process"]);
        command.env("TMPDIR", folder.path());
        Running::start(command).finish().expect(0);
    }
}

#[test]
fn killing_a_task_of_the_demo_fails_it() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let demo = demo(folder.path());
    let victim = until("a task of the demo runs", || tasks(folder.path()).first().copied());
    proc::kill9(victim);
    let output = demo.finish();
    assert_eq!(output.code, 1, "{}", all_of(&output));
    assert!(all_of(&output).contains("FAILED"), "{}", all_of(&output));
    assert_eq!(proc::of_folder(folder.path()), [0; 0], "the demo left processes");
}

#[test]
fn dev_is_a_whole_cluster_whose_state_survives() {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let (port, agent) = (crate::harness::port::Port::claim(), crate::harness::port::Port::claim());
    let (address, agent) = (format!("127.0.0.1:{}", port.number), format!("127.0.0.1:{}", agent.number));
    let start = || {
        let mut command = wharf(&[
            "dev",
            "--gpus",
            "sim:2xH100",
            "--runtime",
            "process",
            "--listen",
            &address,
            "--agent-listen",
            &agent,
        ]);
        command.arg("--data-dir").arg(folder.path().join("state")).env("TMPDIR", folder.path());
        Running::start(command)
    };
    let cli = |args: &[&str], input: &[u8]| {
        let mut command = wharf(args);
        command.env("WHARF_CONTROLLER", &address);
        let mut running = Running::start(command);
        running.feed(input);
        running.finish()
    };
    let ready = || {
        until("the node is READY", || {
            let nodes: serde_json::Value = serde_json::from_slice(&cli(&["--json", "nodes"], b"").stdout).ok()?;
            (nodes[0]["state"] == "READY").then_some(())
        });
    };
    let first = start();
    ready();
    let file = crate::harness::job("kept", &[crate::harness::role("main", 1, "echo kept")]).to_string();
    cli(&["submit", "-", "--wait"], file.as_bytes()).expect(0);
    let gpus = cli(&["--json", "gpus", "--agent", &agent], b"").expect(0).json();
    assert_eq!(gpus.as_array().map(Vec::len), Some(2), "{gpus}");
    let before = cli(&["--json", "job", "show", "kept"], b"").expect(0).json();
    first.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(first.finish().code, 0);
    let second = start();
    ready();
    assert_eq!(cli(&["--json", "job", "show", "kept"], b"").expect(0).json(), before);
    assert_eq!(cli(&["logs", "kept"], b"").expect(0).text(), "kept\n");
    second.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(second.finish().code, 0);
    assert_eq!(proc::of_folder(folder.path()), [0; 0]);
}

#[test]
fn completion_scripts_are_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Running::start(wharf(&["completion", shell])).finish().expect(0);
        assert!(output.text().contains("submit"), "{shell}");
    }
}

#[test]
fn the_demo_runs_in_containers_where_docker_has_its_image() {
    let Some(dockerd) = Dockerd::get("the demo in containers") else { return };
    dockerd.docker(&["tag", "wharf-test/busybox:1", "busybox:1"]);
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let mut command = wharf(&["demo", "--gpus", "sim:8xH100"]);
    command.env("TMPDIR", folder.path()).env("DOCKER_HOST", format!("unix://{}", dockerd.socket().display()));
    let output = Running::start(command).finish();
    let text = all_of(&output);
    assert_eq!(output.code, 0, "{text}");
    assert!(text.contains("runtime: Docker containers"), "{text}");
    assert!(text.contains("worker 1 is done") && text.contains("SUCCEEDED"), "{text}");
    assert_eq!(dockerd.docker(&["ps", "-aq", "--filter", "ancestor=busybox:1"]), "", "containers are left");
}
