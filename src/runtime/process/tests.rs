//! The contract of runtimes against processes, and what only processes do. Runs with and without root.

mod adversity;

use super::*;
use crate::domain::exit::ExitClass;
use crate::domain::ids::Generation;
use crate::domain::policy::UserIds;
use crate::runtime::Adopted;
use crate::runtime::contract::{self, PATIENCE, Site, Subject, sleepers, task, wait_until};
use crate::runtime::shimmed::process_id::ProcessId;
use std::time::Duration;

/// Folders and groups of one test.
struct Place {
    dir: tempfile::TempDir,
    parent: String,
    run_as: RunAs,
    run_dir: &'static str,
    /// As on a machine where no control group can be made.
    without_groups: bool,
    open_files: Option<OpenFiles>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let parent = format!("wharf-test-{}", uuid::Uuid::new_v4());
        Self { dir, parent, run_as: RunAs::AgentUser, run_dir: "run", without_groups: false, open_files: None }
    }

    fn task_dir(&self) -> PathBuf {
        self.dir.path().join("state/tasks").join(task("").id.to_string())
    }

    fn shim(&self) -> ProcessId {
        let text = std::fs::read_to_string(self.task_dir().join("shim.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// Tests run as root, too.
fn everybody() -> Policy {
    Policy { users: Some(UserIds::all()), ..Policy::default() }
}

impl Site for Place {
    fn start(&self) -> Subject {
        let root = self.dir.path();
        let config = ProcessConfig {
            run_as: self.run_as.clone(),
            policy: everybody(),
            segment_bytes: 1024 * 1024,
            open_files: self.open_files,
            ..ProcessConfig::new(root.join("state"), root.join(self.run_dir), self.parent.clone())
        };
        let (sender, events) = mpsc::channel(16);
        let cgroups = if self.without_groups { Cgroups::none() } else { Cgroups::detect(&self.parent) };
        Subject { runtime: Arc::new(ProcessRuntime::with_groups(config, sender, cgroups).unwrap()), events }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed half-way must leave nothing either.
        let cgroups = Cgroups::detect(&self.parent);
        let left: Vec<_> = cgroups.tasks().into_iter().collect();
        for id in &left {
            cgroups.existing(*id).kill();
        }
        cgroups.remove_parent();
        if !std::thread::panicking() {
            assert_eq!(left, [], "no group is left");
        }
    }
}

macro_rules! contract {
    ($($promise:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            contract::$promise(&Place::new()).await;
        }
    )*};
}

contract!(
    a_task_waits_at_its_barrier_and_then_runs,
    operations_may_be_repeated,
    unknown_tasks_are_gone,
    a_stop_at_the_barrier_ends_at_once,
    grace_ends_with_sigkill,
    failures_are_the_commands,
    removing_ends_everything_and_keeps_the_log,
    output_is_exact_to_the_byte,
    a_new_runtime_adopts_waiting_and_running_tasks,
    a_task_may_end_while_nobody_looks,
    what_was_not_adopted_can_be_removed,
    a_lease_that_is_not_renewed_ends_the_task,
    commands_run_beside_a_task,
    a_dropped_session_kills_its_command,
);

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

#[tokio::test]
async fn a_killed_shim_is_the_platforms_fault_and_leaves_nothing() {
    let place = Place::new();
    let mut subject = place.start();
    let marker = format!("{}", 400_000 + std::process::id());
    let task = task(&format!("echo up; sleep {marker} & sleep {marker}"));
    subject.launch(&task).await;
    wait_until("both", || sleepers(&marker).len() == 2).await;
    place.shim().open().unwrap().unwrap().kill().unwrap();
    let exit = subject.exited().await;
    assert_eq!(exit.class, ExitClass::Platform);
    assert_eq!(exit.reason, "the task ended without an exit record");
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    subject.finish(task.id).await;
}

#[tokio::test]
async fn a_shim_killed_while_nobody_looked_is_gone_with_its_task() {
    let place = Place::new();
    let marker = format!("{}", 500_000 + std::process::id());
    let task = task(&format!("sleep {marker}"));
    let mut first = place.start();
    first.launch(&task).await;
    drop(first);
    let pidfd = place.shim().open().unwrap().unwrap();
    pidfd.kill().unwrap();
    pidfd.ended().await.unwrap();
    let second = place.start();
    assert_eq!(second.runtime.adopt(&task).await.unwrap(), Adopted::Gone);
    assert_eq!(sleepers(&marker), Vec::<String>::new());
    second.finish(task.id).await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_told() {
    let place = Place::new();
    let mut subject = place.start();
    let task = TaskSpec { memory_mb: 32, ..task("head -c 300000000 /dev/zero | tail") };
    let notices = subject.runtime.prepare(&task, &[]).await.unwrap();
    if notices.0.iter().any(|notice| notice.contains("memory limit")) {
        return subject.runtime.remove(task.id).await.unwrap();
    }
    subject.runtime.launch(task.id, &Launch::default()).await.unwrap();
    subject.started().await;
    let exit = subject.exited().await;
    assert!(exit.oom && exit.class == ExitClass::User, "{exit:?}");
    assert!(exit.reason.contains("32 MB"), "{}", exit.reason);
    subject.finish(task.id).await;
}

#[tokio::test]
async fn tasks_run_as_their_submitter() {
    if !is_root() {
        return;
    }
    let mut place = Place::new();
    place.run_as = RunAs::Submitter;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(place.dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut subject = place.start();
    let script = "id -un; pwd; touch file; cat ../task.json; echo $HOME $USER";
    let task = TaskSpec { user: "nobody".into(), ..task(script) };
    assert!(subject.run(&task).await.is_success());
    let (out, err) = contract::output(&subject.runtime.log_dir(task.id));
    let work = place.task_dir().join("work");
    let expected = format!("nobody\n{}\n/nonexistent nobody\n", work.display());
    assert_eq!(String::from_utf8_lossy(&out), expected);
    assert!(String::from_utf8_lossy(&err).contains("Permission denied"), "records are not the task's to read");
    subject.runtime.remove(task.id).await.unwrap();
    let unknown = TaskSpec { user: "no-such-user-here".into(), ..task.clone() };
    let refused = subject.runtime.prepare(&unknown, &[]).await.unwrap_err();
    assert!(refused.user_error && refused.message.contains("no-such-user-here"), "{refused}");
    assert!(!place.task_dir().exists(), "nothing is left of it");
    subject.finish(task.id).await;
}

#[tokio::test]
async fn images_name_directories() {
    let place = Place::new();
    let mut subject = place.start();
    let here = TaskSpec { image: "dir:/usr".into(), ..task("pwd; echo $PAI_WORK_DIR") };
    assert!(subject.run(&here).await.is_success());
    assert_eq!(contract::output(&subject.runtime.log_dir(here.id)).0, b"/usr\n/usr\n");
    subject.runtime.remove(here.id).await.unwrap();
    let ignored = TaskSpec { image: "python:3.12".into(), ..task("true") };
    let notices = subject.runtime.prepare(&ignored, &[]).await.unwrap();
    assert!(notices.0.iter().any(|notice| notice.contains("python:3.12")), "{notices:?}");
    subject.runtime.remove(ignored.id).await.unwrap();
    subject.exited().await;
    let nowhere = TaskSpec { image: "dir:/no/such/dir".into(), ..task("true") };
    assert!(subject.runtime.stage(&nowhere).await.unwrap_err().user_error);
    assert!(subject.runtime.prepare(&nowhere, &[]).await.unwrap_err().user_error);
    subject.finish(here.id).await;
}

#[tokio::test]
async fn sockets_work_below_long_paths() {
    let long =
        "a-directory-whose-name-is-so-long-that-the-path-of-a-socket-in-it-does-not-fit-into-an-address-any-more";
    let mut place = Place::new();
    place.run_dir = long;
    let mut subject = place.start();
    assert!(subject.run(&task("true")).await.is_success());
    subject.finish(task("").id).await;
}

#[tokio::test]
async fn nobody_else_speaks_for_the_shim() {
    let place = Place::new();
    let mut subject = place.start();
    let task = task("echo up; sleep 600");
    subject.launch(&task).await;
    let socket = place.dir.path().join("run").join(task.id.to_string()).join("s");
    let impostor = std::os::unix::net::UnixStream::connect(socket).unwrap();
    impostor.set_read_timeout(Some(contract::PATIENCE)).unwrap();
    let read = tokio::task::spawn_blocking(move || std::io::Read::read(&mut &impostor, &mut [0; 8]));
    assert_eq!(read.await.unwrap().unwrap(), 0, "it is turned away");
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    subject.finish(task.id).await;
}

/// As a task in a container can do with the socket of its own shim.
#[tokio::test]
async fn a_flood_of_strangers_keeps_nobody_from_being_heard() {
    let place = Place::new();
    let mut subject = place.start();
    let task = task("echo up; sleep 600");
    subject.launch(&task).await;
    let socket = place.dir.path().join("run").join(task.id.to_string()).join("s");
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = over.clone();
    let flood = std::thread::spawn(move || {
        let mut connected = 0_u64;
        // The folder goes with the task.
        while !ends.load(std::sync::atomic::Ordering::Relaxed) && socket.exists() {
            connected += u64::from(std::os::unix::net::UnixStream::connect(&socket).is_ok());
        }
        connected
    });
    subject.runtime.stop(task.id, Duration::ZERO).await.unwrap();
    assert_eq!(subject.exited().await.class, ExitClass::Stopped);
    subject.runtime.remove(task.id).await.unwrap();
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(flood.join().unwrap() > 0);
    subject.finish(task.id).await;
}

#[tokio::test]
async fn a_record_from_before_there_were_generations_learns_its_own() {
    let place = Place::new();
    let running = task("echo up; sleep 600");
    let mut first = place.start();
    first.launch(&running).await;
    drop(first);
    for name in ["task.json", "task.copy.json"] {
        let path = place.task_dir().join(name);
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(record.as_object_mut().unwrap().remove("generation").is_some(), "{record}");
        std::fs::write(&path, record.to_string()).unwrap();
    }
    let mut second = place.start();
    let told = async |subject: &Subject| subject.runtime.recorded(PATIENCE).await.unwrap().found[0].generation;
    assert_eq!(told(&second).await, Generation(0));
    let adopted = second.runtime.adopt_decided(&running, Generation(7)).await.unwrap();
    assert!(matches!(adopted, Adopted::Running { .. }), "{adopted:?}");
    assert_eq!(told(&second).await, Generation(7));
    // What it tells is not changed any more.
    second.runtime.adopt_decided(&running, Generation(8)).await.unwrap();
    assert_eq!(told(&second).await, Generation(7));
    second.runtime.remove(running.id).await.unwrap();
    second.exited().await;
    second.finish(running.id).await;
}

#[tokio::test]
async fn records_that_cannot_be_read_are_told_and_not_taken_for_none() {
    let place = Place::new();
    let running = task("sleep 600");
    let mut subject = place.start();
    subject.launch(&running).await;
    let path = place.task_dir().join("task.json");
    let kept = std::fs::read_to_string(&path).unwrap();
    let mut newer: serde_json::Value = serde_json::from_str(&kept).unwrap();
    newer["level"] = 99.into();
    std::fs::write(&path, newer.to_string()).unwrap();
    let records = subject.runtime.recorded(PATIENCE).await.unwrap();
    assert!(records.found.is_empty() && records.unread[&running.id].contains("level is 99"), "{records:?}");
    // Reading a folder fails as a broken disk does.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let records = subject.runtime.recorded(PATIENCE).await.unwrap();
    assert!(records.found.is_empty() && records.unread[&running.id].contains("task.json"), "{records:?}");
    // What the disk has not answered in time is not known either.
    let late = subject.runtime.recorded(Duration::ZERO).await;
    assert!(late.as_ref().map_or_else(|_| true, |late| late.unread.len() == 1), "{late:?}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, kept).unwrap();
    let records = subject.runtime.recorded(PATIENCE).await.unwrap();
    assert!(records.found.len() == 1 && records.unread.is_empty(), "{records:?}");
    subject.runtime.remove(running.id).await.unwrap();
    subject.exited().await;
    subject.finish(running.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_are_adopted_together() {
    let place = Place::new();
    let mut first = place.start();
    let tasks: Vec<TaskSpec> =
        (0..20).map(|index| TaskSpec { id: TaskId { index, ..task("").id }, ..task("sleep 600") }).collect();
    for task in &tasks {
        first.launch(task).await;
    }
    drop(first);
    let mut second = place.start();
    let begun = std::time::Instant::now();
    let mut adopting = tokio::task::JoinSet::new();
    for task in tasks.clone() {
        let runtime = second.runtime.clone();
        adopting.spawn(async move { runtime.adopt(&task).await });
    }
    for adopted in adopting.join_all().await {
        assert!(matches!(adopted, Ok(Adopted::Running { .. })), "{adopted:?}");
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let mut removing = tokio::task::JoinSet::new();
    for task in tasks {
        let runtime = second.runtime.clone();
        removing.spawn(async move { runtime.remove(task.id).await });
    }
    for _ in 0..20 {
        assert_eq!(second.exited().await.class, ExitClass::Stopped);
    }
    assert!(removing.join_all().await.iter().all(Result::is_ok));
    second.quiet();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_runs_no_task_unless_the_policy_says_so() {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let place = Place::new();
    let root = place.dir.path();
    let start = |policy: Policy| {
        let config = ProcessConfig {
            policy,
            ..ProcessConfig::new(root.join("state"), root.join("run"), place.parent.clone())
        };
        let (sender, events) = mpsc::channel(16);
        Subject { runtime: Arc::new(ProcessRuntime::new(config, sender).unwrap()), events }
    };
    let task = task("true");
    let usual = start(Policy::default());
    let refused = usual.runtime.prepare(&task, &[]).await.unwrap_err();
    assert!(refused.message.contains("agent.toml: policy.users") && !refused.user_error, "{refused}");
    assert!(!root.join("state/tasks").join(task.id.to_string()).exists(), "nothing of it is left");
    drop(usual);
    let mut subject = start(everybody());
    subject.launch(&task).await;
    assert!(subject.exited().await.is_success());
    subject.finish(task.id).await;
}
