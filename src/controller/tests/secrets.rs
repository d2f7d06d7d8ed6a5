//! What jobs keep to themselves: in records of their own, through restarts, to their tasks and no further.

use super::cluster::Cluster;
use super::jobs::{job, role, with};
use super::user;
use crate::api::{ControllerApi, RecordsApi};
use crate::controller::seal::SECRETS;
use crate::domain::run::Phase;
use crate::store::{Entry, Op, Range, Transaction};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const MARKER: &str = "the marker";

fn told() -> Value {
    let extras = json!({ "wharf": { "secrets": { "TOKEN": MARKER, "EMPTY": "" } } });
    with(with(job("told", &[role("worker", 1, 8)]), "extras", extras), "jobEnvs", json!({ "SHOWN": "1" }))
}

async fn all(cluster: &Cluster) -> Vec<Entry> {
    cluster.store.range(Range::prefix("")).await.unwrap().0
}

async fn commit(cluster: &Cluster, op: Op) {
    cluster.store.commit(Transaction { compares: Vec::new(), ops: vec![op] }).await.unwrap();
}

#[tokio::test]
async fn they_lie_apart_and_reach_the_task_after_a_restart() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    // There is no such node yet.
    let id = cluster.submit(&told()).await;
    cluster.restart().await;
    let encoded = STANDARD.encode(MARKER);
    let holding = |entry: &&Entry| {
        let text = String::from_utf8_lossy(&entry.value);
        text.contains(MARKER) || text.contains(&encoded)
    };
    let entries = all(&cluster).await;
    let keys: Vec<&str> = entries.iter().filter(holding).map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, [format!("{SECRETS}{id:020}")]);
    let file = cluster.controller.job_file(&user("ann"), "told").await.unwrap().unwrap();
    assert_eq!(
        String::from_utf8(file).unwrap(),
        told().to_string().replace(MARKER, "******").replace("\"EMPTY\":\"\"", "\"EMPTY\":\"******\"")
    );

    cluster.add(super::agent::Agent::new("n8", 8));
    cluster.until_phase(id, Phase::Running).await;
    cluster.agent("n8").see(|inner| {
        let secrets = inner.secrets.values().next().unwrap();
        let secrets: Vec<_> = secrets.iter().map(|(name, value)| (name.as_str(), value.reveal())).collect();
        assert_eq!(secrets, [("TOKEN", MARKER), ("EMPTY", "")]);
        let environment = inner.environments.values().next().unwrap();
        assert!(environment.iter().any(|(name, _)| name == "SHOWN"));
        assert!(!environment.iter().any(|(name, value)| name == "TOKEN" || name == "EMPTY" || value == MARKER));
    });
}

#[tokio::test]
async fn records_from_before_are_read_and_lose_what_is_to_be_sealed() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&job("old", &[role("worker", 1, 8)])).await;
    cluster.kill().await;
    // As a controller from before would have left it.
    let seed = "5a".repeat(64);
    let (secret, key) = (format!("{SECRETS}{id:020}"), format!("job/{id:020}"));
    let mut record: Value = serde_json::from_slice(&cluster.store.get(&key).await.unwrap().unwrap().value).unwrap();
    record["ssh"] = json!(seed);
    commit(&cluster, Op::Put { key: key.clone(), value: record.to_string().into_bytes() }).await;
    commit(&cluster, Op::Delete { key: secret.clone() }).await;

    cluster.begin().await;
    let access = cluster.controller.ssh_access(&user("ann"), "old").await.unwrap();
    cluster.submit(&job("next", &[role("worker", 1, 8)])).await;
    let entries = all(&cluster).await;
    let with_seed = entries.iter().filter(|entry| String::from_utf8_lossy(&entry.value).contains(&seed));
    assert_eq!(with_seed.map(|entry| entry.key.as_str()).collect::<Vec<_>>(), [secret]);
    cluster.restart().await;
    assert_eq!(cluster.controller.ssh_access(&user("ann"), "old").await.unwrap(), access);
}

#[tokio::test]
async fn they_go_with_their_job_and_without_them_it_does_not_run() {
    let mut cluster = Cluster::new(&[("n1", 1)]).await;
    let id = cluster.submit(&told()).await;
    cluster.kill().await;
    let key = format!("{SECRETS}{id:020}");
    let kept = cluster.store.get(&key).await.unwrap().unwrap();
    commit(&cluster, Op::Delete { key: key.clone() }).await;
    let error = cluster.refusal().await;
    assert!(error.message.contains(&key) && error.message.contains("missing"), "{error}");
    commit(&cluster, Op::Put { key: key.clone(), value: kept.value }).await;
    cluster.keep_ended_jobs = 0;
    cluster.begin().await;
    // It may be gone before it can be shown.
    cluster.controller.stop_job(&user("ann"), &id.to_string(), None).await.ok();
    cluster.until_as_time_passes("it is forgotten", |c| c.state(id).is_empty()).await;
    while !cluster.keys().await.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
