//! How long a restarted agent needs to take over all its tasks, beside one that has none.

use super::cluster::{Cluster, job};
use super::table::{Sample, Table};
use std::path::Path;
use std::time::{Duration, Instant};
use wharf::api::AgentApi;
use wharf::rpc::AgentClient;

const TASKS: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// A page of ListTasks that holds them all.
const PAGE: u32 = 500;

/// From the start of the program to all tasks taken over and told to whoever asks; in turns, after kills.
pub async fn run(folder: &Path, rounds: usize, table: &mut Table) {
    let node = "runtime = 'process'\ngpus = 'none'".to_owned();
    let mut cluster = Cluster::start(&folder.join("adoption"), &[node.clone(), node]).await;
    let id = cluster.submit(&job("many", "none", TASKS, "sleep 3600")).await;
    cluster.wait_running(id, TASKS).await;
    // Tasks are packed: one node has them all, and the other none.
    let full = if answers(&cluster, 0, 0).await { 1 } else { 0 };
    let (mut ours, mut theirs) = <(Sample, Sample)>::default();
    for _ in 0..rounds {
        ours.0.push(until_adopted(&mut cluster, full, TASKS as usize).await);
        theirs.0.push(until_adopted(&mut cluster, 1 - full, 0).await);
    }
    table.pair("agent killed: start to 100 tasks taken over", "ms", &ours, "without tasks", &theirs);
    cluster.stop(id).await;
}

async fn until_adopted(cluster: &mut Cluster, at: usize, tasks: usize) -> f64 {
    let started = cluster.crash_agent(at);
    let end = started + PATIENCE;
    loop {
        if answers(cluster, at, tasks).await {
            return started.elapsed().as_secs_f64() * 1e3;
        }
        assert!(Instant::now() < end, "not taken over: {}", cluster.log_of_agent(at));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// It tells of so many tasks, and has looked at each.
async fn answers(cluster: &Cluster, at: usize, tasks: usize) -> bool {
    if cluster.log_of_agent(at).lines().filter(|line| line.contains("taken over")).count() < tasks {
        return false;
    }
    let client = AgentClient::new(&cluster.address_of_agent(at)).expect("the address is one");
    client.list_tasks(&cluster.who, PAGE, "").await.is_ok_and(|(shown, _)| shown.len() == tasks)
}
