//! Which control group hierarchies this machine has: v2 alone, v1 controllers, or both side by side.
//! Reads the mount table and nothing else; creates no group.

use std::path::PathBuf;

/// Controllers that carry a limit of ours. Groups are made in their hierarchies only.
const LIMITING: [&str; 3] = ["memory", "cpu", "pids"];
/// systemd follows a unit's processes here (v1 and hybrid); a shim must leave the agent's unit.
const SYSTEMD: &str = "name=systemd";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub unified: bool,
    /// Controllers of this hierarchy that carry a limit.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// A hierarchy as it is mounted, whatever it controls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub at: PathBuf,
    /// Which of its groups is seen there: `/`, but for a machine in a container.
    pub root: PathBuf,
    pub unified: bool,
    /// Of the mount; controllers are among them in v1.
    pub options: Vec<String>,
}

impl Mount {
    /// What this hierarchy controls.
    pub fn controllers(&self) -> Vec<String> {
        if !self.unified {
            return self.options.clone();
        }
        let text = std::fs::read_to_string(self.at.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// Every control group hierarchy that is mounted, from the kernel's mount table.
pub fn mounts() -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(parse_line).collect()
}

/// The hierarchies worth a group per task.
pub fn detect() -> Vec<Hierarchy> {
    of_mounts(mounts(), Mount::controllers)
}

/// `controllers` tells what a mount controls.
fn of_mounts(mounts: Vec<Mount>, controllers: impl Fn(&Mount) -> Vec<String>) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for mount in mounts {
        let selected = select(&controllers(&mount));
        let useful = mount.unified || !selected.is_empty() || mount.options.iter().any(|option| option == SYSTEMD);
        let known = found.iter().any(|other| other.unified == mount.unified && other.controllers == selected);
        // A second mount of the same hierarchy shows the same groups.
        if useful && !known {
            found.push(Hierarchy { mount: mount.at, unified: mount.unified, controllers: selected });
        }
    }
    found
}

fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, at) = (unescape(left.next()?), unescape(left.next()?));
    let mut right = right.split(' ');
    let kind = right.next()?;
    let options = right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    let unified = match kind {
        "cgroup2" => true,
        "cgroup" => false,
        _ => return None,
    };
    Some(Mount { at: at.into(), root: root.into(), unified, options })
}

fn select(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| LIMITING.contains(&name.as_str())).cloned().collect()
}

/// The mount table writes blanks as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(table: &str, unified_controllers: &str) -> Vec<Hierarchy> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let controllers =
            |mount: &Mount| if mount.unified { words(unified_controllers) } else { mount.options.clone() };
        of_mounts(table.lines().filter_map(parse_line).collect(), controllers)
    }

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
36 30 0:31 / /mnt/with\\040blank rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_machine_has_v1_controllers_and_a_bare_unified_hierarchy() {
        let found = parse(HYBRID, "");
        let shown: Vec<_> =
            found.iter().map(|h| (h.mount.to_str().unwrap(), h.unified, h.controllers.clone())).collect();
        assert_eq!(
            shown,
            [
                ("/sys/fs/cgroup/cpu", false, vec!["cpu".to_owned()]),
                ("/sys/fs/cgroup/memory", false, vec!["memory".to_owned()]),
                ("/sys/fs/cgroup/systemd", false, vec![]),
                ("/sys/fs/cgroup/unified", true, vec![]),
            ]
        );
    }

    #[test]
    fn a_unified_machine_has_one_hierarchy() {
        let table = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = parse(table, "cpuset cpu io memory hugetlb pids rdma misc\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].unified && found[0].has("memory") && found[0].has("cpu") && found[0].has("pids"));
    }

    #[test]
    fn mounts_with_blanks_are_read() {
        let table = "36 30 0:31 / /mnt/with\\040blank rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse(table, "")[0].mount, Path::new("/mnt/with blank"));
    }

    #[test]
    fn no_groups_at_all_is_fine() {
        assert_eq!(parse("", ""), []);
    }
}
