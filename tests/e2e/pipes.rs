//! Readers that go away, and people who stop looking: what waits must notice, and what must not be cut short is not.

use crate::harness::cluster::wharf;
use crate::harness::{Cluster, Running, job, proc, role, until};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts a command, reads `lines` of its output, and closes the pipe.
fn head(mut command: Command, lines: usize, input: &[u8]) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(input).expect("it reads");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    for _ in 0..lines {
        let mut line = String::new();
        output.read_line(&mut line).expect("it writes lines");
    }
    child
}

fn code(mut child: Child) -> Option<i32> {
    until("the command ends", || child.try_wait().expect("it is our child")).code()
}

fn demo(folder: &Path, args: &[&str]) -> Command {
    let mut command = wharf(&["demo", "--gpus", "sim:2xH100"]);
    command.args(args).env("TMPDIR", folder);
    command
}

fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made")
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).expect("it is ours").next().is_none()
}

#[test]
fn following_ends_when_nobody_reads_even_if_nothing_is_said() {
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&job("quiet", &[role("main", 2, "echo one; sleep 600")]));
    assert_eq!(code(head(cluster.command(&["logs", "--follow", &id]), 1, b"")), Some(0));
    assert_eq!(code(head(cluster.command(&["events", "--follow"]), 1, b"")), Some(0));
    assert_eq!(cluster.show(&id)["state"], "RUNNING", "following stops no job");
}

#[test]
fn waiting_goes_on_without_a_reader_and_ends_with_the_jobs_code() {
    let cluster = Cluster::start(&["none"]);
    let command = format!(
        "echo a; until [ -e {} ]; do sleep 0.05; done; echo b; exit 3",
        crate::harness::job::quoted(cluster.path("go"))
    );
    let file = job("watched", &[role("main", 1, &command)]).to_string();
    // The id, and the first line.
    let waiting = head(cluster.command(&["submit", "-", "--wait", "--follow"]), 2, file.as_bytes());
    cluster.touch("go");
    assert_eq!(code(waiting), Some(1));
}

#[test]
fn a_demo_that_nobody_reads_stops_its_job_and_fails() {
    let folder = temporary();
    assert_eq!(code(head(demo(folder.path(), &[]), 2, b"")), Some(1));
    assert_eq!(proc::of_folder(folder.path()), [0; 0], "the demo left processes");
    assert!(is_empty(folder.path()), "the demo left files");
}

#[test]
fn a_demo_that_is_asked_to_end_takes_its_job_with_it() {
    for signal in [nix::sys::signal::Signal::SIGTERM, nix::sys::signal::Signal::SIGINT] {
        let folder = temporary();
        let running = Running::start(demo(folder.path(), &[]));
        until("the demo's tasks print", || {
            String::from_utf8_lossy(&running.stdout_so_far()).contains("step 1").then_some(())
        });
        running.signal(signal);
        running.finish().expect(130);
        assert_eq!(proc::of_folder(folder.path()), [0; 0], "the demo left processes");
        assert!(is_empty(folder.path()), "the demo left files");
    }
}

#[test]
fn a_second_demo_in_a_folder_shows_a_job_of_its_own_even_after_a_crash() {
    let folder = temporary();
    let state = folder.path().join("state").display().to_string();
    let first = Running::start(demo(folder.path(), &["--data-dir", &state]));
    until("the demo's tasks print", || {
        String::from_utf8_lossy(&first.stdout_so_far()).contains("step 1").then_some(())
    });
    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.finish();
    let second = Running::start(demo(folder.path(), &["--data-dir", &state])).finish().expect(0);
    assert!(second.text().contains("job 2 SUCCEEDED"), "{}", second.text());
    let third = Running::start(demo(folder.path(), &["--data-dir", &state])).finish().expect(0);
    assert!(third.text().contains("job 3 SUCCEEDED"), "{}", third.text());
    assert_eq!(proc::of_folder(folder.path()), [0; 0], "the demo left processes");
}

#[test]
fn exec_tells_transport_from_mistakes() {
    let unreached = |args: &[&str]| Running::start(wharf(args)).finish();
    let args = ["--controller", "127.0.0.1:1", "exec", "1", "--", "true"];
    assert!(unreached(&args).expect(255).errors().contains("127.0.0.1:1"));
    let cluster = Cluster::start(&["none"]);
    cluster.cli(&["exec", "nobody", "--", "true"]).expect(2);
    let id = cluster.submit(&job("host", &[role("main", 1, "sleep 600")]));
    cluster.wait_running(&id);
    let pieces =
        cluster.cli(&["--json", "exec", &id, "--", "/bin/sh", "-c", "echo x; exit 4"]).expect(4).json_lines();
    assert_eq!(pieces[0], serde_json::json!({ "stream": "stdout", "text": "x\n" }));
    assert_eq!(pieces.last(), Some(&serde_json::json!({ "exit_code": 4 })));
    // A shell that is just starting another program may swallow the signal; one that becomes it cannot.
    let running = cluster.spawn(&["exec", &id, "--", "/bin/sh", "-c", "echo up; exec sleep 600"]);
    until("the command runs", || (running.stdout_so_far() == b"up\n").then_some(()));
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.finish().expect(130);
    assert_eq!(code(head(cluster.command(&["exec", &id, "--", "yes"]), 1, b"")), Some(141));
}

#[test]
fn another_controller_of_the_list_is_asked_and_all_are_named() {
    let cluster = Cluster::start(&["none"]);
    // One that listens and never says a word, besides one that is not there.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let mute = mute.local_addr().expect("it is bound").to_string();
    let list = format!("127.0.0.1:1,{},{mute}", cluster.address());
    cluster.cli(&["--controller", &list, "nodes"]).expect(0);
    let list = format!("{mute},{}", cluster.address());
    cluster.cli(&["--controller", &list, "nodes"]).expect(0);
    let output = cluster.cli(&["--json", "--controller", "127.0.0.1:1,127.0.0.1:2", "nodes"]).expect(3);
    let message = output.json()["error"]["message"].to_string();
    assert!(message.contains("127.0.0.1:1") && message.contains("127.0.0.1:2"), "{message}");
}
