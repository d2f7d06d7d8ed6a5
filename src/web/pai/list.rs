//! Jobs, newest first: all of them, as OpenPAI has no pages, but never all of them in memory.

use super::words;
use super::{Asked, Body, Refusal, reply};
use crate::api::RecordsApi;
use crate::api::controller::JobFilter;
use crate::api::records::JobRecord;
use crate::domain::principal::Principal;
use crate::web::body::{Next, pieces};
use http::{Response, StatusCode};
use hyper::body::Bytes;
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;

/// Jobs that are put into words at a time.
const PAGE: u32 = 200;

pub(super) async fn answer(asked: &Asked, user: Option<String>) -> Result<Response<Body>, Refusal> {
    let who = asked.reader().await?;
    let list = List { api: asked.api.clone(), who, filter: JobFilter { all: true, user } };
    // What is wrong from the beginning is told by a status, what goes wrong later by the end of the connection.
    let first = list.api.list_records(&list.who, list.filter.clone(), PAGE, "").await;
    let (page, token) = first.map_err(|error| reply::refused(&error, ""))?;
    let begin = list.piece("[", &page, token);
    let body = pieces(Next::new(async move { Ok(Some(begin)) }));
    Ok(reply::json_bytes(StatusCode::OK, body))
}

/// A list that is being written.
struct List {
    api: Arc<dyn RecordsApi>,
    who: Principal,
    filter: JobFilter,
}

impl List {
    /// One page, and what makes those after it.
    fn piece(self, before: &str, page: &[JobRecord], token: String) -> (Bytes, Option<Next>) {
        let entries: Vec<String> = page.iter().map(|record| entry(record).to_string()).collect();
        let after = if token.is_empty() { "]" } else { "" };
        let text = format!("{before}{}{after}", entries.join(","));
        (text.into(), (!token.is_empty()).then(|| self.next(token)))
    }

    fn next(self, token: String) -> Next {
        Next::new(async move {
            let listed = self.api.list_records(&self.who, self.filter.clone(), PAGE, &token).await;
            let (page, token) = listed.map_err(io::Error::other)?;
            // Jobs may have been forgotten since.
            let before = if page.is_empty() { "" } else { "," };
            Ok(Some(self.piece(before, &page, token)))
        })
    }
}

fn entry(record: &JobRecord) -> Value {
    let (job, spec) = (&record.job, &record.spec);
    let (retries, details) = words::retries(record);
    json!({
        "name": job.name,
        "username": job.user,
        "state": words::state(record),
        "subState": words::sub_state(record),
        "executionType": words::execution_type(record),
        "retries": retries,
        "retryDetails": details,
        "createdTime": words::millis(job.submitted_at),
        "completedTime": job.ended_at.map(words::millis),
        "appExitCode": words::job_exit_code(record),
        "virtualCluster": spec.virtual_cluster,
        "totalGpuNumber": record.view.gpus_total,
        "totalTaskNumber": record.view.tasks_total,
        "totalTaskRoleNumber": spec.roles.len(),
    })
}
