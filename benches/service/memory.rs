//! What an agent takes of memory: idle, with GPUs to watch, and for every task.

use super::cluster::{Cluster, job};
use super::table::{Sample, Table};
use std::fs;
use std::path::{Path, PathBuf};
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
    cluster.wait_running(id, TASKS).await;
    tokio::time::sleep(SETTLE).await;
    let per_task = (resident_mb(agent) - idle) / f64::from(TASKS);
    table.alone("agent, more per task", "MB", &Sample(vec![per_task]));
    let shims: Vec<f64> = children(agent, "wharf-shim").into_iter().map(resident_mb).collect();
    table.alone("shim: resident memory", "MB", &Sample(shims));
    cluster.stop(id).await;
    drop(cluster);
    if let Some(library) = mock_library() {
        let state = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/nvml/8xH100.json");
        let with_gpus = format!("runtime = 'process'\ngpus = 'nvml'\nnvml_library = '{}'", library.display());
        let cluster = Cluster::start_with(&folder.join("mock"), &[with_gpus], &[("WHARF_MOCK_NVML", state)]).await;
        tokio::time::sleep(SETTLE).await;
        let agent = cluster.agents[0].id();
        table.alone("agent with 8 mock GPUs, idle: resident memory", "MB", &Sample(vec![resident_mb(agent)]));
        let workers: Vec<f64> = children(agent, "wharf").into_iter().map(resident_mb).collect();
        table.alone("its GPU worker: resident memory", "MB", &Sample(workers));
    }
}

/// The mock of the driver's library, where `cargo build --release --example mock-nvml` puts it.
fn mock_library() -> Option<PathBuf> {
    let library = Path::new(super::cluster::PROGRAM).parent()?.join("examples/libmock_nvml.so");
    if !library.exists() {
        eprintln!("without mock GPUs: first run cargo build --release --example mock-nvml");
        return None;
    }
    Some(library)
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
