//! What the controller lets go of, so that neither memory nor the store grows with uptime.

use super::persist::{keys_of_job, keys_of_run};
use super::state::State;
use crate::domain::ids::{JobId, RunId};

/// Runs kept of one job: a job that is run again for ever is remembered by its newest ones.
const KEEP_RUNS: usize = 100;
/// Jobs forgotten at a time, so that nobody waits for a long deletion.
const AT_ONCE: usize = 20;

/// Forgets the longest ended jobs above `keep`.
pub(super) fn old_jobs(state: &mut State, keep: usize) {
    let surplus = state.ended.len().saturating_sub(keep).min(AT_ONCE);
    // As long as a node has not let go of a task, its promise has to be remembered.
    let settled =
        |id: &JobId| state.jobs.get(id).is_some_and(|job| !job.runs.iter().any(|run| state.unsettled.contains(run)));
    let oldest: Vec<_> = state.ended.iter().filter(|(.., id)| settled(id)).take(surplus).copied().collect();
    for ended @ (.., id) in oldest {
        let Some(job) = state.jobs.get(&id) else { continue };
        state.garbage.extend(keys_of_job(job));
        state.ended.remove(&ended);
        forget_job(state, id);
    }
}

fn forget_job(state: &mut State, id: JobId) {
    let Some(job) = state.jobs.remove(&id) else { return };
    state.specs.remove(&id);
    state.requests.remove(&(job.user, job.request_id));
    for run in job.runs {
        state.runs.remove(&run);
        state.dirty.runs.remove(&run);
    }
    state.dirty.jobs.remove(&id);
}

/// Forgets the oldest runs of a job that has been run very often.
pub(super) fn old_runs(state: &mut State, id: JobId) {
    let Some(job) = state.jobs.get_mut(&id) else { return };
    let surplus = job.runs.len().saturating_sub(KEEP_RUNS);
    let old: Vec<RunId> = job.runs.iter().take(surplus).copied().collect();
    for run in old.into_iter().filter(|run| !state.unsettled.contains(run)) {
        job.runs.retain(|kept| *kept != run);
        state.runs.remove(&run);
        state.dirty.runs.remove(&run);
        state.garbage.extend(keys_of_run(run));
    }
}
