//! Admission: everything about a job is checked before anything is created.

use super::apply::Context;
use super::persist::spec_bytes;
use super::possible::Doubt;
use super::state::State;
use super::{possible, resolve};
use crate::api::controller::Submit;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::ids::{JobId, RunId};
use crate::domain::job::{Job, JobState};
use crate::domain::nearest::nearest;
use crate::domain::principal::Principal;
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use crate::domain::retry::Retries;
use crate::domain::run::Run;
use crate::domain::spec::JobSpec;
use crate::domain::ssh::SshSeed;
use crate::domain::view::Submitted;
use crate::jobfile;
use crate::scheduler::quota::DEFAULT_CLUSTER;
use crate::scheduler::{Policy, Quotas};
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::sync::Arc;

/// Unfinished jobs of all users together; one more is refused.
const MAX_UNFINISHED: usize = 100_000;
/// Virtual clusters that an error names.
const NAMES_TOLD: usize = 20;
/// Longest user name and request id.
const MAX_WORD: usize = 256;

pub(super) fn submit(
    state: &mut State,
    who: &Principal,
    submit: &Submit,
    context: &mut Context<'_>,
) -> Result<Submitted, Error> {
    check_words(who, submit)?;
    let parsed =
        jobfile::parse(&submit.file_name, &submit.content).map_err(|violations| invalid(submit, violations))?;
    let (mut spec, mut warnings) = (parsed.spec, parsed.warnings);
    jobfile::substitute(&mut spec, &who.user, &context.parts.default_fs_uri);
    if spec_bytes(&spec) > 900 * 1024 {
        let message = format!("{}: the job is too big to keep: at most {MAX_JOB_FILE_BYTES} bytes", submit.file_name);
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    if let Some(first) = state.requests.get(&(who.user.clone(), submit.request_id.clone()))
        && !submit.dry_run
    {
        return repeated(state, *first, &spec, &submit.request_id);
    }
    if let Some(other) = state.names.get(&(who.user.clone(), spec.name.clone())) {
        let message = format!(
            "job {other} of {} is unfinished and has the name '{}'; stop it, or choose another name",
            who.user, spec.name
        );
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    if state.names.len() >= MAX_UNFINISHED {
        return Err(Error::new(ErrorKind::Exhausted, format!("{MAX_UNFINISHED} jobs are unfinished already")));
    }
    known_cluster(&context.parts.policy, &spec).map_err(|violation| invalid(submit, vec![violation]))?;
    let doubt = possible::doubt(state, &context.parts.policy, &spec);
    warnings.extend(doubt.as_ref().map(Doubt::warning));
    if submit.dry_run {
        return Ok(Submitted { job_id: 0, run_id: 0, name: spec.name, warnings });
    }
    Ok(create(state, who, submit, spec, (warnings, doubt), context))
}

fn create(
    state: &mut State,
    who: &Principal,
    submit: &Submit,
    spec: JobSpec,
    (warnings, doubt): (Vec<String>, Option<Doubt>),
    context: &mut Context<'_>,
) -> Submitted {
    let number = state.take_id();
    let (id, run_id, name) = (JobId(number), RunId(number), spec.name.clone());
    let job = Job {
        id,
        chain_id: uuid::Uuid::new_v4().to_string(),
        user: who.user.clone(),
        name: name.clone(),
        priority: spec.priority,
        submitted_at: context.now,
        request_id: submit.request_id.clone(),
        state: JobState::Waiting,
        stop_asked: false,
        exit: None,
        runs: vec![run_id],
        retries: Retries::default(),
        ended_at: None,
        ended_order: 0,
        ssh: new_seed(),
    };
    state.names.insert((job.user.clone(), name.clone()), id);
    if !job.request_id.is_empty() {
        state.requests.insert((job.user.clone(), job.request_id.clone()), id);
    }
    let message = format!("'{name}' by {}: {} tasks", who.user, spec.task_count());
    state.jobs.insert(id, job);
    state.specs.insert(id, Arc::new(spec));
    state.runs.insert(run_id, Run::new(run_id, id, 1, context.now, context.now));
    state.dirty.specs.insert(id);
    state.dirty.files.extend(jobfile::masked(&submit.content).map(|file| (id, file)));
    state.dirty.secrets.insert(id);
    state.dirty.jobs.insert(id);
    // Before it is queued: what has no hope is kept out of the passes.
    state.placing.doubts.extend(doubt.map(|doubt| (id, doubt)));
    state.refresh_run(run_id);
    state.note(context.now, "job.submitted", Some(id), None, None, message);
    Submitted { job_id: number, run_id: number, name, warnings }
}

/// Where there are virtual clusters, a job names one of them.
fn known_cluster(policy: &Policy, spec: &JobSpec) -> Result<(), Violation> {
    let name = spec.virtual_cluster.as_str();
    if Quotas::new(&policy.clusters).knows(name) {
        return Ok(());
    }
    let mut names: Vec<&str> = policy.clusters.keys().map(String::as_str).collect();
    if !policy.clusters.contains_key(DEFAULT_CLUSTER) {
        names.push(DEFAULT_CLUSTER);
    }
    let near =
        nearest(name, names.iter().copied()).map_or_else(String::new, |near| format!("; did you mean {near}?"));
    let more = names.len().saturating_sub(NAMES_TOLD);
    names.truncate(NAMES_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Violation {
        field: "virtualCluster".to_owned(),
        message: format!("is not a virtual cluster{near}"),
        found: format!("{name:?}"),
        allowed: format!("{}{more}, or \"\" for {DEFAULT_CLUSTER}", names.join(", ")),
    })
}

/// Without randomness there are no keys, and everything else works.
fn new_seed() -> Option<SshSeed> {
    let mut secret = [0; 64];
    match OsRng.try_fill_bytes(&mut secret) {
        Ok(()) => Some(SshSeed::new(secret)),
        Err(error) => {
            tracing::warn!(%error, "a job gets no SSH keys: the system gives no random bytes");
            None
        }
    }
}

/// The first answer again, if it is the same job that was asked for.
fn repeated(state: &State, first: JobId, spec: &JobSpec, request_id: &str) -> Result<Submitted, Error> {
    let job = resolve::job(state, first)?;
    if state.specs.get(&first).is_some_and(|known| **known != *spec) {
        let message = format!("the request id '{request_id}' was used for another job, {first} ({})", job.name);
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    Ok(Submitted { job_id: first.0, run_id: first.0, name: job.name.clone(), warnings: Vec::new() })
}

fn check_words(who: &Principal, submit: &Submit) -> Result<(), Error> {
    for (what, word) in [("user name", &who.user), ("request id", &submit.request_id)] {
        if word.len() > MAX_WORD || word.chars().any(char::is_control) {
            let message = format!("the {what} must be at most {MAX_WORD} bytes without control characters");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
    }
    if who.user.is_empty() || who.user.contains('/') {
        let message = format!("'{}' cannot be a user's name: it must not be empty nor hold '/'", who.user);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

fn invalid(submit: &Submit, violations: Vec<Violation>) -> Error {
    let file = if submit.file_name.is_empty() { "the job file" } else { &submit.file_name };
    let message = match violations.as_slice() {
        [only] if only.field == file => only.to_string(),
        [only] => format!("{file}: {only}"),
        many => format!("{file}: {} things are wrong", many.len()),
    };
    Error { violations, ..Error::new(ErrorKind::Invalid, message) }
}
