//! The control groups that dockerd made for a container: who is in them, how often memory ran out, killing everybody.
//! Found once through the container's first process and kept, so that nothing of this needs dockerd. Blocking.

use crate::runtime::shimmed::hierarchy::{self, Mount};
use crate::runtime::shimmed::process_id;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Nested groups that a task with rights may have made.
const MAX_DEPTH: usize = 16;

/// The groups of one container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ContainerGroups {
    /// A part of the path of each group: nobody else's group has it.
    container: String,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    dir: PathBuf,
    unified: bool,
    controllers: Vec<String>,
}

impl ContainerGroups {
    /// Those of `pid`, as far as they are named after the container: others are not the container's own.
    pub fn of(pid: i32, container: &str) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        Ok(Self { container: container.to_owned(), groups: groups(&text, container, &hierarchy::mounts()) })
    }

    /// The file with the container's `oom_kill` counter: `memory.events` in v2, `memory.oom_control` in v1.
    pub fn oom_counter(&self) -> Option<File> {
        let group = self.groups.iter().find(|group| group.has("memory"))?;
        let name = if group.unified { "memory.events" } else { "memory.oom_control" };
        File::open(group.dir.join(name)).ok()
    }

    /// Everybody in any of them.
    pub fn members(&self) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for group in &self.groups {
            collect_members(&group.dir, 0, &mut pids);
        }
        pids
    }

    pub fn holds(&self, pid: i32) -> bool {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        !self.container.is_empty() && text.lines().any(|line| line.contains(&self.container))
    }

    /// One round of killing; who was found. Forks may run before it: to be repeated until nobody is.
    pub fn kill_once(&self) -> BTreeSet<i32> {
        let found = self.members();
        if !found.is_empty() {
            self.thaw();
        }
        found.iter().for_each(|pid| process_id::kill_if(*pid, |pid| self.holds(pid)));
        found
    }

    /// The frozen (`docker pause`) do not die before they run again.
    fn thaw(&self) {
        for group in &self.groups {
            let (name, word) = if group.unified { ("cgroup.freeze", "0") } else { ("freezer.state", "THAWED") };
            if group.unified || group.has("freezer") {
                fs::write(group.dir.join(name), word).ok();
            }
        }
    }
}

impl Group {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// Lines of `/proc/PID/cgroup`, `ID:CONTROLLERS:PATH`, as folders of this machine.
fn groups(text: &str, container: &str, mounts: &[Mount]) -> Vec<Group> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        if container.is_empty() || !path.contains(container) {
            continue;
        }
        let controllers: Vec<&str> = controllers.split(',').filter(|name| !name.is_empty()).collect();
        let unified = controllers.is_empty();
        let fits = |mount: &&Mount| {
            mount.unified == unified
                && (unified || controllers.iter().all(|name| mount.options.iter().any(|o| o == name)))
        };
        let Some(mount) = mounts.iter().find(fits) else { continue };
        let Ok(below) = Path::new(path).strip_prefix(&mount.root) else { continue };
        found.push(Group {
            dir: mount.at.join(below),
            unified,
            controllers: if unified {
                mount.controllers()
            } else {
                controllers.into_iter().map(str::to_owned).collect()
            },
        });
    }
    found
}

fn collect_members(dir: &Path, depth: usize, pids: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    if depth >= MAX_DEPTH {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_members(&entry.path(), depth + 1, pids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(at: &str, root: &str, unified: bool, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { at: at.into(), root: root.into(), unified, options }
    }

    #[test]
    fn both_versions_lead_to_folders_and_strangers_to_none() {
        let id = "abc123";
        let mounts = [
            mount("/sys/fs/cgroup/memory", "/", false, &["rw", "memory"]),
            mount("/sys/fs/cgroup/cpu", "/", false, &["rw", "cpu", "cpuacct"]),
            mount("/sys/fs/cgroup/freezer", "/outer", false, &["rw", "freezer"]),
            mount("/sys/fs/cgroup/unified", "/", true, &["rw"]),
        ];
        let text = "9:memory:/docker/abc123\n8:cpu,cpuacct:/docker/abc123\n7:freezer:/outer/docker/abc123\n\
            6:pids:/docker/abc123\n5:memory:/user.slice\n0::/system.slice/docker-abc123.scope\n";
        let found = groups(text, id, &mounts);
        let dirs: Vec<_> = found.iter().map(|group| group.dir.display().to_string()).collect();
        assert_eq!(
            dirs,
            [
                "/sys/fs/cgroup/memory/docker/abc123",
                "/sys/fs/cgroup/cpu/docker/abc123",
                "/sys/fs/cgroup/freezer/docker/abc123",
                "/sys/fs/cgroup/unified/system.slice/docker-abc123.scope",
            ]
        );
        assert!(found[0].has("memory") && found[3].unified);
        assert_eq!(groups(text, "", &mounts), [], "nothing is named after nobody");
    }

    #[test]
    fn groups_of_nobody_are_empty() {
        let none = ContainerGroups::default();
        assert!(none.members().is_empty() && none.oom_counter().is_none());
        assert!(!none.holds(std::process::id() as i32));
        assert!(none.kill_once().is_empty());
    }
}
