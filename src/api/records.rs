//! Jobs with all that is known of them, for protocols of other systems that show more than [`JobView`].

use super::controller::{ControllerApi, JobFilter};
use crate::domain::command::Error;
use crate::domain::job::Job;
use crate::domain::metrics::Sample;
use crate::domain::principal::Principal;
use crate::domain::spec::JobSpec;
use crate::domain::view::JobView;
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::Arc;

/// The controller as it is in this process. `job` arguments as in [`ControllerApi`].
#[async_trait]
pub trait RecordsApi: ControllerApi {
    /// What monitoring reads; see [`crate::domain::metrics`].
    async fn metrics(&self) -> Result<Vec<Sample>, Error> {
        Err(Error::refused("this controller counts nothing"))
    }

    /// As [`ControllerApi::list_jobs`].
    async fn list_records(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobRecord>, String), Error>;

    /// One job with the tasks of its newest run.
    async fn get_record(&self, who: &Principal, job: &str) -> Result<JobRecord, Error>;

    /// The job file as it was submitted, its secrets masked; `None` for jobs that are older than the keeping of files.
    async fn job_file(&self, who: &Principal, job: &str) -> Result<Option<Vec<u8>>, Error>;
}

/// A job, what was asked for, and how it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    pub job: Job,
    pub spec: Arc<JobSpec>,
    pub view: JobView,
    /// The driver's indexes of the GPUs that tasks of `view` hold, by UUID; a MIG slice has its device's. GPUs that
    /// their node does not know any more are missing. Empty in lists.
    pub gpu_indexes: HashMap<String, u32>,
}
