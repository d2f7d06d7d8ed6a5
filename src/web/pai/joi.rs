//! Mistakes in the words of OpenPAI's validator (Joi 13), which spoke of the first one alone:
//! `child "taskRoles" fails because ["taskRoles" at position 0 fails because [child "command" fails because ["command" is
//! required]]]`.
//!
//! Here every mistake is a [`Violation`] of `jobfile`, which knows more of them. What Joi knew is said in its words, the
//! rest in ours, all in its form. `tests` hold both ends together.

use crate::domain::command::Violation;

/// What OpenPAI said where a completion count is more than the role has tasks.
const MORE_THAN_TASKS: &str = "minFailedTaskCount or minSucceededTaskCount should not be greater than tasks number.";

/// A wrong field at the top.
pub(super) fn child(name: &str, what: &str) -> String {
    format!("child \"{name}\" fails because [{what}]")
}

/// What OpenPAI's server said of a body that it could not read at all, before any validator saw it.
pub(super) fn unreadable(violation: &Violation, file: &str, content: &[u8]) -> Option<String> {
    if violation.field != file || violation.message.starts_with("is empty") {
        return None;
    }
    let first = content.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    match content.get(first) {
        Some(b'{' | b'[') | None => {}
        // It took objects and lists alone.
        Some(byte) if byte.is_ascii_graphic() && violation.message.contains("not an object") => {
            return Some(format!("Unexpected token {} in JSON at position {first}", char::from(*byte)));
        }
        Some(_) => {}
    }
    let is_type = violation.message.contains("not an object");
    (!is_type).then(|| {
        let allowed = &violation.allowed;
        let hint = if allowed.is_empty() { String::new() } else { format!("; allowed: {allowed}") };
        format!("{}{hint}", violation.message)
    })
}

/// The message for one violation; `file` is the field of those that are of no field.
pub(super) fn message(violation: &Violation, file: &str) -> String {
    if violation.field == file {
        // A body without content was an object without fields.
        let empty = violation.message.starts_with("is empty");
        return if empty {
            child("jobName", "\"jobName\" is required")
        } else {
            "\"value\" must be an object".to_owned()
        };
    }
    let steps = steps(&violation.field);
    let last = steps.last().map_or_else(|| violation.field.clone(), Step::label);
    if last.starts_with("min") && last.ends_with("TaskCount") && says(violation, "is too large") {
        return MORE_THAN_TASKS.to_owned();
    }
    let inner = format!("\"{last}\" {}", words(violation, &last));
    let mut list = "";
    let mut chain = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Key(name) => {
                let is_list = matches!(steps.get(at + 1), Some(Step::Position(_)));
                let is_unknown = at + 1 == steps.len() && inner.ends_with("is not allowed");
                // An unknown key is a mistake of the object that holds it.
                if !is_unknown {
                    chain.push(format!("child \"{name}\" fails because ["));
                }
                list = if is_list { name } else { "" };
            }
            Step::Position(position) => chain.push(format!("\"{list}\" at position {position} fails because [")),
        }
    }
    format!("{}{inner}{}", chain.concat(), "]".repeat(chain.len()))
}

fn says(violation: &Violation, what: &str) -> bool {
    violation.message.starts_with(what)
}

/// What is said of a field after its name.
fn words(violation: &Violation, field: &str) -> String {
    let message = violation.message.as_str();
    let limits = limits(&violation.allowed);
    match (message, limits) {
        _ if says(violation, "is missing") => "is required".to_owned(),
        _ if message.contains(", not a text") => "must be a string".to_owned(),
        _ if message.contains(", not an integer") => "must be a number".to_owned(),
        _ if message.contains(", not an object") => "must be an object".to_owned(),
        _ if message.contains(", not a list") => "must be an array".to_owned(),
        _ if says(violation, "is empty") && field == "taskRoles" => "must contain at least 1 items".to_owned(),
        _ if says(violation, "is empty") => "is not allowed to be empty".to_owned(),
        _ if says(violation, "is not an integer") => "must be an integer".to_owned(),
        _ if says(violation, "is more than the task's memory") => {
            "must be less than or equal to ref:memoryMB".to_owned()
        }
        _ if says(violation, "is no name of a variable") || says(violation, "belongs to OpenPAI's v2") => {
            "is not allowed".to_owned()
        }
        _ if says(violation, "holds ") && pattern(field).is_some() => format!(
            "with value {} fails to match the required pattern: {}",
            violation.found,
            pattern(field).unwrap_or_default()
        ),
        (_, Some((least, _))) if says(violation, "is too small") => {
            format!("must be larger than or equal to {least}")
        }
        (_, Some((_, most))) if says(violation, "is too large") || says(violation, "is out of range") => {
            format!("must be less than or equal to {most}")
        }
        _ if violation.allowed.is_empty() => message.to_owned(),
        _ => format!("{message}; allowed: {}", violation.allowed),
    }
}

/// OpenPAI's patterns of names.
fn pattern(field: &str) -> Option<&'static str> {
    match field {
        "jobName" => Some(r"/^[A-Za-z0-9\-._]+$/"),
        "name" | "label" => Some("/^[A-Za-z0-9._~]+$/"),
        _ => None,
    }
}

/// Of `an integer from 1 to 10000`, `an integer from 1 to taskNumber (3), or null`.
fn limits(allowed: &str) -> Option<(&str, &str)> {
    let (least, rest) = allowed.strip_prefix("an integer from ")?.split_once(" to ")?;
    let most = rest.split([',', ' ']).next()?;
    Some((least, most))
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Position(usize),
}

impl Step {
    fn label(&self) -> String {
        match self {
            Self::Key(name) => name.clone(),
            Self::Position(position) => position.to_string(),
        }
    }
}

/// `taskRoles[1].portList[0]["port number"]` in its parts. Names of variables may hold dots, and are one part.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('[') {
            let (inside, behind) = after.split_once(']').unwrap_or((after, ""));
            steps.push(match inside.parse() {
                Ok(position) => Step::Position(position),
                Err(_) => Step::Key(serde_json::from_str(inside).unwrap_or_else(|_| inside.to_owned())),
            });
            rest = behind.strip_prefix('.').unwrap_or(behind);
            continue;
        }
        let is_variable = matches!(steps.as_slice(), [Step::Key(first)] if first == "jobEnvs");
        let end = if is_variable { rest.len() } else { rest.find(['.', '[']).unwrap_or(rest.len()) };
        steps.push(Step::Key(rest[..end].to_owned()));
        rest = &rest[end..];
        rest = rest.strip_prefix('.').unwrap_or(rest);
    }
    steps
}

#[cfg(test)]
mod tests;
