//! `wharf exec`: beside a task, in its environment.

use crate::harness::docker::Dockerd;
use crate::harness::pty::OnTerminal;
use crate::harness::random::Random;
use crate::harness::wait::pause;
use crate::harness::{Cluster, Node, job, proc, role, until};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A task that waits, on a node of either kind.
struct Beside {
    cluster: Cluster,
    job: String,
    runtime: &'static str,
    /// Last: it goes after its containers.
    dockerd: Option<Dockerd>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(dockerd) = self.dockerd.as_ref().filter(|_| !std::thread::panicking()) {
            self.cluster.kill9_agent(0);
            dockerd.remove_of(self.cluster.node_uids());
        }
    }
}

impl Beside {
    fn process() -> Self {
        Self::on(Node::new("n0", "none"), "process", None)
    }

    fn docker() -> Option<Self> {
        let dockerd = Dockerd::get("commands beside tasks in containers")?;
        let more = format!("docker_socket = '{}'\n", dockerd.socket().display());
        let node = Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") };
        Some(Self::on(node, "docker", Some(dockerd)))
    }

    /// Of both kinds, where both can be.
    fn both() -> impl Iterator<Item = Self> {
        std::iter::once(Self::process()).chain(std::iter::once_with(Self::docker).flatten())
    }

    fn on(node: Node, runtime: &'static str, dockerd: Option<Dockerd>) -> Self {
        let cluster = Cluster::with(vec![node], "");
        let mut file = job("host", &[role("main", 1, "sleep 600")]);
        file["image"] = json!("wharf-test/busybox:1");
        let job = cluster.submit(&file);
        cluster.wait_running(&job);
        Self { cluster, job, runtime, dockerd }
    }

    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        ["exec", &self.job].iter().chain(more).copied().collect()
    }

    fn shell(&self, script: &str) -> Command {
        self.cluster.command(&self.args(&["--", "/bin/sh", "-c", script]))
    }

    fn terminal(&self, size: (u16, u16)) -> OnTerminal {
        OnTerminal::start(self.cluster.command(&self.args(&["-it", "--", "/bin/sh"])), size)
    }

    /// An argument that no other process has.
    fn marker(&self, test: u32) -> String {
        format!("{}", 1_000_000_000 + u64::from(std::process::id()) * 100 + u64::from(test))
    }
}

/// Commands that the agent has noted, below its state directory.
fn notes(dir: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let within = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    let count = |path: std::path::PathBuf| match path.ends_with("execs") {
        true => std::fs::read_dir(&path).into_iter().flatten().flatten().count(),
        false => notes(&path),
    };
    within.map(count).sum()
}

fn gone(marker: &str) {
    until("nothing is left of the command", || proc::with_argument(marker).is_empty().then_some(()));
}

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

#[test]
fn a_terminal_takes_keys_and_sizes_and_is_given_back() {
    for beside in Beside::both() {
        let mut terminal = beside.terminal((30, 100));
        terminal.type_keys("stty size\n");
        terminal.wait("30 100");
        terminal.resize((50, 132));
        terminal.type_keys("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\n");
        terminal.wait("resized");
        // To the foreground of the terminal there, not to the client.
        terminal.type_keys("echo be''gun; sleep 601\n");
        terminal.wait("begun");
        terminal.type_keys("\x03");
        terminal.type_keys("echo co''de $?\n");
        terminal.wait("code 130");
        assert!(!terminal.is_restored(), "keys go there unchanged");
        terminal.type_keys("exit 7\n");
        assert_eq!(terminal.end(), 7, "{}: {}", beside.runtime, terminal.seen());
        assert!(terminal.is_restored());
    }
}

#[test]
fn a_client_on_a_terminal_that_is_ended_gives_it_back_and_leaves_nothing() {
    for beside in Beside::both() {
        for (number, signal) in [(1, Signal::SIGTERM), (2, Signal::SIGHUP)] {
            let marker = beside.marker(number);
            let mut terminal = beside.terminal((24, 80));
            // One in the foreground, one in a process group of its own.
            terminal.type_keys(&format!("set -m; sleep {marker} & sleep {marker}\n"));
            until("both run", || (proc::with_argument(&marker).len() == 2).then_some(()));
            terminal.signal(signal);
            assert_eq!(terminal.end(), 128 + signal as i32, "{}", beside.runtime);
            assert!(terminal.is_restored());
            gone(&marker);
        }
    }
}

#[test]
fn a_lost_agent_is_255_with_a_sentence_and_the_terminal_given_back() {
    for beside in Beside::both() {
        let mut terminal = beside.terminal((24, 80));
        terminal.type_keys("echo u''p\n");
        terminal.wait("up");
        let running = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", "echo up; sleep 600"]));
        until("the command runs", || (running.stdout_so_far() == b"up\n").then_some(()));
        let marker = beside.marker(6);
        let silent = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", &format!("sleep {marker}; true")]));
        until("a silent one runs", || (proc::with_argument(&marker).len() == 1).then_some(()));
        // A moment after a command runs; what the agent's end catches in between goes on until its task ends.
        until("all three are noted", || (notes(&beside.cluster.path("a0")) == 3).then_some(()));
        beside.cluster.kill9_agent(0);
        silent.finish().expect(255);
        assert_eq!(terminal.end(), 255);
        assert!(terminal.is_restored());
        let output = running.finish().expect(255);
        assert!(output.errors().starts_with("wharf: "), "{}", output.errors());
        beside.cluster.start_agent(0);
        beside.cluster.wait_ready();
        // Nobody hears of the one that goes on without us: the next agent ends it.
        gone(&marker);
        until("exec works again", || (beside.cluster.cli(&beside.args(&["--", "true"])).code == 0).then_some(()));
    }
}

#[test]
fn fifty_megabytes_go_both_ways_unchanged() {
    for beside in Beside::both() {
        let input = Random::new(11).bytes(50 * 1024 * 1024);
        let output = beside.cluster.cli_with(&beside.args(&["--", "cat"]), &input).expect(0);
        assert!(output.stdout == input, "{}: {} of {} bytes", beside.runtime, output.stdout.len(), input.len());
        // The end of the input is not the end of the output.
        let counted = beside.cluster.cli_with(&beside.args(&["--", "/bin/sh", "-c", "wc -c; echo after"]), &input);
        assert_eq!(counted.expect(0).text().split_whitespace().collect::<Vec<_>>(), ["52428800", "after"]);
    }
}

#[test]
fn a_reader_that_pauses_stops_the_command_and_costs_no_memory() {
    for beside in Beside::both() {
        let daemons = [beside.cluster.agent_pid(0), beside.cluster.controller_pid()].map(|pid| pid.expect("it runs"));
        let size = |pid: i32| proc::number(pid, "status", "VmRSS").expect("it runs") / 1024;
        let before = daemons.map(size);
        let marker = beside.marker(3);
        let script = format!("exec dd if=/dev/zero bs=65536 count={marker}");
        let mut client = beside.shell(&script);
        let mut client =
            client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let of_client = i32::try_from(client.id()).expect("process ids are small");
        // busybox does it in its shell.
        let count = format!("count={marker}");
        let of_command = |argument: &str| proc::with_argument(argument).into_iter().find(|pid| *pid != of_client);
        let writer = until("the command writes", || of_command(&count).or_else(|| of_command(&script)));
        let written = || proc::number(writer, "io", "wchar").expect("it runs");
        let mut last = 0;
        let stalled = until("the command waits for its reader", || {
            let now = written();
            let stands = now == last && now > 0;
            last = now;
            pause(Duration::from_millis(300));
            stands.then_some(now)
        });
        assert!(stalled < 64 << 20, "{}: {stalled} bytes were taken from the command", beside.runtime);
        for (pid, before) in daemons.into_iter().zip(before) {
            assert!(size(pid) < before + 100, "{}: {before} MB became {} MB", beside.runtime, size(pid));
        }
        client.kill().expect("it is ours");
        client.wait().expect("it is ours");
        gone(&count);
        gone(&script);
    }
}

#[test]
fn signals_reach_the_command_and_its_code_comes_back() {
    for beside in Beside::both() {
        for (signal, name, code) in
            [(Signal::SIGTERM, "TERM", 9), (Signal::SIGINT, "INT", 10), (Signal::SIGHUP, "HUP", 11)]
        {
            let script = format!("trap 'echo got {name}; exit {code}' {name}; echo up; while :; do sleep 0.1; done");
            let mut running = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", &script]));
            until("the command runs", || (running.stdout_so_far() == b"up\n").then_some(()));
            // After the end of its input as well.
            running.feed(b"");
            running.signal(signal);
            let output = running.finish().expect(code);
            assert_eq!(output.text(), format!("up\ngot {name}\n"), "{}", beside.runtime);
        }
        // One that does not care is left by the second one.
        let marker = beside.marker(4);
        let script = format!("trap '' INT HUP; echo up; sleep {marker}; sleep {marker}");
        let running = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", &script]));
        until("the command runs", || (running.stdout_so_far() == b"up\n").then_some(()));
        running.signal(Signal::SIGINT);
        until("the first has been taken", || {
            // Both may be pending at once, and then are one: the second is sent when the first is gone.
            let pending = std::fs::read_to_string(format!("/proc/{}/status", running.id())).expect("it runs");
            pending
                .lines()
                .any(|line| line.starts_with("ShdPnd:") && line.ends_with("0000000000000000"))
                .then_some(())
        });
        pause(Duration::from_millis(200));
        running.signal(Signal::SIGINT);
        running.finish().expect(130);
        gone(&marker);
    }
}

#[test]
fn a_killed_client_leaves_nothing_even_of_what_ignores_hangups() {
    for beside in Beside::both() {
        let marker = beside.marker(5);
        let script = format!("trap '' HUP; (sleep {marker}; sleep {marker}) & echo up; sleep {marker}");
        let running = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", &script]));
        until("the command runs", || (proc::with_argument(&marker).len() >= 2).then_some(()));
        running.signal(Signal::SIGKILL);
        gone(&marker);
        // One that takes care of itself is told.
        let told = "trap 'echo told >/tmp/told.$PPID; exit' HUP; echo $PPID; while :; do sleep 0.1; done";
        let script = told.replace("$PPID", &marker);
        let running = beside.cluster.spawn(&beside.args(&["--", "/bin/sh", "-c", &script]));
        until("the command runs", || running.stdout_so_far().ends_with(b"\n").then_some(()));
        running.signal(Signal::SIGKILL);
        let file = format!("/tmp/told.{marker}");
        let look = ["--", "/bin/sh", "-c", &format!("cat {file} && rm {file}")];
        until("it was told", || {
            let output = beside.cluster.cli(&beside.args(&look));
            (output.text() == "told\n").then_some(())
        });
        assert_eq!(beside.cluster.show(&beside.job)["state"], "RUNNING");
    }
}

#[test]
fn a_command_gets_variables_and_a_folder() {
    for beside in Beside::both() {
        let more = ["-e", "GREETING=a=b c", "--env", "PAI_USER_NAME=me", "-w", "/proc", "--", "/bin/sh", "-c"];
        let more = [&more[..], &["echo \"$GREETING|$PAI_USER_NAME|$WHARF_JOB_ID|$PWD\""]].concat();
        let said = beside.cluster.cli(&beside.args(&more)).expect(0).text();
        assert_eq!(said, format!("a=b c|me|{}|/proc\n", beside.job));
        let missing = beside.cluster.cli(&beside.args(&["-w", "/no/such", "--", "true"]));
        assert!(missing.code != 0, "{}: {}", beside.runtime, missing.errors());
        beside.cluster.cli(&beside.args(&["-e", "=x", "--", "true"])).expect(2);
        beside.cluster.cli(&beside.args(&["-w", "relative", "--", "true"])).expect(2);
    }
}
