//! `wharf ssh`, and `ssh` between the tasks of a job.

use crate::harness::docker::Dockerd;
use crate::harness::job::with;
use crate::harness::pty::OnTerminal;
use crate::harness::random::Random;
use crate::harness::{Cluster, Node, Output, Running, job, role, until};
use base64::Engine;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const SSHD: &str = "wharf-test/sshd:1";

/// Two nodes with containers. Tasks of one job reach each other in dockerd's network.
struct Containers {
    cluster: Cluster,
    /// For files of the client's.
    home: tempfile::TempDir,
    dockerd: Dockerd,
}

impl Drop for Containers {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Nobody may start others meanwhile.
            (0..2).for_each(|i| self.cluster.kill9_agent(i));
            self.dockerd.remove_of(self.cluster.node_uids());
        }
    }
}

impl Containers {
    /// `None` where there is no dockerd, or no OpenSSH to make an image of.
    fn start(what: &str) -> Option<Self> {
        let dockerd = Dockerd::get(what)?;
        if dockerd.docker(&["images", "-q", SSHD]).is_empty() {
            crate::harness::skip(what, "there is no image with an ssh server: it is made of Debian's openssh-server");
            return None;
        }
        let node = |name: &str| Node {
            runtime: "docker".to_owned(),
            more: format!("docker_socket = '{}'\n", dockerd.socket().display()),
            ..Node::new(name, "none")
        };
        let cluster = Cluster::with(vec![node("n0"), node("n1")], "");
        let home = tempfile::tempdir().expect("a temporary folder can be made");
        Some(Self { cluster, home, dockerd })
    }

    fn submit(&self, image: &str, command: &str) -> String {
        let extras = json!({ "wharf": { "secrets": { "TOKEN": "hidden  one" } } });
        let environment = json!({ "GREETING": "two\nlines  'n $HOME" });
        let fields = json!({ "image": image, "jobEnvs": environment, "extras": extras });
        let id = self.cluster.submit(&with(job("host", &[role("worker", 2, command)]), &fields));
        self.cluster.wait_running(&id);
        id
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.cluster.command(args);
        command.env("XDG_RUNTIME_DIR", self.home.path());
        command
    }

    fn ssh(&self, job: &str, index: &str, more: &[&str]) -> Output {
        let to = ["ssh", job, "--role", "worker", "--index", index];
        Running::start(self.command(&[&to[..], more].concat())).finish()
    }

    /// No session has left a key.
    fn assert_no_key_left(&self) {
        let left: Vec<_> =
            fs::read_dir(self.home.path()).expect("it is ours").flatten().map(|e| e.file_name()).collect();
        assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("wharf-ssh-")), "{left:?}");
    }
}

#[test]
fn tasks_reach_each_other_by_their_names() {
    let Some(containers) = Containers::start("ssh between tasks") else { return };
    for (image, uid) in [(SSHD, "0"), ("wharf-test/sshd-user:1", "1000")] {
        let ask = "ssh worker-0 'echo $PAI_CURRENT_TASK_ROLE_NAME $PAI_TASK_INDEX $WHARF_JOB_ID $(id -u) \
                   \"$GREETING\" \"$TOKEN\"; exit 5'; echo code $?";
        let command = format!("if [ $PAI_TASK_INDEX = 1 ]; then {ask}; fi; sleep 600");
        let id = containers.submit(image, &command);
        let said = until("worker 1 was answered", || {
            let said = containers.cluster.cli(&["logs", &id, "--role", "worker", "--index", "1"]).text();
            said.contains("code ").then_some(said)
        });
        assert_eq!(said, format!("worker 0 {id} {uid} two\nlines  'n $HOME hidden  one\ncode 5\n"), "{image}");
        containers.cluster.cli(&["stop", &id]).expect(0);
        containers.cluster.wait_end(&id);
    }
}

#[test]
fn a_session_from_outside_has_the_tasks_environment() {
    let Some(containers) = Containers::start("wharf ssh into containers with an ssh server") else { return };
    for (image, user) in [(SSHD, "0 root"), ("wharf-test/sshd-user:1", "1000 ada")] {
        let id = containers.submit(image, "sleep 600");
        let asked =
            "echo $WHARF_JOB_ID $PAI_TASK_INDEX $(id -u) $USER; echo \"$GREETING $TOKEN\"; echo no >&2; exit 3";
        let output = containers.ssh(&id, "1", &["--", asked]).expect(3);
        assert_eq!(output.text(), format!("{id} 1 {user}\ntwo\nlines  'n $HOME hidden  one\n"), "{image}");
        assert_eq!(output.errors(), "no\n", "ssh talks to the image's server and says nothing of its own");
        containers.assert_no_key_left();
        containers.cluster.cli(&["stop", &id]).expect(0);
        containers.cluster.wait_end(&id);
    }
}

#[test]
fn a_session_takes_bytes_keys_and_sizes() {
    let Some(containers) = Containers::start("wharf ssh with a terminal") else { return };
    let id = containers.submit(SSHD, "sleep 600");
    let input = Random::new(5).bytes(5 << 20);
    let to = ["ssh", &id, "--role", "worker", "--index", "0"];
    let mut running = Running::start(containers.command(&[&to[..], &["--", "cat"]].concat()));
    running.feed(&input);
    let output = running.finish().expect(0);
    assert!(output.stdout == input, "{} of {} bytes", output.stdout.len(), input.len());
    let mut terminal = OnTerminal::start(containers.command(&to), (33, 111));
    terminal.type_keys("stty size; echo in job $WHARF_JOB_ID\n");
    terminal.wait("33 111");
    terminal.wait(&format!("in job {id}"));
    terminal.resize((44, 122));
    terminal.type_keys("until [ \"$(stty size)\" = '44 122' ]; do sleep 0.05; done; echo re''sized\n");
    terminal.wait("resized");
    terminal.type_keys("exit 4\n");
    assert_eq!(terminal.end(), 4, "{}", terminal.seen());
    assert!(terminal.is_restored());
    containers.assert_no_key_left();
}

#[test]
fn a_configuration_serves_ssh_and_scp() {
    let Some(containers) = Containers::start("wharf ssh --config") else { return };
    let id = containers.submit(SSHD, "sleep 600");
    let printed = Running::start(containers.command(&["ssh", &id, "--config"])).finish().expect(0);
    let file = containers.home.path().join("it's 100%.conf");
    fs::write(&file, &printed.stdout).expect("it is ours");
    let program = |name: &str| {
        let mut command = Command::new(name);
        command.arg("-F").arg(&file);
        command
    };
    let mut ssh = program("ssh");
    ssh.args(["worker-1", "echo $PAI_TASK_INDEX; exit 6"]);
    assert_eq!(Running::start(ssh).finish().expect(6).text(), "1\n");
    let (here, back) = (containers.home.path().join("here"), containers.home.path().join("back"));
    let content = Random::new(6).bytes(1 << 20);
    fs::write(&here, &content).expect("it is ours");
    let mut there = program("scp");
    there.arg("-q").arg(&here).arg("worker-0:/tmp/there");
    Running::start(there).finish().expect(0);
    let mut again = program("scp");
    again.args(["-q", "worker-0:/tmp/there"]).arg(&back);
    Running::start(again).finish().expect(0);
    assert!(fs::read(&back).expect("it came") == content);
    // A host of another key is not talked to.
    let known = containers.home.path().join("wharf/ssh");
    let folder = fs::read_dir(known).expect("it was made").flatten().next().expect("one job").path();
    let other = format!(
        "wharf-job-{id} ssh-ed25519 {}\n",
        base64::engine::general_purpose::STANDARD
            .encode([&b"\0\0\0\x0bssh-ed25519\0\0\0\x20"[..], &[7; 32]].concat())
    );
    fs::write(folder.join("known_hosts"), other).expect("it is ours");
    let mut deceived = program("ssh");
    deceived.args(["worker-1", "true"]);
    Running::start(deceived).finish().expect(255);
}

#[test]
fn without_an_ssh_server_exec_does_it() {
    let check = |cluster: &Cluster, id: &str, why: &str| {
        let to = ["ssh", id, "--role", "worker", "--index", "1"];
        let asked = [&to[..], &["--", "echo", "$WHARF_JOB_ID;", "cat;", "exit", "3"]].concat();
        let output = cluster.cli_with(&asked, b"typed\n").expect(3);
        assert_eq!(output.text(), format!("{id}\ntyped\n"));
        assert!(output.errors().contains(why) && output.errors().contains("wharf exec"), "{}", output.errors());
        let mut terminal = OnTerminal::start(cluster.command(&to), (33, 111));
        terminal.type_keys("stty size\n");
        terminal.wait("33 111");
        terminal.type_keys("exit 4\n");
        assert_eq!(terminal.end(), 4, "{}", terminal.seen());
        let refused = cluster.cli(&["ssh", id, "--config"]).expect(1);
        assert!(refused.errors().contains(why), "{}", refused.errors());
    };
    let cluster = Cluster::start(&["none"]);
    let id = cluster.submit(&job("host", &[role("worker", 2, "sleep 600")]));
    cluster.wait_running(&id);
    check(&cluster, &id, "no container");
    let Some(containers) = Containers::start("wharf ssh into containers without an ssh server") else { return };
    let id = containers.submit("wharf-test/busybox:1", "sleep 600");
    check(&containers.cluster, &id, "the image has no ssh server");
    containers.cluster.cli(&["stop", &id]).expect(0);
    containers.cluster.wait_end(&id);
    // A server that cannot start there is as good as none.
    let fields = json!({ "image": SSHD, "extras": { "wharf": { "container": { "readOnlyRoot": true } } } });
    let id = containers.cluster.submit(&with(job("host", &[role("worker", 2, "sleep 600")]), &fields));
    containers.cluster.wait_running(&id);
    check(&containers.cluster, &id, "/run/sshd");
}

#[test]
fn keys_are_for_the_owner_and_nowhere_else() {
    let Some(containers) = Containers::start("where keys are to be seen") else { return };
    let cluster = &containers.cluster;
    let id = containers.submit(SSHD, "env; sleep 600");
    until("the image's server listens", || {
        let up = ["exec", &id, "--role", "worker", "--index", "0", "--", "sh", "-c", "ps | grep -c '[s]shd:'"];
        (cluster.cli(&up).text().trim() == "1").then_some(())
    });
    for command in
        [["ssh", &id, "--config"].as_slice(), &["ssh", &id, "--role", "worker", "--index", "0", "--", "true"]]
    {
        cluster.cli(&[&["--as-user", "mallory"], command].concat()).expect(4);
    }
    Running::start(containers.command(&["ssh", &id, "--config"])).finish().expect(0);
    let kept = fs::read_dir(containers.home.path().join("wharf/ssh")).expect("it was made").flatten().next();
    let key = fs::read_to_string(kept.expect("one job").path().join("id")).expect("the key");
    let bytes: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&bytes).expect("it is base64");
    // The secret stands before the second copy of the public half and the comment.
    let public = &bytes[62..94];
    let at = bytes.windows(32).rposition(|window| window == public).expect("the public half") - 32;
    let hex: String = bytes[at..at + 32].iter().map(|byte| format!("{byte:02x}")).collect();
    let needles = [hex, key.lines().nth(2).expect("a line of the key").to_owned(), "WHARF_SSH_SEED".to_owned()];
    let clean = |what: &str, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        assert!(!needles.iter().any(|needle| text.contains(needle)), "{what} tells the key");
    };
    let exec = ["exec", &id, "--role", "worker", "--index", "0", "--", "env"];
    for command in [
        ["--json", "job", "show", &id].as_slice(),
        &["job", "show", &id],
        &["--json", "jobs", "--all"],
        &["--json", "job", "explain", &id],
        &["--json", "events"],
        &["--json", "nodes"],
        &["logs", &id],
        &exec,
    ] {
        clean(&format!("{command:?}"), &cluster.cli(command).expect(0).stdout);
    }
    let uids: Vec<String> = cluster.node_uids().iter().map(|uid| format!("label=wharf.node_uid={uid}")).collect();
    for label in &uids {
        for container in containers.dockerd.docker(&["ps", "-aq", "--filter", label]).split_whitespace() {
            clean("docker inspect", containers.dockerd.docker(&["inspect", container]).as_bytes());
            clean("docker logs", containers.dockerd.docker(&["logs", container]).as_bytes());
        }
    }
    let mut seen = 0;
    let mut files = vec![cluster.folder().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            // What the containers see.
            let allowed = path.ends_with("mount/ssh");
            files.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()).filter(|_| !allowed));
        } else if path.is_file() {
            seen += 1;
            clean(&path.display().to_string(), &fs::read(&path).unwrap_or_default());
        }
    }
    assert!(seen > 10, "only {seen} files");
    let private = |folder: &Path| find(folder, "host_key").len();
    assert_eq!(private(cluster.folder()), 2, "one for each task");
    cluster.cli(&["stop", &id]).expect(0);
    let shown: Value = cluster.wait_end(&id);
    assert_eq!(shown["state"], "STOPPED");
    until("the keys go with the tasks", || (private(cluster.folder()) == 0).then_some(()));
}

fn find(folder: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for path in fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if path.ends_with(name) {
                found.push(path);
            }
        }
    }
    found
}
