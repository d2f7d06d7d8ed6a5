//! `wharf validate`: what a job file says, without a controller.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::submit::{file_name, read_job_file};
use super::table;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::spec::JobSpec;
use crate::jobfile;

pub async fn validate(context: &Context, file: &str) -> Result<u8, Failure> {
    let content = read_job_file(file)?;
    let name = file_name(file);
    let parsed = jobfile::parse(&name, &content).map_err(|violations| {
        let message = match violations.as_slice() {
            [only] if only.field == name => only.to_string(),
            [only] => format!("{name}: {only}"),
            many => format!("{name}: {} things are wrong", many.len()),
        };
        Error { violations, ..Error::new(ErrorKind::Invalid, message) }
    })?;
    if context.json {
        let object = serde_json::json!({
            "valid": true,
            "name": parsed.spec.name,
            "tasks": parsed.spec.task_count(),
            "warnings": parsed.warnings,
        });
        context.print_json(&object)?;
        return Ok(OK);
    }
    for warning in &parsed.warnings {
        context.remark(&format!("warning: {warning}"));
    }
    context.print(&format!("{} is valid\n{}", parsed.spec.name, roles_table(&parsed.spec)))?;
    Ok(OK)
}

fn roles_table(spec: &JobSpec) -> String {
    let mut rows = table::table(["ROLE", "TASKS", "CPUS", "MEMORY_MB", "GPUS", "COMMAND"]);
    table::right(&mut rows, &[1, 2, 3, 4]);
    for role in &spec.roles {
        table::row(
            &mut rows,
            [
                role.name.clone(),
                role.count.to_string(),
                role.cpus.to_string(),
                role.memory_mb.to_string(),
                role.gpus.to_string(),
                role.command.clone(),
            ],
        );
    }
    table::text(&rows)
}
