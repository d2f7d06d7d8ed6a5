//! One peer as a client sees it: its address, its connections, deadlines, and errors that name it.
//!
//! Every peer gets two connections, made when first used: one for calls, one for streams. A slow reader of a stream
//! fills the flow-control window of its connection; commands and heartbeats must not wait behind it.

use super::convert::Parsed;
use super::credentials::Credentials;
use super::status::{self, MAX_HEADER_LIST_BYTES};
use super::tls::client::ClientTls;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status};

/// Reads and other short calls.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Until a stream has begun; the stream itself may last for ever.
pub(super) const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// A look at every GPU of a node, and at the memory of each.
pub(super) const CHECK_LIMIT: Duration = Duration::from_secs(900);
/// Until an interactive command has begun.
pub(super) const EXEC_LIMIT: Duration = Duration::from_secs(30);
/// Beyond a command's own deadline, so that the agent's better worded answer arrives first.
pub(super) const SLACK: Duration = Duration::from_millis(250);

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// With the handshake of TLS.
const TLS_CONNECT_LIMIT: Duration = Duration::from_secs(6);
/// A peer that answers no ping for `PING_LIMIT` is dead, also for streams that only listen.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const PING_LIMIT: Duration = Duration::from_secs(20);

/// What one slow stream may hold, and all streams of a connection together: a thousand slow ones stop no other.
pub(super) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024 * 1024;

/// `sockaddr_un` ends here.
pub(super) const MAX_SOCKET_PATH_BYTES: usize = 107;

#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// `agent at ADDRESS`.
    peer: Arc<str>,
    calls: Channel,
    streams: Channel,
    /// What proves who calls, if it goes with every call.
    bearer: Option<MetadataValue<Ascii>>,
}

impl Wire {
    /// `role` is what the peer is, for messages; with TLS it has to prove that it is `name`. Does not connect yet.
    pub(super) fn new(role: &str, address: &str, name: &str, credentials: &Credentials) -> Result<Self, Error> {
        // The connections are driven by tasks of the runtime that makes them.
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::internal(format!(
                "connecting to the {role} at {address}: not inside a tokio runtime"
            )));
        }
        let (endpoint, transport) = endpoint(address, credentials.tls.is_some())?;
        let peer = format!("{role} at {address}").into();
        let connect = || match (transport, &credentials.tls) {
            (Transport::Tls, Some(tls)) => Ok(through(&endpoint, tls.clone(), name)),
            (Transport::Tls, None) => Err(wrong(
                address,
                "asks for TLS, and nothing says whom to believe there",
                "after 'wharf login ADDR', or with a token in WHARF_TOKEN",
            )),
            (Transport::Plain | Transport::Unix, _) => Ok(endpoint.connect_lazy()),
        };
        let bearer = credentials.bearer.as_ref().filter(|_| transport != Transport::Plain);
        let bearer = bearer.and_then(|bearer| MetadataValue::try_from(format!("Bearer {bearer}")).ok());
        let bearer = bearer.map(|mut value| {
            value.set_sensitive(true);
            value
        });
        Ok(Self { peer, calls: connect()?, streams: connect()?, bearer })
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// One request, one answer, within `limit`, which the peer is told.
    pub(super) async fn call<M, T, F, Fut>(
        &self,
        method: &'static str,
        limit: Duration,
        message: M,
        send: F,
    ) -> Result<T, Error>
    where
        M: Message,
        F: FnOnce(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let bytes = message.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            let text = format!("{method}: the request has {bytes} bytes; at most {MAX_MESSAGE_BYTES} fit");
            return Err(Error::new(ErrorKind::Exhausted, text));
        }
        let mut request = self.request(message);
        request.set_timeout(limit);
        self.within(method, limit, send(self.calls.clone(), request)).await
    }

    /// The beginning of a stream of answers, within `limit`.
    pub(super) async fn open<M, T, F, Fut>(
        &self,
        method: &'static str,
        limit: Duration,
        message: M,
        send: F,
    ) -> Result<T, Error>
    where
        F: FnOnce(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.within(method, limit, send(self.streams.clone(), self.request(message))).await
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        status::announce_budget(request.metadata_mut());
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        request
    }

    async fn within<T>(
        &self,
        method: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(method, &status)),
            Err(_) => {
                let text = format!("{method} on the {}: no answer in {} ms", self.peer, limit.as_millis());
                Err(Error::new(ErrorKind::DeadlineExceeded, text))
            }
        }
    }

    pub(super) fn error(&self, method: &str, status: &Status) -> Error {
        status::from_status(status, &self.peer, method)
    }

    /// The peer answered what cannot be.
    pub(super) fn nonsense(&self, method: &str, violation: &Violation) -> Error {
        Error::internal(format!("{method}: the {} answered with a wrong field {violation}", self.peer))
    }

    pub(super) fn parsed<T>(&self, method: &str, parsed: Parsed<T>) -> Result<T, Error> {
        parsed.map_err(|violation| self.nonsense(method, &violation))
    }
}

/// How an address is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unix,
    Plain,
    Tls,
}

fn wrong(address: &str, message: &str, allowed: &str) -> Error {
    let violation = Violation {
        field: "address".into(),
        message: message.into(),
        found: address.chars().take(120).collect(),
        allowed: allowed.into(),
    };
    let text = format!("the {violation}");
    Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, text) }
}

/// Connections through TLS to whoever proves to be `name`.
fn through(endpoint: &Endpoint, tls: ClientTls, name: &str) -> Channel {
    let name: Arc<str> = name.into();
    let connector = tower::service_fn(move |uri: Uri| {
        let (tls, name) = (tls.clone(), name.clone());
        async move {
            let authority = uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
            tls.connect(&authority, &name).await
        }
    });
    endpoint.connect_with_connector_lazy(connector)
}

/// Without a scheme an address is reached by TLS where there is anything to know the peer by.
fn endpoint(address: &str, has_tls: bool) -> Result<(Endpoint, Transport), Error> {
    let wrong =
        |message: &str| wrong(address, message, "HOST:PORT, https://HOST:PORT, http://HOST:PORT or unix:PATH");
    let mut transport = if has_tls { Transport::Tls } else { Transport::Plain };
    let uri = if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.len() > MAX_SOCKET_PATH_BYTES {
            return Err(wrong("is not the path of a socket: 1 to 107 bytes are"));
        }
        transport = Transport::Unix;
        format!("unix:{path}")
    } else {
        let authority = if let Some(authority) = address.strip_prefix("https://") {
            transport = Transport::Tls;
            authority
        } else if let Some(authority) = address.strip_prefix("http://") {
            transport = Transport::Plain;
            authority
        } else {
            address
        };
        let (host, port) = authority.trim_end_matches('/').rsplit_once(':').unwrap_or_default();
        if host.is_empty() || port.parse::<u16>().is_ok_and(|port| port == 0) || port.parse::<u16>().is_err() {
            return Err(wrong("names no host and port"));
        }
        format!("http://{authority}")
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(&format!("cannot be used ({error})")))?;
    let endpoint = endpoint
        .connect_timeout(if transport == Transport::Tls { TLS_CONNECT_LIMIT } else { CONNECT_LIMIT })
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES);
    Ok((endpoint, transport))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_or_refused_with_the_forms_allowed() {
        for good in ["127.0.0.1:7600", "[::1]:7600", "node-7:7601", "http://localhost:1", "unix:/run/wharf/a.sock"] {
            assert_ne!(endpoint(good, false).unwrap().1, Transport::Tls, "{good}");
        }
        for (address, has_tls, transport) in [
            ("https://h:1", false, Transport::Tls),
            ("h:1", true, Transport::Tls),
            ("http://h:1", true, Transport::Plain),
            ("unix:/run/x", true, Transport::Unix),
        ] {
            assert_eq!(endpoint(address, has_tls).unwrap().1, transport, "{address}");
        }
        let long = format!("unix:/{}", "x".repeat(120));
        for bad in ["", "localhost", "host:", ":7600", "host:0", "host:70000", "a b:1", "unix:", &long] {
            let error = endpoint(bad, false).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{bad}");
            assert_eq!(error.violations[0].field, "address");
        }
    }
}
