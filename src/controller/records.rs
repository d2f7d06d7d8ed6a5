//! Jobs with all that is known of them.

use super::core::{Controller, read};
use super::metrics;
use super::state::State;
use super::{api, persist, resolve, views};
use crate::api::RecordsApi;
use crate::api::controller::JobFilter;
use crate::api::records::JobRecord;
use crate::domain::command::Error;
use crate::domain::job::Job;
use crate::domain::metrics::Sample;
use crate::domain::principal::Principal;
use crate::domain::run::Run;
use crate::jobfile;
use async_trait::async_trait;
use std::collections::HashMap;

#[async_trait]
impl RecordsApi for Controller {
    async fn metrics(&self) -> Result<Vec<Sample>, Error> {
        Ok(metrics::of(self))
    }

    async fn list_records(
        &self,
        _who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobRecord>, String), Error> {
        let state = read(&self.shared);
        let (page, next) = api::page(&state, &filter, page_size, token)?;
        let page = page.into_iter().map(|job| record(&state, job, None)).collect::<Result<Vec<_>, _>>()?;
        Ok((page, next))
    }

    async fn get_record(&self, who: &Principal, job: &str) -> Result<JobRecord, Error> {
        let state = read(&self.shared);
        let job = resolve::job_ref(&state, who, job)?;
        let run = resolve::run(&state, job, None)?;
        record(&state, job, Some(run))
    }

    async fn job_file(&self, who: &Principal, job: &str) -> Result<Option<Vec<u8>>, Error> {
        let (id, owner) = {
            let state = read(&self.shared);
            let job = resolve::job_ref(&state, who, job)?;
            (job.id, job.user.clone())
        };
        api::may_enter(who, &owner, &format!("job {id}"))?;
        let file = persist::read_file(&*self.parts.store, id).await?;
        // Those of controllers from before there were secrets are kept as they came.
        Ok(file.and_then(|file| jobfile::masked(&file)))
    }
}

fn record(state: &State, job: &Job, tasks_of: Option<&Run>) -> Result<JobRecord, Error> {
    let spec = state.specs.get(&job.id).cloned();
    let spec = spec.ok_or_else(|| Error::internal(format!("job {} has no specification", job.id)))?;
    let gpu_indexes = tasks_of.map(|run| gpu_indexes(state, run)).unwrap_or_default();
    Ok(JobRecord { job: job.clone(), spec, view: views::job(state, job, tasks_of), gpu_indexes })
}

fn gpu_indexes(state: &State, run: &Run) -> HashMap<String, u32> {
    let mut indexes = HashMap::new();
    for seat in run.tasks.iter().map(|task| &task.seat) {
        let Some(node) = state.nodes.get(&seat.node) else { continue };
        let known = node.registration.inventory.gpus.iter().filter(|gpu| seat.gpus.contains(&gpu.uuid));
        indexes.extend(known.map(|gpu| (gpu.uuid.0.clone(), gpu.index)));
    }
    indexes
}
