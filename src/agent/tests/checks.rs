//! Checks of GPUs: after a task that failed by itself, and when an operator asks.

use super::gpus::{Board, node, until};
use super::machine::failed;
use super::{Node, eventually, header, me, spec, task, tuning};
use crate::agent::{Looking, Tuning};
use crate::api::AgentApi;
use crate::domain::checked::CheckOutcome;
use crate::domain::command::ErrorKind;
use crate::domain::gpu::GpuState;
use crate::domain::principal::{Principal, Role};
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskState;
use crate::health::checks::{Check, Mode, Modes};
use std::sync::Arc;
use std::time::Duration;

fn operator() -> Principal {
    Principal { user: "olga".to_owned(), uid: None, roles: vec![Role::Operator] }
}

/// A task on the GPU whose command fails as soon as it begins.
async fn fail_on(node: &Node, index: u32, gpu: &str) {
    node.machine.set_ends(failed());
    node.agent.prepare(header(1), spec(task(index), &[gpu])).await.unwrap();
    node.agent.launch(header(1), task(index), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(index), TaskState::Failed).await;
}

#[tokio::test]
async fn the_next_task_waits_for_the_check_after_a_failure_and_nobody_else_does() {
    let board = Board::of(&["A", "B"]);
    let mut node = node(&board).await;
    let hang = board.check_hang.lock().await;
    fail_on(&node, 0, "A").await;
    node.agent.release(header(1), task(0)).await.unwrap();
    until(&node, "A", GpuState::Free).await;
    let agent = node.agent.clone();
    let next = tokio::spawn(async move { agent.prepare(header(1), spec(task(1), &["A"])).await });
    node.until(task(1), TaskState::Preparing).await;
    // What needs no such GPU does not wait.
    node.agent.prepare(header(1), spec(task(2), &["B"])).await.unwrap();
    assert_eq!(node.machine.count("prepare", task(1)), 0, "not before the check is over");
    drop(hang);
    next.await.unwrap().unwrap();
    board.change(|state| assert_eq!(state.checks, 1));
    node.end().await;
}

#[tokio::test]
async fn a_gpu_that_fails_its_check_is_out_of_use_until_it_has_passed_for_a_while() {
    let board = Board::of(&["A", "B"]);
    let mut node = node(&board).await;
    board.change(|state| state.shut = vec!["A"]);
    fail_on(&node, 0, "A").await;
    node.agent.release(header(1), task(0)).await.unwrap();
    let reason = until(&node, "A", GpuState::Faulty).await.reason.unwrap();
    assert!(reason.contains("self_check") && reason.contains("device node cannot be opened"), "{reason}");
    until(&node, "B", GpuState::Free).await;
    let error = node.agent.prepare(header(1), spec(task(1), &["A"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted, "{}", error.message);

    // It is looked at again and again; one good moment is not enough.
    board.change(|state| (state.shut, state.checks) = (Vec::new(), 0));
    let looked = |times: usize| {
        let board = Arc::clone(&board);
        move || {
            let mut found = 0;
            board.change(|state| found = state.checks);
            found >= times
        }
    };
    eventually("it is checked again", looked(2)).await;
    until(&node, "A", GpuState::Faulty).await;
    node.clock.advance(Duration::from_secs(121));
    until(&node, "A", GpuState::Free).await;
    node.agent.prepare(header(1), spec(task(2), &["A"])).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_check_that_only_observes_keeps_no_gpu_from_tasks() {
    let board = Board::of(&["A"]);
    let modes = Modes::new([(Check::SelfCheck, Mode::Observe)]);
    // Nothing but these checks looks.
    let looking = Looking { period: Duration::from_secs(3600), modes, ..Looking::default() };
    let mut node = Node::with_gpus(board.clone(), None, Tuning { looking: Some(looking), ..tuning() }).await;
    board.change(|state| state.shut = vec!["A"]);
    fail_on(&node, 0, "A").await;
    node.agent.release(header(1), task(0)).await.unwrap();
    // The next one has waited for the look.
    node.agent.prepare(header(1), spec(task(1), &["A"])).await.unwrap();
    let checked = node.agent.check_health(&operator(), Vec::new(), false).await.unwrap();
    let door = checked.gpus[0].checks.iter().find(|thing| thing.what == "device node").unwrap();
    assert_eq!((door.outcome, checked.outcome), (CheckOutcome::Noted, CheckOutcome::Ok));
    let shown = node.agent.get_node(&operator()).await.unwrap().gpus;
    assert_eq!(shown[0].state, GpuState::Held, "{:?}", shown[0].reason);
    assert!(!shown[0].faults.is_empty(), "it is reported all the same");
    node.end().await;
}

#[tokio::test]
async fn an_operator_sees_what_was_looked_at_and_touches_no_task() {
    let board = Board::of(&["A", "B"]);
    let mut node = node(&board).await;
    node.agent.prepare(header(1), spec(task(0), &["A"])).await.unwrap();
    board.change(|state| state.shut = vec!["B"]);
    let checked = node.agent.check_health(&operator(), Vec::new(), false).await.unwrap();
    assert_eq!((checked.outcome, checked.gpus.len()), (CheckOutcome::Failed, 2));
    assert_eq!(checked.gpus[0].task, Some(task(0)));
    let found = |gpu: usize| checked.gpus[gpu].checks.iter().find(|thing| thing.what == "device node").unwrap();
    assert_eq!((found(0).outcome, found(1).outcome), (CheckOutcome::Ok, CheckOutcome::Failed));
    until(&node, "B", GpuState::Faulty).await;

    let refused = node.agent.check_health(&operator(), vec!["A".to_owned()], true).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Refused);
    assert!(refused.message.contains("1.1.0.0") && refused.message.contains('A'), "{}", refused.message);
    let refused = node.agent.check_health(&me(), Vec::new(), false).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NotAllowed);
    let wrong = node.agent.check_health(&operator(), vec!["7".to_owned()], false).await.unwrap_err();
    assert_eq!((wrong.kind, wrong.violations[0].found.as_str()), (ErrorKind::Invalid, "7"));

    node.agent.release(header(1), task(0)).await.unwrap();
    until(&node, "A", GpuState::Free).await;
    let deep = node.agent.check_health(&operator(), vec!["A".to_owned()], true).await.unwrap();
    let memory = deep.gpus[0].checks.iter().find(|thing| thing.what == "memory pattern").unwrap();
    assert_eq!((memory.outcome, deep.outcome), (CheckOutcome::Noted, CheckOutcome::Ok));
    node.agent.prepare(header(1), spec(task(1), &["A"])).await.unwrap();
    node.end().await;
}
