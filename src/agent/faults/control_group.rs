//! Whose a process is, by its control groups: for faults that name a process or a group, and no GPU of one task.

use super::super::actor::Actor;
use crate::domain::ids::TaskId;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Of `/proc/PID/cgroup`: a line for each of a dozen hierarchies.
const MAX_BYTES: u64 = 16 * 1024;
/// A storm of messages is about few processes.
const REMEMBERED: usize = 32;
/// How long a process id means the same process.
const FRESH: Duration = Duration::from_secs(1);
/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// What a path of control groups names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A group that the agent made for a process task.
    Task(TaskId),
    /// One that an engine made for a container, by its id.
    Container(String),
}

/// Processes that were looked at a moment ago.
#[derive(Debug, Default)]
pub struct Seen(VecDeque<(Duration, u32, Option<TaskId>)>);

/// The outermost group that says whose it is: tasks may make others within theirs, with any name.
pub fn named(path: &str) -> Option<Named> {
    let id = |part: &str| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit('-').next().unwrap_or(part);
        let hex = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| Named::Container(id.to_owned()))
    };
    path.split('/').find_map(|part| part.parse().ok().map(Named::Task).or_else(|| id(part)))
}

/// What the control groups of a process name. A process that is gone is nobody's.
fn of_process(proc: &Path, pid: u32) -> Option<Named> {
    let file = File::open(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    // `4:memory:/a/b`; `0::/a/b` in version 2.
    String::from_utf8_lossy(&bytes).lines().find_map(|line| named(line.splitn(3, ':').nth(2)?))
}

impl Actor {
    /// The task that a process of this machine is of.
    pub(super) fn task_of_process(&mut self, pid: u32) -> Option<TaskId> {
        let now = self.clock.boottime();
        let seen = &mut self.fault_book.processes.0;
        seen.retain(|(at, ..)| now.saturating_sub(*at) < FRESH);
        if let Some((.., task)) = seen.iter().find(|(_, known, _)| *known == pid) {
            return *task;
        }
        // The kernel answers from memory; a process that hangs does not keep it from that.
        let task = of_process(Path::new("/proc"), pid).and_then(|named| self.task_named(named));
        let seen = &mut self.fault_book.processes.0;
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back((now, pid, task));
        task
    }

    /// The task that a control group is of.
    pub(super) fn task_of_group(&self, path: &str) -> Option<TaskId> {
        named(path).and_then(|named| self.task_named(named))
    }

    fn task_named(&self, named: Named) -> Option<TaskId> {
        let task = match named {
            Named::Task(task) => Some(task),
            Named::Container(id) => self.executor.runtime.task_of_container(&id),
        };
        task.filter(|task| self.entries.contains_key(task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_name_tasks_and_containers_and_others_nothing() {
        let id = "0123456789abcdef".repeat(4);
        let task = |text: &str| Some(Named::Task(text.parse().unwrap()));
        let container = Some(Named::Container(id.clone()));
        for (path, expected) in [
            ("/wharf/3f2a/7.9.0.3/payload".to_owned(), task("7.9.0.3")),
            // What a task names its own groups is its own affair.
            ("/wharf/3f2a/7.9.0.3/payload/8.8.0.0".to_owned(), task("7.9.0.3")),
            (format!("/docker/{id}"), container.clone()),
            (format!("/system.slice/docker-{id}.scope"), container.clone()),
            (format!("/docker/{id}/7.9.0.3"), container),
            ("/user.slice/user-0.slice/session-3.scope".to_owned(), None),
            ("/docker/short".to_owned(), None),
            ("/".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(named(&path), expected, "{path}");
        }
    }

    #[test]
    fn a_process_is_found_by_its_groups_and_one_that_is_gone_is_nobodys() {
        let proc = tempfile::tempdir().unwrap();
        let put = |pid: u32, text: &str| {
            std::fs::create_dir(proc.path().join(pid.to_string())).unwrap();
            std::fs::write(proc.path().join(pid.to_string()).join("cgroup"), text).unwrap();
        };
        put(5, "12:pids:/\n4:memory:/wharf/n/1.2.0.0/payload\n0::/init.scope\n");
        put(6, "0::/\n");
        put(7, &"x".repeat(100_000));
        assert_eq!(of_process(proc.path(), 5), Some(Named::Task("1.2.0.0".parse().unwrap())));
        assert_eq!([6, 7, 8].map(|pid| of_process(proc.path(), pid)), [None, None, None]);
    }
}
