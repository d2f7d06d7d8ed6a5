//! One call as a server sees it: who asks, what is wrong with the request, and how the answer leaves.

use super::convert::{self, Parsed};
use super::exec;
use super::generated as pb;
use super::peer::{Accounts, Peer};
use super::status;
use super::stream::Replies;
use crate::api::stream::{Answers, ExecSession};
use crate::domain::command::{CommandHeader, Error, ErrorKind, Violation};
use crate::domain::principal::Principal;
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use prost::Message;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What all calls of one server share.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pub(super) accounts: Arc<Accounts>,
    /// The server is shutting down: streams end, so that their readers go on elsewhere.
    pub(super) closing: CancellationToken,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self { accounts: Arc::new(Accounts::new()), closing: CancellationToken::new() }
    }

    pub(super) fn open<T>(&self, method: &'static str, request: Request<T>) -> (Call<'_>, T) {
        let peer = request.extensions().get::<Peer>().copied();
        let budget = status::budget(request.metadata());
        (Call { gate: self, method, peer, budget }, request.into_inner())
    }
}

#[derive(Debug)]
pub(super) struct Call<'a> {
    gate: &'a Gate,
    method: &'static str,
    peer: Option<Peer>,
    budget: usize,
}

impl Call<'_> {
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
        self.gate.accounts.admit(self.peer.ok_or_else(no_peer)?, claim, field).await
    }

    pub(super) fn status(&self, error: Error) -> Status {
        status::to_status(error, self.budget)
    }

    pub(super) fn answer<D, P: Message + From<D>>(&self, answer: Result<D, Error>) -> Result<Response<P>, Status> {
        self.reply(answer.map(P::from))
    }

    pub(super) fn reply<P: Message>(&self, answer: Result<P, Error>) -> Result<Response<P>, Status> {
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
        let answers = answers.map_err(|error| self.status(error))?;
        Ok(Response::new(Replies::new(answers, pack, self.budget, &self.gate.closing)))
    }
}

impl Call<'_> {
    /// A running command: its output as the answer, its input from the rest of the requests.
    pub(super) fn exec(
        &self,
        session: Result<ExecSession, Error>,
        requests: Streaming<pb::ExecRequest>,
    ) -> Result<Response<exec::Session>, Status> {
        let ExecSession { input, output } = session.map_err(|error| self.status(error))?;
        let output = Replies::new(output, exec::output_messages, self.budget, &CancellationToken::new());
        Ok(Response::new(exec::Session::new(output, input, requests)))
    }
}
