//! Somebody sets the controller's clock, by an hour or a day, either way.

use super::cluster::{Cluster, history};
use super::jobs::{job, role, with};
use super::{failure, user};
use crate::api::ControllerApi;
use crate::domain::node::NodeChange;
use crate::domain::principal::{Principal, Role};
use crate::domain::run::{Phase, Verb};
use crate::store::flaky::{Failure, FlakyStore};
use crate::store::sqlite::SqliteStore;
use crate::telemetry::clock::Clock;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const HOUR: i64 = 3_600_000_000_000;
const STEPS: [i64; 4] = [HOUR, -HOUR, 24 * HOUR, -24 * HOUR];

async fn set_clock(cluster: &Cluster, by: i64) {
    let before = crate::controller::core::read(&cluster.controller.shared).looked_at;
    cluster.clock.set_now(Clock::now(&*cluster.clock).moved(by));
    let away = |c: &Cluster| crate::controller::core::read(&c.controller.shared).looked_at.0 - before.0;
    cluster.until("the step is noticed", |c| away(c).abs() > by.abs() / 2).await;
    cluster.some_ticks().await;
}

#[tokio::test]
async fn a_drain_is_as_long_as_it_was_given_and_ends_nothing_early() {
    let cluster = Cluster::new(&[("n1", 1), ("n2", 1)]).await;
    let operator = Principal { roles: vec![Role::Operator], ..user("olga") };
    let id = cluster.submit(&job("runs", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Running).await;
    let run = cluster.run(id);
    let node = run.tasks[0].seat.node.0.clone();
    let drain = NodeChange::Drain { reason: "fan".into(), deadline: Some(Duration::from_secs(600)) };
    let mut deadline =
        cluster.controller.change_node(&operator, &node, drain).await.unwrap().deadline.expect("it has one");
    for by in STEPS {
        set_clock(&cluster, by).await;
        deadline = deadline.moved(by);
        let shown = cluster.controller.describe_node(&user("ann"), &node).await.unwrap().node;
        assert_eq!((shown.deadline, shown.state.as_str()), (Some(deadline), "DRAINING"), "{by}");
        assert_eq!((cluster.run(id).id, cluster.phase(id)), (run.id, Phase::Running), "{by}");
    }
    cluster.clock.advance(Duration::from_secs(601));
    cluster.until("it is moved at its deadline", |c| c.run(id).id != run.id).await;
}

#[tokio::test]
async fn a_gang_that_is_prepared_is_not_late_and_a_back_off_not_longer() {
    let cluster = Cluster::new(&[("n1", 1)]).await;
    cluster.script(|script| _ = script.hangs.insert(Verb::Prepare));
    let id = cluster.submit(&job("slow", &[role("worker", 1, 1)])).await;
    cluster.until_phase(id, Phase::Preparing).await;
    for by in STEPS {
        set_clock(&cluster, by).await;
        assert_eq!((cluster.run(id).rollbacks, cluster.phase(id)), (0, Phase::Preparing), "{by}");
    }
    cluster.script(|script| script.hangs.clear());
    cluster.until_phase(id, Phase::Running).await;
    cluster.stop(id).await;
    cluster.until_ended(id).await;

    let again = cluster.submit(&with(job("again", &[role("worker", 1, 1)]), "retryCount", json!(3))).await;
    cluster.until_phase(again, Phase::Running).await;
    let first = cluster.run(again).id;
    cluster.end_tasks(again, &failure(1));
    cluster.until("it waits for its next run", |c| c.run(again).id != first).await;
    let left = |c: &Cluster| c.run(again).not_before.since(Clock::now(&*c.clock));
    let before = left(&cluster);
    for by in STEPS {
        set_clock(&cluster, by).await;
        assert!(left(&cluster) <= before, "{by}: {:?} were {before:?}", left(&cluster));
        if before > Duration::ZERO {
            assert_eq!((left(&cluster), cluster.phase(again)), (before, Phase::Waiting), "{by}");
        }
    }
    cluster.until_as_time_passes("it runs again", |c| c.phase(again) == Phase::Running).await;
}

#[tokio::test]
async fn a_step_that_the_store_does_not_take_at_first_is_taken_all_the_same() {
    for failure in [Failure::NotWritten, Failure::AnswerLost] {
        let inner = Arc::new(SqliteStore::open_in_memory().unwrap());
        let store = Arc::new(FlakyStore::new(inner, 0..=0, failure));
        let mut cluster = Cluster::on(store.clone(), history(), &[("n1", 1), ("n2", 1)]).await;
        let operator = Principal { roles: vec![Role::Operator], ..user("olga") };
        let id = cluster.submit(&job("runs", &[role("worker", 1, 1)])).await;
        cluster.until_phase(id, Phase::Running).await;
        let run = cluster.run(id);
        let node = run.tasks[0].seat.node.0.clone();
        let drain = NodeChange::Drain { reason: "fan".into(), deadline: Some(Duration::from_secs(600)) };
        let mut deadline =
            cluster.controller.change_node(&operator, &node, drain).await.unwrap().deadline.expect("it has one");
        for by in STEPS {
            cluster.some_ticks().await;
            let commits = store.commits();
            store.fail_next(failure);
            cluster.clock.set_now(Clock::now(&*cluster.clock).moved(by));
            cluster.until("the store has failed and was read anew", |_| store.commits() > commits + 1).await;
            cluster.some_ticks().await;
            deadline = deadline.moved(by);
            let shown = cluster.controller.describe_node(&user("ann"), &node).await.unwrap().node;
            assert_eq!(shown.deadline, Some(deadline), "{failure:?} {by}");
            assert_eq!((cluster.run(id).id, cluster.phase(id)), (run.id, Phase::Running), "{failure:?} {by}");
        }
        cluster.restart().await;
        let shown = cluster.controller.describe_node(&user("ann"), &node).await.unwrap().node;
        assert_eq!(shown.deadline, Some(deadline), "{failure:?}: the store has it");
    }
}
