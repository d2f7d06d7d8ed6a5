//! Remedies that take the whole node out: when they may, and what is told meanwhile.

use super::controller::Scripted;
use super::faults::{Log, Sick, gpu};
use super::{Node, eventually, header, spec, task};
use crate::agent::Tuning;
use crate::api::AgentApi;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::remediation::{GoingOut, Remediation};
use std::path::Path;
use std::sync::Arc;

const LOST: &str = "NVRM: Xid (PCI:0000:00:00): 79, pid=7, name=python, GPU has fallen off the bus.";

/// Notes each time that it is run.
fn noting(log: &Log, place: &Path) -> Tuning {
    let script = format!("cat >> {}", place.display());
    let words = ["/bin/sh", "-c", &script].map(str::to_owned);
    Tuning { remediation: Remediation::Command(words.to_vec()), ..log.tuning("boot-1") }
}

fn runs(place: &Path) -> usize {
    std::fs::read_to_string(place).map_or(0, |text| text.lines().count())
}

/// The only fault, as the controller has it.
fn told(controller: &Scripted) -> Fault {
    controller.with(|seen| seen.faults.first().cloned()).expect("it was told")
}

fn says(controller: &Scripted, words: &str) -> bool {
    controller.with(|seen| seen.faults.iter().flat_map(|fault| &fault.evidence).any(|line| line.contains(words)))
}

#[tokio::test]
async fn a_reboot_waits_until_the_controller_lets_the_node_go() {
    let (gpus, log, controller) = (Sick::new(), Log::new(), Arc::new(Scripted::default()));
    let place = tempfile::tempdir().unwrap();
    let place = place.path().join("told");
    let mut node = Node::with_gpus(gpus, Some(controller.clone()), noting(&log, &place)).await;
    controller.until("it says that it lives", |seen| seen.heartbeats > 0).await;
    // Of another GPU: it has to end by itself.
    node.agent.prepare(header(1), spec(task(0), &["GPU-1"])).await.unwrap();
    log.say(&node, LOST);
    controller.until("the fault is told", |seen| !seen.faults.is_empty()).await;
    let id = told(&controller).id;
    // It asks at once, so that nobody new comes; and does nothing while the task is there, whatever it is told.
    let asks = |begun| Some(GoingOut { fault: id, begun });
    controller.until("it asks", |seen| seen.going_out == asks(false)).await;
    let beats = controller.with(|seen| {
        seen.permit = Some(Ok(()));
        seen.heartbeats
    });
    controller.until("it was let go", |seen| seen.heartbeats > beats + 2).await;
    controller.with(|seen| assert_eq!(seen.going_out, asks(false), "a task is in the way"));
    assert_eq!(runs(&place), 0);
    controller.with(|seen| seen.permit = None);
    let beats = controller.with(|seen| seen.heartbeats);
    controller.until("that is known", |seen| seen.heartbeats > beats + 2).await;
    node.agent.release(header(1), task(0)).await.unwrap();

    // One of an older version, one that has too many out, one that is not there.
    eventually("why it waits is told", || says(&controller, "not remedied yet: the controller did not say")).await;
    controller.with(|seen| seen.permit = Some(Err("2 of 10 nodes are out already".to_owned())));
    eventually("the refusal is told", || says(&controller, "not remedied yet: 2 of 10 nodes are out already")).await;
    assert!(!says(&controller, "did not say"), "in the place of what was told before");
    controller.with(|seen| seen.loses_heartbeats = true);
    eventually("the silence is told", || node.store.everything().contains("is not reached: nobody is there")).await;
    // Others get its GPUs meanwhile.
    assert_ne!(gpu(&node, "GPU-1").await.reason.as_deref(), Some("a fault of it is being remedied"));
    assert_eq!(runs(&place), 0);

    controller.with(|seen| (seen.loses_heartbeats, seen.permit) = (false, Some(Ok(()))));
    eventually("it is done", || runs(&place) == 1).await;
    eventually("what came of it is told", || says(&controller, "remediation /bin/sh: done")).await;
    assert!(!says(&controller, "not remedied yet"), "{:?}", told(&controller).evidence);
    // The program has come back, the boot has yet to come: nobody else may go.
    let beats = controller.with(|seen| seen.heartbeats);
    controller.until("more heartbeats", |seen| seen.heartbeats > beats + 2).await;
    controller.with(|seen| assert_eq!(seen.going_out, asks(true)));
    node.restart().await;
    controller.until("it says so after a restart as well", |seen| seen.going_out == asks(true)).await;

    node.end().await;
    log.begin();
    node.tuning = Tuning { remediation: node.tuning.remediation.clone(), ..log.tuning("boot-2") };
    node.begin().await;
    controller.until("it is back", |seen| seen.going_out.is_none()).await;
    assert_eq!(runs(&place), 1);
    node.end().await;
}

#[tokio::test]
async fn a_reboot_that_does_not_come_gives_the_permit_back() {
    let (gpus, log, controller) = (Sick::new(), Log::new(), Arc::new(Scripted::default()));
    let place = tempfile::tempdir().unwrap();
    controller.with(|seen| seen.permit = Some(Ok(())));
    let tuning = noting(&log, &place.path().join("told"));
    let mut node = Node::with_gpus(gpus, Some(controller.clone()), tuning).await;
    log.say(&node, LOST);
    eventually("what came of it is told", || says(&controller, "remediation /bin/sh: done")).await;
    let id = told(&controller).id;
    let beats = controller.with(|seen| seen.heartbeats);
    controller.until("more heartbeats", |seen| seen.heartbeats > beats + 2).await;
    controller.with(|seen| assert_eq!(seen.going_out, Some(GoingOut { fault: id, begun: true })));
    node.clock.advance(std::time::Duration::from_secs(601));
    controller.until("it is given back", |seen| seen.going_out.is_none()).await;
    node.end().await;
}

#[tokio::test]
async fn a_program_that_fails_may_have_seen_to_the_boot_and_one_that_never_ran_has_not() {
    for (words, keeps) in [(&["/bin/sh", "-c", "exit 3"][..], true), (&["/nowhere/at/all"], false)] {
        let (gpus, log, controller) = (Sick::new(), Log::new(), Arc::new(Scripted::default()));
        controller.with(|seen| seen.permit = Some(Ok(())));
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let tuning = Tuning { remediation: Remediation::Command(words), ..log.tuning("boot-1") };
        let mut node = Node::with_gpus(gpus, Some(controller.clone()), tuning).await;
        log.say(&node, LOST);
        eventually("what came of it is told", || says(&controller, ": failed: ")).await;
        let id = told(&controller).id;
        let beats = controller.with(|seen| seen.heartbeats);
        controller.until("more heartbeats", |seen| seen.heartbeats > beats + 2).await;
        let expected = keeps.then_some(GoingOut { fault: id, begun: true });
        controller.with(|seen| assert_eq!(seen.going_out, expected, "{:?}", seen.faults));
        node.end().await;
    }
}

#[tokio::test]
async fn why_a_remedy_waits_stays_told_however_often_its_fault_is_seen() {
    let (gpus, log, controller) = (Sick::new(), Log::new(), Arc::new(Scripted::default()));
    let place = tempfile::tempdir().unwrap();
    controller.with(|seen| seen.permit = Some(Err("2 of 10 nodes are out already".to_owned())));
    let tuning = noting(&log, &place.path().join("told"));
    let mut node = Node::with_gpus(gpus, Some(controller.clone()), tuning).await;
    log.say(&node, LOST);
    eventually("the refusal is told", || says(&controller, "not remedied yet: 2 of 10")).await;
    (0..20).for_each(|_| log.say(&node, LOST));
    controller.until("all are counted", |seen| seen.faults.first().is_some_and(|fault| fault.count == 21)).await;
    assert!(says(&controller, "not remedied yet: 2 of 10"), "{:?}", told(&controller).evidence);
    node.end().await;
}

#[tokio::test]
async fn a_node_on_its_own_asks_nobody_and_its_own_faults_are_for_the_command() {
    let (gpus, log) = (Sick::new(), Log::new());
    let place = tempfile::tempdir().unwrap();
    let place = place.path().join("told");
    let mut node = Node::with_gpus(gpus, None, noting(&log, &place)).await;
    log.say(&node, "nvidia-nvswitch0: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up");
    eventually("it is done", || runs(&place) == 1).await;
    let fault: Fault = serde_json::from_str(&std::fs::read_to_string(&place).unwrap()).unwrap();
    assert!(fault.id > FaultId(0) && fault.withdraws_node(), "{fault:?}");
    node.end().await;
}
