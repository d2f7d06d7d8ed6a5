//! What an agent takes of memory: idle, with GPUs to watch, and for every task.

use super::cluster::{Cluster, job};
use super::table::{Sample, Table};
use std::fs;
use std::path::Path;
use std::time::Duration;

const TASKS: u32 = 50;
/// What is allocated at the start has been given back by then, and the first rounds of every timer have passed.
const SETTLE: Duration = Duration::from_secs(5);

pub async fn run(folder: &Path, table: &mut Table) {
    let cluster = Cluster::start(&folder.join("memory"), &["runtime = 'process'\ngpus = 'none'".to_owned()]).await;
    let agent = cluster.agents[0].id();
    tokio::time::sleep(SETTLE).await;
    let idle = resident_mb(agent);
    table.alone("agent, idle: resident memory", "MB", &Sample(vec![idle]));
    let id = cluster.submit(&job("many", "none", TASKS, "sleep 600")).await;
    let running = async {
        loop {
            let view = wharf::api::ControllerApi::get_job(&cluster.client, &cluster.who, &id.to_string(), None).await;
            if view.is_ok_and(|view| view.tasks_running == TASKS) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), running).await.expect("all tasks run");
    tokio::time::sleep(SETTLE).await;
    let per_task = (resident_mb(agent) - idle) / f64::from(TASKS);
    table.alone("agent, more per task", "MB", &Sample(vec![per_task]));
    let shims: Vec<f64> = children(agent, "wharf-shim").into_iter().map(resident_mb).collect();
    table.alone("shim: resident memory", "MB", &Sample(shims));
    cluster.stop(id).await;
    drop(cluster);
    let with_gpus = "runtime = 'process'\ngpus = 'sim:8xH100'".to_owned();
    let cluster = Cluster::start(&folder.join("memory-gpus"), &[with_gpus]).await;
    tokio::time::sleep(SETTLE).await;
    let resident = resident_mb(cluster.agents[0].id());
    table.alone("agent with 8 simulated GPUs, idle: resident memory", "MB", &Sample(vec![resident]));
}

/// VmRSS of a process, in MB of a million bytes.
fn resident_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("the kernel gives VmRSS");
    kilobytes * 1024.0 / 1e6
}

fn children(parent: u32, name: &str) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name)))
        .collect()
}
