//! What the kernel knows: which processes belong to a folder, and control groups that are left.

use super::wait::pause;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Processes, zombies aside, that name `folder` in their arguments, environment or working directory, and what
/// descends from them: a task itself need not name it, its shim does.
pub fn of_folder(folder: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).expect("process ids are small");
    let needle = folder.as_os_str().as_encoded_bytes();
    let all = all();
    let mut found: BTreeSet<i32> = all.iter().copied().filter(|pid| *pid != own && names(*pid, needle)).collect();
    loop {
        let more: Vec<i32> = all.iter().copied().filter(|pid| !found.contains(pid)).collect();
        let more: Vec<i32> =
            more.into_iter().filter(|pid| parent(*pid).is_some_and(|of| found.contains(&of))).collect();
        if more.is_empty() {
            return found.into_iter().collect();
        }
        found.extend(more);
    }
}

pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, parentheses too; the state and the parent follow the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Those that a process has started, or that were left to it.
pub fn children(pid: i32) -> Vec<i32> {
    all().into_iter().filter(|other| parent(*other) == Some(pid)).collect()
}

fn names(pid: i32, needle: &[u8]) -> bool {
    let found = |bytes: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
    ["cmdline", "environ"].iter().any(|file| fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|text| found(&text)))
        || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| found(cwd.as_os_str().as_encoded_bytes()))
}

/// Processes with this among their arguments.
pub fn with_argument(argument: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
    };
    all().into_iter().filter(has).collect()
}

/// A field of `/proc/PID/FILE` in lines of `NAME: NUMBER`.
pub fn number(pid: i32, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every process that is no zombie.
fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// The process exists and is no zombie.
pub fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit_once(')').is_some_and(|(_, rest)| !matches!(rest.trim_start().chars().next(), Some('Z' | 'X') | None))
}

/// A variable in the environment that a process was started with.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{name}=");
    let entry = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    Some(String::from_utf8_lossy(entry).into_owned())
}

pub fn kill9(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Ends everything that belongs to a folder; it may start more while we look.
pub fn kill_folder(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = of_folder(folder);
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|pid| kill9(*pid));
        if Instant::now() > deadline {
            eprintln!("processes of {} cannot be killed: {left:?}", folder.display());
            return;
        }
        pause(Duration::from_millis(10));
    }
}

/// The control groups within those named `name`, in whatever hierarchy.
pub fn groups_of(name: &str) -> Vec<PathBuf> {
    let within = |group: PathBuf| fs::read_dir(group).into_iter().flatten().flatten();
    let groups = groups(Path::new("/sys/fs/cgroup"), name, 5).into_iter().flat_map(within);
    groups.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// Removes the control groups named `name`, in whatever hierarchy; nothing runs in them any more.
pub fn remove_groups(name: &str) {
    for found in groups(Path::new("/sys/fs/cgroup"), name, 5) {
        remove_group(&found);
    }
}

fn groups(below: &Path, name: &str, depth: usize) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(below) else { return Vec::new() };
    let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found = Vec::new();
    for folder in folders {
        if folder.file_name() == name {
            found.push(folder.path());
        } else if depth > 0 {
            found.extend(groups(&folder.path(), name, depth - 1));
        }
    }
    found
}

fn remove_group(folder: &Path) {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten();
    inner
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .for_each(|entry| remove_group(&entry.path()));
    let _ = fs::remove_dir(folder);
}
