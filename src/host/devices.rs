//! The device nodes that tasks hold, as they look from inside: the node itself, and in version 1 of control groups whether
//! it may be opened. Nothing is opened and nothing is run: that would wake devices, or be the task's business.
//!
//! A container loses its devices where somebody makes its control group's list anew without them, as systemd does at a
//! `daemon-reload` for containers that it did not start; where a node is gone; and where the driver was loaded anew and
//! has another number. Version 2 keeps its list in a program of the kernel's that cannot be read.

use crate::domain::host::{DeviceNode, DeviceNumber, DeviceUser, DevicesSeen};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How the nodes of these tasks look. One whose process has ended is left out. Blocking.
pub fn seen_by(root: &Path, users: &[DeviceUser]) -> io::Result<Vec<DevicesSeen>> {
    Ok(users.iter().filter_map(|user| of_one(root, user)).collect())
}

fn of_one(root: &Path, user: &DeviceUser) -> Option<DevicesSeen> {
    let process = root.join("proc").join(user.pid.to_string());
    let rules = rules_of(root, &process);
    let inside = process.join("root/dev");
    // A link would lead out of the container.
    let has_folder = inside.symlink_metadata().is_ok_and(|found| found.is_dir());
    let node = |name: &String| {
        let on_host = number(root.join("dev").join(name).metadata());
        let inside = if has_folder { number(inside.join(name).symlink_metadata()) } else { None };
        let is_allowed = inside.or(on_host).zip(rules.as_ref()).map(|(number, rules)| allows(rules, number));
        DeviceNode { name: name.clone(), on_host, inside, is_allowed }
    };
    let nodes = user.nodes.iter().map(node).collect();
    // Whoever has ended meanwhile, or cannot be looked into, had no devices for a moment.
    process.join("root").metadata().ok()?;
    Some(DevicesSeen { task: user.task, nodes })
}

fn number(found: io::Result<Metadata>) -> Option<DeviceNumber> {
    let found = found.ok().filter(|found| found.file_type().is_char_device())?;
    Some((u64::from(libc::major(found.rdev())), u64::from(libc::minor(found.rdev()))))
}

/// What the process's control group lets it open; none in version 2.
fn rules_of(root: &Path, process: &Path) -> Option<String> {
    let groups = super::read(&process.join("cgroup")).ok()?;
    // `7:devices:/docker/0123`.
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == "devices").then_some(path)
    })?;
    let relative = PathBuf::from(path.trim_start_matches('/'));
    super::read(&root.join("sys/fs/cgroup/devices").join(relative).join("devices.list")).ok()
}

/// Lines as `a *:* rwm` and `c 195:* rw`.
fn allows(rules: &str, (major, minor): DeviceNumber) -> bool {
    let fits = |pattern: &str, number: u64| pattern == "*" || pattern.parse() == Ok(number);
    rules.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(numbers), Some(access)) = (words.next(), words.next(), words.next()) else {
            return false;
        };
        let Some((majors, minors)) = numbers.split_once(':') else { return false };
        let is_it = matches!(kind, "a" | "c") && fits(majors, major) && fits(minors, minor);
        is_it && access.contains('r') && access.contains('w')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(pid: i32, nodes: &[&str]) -> DeviceUser {
        let nodes = nodes.iter().map(|name| (*name).to_owned()).collect();
        DeviceUser { task: "1.1.0.0".parse().unwrap(), pid, nodes }
    }

    #[test]
    fn rules_are_the_kernels() {
        let rules = "c 1:3 rwm\nc 195:* rw\nb 8:0 rwm\nc 5:1 r\nnonsense\nc x:y rw\n";
        for (number, expected) in
            [((1, 3), true), ((195, 255), true), ((8, 0), false), ((5, 1), false), ((510, 0), false)]
        {
            assert_eq!(allows(rules, number), expected, "{number:?}");
        }
        assert!(allows("a *:* rwm\n", (510, 0)) && !allows("", (1, 3)));
    }

    #[test]
    fn a_process_of_this_machine_sees_its_nodes_and_one_that_is_gone_is_left_out() {
        let own = i32::try_from(std::process::id()).unwrap();
        let seen =
            seen_by(Path::new("/"), &[user(own, &["null", "no-such-node"]), user(i32::MAX, &["null"])]).unwrap();
        assert_eq!(seen.len(), 1);
        let nodes: Vec<_> = seen[0].nodes.iter().map(|node| (node.on_host, node.inside)).collect();
        assert_eq!(nodes, [(Some((1, 3)), Some((1, 3))), (None, None)]);
    }

    #[test]
    fn the_list_of_its_control_group_is_read_where_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.path().join("dev/nvidia0")).unwrap();
        put("proc/7/root/etc/hostname", "");
        let allowed = || seen_by(root.path(), &[user(7, &["nvidia0"])]).unwrap()[0].nodes[0].is_allowed;
        put("proc/7/cgroup", "0::/docker/abc\n");
        assert_eq!(allowed(), None, "version 2 does not say");
        put("proc/7/cgroup", "12:pids:/x\n4:devices:/docker/abc\n");
        assert_eq!(allowed(), None, "it is not there");
        put("sys/fs/cgroup/devices/docker/abc/devices.list", "c 1:3 rwm\n");
        assert_eq!(allowed(), Some(true));
        put("sys/fs/cgroup/devices/docker/abc/devices.list", "c 1:9 rwm\n");
        assert_eq!(allowed(), Some(false));
    }

    #[test]
    fn a_link_in_a_container_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/7/root/dev")).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.path().join("proc/7/root/dev/nvidia0")).unwrap();
        std::fs::create_dir_all(root.path().join("proc/8/root")).unwrap();
        std::os::unix::fs::symlink("/dev", root.path().join("proc/8/root/dev")).unwrap();
        let seen = seen_by(root.path(), &[user(7, &["nvidia0"]), user(8, &["null"])]).unwrap();
        assert!(seen.len() == 2 && seen.iter().all(|task| task.nodes[0].inside.is_none()), "{seen:?}");
    }
}
