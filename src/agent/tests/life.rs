//! From Stage to Release, and every way off that path.

use super::machine::stopped;
use super::{Node, PATIENCE, header, me, spec, task, tuning, with_port};
use crate::api::AgentApi;
use crate::domain::command::ErrorKind;
use crate::domain::exit::ExitClass;
use crate::domain::gpu::GpuState;
use crate::domain::ids::Term;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{TaskState, TaskStatus};
use std::net::TcpListener;
use std::time::{Duration, Instant};

async fn ready(node: &Node, index: u32, gpus: &[&str]) {
    let spec = spec(task(index), gpus);
    node.agent.stage(header(1), spec.clone()).await.unwrap();
    let status = node.agent.prepare(header(1), spec).await.unwrap();
    assert_eq!((status.state, status.holding), (TaskState::Ready, true));
}

#[tokio::test]
async fn a_task_goes_its_way() {
    let mut node = Node::new().await;
    node.machine.set_short();
    let (id, who) = (task(0), me());
    let mut watch = node.agent.watch(&who, None).await.unwrap();
    let staged = node.agent.stage(header(1), spec(id, &["GPU-0"])).await.unwrap();
    assert_eq!((staged.state, staged.holding), (TaskState::Waiting, false));
    assert_eq!(staged.notices, ["staged"]);
    ready(&node, 0, &["GPU-0"]).await;
    let gpus = node.agent.get_node(&who).await.unwrap().gpus;
    assert_eq!((gpus[0].state, gpus[0].task.as_deref()), (GpuState::Held, Some("1.1.0.0")));
    assert_eq!((gpus[1].state, gpus[1].task.as_deref()), (GpuState::Free, None));
    let env = vec![("A".to_owned(), "secret-of-the-task".to_owned())];
    node.agent.launch(header(1), id, env.clone(), TaskSecrets::default()).await.unwrap();
    let ended = node.until(id, TaskState::Succeeded).await;
    assert!(ended.started_at.is_some() && ended.holding && ended.exit.unwrap().is_success());
    assert_eq!(node.machine.env_of(id), Some(env));
    let released = node.agent.release(header(1), id).await.unwrap();
    assert!(!released.holding && !node.machine.has(id));
    assert_eq!(node.agent.get_node(&who).await.unwrap().gpus[0].state, GpuState::Free);
    assert!(!node.store.everything().contains("secret-of-the-task"), "the environment is not journalled");
    let mut seen = Vec::new();
    while seen.last() != Some(&(TaskState::Succeeded, false)) {
        let change = tokio::time::timeout(PATIENCE, watch.recv()).await.unwrap().unwrap().unwrap();
        seen.push((change.status.state, change.status.holding));
    }
    assert!(seen.contains(&(TaskState::Ready, true)) && seen.contains(&(TaskState::Succeeded, true)), "{seen:?}");
    node.end().await;
}

#[tokio::test]
async fn what_is_held_is_vetoed_and_the_holder_named() {
    let mut node = Node::new().await;
    ready(&node, 0, &["GPU-0"]).await;
    let error = node.agent.prepare(header(1), spec(task(1), &["GPU-1", "GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("GPU-0") && error.message.contains("1.1.0.0"), "{}", error.message);
    // Nothing stays of a veto.
    ready(&node, 2, &["GPU-1"]).await;
    node.end().await;
}

#[tokio::test]
async fn a_port_in_use_is_vetoed_and_a_held_one_is_free_at_launch() {
    let mut node = Node::new().await;
    let other = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let wanted = with_port(spec(task(0), &["GPU-0"]), port);
    let error = node.agent.prepare(header(1), wanted.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains(&format!("port {port}")), "{}", error.message);
    assert!(error.busy_ports.contains(&port), "as data too: {error:?}");
    drop(other);
    node.agent.prepare(header(1), wanted).await.unwrap();
    assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    assert!(TcpListener::bind(("0.0.0.0", port)).is_ok());
    node.end().await;
}

/// Two neighbours of the node's range, the first of them in use by somebody else.
fn neighbours() -> (u16, Vec<TcpListener>) {
    let both = |first: u16| Some((first, vec![bind(first)?, bind(first + 1)?]));
    let bind_from = 20_000 + (std::process::id() % 4000) as u16;
    (bind_from..29_000).step_by(2).find_map(both).expect("two ports are free")
}

fn bind(port: u16) -> Option<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).ok()
}

#[tokio::test]
async fn a_veto_tells_what_else_is_taken_nearby_but_no_ports_of_our_own_tasks() {
    let mut node = Node::new().await;
    let (first, mut others) = neighbours();
    // The second is another task's, which is about to use it.
    drop(others.pop());
    node.agent.prepare(header(1), with_port(spec(task(1), &[]), first + 1)).await.unwrap();
    let error = node.agent.prepare(header(1), with_port(spec(task(0), &[]), first)).await.unwrap_err();
    assert!(error.busy_ports.contains(&first) && !error.busy_ports.contains(&(first + 1)), "{error:?}");
    let held = node.agent.prepare(header(1), with_port(spec(task(2), &[]), first + 1)).await.unwrap_err();
    assert_eq!(held.busy_ports, [first + 1], "{held:?}");
    drop(others);
    let (first, _others) = neighbours();
    let error = node.agent.prepare(header(1), with_port(spec(task(0), &[]), first)).await.unwrap_err();
    assert!(error.busy_ports.starts_with(&[first, first + 1]), "{error:?}");
    node.end().await;
}

#[tokio::test]
async fn failures_are_answered_and_reported() {
    let mut node = Node::new().await;
    node.machine.fail("stage", "image 'x' does not exist", true);
    let error = node.agent.stage(header(1), spec(task(0), &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("image 'x'"), "{}", error.message);
    assert_eq!(node.until(task(0), TaskState::Failed).await.exit.unwrap().class, ExitClass::User);
    node.machine.mend();
    node.machine.fail("prepare", "dockerd is away", false);
    let error = node.agent.prepare(header(1), spec(task(1), &["GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    // Given back before any release.
    node.machine.mend();
    node.machine.fail("launch", "the shim is away", false);
    ready(&node, 2, &["GPU-0"]).await;
    assert_eq!(
        node.agent.launch(header(1), task(2), Vec::new(), TaskSecrets::default()).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert_eq!(node.until(task(2), TaskState::Failed).await.exit.unwrap().class, ExitClass::Platform);
    node.agent.release(header(1), task(2)).await.unwrap();
    node.end().await;
}

#[tokio::test]
async fn a_stop_ends_every_phase() {
    let mut node = Node::new().await;
    let agent = node.agent.clone();
    // Unknown: a tombstone.
    assert_eq!(agent.stop(header(3), task(9), 0).await.unwrap().state, TaskState::Stopped);
    assert_eq!(agent.prepare(header(3), spec(task(9), &[])).await.unwrap_err().kind, ErrorKind::Stale);
    for (index, operation) in [(0, "stage"), (1, "prepare")] {
        node.machine.hang(operation, task(index));
        let (agent, wanted) = (node.agent.clone(), spec(task(index), &["GPU-0"]));
        let asked = tokio::spawn(async move {
            match index {
                0 => agent.stage(header(1), wanted).await,
                _ => agent.prepare(header(1), wanted).await,
            }
        });
        let state = if index == 0 { TaskState::Staging } else { TaskState::Preparing };
        node.until(task(index), state).await;
        assert_eq!(node.agent.stop(header(1), task(index), 0).await.unwrap().state, TaskState::Stopped);
        assert_eq!(asked.await.unwrap().unwrap_err().kind, ErrorKind::Refused);
        assert!(!node.agent.release(header(1), task(index)).await.unwrap().holding);
    }
    ready(&node, 2, &["GPU-0"]).await;
    assert_eq!(agent.stop(header(1), task(2), 0).await.unwrap().state, TaskState::Stopped);
    agent.release(header(1), task(2)).await.unwrap();
    ready(&node, 3, &["GPU-0"]).await;
    agent.launch(header(1), task(3), Vec::new(), TaskSecrets::default()).await.unwrap();
    node.until(task(3), TaskState::Running).await;
    agent.stop(header(1), task(3), 1000).await.unwrap();
    assert_eq!(node.until(task(3), TaskState::Stopped).await.exit, Some(stopped()));
    // Release ends what still runs.
    ready(&node, 4, &["GPU-1"]).await;
    agent.launch(header(1), task(4), Vec::new(), TaskSecrets::default()).await.unwrap();
    assert!(!agent.release(header(2), task(4)).await.unwrap().holding);
    assert!(!node.machine.has(task(4)));
    node.end().await;
}

#[tokio::test]
async fn the_same_again_is_done_once_and_the_old_is_refused() {
    let mut node = Node::new().await;
    let wanted = spec(task(0), &["GPU-0"]);
    let (a, b) = (node.agent.clone(), node.agent.clone());
    let (first, second) = tokio::join!(a.prepare(header(2), wanted.clone()), b.prepare(header(2), wanted.clone()));
    assert_eq!(first.unwrap().state, TaskState::Ready);
    assert_eq!(second.unwrap().state, TaskState::Ready);
    a.prepare(header(2), wanted.clone()).await.unwrap();
    assert_eq!(node.machine.count("prepare", task(0)), 1);
    let refused = |error: crate::domain::command::Error| error.kind;
    assert_eq!(refused(a.prepare(header(1), wanted.clone()).await.unwrap_err()), ErrorKind::Stale);
    assert_eq!(refused(a.prepare(header(2), spec(task(0), &[])).await.unwrap_err()), ErrorKind::AlreadyExists);
    let mut newer = header(2);
    newer.term = Term(5);
    a.prepare(newer, wanted.clone()).await.unwrap();
    assert_eq!(refused(a.stop(header(2), task(0), 0).await.unwrap_err()), ErrorKind::Stale);
    node.restart().await;
    assert_eq!(refused(node.agent.stop(header(2), task(0), 0).await.unwrap_err()), ErrorKind::Stale);
    assert_eq!(
        refused(node.agent.launch(header(9), task(5), Vec::new(), TaskSecrets::default()).await.unwrap_err()),
        ErrorKind::Stale
    );
    node.end().await;
}

#[tokio::test]
async fn two_hundred_at_once() {
    let mut node = Node::new().await;
    node.machine.set_short();
    let mut all = tokio::task::JoinSet::new();
    for index in 0..200 {
        let agent = node.agent.clone();
        all.spawn(async move {
            let (id, wanted) = (task(index), spec(task(index), &[]));
            agent.stage(header(1), wanted.clone()).await.unwrap();
            agent.prepare(header(1), wanted).await.unwrap();
            agent.launch(header(1), id, Vec::new(), TaskSecrets::default()).await.unwrap()
        });
    }
    while let Some(launched) = all.join_next().await {
        launched.unwrap();
    }
    let (first, token) = node.agent.list_tasks(&me(), 150, "").await.unwrap();
    let (second, end) = node.agent.list_tasks(&me(), 150, &token).await.unwrap();
    assert_eq!((first.len(), second.len(), end.as_str()), (150, 50, ""));
    assert!(first.is_sorted_by_key(|status| status.id) && first[149].id < second[0].id);
    for index in 0..200 {
        let agent = node.agent.clone();
        all.spawn(async move { agent.release(header(1), task(index)).await.unwrap() });
    }
    while let Some(released) = all.join_next().await {
        assert!(!released.unwrap().holding);
    }
    assert_eq!(node.agent.list_tasks(&me(), 0, "").await.unwrap().0, []);
    node.end().await;
}

#[tokio::test]
async fn progress_is_of_the_moment_and_not_in_the_journal() {
    let mut node = Node::new().await;
    node.machine.hang("stage", task(0));
    let (agent, wanted) = (node.agent.clone(), spec(task(0), &[]));
    let asked = tokio::spawn(async move { agent.stage(header(1), wanted).await });
    let told = |status: &TaskStatus| status.progress.as_deref() == Some("half of it");
    node.until_status(task(0), "its progress is told", told).await;
    node.restart().await;
    assert_eq!(node.status(task(0)).await.and_then(|status| status.progress), None, "nobody knows it any more");
    drop(asked);
    node.machine.unhang();
    ready(&node, 1, &[]).await;
    assert_eq!(node.status(task(1)).await.and_then(|status| status.progress), None, "staging is over");
    node.end().await;
}

#[tokio::test]
async fn a_hung_call_delays_nobody_else() {
    let mut slow = tuning();
    slow.deadlines.prepare = Duration::from_secs(60);
    let mut node = Node::with(None, slow).await;
    node.machine.hang("prepare", task(0));
    let mut hasty = header(1);
    hasty.deadline_ms = 50;
    let began = Instant::now();
    let error = node.agent.prepare(hasty, spec(task(0), &["GPU-0"])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DeadlineExceeded);
    ready(&node, 1, &["GPU-1"]).await;
    node.agent.get_node(&me()).await.unwrap();
    assert_eq!(node.until(task(0), TaskState::Preparing).await.state, TaskState::Preparing);
    assert!(began.elapsed() < Duration::from_secs(10));
    node.end().await;
}

#[tokio::test]
async fn a_prepare_that_never_answers_fails_once_nothing_is_left() {
    let mut node = Node::new().await;
    node.machine.hang("prepare", task(0));
    let error = node.agent.prepare(header(1), spec(task(0), &["GPU-0"])).await.unwrap_err();
    assert!(error.message.contains("did not answer"), "{}", error.message);
    assert_eq!(node.machine.count("remove", task(0)), 1);
    ready(&node, 1, &["GPU-0"]).await;
    node.end().await;
}

#[tokio::test]
async fn logs_and_exec_need_a_task() {
    use crate::api::stream::{ExecSpec, LogQuery, StreamFilter};
    let mut node = Node::new().await;
    node.machine.set_short();
    let query =
        |id| LogQuery { task: id, cursor: None, stream: StreamFilter::All, follow: true, since: None, tail: None };
    assert_eq!(node.agent.logs(&me(), query(task(0))).await.unwrap_err().kind, ErrorKind::NotFound);
    ready(&node, 0, &[]).await;
    let mut logs = node.agent.logs(&me(), query(task(0))).await.unwrap();
    let exec = ExecSpec { argv: vec!["id".to_owned()], tty: None, ..ExecSpec::default() };
    assert_eq!(node.agent.exec(&me(), task(0), exec).await.unwrap_err().kind, ErrorKind::Refused);
    node.agent.launch(header(1), task(0), Vec::new(), TaskSecrets::default()).await.unwrap();
    let last = tokio::time::timeout(PATIENCE, logs.recv()).await.unwrap().unwrap().unwrap();
    assert!(last.exit.unwrap().is_success());
    node.end().await;
}

#[tokio::test]
async fn only_controllers_command() {
    use crate::domain::principal::{Principal, Role};
    let mut node = Node::new().await;
    ready(&node, 0, &["GPU-0"]).await;
    let mut foreign = header(1);
    foreign.principal =
        Principal { user: "mallory".to_owned(), uid: Some(1000), roles: vec![Role::User, Role::Agent] };
    let agent = &node.agent;
    let refusals = [
        agent.stage(foreign.clone(), spec(task(1), &[])).await.unwrap_err(),
        agent.prepare(foreign.clone(), spec(task(1), &[])).await.unwrap_err(),
        agent.launch(foreign.clone(), task(0), Vec::new(), TaskSecrets::default()).await.unwrap_err(),
        agent.stop(foreign.clone(), task(0), 0).await.unwrap_err(),
        agent.release(foreign, task(0)).await.unwrap_err(),
    ];
    assert!(refusals.iter().all(|error| error.kind == ErrorKind::NotAllowed), "{refusals:?}");
    assert!(refusals[3].message.contains("mallory"), "{}", refusals[3]);
    assert_eq!(node.until(task(0), TaskState::Ready).await.id, task(0));
    node.end().await;
}

#[tokio::test]
async fn too_many_log_streams_are_refused() {
    use crate::api::stream::{LogQuery, StreamFilter};
    let mut node = Node::with(None, super::Tuning { max_log_streams: 2, ..tuning() }).await;
    ready(&node, 0, &[]).await;
    let query =
        LogQuery { task: task(0), cursor: None, stream: StreamFilter::All, follow: true, since: None, tail: None };
    let first = node.agent.logs(&me(), query.clone()).await.unwrap();
    let _second = node.agent.logs(&me(), query.clone()).await.unwrap();
    let error = node.agent.logs(&me(), query.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.retry_after_ms.is_some(), "{error:?}");
    drop(first);
    let free = async {
        while node.agent.logs(&me(), query.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, free).await.expect("a place gets free");
    node.end().await;
}
