//! `jobEnvs`: the job's own variables, literal.

use super::super::fields::Fields;
use super::super::json::{Node, Value};
use super::super::report::Report;
use super::limits::MAX_ARGUMENT_BYTES;

/// What decides which GPUs a task sees: wharf's alone, or a job could reach the GPUs of others.
const DECIDE_GPUS: [&str; 2] = ["NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"];

pub(super) const ALLOWED_NAMES: &str = "a letter or _ first, then letters, digits, _ . ~ -";

#[derive(Debug, Default)]
pub(super) struct JobEnv {
    pub variables: Vec<(String, String)>,
    /// `isDebug` is the JSON value true.
    pub debug: bool,
}

pub(super) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<JobEnv> {
    let mut env = JobEnv::default();
    let Some(node) = fields.get("jobEnvs") else { return Some(env) };
    let Value::Object(members) = &node.value else {
        report.wrong_kind("jobEnvs", node, "an object", "an object of names and values: {\"NAME\": \"value\"}");
        return None;
    };
    let object = Fields::of(node, "jobEnvs", &[], report)?;
    let mut complete = true;
    for member in members {
        let (name, path) = (member.key.as_str(), object.path(&member.key));
        if !is_name(name) {
            report.violation(
                &path,
                member.key_at,
                "is no name of a variable",
                name.chars().take(80).collect::<String>(),
                ALLOWED_NAMES,
            );
            complete = false;
            continue;
        }
        if set_by_wharf(name) {
            report.warn(&path, member.key_at, "ignored: only wharf sets this variable");
            continue;
        }
        if name == "isDebug" {
            env.debug = member.node.value == Value::Bool(true);
            if !matches!(member.node.value, Value::Bool(_)) {
                report.warn(&path, member.key_at, "does not turn debugging on: only the JSON value true does");
            }
        }
        match value(name, &member.node, &path, report) {
            Some(value) => env.variables.push((name.to_owned(), value)),
            None => complete = false,
        }
    }
    complete.then_some(env)
}

/// Texts as they are, numbers as written, `true` and `false`, and nothing for null, as OpenPAI rendered them.
fn value(name: &str, node: &Node, path: &str, report: &mut Report<'_>) -> Option<String> {
    let text = match &node.value {
        Value::String(text) | Value::Number(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Null => String::new(),
        Value::Array(_) | Value::Object(_) => {
            report.wrong_kind(path, node, "a single value", "a text, a number, true, false or null");
            return None;
        }
    };
    // `NAME=value`.
    if name.len() + 1 + text.len() > MAX_ARGUMENT_BYTES {
        let message = format!("is {} bytes long with its name", name.len() + 1 + text.len());
        report.wrong(path, node, message, format!("at most {MAX_ARGUMENT_BYTES} bytes"));
        return None;
    }
    Some(text)
}

/// A variable that no job can set.
pub(super) fn set_by_wharf(name: &str) -> bool {
    name.starts_with("WHARF_") || DECIDE_GPUS.contains(&name)
}

pub(super) fn is_name(text: &str) -> bool {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'~' | b'-'))
}
