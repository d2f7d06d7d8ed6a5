//! One accepted connection, of either kind of socket.

use super::crowd::{Crowd, Seat};
use super::peer::Peer;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A connection that knows its peer, and that fails once it is cut.
pub(super) struct Connection {
    transport: Transport,
    peer: Peer,
    /// Ends this one, and only this one.
    end: CancellationToken,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    seat: Option<Seat>,
    /// Read to see what the other end speaks, and not yet given to whoever serves it; the last byte comes first.
    looked_at: Vec<u8>,
}

pub(super) enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Over another connection, which is cut for both.
    Tls(Box<TlsStream<Connection>>),
}

impl Connection {
    pub(super) fn new(transport: Transport, peer: Peer, cut: &CancellationToken) -> Self {
        let end = cut.child_token();
        let cut = Box::pin(end.clone().cancelled_owned());
        Self { transport, peer, end, cut, seat: None, looked_at: Vec::new() }
    }

    /// From now on it is one of these, who may tell it to go.
    pub(super) fn join(&mut self, crowd: &Crowd) {
        self.seat = Some(crowd.enter(&self.peer, self.end.clone()));
    }

    /// What came over `inner` after its handshake; `peer` is what that has proven.
    pub(super) fn within(inner: Box<TlsStream<Self>>, peer: Peer) -> Self {
        let end = inner.get_ref().0.end.clone();
        let cut = Box::pin(end.clone().cancelled_owned());
        Self { transport: Transport::Tls(inner), peer, end, cut, seat: None, looked_at: Vec::new() }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn is_now(&mut self, peer: Peer) {
        self.peer = peer;
    }

    /// The own end, of TCP.
    pub(super) fn local_address(&self) -> Option<std::net::SocketAddr> {
        match &self.transport {
            Transport::Tcp(stream) => stream.local_addr().ok(),
            Transport::Unix(_) => None,
            Transport::Tls(stream) => stream.get_ref().0.local_address(),
        }
    }

    /// Gives back bytes that were read from it: whoever reads next reads them again.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.looked_at.extend(bytes.iter().rev());
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if !self.looked_at.is_empty() {
            while buf.remaining() > 0
                && let Some(byte) = self.looked_at.pop()
            {
                buf.put_slice(&[byte]);
            }
            return Poll::Ready(Ok(()));
        }
        let read = match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        };
        if let (Poll::Ready(Ok(())), Some(seat)) = (&read, &self.seat) {
            seat.heard();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
