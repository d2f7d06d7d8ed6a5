//! Writes a task's limits into its groups; a limit that is not enforced becomes a sentence, never an error.

use super::{Group, Hierarchy, PAYLOAD};
use crate::domain::quantity::DEFAULT_SHM_MB;
use std::fs;

/// The kernel's scheduling period in µs; quotas are counted in it.
const CPU_PERIOD_US: u64 = 100_000;

/// What a task may use. Zero means no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub memory_mb: u64,
    pub cpus: u32,
    pub pids: u32,
    /// Told as not enforced when it is not the default: processes share the machine's /dev/shm.
    pub shm_mb: u64,
}

pub(super) fn apply(limits: &Limits, groups: &[Group], failures: &[(Hierarchy, String)]) -> Vec<String> {
    let mut notices = Vec::new();
    let mut enforce = |what: String, controller: &str, write: &dyn Fn(&Group) -> Result<(), String>| {
        let result = match groups.iter().find(|group| group.hierarchy.has(controller)) {
            Some(group) => write(group),
            None => Err(absent(controller, failures)),
        };
        if let Err(message) = result {
            notices.push(format!("{what} is not enforced: {message}"));
        }
    };
    if limits.memory_mb > 0 {
        enforce(format!("the memory limit of {} MB", limits.memory_mb), "memory", &|group| memory(group, limits));
    }
    if limits.cpus > 0 {
        enforce(format!("the limit of {} CPUs", limits.cpus), "cpu", &|group| cpu(group, limits));
    }
    if limits.pids > 0 {
        let write = |group: &Group| set(group, "pids.max", &limits.pids.to_string());
        enforce(format!("the limit of {} processes", limits.pids), "pids", &write);
    }
    if limits.shm_mb != DEFAULT_SHM_MB && limits.shm_mb != 0 {
        notices.push(format!(
            "shared memory of {} MB is not enforced: processes use the machine's own /dev/shm",
            limits.shm_mb
        ));
    }
    notices
}

fn absent(controller: &str, failures: &[(Hierarchy, String)]) -> String {
    match failures.iter().find(|(hierarchy, _)| hierarchy.has(controller)) {
        Some((_, message)) => message.clone(),
        None => format!("this machine mounts no {controller} control group"),
    }
}

fn memory(group: &Group, limits: &Limits) -> Result<(), String> {
    let bytes = limits.memory_mb.saturating_mul(1024 * 1024).to_string();
    if group.hierarchy.unified {
        set(group, "memory.max", &bytes)?;
        // Without swap a limit means what it says; kernels without swap accounting lack the file.
        set(group, "memory.swap.max", "0").ok();
    } else {
        set(group, "memory.limit_in_bytes", &bytes)?;
        set(group, "memory.memsw.limit_in_bytes", &bytes).ok();
    }
    Ok(())
}

fn cpu(group: &Group, limits: &Limits) -> Result<(), String> {
    let quota = u64::from(limits.cpus) * CPU_PERIOD_US;
    if group.hierarchy.unified {
        set(group, "cpu.max", &format!("{quota} {CPU_PERIOD_US}"))
    } else {
        set(group, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
        set(group, "cpu.cfs_quota_us", &quota.to_string())
    }
}

fn set(group: &Group, name: &str, value: &str) -> Result<(), String> {
    let path = group.dir.join(PAYLOAD).join(name);
    // Not fs::write: a file that is missing must not be created or truncated, only refused.
    let result = fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
        use std::io::Write;
        file.write_all(value.as_bytes())
    });
    result.map_err(|error| format!("writing {}: {error}", path.display()))
}
