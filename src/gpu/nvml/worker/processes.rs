//! Who is on a device.

use super::super::wire::{Failure, Processes};
use super::Worker;
use super::errors::{Asked, optional};
use super::mig::instances;
use crate::domain::gpu::occupancy::GpuProcess;
use crate::domain::ids::GpuUuid;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nvml_wrapper::Device;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

const MB: u64 = 1024 * 1024;

impl Worker {
    pub(super) fn processes(&self, index: u32) -> Result<Processes, Failure> {
        let device = self.handle(index)?;
        let uuid = GpuUuid(device.uuid().asked(index, "for its UUID")?);
        let compute = shown(device.running_compute_processes()).asked(index, "who computes on it")?;
        let graphics = shown(device.running_graphics_processes()).asked(index, "who draws on it")?;
        let served = shown(device.mps_running_compute_processes()).asked(index, "who computes on it by MPS")?;
        // Graphics alone says nothing: boards without a display know no such thing.
        let unsupported = compute.is_none();
        let slices = self.slice_ids(&device, index)?;
        let mut found = BTreeMap::new();
        for process in [compute, graphics, served].into_iter().flatten().flatten() {
            if let Some(process) = look_at(Path::new("/proc"), &process, &uuid, &slices) {
                found.insert((process.gpu.clone(), process.pid), process);
            }
        }
        Ok(Processes { device: uuid, processes: found.into_values().collect(), unsupported })
    }

    /// Slices by the ids of their GPU instance and compute instance.
    fn slice_ids(&self, device: &Device<'_>, index: u32) -> Result<BTreeMap<(u32, u32), GpuUuid>, Failure> {
        let mut ids = BTreeMap::new();
        if Self::is_divided(device).asked(index, "for its MIG mode")? {
            for (_, slice) in self.slice_handles(device, index)? {
                let id = instances(&slice).asked(index, "for the instances of a MIG slice")?;
                ids.insert(id, GpuUuid(slice.uuid().asked(index, "for the UUID of a MIG slice")?));
            }
        }
        Ok(ids)
    }
}

/// `None`: the device does not show its processes, or not to us, as a divided one to an agent without rights.
fn shown(answer: Result<Vec<ProcessInfo>, NvmlError>) -> Result<Option<Vec<ProcessInfo>>, NvmlError> {
    match optional(answer) {
        Err(NvmlError::NoPermission) => Ok(None),
        answer => answer,
    }
}

/// `None`: it has ended meanwhile.
fn look_at(
    proc: &Path,
    process: &ProcessInfo,
    whole: &GpuUuid,
    slices: &BTreeMap<(u32, u32), GpuUuid>,
) -> Option<GpuProcess> {
    let slice = process.gpu_instance_id.zip(process.compute_instance_id).and_then(|id| slices.get(&id));
    let of = proc.join(process.pid.to_string());
    let command = match fs::read(of.join("comm")) {
        // The kernel cuts names in the middle of a character, and lets programs have any.
        Ok(name) => Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned()),
        Err(error) if is_gone(process.pid, &error) => return None,
        // Whoever cannot be looked at is there all the same.
        Err(_) => None,
    };
    let cgroups = fs::read(of.join("cgroup")).map(|text| String::from_utf8_lossy(&text).into_owned());
    let container = cgroups.as_deref().ok().and_then(container);
    let contained = match &cgroups {
        Ok(cgroups) => is_of_container(cgroups) || has_other_pids(proc, &of),
        Err(_) => true,
    };
    Some(GpuProcess {
        gpu: slice.unwrap_or(whole).clone(),
        pid: process.pid,
        memory_mb: match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes / MB),
            UsedGpuMemory::Unavailable => None,
        },
        command,
        container,
        contained,
    })
}

/// `error` came of reading a file of the process: that means its end only where all processes are shown. `/proc` can
/// be mounted so that it hides those of others.
fn is_gone(pid: u32, error: &io::Error) -> bool {
    let unknown = matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ESRCH));
    let lives = || i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH));
    unknown && sees_all_processes() && !lives()
}

/// This process is in the first namespace of process ids, whose inode the kernel fixes. Elsewhere a process that is
/// not seen may live all the same.
fn sees_all_processes() -> bool {
    const PROC_PID_INIT_INO: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == PROC_PID_INIT_INO)
}

/// It has process ids of its own, as in a container whose cgroup has a name that says nothing.
fn has_other_pids(proc: &Path, of: &Path) -> bool {
    let namespace = |of: &Path| fs::read_link(of.join("ns/pid"));
    matches!((namespace(of), namespace(&proc.join("self"))), (Ok(its), Ok(ours)) if its != ours)
}

/// The cgroup is one that container engines make. Tasks of wharf are in such, or in one that is named for wharf.
fn is_of_container(cgroups: &str) -> bool {
    let marks = ["docker", "libpod", "kubepods", "containerd", "crio", "lxc", "machine.slice"];
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    // The engines themselves are services of the machine; what is in wharf's may be a task.
    let marked = |part: &str| {
        let engine = marks.iter().any(|mark| part.starts_with(mark)) && !part.ends_with(".service");
        engine || part.starts_with("wharf")
    };
    container_id(cgroups).is_some() || paths.flat_map(|path| path.split('/')).any(marked)
}

/// `container ID` by what Docker, Podman, containerd and CRI-O call its cgroup, else the cgroup's own name; none for
/// the root.
fn container(cgroups: &str) -> Option<String> {
    let paths = || cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    container_id(cgroups).map(|id| format!("container {id}")).or_else(|| {
        let named =
            paths().map(|path| path.trim_matches('/')).filter(|path| !path.is_empty()).max_by_key(|path| path.len());
        named.map(|path| {
            let parts: Vec<&str> = path.rsplitn(3, '/').take(2).collect();
            let name: String = parts.into_iter().rev().collect::<Vec<_>>().join("/").chars().take(120).collect();
            format!("cgroup {name}")
        })
    })
}

/// The first 12 digits, as the engines show them.
fn container_id(cgroups: &str) -> Option<&str> {
    let mut parts = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.rsplit('/'));
    parts.find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit(['-', ':']).next().unwrap_or(part);
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| &id[..12])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_name_their_container() {
        let id = "3f2a5b7c9d1e".to_owned() + &"0".repeat(52);
        for path in [
            format!("12:pids:/docker/{id}\n0::/\n"),
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("0::/machine.slice/libpod-{id}.scope/container\n"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"),
            format!("5:cpu:/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}\n"),
        ] {
            assert_eq!(container(&path).as_deref(), Some("container 3f2a5b7c9d1e"), "{path}");
        }
        let session = "1:name=systemd:/user.slice/user-0.slice/session-3.scope\n0::/\n";
        assert_eq!(container(session).as_deref(), Some("cgroup user-0.slice/session-3.scope"));
        assert_eq!(container("0::/\n"), None);
        assert_eq!(container("nonsense"), None);
    }

    /// Above every process id that the kernel gives.
    const NOBODY: u32 = 1 << 30;

    fn seen(proc: &Path) -> Option<GpuProcess> {
        let process = ProcessInfo {
            pid: NOBODY,
            used_gpu_memory: UsedGpuMemory::Unavailable,
            gpu_instance_id: None,
            compute_instance_id: None,
        };
        look_at(proc, &process, &GpuUuid::from("A"), &BTreeMap::new())
    }

    #[test]
    fn only_a_process_that_has_ended_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let of = dir.path().join(NOBODY.to_string());
        assert_eq!(seen(dir.path()).is_none(), sees_all_processes());
        fs::create_dir_all(&of).unwrap();
        fs::write(of.join("cgroup"), "0::/\n").unwrap();
        // The name is cut in the middle of a character.
        fs::write(of.join("comm"), b"trainiere-gr\xc3\n").unwrap();
        let found = seen(dir.path()).expect("it lives");
        assert_eq!((found.command.as_deref(), found.contained), (Some("trainiere-gr\u{fffd}"), false));
        fs::remove_file(of.join("comm")).unwrap();
        // Reading it fails with another error than that it is not there.
        fs::create_dir(of.join("comm")).unwrap();
        assert_eq!(seen(dir.path()).expect("it may live").command, None);
        fs::remove_file(of.join("cgroup")).unwrap();
        assert!(seen(dir.path()).unwrap().contained, "nobody knows where it is");
    }

    #[test]
    fn what_is_in_a_container_is_told_by_its_cgroup_or_its_process_ids() {
        let id = "3f2a5b7c9d1e".to_owned() + &"0".repeat(52);
        for path in [
            format!("/system.slice/docker-{id}.scope"),
            "/lxc/a".into(),
            "/wharf/1.1.0.0".into(),
            "/wharf.slice/wharf-tasks.service/x".into(),
        ] {
            assert!(is_of_container(&format!("0::{path}\n")), "{path}");
        }
        for path in ["/", "/user.slice/user-0.slice/session-3.scope", "/system.slice/docker.service"] {
            assert!(!is_of_container(&format!("0::{path}\n")), "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        for (process, namespace) in [("self", "pid:[1]"), ("7", "pid:[1]"), ("8", "pid:[2]")] {
            let folder = dir.path().join(process).join("ns");
            fs::create_dir_all(&folder).unwrap();
            std::os::unix::fs::symlink(namespace, folder.join("pid")).unwrap();
        }
        let other = |process: &str| has_other_pids(dir.path(), &dir.path().join(process));
        assert_eq!((other("7"), other("8"), other("9")), (false, true, false));
    }
}
