//! OpenPAI's REST API, version 1, as its server of v0.14 answered.
//!
//! | asked | answered |
//! |---|---|
//! | `GET /api/v1` | 200, that it is there |
//! | `GET /api/v1/jobs`, `GET /api/v1/user/U/jobs` | 200, jobs newest first; `?username=U` |
//! | `PUT /api/v1/user/U/jobs/J`, `POST /api/v1/user/U/jobs` | 202, the job is queued; `X-Warning` for what is doubtful |
//! | `GET .../jobs/J` | 200, the job and its tasks |
//! | `GET .../jobs/J/config` | 200, the job file as it was submitted |
//! | `PUT .../jobs/J/executionType` | 202; `STOP` asks for the end |
//! | `GET .../jobs/J/ssh` | 200, where its tasks' `ssh` ports are |
//! | `GET .../jobs/J/logs/ROLE/INDEX` | 200, a task's output as text: what `containerLog` points at; `?tail=N` lines |
//!
//! Each is there without `user/U` too. Then `U~J` names the user; so does `?username=U`; on a Unix socket it is whoever
//! connects. Job names may hold `~` themselves: after `user/U` the whole segment is the name.
//!
//! Where this differs, and why:
//! - Nobody has a password here, so there is no `/token`: `Authorization: Bearer` holds a token of `wharf token create`. Who
//!   may do what is what gRPC says on the same socket. A write that nobody is named for is OpenPAI's 401.
//! - Everybody who is somebody may read lists and states; a job's file and its output are its owner's.
//! - A name is free again once its job has ended. OpenPAI kept it for a month.
//! - What a job file may hold is what [`crate::jobfile`] says: comments and unknown fields are taken, what OpenPAI
//!   accepted and could never run is refused. Refusals speak as OpenPAI's validator did, of the first mistake alone.
//! - `PUT .../jobs/J` with a file of another name is refused; OpenPAI silently took J.
//! - Exit codes are the command's own where there is one; OpenPAI showed 255 for all of them.
//! - No answer allows pages of other sites to read it.

mod config;
mod detail;
mod execution;
mod joi;
mod list;
mod logs;
pub(super) mod reply;
mod route;
mod ssh;
mod submit;
mod words;

pub(super) use route::{JobName, Route, route};

use super::body::Body;
use super::target::Target;
use crate::api::{Caller, RecordsApi};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::principal::{Principal, Role};
use http::{Response, StatusCode};
use hyper::body::Bytes;
use serde_json::json;
use std::sync::Arc;

/// Who reads without saying who they are: everybody may read.
const GUEST: &str = "guest";

/// One request, with everything that handlers need of it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) api: Arc<dyn RecordsApi>,
    pub(super) caller: Arc<dyn Caller>,
    pub(super) target: Target,
    /// `http://HOST`, as the client asked; empty where it asked none.
    pub(super) base: String,
    pub(super) content: Bytes,
}

/// A job of a known user.
#[derive(Debug, Clone)]
pub(super) struct OwnedJob {
    pub(super) user: String,
    pub(super) name: String,
    /// As the client calls it.
    pub(super) shown: String,
}

impl OwnedJob {
    /// As the controller understands it.
    pub(super) fn reference(&self) -> String {
        format!("{}/{}", self.user, self.name)
    }
}

impl Asked {
    pub(super) async fn answer(self, route: Route) -> Response<Body> {
        let answer = match route {
            Route::Index => Ok(reply::json(StatusCode::OK, &json!({ "message": "PAI RESTful API" }))),
            Route::List { user } => list::answer(&self, user).await,
            Route::Submit { user, name } => submit::answer(&self, user, name).await,
            Route::Detail(name) => detail::answer(&self, name).await,
            Route::Config(name) => config::answer(&self, name).await,
            Route::Ssh(name) => ssh::answer(&self, name).await,
            Route::Execute(name) => execution::answer(&self, name).await,
            Route::Log { job, role, index } => logs::answer(&self, job, &role, index).await,
        };
        answer.unwrap_or_else(|refusal| *refusal)
    }

    /// The caller for reading what everybody may.
    pub(super) async fn reader(&self) -> Result<Principal, Refusal> {
        self.reader_as(GUEST).await
    }

    /// The caller for reading what is `owner`'s: where nothing proves who calls, it is whom the request names.
    pub(super) async fn reader_of(&self, owner: &str) -> Result<Principal, Refusal> {
        self.reader_as(owner).await
    }

    async fn reader_as(&self, unproven: &str) -> Result<Principal, Refusal> {
        let claim = if self.caller.is_proven() { "" } else { unproven };
        self.caller.admit(claim_of(claim)).await.map_err(|error| match error.kind {
            // Nobody knows who this is, and nothing is for everybody.
            ErrorKind::NotAllowed if !self.caller.is_proven() => reply::guest().into(),
            _ => reply::refused(&error, "").into(),
        })
    }

    /// The caller for writing in the name of `user`; nobody named is whoever the connection proves. The error is the
    /// refusal, except that `NotAllowed` is told by the account that tried.
    pub(super) async fn writer(&self, user: Option<&str>) -> Result<Result<Principal, Principal>, Refusal> {
        if user.is_none() && !self.caller.is_proven() {
            return Err(reply::guest().into());
        }
        match self.caller.admit(claim_of(user.unwrap_or_default())).await {
            Ok(who) => Ok(Ok(who)),
            Err(Error { kind: ErrorKind::NotAllowed, .. }) => self.reader().await.map(Err),
            Err(error) => Err(reply::refused(&error, "").into()),
        }
    }

    /// Whose job a name means: as it says, else the caller's where the connection proves who that is.
    pub(super) async fn owned(&self, name: JobName) -> Result<OwnedJob, Refusal> {
        let JobName { user, name, shown } = name;
        let user = match user {
            Some(user) => user,
            None if self.caller.is_proven() => self.reader().await?.user,
            None => return Err(reply::no_job(&shown).into()),
        };
        Ok(OwnedJob { user, name, shown })
    }
}

/// What `work` answers, which goes on when nobody waits for it any more.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Error::internal(format!("a request broke off: {error}"))))
}

/// An answer that says no. In a box, as it is large.
type Refusal = Box<Response<Body>>;

fn claim_of(user: &str) -> Principal {
    Principal { user: user.to_owned(), uid: None, roles: vec![Role::User] }
}
