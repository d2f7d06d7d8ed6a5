//! Nothing grows with uptime: memory, descriptors, threads and disk of an agent and its controller are the same in the
//! middle and at the end of many short tasks.

use crate::harness::docker::Dockerd;
use crate::harness::job::with;
use crate::harness::proc::number;
use crate::harness::skip::is_long;
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Programs that submit side by side.
const SUBMITTERS: usize = 4;
/// Ended tasks and jobs that stay, so that what is kept is full long before the middle.
const KEPT: usize = 32;
/// What may be more at the end than in the middle, of each process.
const RSS_KB: u64 = 12 * 1024;
const DESCRIPTORS: u64 = 8;
/// Those for blocking work come and go; one that stayed for each task would be far more.
const THREADS: u64 = 32;
const DISK_KB: u64 = 8 * 1024;

/// What a daemon takes of its machine.
#[derive(Debug, Clone, Copy)]
struct Usage {
    rss_kb: u64,
    descriptors: u64,
    threads: u64,
    disk_kb: u64,
}

impl Usage {
    fn of(pid: i32, folder: &Path) -> Self {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs").count();
        Self {
            rss_kb: number(pid, "status", "VmRSS").expect("the daemon runs"),
            descriptors: open as u64,
            threads: number(pid, "status", "Threads").expect("the daemon runs"),
            disk_kb: blocks(folder) / 2,
        }
    }

    fn is_as_small_as(self, before: Self) -> bool {
        self.rss_kb <= before.rss_kb + RSS_KB
            && self.descriptors <= before.descriptors + DESCRIPTORS
            && self.threads <= before.threads + THREADS
            && self.disk_kb <= before.disk_kb + DISK_KB
    }
}

/// Of 512 bytes each, as the kernel counts them. Files may go while we look.
fn blocks(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => found.blocks() + blocks(&entry.path()),
        Ok(found) => found.blocks(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}

/// The agent's and the controller's.
fn usages(cluster: &Cluster) -> [Usage; 2] {
    let agent = Usage::of(cluster.agent_pid(0).expect("it runs"), &cluster.path("a0"));
    [agent, Usage::of(cluster.controller_pid().expect("it runs"), &cluster.path("c"))]
}

fn cluster(node: Node) -> Cluster {
    let node = Node { more: format!("{}keep_ended_tasks = {KEPT}\nlog_segment_mb = 1\n", node.more), ..node };
    Cluster::with(vec![node], &format!("keep_ended_jobs = {KEPT}\nevent_retention = 1000\n"))
}

/// Runs so many jobs to their end, several at a time; every task prints a little and succeeds.
fn run(cluster: &Cluster, file: &Value, jobs: usize) {
    let run_some = |first: usize| {
        for _ in (first..jobs).step_by(SUBMITTERS) {
            // Names are of unfinished jobs; each of these programs has one at a time.
            let id = cluster.submit(&with(file.clone(), &json!({ "jobName": format!("short-{first}") })));
            let shown = cluster.wait_end(&id);
            assert_eq!(shown["state"], "SUCCEEDED", "{shown}");
        }
    };
    std::thread::scope(|scope| {
        for first in 0..SUBMITTERS {
            scope.spawn(move || run_some(first));
        }
    });
    cluster.wait_idle();
}

/// Half of the jobs, a look, the other half, and a look again.
fn stays_flat(what: &str, cluster: &Cluster, file: &Value, jobs: usize) {
    run(cluster, file, jobs / 2);
    let kept = || fs::read_dir(cluster.path("a0/tasks")).expect("the agent has tasks").count();
    // It does not wait for its next round with that: a few more than are kept, and those that are being released.
    let collected = || (kept() <= KEPT + KEPT / 8 + SUBMITTERS * 32).then_some(());
    until("what is too much has gone", collected);
    let middle = usages(cluster);
    run(cluster, file, jobs - jobs / 2);
    until("what is too much has gone", collected);
    let told = |end: [Usage; 2]| {
        for (who, (middle, end)) in ["agent", "controller"].iter().zip(middle.iter().zip(end)) {
            eprintln!("{what}, {who}: in the middle {middle:?}, at the end {end:?}");
        }
    };
    told(usages(cluster));
    // What is in use for a moment is no growth.
    let flat = until("both take as much as in the middle", || {
        let end = usages(cluster);
        end.iter().zip(middle).all(|(end, middle)| end.is_as_small_as(middle)).then_some(end)
    });
    told(flat);
    let listed = cluster.json(&["jobs", "--all"]).as_array().map_or(0, Vec::len);
    assert!(listed <= KEPT + SUBMITTERS, "{listed} ended jobs are kept");
}

#[test]
fn many_short_processes_leave_agent_and_controller_as_they_were() {
    let (tasks, jobs) = if is_long() { (25, 400) } else { (25, 12) };
    if !is_long() {
        skip("short tasks beyond the first 300 of 10000", "the long suites run them all: tests/run all");
    }
    let cluster = cluster(Node::new("n0", "sim:8xH100"));
    let main = role("main", tasks, "echo out; echo err >&2");
    stays_flat(&format!("{} processes", jobs * tasks as usize), &cluster, &job("short", &[main]), jobs);
}

#[test]
fn many_containers_leave_agent_and_controller_as_they_were() {
    if !is_long() {
        return skip("300 containers one after the other", "the long suites run them: tests/run all");
    }
    let Some(dockerd) = Dockerd::get("300 containers one after the other") else { return };
    let node = Node {
        runtime: "docker".to_owned(),
        more: format!("docker_socket = '{}'\n", dockerd.socket().display()),
        ..Node::new("n0", "sim:8xH100")
    };
    let cluster = cluster(node);
    let main = role("main", 6, "echo out; echo err >&2");
    let file = with(job("short", &[main]), &json!({ "image": "wharf-test/busybox:1" }));
    stays_flat("300 containers", &cluster, &file, 50);
    let uids = cluster.node_uids().to_vec();
    for uid in &uids {
        let left = dockerd.docker(&["ps", "-aq", "--filter", &format!("label=wharf.node_uid={uid}")]);
        assert_eq!(left, "", "containers are left of node {uid}");
    }
}
