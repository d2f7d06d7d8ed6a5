//! Who is at the other end of a connection, and whom accounts of this machine may speak for.
//!
//! On a Unix socket the kernel names the account of the caller. Root may act as anybody. wharf's own account may
//! speak with the role of an agent or a controller, under any name. Everybody else is themselves, with the role of
//! a user.

use super::admission::{Admission, Asked, Bearer};
use super::security::{Ended, Outcome, Plain};
use super::tls::server::Certified;
use crate::api::Caller;
use crate::domain::access::calls::Service;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::principal::{Principal, Role};
use async_trait::async_trait;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Peer {
    /// Without TLS.
    Tcp(SocketAddr),
    /// Without TLS, on loopback, and the kernel has said whose it is.
    Local {
        address: SocketAddr,
        uid: u32,
    },
    Unix {
        uid: u32,
    },
    Tls {
        address: SocketAddr,
        /// What its certificate says, if it has shown one: the cluster's authority has signed it.
        certified: Option<Arc<Certified>>,
    },
}

impl Peer {
    /// For people: where a call came from.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Unix { uid } => format!("unix uid {uid}"),
            Self::Tcp(address) => format!("tcp {address}"),
            Self::Local { address, uid } => format!("tcp {address} uid {uid}"),
            Self::Tls { address, .. } => format!("tls {address}"),
        }
    }
}

/// The other end of a request that speaks something else than gRPC, under the same rules.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) peer: Peer,
    pub(super) bearer: Option<Bearer>,
    pub(super) admission: Arc<Admission>,
    /// Who really writes, once that is known.
    pub(super) by: OnceLock<String>,
}

#[async_trait]
impl Caller for Visitor {
    async fn admit(&self, claim: Principal) -> Result<Principal, Error> {
        // What HTTP offers is for users: see `web::pai`.
        let (peer, bearer) = (self.peer.clone(), self.bearer.clone());
        let asked = Asked { peer, bearer, service: Service::Controller, method: "Submit" };
        let admitted = self.admission.admit(&asked, claim, "request").await;
        let admitted = admitted.inspect_err(|error| self.ended(None, "REST", "", Some(error)))?;
        if let Some(by) = admitted.by {
            let _ = self.by.set(by);
        }
        Ok(admitted.principal)
    }

    fn ended(&self, who: Option<&Principal>, method: &'static str, object: &str, error: Option<&Error>) {
        let (service, by) = (Service::Controller, self.by.get().map(String::as_str));
        let ended = Ended { service, method, who, by, object, outcome: Outcome::of(error) };
        self.admission.security.note(Some(&self.peer), &ended);
    }

    fn is_proven(&self) -> bool {
        self.bearer.is_some() || matches!(self.peer, Peer::Unix { .. } | Peer::Local { .. })
    }

    fn is_no_browser(&self) -> bool {
        matches!(self.peer, Peer::Unix { .. })
    }

    fn is_encrypted(&self) -> bool {
        matches!(self.peer, Peer::Tls { .. })
    }

    fn is_overheard(&self) -> bool {
        let outside = matches!(&self.peer, Peer::Tcp(address) if !address.ip().to_canonical().is_loopback());
        outside && self.admission.security.plain != Plain::Believed
    }
}

/// What an `authorization` header says after `Bearer`.
pub(super) fn bearer_of(headers: &http::HeaderMap) -> Option<Bearer> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Bearer(token.trim().to_owned()))
}

/// How long a name is believed, and how many are remembered.
const NAME_TTL: Duration = Duration::from_secs(60);
const MAX_NAMES: usize = 1024;
const LOOKUP_DEADLINE: Duration = Duration::from_secs(5);

/// Names of accounts, remembered for a while: a lookup may ask a directory server.
#[derive(Debug)]
pub(super) struct Accounts {
    names: Mutex<HashMap<u32, (String, Instant)>>,
    /// A directory that hangs may hold this many threads and no more.
    lookups: Arc<Semaphore>,
    pub(super) own_uid: u32,
}

impl Accounts {
    pub(super) fn new() -> Self {
        let own_uid = nix::unistd::Uid::effective().as_raw();
        Self { names: Mutex::default(), lookups: Arc::new(Semaphore::new(4)), own_uid }
    }

    pub(super) async fn name_of(&self, uid: u32) -> Result<String, Error> {
        if let Some(name) = self.remembered(uid) {
            return Ok(name);
        }
        let failed = |why: String| Error::unavailable(format!("looking up the name of user id {uid}: {why}"));
        let lookup = async {
            let permit = self.lookups.clone().acquire_owned().await.map_err(|e| failed(e.to_string()))?;
            let find = move || {
                let _permit = permit;
                nix::unistd::User::from_uid(uid.into())
            };
            tokio::task::spawn_blocking(find).await.map_err(|e| failed(e.to_string()))
        };
        let found = tokio::time::timeout(LOOKUP_DEADLINE, lookup).await;
        let found = found.map_err(|_| failed(format!("no answer in {} s", LOOKUP_DEADLINE.as_secs())))??;
        // An account without a name goes by its number.
        let name = found.map_err(|e| failed(e.to_string()))?.map_or_else(|| uid.to_string(), |user| user.name);
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= MAX_NAMES {
            names.clear();
        }
        names.insert(uid, (name.clone(), Instant::now()));
        Ok(name)
    }

    fn remembered(&self, uid: u32) -> Option<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(&uid).filter(|(_, since)| since.elapsed() < NAME_TTL).map(|(name, _)| name.clone())
    }
}

/// Whether an account, as the kernel names it, may speak as it claims.
pub(super) fn speak_for(uid: u32, is_own: bool, name: String, claim: Principal) -> Result<Principal, Error> {
    let is_service = |role: &Role| matches!(role, Role::Agent | Role::Controller);
    let privileged = uid == 0 || (is_own && claim.roles.iter().any(is_service));
    let refused = |what: String| Error::new(ErrorKind::NotAllowed, what);
    if claim.user.is_empty() || claim.user == name {
        let beyond = claim.roles.iter().find(|role| **role != Role::User);
        return match beyond {
            Some(role) if !privileged && !is_own => {
                let role = role.as_str();
                Err(refused(format!("user '{name}' (user id {uid}) may not take the role '{role}' on this socket")))
            }
            _ => Ok(Principal { user: name, uid: Some(uid), roles: claim.roles }),
        };
    }
    if !privileged {
        let claimed = &claim.user;
        return Err(refused(format!("user '{name}' (user id {uid}) may not act as '{claimed}' on this socket")));
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(user: &str, roles: &[Role]) -> Principal {
        Principal { user: user.into(), uid: Some(4711), roles: roles.to_vec() }
    }

    #[test]
    fn root_may_act_as_anybody() {
        let got = speak_for(0, true, "root".into(), claim("alice", &[Role::User])).unwrap();
        assert_eq!(got, claim("alice", &[Role::User]));
        let got = speak_for(0, false, "root".into(), claim("", &[Role::Admin])).unwrap();
        assert_eq!((got.user.as_str(), got.uid), ("root", Some(0)));
    }

    #[test]
    fn others_are_themselves_whatever_they_claim() {
        let got = speak_for(1000, false, "bob".into(), claim("bob", &[Role::User])).unwrap();
        assert_eq!((got.user.as_str(), got.uid), ("bob", Some(1000)));
        assert_eq!(speak_for(1000, false, "bob".into(), claim("", &[])).unwrap().user, "bob");
        for (user, role) in [("alice", Role::User), ("bob", Role::Admin), ("", Role::Operator), ("n1", Role::Agent)] {
            let error = speak_for(1000, false, "bob".into(), claim(user, &[role])).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NotAllowed, "{user}");
            assert!(error.message.contains("bob"), "{error}");
        }
    }

    #[test]
    fn wharfs_own_account_speaks_for_services_but_not_for_users() {
        assert_eq!(speak_for(900, true, "wharf".into(), claim("node-1", &[Role::Agent])).unwrap().user, "node-1");
        assert_eq!(speak_for(900, true, "wharf".into(), claim("wharf", &[Role::Admin])).unwrap().uid, Some(900));
        let error = speak_for(900, true, "wharf".into(), claim("alice", &[Role::User])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotAllowed);
    }
}
