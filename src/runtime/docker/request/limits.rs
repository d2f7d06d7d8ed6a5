//! A task's limits on resources, in Docker's words. Pure.

use super::NodeFacts;
use crate::domain::container::Ulimit;
use crate::domain::task::TaskSpec;
use crate::shim::spec::ResourceLimit;
use bollard::models::{HostConfig, ResourcesUlimits};
use std::collections::BTreeSet;

const MB: u64 = 1024 * 1024;
/// The kernel's default period of CPU accounting.
const CPU_PERIOD_US: i64 = 100_000;
/// Docker has no limit on address space: its own start in the container would meet it.
const ADDRESS_SPACE: &str = "as";

/// Memory, CPU, processes, shared memory.
pub(super) fn apply(config: &mut HostConfig, task: &TaskSpec, node: &NodeFacts, notices: &mut Vec<String>) {
    let bytes = |mb: u64| i64::try_from(mb.saturating_mul(MB)).unwrap_or(i64::MAX);
    if task.memory_mb > 0 {
        config.memory = Some(bytes(task.memory_mb));
        // Memory and swap together: no swap beside it, so that the limit is one.
        config.memory_swap = config.memory;
    }
    if task.cpus > 0 {
        config.cpu_period = Some(CPU_PERIOD_US);
        config.cpu_quota = Some(i64::from(task.cpus) * CPU_PERIOD_US);
    }
    // Docker takes 0 for its own 64 MB.
    config.shm_size = (task.shm_mb > 0).then(|| bytes(task.shm_mb));
    // More than the node's has been refused; it holds in any case.
    config.pids_limit = task.container.pids_limit.into_iter().chain(node.pids_limit).min().map(i64::from);
    config.ulimits = Some(ulimits(task, node)).filter(|limits| !limits.is_empty());
    if task.container.numa_cpus {
        match numa_cpus(task, node) {
            Ok(cpus) => config.cpuset_cpus = Some(cpus),
            Err(notice) => notices.push(notice),
        }
    }
}

/// The job's limits, for the command alone: as limits of the shim they would cut its log and its connections.
pub fn shim_limits(task: &TaskSpec) -> Vec<ResourceLimit> {
    let of = |limit: &Ulimit| {
        let (resource, _) = kernel(&limit.name)?;
        Some(ResourceLimit { resource, soft: value(limit.soft), hard: value(limit.hard) })
    };
    task.container.ulimits.iter().filter_map(of).collect()
}

/// -1 is no limit.
fn value(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// The kernel's number of a limit, and the least that the shim needs of it.
fn kernel(name: &str) -> Option<(u32, u64)> {
    Some(match name {
        "as" => (libc::RLIMIT_AS, u64::MAX),
        "core" => (libc::RLIMIT_CORE, 0),
        "cpu" => (libc::RLIMIT_CPU, u64::MAX),
        "data" => (libc::RLIMIT_DATA, u64::MAX),
        "fsize" => (libc::RLIMIT_FSIZE, u64::MAX),
        "locks" => (libc::RLIMIT_LOCKS, 0),
        "memlock" => (libc::RLIMIT_MEMLOCK, 0),
        "msgqueue" => (libc::RLIMIT_MSGQUEUE, 0),
        "nice" => (libc::RLIMIT_NICE, 0),
        "nofile" => (libc::RLIMIT_NOFILE, 1024),
        "nproc" => (libc::RLIMIT_NPROC, u64::MAX),
        "rss" => (libc::RLIMIT_RSS, 0),
        "rtprio" => (libc::RLIMIT_RTPRIO, 0),
        "sigpending" => (libc::RLIMIT_SIGPENDING, 1024),
        "stack" => (libc::RLIMIT_STACK, 8 * MB),
        _ => return None,
    })
}

/// What the shim must have, so that it can give the command what the job asks for: only root with a capability that
/// containers do not get can raise a hard limit later. Never less than the shim needs itself.
fn ulimits(task: &TaskSpec, node: &NodeFacts) -> Vec<ResourcesUlimits> {
    let docker = |name: &str, limit: u64| {
        let limit = Some(i64::try_from(limit).unwrap_or(-1));
        ResourcesUlimits { name: Some(name.to_owned()), soft: limit, hard: limit }
    };
    let raised = |limit: &Ulimit| {
        let (_, needed) = kernel(&limit.name).filter(|_| limit.name != ADDRESS_SPACE)?;
        Some(docker(&limit.name, value(limit.hard).max(needed)))
    };
    let mut limits: Vec<_> = task.container.ulimits.iter().filter_map(raised).collect();
    let says = limits.iter().any(|limit| limit.name.as_deref() == Some("memlock"));
    if task.container.infiniband && node.infiniband && !says {
        // Registered memory is locked memory.
        limits.push(docker("memlock", u64::MAX));
    }
    limits
}

/// CPUs next to the task's GPUs.
fn numa_cpus(task: &TaskSpec, node: &NodeFacts) -> Result<String, String> {
    let unknown = |why: &str| format!("extras.wharf.container.numaCpus: any CPUs of the node are used: {why}");
    if task.gpus.is_empty() {
        return Err(unknown("the task has no GPUs"));
    }
    let mut nodes = BTreeSet::new();
    for uuid in &task.gpus {
        let gpu = node.gpus.iter().find(|gpu| gpu.uuid == *uuid);
        nodes.insert(gpu.and_then(|gpu| gpu.numa_node).ok_or_else(|| unknown("a GPU's NUMA node is not known"))?);
    }
    let cpus = nodes.iter().map(|numa| node.numa_cpus.get(numa).map(String::as_str).filter(|cpus| !cpus.is_empty()));
    let cpus: Option<Vec<&str>> = cpus.collect();
    cpus.map(|cpus| cpus.join(",")).ok_or_else(|| unknown("the CPUs of a GPU's NUMA node are not known"))
}

/// Added capabilities, and those taken away.
pub(super) fn capabilities(task: &TaskSpec, node: &NodeFacts) -> (Vec<String>, Vec<String>) {
    let mut added: Vec<String> = task.container.capabilities.clone();
    if task.container.infiniband && node.infiniband && !added.iter().any(|name| name == "IPC_LOCK") {
        added.push("IPC_LOCK".to_owned());
    }
    // With it nvidia-smi would make the nodes of all other GPUs.
    let mknod = "MKNOD".to_owned();
    let dropped = if added.contains(&mknod) { Vec::new() } else { vec![mknod] };
    (added, dropped)
}
