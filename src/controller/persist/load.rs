//! Reads everything anew: at the start, and when it is not known what the store took.

use super::super::faults::MOST_TOLD;
use super::super::state::{Dirty, Node, State, Withdrawn};
use super::keys::{SECRETS, corrupt, file_key, number_in};
use super::record::{StoredNode, StoredSeat, StoredTask, decode, loaded_task};
use super::secret;
use crate::domain::access::token::TokenId;
use crate::domain::command::Error;
use crate::domain::fault::Fault;
use crate::domain::ids::{Generation, JobId, RunId, Term};
use crate::domain::job::Job;
use crate::domain::node::Standing;
use crate::domain::run::{Leftover, Run};
use crate::domain::spec::JobSpec;
use crate::store::{Range, Store, StoreError, chunked};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Run, generation, role, index.
type TaskKey = (RunId, Generation, u32, u32);

/// Reads everything anew.
pub(in crate::controller) async fn load(store: &dyn Store, cluster_id: String, term: Term) -> Result<State, Error> {
    let mut state = State { cluster_id, term, next_id: 1, ..State::default() };
    if let Some(entry) = store.get("meta/next_id").await.map_err(unavailable)? {
        state.next_id = parse_number(&entry.value).ok_or_else(|| corrupt("meta/next_id", "not a number"))?;
    }
    for (key, value) in scan(store, "job/").await? {
        let job: Job = decode(&key, &value)?;
        state.jobs.insert(job.id, job);
    }
    load_specs(store, &mut state).await?;
    // Of records from before there were sealed ones.
    let clear: BTreeSet<JobId> = state.jobs.values().filter(|job| job.ssh.is_some()).map(|job| job.id).collect();
    secret::take(scan(store, SECRETS).await?, &mut state)?;
    load_runs(store, &mut state).await?;
    let mut standings: HashMap<String, Standing> = HashMap::new();
    for (key, value) in scan(store, "standing/").await? {
        standings.insert(key.trim_start_matches("standing/").to_owned(), decode(&key, &value)?);
    }
    let mut faults: HashMap<String, Vec<Fault>> = HashMap::new();
    for (key, value) in scan(store, "faults/").await? {
        faults.insert(key.trim_start_matches("faults/").to_owned(), decode(&key, &value)?);
    }
    for (key, value) in scan(store, "node/").await? {
        let registration = decode::<StoredNode>(&key, &value)?.registration();
        let faults = faults.remove(&registration.name.0).unwrap_or_default();
        let node = Node {
            knows_all_faults: faults.len() < MOST_TOLD,
            faults,
            unlisted_faults: Vec::new(),
            faults_version: 0,
            withdrawn: Withdrawn::default(),
            permit: None,
            empties: None,
            standing: standings.remove(&registration.name.0).unwrap_or_default(),
            registration,
            renewed: None,
            heard: None,
            last_heartbeat: None,
            reachable: false,
            unanswered: None,
            samples: HashMap::new(),
            progress: HashMap::new(),
        };
        state.nodes.insert(node.registration.name.clone(), node);
    }
    for (key, value) in scan(store, "access/token/").await? {
        state
            .access
            .tokens
            .insert(TokenId(key.trim_start_matches("access/token/").to_owned()), decode(&key, &value)?);
    }
    for (key, value) in scan(store, "access/node/").await? {
        state.access.nodes.insert(key.trim_start_matches("access/node/").into(), decode(&key, &value)?);
    }
    for job in state.jobs.values() {
        if !job.request_id.is_empty() {
            state.requests.insert((job.user.clone(), job.request_id.clone()), job.id);
        }
        if let Some(ended_at) = job.ended_at {
            state.ended.insert((job.ended_order, ended_at, job.id));
        } else {
            state.names.insert((job.user.clone(), job.name.clone()), job.id);
        }
    }
    // A run without its job is what a deletion cut short has left.
    let jobs: BTreeSet<JobId> = state.jobs.keys().copied().collect();
    state.runs.retain(|_, run| jobs.contains(&run.job));
    for id in state.runs.keys().copied().collect::<Vec<_>>() {
        state.refresh_run(id);
    }
    state.dirty = Dirty { jobs: clear.clone(), secrets: clear, ..Dirty::default() };
    Ok(state)
}

async fn load_specs(store: &dyn Store, state: &mut State) -> Result<(), Error> {
    let (entries, _) = store.range(Range::prefix("spec/")).await.map_err(unavailable)?;
    for (key, bytes) in chunked::assemble(entries).map_err(unavailable)? {
        let id = JobId(number_in(&key, 1)?);
        let spec: JobSpec = decode(&key, &bytes)?;
        state.specs.insert(id, Arc::new(spec));
    }
    Ok(())
}

async fn load_runs(store: &dyn Store, state: &mut State) -> Result<(), Error> {
    for (key, value) in scan(store, "run/").await? {
        let run: Run = decode(&key, &value)?;
        state.runs.insert(run.id, run);
    }
    let mut records = load_tasks(store).await?;
    for ((id, generation), bytes) in load_plans(store).await? {
        let Some(run) = state.runs.get_mut(&id) else { continue };
        let current = generation == run.generation && run.placed_at.is_some();
        // A plan that no header refers to was being written when the writer stopped, or is settled.
        if !current && !run.unsettled.contains(&generation) {
            continue;
        }
        let seats: Vec<StoredSeat> = decode(&format!("plan/{id}/{generation}"), &bytes)?;
        for StoredSeat { role, index, seat } in seats {
            let record = records.remove(&(id, generation, role, index));
            if current {
                run.tasks.push(loaded_task(role, index, seat, record, run.settled));
            } else if record.is_none_or(|record| !record.released) {
                run.leftovers.push(Leftover { generation, role, index, seat });
            }
        }
    }
    // The last of a generation may have been let go of just before the header that says so.
    for run in state.runs.values_mut() {
        run.unsettled = run.leftovers.iter().map(|left| left.generation).collect();
    }
    Ok(())
}

async fn load_tasks(store: &dyn Store) -> Result<HashMap<TaskKey, StoredTask>, Error> {
    let mut records = HashMap::new();
    for (key, value) in scan(store, "task/").await? {
        let (run, generation) = (RunId(number_in(&key, 1)?), Generation(number_in(&key, 2)?));
        let number = |position| number_in(&key, position).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        records.insert((run, generation, number(3)?, number(4)?), decode(&key, &value)?);
    }
    Ok(records)
}

/// Chunks put together, of each plan as many as it says it has.
async fn load_plans(store: &dyn Store) -> Result<BTreeMap<(RunId, Generation), Vec<u8>>, Error> {
    let mut plans: BTreeMap<(RunId, Generation), (u64, Vec<u8>)> = BTreeMap::new();
    for (key, value) in scan(store, "plan/").await? {
        let id = (RunId(number_in(&key, 1)?), Generation(number_in(&key, 2)?));
        let mut parts = value.splitn(2, |byte| *byte == b'\n');
        let count = parts.next().and_then(parse_number).ok_or_else(|| corrupt(&key, "it does not say its length"))?;
        let body = parts.next().unwrap_or_default();
        let (taken, plan) = plans.entry(id).or_default();
        if *taken < count {
            *taken += 1;
            plan.extend_from_slice(body);
        }
    }
    Ok(plans.into_iter().map(|(id, (_, plan))| (id, plan)).collect())
}

/// The file of a job as it was submitted, if it was kept.
pub(in crate::controller) async fn read_file(store: &dyn Store, id: JobId) -> Result<Option<Vec<u8>>, Error> {
    chunked::read(store, &file_key(id)).await.map_err(unavailable)
}

async fn scan(store: &dyn Store, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let (entries, _) = store.range(Range::prefix(prefix)).await.map_err(unavailable)?;
    Ok(entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
}

pub(super) fn parse_number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn unavailable(error: StoreError) -> Error {
    Error::unavailable(format!("reading the store: {error}"))
}
