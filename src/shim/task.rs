//! What the shim holds for its task: the specification, the descriptors it was given, and what it found when it
//! looked around before `Ready`.

use super::exit::EXIT_FILE_BYTES;
use super::protocol::{Check, CheckKind, Slot};
use super::spec::{Command, MAX_COMMAND_BYTES, MAX_SPEC_BYTES, ShimSpec};
use super::sys::{self, EINVAL, ENOENT, O_NONBLOCK, O_RDONLY, O_RDWR};
use super::wire;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Where a library named without a folder is looked for: the loader's folders and the places that GPU runtimes use.
const LIBRARY_FOLDERS: [&str; 10] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/local/lib",
];

/// Descriptors by use. All are close-on-exec.
#[derive(Default)]
pub struct Files {
    pub segments: Vec<File>,
    pub exit: Option<File>,
    /// Only if it shows the shim's own process namespace.
    pub proc: Option<OwnedFd>,
    pub cgroup_procs: Vec<OwnedFd>,
    pub cgroup_folder: Option<OwnedFd>,
    pub cgroup_kill: Option<OwnedFd>,
    pub oom_count: Option<File>,
    pub stdin: Option<OwnedFd>,
}

impl Files {
    /// Sorts descriptors by their slots. The file of the specification is given back beside them.
    pub fn sort(slots: &[Slot], descriptors: Vec<OwnedFd>) -> (Self, Option<File>) {
        let (mut files, mut spec) = (Self::default(), None);
        for (slot, fd) in slots.iter().zip(descriptors) {
            match slot {
                Slot::Spec => spec = Some(File::from(fd)),
                Slot::Segment => files.segments.push(File::from(fd)),
                Slot::Exit => files.exit = Some(File::from(fd)),
                Slot::Proc => files.proc = Some(fd),
                Slot::CgroupProcs => files.cgroup_procs.push(fd),
                Slot::CgroupFolder => files.cgroup_folder = Some(fd),
                Slot::CgroupKill => files.cgroup_kill = Some(fd),
                Slot::OomCount => files.oom_count = Some(File::from(fd)),
                Slot::Stdin => files.stdin = Some(fd),
            }
        }
        (files, spec)
    }

    /// What the task's cgroup has counted by now.
    pub fn memory_counts(&self) -> MemoryCounts {
        let mut text = [0; 4096];
        let length = self.oom_count.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        memory_counts_in(&text[..length])
    }
}

/// A cgroup that was out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryCounts {
    /// Processes that the kernel has killed for memory, whoever's memory it was.
    pub oom_kills: u64,
    /// How often the cgroup's own limit was met; only v2 counts it.
    pub limit_hits: Option<u64>,
}

/// The `oom_kill` line of `memory.events` and of `memory.oom_control`, and the `oom` line of the former.
fn memory_counts_in(text: &[u8]) -> MemoryCounts {
    let number = |name: &[u8]| {
        let mut lines = text.split(|byte| *byte == b'\n').filter_map(|line| line.strip_prefix(name));
        lines.find_map(|number| std::str::from_utf8(number).ok()?.trim().parse::<u64>().ok())
    };
    MemoryCounts { oom_kills: number(b"oom_kill ").unwrap_or(0), limit_hits: number(b"oom ") }
}

/// A file of the agent's, from its beginning, at most one byte more than `allowed` so that the decoder refuses it.
fn read_bounded(file: &File, allowed: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // A pipe cannot seek, and is at its beginning.
    let _ = std::io::Seek::rewind(&mut &*file);
    file.take(allowed as u64 + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

pub fn read_spec(file: Option<&File>) -> Result<ShimSpec, String> {
    let file = file.ok_or("no descriptor for it came along")?;
    ShimSpec::decode(&read_bounded(file, MAX_SPEC_BYTES)?).map_err(|error| error.to_string())
}

pub fn read_command(file: &File) -> Result<Command, String> {
    Command::decode(&read_bounded(file, MAX_COMMAND_BYTES)?).map_err(|error| error.to_string())
}

/// Looks around before `Ready`, and makes use of what needs no command: namespaces, room for the exit record.
pub fn inspect(spec: &ShimSpec, files: &mut Files) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut note = |kind, subject: &str, result: Result<(), i32>, what: &str| {
        let errno = result.err().unwrap_or(0);
        let message = if errno == 0 { String::new() } else { format!("{what}: {}", sys::describe(errno)) };
        // Long paths are no paths; the frame has a limit.
        let subject = wire::cut(subject, 128).to_owned();
        checks.push(Check { kind, subject, errno, message });
    };
    let reserved = match files.exit.as_ref() {
        Some(exit) => {
            exit.write_all_at(&[0; EXIT_FILE_BYTES], 0).map_err(|error| error.raw_os_error().unwrap_or(sys::EIO))
        }
        None => Err(EINVAL),
    };
    note(CheckKind::Files, "exit", reserved, "reserve room for the exit record");
    if files.segments.is_empty() {
        note(CheckKind::Files, "segments", Err(EINVAL), "keep output without a log segment");
    }
    if let Some(proc) = files.proc.as_ref() {
        let own = sys::read_link_at(proc.as_fd(), c"self");
        let matches = own.map(|pid| pid == std::process::id().to_string().into_bytes());
        let result = matches.and_then(|matches| if matches { Ok(()) } else { Err(ENOENT) });
        note(CheckKind::Proc, "", result, "find the shim itself in /proc");
        if result.is_err() {
            files.proc = None;
        }
    }
    if spec.new_ipc_namespace {
        note(CheckKind::IpcNamespace, "", sys::new_ipc_namespace(), "make an IPC namespace");
    }
    for (kind, path) in &spec.checks {
        note(*kind, path, look(*kind, path), "open it");
    }
    checks
}

fn look(kind: CheckKind, path: &str) -> Result<(), i32> {
    let open = |path: &str, flags| {
        let path = CString::new(path).map_err(|_| EINVAL)?;
        sys::open_at(None, &path, flags | O_NONBLOCK).map(drop)
    };
    match kind {
        CheckKind::DeviceNode => open(path, O_RDWR),
        _ if path.contains('/') => open(path, O_RDONLY),
        _ => {
            let found = LIBRARY_FOLDERS.iter().any(|folder| open(&format!("{folder}/{path}"), O_RDONLY).is_ok());
            if found { Ok(()) } else { Err(ENOENT) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_oom_count_are_read() {
        let counts = |oom_kills, limit_hits| MemoryCounts { oom_kills, limit_hits };
        let v1 = b"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(memory_counts_in(v1), counts(3, None));
        let v2 = b"low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(memory_counts_in(v2), counts(1, Some(2)));
        assert_eq!(memory_counts_in(b"oom_kill many"), counts(0, None));
        assert_eq!(memory_counts_in(b""), counts(0, None));
    }

    #[test]
    fn devices_and_libraries_are_looked_for() {
        assert_eq!(look(CheckKind::DeviceNode, "/dev/null"), Ok(()));
        assert_eq!(look(CheckKind::DeviceNode, "/dev/nvidia-not-there"), Err(ENOENT));
        assert_eq!(look(CheckKind::Library, "libwharf-not-there.so.1"), Err(ENOENT));
    }
}
