//! Serves routes on bound sockets until told to stop, and then for at most five seconds.

use super::bind::{BoundListener, Socket, SocketFile};
use super::channel::{CONNECTION_WINDOW_BYTES, PING_INTERVAL, PING_LIMIT, STREAM_WINDOW_BYTES};
use super::connection::{Connection, Transport};
use super::crowd::Crowd;
use super::door;
use super::http1::Http1;
use super::intake::{Intake, Usage};
use super::peer::Peer;
use super::routes::Routes;
use crate::domain::command::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// How long calls in flight may take to end after the shutdown began; then their connections are cut.
const GRACE: Duration = Duration::from_secs(5);
/// A cut connection only has to be noticed.
const CUT_LIMIT: Duration = Duration::from_secs(1);
/// Between attempts to accept when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Streams (followed logs, watches) of one connection.
const MAX_STREAMS: u32 = 4096;

/// Serves until `shutdown`. Then: no new connections, health says so, streams end with `Unavailable`, calls in
/// flight have five seconds, and what is left is cut. Dropping the future cuts everything at once.
pub async fn serve(listeners: Vec<BoundListener>, routes: Routes, shutdown: CancellationToken) -> Result<(), Error> {
    let cut = CancellationToken::new();
    // Connections live in tasks of the transport; this is how they end with us.
    let _cut_on_drop = cut.clone().drop_guard();
    let draining = CancellationToken::new();
    let mut servers = JoinSet::new();
    let http1 = routes.web.clone().map(|web| Http1::new(web, routes.admission.clone()));
    let security = routes.admission.security.clone();
    let (crowd, usage) = (Crowd::of_process(), Usage::default());
    for listener in listeners {
        let address = listener.address().to_owned();
        let incoming = Incoming::new(listener, cut.clone());
        let services = Intake { routes: routes.services.clone(), usage: usage.clone() };
        let ended = draining.clone().cancelled_owned();
        let failed = move |error| Error::internal(format!("serving on {address}: {error}"));
        let (sender, receiver) = mpsc::channel(door::GRPC_QUEUE);
        let served = server().serve_with_incoming_shutdown(services, ReceiverStream::new(receiver), ended);
        servers.spawn(async move { served.await.map_err(failed) });
        let kept = door::keep(incoming, sender, http1.clone(), security.clone(), crowd.clone(), draining.clone());
        servers.spawn(async move {
            kept.await;
            Ok(())
        });
    }
    let early = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        ended = servers.join_next() => ended.map_or(Ok(()), flatten),
    };
    draining.cancel();
    routes.close().await;
    let drained = tokio::time::timeout(GRACE, join(&mut servers)).await;
    let late = match drained {
        Ok(ended) => ended,
        Err(_) => {
            cut.cancel();
            tokio::time::timeout(CUT_LIMIT, join(&mut servers)).await.unwrap_or(Ok(()))
        }
    };
    early.and(late)
}

async fn join(servers: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    let mut all = Ok(());
    while let Some(ended) = servers.join_next().await {
        all = all.and(flatten(ended));
    }
    all
}

fn flatten(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    ended.unwrap_or_else(|error| Err(Error::internal(format!("a server ended: {error}"))))
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_LIMIT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
}

/// Connections of one socket.
pub(super) struct Incoming {
    socket: Socket,
    cut: CancellationToken,
    pause: Option<Pin<Box<Sleep>>>,
    address: String,
    _file: Option<SocketFile>,
}

impl Incoming {
    fn new(listener: BoundListener, cut: CancellationToken) -> Self {
        let address = listener.address().to_owned();
        let BoundListener { socket, file, .. } = listener;
        Self { socket, cut, pause: None, address, _file: file }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        Poll::Ready(match &self.socket {
            Socket::Tcp(listener) => ready!(listener.poll_accept(cx)).map(|(stream, address)| {
                // Only latency is lost without it.
                let _ = stream.set_nodelay(true);
                Connection::new(Transport::Tcp(stream), Peer::Tcp(address), &self.cut)
            }),
            Socket::Unix(listener) => ready!(listener.poll_accept(cx)).and_then(|(stream, _)| {
                let uid = stream.peer_cred()?.uid();
                Ok(Connection::new(Transport::Unix(stream), Peer::Unix { uid }, &self.cut))
            }),
        })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            match ready!(this.poll_accept(cx)) {
                Ok(connection) => return Poll::Ready(Some(Ok(connection))),
                Err(error) => {
                    tracing::warn!(address = this.address, %error, "a connection could not be accepted");
                    this.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}
