//! HTTP/1 on a port that serves gRPC: [`Web`] over a connection, with limits of its own, so that nobody who is slow, or
//! who has very many connections, takes anything from gRPC.

use super::admission::Admission;
use super::connection::Connection;
use super::peer::{Visitor, bearer_of};
use crate::web::Web;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections of all listeners of a server together.
const MAX_CONNECTIONS: usize = 128;
/// From the first byte of a request to the end of its headers, and between two requests of one connection.
const HEADERS_LIMIT: Duration = Duration::from_secs(10);
const MAX_HEADER_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// After this a connection ends with the request that it is at, and after [`LAST_REQUEST_LIMIT`] in any case: a client
/// that reads slowly holds its place for so long and no longer.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);
const LAST_REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// For telling a client that there are too many.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json; charset=utf-8\r\n\
    content-length: 67\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"code\":\"UnknownError\",\"message\":\"too many connections; try again\"}";

/// How HTTP/1 is served; copies share their limits.
#[derive(Debug, Clone)]
pub(super) struct Http1 {
    web: Web,
    admission: Arc<Admission>,
    places: Arc<Semaphore>,
}

impl Http1 {
    pub(super) fn new(web: Web, admission: Arc<Admission>) -> Self {
        Self { web, admission, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }

    /// A place for one more connection, if there is one.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Tells a client that there is no place. Whoever does not listen finds the connection closed.
    pub(super) async fn refuse(mut connection: Connection) {
        let refusal = async {
            connection.write_all(TOO_MANY).await?;
            connection.shutdown().await?;
            // What is on its way here and not read would take the answer back.
            let mut rest = [0; 4096];
            while connection.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(REFUSAL_LIMIT, refusal).await;
    }

    /// Serves one connection to its end: the other end's wish, a limit, or `draining` and the request it is at.
    pub(super) async fn serve(
        self,
        connection: Connection,
        _place: OwnedSemaphorePermit,
        draining: CancellationToken,
    ) {
        let peer = connection.peer().clone();
        let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let (web, peer, admission) = (self.web.clone(), peer.clone(), self.admission.clone());
            let caller =
                Arc::new(Visitor { peer, bearer: bearer_of(request.headers()), admission, by: OnceLock::new() });
            async move { Ok::<_, Infallible>(web.answer(caller, request).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_LIMIT);
        builder.max_buf_size(MAX_HEADER_BYTES).max_headers(MAX_HEADERS);
        let mut served = pin!(builder.serve_connection(TokioIo::new(connection), answer));
        tokio::select! {
            // How it failed is the other end's doing.
            _ = served.as_mut() => return,
            () = draining.cancelled() => {}
            () = tokio::time::sleep(CONNECTION_LIMIT) => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(LAST_REQUEST_LIMIT, served).await;
    }
}

#[cfg(test)]
mod tests {
    use super::TOO_MANY;

    #[test]
    fn the_refusal_says_its_own_length() {
        let text = std::str::from_utf8(TOO_MANY).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
