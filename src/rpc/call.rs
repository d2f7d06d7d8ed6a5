//! One call as a server sees it: who asks, what is wrong with the request, and how the answer leaves.

use super::admission::{Admission, Admitted, Asked, Bearer};
use super::convert::{self, Parsed};
use super::exec;
use super::generated as pb;
use super::peer::{Peer, bearer_of};
use super::security::{Ended, Outcome};
use super::status;
use super::stream::Replies;
use super::vigil::Vigil;
use crate::api::stream::{Answers, ExecSession};
use crate::domain::access::calls::Service;
use crate::domain::access::token::Token;
use crate::domain::command::{CommandHeader, Error, ErrorKind, Violation};
use crate::domain::principal::Principal;
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use prost::Message;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What all calls of one server share.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) admission: Arc<Admission>,
    service: Service,
    /// The server is shutting down: streams end, so that their readers go on elsewhere.
    pub(super) closing: CancellationToken,
}

impl Gate {
    pub(super) fn new(service: Service, admission: Arc<Admission>, closing: CancellationToken) -> Self {
        Self { admission, service, closing }
    }

    pub(super) fn open<T>(&self, method: &'static str, request: Request<T>) -> (Call<'_>, T) {
        let peer = request.extensions().get::<Peer>().cloned();
        let budget = status::budget(request.metadata());
        let bearer = bearer_of(request.metadata().as_ref());
        let (who, object) = (OnceLock::new(), OnceLock::new());
        let is_noted = AtomicBool::new(false);
        (Call { gate: self, method, peer, bearer, budget, who, object, is_noted }, request.into_inner())
    }
}

#[derive(Debug)]
pub(super) struct Call<'a> {
    gate: &'a Gate,
    method: &'static str,
    peer: Option<Peer>,
    bearer: Option<Bearer>,
    budget: usize,
    who: OnceLock<Admitted>,
    /// What it is about, for the audit log.
    object: OnceLock<String>,
    is_noted: AtomicBool,
}

/// The caller may go away before the answer is known: what was asked for is done all the same.
impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.who.get().is_some() && !*self.is_noted.get_mut() {
            self.note(Outcome::Unknown);
        }
    }
}

impl Call<'_> {
    /// It changes nothing, whatever its name says: only a refusal is written down.
    pub(super) fn is_trial(&self) {
        self.is_noted.store(true, Ordering::Relaxed);
    }

    /// What the call changes, for the audit log; the first word counts.
    pub(super) fn about(&self, object: impl Into<String>) {
        let _ = self.object.set(object.into());
    }

    /// How the call ended, for the audit log.
    fn note(&self, outcome: Outcome<'_>) {
        // A trial is noted before it is made.
        if self.is_noted.swap(true, Ordering::Relaxed) && matches!(outcome, Outcome::Ok) {
            return;
        }
        let (service, method) = (self.gate.service, self.method);
        let object = self.object.get().map_or("", String::as_str);
        let admitted = self.who.get();
        let who = admitted.map(|admitted| &admitted.principal);
        let by = admitted.and_then(|admitted| admitted.by.as_deref());
        let ended = Ended { service, method, who, by, object, outcome };
        self.gate.admission.security.note(self.peer.as_ref(), &ended);
    }

    /// The caller's mistake in one field of the request.
    pub(super) fn wrong(&self, violation: Violation) -> Error {
        let message = format!("{}: the request's {violation}", self.method);
        Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, message) }
    }

    pub(super) fn parsed<T>(&self, parsed: Parsed<T>) -> Result<T, Error> {
        parsed.map_err(|violation| self.wrong(violation))
    }

    pub(super) async fn principal(&self, claim: Option<pb::Principal>) -> Result<Principal, Error> {
        let claim: Principal = self.parsed(convert::inner(claim, "principal"))?;
        self.admit(claim, "principal").await
    }

    pub(super) async fn header(&self, header: Option<pb::CommandHeader>) -> Result<CommandHeader, Error> {
        let mut header: CommandHeader = self.parsed(convert::inner(header, "header"))?;
        header.principal = self.admit(header.principal, "header.principal").await?;
        Ok(header)
    }

    pub(super) async fn admit(&self, claim: Principal, field: &str) -> Result<Principal, Error> {
        let no_peer = || Error::internal(format!("{}: the connection does not say who is there", self.method));
        let (peer, bearer) = (self.peer.clone().ok_or_else(no_peer)?, self.bearer.clone());
        let asked = Asked { peer, bearer, service: self.gate.service, method: self.method };
        let admitted = self.gate.admission.admit(&asked, claim, field).await?;
        let principal = admitted.principal.clone();
        let _ = self.who.set(admitted);
        Ok(principal)
    }

    /// The token of a machine that wants to belong to the cluster. It is judged by whoever keeps the tokens.
    pub(super) fn joining_token(&self) -> Result<Token, Error> {
        let refused = |message: String| Error::new(ErrorKind::NotAllowed, format!("{}: {message}", self.method));
        if matches!(self.peer, Some(Peer::Tcp(_)) | None) {
            return Err(refused("a token of a node is taken over TLS only".to_owned()));
        }
        let bearer = self.bearer.as_ref().ok_or_else(|| refused("there is no token".to_owned()))?;
        bearer.0.parse().map_err(|error| refused(format!("{error}")))
    }

    /// Over a stream, which may last for ever.
    fn vigil(&self) -> Option<Vigil> {
        let principal = self.who.get()?.principal.clone();
        let (peer, bearer) = (self.peer.clone()?, self.bearer.clone());
        let asked = Asked { peer, bearer, service: self.gate.service, method: self.method };
        Vigil::over(self.gate.admission.clone(), asked, principal)
    }

    pub(super) fn status(&self, error: Error) -> Status {
        status::to_status(error, self.budget)
    }

    pub(super) fn answer<D, P: Message + From<D>>(&self, answer: Result<D, Error>) -> Result<Response<P>, Status> {
        self.reply(answer.map(P::from))
    }

    pub(super) fn reply<P: Message>(&self, answer: Result<P, Error>) -> Result<Response<P>, Status> {
        self.note(Outcome::of(answer.as_ref().err()));
        let reply = answer.map_err(|error| self.status(error))?;
        let bytes = reply.encoded_len();
        if bytes > MAX_MESSAGE_BYTES {
            let message = format!("{}: the answer has {bytes} bytes; at most {MAX_MESSAGE_BYTES} fit", self.method);
            return Err(self.status(Error::new(ErrorKind::Exhausted, message)));
        }
        Ok(Response::new(reply))
    }

    /// A stream that ends when the caller goes, when the answers end, or when the server closes.
    pub(super) fn stream<D, P>(
        &self,
        answers: Result<Answers<D>, Error>,
        pack: fn(D) -> Result<Vec<P>, Error>,
    ) -> Result<Response<Replies<D, P>>, Status> {
        self.note(Outcome::of(answers.as_ref().err()));
        let answers = answers.map_err(|error| self.status(error))?;
        Ok(Response::new(Replies::new(answers, pack, self.budget, &self.gate.closing, self.vigil())))
    }
}

impl Call<'_> {
    /// A running command: its output as the answer, its input from the rest of the requests.
    pub(super) fn exec(
        &self,
        session: Result<ExecSession, Error>,
        requests: Streaming<pb::ExecRequest>,
    ) -> Result<Response<exec::Session>, Status> {
        self.note(Outcome::of(session.as_ref().err()));
        let ExecSession { input, output } = session.map_err(|error| self.status(error))?;
        let closing = CancellationToken::new();
        let output = Replies::new(output, exec::output_messages, self.budget, &closing, self.vigil());
        Ok(Response::new(exec::Session::new(output, input, requests)))
    }
}
