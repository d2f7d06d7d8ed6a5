//! A new process of the agent on the same journal and machine.

use super::{Node, header, me, spec, task, tuning};
use crate::api::AgentApi;
use crate::domain::command::ErrorKind;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::gpu::GpuState;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::runtime::{Adopted, Recorded, Records};
use crate::store::{Op, Store, Transaction};
use crate::telemetry::clock::Clock;
use std::time::Duration;

async fn prepared(node: &Node, index: u32, gpu: &str) {
    node.agent.prepare(header(1), spec(task(index), &[gpu])).await.unwrap();
}

async fn running(node: &Node, index: u32, gpu: &str) {
    prepared(node, index, gpu).await;
    node.agent.launch(header(1), task(index), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(index), TaskState::Running).await;
}

#[tokio::test]
async fn at_the_barrier_it_is_still_held_and_can_be_launched() {
    let mut node = Node::new().await;
    prepared(&node, 0, "GPU-0").await;
    let before = node.agent.get_node(&me()).await.unwrap();
    node.restart().await;
    let after = node.agent.get_node(&me()).await.unwrap();
    assert_eq!((after.node_uid, after.journal_id), (before.node_uid, before.journal_id));
    assert_eq!(after.gpus[0].state, GpuState::Held);
    let error = node.agent.prepare(header(1), spec(task(1), &["GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(0), TaskState::Running).await;
    assert_eq!(node.machine.count("prepare", task(0)), 1);
    node.end().await;
}

#[tokio::test]
async fn a_port_that_was_taken_before_go_gives_the_task_back() {
    let mut node = Node::new().await;
    let port = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    node.agent.prepare(header(1), super::with_port(spec(task(0), &["GPU-0"]), port)).await.unwrap();
    node.end().await;
    let thief = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    node.begin().await;
    let exit = node.until(task(0), TaskState::Failed).await.exit.unwrap();
    assert_eq!((exit.class, exit.busy_ports), (ExitClass::Platform, vec![port]), "{}", exit.reason);
    let refused = node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap_err();
    assert_eq!(refused.busy_ports, [port], "{refused:?}");
    node.agent.release(header(1), task(0)).await.unwrap();
    drop(thief);
    node.end().await;
}

#[tokio::test]
async fn running_tasks_go_on_and_ends_are_found() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    running(&node, 1, "GPU-1").await;
    node.end().await;
    let exit = Exit { code: Some(3), ..Exit::without_status(ExitClass::User, "status 3") };
    node.machine.put(task(1), Adopted::Ended { started_at: None, at: Timestamp(8), exit: exit.clone() });
    node.begin().await;
    assert_eq!(node.until(task(0), TaskState::Running).await.state, TaskState::Running);
    assert_eq!(node.until(task(1), TaskState::Failed).await.exit, Some(exit));
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    node.until(task(0), TaskState::Stopped).await;
    node.end().await;
}

#[tokio::test]
async fn interrupted_staging_and_preparing_are_taken_up_again() {
    let mut node = Node::new().await;
    node.machine.hang("stage", task(0));
    node.machine.hang("prepare", task(1));
    let mut hasty = header(1);
    hasty.deadline_ms = 20;
    let late = [
        node.agent.stage(hasty.clone(), spec(task(0), &[])).await.unwrap_err(),
        node.agent.prepare(hasty, spec(task(1), &["GPU-0"])).await.unwrap_err(),
    ];
    assert!(late.iter().all(|error| error.kind == ErrorKind::DeadlineExceeded));
    node.end().await;
    node.machine.unhang();
    node.begin().await;
    node.until(task(0), TaskState::Waiting).await;
    node.until(task(1), TaskState::Ready).await;
    node.end().await;
}

#[tokio::test]
async fn an_interrupted_removal_is_finished() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    node.machine.fail("remove", "device or resource busy", false);
    let mut hasty = header(1);
    hasty.deadline_ms = 100;
    assert_eq!(node.agent.release(hasty, task(0)).await.unwrap_err().kind, ErrorKind::DeadlineExceeded);
    assert!(node.until(task(0), TaskState::Stopped).await.holding);
    node.end().await;
    node.machine.mend();
    node.begin().await;
    assert!(!node.agent.release(header(1), task(0)).await.unwrap().holding);
    assert!(!node.machine.has(task(0)));
    node.end().await;
}

#[tokio::test]
async fn a_stop_is_told_again() {
    let mut node = Node::new().await;
    node.machine.set_stubborn();
    running(&node, 0, "GPU-0").await;
    node.agent.stop(header(1), task(0), 500).await.unwrap();
    node.restart().await;
    node.until_status(task(0), "the stop is told twice", |_| node.machine.count("stop", task(0)) >= 2).await;
    assert_eq!(node.until(task(0), TaskState::Stopping).await.state, TaskState::Stopping);
    node.end().await;
}

#[tokio::test]
async fn what_is_not_in_the_journal_is_removed() {
    let mut node = Node::new().await;
    node.end().await;
    node.machine.put(task(7), Adopted::Running { started_at: Timestamp(1) });
    node.begin().await;
    super::eventually("it is removed", || !node.machine.has(task(7))).await;
    super::eventually("a tombstone is written", || node.store.text("task/1.1.0.7").is_some()).await;
    assert!(node.store.text("task/1.1.0.7").unwrap().contains("without a record"));
    assert_eq!(node.status(task(7)).await, None);
    node.end().await;
}

/// The journal as it is after it was lost: another file, empty.
fn lose_journal(node: &mut Node) {
    node.store = std::sync::Arc::default();
}

#[tokio::test]
async fn what_the_journal_has_lost_is_taken_over_from_what_lies_beside_the_tasks() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    prepared(&node, 1, "GPU-1").await;
    let before = node.agent.get_node(&me()).await.unwrap();
    node.end().await;
    lose_journal(&mut node);
    let recorded = |index, gpu: &str, started_at| Recorded {
        spec: spec(task(index), &[gpu]),
        generation: header(1).generation,
        started_at,
        present: true,
    };
    let exit = Exit { code: Some(3), ..Exit::without_status(ExitClass::User, "status 3") };
    node.machine.put(task(2), Adopted::Ended { started_at: None, at: Timestamp(8), exit: exit.clone() });
    let ended = Recorded { present: false, ..recorded(2, "GPU-0", Some(Timestamp(3))) };
    node.machine.set_recorded(vec![recorded(0, "GPU-0", Some(Timestamp(1))), recorded(1, "GPU-1", None), ended]);
    node.begin().await;
    let status = node.until(task(0), TaskState::Running).await;
    assert!(status.holding && status.notices.iter().any(|notice| notice.contains("journal")), "{status:?}");
    // Whether it had passed its checks is not known.
    let never_launched = node.until(task(1), TaskState::Failed).await.exit.unwrap();
    assert_eq!(never_launched.class, ExitClass::Platform);
    let ended = node.until(task(2), TaskState::Failed).await;
    assert_eq!((ended.exit, ended.holding), (Some(exit), false));
    let after = node.agent.get_node(&me()).await.unwrap();
    assert_ne!(after.journal_id, before.journal_id, "another history is told");
    // Obeyed as ever, and durable: the next start finds nothing lost.
    assert_eq!(node.machine.count("remove", task(0)), 0);
    node.restart().await;
    assert_eq!(node.agent.get_node(&me()).await.unwrap().journal_id, after.journal_id);
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    node.until(task(0), TaskState::Stopped).await;
    for index in 0..3 {
        assert!(!node.agent.release(header(1), task(index)).await.unwrap().holding);
    }
    node.end().await;
}

fn of_first(gpu: &str) -> Recorded {
    Recorded {
        spec: spec(task(0), &[gpu]),
        generation: header(1).generation,
        started_at: Some(Timestamp(1)),
        present: true,
    }
}

#[tokio::test]
async fn a_task_whose_records_cannot_be_read_is_left_alone_until_they_can() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    node.end().await;
    lose_journal(&mut node);
    let unread = [0, 9].map(|index| (task(index), "input/output error".to_owned())).into();
    node.machine.put(task(9), Adopted::Running { started_at: Timestamp(1) });
    node.machine.put(task(7), Adopted::Running { started_at: Timestamp(1) });
    node.machine.set_records(Records { found: Vec::new(), unread });
    node.begin().await;
    super::eventually("what is nobody's is removed", || !node.machine.has(task(7))).await;
    // Nothing may follow from a list without them, and nothing is done to them.
    let unlisted = node.agent.list_tasks(&me(), 0, "").await.unwrap_err();
    assert!(unlisted.message.contains("1.1.0.0 (input/output error)"), "{unlisted}");
    for refused in [
        node.agent.stop(header(1), task(0), 0).await,
        node.agent.release(header(1), task(0)).await,
        node.agent.prepare(header(2), spec(task(0), &["GPU-0"])).await,
    ] {
        let refused = refused.unwrap_err();
        assert!(refused.kind == ErrorKind::Unavailable && refused.message.contains("records"), "{refused}");
    }
    assert_eq!([0, 9].map(|index| node.machine.count("remove", task(index))), [0, 0]);
    // One can be read again; the other one was given up by somebody who took its folder away.
    node.machine.set_recorded(vec![of_first("GPU-0")]);
    super::eventually("it is given up", || !node.machine.has(task(9))).await;
    let status = node.until(task(0), TaskState::Running).await;
    assert!(status.holding && status.generation == header(1).generation, "{status:?}");
    assert_eq!(node.machine.count("remove", task(0)), 0);
    node.restart().await;
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    node.until(task(0), TaskState::Stopped).await;
    assert!(!node.agent.release(header(1), task(0)).await.unwrap().holding);
    node.end().await;
}

#[tokio::test]
async fn a_record_of_the_journal_that_makes_no_sense_is_made_again() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    running(&node, 1, "GPU-1").await;
    node.end().await;
    let cut = Op::Put { key: "task/1.1.0.0".into(), value: b"{\"sequence\": 3, \"rec".into() };
    node.store.commit(Transaction { compares: Vec::new(), ops: vec![cut] }).await.unwrap();
    node.machine.set_recorded(vec![of_first("GPU-0")]);
    node.begin().await;
    let status = node.until(task(0), TaskState::Running).await;
    assert!(status.notices.iter().any(|notice| notice.contains("journal")), "{status:?}");
    let other = node.until(task(1), TaskState::Running).await;
    assert!(other.notices.iter().all(|notice| !notice.contains("journal")), "{other:?}");
    assert_eq!(node.store.text("damaged/task/1.1.0.0").unwrap(), "{\"sequence\": 3, \"rec");
    super::eventually("it is on record again", || {
        node.store.text("task/1.1.0.0").is_some_and(|record| record.contains("RUNNING"))
    })
    .await;
    node.end().await;
}

#[tokio::test]
async fn commands_wait_for_a_runtime_that_does_not_say_what_is_there() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    node.end().await;
    node.machine.hang("adopt", task(0));
    let machine = node.machine.clone();
    // The start itself waits a while for what it takes over.
    let mend = async move {
        while machine.count("adopt", task(0)) < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        machine.unhang();
    };
    tokio::join!(node.begin(), mend);
    assert_eq!(node.until(task(0), TaskState::Running).await.state, TaskState::Running);
    node.end().await;
}

#[tokio::test]
async fn ended_tasks_are_forgotten_in_time() {
    let mut short = tuning();
    short.keep_ended = Duration::ZERO;
    let mut node = Node::with(None, short).await;
    prepared(&node, 0, "GPU-0").await;
    node.agent.release(header(1), task(0)).await.unwrap();
    let purged = || node.store.text("task/1.1.0.0").is_some_and(|record| record.contains("\"purged\":true"));
    super::eventually("the log is deleted, on record", purged).await;
    node.restart().await;
    assert_eq!(node.agent.prepare(header(1), spec(task(0), &[])).await.unwrap_err().kind, ErrorKind::Stale);
    assert_eq!(node.agent.prepare(header(2), spec(task(0), &[])).await.unwrap().state, TaskState::Ready);
    assert_eq!(node.machine.count("purge", task(0)), 1);
    node.end().await;
}

#[tokio::test]
async fn a_log_is_kept_from_the_release_on_however_long_ago_the_task_ended() {
    let mut node = Node::with(None, super::Tuning { keep_ended: Duration::from_secs(3600), ..tuning() }).await;
    node.machine.set_short();
    // The scripted machine says that both ended in 1970.
    for index in 0..2 {
        prepared(&node, index, "GPU-0").await;
        node.agent.launch(header(1), task(index), Vec::new(), TaskSecrets::default()).await.unwrap();
        node.until(task(index), TaskState::Succeeded).await;
        node.agent.release(header(1), task(index)).await.unwrap();
        node.clock.advance(Duration::from_secs(1801));
    }
    // One look finds both, so the log of the second was seen and left when that of the first is deleted.
    super::eventually("the first is purged", || node.machine.count("purge", task(0)) == 1).await;
    assert_eq!(node.machine.count("purge", task(1)), 0);
    node.end().await;
}

#[tokio::test]
async fn a_clock_that_is_set_makes_no_log_and_no_tombstone_older() {
    let mut node = Node::with(None, super::Tuning { keep_ended: Duration::from_secs(3600), ..tuning() }).await;
    prepared(&node, 0, "GPU-0").await;
    node.agent.release(header(1), task(0)).await.unwrap();
    let until = |node: &Node| {
        let record: serde_json::Value = serde_json::from_str(&node.store.text("task/1.1.0.0")?).ok()?;
        Timestamp::parse_rfc3339(record["record"]["tombstone_until"].as_str()?)
    };
    super::eventually("it is on record", || until(&node).is_some()).await;
    for hours in [1, -1, 24, -24, 48] {
        let (before, by) = (until(&node).unwrap(), hours * 3_600_000_000_000);
        node.clock.set_now(Clock::now(&*node.clock).moved(by));
        super::eventually("the tombstone moves along", || until(&node) == Some(before.moved(by))).await;
    }
    assert_eq!(node.machine.count("purge", task(0)), 0);
    node.clock.advance(Duration::from_secs(3601));
    super::eventually("it is purged in time", || node.machine.count("purge", task(0)) == 1).await;
    assert_eq!(node.agent.prepare(header(1), spec(task(0), &[])).await.unwrap_err().kind, ErrorKind::Stale);
    node.end().await;
}

#[tokio::test]
async fn a_take_over_that_breaks_is_tried_again() {
    let mut node = Node::new().await;
    running(&node, 0, "GPU-0").await;
    node.end().await;
    node.machine.panic("adopt", 2);
    node.begin().await;
    assert_eq!(node.until(task(0), TaskState::Running).await.id, task(0));
    node.machine.panic("stop", 2);
    node.machine.panic("remove", 2);
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    assert!(!node.agent.release(header(1), task(0)).await.unwrap().holding);
    assert!(!node.machine.has(task(0)));
    node.end().await;
}

#[tokio::test]
async fn released_tasks_leave_logs_within_a_budget_and_nothing_else() {
    const KIB: u64 = 1024;
    let mut node = Node::with(None, super::Tuning { max_log_bytes: 250 * KIB, ..tuning() }).await;
    let logs = tempfile::tempdir().unwrap();
    node.machine.set_logs(logs.path().to_owned());
    node.machine.fail("clear_work", "directory not empty", false);
    for index in 0..3 {
        let dir = logs.path().join(task(index).to_string());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("log.0"), vec![7; 100 * KIB as usize]).unwrap();
        running(&node, index, "GPU-0").await;
        // One after the other, by the clock too.
        node.clock.advance(Duration::from_secs(1));
        node.agent.release(header(1), task(index)).await.unwrap();
        super::eventually("it is cleared", || node.machine.count("clear_work", task(index)) == 1).await;
        node.machine.mend();
    }
    super::eventually("the oldest log is purged", || node.machine.count("purge", task(0)) == 1).await;
    node.restart().await;
    // Measured again, and cleared where that was interrupted.
    super::eventually("cleared again", || node.machine.count("clear_work", task(2)) == 2).await;
    let (agent, machine) = (node.agent.clone(), node.machine.clone());
    running(&node, 3, "GPU-0").await;
    let dir = logs.path().join(task(3).to_string());
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("log.0"), vec![7; 140 * KIB as usize]).unwrap();
    node.clock.advance(Duration::from_secs(1));
    agent.release(header(1), task(3)).await.unwrap();
    super::eventually("the next one too", || machine.count("purge", task(1)) == 1).await;
    assert_eq!([0, 2, 3].map(|index| machine.count("purge", task(index))), [1, 0, 0]);
    node.end().await;
}

/// Nearly full once for each time that the file `full` is put there.
fn full_once(folder: &std::path::Path) -> std::io::Result<crate::agent::pressure::DiskUse> {
    let full = std::fs::remove_file(folder.join("full")).is_ok();
    let available_bytes = if full { 50 * 1024 } else { 900 * 1024 };
    Ok(crate::agent::pressure::DiskUse { total_bytes: 1000 * 1024, available_bytes })
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_costs_the_oldest_logs_also_after_a_restart() {
    const KIB: usize = 1024;
    let logs = tempfile::tempdir().unwrap();
    let mark =
        crate::agent::pressure::DiskMark { folder: logs.path().to_owned(), high_percent: 90, measure: full_once };
    let mut node = Node::with(None, super::Tuning { disk: Some(mark), ..tuning() }).await;
    node.machine.set_logs(logs.path().to_owned());
    for index in 0..3 {
        let dir = logs.path().join(task(index).to_string());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("log.0"), vec![7; 100 * KIB]).unwrap();
        running(&node, index, "GPU-0").await;
        node.clock.advance(Duration::from_secs(1));
        node.agent.release(header(1), task(index)).await.unwrap();
        super::eventually("it is cleared", || node.machine.count("clear_work", task(index)) == 1).await;
    }
    let full = logs.path().join("full");
    let fill = || std::fs::write(&full, "").unwrap();
    // Too young: somebody may be about to read them.
    for _ in 0..2 {
        fill();
        super::eventually("it was looked at", || !full.exists()).await;
    }
    assert_eq!([0, 1, 2].map(|index| node.machine.count("purge", task(index))), [0; 3]);
    node.clock.advance(Duration::from_secs(600));
    for index in 0..3 {
        super::eventually("it is purged", || {
            fill();
            node.machine.count("purge", task(index)) == 1
        })
        .await;
    }
    node.restart().await;
    for _ in 0..2 {
        fill();
        super::eventually("it was looked at", || !full.exists()).await;
    }
    assert_eq!([0, 1, 2].map(|index| node.machine.count("purge", task(index))), [1; 3], "what is gone is gone");
    node.end().await;
}
