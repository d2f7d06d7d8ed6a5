//! OpenPAI's v1 job protocol, as SCM documents it: JSON to [`JobSpec`].
//!
//! Where the sources differ:
//! - Limits and required fields are those of SCM's page: `jobName`, `image`, `taskRoles`, and in a role `name`,
//!   `taskNumber`, `cpuNumber`, `memoryMB`, `gpuNumber`, `command`, and in a port `label`, `beginAt`,
//!   `portNumber`. OpenPAI's server had defaults for the numbers (1 task, 1 CPU, 100 MB, 0 GPUs, any one port);
//!   every known job file names them, and a forgotten one is more often a mistake, so absence is an error.
//! - `retryCount` goes down to -2, which SCM's page does not allow and real files use.
//! - Role names and port labels have no `-`, as in both documents: they become parts of variable names.
//! - An absent `minFailedTaskCount` is 1, an absent `minSucceededTaskCount` is off; `null` turns either off.
//! - Unknown keys are warnings: OpenPAI refused them, but SCM's own files carry `tmp` and `storageGB`.
//! - `null` for an optional text is refused, as OpenPAI did; the empty text reads as absent.
//! - Numbers may stand in quotes (`"1"`), as OpenPAI's server converted them.
//!
//! URIs stay as written here: what `$PAI_*` in them stands for is known at submit (`jobfile::substitute`).

mod container;
mod extras;
mod job_env;
mod limits;
mod name;
mod placement;
mod ports;
mod role;
mod secrets;
#[cfg(test)]
mod tests;

pub(super) use limits::MAX_ARGUMENT_BYTES;

use super::env::{MAX_ENVIRONMENT_BYTES, environment_bytes_at_most};
use super::fields::{Fields, entries};
use super::json::{Node, Value, shorten, to_text};
use super::report::{MAX_FOUND_CHARS, Report};
use super::secrets::Lifted;
use crate::domain::quantity::{MAX_NAME_BYTES, MAX_TASKS_PER_JOB};
use crate::domain::spec::{CommandStyle, JobSpec, RoleSpec};
use std::collections::BTreeMap;

const KNOWN: [&str; 14] = [
    "jobName",
    "image",
    "authFile",
    "dataDir",
    "outputDir",
    "codeDir",
    "virtualCluster",
    "taskRoles",
    "gpuType",
    "retryCount",
    "jobEnvs",
    "extras",
    // OpenPAI before v0.6.
    "killAllOnCompletedTaskNumber",
    // SCM's web form leaves its own state here.
    "tmp",
];

/// Reads the whole file, in which `lifted` is masked, reporting everything on the way. `None` only when something was reported.
pub(super) fn read(root: &Node, lifted: Vec<Lifted>, file: &str, report: &mut Report<'_>) -> Option<JobSpec> {
    if !matches!(root.value, Value::Object(_)) {
        report.wrong_kind(file, root, "an object", "an OpenPAI job: {\"jobName\": ..., \"taskRoles\": [...]}");
        return None;
    }
    let fields = Fields::of(root, "", &KNOWN, report)?;
    if let Some(version) = fields.get("protocolVersion") {
        report.wrong(
            "protocolVersion",
            version,
            "belongs to OpenPAI's v2 protocol",
            "a job of OpenPAI's v1 protocol",
        );
    }
    let name = name::job_name(&fields, report);
    let image = image(&fields, report);
    let uris = ["authFile", "dataDir", "outputDir", "codeDir"].map(|field| uri(&fields, field, report));
    let virtual_cluster = virtual_cluster(&fields, report);
    let roles = roles(&fields, report);
    let gpu_types = gpu_types(&fields, report);
    let retry_count = fields.optional_integer("retryCount", 0, limits::RETRIES, report);
    let env = job_env::read(&fields, report);
    let extras = extras::read(&fields, report);
    let of_env = env.as_ref().map(|env| env.variables.as_slice()).unwrap_or_default();
    let secrets = secrets::read(lifted, of_env, report);
    let extras_json = fields.get("extras").map_or_else(|| "{}".to_owned(), |node| to_text(&node.value));
    if let Some(node) = fields.get("killAllOnCompletedTaskNumber") {
        let message = "ignored; minSucceededTaskCount of a role ends a job early";
        report.warn("killAllOnCompletedTaskNumber", node.at, message);
    }
    fields.warn_unknown(report);

    let both = extras.as_ref().zip(env.as_ref());
    let pointless = both.is_some_and(|(extras, env)| extras.debug_hold_s.is_some() && !env.debug);
    if let Some(node) = fields.get("extras").filter(|_| pointless) {
        report.warn("extras.wharf.debugHoldSeconds", node.at, "has no effect without \"isDebug\": true in jobEnvs");
    }

    let [auth_file, data_dir, output_dir, code_dir] = uris;
    let (env, extras) = (env?, extras?);
    let spec = JobSpec {
        name: name?,
        image: image?,
        auth_file: auth_file?,
        data_dir: data_dir?,
        output_dir: output_dir?,
        code_dir: code_dir?,
        virtual_cluster: virtual_cluster?,
        gpu_types: gpu_types?,
        retry_count: retry_count?,
        env: env.variables,
        secrets: secrets?,
        debug: env.debug,
        debug_hold_s: extras.debug_hold_s.filter(|_| env.debug),
        extras_json,
        roles: roles?,
        command_style: CommandStyle::Shell,
        on_node_lost: extras.on_node_lost,
        priority: extras.priority,
        container: extras.container,
        placement: extras.placement,
    };
    refuse_large_environment(&spec, root, report);
    Some(spec)
}

/// Every task is told every task's address and ports; beyond a size no program can be started with that.
fn refuse_large_environment(spec: &JobSpec, root: &Node, report: &mut Report<'_>) {
    let bytes = environment_bytes_at_most(spec);
    if bytes > MAX_ENVIRONMENT_BYTES {
        let allowed = format!(
            "up to {MAX_ENVIRONMENT_BYTES} bytes: fewer tasks or ports, or shorter names of roles and labels"
        );
        let message = "the PAI_* variables of all tasks would be too large for a program's environment";
        report.violation("taskRoles", root.at, message, format!("about {bytes} bytes"), allowed);
    }
}

fn image(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let allowed = "the name of an image, such as registry/name:tag";
    let (text, node) = fields.required_text("image", allowed, report)?;
    if text.trim().is_empty() {
        report.wrong("image", node, "is empty", allowed);
    } else if text.len() > limits::MAX_URI_BYTES || text.chars().any(char::is_control) {
        report.wrong("image", node, "is too long or holds control characters", allowed);
    } else {
        if text.contains(char::is_whitespace) {
            report.warn("image", node.at, "holds a space, which no image name does");
        }
        return Some(text.to_owned());
    }
    None
}

fn uri(fields: &Fields<'_>, name: &str, report: &mut Report<'_>) -> Option<String> {
    let allowed = format!("a URI of at most {} bytes in one line, or \"\"", limits::MAX_URI_BYTES);
    line_of_text(fields, name, limits::MAX_URI_BYTES, &allowed, report)
}

fn virtual_cluster(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let allowed = format!("a name of at most {MAX_NAME_BYTES} bytes, or \"\" for default");
    let name = line_of_text(fields, "virtualCluster", MAX_NAME_BYTES, &allowed, report)?;
    Some(if name.is_empty() { "default".to_owned() } else { name })
}

/// An optional text that fits a line.
fn line_of_text(
    fields: &Fields<'_>,
    name: &str,
    max_bytes: usize,
    allowed: &str,
    report: &mut Report<'_>,
) -> Option<String> {
    let (text, at) = fields.optional_text(name, allowed, report)?;
    if text.len() > max_bytes || text.chars().any(char::is_control) {
        let found = shorten(&Value::String(text.to_owned()), MAX_FOUND_CHARS);
        report.violation(&fields.path(name), at, "is too long or holds control characters", found, allowed);
        return None;
    }
    Some(text.to_owned())
}

/// A list with commas; each type once, in the file's order.
fn gpu_types(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<String>> {
    let allowed =
        format!("GPU types with commas between, such as H100,A100, at most {MAX_NAME_BYTES} bytes, or \"\" for any");
    let text = line_of_text(fields, "gpuType", MAX_NAME_BYTES, &allowed, report)?;
    let mut types: Vec<String> = Vec::new();
    for kind in text.split(',').map(str::trim).filter(|kind| !kind.is_empty()) {
        if kind.contains(char::is_whitespace) {
            let node = fields.get("gpuType")?;
            report.wrong("gpuType", node, "holds a space within a type", allowed);
            return None;
        }
        if !types.iter().any(|known| known == kind) {
            types.push(kind.to_owned());
        }
    }
    Some(types)
}

fn roles(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<RoleSpec>> {
    let allowed = "a list of at least one task role";
    let node = fields.require("taskRoles", allowed, report)?;
    let nodes = entries(node, "taskRoles", report)?;
    if nodes.is_empty() {
        report.wrong("taskRoles", node, "is empty", allowed);
        return None;
    }
    if nodes.len() > MAX_TASKS_PER_JOB as usize {
        let allowed = format!("at most {MAX_TASKS_PER_JOB} tasks, all roles together");
        report.violation("taskRoles", node.at, "has too many roles", nodes.len().to_string(), allowed);
        return None;
    }
    let roles: Vec<Option<RoleSpec>> =
        nodes.iter().enumerate().map(|(position, node)| role::read(node, position, report)).collect();
    refuse_same_names(nodes, report);
    let total: u64 = roles.iter().flatten().map(|role| u64::from(role.count)).sum();
    if total > u64::from(MAX_TASKS_PER_JOB) {
        let allowed = format!("at most {MAX_TASKS_PER_JOB} tasks, all roles together");
        report.violation("taskRoles", node.at, "asks for too many tasks", total.to_string(), allowed);
        return None;
    }
    roles.into_iter().collect()
}

/// OpenPAI let roles of one name collapse into the last of them; here it is an error that names both.
fn refuse_same_names(nodes: &[Node], report: &mut Report<'_>) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (position, node) in nodes.iter().enumerate() {
        let Value::Object(members) = &node.value else { continue };
        let Some(member) = members.iter().find(|member| member.key == "name") else { continue };
        let Value::String(name) = &member.node.value else { continue };
        let first = *seen.entry(name).or_insert(position);
        if first != position {
            let message = format!("is the name of taskRoles[{first}] too");
            report.wrong(
                &format!("taskRoles[{position}].name"),
                &member.node,
                message,
                "a name of its own for every role",
            );
        }
    }
}
