//! `GET /metrics`: everything of [`crate::domain::metrics`] that is known, as Prometheus reads it.

use super::body::{Body, whole};
use super::target::Target;
use crate::domain::command::Error;
use crate::domain::metrics::{Sample, text};
use http::{HeaderValue, Method, Response, StatusCode, header};

/// Prometheus' text format.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn is_asked(method: &Method, target: &Target) -> bool {
    let reads = method == Method::GET || method == Method::HEAD;
    reads && matches!(target.segments.as_slice(), [only] if only == "metrics")
}

pub(super) fn answer(samples: Result<Vec<Sample>, Error>) -> Response<Body> {
    let (status, said) = match samples {
        Ok(samples) => (StatusCode::OK, text(&samples)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.message)),
    };
    let mut response = Response::new(whole(said));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
