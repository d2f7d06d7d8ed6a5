//! Answers in OpenPAI's form: JSON in one line, errors as `{"code", "message"}`.

use crate::domain::command::{Error, ErrorKind};
use crate::web::body::{Body, whole};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json as value};

/// As OpenPAI's server wrote it.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

pub(in crate::web) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    json_bytes(status, whole(value.to_string()))
}

/// JSON that is written already.
pub(super) fn json_bytes(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    // Answers are of the moment, and a browser must not take them for anything else than they say.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

pub(in crate::web) fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json(status, &value!({ "code": code, "message": message }))
}

/// An error that OpenPAI's server had no code for: those of reading a request.
pub(in crate::web) fn uncoded(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &value!({ "message": message }))
}

/// `as_sent`: path and query. Also for a method that a path does not have, as in OpenPAI.
pub(in crate::web) fn no_api(as_sent: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "NoApiError", &format!("API {as_sent} is not found."))
}

pub(in crate::web) fn undecodable(segment: &str) -> Response<Body> {
    uncoded(StatusCode::BAD_REQUEST, &format!("Failed to decode param '{segment}'"))
}

pub(super) fn invalid(message: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, "InvalidParametersError", message)
}

pub(super) fn no_job(shown: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "NoJobError", &format!("Job {shown} is not found."))
}

pub(super) fn conflict(shown: &str) -> Response<Body> {
    error(StatusCode::CONFLICT, "ConflictJobError", &format!("Job name {shown} already exists"))
}

pub(super) fn guest() -> Response<Body> {
    error(StatusCode::UNAUTHORIZED, "UnauthorizedUserError", "Guest is not allowed to do this operation.")
}

pub(super) fn forbidden(message: &str) -> Response<Body> {
    error(StatusCode::FORBIDDEN, "ForbiddenUserError", message)
}

/// What the controller refused, about a job that is called `shown`.
pub(super) fn refused(refusal: &Error, shown: &str) -> Response<Body> {
    let unknown = |status| error(status, "UnknownError", &refusal.message);
    let mut response = match refusal.kind {
        ErrorKind::NotFound => no_job(shown),
        ErrorKind::AlreadyExists => conflict(shown),
        ErrorKind::Invalid | ErrorKind::OutOfRange => invalid(&refusal.message),
        ErrorKind::NotAllowed => forbidden(&refusal.message),
        ErrorKind::Refused => unknown(StatusCode::CONFLICT),
        ErrorKind::Exhausted => unknown(StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Stale | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
            unknown(StatusCode::SERVICE_UNAVAILABLE)
        }
        ErrorKind::Internal => unknown(StatusCode::INTERNAL_SERVER_ERROR),
    };
    if let Some(after) = refusal.retry_after_ms {
        response.headers_mut().insert(header::RETRY_AFTER, after.div_ceil(1000).into());
    }
    response
}
