//! Runs against the real hierarchies of this machine, under a parent of its own.

use super::super::spawn;
use super::*;
use crate::domain::ids::{JobId, RunId};
use std::process::{Child, Command, Stdio};

const LIMITS: Limits = Limits { memory_mb: 64, cpus: 1, pids: 100, shm_mb: 64 };

fn task() -> TaskId {
    TaskId { job: JobId(1), run: RunId(2), role: 3, index: 4 }
}

/// Parents are unique so that tests run side by side, and removed again.
struct Parent(String);

impl Parent {
    fn new() -> Self {
        Self(format!("wharf-test-{}", uuid::Uuid::new_v4()))
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for hierarchy in hierarchy::detect() {
            std::fs::remove_dir(hierarchy.mount.join(&self.0)).ok();
        }
    }
}

fn sleeper() -> Child {
    Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn groups_carry_limits_and_go_away_with_everything_in_them() {
    let parent = Parent::new();
    let cgroups = Cgroups::detect(&parent.0);
    let (groups, notices) = cgroups.create(task(), &LIMITS);
    if groups.is_empty() {
        assert!(!notices.is_empty(), "without groups no limit is enforced, and that is told");
        return;
    }
    assert_eq!(cgroups.tasks().into_iter().collect::<Vec<_>>(), [task()]);
    let sleep = std::path::Path::new("/bin/sleep");
    let shim = spawn::spawn(sleep, &["1000".into()], std::path::Path::new("/"), &groups).unwrap();
    let mut payload = sleeper();
    for entry in groups.payload_entries().unwrap() {
        use std::io::Write;
        (&entry).write_all(payload.id().to_string().as_bytes()).unwrap();
    }
    assert_eq!(groups.members(), BTreeSet::from([shim, payload.id() as i32]));
    if let Some(mut kill) = groups.payload_kill() {
        use std::io::Write;
        kill.write_all(b"1").unwrap();
        payload.wait().unwrap();
        assert_eq!(groups.members(), BTreeSet::from([shim]), "the shim stands apart");
    }
    cgroups.existing(task()).remove(Duration::from_secs(10)).await.unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(shim), None).unwrap();
    payload.wait().ok();
    assert!(cgroups.tasks().is_empty());
    assert!(cgroups.existing(task()).is_empty());
}

#[test]
fn limits_that_cannot_be_enforced_are_told() {
    let limits = Limits { shm_mb: 1024, ..LIMITS };
    let (groups, notices) = Cgroups::none().create(task(), &limits);
    assert!(groups.is_empty());
    assert_eq!(notices.len(), 4, "{notices:?}");
    assert!(notices[0].starts_with("the memory limit of 64 MB is not enforced: "), "{}", notices[0]);
    assert!(notices[3].contains("1024 MB"), "{}", notices[3]);
}

#[test]
fn a_parent_cannot_leave_its_mount() {
    assert_eq!(relative("/wharf/../n 1/./"), Path::new("wharf/n 1"));
}
