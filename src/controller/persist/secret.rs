//! What a job keeps to itself, in a record of its own that the store never has in the clear: see
//! [`sealed`](crate::store::sealed). Written before the records that make the job known, and never again.

use super::keys::{corrupt, job_key, number_in, secret_key};
use super::record::{decode, json};
use crate::controller::state::State;
use crate::domain::command::Error;
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::domain::secret::Secret;
use crate::domain::spec::JobSpec;
use crate::domain::ssh::SshSeed;
use crate::store::{Op, Range, Store, StoreError, chunked};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Serialize, Deserialize)]
struct StoredSecrets {
    /// Values in base64: of a known length, whatever is in them.
    #[serde(default)]
    env: Vec<(String, String)>,
    #[serde(default)]
    ssh: Option<SshSeed>,
}

/// The operation that writes what `job` keeps to itself, if that is anything.
pub(super) fn put(job: &Job, spec: &JobSpec) -> Option<Op> {
    if spec.secrets.is_empty() && job.ssh.is_none() {
        return None;
    }
    let env = spec.secrets.iter().map(|(name, value)| (name.clone(), STANDARD.encode(value.reveal())));
    let stored = StoredSecrets { env: env.collect(), ssh: job.ssh.clone() };
    Some(Op::Put { key: secret_key(job.id), value: json(&stored) })
}

/// Gives jobs and specifications back what only these records have. A record without its job is what a deletion cut
/// short, or a submission, has left; a job without its record is damage, unless it is being deleted.
pub(super) fn take(records: Vec<(String, Vec<u8>)>, state: &mut State) -> Result<(), Error> {
    let mut complete = BTreeSet::new();
    for (key, value) in records {
        let id = JobId(number_in(&key, 1)?);
        let Some(job) = state.jobs.get_mut(&id) else { continue };
        let stored: StoredSecrets = decode(&key, &value)?;
        job.ssh = stored.ssh;
        let values: BTreeMap<String, String> = stored.env.into_iter().collect();
        if let Some(spec) = state.specs.get_mut(&id).filter(|spec| !spec.secrets.is_empty()) {
            for (name, secret) in &mut Arc::make_mut(spec).secrets {
                *secret = value_of(name, &values).ok_or_else(|| corrupt(&key, &format!("no value of {name}")))?;
            }
        }
        complete.insert(id);
    }
    let lacking = |(id, spec): (&JobId, &Arc<JobSpec>)| {
        let unfinished = state.jobs.get(id).is_some_and(|job| job.ended_at.is_none());
        (unfinished && !spec.secrets.is_empty() && !complete.contains(id)).then_some(*id)
    };
    match state.specs.iter().find_map(lacking) {
        Some(id) => Err(corrupt(&secret_key(id), "it is missing, and its job has secrets")),
        None => Ok(()),
    }
}

fn value_of(name: &str, values: &BTreeMap<String, String>) -> Option<Secret> {
    let bytes = STANDARD.decode(values.get(name)?).ok()?;
    String::from_utf8(bytes).ok().map(Secret::new)
}

/// What writes the specifications that name secrets anew, without their names.
pub(in crate::controller) async fn without_secret_names(store: &dyn Store) -> Result<Vec<(JobId, Vec<Op>)>, Error> {
    let unavailable = |error: StoreError| Error::unavailable(format!("reading the store: {error}"));
    let (entries, _) = store.range(Range::prefix("spec/")).await.map_err(unavailable)?;
    let mut found = Vec::new();
    for (key, bytes) in chunked::assemble(entries).map_err(unavailable)? {
        let mut spec: serde_json::Value = decode(&key, &bytes)?;
        if spec.as_object_mut().is_some_and(|fields| fields.remove("secrets").is_some()) {
            let ops = chunked::put(&key, &json(&spec)).map_err(unavailable)?;
            found.push((JobId(number_in(&key, 1)?), ops));
        }
    }
    Ok(found)
}

/// Whether the store has a job that has not ended.
pub(in crate::controller) async fn is_unfinished(store: &dyn Store, id: JobId) -> Result<bool, Error> {
    let key = job_key(id);
    let entry = store.get(&key).await.map_err(|error| Error::unavailable(format!("reading the store: {error}")))?;
    let job: Option<Job> = entry.map(|entry| decode(&key, &entry.value)).transpose()?;
    Ok(job.is_some_and(|job| job.ended_at.is_none()))
}
