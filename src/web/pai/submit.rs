//! A job is submitted: `PUT` with its name in the path, `POST` without.

use super::{Asked, Body, JobName, Refusal, joi, reply, to_the_end};
use crate::api::controller::Submit;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::jobfile::{self, Parsed};
use crate::web::target::encode;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

/// How messages call what came; the ending says the format.
const FILE: &str = "job.json";
const X_WARNING: HeaderName = HeaderName::from_static("x-warning");
/// Warnings of one answer, and the length of one.
const MAX_WARNINGS: usize = 16;
const MAX_WARNING_BYTES: usize = 300;

pub(super) async fn answer(
    asked: &Asked,
    user: Option<String>,
    name: Option<JobName>,
) -> Result<Response<Body>, Refusal> {
    if let Some(name) = &name {
        refuse_taken(asked, name).await?;
    }
    let who = match asked.writer(user.as_deref()).await? {
        Ok(who) => who,
        Err(tried) => {
            let other = user.unwrap_or_default();
            return Ok(reply::forbidden(&format!("User {} is not allowed to submit jobs as {other}.", tried.user)));
        }
    };
    let parsed = jobfile::parse(FILE, &asked.content).map_err(|violations| refused(&violations, &asked.content))?;
    if let Some(name) = &name {
        refuse_other_name(&parsed, name)?;
    }
    let shown = name.as_ref().map_or(&parsed.spec.name, |name| &name.shown).clone();
    let submit = Submit { file_name: FILE.to_owned(), content: asked.content.to_vec(), ..Submit::default() };
    let (api, caller, object) = (asked.api.clone(), asked.caller.clone(), format!("job {}/{shown}", who.user));
    // Whoever asks may go away; what comes of it is written down all the same.
    let submitted = to_the_end(async move {
        let submitted = api.submit(&who, submit).await;
        caller.ended(Some(&who), "Submit", &object, submitted.as_ref().err());
        submitted
    });
    let submitted = submitted.await;
    let submitted = submitted.map_err(|error| refused_by_controller(&error, &shown, &asked.content))?;
    let mut response =
        reply::json(StatusCode::ACCEPTED, &json!({ "message": format!("update job {shown} successfully") }));
    let path = asked.target.as_sent.split('?').next().unwrap_or_default().trim_end_matches('/');
    let location = match name {
        Some(_) => format!("{}{path}", asked.base),
        None => format!("{}{path}/{}", asked.base, encode(&shown)),
    };
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    for warning in submitted.warnings.iter().take(MAX_WARNINGS) {
        response.headers_mut().append(X_WARNING, warning_value(warning));
    }
    Ok(response)
}

/// OpenPAI looked at the name before anything else. Two that come at once are told apart by the controller.
async fn refuse_taken(asked: &Asked, name: &JobName) -> Result<(), Refusal> {
    let Ok(job) = asked.owned(name.clone()).await else { return Ok(()) };
    let who = asked.reader().await?;
    match asked.api.get_record(&who, &job.reference()).await {
        Ok(record) if !record.job.state.is_terminal() => Err(reply::conflict(&job.shown).into()),
        _ => Ok(()),
    }
}

fn refuse_other_name(parsed: &Parsed, name: &JobName) -> Result<(), Refusal> {
    if parsed.spec.name == name.name {
        return Ok(());
    }
    let what = format!("\"jobName\" must be one of [{}]", name.name);
    Err(reply::invalid(&joi::child("jobName", &what)).into())
}

fn refused(violations: &[Violation], content: &[u8]) -> Refusal {
    let Some(first) = violations.first() else { return reply::invalid("the job file is wrong").into() };
    if let Some(message) = joi::unreadable(first, FILE, content) {
        return reply::uncoded(StatusCode::BAD_REQUEST, &message).into();
    }
    reply::invalid(&joi::message(first, FILE)).into()
}

fn refused_by_controller(error: &Error, shown: &str, content: &[u8]) -> Refusal {
    match (error.kind, error.violations.first()) {
        // The file has been read: what is wrong with its queue is that there is none.
        (ErrorKind::Invalid | ErrorKind::NotFound, Some(first)) if first.field == "virtualCluster" => {
            let name = first.found.trim_matches('"');
            let message = format!("Virtual cluster {name} is not found.");
            reply::error(StatusCode::NOT_FOUND, "NoVirtualClusterError", &message).into()
        }
        (ErrorKind::Invalid, Some(_)) => refused(&error.violations, content),
        _ => reply::refused(error, shown).into(),
    }
}

/// A sentence as a header holds it. OpenPAI had one warning, in these words.
fn warning_value(warning: &str) -> HeaderValue {
    const OBSOLETE: &str = "killAllOnCompletedTaskNumber has been obsoleted, please use minFailedTaskCount and minSucceededTaskCount instead.";
    if warning.starts_with("killAllOnCompletedTaskNumber:") {
        return HeaderValue::from_static(OBSOLETE);
    }
    let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
    let text: String = warning.chars().map(printable).take(MAX_WARNING_BYTES).collect();
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("?"))
}
