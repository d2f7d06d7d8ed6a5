//! Finds and ends what the task has left. The shim is the subreaper: every process of the task is below it, whatever
//! sessions and parents it made for itself, and once the shim has no child there is none left.

use super::sys::{self, O_RDONLY, SIGKILL};
use super::task::Files;
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Parents of parents that are looked at.
const MAX_DEPTH: usize = 4096;

/// What one line of `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// Tells two processes of one number apart.
    start_ticks: u64,
}

/// SIGKILL to everything of the task that can be found. To be repeated until [`sys::reap`] says that no child is left.
pub fn kill_all(files: &Files, child: Option<i32>) {
    if let Some(child) = child {
        let _ = sys::send_signal(-child, SIGKILL);
        let _ = sys::send_signal(child, SIGKILL);
    }
    if let Some(kill) = &files.cgroup_kill {
        let _ = sys::write_fd(kill.as_raw_fd(), b"1");
    }
    if std::process::id() == 1 {
        // The process namespace is ours alone.
        let _ = sys::send_signal(-1, SIGKILL);
    }
    let Some(proc) = files.proc.as_ref() else { return };
    let own = std::process::id() as i32;
    for (pid, seen) in below(own, &table(proc)) {
        end_exactly(proc, pid, seen, own);
    }
}

/// The processes below the shim, as many as are named in a record.
pub fn leftovers(files: &Files) -> Vec<u32> {
    let Some(proc) = files.proc.as_ref() else { return Vec::new() };
    below(std::process::id() as i32, &table(proc)).into_iter().map(|(pid, _)| pid as u32).collect()
}

/// Is this process below the shim? `None`: it is not there any more, or `/proc` cannot be read.
pub fn is_below(files: &Files, pid: u32) -> Option<bool> {
    let proc = files.proc.as_ref()?;
    let own = std::process::id() as i32;
    let mut at = i32::try_from(pid).ok()?;
    // No process is deeper; the table may change while it is walked.
    for _ in 0..MAX_DEPTH {
        if at == own {
            return Some(true);
        }
        if at <= 1 {
            return Some(false);
        }
        at = stat(proc, at)?.parent;
    }
    None
}

/// Kills this process and no later one of the same number: between looking and killing a parent other than us may
/// have reaped it.
fn end_exactly(proc: &OwnedFd, pid: i32, seen: Stat, own: i32) {
    match sys::open_process(pid) {
        Ok(process) => {
            if stat(proc, pid).is_some_and(|now| now.start_ticks == seen.start_ticks) {
                let _ = sys::signal_process(&process, SIGKILL);
            }
        }
        // An old kernel: only our own children cannot be reaped by others. Theirs become ours, for the next round.
        Err(_) if seen.parent == own => {
            let _ = sys::send_signal(pid, SIGKILL);
        }
        Err(_) => {}
    }
}

fn below(root: i32, table: &HashMap<i32, Stat>) -> Vec<(i32, Stat)> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for (pid, stat) in table {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        // Taken out, so that a table that was read while it changed cannot lead in a circle.
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child);
            found.extend(table.get(&child).map(|stat| (child, *stat)));
        }
    }
    found
}

fn table(proc: &OwnedFd) -> HashMap<i32, Stat> {
    let mut table = HashMap::new();
    // A description of its own: its position is at the beginning.
    let Ok(directory) = sys::open_at(Some(proc.as_fd()), c".", O_RDONLY) else { return table };
    let mut entries = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = sys::read_directory(&directory, &mut entries) {
        for pid in pids_in(&entries[..length]) {
            table.extend(stat(proc, pid).map(|stat| (pid, stat)));
        }
    }
    table
}

/// The numeric names among linux_dirent64 entries: inode 8 bytes, position 8, length of the entry 2, type 1, name.
fn pids_in(mut entries: &[u8]) -> Vec<i32> {
    let mut pids = Vec::new();
    while entries.len() > 19 {
        let length = usize::from(u16::from_le_bytes([entries[16], entries[17]]));
        let Some(entry) = entries.get(..length).filter(|entry| entry.len() > 19) else { break };
        let name = entry[19..].split(|byte| *byte == 0).next().unwrap_or(&[]);
        pids.extend(std::str::from_utf8(name).ok().and_then(|name| name.parse::<i32>().ok()));
        entries = &entries[length..];
    }
    pids
}

fn stat(proc: &OwnedFd, pid: i32) -> Option<Stat> {
    let path = CString::new(format!("{pid}/stat")).ok()?;
    let file = sys::open_at(Some(proc.as_fd()), &path, O_RDONLY).ok()?;
    let mut text = [0; 1024];
    let length = sys::read_fd(file.as_raw_fd(), &mut text).ok()?;
    parse_stat(&text[..length])
}

/// The name of the program is in parentheses and may hold anything, so the numbers are counted from the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    // state, ppid, ... : the start time is field 22 of the line, and the state field 3.
    let mut fields = rest.split_ascii_whitespace().skip(1);
    Some(Stat { parent: fields.next()?.parse().ok()?, start_ticks: fields.nth(17)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_program_name_does_not_confuse() {
        let line = b"42 (a) R 1 (x) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 98765 11 12 13\n";
        assert_eq!(parse_stat(line), Some(Stat { parent: 7, start_ticks: 98765 }));
        assert_eq!(parse_stat(b"42 (cat"), None);
        assert_eq!(parse_stat(b"42 (cat) S 7"), None);
    }

    #[test]
    fn only_what_is_below_is_found_even_in_a_torn_table() {
        let stat = |parent| Stat { parent, start_ticks: 1 };
        let table =
            HashMap::from([(2, stat(1)), (3, stat(2)), (4, stat(9)), (5, stat(6)), (6, stat(5)), (9, stat(1))]);
        let mut found: Vec<i32> = below(2, &table).into_iter().map(|(pid, _)| pid).collect();
        assert_eq!(found, [3]);
        found = below(1, &table).into_iter().map(|(pid, _)| pid).collect();
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4, 9]);
        assert_eq!(below(5, &table).len(), 2);
    }
}
