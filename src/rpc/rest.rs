//! HTTP over HTTP/2, beside gRPC on its connections: [`Web`] as one more service of the port.

use super::admission::Admission;
use super::peer::{Peer, Visitor, bearer_of};
use crate::web::{Body, Web};
use http::{Request, Response};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Answers below `/api/`.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    pub(super) web: Web,
    pub(super) admission: Arc<Admission>,
}

impl NamedService for Rest {
    const NAME: &'static str = "api";
}

impl Service<Request<tonic::body::Body>> for Rest {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Self { web, admission } = self.clone();
        Box::pin(async move {
            // Every connection of ours says who is there; one that does not proves nothing.
            let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer::Tcp(NOWHERE));
            let bearer = bearer_of(request.headers());
            Ok(web.answer(Arc::new(Visitor { peer, bearer, admission, by: OnceLock::new() }), request).await)
        })
    }
}

const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
