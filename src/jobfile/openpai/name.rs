//! Names: of jobs, of roles and of ports.

use super::super::fields::Fields;
use super::super::report::Report;
use crate::domain::quantity::MAX_NAME_BYTES;

/// `[A-Za-z0-9\-._~]+`, and more than digits: a number on the command line is a job's id.
pub(super) fn job_name(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let allowed = format!("1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 - . _ ~, not digits alone");
    let name = name(fields, "jobName", &allowed, |c| c == '-', report)?;
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        let node = fields.get("jobName")?;
        report.wrong("jobName", node, "is a number, which would be taken for a job id", allowed);
        return None;
    }
    Some(name)
}

/// `[A-Za-z0-9._~]+`: roles and port labels.
pub(super) fn label(fields: &Fields<'_>, field: &str, report: &mut Report<'_>) -> Option<String> {
    let allowed = format!("1 to {MAX_NAME_BYTES} characters of A-Z a-z 0-9 . _ ~");
    name(fields, field, &allowed, |_| false, report)
}

fn name(
    fields: &Fields<'_>,
    field: &str,
    allowed: &str,
    also: impl Fn(char) -> bool,
    report: &mut Report<'_>,
) -> Option<String> {
    let (text, node) = fields.required_text(field, allowed, report)?;
    let path = fields.path(field);
    let stranger = text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '~') || also(*c)));
    if text.is_empty() {
        report.wrong(&path, node, "is empty", allowed);
    } else if text.len() > MAX_NAME_BYTES {
        report.wrong(&path, node, format!("is {} bytes long", text.len()), allowed);
    } else if let Some(stranger) = stranger {
        report.wrong(&path, node, format!("holds {}", shown(stranger)), allowed);
    } else {
        return Some(text.to_owned());
    }
    None
}

fn shown(character: char) -> String {
    match character {
        ' ' => "a space".to_owned(),
        control if control.is_control() => format!("the character U+{:04X}", u32::from(control)),
        other => format!("`{other}`"),
    }
}
