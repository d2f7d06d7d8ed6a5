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
    let mut full = Cluster::start(&folder.join("full"), std::slice::from_ref(&node)).await;
    let mut empty = Cluster::start(&folder.join("empty"), &[node]).await;
    let id = full.submit(&job("many", "none", TASKS, "sleep 3600")).await;
    full.wait_running(id, TASKS).await;
    let (mut ours, mut theirs) = <(Sample, Sample)>::default();
    for _ in 0..rounds {
        ours.0.push(until_adopted(&mut full, TASKS as usize).await);
        theirs.0.push(until_adopted(&mut empty, 0).await);
    }
    table.pair("agent killed: start to 100 tasks taken over", "ms", &ours, "without tasks", &theirs);
    full.stop(id).await;
}

async fn until_adopted(cluster: &mut Cluster, tasks: usize) -> f64 {
    let started = cluster.crash_agent(0);
    let end = started + PATIENCE;
    loop {
        if answers(cluster, tasks).await {
            return started.elapsed().as_secs_f64() * 1e3;
        }
        assert!(Instant::now() < end, "not taken over: {}", cluster.log_of_agent(0));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// It tells of so many tasks, and has looked at each.
async fn answers(cluster: &Cluster, tasks: usize) -> bool {
    if cluster.log_of_agent(0).lines().filter(|line| line.contains("taken over")).count() < tasks {
        return false;
    }
    let client = AgentClient::new(&cluster.address_of_agent(0)).expect("the address is one");
    client.list_tasks(&cluster.who, PAGE, "").await.is_ok_and(|(shown, _)| shown.len() == tasks)
}
