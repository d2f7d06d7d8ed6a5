//! HTTP on the ports of controller and agent: other systems' protocols, each a thin layer over [`crate::api`].
//!
//! ```text
//! socket -> rpc::door: not HTTP/2's preface -> rpc::http1: limits on headers, time, connections
//!   -> Web::answer
//!      1 origin    a page of another site, or of a name that is not this machine's, is refused (403)
//!      2 metrics   GET /metrics is for Prometheus, of a controller and of an agent, which has nothing else here
//!        pai::route  method and path to what is asked for; anything else is OpenPAI's 404
//!      3 content   for what takes a body: JSON only (415), at most a job file (413), within 15 s (408)
//!      4 caller    who asks: rpc's rule, with the user that the path names as the claim
//!      5 handler   asks the controller, and says its answer in OpenPAI's words
//!   <- all of it within 30 s, else 503; lists and logs are written page by page as the client reads,
//!      which holds its place among the requests, for two minutes at most
//! ```
//!
//! Nothing is kept between requests, and nothing is decided here that the controller decides: an answer of 202 means
//! that the controller has made it durable.

mod body;
mod content;
mod held;
mod metrics;
mod origin;
pub mod pai;
mod target;

pub use body::Body;

use crate::api::{AgentApi, Caller, RecordsApi};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Bytes;
use origin::Reached;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use target::Target;
use tokio::sync::Semaphore;

/// From the headers of a request to those of its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// For reading an answer; what is not read by then is cut off.
const READING_LIMIT: Duration = Duration::from_secs(120);
/// Requests that are answered at a time, each with a job file in memory at most.
const MAX_REQUESTS: usize = 128;
/// Bytes of an answer that may wait for its reader without a place of its own.
const SMALL_ANSWER: u64 = 64 * 1024;

/// What answers HTTP. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Web {
    of: Of,
    /// What this machine is called, beside its addresses and `localhost`.
    names: Arc<[String]>,
    /// Of requests that are being answered.
    places: Arc<Semaphore>,
}

/// Whose port it is.
#[derive(Debug, Clone)]
enum Of {
    Controller(Arc<dyn RecordsApi>),
    Agent(Arc<dyn AgentApi>),
}

impl Web {
    /// Requests over TCP are answered if their `Host` is an address, `localhost` or one of `names`.
    pub fn new(api: Arc<dyn RecordsApi>, names: Vec<String>) -> Self {
        Self::of(Of::Controller(api), names)
    }

    /// The same of an agent, which answers what monitoring asks and nothing else.
    pub fn of_agent(api: Arc<dyn AgentApi>, names: Vec<String>) -> Self {
        Self::of(Of::Agent(api), names)
    }

    fn of(of: Of, names: Vec<String>) -> Self {
        Self { of, names: names.into(), places: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }

    /// Answers one request of `caller`. Never fails: what is wrong is an answer too.
    pub async fn answer<B>(&self, caller: Arc<dyn Caller>, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let message = "too many requests at once; try again";
            return pai::reply::error(StatusCode::SERVICE_UNAVAILABLE, "UnknownError", message);
        };
        let response = match tokio::time::timeout(ANSWER_LIMIT, self.answer_in_time(caller, request)).await {
            Ok(response) => response,
            Err(_) => {
                let message = format!("no answer within {} s", ANSWER_LIMIT.as_secs());
                pai::reply::error(StatusCode::SERVICE_UNAVAILABLE, "UnknownError", &message)
            }
        };
        // A small whole answer is made already: its place goes to the next, however slowly it is read.
        let small =
            |body: &Body| hyper::body::Body::size_hint(body).exact().is_some_and(|bytes| bytes <= SMALL_ANSWER);
        response.map(|body| if small(&body) { body } else { held::by(body, place, READING_LIMIT) })
    }

    async fn answer_in_time<B>(&self, caller: Arc<dyn Caller>, request: Request<B>) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send,
        B::Error: Display,
    {
        let (head, body) = request.into_parts();
        let host = host(&head.headers, &head.uri);
        let reached = match () {
            () if caller.is_no_browser() => Reached::Unix,
            () if caller.is_encrypted() => Reached::Tls,
            () => Reached::Plain,
        };
        if let Err(why) = origin::check(&head.headers, host, reached, &self.names) {
            return pai::reply::error(StatusCode::FORBIDDEN, "ForbiddenUserError", &why);
        }
        if caller.is_overheard() {
            return pai::reply::error(StatusCode::FORBIDDEN, "ForbiddenUserError", "use https");
        }
        let target = match Target::of(&head.uri) {
            Ok(target) => target,
            Err(segment) => return pai::reply::undecodable(&segment),
        };
        if metrics::is_asked(&head.method, &target) {
            let samples = match &self.of {
                Of::Controller(api) => api.metrics().await,
                Of::Agent(api) => api.metrics().await,
            };
            return metrics::answer(samples);
        }
        let (api, route) = match (&self.of, pai::route(&head.method, &target)) {
            (Of::Controller(api), Some(route)) => (api.clone(), route),
            _ => return pai::reply::no_api(&target.as_sent),
        };
        let content = if route.takes_content() { content::read(&head.headers, body).await } else { Ok(Bytes::new()) };
        match content {
            Ok(content) => {
                let scheme = reached.scheme();
                let base = host.map_or_else(String::new, |host| format!("{scheme}://{host}"));
                pai::Asked { api, caller, target, base, content }.answer(route).await
            }
            Err(refusal) => refusal,
        }
    }
}

/// The host that was asked: of the request line where it stands there, as RFC 9112 has it, else of the header.
fn host<'a>(headers: &'a HeaderMap, uri: &'a http::Uri) -> Option<&'a str> {
    let header = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(http::uri::Authority::as_str).or(header).filter(|host| !host.is_empty())
}
