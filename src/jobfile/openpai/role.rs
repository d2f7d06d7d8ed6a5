//! One entry of `taskRoles`.

use super::super::fields::Fields;
use super::super::json::{Node, Value};
use super::super::report::Report;
use super::{limits, name, ports};
use crate::domain::quantity::{DEFAULT_SHM_MB, MAX_TASKS_PER_JOB};
use crate::domain::spec::RoleSpec;

const KNOWN: [&str; 11] = [
    "name",
    "taskNumber",
    "cpuNumber",
    "memoryMB",
    "shmMB",
    "gpuNumber",
    "portList",
    "command",
    "minFailedTaskCount",
    "minSucceededTaskCount",
    // SCM's disk quota, which it never enforced.
    "storageGB",
];

pub(super) fn read(node: &Node, position: usize, report: &mut Report<'_>) -> Option<RoleSpec> {
    let fields = Fields::of(node, &format!("taskRoles[{position}]"), &KNOWN, report)?;
    let name = name::label(&fields, "name", report);
    let count = fields.required_integer("taskNumber", 1..=i64::from(MAX_TASKS_PER_JOB), report);
    let cpus = fields.required_integer("cpuNumber", 1..=limits::MAX_CPUS_PER_TASK, report);
    let memory_mb = fields.required_integer("memoryMB", limits::MIN_MEMORY_MB..=limits::MAX_MEMORY_MB, report);
    let shm_mb = shm_mb(&fields, memory_mb, report);
    let gpus = fields.required_integer("gpuNumber", 0..=limits::MAX_GPUS_PER_TASK, report);
    let command = command(&fields, report);
    let ports = ports::read(&fields, report);
    let min_failed = min_tasks(&fields, "minFailedTaskCount", Some(1), count, report);
    let min_succeeded = min_tasks(&fields, "minSucceededTaskCount", None, count, report);
    fields.warn_unknown(report);
    Some(RoleSpec {
        name: name?,
        count: u32::try_from(count?).ok()?,
        cpus: u32::try_from(cpus?).ok()?,
        memory_mb: u64::try_from(memory_mb?).ok()?,
        shm_mb: u64::try_from(shm_mb?).ok()?,
        gpus: u32::try_from(gpus?).ok()?,
        ports: ports?,
        command: command?,
        min_failed: min_failed?,
        min_succeeded: min_succeeded?,
    })
}

/// Shared memory is part of the task's memory, so never more; Docker takes 0 for "the default", so at least 1.
fn shm_mb(fields: &Fields<'_>, memory_mb: Option<i64>, report: &mut Report<'_>) -> Option<i64> {
    let default = DEFAULT_SHM_MB as i64;
    let Some(node) = fields.get("shmMB") else { return Some(default) };
    let shm_mb = fields.optional_integer("shmMB", default, 1..=limits::MAX_MEMORY_MB, report)?;
    match memory_mb {
        Some(memory_mb) if shm_mb > memory_mb => {
            let allowed = format!("an integer from 1 to memoryMB ({memory_mb})");
            report.wrong(&fields.path("shmMB"), node, "is more than the task's memory", allowed);
            None
        }
        _ => Some(shm_mb),
    }
}

fn command(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let allowed = format!("a command for the shell, at most {} bytes", limits::MAX_ARGUMENT_BYTES);
    let (text, node) = fields.required_text("command", &allowed, report)?;
    if text.trim().is_empty() {
        report.wrong(&fields.path("command"), node, "is empty", allowed);
    } else if text.len() > limits::MAX_ARGUMENT_BYTES {
        report.wrong(&fields.path("command"), node, format!("is {} bytes long", text.len()), allowed);
    } else {
        return Some(text.to_owned());
    }
    None
}

/// `minFailedTaskCount` or `minSucceededTaskCount`: at most the role's tasks, `null` for off.
fn min_tasks(
    fields: &Fields<'_>,
    name: &str,
    default: Option<u32>,
    count: Option<i64>,
    report: &mut Report<'_>,
) -> Option<Option<u32>> {
    let Some(node) = fields.get(name) else { return Some(default) };
    if node.value == Value::Null {
        return Some(None);
    }
    // With a wrong taskNumber only the job's limit can be checked.
    let most = count.unwrap_or(i64::from(MAX_TASKS_PER_JOB));
    let allowed = match count {
        Some(count) => format!("an integer from 1 to taskNumber ({count}), or null"),
        None => "an integer from 1 to taskNumber, or null".to_owned(),
    };
    let value = fields.integer_of(name, node, &(1..=most), &allowed, report)?;
    Some(u32::try_from(value).ok())
}
