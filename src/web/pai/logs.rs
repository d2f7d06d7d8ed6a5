//! A task's output of the newest run, as text: what there is now, standard output and error as they came. OpenPAI's
//! `containerLog` is the address of a page; this is one that `curl` can read too.

use super::{Asked, Body, JobName, Refusal, reply};
use crate::api::stream::{Answers, LogBatch, LogContent, LogQuery, StreamFilter};
use crate::domain::ids::TaskId;
use crate::web::body::{Next, pieces};
use http::{HeaderValue, Response, StatusCode, header};
use std::io;

pub(super) async fn answer(asked: &Asked, name: JobName, role: &str, index: u32) -> Result<Response<Body>, Refusal> {
    let job = asked.owned(name).await?;
    let who = asked.reader_of(&job.user).await?;
    let refused = |error| reply::refused(&error, &job.shown);
    let record = asked.api.get_record(&who, &job.reference()).await.map_err(refused)?;
    let tail = match asked.target.value("tail").map(str::parse) {
        None => None,
        Some(Ok(lines)) => Some(lines),
        Some(Err(_)) => return Ok(reply::invalid(&super::joi::child("tail", "\"tail\" must be a number"))),
    };
    let mut tasks = record.view.tasks.iter().flatten();
    let task = tasks.find(|task| task.role == role && task.index == index);
    let Some(task) = task.and_then(|task| task.id.parse::<TaskId>().ok()) else {
        let message = format!("Task {role}/{index} of job {} is not found.", job.shown);
        return Ok(reply::error(StatusCode::NOT_FOUND, "NoTaskLogError", &message));
    };
    let query = LogQuery { task, cursor: None, stream: StreamFilter::All, follow: false, since: None, tail };
    let batches = asked.api.logs(&who, query).await;
    if let Err(error) = &batches {
        asked.caller.ended(Some(&who), "Logs", &format!("task {task}"), Some(error));
    }
    let mut batches = batches.map_err(refused)?;
    // What is wrong from the beginning is told by a status.
    let first = match batches.recv().await {
        Some(Err(error)) => return Ok(refused(error)),
        Some(Ok(batch)) => batch,
        None => LogBatch::default(),
    };
    let begin = (text(first).into(), Some(next(batches)));
    let mut response = Response::new(pieces(Next::new(async move { Ok(Some(begin)) })));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn next(mut batches: Answers<LogBatch>) -> Next {
    Next::new(async move {
        match batches.recv().await {
            None => Ok(None),
            Some(Err(error)) => Err(io::Error::other(error)),
            Some(Ok(batch)) => Ok(Some((text(batch).into(), Some(next(batches))))),
        }
    })
}

fn text(batch: LogBatch) -> Vec<u8> {
    let mut text = Vec::new();
    for record in batch.records {
        match record.content {
            LogContent::Output { bytes, .. } => text.extend(bytes),
            LogContent::Gap { lost_bytes, .. } => text.extend(format!("\n[{lost_bytes} bytes are lost]\n").bytes()),
        }
    }
    text
}
