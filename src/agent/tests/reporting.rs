//! What the controller hears, however it behaves.

use super::controller::Scripted;
use super::{Node, header, me, spec, task, tuning};
use crate::agent::Tuning;
use crate::api::AgentApi;
use crate::domain::command::ErrorKind;
use crate::domain::ids::Term;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use crate::kernel_log::KernelLogOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

async fn joined(controller: &Arc<Scripted>) -> Node {
    let node = Node::with(Some(controller.clone()), tuning()).await;
    controller.until("a heartbeat", |seen| seen.heartbeats > 0).await;
    node
}

#[tokio::test]
async fn heartbeats_tell_how_far_staging_is() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    node.machine.hang("stage", task(0));
    let (agent, wanted) = (node.agent.clone(), spec(task(0), &[]));
    let asked = tokio::spawn(async move { agent.stage(header(1), wanted).await });
    let told = [(task(0), "half of it".to_owned())];
    controller.until("its progress", |seen| seen.progress == told).await;
    node.machine.unhang();
    asked.await.unwrap().unwrap();
    controller.until("nothing more to tell", |seen| seen.progress.is_empty()).await;
    node.end().await;
}

#[tokio::test]
async fn a_fault_waits_for_no_heartbeat() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("kmsg");
    std::fs::write(&log, "").unwrap();
    let controller = Arc::new(Scripted::default());
    // The next one is an hour away.
    controller.with(|seen| seen.heartbeat_ms = 3_600_000);
    let cursor = folder.path().join("cursor");
    let kernel_log = Some(KernelLogOptions::new(log.clone(), "boot".to_owned(), cursor));
    let mut node = Node::with(Some(controller.clone()), Tuning { kernel_log, ..tuning() }).await;
    controller.until("the first heartbeat", |seen| seen.heartbeats > 0).await;
    for (sequence, code) in [(0, 13), (1, 31)] {
        let line = format!("3,{sequence},1,-;NVRM: Xid (PCI:0000:9b:00): {code}, pid=7, name=python, x\n");
        std::fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(line.as_bytes()).unwrap();
        controller.until("the fault", |seen| seen.faults.iter().any(|fault| fault.code == Some(code))).await;
    }
    node.end().await;
}

#[tokio::test]
async fn a_lost_report_is_sent_again_with_the_same_sequence() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    controller.with(|seen| seen.lose_answers = 1);
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    controller.until("two reports", |seen| seen.reports.len() >= 2).await;
    let beats = controller.with(|seen| seen.heartbeats);
    controller.until("more heartbeats", |seen| seen.heartbeats > beats + 3).await;
    controller.with(|seen| {
        assert_eq!(seen.reports.len(), 2, "acknowledged is not sent again: {:?}", seen.reports);
        assert_eq!(seen.reports[0], seen.reports[1]);
    });
    let first = controller.with(|seen| seen.reports[0][0]);
    assert_eq!(node.store.text("meta/acknowledged"), Some(first.to_string()));
    node.restart().await;
    node.agent.stop(header(1), task(1), 0).await.unwrap();
    controller.until("one more", |seen| seen.reports.len() >= 3).await;
    controller.with(|seen| {
        assert_eq!(
            seen.reports[2].len(),
            1,
            "what was acknowledged before the restart is not sent: {:?}",
            seen.reports
        );
        assert!(seen.reports[2][0] > first);
    });
    node.end().await;
}

#[tokio::test]
async fn a_controller_that_forgets_or_changes_hears_everything_again() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    node.agent.stop(header(1), task(1), 0).await.unwrap();
    controller.until("both", |seen| seen.statuses.len() == 2).await;
    for change in 0..2 {
        let registrations = controller.with(|seen| {
            seen.statuses.clear();
            match change {
                0 => seen.forgets = true,
                _ => seen.term = Term(2),
            }
            seen.registrations.len()
        });
        controller.until("both again", |seen| seen.statuses.len() == 2).await;
        assert!(controller.with(|seen| seen.registrations.len()) > registrations);
    }
    // The new term is remembered: the old leader is refused.
    assert_eq!(node.agent.stop(header(1), task(0), 0).await.unwrap_err().kind, ErrorKind::Stale);
    let mut foreign = header(1);
    (foreign.cluster_id, foreign.term) = ("c2".to_owned(), Term(2));
    let error = node.agent.stop(foreign, task(0), 0).await.unwrap_err();
    assert!(error.message.contains("c2") && error.message.contains("c1"), "{}", error.message);
    node.end().await;
}

#[tokio::test]
async fn a_hung_report_delays_neither_heartbeats_nor_tasks() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    controller.with(|seen| seen.hang_reports = true);
    node.agent.prepare(header(1), spec(task(0), &["GPU-0"])).await.unwrap();
    let beats = controller.with(|seen| seen.heartbeats);
    controller.until("more heartbeats", |seen| seen.heartbeats > beats + 5).await;
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(0), TaskState::Running).await;
    node.end().await;
}

#[tokio::test]
async fn a_refused_node_works_on_and_a_remembered_cluster_is_told() {
    let controller = Arc::new(Scripted::default());
    controller.with(|seen| {
        seen.refuses = Some(crate::domain::command::Error::new(ErrorKind::Unavailable, "not the leader"));
    });
    let mut node = joined(&controller).await;
    node.agent.get_node(&me()).await.unwrap();
    node.restart().await;
    controller.until("registered after the restart", |seen| seen.registrations.len() >= 3).await;
    let clusters =
        controller.with(|seen| seen.registrations.iter().map(|r| r.cluster_id.clone()).collect::<Vec<_>>());
    assert_eq!((clusters[0].as_str(), clusters[1].as_str(), clusters.last().unwrap().as_str()), ("", "", "c1"));
    node.end().await;
}

#[tokio::test]
async fn leases_are_renewed_as_of_the_sending_of_the_heartbeat() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    let mut leased = spec(task(0), &[]);
    leased.lease_s = Some(300);
    node.agent.prepare(header(1), leased).await.unwrap();
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.agent.prepare(header(1), spec(task(1), &[])).await.unwrap();
    node.agent.launch(header(1), task(1), Vec::new(), TaskSecrets::default()).await.unwrap();
    let waited = tokio::time::timeout(super::PATIENCE, async {
        while node.machine.leases().len() < 3 {
            node.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.expect("three renewals");
    let leases = node.machine.leases();
    assert!(leases.iter().all(|(id, _)| *id == task(0)));
    assert!(leases.is_sorted_by(|(_, a), (_, b)| a < b), "{leases:?}");
    node.end().await;
}

#[tokio::test]
async fn a_newer_term_counts_only_once_the_controller_says_it() {
    let controller = Arc::new(Scripted::default());
    let mut node = joined(&controller).await;
    let registrations = || controller.with(|seen| seen.registrations.len());
    let before = registrations();
    let mut forged = header(1);
    forged.term = Term(u64::MAX);
    for _ in 0..50 {
        let error = node.agent.stop(forged.clone(), task(0), 0).await.unwrap_err();
        assert_eq!((error.kind, error.retry_after_ms), (ErrorKind::Unavailable, Some(500)), "{error}");
    }
    controller.until("another registration", |seen| seen.registrations.len() > before).await;
    // The true controller is still obeyed, and its next leader too, as soon as this node has registered with it.
    node.agent.stop(header(1), task(0), 0).await.unwrap();
    controller.with(|seen| seen.term = Term(2));
    let mut next = header(2);
    next.term = Term(2);
    let obeyed = async {
        while node.agent.stop(next.clone(), task(0), 0).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, obeyed).await.expect("the next leader is obeyed");
    assert_eq!(node.agent.stop(header(1), task(0), 0).await.unwrap_err().kind, ErrorKind::Stale);
    assert!(registrations() < before + 20, "registers with moderation: {}", registrations());
    assert_eq!(node.store.text("meta/term"), Some("2".to_owned()));
    node.end().await;
}
