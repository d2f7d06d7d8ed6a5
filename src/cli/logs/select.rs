//! Which tasks of a run are meant.

use crate::cli::args::TaskArgs;
use crate::cli::fail::{Failure, bad_usage};
use crate::domain::ids::TaskId;
use crate::domain::view::{JobView, TaskView};

/// A task whose output is wanted.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) id: TaskId,
    pub(super) role: String,
    pub(super) index: u32,
}

impl Source {
    /// As people call it.
    pub(super) fn name(&self) -> String {
        format!("{}[{}]", self.role, self.index)
    }
}

pub(super) fn select(job: &JobView, wanted: &TaskArgs) -> Result<Vec<Source>, Failure> {
    let tasks = job.tasks.as_deref().unwrap_or_default();
    let matching: Vec<Source> = tasks
        .iter()
        .filter(|task| wanted.role.as_ref().is_none_or(|role| *role == task.role))
        .filter(|task| wanted.index.is_none_or(|index| index == task.index))
        .filter_map(|task| Some(Source { id: task.id.parse().ok()?, role: task.role.clone(), index: task.index }))
        .collect();
    if matching.is_empty() {
        return Err(no_such_task(job, tasks, wanted));
    }
    Ok(matching)
}

fn no_such_task(job: &JobView, tasks: &[TaskView], wanted: &TaskArgs) -> Failure {
    let mut roles: Vec<String> = Vec::new();
    for task in tasks {
        let count = tasks.iter().filter(|other| other.role == task.role).count();
        let role = format!("{} (0 to {})", task.role, count - 1);
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    let role = wanted.role.as_deref().map_or_else(String::new, |role| format!(" of role '{role}'"));
    let index = wanted.index.map_or_else(String::new, |index| format!(" with index {index}"));
    bad_usage(format!("job {} has no task{role}{index}; its roles are {}", job.job_id, roles.join(", ")))
}

/// The one task that `wanted` names, for commands that need exactly one.
pub fn select_one(job: &JobView, wanted: &TaskArgs) -> Result<TaskId, Failure> {
    match select(job, wanted)?.as_slice() {
        [one] => Ok(one.id),
        many => {
            let names: Vec<String> =
                many.iter().take(8).map(|task| format!("--role {} --index {}", task.role, task.index)).collect();
            let more = if many.len() > 8 { ", ..." } else { "" };
            Err(bad_usage(format!(
                "job {} has {} such tasks; name one: {}{more}",
                job.job_id,
                many.len(),
                names.join(", ")
            )))
        }
    }
}
