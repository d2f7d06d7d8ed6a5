//! HTTP over HTTP/2, beside gRPC on its connections: [`Web`] as one more service of the port.

use super::peer::{Accounts, Peer, Visitor};
use crate::web::{Body, Web};
use http::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Answers below `/api/`.
#[derive(Debug, Clone)]
pub(super) struct Rest {
    pub(super) web: Web,
    pub(super) accounts: Arc<Accounts>,
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
        let Self { web, accounts } = self.clone();
        Box::pin(async move {
            // Every connection of ours says who is there; one that does not is nobody.
            let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Unix { uid: NOBODY });
            Ok(web.answer(Arc::new(Visitor { peer, accounts }), request).await)
        })
    }
}

/// The kernel's `overflowuid`.
const NOBODY: u32 = 65534;
