//! A dockerd that restarts, hangs or is not there yet, under a whole cluster: what runs goes on, what is to end ends, what
//! ends with it is not held against the job, and nothing is left of either.

use crate::harness::docker::Dockerd;
use crate::harness::job::{ended, with};
use crate::harness::moments::{counting, goes_on, moments, one_at_a_time, printed, saw_all, uptime_s};
use crate::harness::skip::is_long;
use crate::harness::wait::until_within;
use crate::harness::{Cluster, Node, job, role, skip, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// One node with containers, and a folder that its tasks share with the test.
struct Site {
    // Dropped in this order: what runs in containers goes with the cluster, or is removed by dockerd.
    cluster: Cluster,
    dockerd: Dockerd,
    shared: tempfile::TempDir,
}

impl Site {
    fn start(dockerd: Dockerd) -> Self {
        let shared = tempfile::tempdir().expect("a folder of ours");
        fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
        let cluster = Cluster::with(vec![node(dockerd.socket(), shared.path())], "");
        Self { cluster, dockerd, shared }
    }

    fn folder(&self) -> &Path {
        self.shared.path()
    }

    fn submit(&self, name: &str, command: &str) -> String {
        self.cluster.submit(&contained(name, command, self.folder()))
    }

    /// A job that counts, with a GPU that shows whether it is let go of.
    fn count(&self, name: &str, code: u32) -> String {
        self.submit(name, &counting("$PAI_OUTPUT_DIR", name, code))
    }

    fn touch(&self, name: &str) {
        fs::write(self.folder().join(name), "").expect("the folder is ours");
    }

    fn goes_on(&self, name: &str, more: usize) {
        goes_on(self.folder(), name, more);
    }

    /// Waits until neither a GPU nor a container is held.
    fn wait_nothing_left(&self) {
        self.cluster.wait_idle();
        let label = format!("label=wharf.node_uid={}", self.cluster.node_uids()[0]);
        until("no container is left", || {
            self.dockerd.docker(&["ps", "-aq", "--filter", &label]).is_empty().then_some(())
        });
    }

    /// Waits until the history of a job says so.
    fn wait_told(&self, id: &str, part: &str) {
        until(&format!("it is told that {part}"), || {
            let events = self.cluster.cli(&["--json", "events", "--job", id]).expect(0).json_lines();
            events.iter().any(|event| event["message"].as_str().is_some_and(|why| why.contains(part))).then_some(())
        });
    }
}

fn node(socket: &Path, shared: &Path) -> Node {
    Node {
        runtime: "docker".to_owned(),
        more: format!("docker_socket = '{}'\njob_dirs = ['{}']\n", socket.display(), shared.display()),
        ..Node::new("n0", "sim:4xH100")
    }
}

fn contained(name: &str, command: &str, shared: &Path) -> Value {
    let task = with(role("main", 1, command), &json!({ "gpuNumber": 1 }));
    with(job(name, &[task]), &json!({ "image": "wharf-test/busybox:1", "outputDir": shared }))
}

#[test]
fn dockerd_restarts_and_nothing_dies() {
    let Some(dockerd) = Dockerd::own("dockerd: a restart with live-restore") else { return };
    let site = Site::start(dockerd);
    let (lives, ends, stopped) = (site.count("lives", 3), site.count("ends", 4), site.count("stopped", 0));
    ["lives", "ends", "stopped"].into_iter().for_each(|name| site.goes_on(name, 2));
    let follower = site.cluster.spawn(&["logs", &lives, "--follow"]);
    site.dockerd.stop();
    // Ends are told and asked for without it.
    site.touch("ends.stop");
    assert_eq!(site.cluster.wait_end(&ends)["exit"]["code"], 4);
    site.cluster.cli(&["stop", &stopped]).expect(0);
    assert_eq!(site.cluster.wait_end(&stopped)["state"], "STOPPED");
    site.goes_on("lives", 5);
    site.dockerd.start_again();
    site.goes_on("lives", 5);
    site.dockerd.kill();
    site.goes_on("lives", 5);
    site.dockerd.start_again();
    assert_eq!(site.cluster.cli(&["exec", &lives, "--", "echo", "here"]).expect(0).text(), "here\n");
    let late = site.submit("late", "true");
    assert_eq!(site.cluster.wait_end(&late)["state"], "SUCCEEDED");
    site.touch("lives.stop");
    let shown = site.cluster.wait_end(&lives);
    assert_eq!((&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)), (&json!(3), Some(1)), "{shown}");
    ["lives", "ends", "stopped"].into_iter().for_each(|name| assert_eq!(one_at_a_time(site.folder(), name).len(), 1));
    saw_all(site.folder(), "lives", follower);
    site.wait_nothing_left();
}

#[test]
fn what_ends_with_dockerd_is_run_again_and_not_counted() {
    let Some(dockerd) = Dockerd::mortal("dockerd: a restart without live-restore") else { return };
    let site = Site::start(dockerd);
    // No retry is the job's own.
    let id = site.count("moved", 5);
    for run in 0..2 {
        until("it runs", || {
            let moments = moments(site.folder(), "moved");
            let run_id = site.cluster.show(&id)["run_id"].as_u64()?;
            (moments.last()?.0 == run_id && site.cluster.show(&id)["runs"].as_array()?.len() == run + 1).then_some(())
        });
        // Stopped, it ends its containers; killed, it does so when it begins again.
        if run == 0 {
            site.dockerd.stop()
        } else {
            site.dockerd.kill()
        }
        site.dockerd.start_again();
        let exit = until("its end is known", || {
            Some(site.cluster.show(&id)["runs"][run]["exit"].clone()).filter(|exit| !exit.is_null())
        });
        assert_eq!(exit["class"], "platform", "{exit}");
    }
    until("it runs for the third time", || {
        (site.cluster.show(&id)["runs"].as_array()?.len() == 3 && one_at_a_time(site.folder(), "moved").len() == 3)
            .then_some(())
    });
    site.touch("moved.stop");
    let shown = site.cluster.wait_end(&id);
    assert_eq!((&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)), (&json!(5), Some(3)), "{shown}");
    assert_eq!(one_at_a_time(site.folder(), "moved").len(), 3);
    site.wait_nothing_left();
}

#[test]
fn a_dockerd_that_hangs_holds_up_nothing_but_what_only_it_can_do() {
    let what = "dockerd: one that hangs";
    let Some(dockerd) = Dockerd::own(what) else { return };
    let hang_s = if is_long() { 60.0 } else { 12.0 };
    if !is_long() {
        skip("a dockerd that hangs for a minute", "12 s here; the long suites have it: tests/run all");
    }
    let site = Site::start(dockerd);
    let (lives, ends) = (site.count("lives", 7), site.count("ends", 6));
    let stubborn = format!("trap '' TERM; {}", counting("$PAI_OUTPUT_DIR", "stubborn", 0));
    let stubborn = site.submit("stubborn", &stubborn);
    ["lives", "ends", "stubborn"].into_iter().for_each(|name| site.goes_on(name, 2));
    site.dockerd.signal(Signal::SIGSTOP);
    let begin = uptime_s();
    site.cluster.cli(&["stop", &stubborn, "--grace", "1"]).expect(0);
    assert_eq!(site.cluster.wait_end(&stubborn)["state"], "STOPPED");
    let last = moments(site.folder(), "stubborn").last().expect("it wrote").2;
    assert!(last < begin + 1.0 + 2.0, "it was asked to end at {begin} and lived at {last}");
    site.touch("ends.stop");
    assert_eq!(site.cluster.wait_end(&ends)["exit"]["code"], 6);
    let late = site.submit("late", "true");
    until_within(Duration::from_secs(180), "it hangs for long", || {
        let shown = site.cluster.json(&["node", "show", "n0"]);
        assert_eq!(shown["state"], "READY", "heartbeats go on: {shown}");
        assert_eq!(site.cluster.show(&lives)["state"], "RUNNING");
        let tail = site.cluster.cli(&["logs", &lives, "--tail", "1"]).expect(0).text();
        assert!(tail.starts_with("line "), "{tail:?}");
        (uptime_s() > begin + hang_s).then_some(())
    });
    site.goes_on("lives", 5);
    let unheard = site.cluster.cli(&["--json", "events", "--node", "n0"]).expect(0).json_lines();
    assert!(unheard.iter().all(|event| event["kind"] != "node.unreachable"), "{unheard:?}");
    assert!(!ended(&site.cluster.show(&late)["state"]));
    site.dockerd.signal(Signal::SIGCONT);
    assert_eq!(site.cluster.wait_end(&late)["state"], "SUCCEEDED");
    site.touch("lives.stop");
    let shown = site.cluster.wait_end(&lives);
    assert_eq!((&shown["exit"]["code"], shown["runs"].as_array().map(Vec::len)), (&json!(7), Some(1)), "{shown}");
    assert_eq!(site.cluster.cli(&["logs", &lives]).expect(0).text(), printed(site.folder(), "lives"));
    site.wait_nothing_left();
}

#[test]
fn a_dockerd_that_is_absent_is_waited_for_and_missed_aloud() {
    let Some(dockerd) = Dockerd::own("dockerd: absent at the agent's start") else { return };
    dockerd.stop();
    let site = Site::start(dockerd);
    let log = fs::read_to_string(site.cluster.path("agent0.log")).expect("it has written");
    assert!(log.contains("as soon as dockerd answers"), "{log}");
    let id = site.submit("waits", "true");
    site.wait_told(&id, "dockerd does not answer");
    assert!(!ended(&site.cluster.show(&id)["state"]));
    site.dockerd.start_again();
    let shown = site.cluster.wait_end(&id);
    assert_eq!((&shown["state"], shown["runs"].as_array().map(Vec::len)), (&json!("SUCCEEDED"), Some(1)), "{shown}");
    site.wait_nothing_left();
}
