//! What a connection speaks, told by its first bytes: TLS, and in it or without it gRPC or HTTP/1.
//!
//! TLS begins with a record of its handshake, gRPC with HTTP/2's preface; everything else is taken for HTTP/1. A
//! connection that has not said which within [`FIRST_BYTES_LIMIT`], handshake included, is closed, and only so many may
//! be undecided at a time: see [`super::undecided`]. So silence costs nothing and keeps nobody out. What gRPC is served
//! with afterwards is the same on every port: see [`super::serve()`].

use super::connection::Connection;
use super::crowd::Crowd;
use super::http1::Http1;
use super::local_account;
use super::peer::Peer;
use super::security::{Plain, Security};
use super::serve::Incoming;
use super::tls::server::Certified;
use super::undecided::Undecided;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 8446, section 5.1: a record of type handshake, of any version 3.x. No method of HTTP begins so.
const HANDSHAKE: u8 = 22;
pub(super) const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(10);

/// Decided for gRPC and not yet taken over.
pub(super) const GRPC_QUEUE: usize = 64;
/// Decided for HTTP/1 and told that there is no place for them.
const MAX_REFUSALS: usize = 256;

/// Accepts until `draining`; then waits for what is served as HTTP/1, which is told to end as well.
pub(super) async fn keep(
    mut incoming: Incoming,
    grpc: mpsc::Sender<io::Result<Connection>>,
    http1: Option<Http1>,
    security: Security,
    crowd: Crowd,
    draining: CancellationToken,
) {
    let (undecided, refusals) = (Undecided::default(), Arc::new(Semaphore::new(MAX_REFUSALS)));
    let mut visits = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => break,
            accepted = incoming.next() => accepted,
            // What has ended is not kept.
            Some(_) = visits.join_next() => continue,
        };
        // Failures to accept are logged and waited out where they happen.
        let Some(Ok(connection)) = accepted else { break };
        let (grpc, http1, draining) = (grpc.clone(), http1.clone(), draining.clone());
        let (security, crowd) = (security.clone(), crowd.clone());
        let (place, refusals) = (undecided.enter(connection.peer()), refusals.clone());
        visits.spawn(async move {
            let decided = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                // Before the next: what has arrived counts, though many came at once.
                decided = tokio::time::timeout(FIRST_BYTES_LIMIT, decide(connection, &security)) => decided,
                () = place.lost() => return,
            };
            match decided {
                // Serving gRPC may have ended; then the connection ends too.
                Ok(Ok((Protocol::Grpc, mut connection))) => {
                    connection.join(&crowd);
                    drop(grpc.send(Ok(connection)).await);
                }
                Ok(Ok((Protocol::Http1, connection))) => {
                    drop(place);
                    // Where nothing answers HTTP the connection ends.
                    let Some(http1) = http1 else { return };
                    match (http1.place(), refusals.try_acquire()) {
                        (Some(place), _) => http1.serve(connection, place, draining).await,
                        (None, Ok(_refusal)) => Http1::refuse(connection).await,
                        (None, Err(_)) => {}
                    }
                }
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }
    // Nobody is let in any more.
    drop((incoming, grpc));
    while visits.join_next().await.is_some() {}
}

enum Protocol {
    Grpc,
    Http1,
}

/// Whoever is there, and what they speak.
async fn decide(mut connection: Connection, security: &Security) -> io::Result<(Protocol, Connection)> {
    let Peer::Tcp(address) = *connection.peer() else { return protocol_of(connection).await };
    let mut first = [0];
    connection.read_exact(&mut first).await?;
    connection.unread(&first);
    match &security.tls {
        Some(config) if first[0] == HANDSHAKE => {
            let accepted = TlsAcceptor::from(config.clone()).accept(connection).await;
            let stream = accepted.inspect_err(|error| {
                // Whoever only looks whether something listens goes away.
                if error.kind() == io::ErrorKind::InvalidData {
                    security.note_handshake(address, error);
                }
            })?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certified = match certificate {
                // The authority makes none that cannot be read.
                Some(certificate) => Some(Certified::of(certificate).ok_or(io::ErrorKind::InvalidData)?),
                None => None,
            };
            let peer = Peer::Tls { address, certified: certified.map(Arc::new) };
            protocol_of(Connection::within(Box::new(stream), peer)).await
        }
        _ => {
            if security.plain == Plain::OwnAccount {
                name_account(&mut connection, address);
            }
            protocol_of(connection).await
        }
    }
}

fn name_account(connection: &mut Connection, address: SocketAddr) {
    let own = connection.local_address();
    if let Some(uid) = own.and_then(|own| local_account::of(own, address)) {
        connection.is_now(Peer::Local { address, uid });
    }
}

/// Reads until it is certain, and gives back what was read.
async fn protocol_of(mut connection: Connection) -> io::Result<(Protocol, Connection)> {
    let mut seen = [0; PREFACE.len()];
    let mut count = 0;
    let protocol = loop {
        let read = connection.read(&mut seen[count..]).await?;
        count += read;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen[..count] != PREFACE[..count] {
            break Protocol::Http1;
        }
        if count == PREFACE.len() {
            break Protocol::Grpc;
        }
    };
    connection.unread(&seen[..count]);
    Ok((protocol, connection))
}
