//! Where a port serves both: tells gRPC from HTTP/1 by the first bytes of a connection.
//!
//! gRPC begins with HTTP/2's preface; everything else is taken for HTTP/1. A connection that has not said which within
//! [`FIRST_BYTES_LIMIT`] is closed, and only so many may be undecided at a time: see [`super::undecided`]. So silence
//! costs nothing and keeps nobody out. What gRPC is served with afterwards is the same as on a port without HTTP: see
//! [`super::serve()`].

use super::connection::Connection;
use super::crowd::Crowd;
use super::http1::Http1;
use super::serve::Incoming;
use super::undecided::Undecided;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const FIRST_BYTES_LIMIT: Duration = Duration::from_secs(10);

/// Decided for gRPC and not yet taken over.
pub(super) const GRPC_QUEUE: usize = 64;
/// Decided for HTTP/1 and told that there is no place for them.
const MAX_REFUSALS: usize = 256;

/// Accepts until `draining`; then waits for what is served as HTTP/1, which is told to end as well.
pub(super) async fn keep(
    mut incoming: Incoming,
    grpc: mpsc::Sender<io::Result<Connection>>,
    http1: Http1,
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
        let (place, refusals, crowd) = (undecided.enter(connection.peer()), refusals.clone(), crowd.clone());
        visits.spawn(async move {
            let decided = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                // Before the next: what has arrived counts, though many came at once.
                decided = tokio::time::timeout(FIRST_BYTES_LIMIT, decide(connection)) => decided,
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

/// Reads until it is certain, and gives back what was read.
async fn decide(mut connection: Connection) -> io::Result<(Protocol, Connection)> {
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
