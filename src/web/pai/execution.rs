//! `executionType`: stopping a job, and starting it, which is what every job is told by being submitted.
//!
//! STOP may be said again and again. START changes nothing: a job that nobody stopped goes on, one that was stopped does
//! not come back, as in OpenPAI once the stop had come to its end; it has to be submitted anew.

use super::joi;
use super::{Asked, Body, JobName, Refusal, reply, to_the_end};
use crate::domain::command::ErrorKind;
use http::{Response, StatusCode};
use serde_json::{Value, json};

pub(super) async fn answer(asked: &Asked, name: JobName) -> Result<Response<Body>, Refusal> {
    let value = value(&asked.content)?;
    let writer = asked.writer(name.user.as_deref()).await?;
    let job = asked.owned(name).await?;
    let not_allowed =
        |user: &str| reply::forbidden(&format!("User {user} is not allowed to execute job {}.", job.shown));
    let reader = writer.as_ref().unwrap_or_else(|tried| tried);
    let known = asked.api.get_record(reader, &job.reference()).await;
    known.map_err(|error| reply::refused(&error, &job.shown))?;
    let who = writer.map_err(|tried| not_allowed(&tried.user))?;
    if value == Execution::Stop {
        let (api, caller, reference, by) = (asked.api.clone(), asked.caller.clone(), job.reference(), who.clone());
        let stopped = to_the_end(async move {
            let stopped = api.stop_job(&by, &reference, None).await;
            caller.ended(Some(&by), "StopJob", &format!("job {reference}"), stopped.as_ref().err());
            stopped
        });
        stopped.await.map_err(|error| match error.kind {
            ErrorKind::NotAllowed => not_allowed(&who.user),
            _ => reply::refused(&error, &job.shown),
        })?;
    }
    let message = format!("execute job {} successfully", job.shown);
    Ok(reply::json(StatusCode::ACCEPTED, &json!({ "message": message })))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Execution {
    Start,
    Stop,
}

fn value(content: &[u8]) -> Result<Execution, Refusal> {
    let wrong = |what: &str| Err(reply::invalid(&joi::child("value", what)).into());
    // As OpenPAI's server took it, no content is an object without fields.
    let content = if content.is_empty() { b"{}" } else { content };
    let members = match serde_json::from_slice(content) {
        Ok(Value::Object(members)) => members,
        Ok(_) => return Err(reply::invalid("\"value\" must be an object").into()),
        Err(error) => return Err(reply::uncoded(StatusCode::BAD_REQUEST, &format!("syntax error: {error}")).into()),
    };
    let value = match members.get("value") {
        None => return wrong("\"value\" is required"),
        Some(Value::String(text)) => match text.as_str() {
            "START" => Execution::Start,
            "STOP" => Execution::Stop,
            "" => return wrong("\"value\" is not allowed to be empty"),
            _ => return wrong("\"value\" must be one of [START, STOP]"),
        },
        Some(_) => return wrong("\"value\" must be a string"),
    };
    match members.keys().find(|key| *key != "value") {
        Some(other) => Err(reply::invalid(&format!("\"{other}\" is not allowed")).into()),
        None => Ok(value),
    }
}
