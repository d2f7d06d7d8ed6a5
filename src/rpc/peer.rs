//! Who is at the other end of a connection, and whom they may speak for.
//!
//! On a Unix socket the kernel names the account of the caller. Root may act as anybody. wharf's own account may
//! speak with the role of an agent or a controller, under any name. Everybody else is themselves, with the role of
//! a user. On TCP there is no authentication yet: the claim is believed, which is why [`super::bind()`] keeps TCP on
//! loopback.

use super::convert::principal::role_word;
use crate::api::Caller;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::principal::{Principal, Role};
use async_trait::async_trait;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// The other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    Unix { uid: u32 },
}

/// The other end of a connection that speaks something else than gRPC, under the same rules.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) peer: Peer,
    pub(super) accounts: Arc<Accounts>,
}

#[async_trait]
impl Caller for Visitor {
    async fn admit(&self, claim: Principal) -> Result<Principal, Error> {
        self.accounts.admit(self.peer, claim, "request").await
    }

    fn is_proven(&self) -> bool {
        matches!(self.peer, Peer::Unix { .. })
    }
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
    own_uid: u32,
}

impl Accounts {
    pub(super) fn new() -> Self {
        let own_uid = nix::unistd::Uid::effective().as_raw();
        Self { names: Mutex::default(), lookups: Arc::new(Semaphore::new(4)), own_uid }
    }

    /// The caller as far as the connection proves it. `field` is where the claim stands in the request.
    pub(super) async fn admit(&self, peer: Peer, claim: Principal, field: &str) -> Result<Principal, Error> {
        let principal = match peer {
            Peer::Tcp(_) => claim,
            Peer::Unix { uid } => {
                let name = self.name_of(uid).await?;
                speak_for(uid, uid == self.own_uid, name, claim)?
            }
        };
        if principal.user.is_empty() {
            return Err(nameless(field));
        }
        Ok(principal)
    }

    async fn name_of(&self, uid: u32) -> Result<String, Error> {
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

fn nameless(field: &str) -> Error {
    let violation = Violation {
        field: format!("{field}.user"),
        message: "is empty".into(),
        found: String::new(),
        allowed: "the name of the user who asks".into(),
    };
    Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, "the request does not say who asks") }
}

/// Whether an account, as the kernel names it, may speak as it claims.
fn speak_for(uid: u32, is_own: bool, name: String, claim: Principal) -> Result<Principal, Error> {
    let is_service = |role: &Role| matches!(role, Role::Agent | Role::Controller);
    let privileged = uid == 0 || (is_own && claim.roles.iter().any(is_service));
    let refused = |what: String| Error::new(ErrorKind::NotAllowed, what);
    if claim.user.is_empty() || claim.user == name {
        let beyond = claim.roles.iter().find(|role| **role != Role::User);
        return match beyond {
            Some(role) if !privileged && !is_own => {
                let role = role_word(*role);
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

    #[tokio::test]
    async fn a_connection_without_a_name_is_refused() {
        let accounts = Accounts::new();
        let tcp = Peer::Tcp(([127, 0, 0, 1], 9).into());
        let error = accounts.admit(tcp, claim("", &[]), "header.principal").await.unwrap_err();
        assert_eq!(error.violations[0].field, "header.principal.user");
        let own = Peer::Unix { uid: accounts.own_uid };
        let name = nix::unistd::User::from_uid(accounts.own_uid.into()).unwrap().map(|user| user.name);
        for _ in 0..2 {
            assert_eq!(Some(accounts.admit(own, claim("", &[]), "principal").await.unwrap().user), name);
        }
        let nobody = Peer::Unix { uid: 3_999_999_999 };
        assert_eq!(accounts.admit(nobody, claim("", &[]), "principal").await.unwrap().user, "3999999999");
    }
}
