//! The members of one etcd: a connection to each, which to ask next, how long to wait, and what their errors mean.
//!
//! A read may be asked of one member after the other until one answers. A write may be asked again only if it is
//! known that it was not taken; else its outcome is unknown, and the caller has to be told.

use super::EtcdTls;
use super::generated as pb;
use crate::store::StoreError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// One member's time for an answer; a member that hangs must not use up the time of the others.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Between rounds in which no member could answer, as while they elect a leader.
const PAUSE: Duration = Duration::from_millis(100);
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_LIMIT: Duration = Duration::from_secs(5);
/// A page of entries or a piece of a watch's answer is smaller: see [`super::range`].
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

pub(super) type Kv = pb::kv_client::KvClient<Channel>;
pub(super) type Watch = pb::watch_client::WatchClient<Channel>;
pub(super) type Lease = pb::lease_client::LeaseClient<Channel>;

/// Whether a question that may have been heard may be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It changes nothing, or the same when it is done twice.
    Freely,
    OnlyUnheard,
}

/// What is known of a question without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing was done, and another member may do it.
    Unheard,
    /// Nothing was done, and no member will do it.
    Refused,
    /// It may have been done, or may still be.
    Unknown,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    /// etcd's code, or the connection's; `None` if nothing came back.
    pub(super) code: Option<Code>,
    pub(super) message: String,
    pub(super) verdict: Verdict,
}

impl Failed {
    pub(super) fn is_compacted(&self) -> bool {
        self.code == Some(Code::OutOfRange) && self.message.contains("compacted")
    }

    /// The answer is larger than we take.
    pub(super) fn is_too_large(&self) -> bool {
        self.code == Some(Code::OutOfRange) && self.message.contains("too large")
    }

    pub(super) fn into_error(self, operation: &'static str) -> StoreError {
        StoreError::Unavailable { operation, message: self.message }
    }
}

fn client_tls(tls: &EtcdTls) -> ClientTlsConfig {
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca));
    match &tls.identity {
        Some((certificate, key)) => config.identity(Identity::from_pem(certificate, key)),
        None => config,
    }
}

/// An error with everything behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

#[derive(Debug)]
struct Member {
    address: String,
    channel: Channel,
}

/// Connections to all members, made when first used.
#[derive(Debug)]
pub(super) struct Link {
    members: Vec<Member>,
    /// Who answered last.
    preferred: AtomicUsize,
}

impl Link {
    /// `HOST:PORT`, at least one. Has to be called inside a tokio runtime.
    pub(super) fn new(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Self, StoreError> {
        let unavailable = |message| StoreError::Unavailable { operation: "connecting to etcd", message };
        if endpoints.is_empty() {
            return Err(unavailable("no endpoint is given".to_owned()));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(unavailable("not inside a tokio runtime".to_owned()));
        }
        let member = |address: &String| {
            let wrong = |why: String| unavailable(format!("'{address}': {why}; HOST:PORT is expected"));
            if address.starts_with("https://") && tls.is_none() {
                return Err(wrong("nothing says whom to believe there: ca_certificate is missing".to_owned()));
            }
            let authority =
                address.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
            let scheme = if tls.is_some() { "https" } else { "http" };
            let endpoint =
                Endpoint::from_shared(format!("{scheme}://{authority}")).map_err(|error| wrong(error.to_string()))?;
            let endpoint = match tls {
                Some(tls) => endpoint.tls_config(client_tls(tls)).map_err(|error| wrong(chain(&error)))?,
                None => endpoint,
            };
            let endpoint = endpoint
                .connect_timeout(CONNECT_LIMIT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_LIMIT)
                .keep_alive_while_idle(true);
            Ok(Member { address: authority.to_owned(), channel: endpoint.connect_lazy() })
        };
        Ok(Self { members: endpoints.iter().map(member).collect::<Result<_, _>>()?, preferred: AtomicUsize::new(0) })
    }

    pub(super) fn addresses(&self) -> String {
        self.members.iter().map(|member| member.address.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Another member is asked first from now on: the one that was is not what it was.
    pub(super) fn turn(&self) {
        self.preferred.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection to ask first.
    pub(super) fn channel(&self) -> Channel {
        self.members[self.preferred.load(Ordering::Relaxed) % self.members.len()].channel.clone()
    }

    /// One question, asked of one member after the other, until one answers or `limit` has passed.
    pub(super) async fn ask<T, F, Fut>(&self, again: Again, limit: Duration, send: F) -> Result<T, Failed>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + limit;
        let mut tried = 0;
        loop {
            let preferred = self.preferred.load(Ordering::Relaxed);
            let member = &self.members[preferred % self.members.len()];
            let attempt = ATTEMPT.min(deadline.saturating_duration_since(Instant::now()));
            let failed = match tokio::time::timeout(attempt, send(member.channel.clone())).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => self.failed(member, &status),
                Err(_) => {
                    let message = format!("etcd at {}: no answer within {} ms", member.address, attempt.as_millis());
                    Failed { code: None, message, verdict: Verdict::Unknown }
                }
            };
            let unknown = failed.verdict == Verdict::Unknown && matches!(failed.code, None | Some(Code::Unavailable));
            if failed.verdict == Verdict::Unheard || unknown {
                // Only from where it was: others may have found a better one meanwhile.
                let _ =
                    self.preferred.compare_exchange(preferred, preferred + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            tried += 1;
            let ask_again = failed.verdict == Verdict::Unheard || (unknown && again == Again::Freely);
            let pause = if tried % self.members.len() == 0 { PAUSE } else { Duration::ZERO };
            if !ask_again || Instant::now() + pause >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Puts a status into words, with what the operator can do.
    fn failed(&self, member: &Member, status: &Status) -> Failed {
        let (text, at) = (status.message(), &member.address);
        let sources = std::iter::successors(std::error::Error::source(status), |error| error.source());
        let causes: Vec<_> = sources.collect();
        let code = status.code();
        let failed = |code, verdict, message| Failed { code: Some(code), message, verdict };
        if causes.iter().any(|error| error.is::<tonic::ConnectError>()) {
            let cause = causes.last().map_or_else(|| text.to_owned(), ToString::to_string);
            return failed(Code::Unavailable, Verdict::Unheard, format!("no connection to etcd at {at}: {cause}"));
        }
        if text.contains("database space exceeded") {
            let message = format!(
                "etcd's database is full (asked at {at}; its alarm NOSPACE is raised): reading goes on, writing does \
                 not; compact and defragment it and disarm the alarm, or give it a larger --quota-backend-bytes"
            );
            return failed(code, Verdict::Refused, message);
        }
        if text.contains("no leader") || text.contains("proposal dropped") {
            let all = self.addresses();
            let message =
                format!("etcd has no leader: too few of its members ({all}) reach each other (asked at {at})");
            return failed(code, Verdict::Unheard, message);
        }
        if text.contains("too many requests") {
            return failed(code, Verdict::Unheard, format!("etcd at {at} has too much to do: {text}"));
        }
        if matches!(code, Code::Unauthenticated | Code::PermissionDenied) || text.contains("user name is empty") {
            let message = format!("etcd at {at} asks for authentication, which wharf does not have: {text}");
            return failed(code, Verdict::Refused, message);
        }
        // A status with a source was made on this side: the connection broke.
        let code = if causes.is_empty() || code == Code::OutOfRange { code } else { Code::Unavailable };
        failed(code, Verdict::Unknown, format!("etcd at {at}: {text} ({code:?})"))
    }
}

/// A request that a member without a leader refuses at once, rather than letting it wait.
pub(super) fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

pub(super) fn kv(channel: Channel) -> Kv {
    Kv::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

pub(super) fn watch(channel: Channel) -> Watch {
    Watch::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
}

pub(super) fn lease(channel: Channel) -> Lease {
    Lease::new(channel)
}
