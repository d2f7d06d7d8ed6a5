//! Bodies of answers: whole, or made while they are read.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Frame};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The body of an answer.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What makes the next piece, and whatever makes the one after it; no piece is the end.
pub(super) struct Next(Pin<Box<dyn Future<Output = Step> + Send>>);

pub(super) type Step = io::Result<Option<(Bytes, Option<Next>)>>;

impl Next {
    pub(super) fn new(step: impl Future<Output = Step> + Send + 'static) -> Self {
        Self(Box::pin(step))
    }
}

/// A body whose pieces are made one after the other, as fast as they are read.
pub(super) fn pieces(first: Next) -> Body {
    Pieces { next: Some(first) }.boxed_unsync()
}

struct Pieces {
    next: Option<Next>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let made = ready!(next.0.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(match made {
            Ok(Some((bytes, after))) => {
                self.next = after;
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => None,
            // The connection is cut: the client sees that the answer is not whole.
            Err(error) => Some(Err(error)),
        })
    }
}
