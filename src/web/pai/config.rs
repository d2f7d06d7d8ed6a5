//! The job file as it was submitted: byte for byte where it is strict JSON, else without what only wharf reads.

use super::{Asked, Body, JobName, Refusal, reply};
use crate::jobfile;
use crate::web::body::whole;
use http::{Response, StatusCode};

pub(super) async fn answer(asked: &Asked, name: JobName) -> Result<Response<Body>, Refusal> {
    let job = asked.owned(name).await?;
    let who = asked.reader_of(&job.user).await?;
    let file = asked.api.job_file(&who, &job.reference()).await;
    if let Err(error) = &file {
        asked.caller.ended(Some(&who), "JobFile", &format!("job {}", job.reference()), Some(error));
    }
    let file = file.map_err(|error| reply::refused(&error, &job.shown))?;
    match file.as_deref().and_then(jobfile::strict_json) {
        Some(json) => Ok(reply::json_bytes(StatusCode::OK, whole(json))),
        None => {
            let message = format!("Config of job {} is not found.", job.shown);
            Ok(reply::error(StatusCode::NOT_FOUND, "NoJobConfigError", &message))
        }
    }
}
