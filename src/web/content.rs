//! What a request brings: JSON, of bounded size, in bounded time.

use super::body::Body;
use super::pai::reply;
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Bytes;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

/// For all of it.
const READ_LIMIT: Duration = Duration::from_secs(15);

/// The content of a request, or the answer that refuses it. OpenPAI's errors of this kind have no code.
pub(super) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Response<Body>>
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let read = async {
        check_type(headers)?;
        tokio::time::timeout(READ_LIMIT, collect(body))
            .await
            .unwrap_or_else(|_| Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())))
    };
    read.await.map_err(|(status, message)| reply::uncoded(status, &message))
}

/// Also what keeps forms of web pages out, which cannot say this type.
fn check_type(headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
    let found = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let essence = found.as_deref().and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let found: String = if essence.is_empty() { "none".to_owned() } else { essence.chars().take(80).collect() };
    let message = format!("the content type of the body must be application/json; found {found}");
    Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

async fn collect<B>(body: B) -> Result<Bytes, (StatusCode, String)>
where
    B: hyper::body::Body<Data = Bytes> + Send,
    B::Error: Display,
{
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, "request entity too large".to_owned());
    let mut body = pin!(body);
    if body.size_hint().lower() > MAX_JOB_FILE_BYTES as u64 {
        return Err(too_large());
    }
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| (StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if content.len() + data.len() > MAX_JOB_FILE_BYTES {
            return Err(too_large());
        }
        content.extend_from_slice(&data);
    }
    Ok(content.into())
}
