//! Names of keys, and what belongs together under them.

use crate::domain::access::token::TokenId;
use crate::domain::command::Error;
use crate::domain::ids::{Generation, JobId, NodeName, RunId, TaskId};
use crate::domain::job::Job;

pub(in crate::controller) const LEVEL: &str = "meta/level";
pub(in crate::controller) const CLUSTER_ID: &str = "meta/cluster_id";
pub(in crate::controller) const TERM: &str = "meta/term";
pub(in crate::controller) const NEXT_ID: &str = "meta/next_id";
/// What the last commit has to tell, until the next has: see [`telling`](super::super::telling).
pub(in crate::controller) const LAST_EVENTS: &str = "meta/last_events";
/// The certificate of the cluster's authority, so that all controllers of a store have the same.
pub(in crate::controller) const AUTHORITY: &str = "access/authority";
/// There while the store is being filled from another or from a backup: what it holds is not whole.
pub(in crate::controller) const TRANSFER: &str = "meta/transfer";
/// Where the store was moved to: what it holds is history.
pub(in crate::controller) const MOVED: &str = "meta/moved";

/// Two entries, one after the other, that only one transaction may write: chunks of one value.
pub(in crate::controller) fn written_together(before: &str, after: &str) -> bool {
    let stem =
        |key: &str| key.strip_prefix("spec/").and_then(|key| key.rsplit_once('/')).map(|(id, _)| id.to_owned());
    stem(before).is_some_and(|before| stem(after) == Some(before))
}

pub(in crate::controller) fn key_of_node(name: &NodeName) -> String {
    format!("node/{name}")
}

pub(super) fn key_of_token(id: &TokenId) -> String {
    format!("access/token/{id}")
}

pub(super) fn key_of_certificate(name: &NodeName) -> String {
    format!("access/node/{name}")
}

pub(super) fn key_of_standing(name: &NodeName) -> String {
    format!("standing/{name}")
}

pub(super) fn key_of_faults(name: &NodeName) -> String {
    format!("faults/{name}")
}

/// Everything that the store has of a job, in the order to delete it: what makes it known goes last, so that a
/// deletion cut short is taken up again.
pub(in crate::controller) fn keys_of_job(job: &Job) -> Vec<String> {
    let runs = job.runs.iter().flat_map(|run| keys_of_run(*run));
    let chunked = [file_key, spec_key].map(|key| format!("{}/", key(job.id)));
    runs.chain([secret_key(job.id)]).chain(chunked).chain([job_key(job.id)]).collect()
}

/// Prefixes of everything that the store has of a run.
pub(in crate::controller) fn keys_of_run(run: RunId) -> Vec<String> {
    vec![format!("plan/{:020}/", run.0), format!("task/{:020}/", run.0), run_key(run)]
}

/// Prefixes of the seats and tasks of one generation.
pub(in crate::controller) fn keys_of_generation(run: RunId, generation: Generation) -> [String; 2] {
    ["plan", "task"].map(|kind| format!("{kind}/{:020}/{:010}/", run.0, generation.0))
}

pub(super) fn spec_key(id: JobId) -> String {
    format!("spec/{:020}", id.0)
}

/// What a store seals, where it seals anything.
pub(in crate::controller) const SECRETS: &str = "secret/";
/// Which key the records below [`SECRETS`] are sealed with: its fingerprint.
pub(in crate::controller) const SEAL: &str = "meta/seal";

pub(super) fn secret_key(id: JobId) -> String {
    format!("{SECRETS}{:020}", id.0)
}

pub(super) fn file_key(id: JobId) -> String {
    format!("file/{:020}", id.0)
}

pub(super) fn job_key(id: JobId) -> String {
    format!("job/{:020}", id.0)
}

pub(super) fn run_key(id: RunId) -> String {
    format!("run/{:020}", id.0)
}

pub(super) fn plan_key(id: RunId, generation: Generation, chunk: usize) -> String {
    format!("plan/{:020}/{:010}/{chunk:06}", id.0, generation.0)
}

pub(super) fn task_key(id: TaskId, generation: Generation) -> String {
    format!("task/{:020}/{:010}/{:06}/{:06}", id.run.0, generation.0, id.role, id.index)
}

/// The number at a position of a key's path.
pub(super) fn number_in(key: &str, position: usize) -> Result<u64, Error> {
    key.split('/')
        .nth(position)
        .and_then(|part| part.parse().ok())
        .ok_or_else(|| corrupt(key, "its key has no number where one belongs"))
}

pub(super) fn corrupt(key: &str, why: &str) -> Error {
    Error::internal(format!("reading the store: {key} is damaged: {why}"))
}
