//! The control groups of one task: limits, who is in them, killing and removing them.
//!
//! In every useful hierarchy a task has `PARENT/TASK/shim` and `PARENT/TASK/payload`. The shim stands apart, so
//! that it outlives the payload's out-of-memory kill and the kill of the payload at the end. Where groups cannot
//! be made (no root, read-only mounts) everything goes on without, and each limit that is not enforced is told.

mod limits;

pub use limits::Limits;

use crate::domain::ids::TaskId;
use crate::runtime::shimmed::hierarchy::{self, Hierarchy};
use crate::runtime::shimmed::process_id;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const PAYLOAD: &str = "payload";
pub const SHIM: &str = "shim";
/// Nested groups that a task with rights may have made; deeper ones than this are not ours to understand.
const MAX_DEPTH: usize = 16;

/// Where the groups of tasks live.
#[derive(Debug, Clone)]
pub struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Relative to every hierarchy's mount, such as `wharf/NODE_UID`.
    parent: PathBuf,
}

/// The groups of one task that exist.
#[derive(Debug, Clone)]
pub struct TaskGroups {
    groups: Vec<Group>,
    parent: PathBuf,
}

#[derive(Debug, Clone)]
struct Group {
    hierarchy: Hierarchy,
    /// `MOUNT/PARENT/TASK`.
    dir: PathBuf,
}

impl Cgroups {
    pub fn detect(parent: &str) -> Self {
        Self { hierarchies: hierarchy::detect(), parent: relative(parent) }
    }

    /// Without any hierarchy: limits become notices, the rest works.
    #[cfg(test)]
    pub fn none() -> Self {
        Self { hierarchies: Vec::new(), parent: PathBuf::new() }
    }

    /// Removes the parent itself, where it is empty.
    #[cfg(test)]
    pub fn remove_parent(&self) {
        for hierarchy in &self.hierarchies {
            fs::remove_dir(hierarchy.mount.join(&self.parent)).ok();
        }
    }

    /// Makes the groups of a task and sets its limits. What could not be done comes back as notices.
    pub fn create(&self, id: TaskId, limits: &Limits) -> (TaskGroups, Vec<String>) {
        let mut groups = Vec::new();
        let mut failures = Vec::new();
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.mount.join(&self.parent).join(id.to_string());
            match make(hierarchy, &self.parent, &dir) {
                Ok(()) => groups.push(Group { hierarchy: hierarchy.clone(), dir }),
                Err(message) => {
                    remove_tree(&dir, 0).ok();
                    failures.push((hierarchy.clone(), message));
                }
            }
        }
        let notices = limits::apply(limits, &groups, &failures);
        (TaskGroups { groups, parent: self.parent.clone() }, notices)
    }

    /// The groups of a task that an earlier agent process made.
    pub fn existing(&self, id: TaskId) -> TaskGroups {
        let groups = self
            .hierarchies
            .iter()
            .map(|hierarchy| Group {
                hierarchy: hierarchy.clone(),
                dir: hierarchy.mount.join(&self.parent).join(id.to_string()),
            })
            .filter(|group| group.dir.is_dir())
            .collect();
        TaskGroups { groups, parent: self.parent.clone() }
    }

    /// Tasks that have a group here, whatever else is left of them.
    pub fn tasks(&self) -> BTreeSet<TaskId> {
        let mut found = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            let Ok(entries) = fs::read_dir(hierarchy.mount.join(&self.parent)) else { continue };
            found.extend(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<TaskId>().ok()));
        }
        found
    }
}

impl TaskGroups {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What the forked child of a task's shim or command joins by itself, by writing `0`: `tasks` of the v1 groups.
    /// For a single thread this takes no lock that the whole machine has to agree on.
    pub fn entries(&self, part: &str) -> io::Result<Vec<File>> {
        let groups = self.groups.iter().filter(|group| !group.hierarchy.unified);
        groups.map(|group| open_to_write(&group.dir.join(part).join("tasks"))).collect()
    }

    /// The folder of the v2 group, where a child may be born.
    pub fn unified_folder(&self, part: &str) -> Option<io::Result<OwnedFd>> {
        let group = self.groups.iter().find(|group| group.hierarchy.unified)?;
        let dir = group.dir.join(part);
        Some(File::open(&dir).map(OwnedFd::from).map_err(|error| at(&dir, error)))
    }

    /// All groups of the payload, open for writing: writing `0` moves the writer, which must be a single thread.
    pub fn payload_entries(&self) -> io::Result<Vec<File>> {
        let mut entries = self.entries(PAYLOAD)?;
        let unified = self.groups.iter().filter(|group| group.hierarchy.unified);
        for group in unified {
            entries.push(open_to_write(&group.dir.join(PAYLOAD).join("cgroup.procs"))?);
        }
        Ok(entries)
    }

    /// `cgroup.kill` of the payload, where the kernel has it (v2 from Linux 5.14, hybrid machines included).
    pub fn payload_kill(&self) -> Option<File> {
        self.unified_file(PAYLOAD, "cgroup.kill")
    }

    /// The file with the payload's `oom_kill` counter: `memory.events` in v2, `memory.oom_control` in v1.
    pub fn payload_oom_counter(&self) -> Option<File> {
        let group = self.groups.iter().find(|group| group.hierarchy.has("memory"))?;
        let name = if group.hierarchy.unified { "memory.events" } else { "memory.oom_control" };
        File::open(group.dir.join(PAYLOAD).join(name)).ok()
    }

    /// Every process in any group of the task, the shim included.
    pub fn members(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for group in &self.groups {
            collect_members(&group.dir, 0, &mut pids);
        }
        pids
    }

    /// SIGKILL to everything in the task's groups, once. New children of a racing fork may remain.
    pub fn kill(&self) {
        for group in self.groups.iter().filter(|group| group.hierarchy.unified) {
            // Missing before Linux 5.14; the loop below covers that.
            fs::write(group.dir.join("cgroup.kill"), "1").ok();
        }
        for pid in self.members() {
            process_id::kill_if(pid, |pid| self.holds(pid));
        }
    }

    /// Removes the groups once they are empty, killing what is found in them until `deadline` has passed.
    pub async fn remove(&self, deadline: Duration) -> io::Result<()> {
        let end = Instant::now() + deadline;
        let mut pause = Duration::from_millis(2);
        loop {
            let groups = self.clone();
            let attempt = move || {
                groups.kill();
                groups.try_remove()
            };
            let result = tokio::task::spawn_blocking(attempt).await.map_err(io::Error::other)?;
            match result {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn try_remove(&self) -> io::Result<()> {
        self.groups.iter().try_for_each(|group| remove_tree(&group.dir, 0))
    }

    /// Says whether the kernel counts `pid` to this task: pids are reused, groups tell.
    fn holds(&self, pid: i32) -> bool {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { return false };
        let Some(task) = self.groups.first().and_then(|group| group.dir.file_name()) else { return false };
        let wanted = format!("/{}/", self.parent.join(task).display());
        text.lines().any(|line| format!("{line}/").contains(&wanted))
    }

    fn unified_file(&self, part: &str, name: &str) -> Option<File> {
        let group = self.groups.iter().find(|group| group.hierarchy.unified)?;
        OpenOptions::new().write(true).open(group.dir.join(part).join(name)).ok()
    }
}

/// A parent is a path below the mount, whatever the configuration wrote.
fn relative(parent: &str) -> PathBuf {
    parent.split('/').filter(|part| !part.is_empty() && *part != "." && *part != "..").collect()
}

fn make(hierarchy: &Hierarchy, parent: &Path, dir: &Path) -> Result<(), String> {
    for part in [SHIM, PAYLOAD] {
        let path = dir.join(part);
        fs::create_dir_all(&path).map_err(|error| format!("creating {}: {error}", path.display()))?;
    }
    if hierarchy.unified {
        // A v2 child has only the controllers that each ancestor hands down.
        let mut at = hierarchy.mount.clone();
        let below: Vec<_> = parent.iter().chain(dir.file_name()).collect();
        for name in std::iter::once(None).chain(below.into_iter().map(Some)) {
            at.extend(name);
            let control = at.join("cgroup.subtree_control");
            // What is handed down already is not written again: above the unit that systemd has delegated to us, each
            // group has one writer, which is systemd.
            let handed_down = fs::read_to_string(&control).unwrap_or_default();
            let missing = |name: &&String| !handed_down.split_whitespace().any(|known| known == name.as_str());
            for controller in hierarchy.controllers.iter().filter(missing) {
                // A refusal shows when the limit is written, with the file's name.
                fs::write(&control, format!("+{controller}")).ok();
            }
        }
    }
    Ok(())
}

fn collect_members(dir: &Path, depth: usize, pids: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(dir, depth) {
        collect_members(&child, depth + 1, pids);
    }
}

fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
    for child in children(dir, depth) {
        remove_tree(&child, depth + 1)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(dir, error)),
        _ => Ok(()),
    }
}

fn children(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = if depth < MAX_DEPTH { fs::read_dir(dir).ok() } else { None };
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.into_iter().flatten().flatten().filter(is_dir).map(|entry| entry.path()).collect()
}

fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path).map_err(|error| at(path, error))
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
