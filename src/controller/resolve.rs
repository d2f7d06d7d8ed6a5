//! Which job a text means: digits, a name of the caller's, or `USER/NAME`.

use super::state::State;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::{JobId, RunId};
use crate::domain::job::Job;
use crate::domain::principal::Principal;
use crate::domain::run::Run;
use std::collections::BTreeSet;

/// Jobs of the same name that a message lists.
const SHOWN: usize = 100;

/// The job of an id.
pub(super) fn job(state: &State, id: JobId) -> Result<&Job, Error> {
    state.jobs.get(&id).ok_or_else(|| Error::not_found(format!("there is no job {id}")))
}

/// The job that `text` means to `who`: an unfinished one of that name first, else the newest.
pub(super) fn job_ref<'a>(state: &'a State, who: &Principal, text: &str) -> Result<&'a Job, Error> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "no job is named: a job id, a name, or USER/NAME is expected"));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let id = text.parse().map_err(|_| Error::not_found(format!("there is no job {text}")))?;
        return job(state, JobId(id));
    }
    let (user, name) = text.split_once('/').unwrap_or((&who.user, text));
    if let Some(id) = state.names.get(&(user.to_owned(), name.to_owned())) {
        return job(state, *id);
    }
    let newest = state.jobs.values().rev().find(|job| job.user == user && job.name == name);
    newest.ok_or_else(|| unknown(state, user, name))
}

/// The run of a job: an id, -1 for the previous, or the newest.
pub(super) fn run<'a>(state: &'a State, job: &Job, run: Option<i64>) -> Result<&'a Run, Error> {
    let none = |what: String| Error::not_found(format!("job {} has no {what}; its runs are {}", job.id, list(job)));
    let id = match run {
        None => job.newest_run(),
        Some(-1) => *job.runs.iter().rev().nth(1).ok_or_else(|| none("previous run".into()))?,
        Some(id) => {
            let wanted = u64::try_from(id).ok().map(RunId);
            *job.runs.iter().find(|run| Some(**run) == wanted).ok_or_else(|| none(format!("run {id}")))?
        }
    };
    state.runs.get(&id).ok_or_else(|| none(format!("run {id}")))
}

fn list(job: &Job) -> String {
    job.runs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn unknown(state: &State, user: &str, name: &str) -> Error {
    let message = format!("{user} has no job named '{name}'");
    let others: BTreeSet<&str> =
        state.jobs.values().filter(|job| job.name == name).map(|job| job.user.as_str()).take(SHOWN).collect();
    if !others.is_empty() {
        let list: Vec<String> = others.into_iter().map(|other| format!("{other}/{name}")).collect();
        return Error::not_found(format!("{message}; others have: {}", list.join(", ")));
    }
    let names = state.jobs.values().filter(|job| job.user == user).map(|job| job.name.as_str());
    match crate::domain::nearest::nearest(name, names) {
        Some(near) => Error::not_found(format!("{message}; '{near}' is the nearest name")),
        None => Error::not_found(message),
    }
}
