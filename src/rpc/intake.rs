//! Requests of gRPC on their way in: how many may be on it, how many of their bytes may wait, how long one may take to
//! arrive; and how many may be answered by streams at a time.
//!
//! A request is let in whoever sends it. One that has not arrived has to go instead where its address has its share, or
//! all have theirs: the oldest, which has had the most time. So a client that begins thousands of messages and ends none
//! takes memory and places from nobody else, and not from its own address either.
//!
//! What is below `/api/` has limits of its own: see [`crate::web`].

use super::peer::Peer;
use super::undecided::Origin;
use http::{Request, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;

/// Until a whole request is there; of one that is a stream, until its answer has begun. Then it is as long as it likes.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// Methods whose requests are streams.
const STREAMED: [&str; 2] = ["/Exec", "/ServerReflectionInfo"];
/// Methods whose answers are.
const STREAMS: [&str; 4] = ["/Exec", "/ServerReflectionInfo", "/Watch", "/Logs"];
/// One but for which an agent would be unheard: its controller's alone, and small.
const ALWAYS: &str = "/wharf.v1.Agent/Watch";
/// Callers of an agent are its controllers, who ask for everybody.
const OF_AGENTS: &str = "/wharf.v1.Agent/";
/// Not arrived: of one address or user, and in all.
const EACH: Share = Share { requests: 1024, bytes: 64 << 20 };
const EVERYBODY: Share = Share { requests: 4096, bytes: 128 << 20 };
/// Answered by streams: the same. One address has no more than half of what an agent gives its controller.
const STREAMS_EACH: usize = 512;
const STREAMS_OF_AGENTS: usize = 1024;
const STREAMS_ALL: usize = 4096;

/// Requests, and the bytes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    requests: usize,
    bytes: usize,
}

impl Share {
    fn is_within(self, limit: Self) -> bool {
        self.requests <= limit.requests && self.bytes <= limit.bytes
    }
}

#[derive(Debug)]
struct Arrival {
    origin: Option<Origin>,
    bytes: usize,
    gone: CancellationToken,
}

#[derive(Debug, Default)]
struct InUse {
    next: u64,
    arrivals: BTreeMap<u64, Arrival>,
    each: HashMap<Option<Origin>, Share>,
    all: Share,
    streams: HashMap<Option<Origin>, usize>,
    streams_all: usize,
}

impl InUse {
    fn leave(&mut self, number: u64) {
        let Some(Arrival { origin, bytes, .. }) = self.arrivals.remove(&number) else { return };
        let less = |share: &mut Share| *share = Share { requests: share.requests - 1, bytes: share.bytes - bytes };
        less(&mut self.all);
        if let Some(own) = self.each.get_mut(&origin) {
            less(own);
            if own.requests == 0 {
                self.each.remove(&origin);
            }
        }
    }

    /// Lets the oldest go until everything is within its limits again.
    fn make_room(&mut self, origin: Option<Origin>) {
        loop {
            let own = self.each.get(&origin).is_some_and(|own| !own.is_within(EACH));
            if !own && self.all.is_within(EVERYBODY) {
                return;
            }
            let oldest = self.arrivals.iter().find(|(_, arrival)| !own || arrival.origin == origin);
            let Some((number, arrival)) = oldest else { return };
            let number = *number;
            arrival.gone.cancel();
            self.leave(number);
        }
    }
}

/// What all requests of a server use together; copies are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage(Arc<Mutex<InUse>>);

impl Usage {
    fn lock(&self) -> MutexGuard<'_, InUse> {
        // No code panics while it holds this.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, origin: Option<Origin>) -> Entered {
        let gone = CancellationToken::new();
        let mut in_use = self.lock();
        let number = in_use.next;
        in_use.next += 1;
        in_use.arrivals.insert(number, Arrival { origin, bytes: 0, gone: gone.clone() });
        in_use.each.entry(origin).or_default().requests += 1;
        in_use.all.requests += 1;
        in_use.make_room(origin);
        Entered { of: self.clone(), number, gone }
    }

    /// A place among the streams, if there is one.
    fn stream(&self, origin: Option<Origin>, most_each: usize) -> Option<Streaming> {
        let mut in_use = self.lock();
        let own = in_use.streams.get(&origin).copied().unwrap_or_default();
        if own >= most_each || in_use.streams_all >= STREAMS_ALL {
            return None;
        }
        in_use.streams.insert(origin, own + 1);
        in_use.streams_all += 1;
        drop(in_use);
        Some(Streaming { of: self.clone(), origin })
    }
}

/// A request that has not arrived; it has when this is dropped.
#[derive(Debug)]
struct Entered {
    of: Usage,
    number: u64,
    gone: CancellationToken,
}

impl Entered {
    fn more(&self, bytes: usize) {
        let mut in_use = self.of.lock();
        let Some(arrival) = in_use.arrivals.get_mut(&self.number) else { return };
        arrival.bytes += bytes;
        let origin = arrival.origin;
        in_use.each.entry(origin).or_default().bytes += bytes;
        in_use.all.bytes += bytes;
        in_use.make_room(origin);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.of.lock().leave(self.number);
    }
}

/// An answer that is a stream, for as long as it goes on.
#[derive(Debug)]
struct Streaming {
    of: Usage,
    origin: Option<Origin>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let mut in_use = self.of.lock();
        in_use.streams_all -= 1;
        if let Some(own) = in_use.streams.get_mut(&self.origin) {
            *own -= 1;
            if *own == 0 {
                in_use.streams.remove(&self.origin);
            }
        }
    }
}

/// The services of a port behind these limits.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    pub(super) routes: Routes,
    pub(super) usage: Usage,
}

impl Service<Request<Body>> for Intake {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/api/") {
            return Box::pin(self.routes.call(request));
        }
        let is = |methods: &[&str]| methods.iter().any(|method| path.ends_with(method));
        let origin = request.extensions().get::<Peer>().map(Origin::from);
        let (is_streamed, is_stream) = (is(&STREAMED), is(&STREAMS) && path != ALWAYS);
        let most_each = if path.starts_with(OF_AGENTS) { STREAMS_OF_AGENTS } else { STREAMS_EACH };
        let place = if is_stream { self.usage.stream(origin, most_each) } else { None };
        if is_stream && place.is_none() {
            let refused = Status::resource_exhausted("too many streams at once; try again");
            return Box::pin(std::future::ready(Ok(refused.into_http())));
        }
        let (entered, begun) = (self.usage.enter(origin), Arc::new(AtomicBool::new(false)));
        let begins = is_streamed.then(|| begun.clone());
        let request = request.map(|body| Body::new(Arriving::new(body, entered, begun)));
        let answer = self.routes.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            begins.inspect(|begun| begun.store(true, Ordering::Release));
            Ok(match place {
                Some(place) => answer.map(|body| Body::new(Answer { body, _place: place })),
                None => answer,
            })
        })
    }
}

/// The body of a request that has not arrived whole.
struct Arriving {
    body: Body,
    /// Until it has.
    entered: Option<Entered>,
    /// Its answer has, and what follows is a stream.
    begun: Arc<AtomicBool>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Its time, once it has had to be waited for.
    late: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    fn new(body: Body, entered: Entered, begun: Arc<AtomicBool>) -> Self {
        let gone = Box::pin(entered.gone.clone().cancelled_owned());
        Self { body, entered: Some(entered), begun, gone, late: None }
    }

    fn failed(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // What has arrived of it goes now, not when somebody looks again.
        (self.body, self.entered) = (Body::empty(), None);
        Poll::Ready(Some(Err(status)))
    }
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.begun.load(Ordering::Acquire) {
            this.entered = None;
        }
        if this.entered.is_none() {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        if this.gone.as_mut().poll(cx).is_ready() {
            return this.failed(Status::resource_exhausted("too many requests that do not arrive; try again"));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            let late = this.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL_LIMIT)));
            if late.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let message = format!("the request did not arrive within {} s", ARRIVAL_LIMIT.as_secs());
            return this.failed(Status::deadline_exceeded(message));
        };
        match (&frame, &this.entered) {
            (Some(Ok(frame)), Some(entered)) => entered.more(frame.data_ref().map_or(0, Bytes::len)),
            _ => this.entered = None,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, which keeps its place until it is over.
struct Answer {
    body: Body,
    _place: Streaming,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: u32) -> Option<Origin> {
        Some((&Peer::Tcp((std::net::Ipv4Addr::from_bits(ip), 1).into())).into())
    }

    fn gone(entered: &[Entered]) -> Vec<usize> {
        entered.iter().enumerate().filter(|(_, one)| one.gone.is_cancelled()).map(|(at, _)| at).collect()
    }

    #[test]
    fn who_does_not_end_its_requests_loses_the_oldest_of_its_own() {
        let usage = Usage::default();
        let other = usage.enter(of(9));
        let own: Vec<Entered> = (0..EACH.requests + 2).map(|_| usage.enter(of(1))).collect();
        assert_eq!((gone(&own), other.gone.is_cancelled()), (vec![0, 1], false));
        // By bytes as well; what is the largest alone goes itself.
        own[5].more(EACH.bytes);
        own[7].more(1);
        assert_eq!((gone(&own), other.gone.is_cancelled()), (vec![0, 1, 2, 3, 4, 5], false));
        drop((own, other));
        let in_use = usage.lock();
        assert_eq!((in_use.all, in_use.each.len(), in_use.arrivals.len()), (Share::default(), 0, 0));
    }

    #[test]
    fn all_together_have_no_more_than_everything() {
        let usage = Usage::default();
        let many: Vec<Entered> = (0..EVERYBODY.requests as u32 + 3).map(|ip| usage.enter(of(ip))).collect();
        assert_eq!(gone(&many), [0, 1, 2]);
        many[9].more(EACH.bytes);
        many[10].more(EACH.bytes);
        assert_eq!(gone(&many), [0, 1, 2]);
        many[11].more(1);
        assert_eq!(gone(&many), (0..=9).collect::<Vec<_>>());
    }

    #[test]
    fn streams_have_places_of_their_own() {
        let usage = Usage::default();
        let mut streams: Vec<Streaming> =
            (0..STREAMS_EACH).map(|_| usage.stream(of(1), STREAMS_EACH).unwrap()).collect();
        assert!(usage.stream(of(1), STREAMS_EACH).is_none() && usage.stream(of(2), STREAMS_EACH).is_some());
        streams.pop();
        assert!(usage.stream(of(1), STREAMS_EACH).is_some(), "one was given back");
        drop(streams);
        let in_use = usage.lock();
        assert_eq!((in_use.streams.len(), in_use.streams_all), (0, 0));
    }
}
