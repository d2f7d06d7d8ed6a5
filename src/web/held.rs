//! A place that an answer holds until its body has been read, for so long and no longer.
//!
//! Over HTTP/2 a client that opens no window has nobody ask for the body, so the body cannot notice its own time. The
//! clock is a task of its own, which ends with the body.

use super::body::Body;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

/// The body, which takes its place along.
pub(super) fn by(body: Body, place: OwnedSemaphorePermit, limit: Duration) -> Body {
    let kept = Arc::new(Mutex::new(Some((body, place))));
    let (late, reader) = (kept.clone(), Arc::new(Mutex::new(None::<Waker>)));
    let waiting = reader.clone();
    let clock = tokio::spawn(async move {
        tokio::time::sleep(limit).await;
        drop(lock(&late).take());
        // The body that would have woken it has gone.
        if let Some(waiting) = waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waiting.wake();
        }
    });
    Held { kept, reader, ended: false, _clock: AbortOnDropHandle::new(clock) }.boxed_unsync()
}

type Kept = Mutex<Option<(Body, OwnedSemaphorePermit)>>;

fn lock(kept: &Kept) -> MutexGuard<'_, Option<(Body, OwnedSemaphorePermit)>> {
    // A body that panicked is not read on.
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Held {
    /// Nothing: all was read, or the time is over.
    kept: Arc<Kept>,
    /// Whoever waits for the next piece.
    reader: Arc<Mutex<Option<Waker>>>,
    ended: bool,
    _clock: AbortOnDropHandle<()>,
}

impl Drop for Held {
    /// At once, not when the clock has noticed.
    fn drop(&mut self) {
        drop(lock(&self.kept).take());
    }
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        let mut kept = lock(&self.kept);
        let polled = match &mut *kept {
            Some((body, _)) => Pin::new(body).poll_frame(cx),
            // The client sees that the answer is not whole.
            None => Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer was read too slowly")))),
        };
        if let Poll::Ready(None | Some(Err(_))) = polled {
            drop(kept.take());
            drop(kept);
            self.ended = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || lock(&self.kept).as_ref().is_some_and(|(body, _)| body.is_end_stream())
    }

    /// With it a whole answer has a length.
    fn size_hint(&self) -> SizeHint {
        lock(&self.kept).as_ref().map_or_else(SizeHint::default, |(body, _)| body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::{Next, pieces, whole};
    use super::*;
    use hyper::body::Body as _;
    use tokio::sync::Semaphore;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_answer_keeps_its_place_until_it_was_read() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let mut body = by(whole("all"), place, PATIENCE);
        assert_eq!((body.size_hint().exact(), places.available_permits()), (Some(3), 0));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "all");
        assert!(body.frame().await.is_none());
        assert_eq!(places.available_permits(), 1);
        drop(by(whole("all"), places.clone().try_acquire_owned().unwrap(), PATIENCE));
        assert_eq!(places.available_permits(), 1, "a client that goes away");
    }

    #[tokio::test]
    async fn whoever_waits_for_the_next_piece_is_told_that_the_time_is_over() {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let never = pieces(Next::new(std::future::pending()));
        let mut body = by(never, place, Duration::from_millis(50));
        let told = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it is woken");
        assert_eq!(told.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_has_its_place_for_a_while_only() {
        let places = Arc::new(Semaphore::new(1));
        let place = places.clone().try_acquire_owned().unwrap();
        let mut body = by(whole("all"), place, Duration::from_millis(1));
        let free = tokio::time::timeout(PATIENCE, places.acquire()).await;
        assert!(free.is_ok(), "without a look at the body");
        assert_eq!(body.frame().await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(body.frame().await.is_none());
    }
}
