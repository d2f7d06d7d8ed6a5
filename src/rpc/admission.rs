//! Who calls, as far as anything proves it, and whether they may make that call. Every call of every protocol comes
//! through here.
//!
//! | a connection | who is there |
//! |---|---|
//! | with a token | whose token it is; an admin may act as somebody else |
//! | TLS, a controller's certificate | the controller, and whom it speaks for |
//! | TLS, a node's certificate | the agent of that node, and nobody else |
//! | TLS, no certificate | nobody |
//! | Unix socket | the kernel's word: root may act as anybody, wharf's own account for services, others as themselves |
//! | plain TCP | nobody, unless [`Plain`] says otherwise: then anybody, or the account that runs this alone |

use super::peer::{Accounts, Peer, speak_for};
use super::security::{Plain, Security};
use super::tls::server::Certified;
use crate::domain::access::calls::{Service, who_may};
use crate::domain::access::token::Token;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::ids::NodeName;
use crate::domain::principal::{Principal, Role};

/// A call, as far as its connection and its headers tell.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) peer: Peer,
    /// What the `authorization` header holds after `Bearer`, if it is there.
    pub(super) bearer: Option<Bearer>,
    pub(super) service: Service,
    pub(super) method: &'static str,
}

/// A token as it came. Not shown by `Debug`.
#[derive(Clone)]
pub(super) struct Bearer(pub(super) String);

impl std::fmt::Debug for Bearer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bearer(..)")
    }
}

/// Who may make the call that was asked for.
#[derive(Debug, Clone)]
pub(super) struct Admitted {
    pub(super) principal: Principal,
    /// Who it really is, where that is somebody who acts as another.
    pub(super) by: Option<String>,
}

struct Identified {
    principal: Principal,
    /// The role of whoever speaks, where that is another than theirs.
    speaks_as: Option<Role>,
    by: Option<String>,
}

impl Identified {
    const fn of(principal: Principal) -> Self {
        Self { principal, speaks_as: None, by: None }
    }
}

/// The rules of one port.
#[derive(Debug)]
pub(super) struct Admission {
    accounts: Accounts,
    pub(super) security: Security,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotAllowed, message)
}

impl Admission {
    pub(super) fn new(security: Security) -> Self {
        Self { accounts: Accounts::new(), security }
    }

    /// The caller, who claims to be `claim`; `field` is where the claim stands in the request.
    pub(super) async fn admit(&self, asked: &Asked, claim: Principal, field: &str) -> Result<Admitted, Error> {
        let method = asked.method;
        let who_may =
            who_may(asked.service, method).ok_or_else(|| refused(format!("{method}: nobody may make this call")))?;
        let Identified { principal, speaks_as, by } = self.identify(asked, claim).await?;
        if principal.user.is_empty() {
            return Err(nameless(field));
        }
        let roles = speaks_as.map_or_else(|| principal.roles.clone(), |role| vec![role]);
        if !roles.iter().any(|role| who_may.includes(*role)) {
            let (user, words) = (&principal.user, who_may.words());
            return Err(refused(format!("{method}: {user} may not do that; {words} may")));
        }
        let by = by.filter(|by| *by != principal.user);
        Ok(Admitted { principal, by })
    }

    /// Who it is, by what the connection and the headers prove.
    async fn identify(&self, asked: &Asked, claim: Principal) -> Result<Identified, Error> {
        if let Some(bearer) = &asked.bearer {
            return self.of_token(&asked.peer, &bearer.0, claim).await;
        }
        match &asked.peer {
            Peer::Unix { uid } => self.of_account(*uid, claim).await,
            Peer::Local { uid, .. } if *uid == self.accounts.own_uid => self.of_account(*uid, claim).await,
            Peer::Tls { certified: Some(certified), .. } => self.of_certificate(certified, claim).await,
            Peer::Tls { certified: None, .. } => Err(refused(
                "nobody is known here without a token or a certificate: 'wharf login ADDR' stores a token",
            )),
            Peer::Tcp(_) if self.security.plain == Plain::Believed => {
                let roles = if claim.roles.is_empty() { vec![Role::User] } else { claim.roles };
                Ok(Identified::of(Principal { roles, ..claim }))
            }
            Peer::Tcp(_) | Peer::Local { .. } if self.security.plain == Plain::OwnAccount => {
                Err(refused("this controller and agent are for the account alone that has started them"))
            }
            Peer::Tcp(_) | Peer::Local { .. } => Err(refused(
                "a connection without TLS proves nothing: on this machine use the Unix socket (unix:PATH), elsewhere a \
                 token ('wharf login ADDR'), agents their node's certificate ('wharf agent join ADDR -')",
            )),
        }
    }

    async fn of_account(&self, uid: u32, claim: Principal) -> Result<Identified, Error> {
        let (name, own) = (self.accounts.name_of(uid).await?, uid == self.accounts.own_uid);
        if self.security.plain == Plain::OwnAccount && !own && uid != 0 {
            return Err(refused("this controller and agent are for the account alone that has started them"));
        }
        let mut principal = if self.security.plain == Plain::OwnAccount {
            // A cluster of one process is its account's.
            let user = if claim.user.is_empty() { name.clone() } else { claim.user };
            Principal { user, uid: Some(uid), roles: claim.roles }
        } else {
            speak_for(uid, own, name.clone(), claim)?
        };
        let is_service = principal.roles.iter().any(|role| matches!(role, Role::Agent | Role::Controller));
        if principal.user == name && !is_service {
            principal.roles = if own || uid == 0 {
                // Whoever runs it, and root who can be that, could read its files as well.
                vec![Role::User, Role::Operator, Role::Admin]
            } else {
                vec![Role::User]
            };
        }
        Ok(Identified { by: Some(name), ..Identified::of(principal) })
    }

    async fn of_certificate(&self, certified: &Certified, claim: Principal) -> Result<Identified, Error> {
        if certified.is_controller() {
            return Ok(Identified { speaks_as: Some(Role::Controller), ..Identified::of(claim) });
        }
        if !certified.is_node(&claim.user) {
            return Err(refused(format!("this certificate is not of the node '{}'", claim.user)));
        }
        let Some(keeper) = &self.security.keeper else {
            return Err(refused("an agent obeys the controller, and no other agent"));
        };
        keeper.admit_node(&NodeName(claim.user.clone()), certified.number, certified.expires_at).await?;
        Ok(Identified::of(Principal { user: claim.user, uid: None, roles: vec![Role::Agent] }))
    }

    async fn of_token(&self, peer: &Peer, bearer: &str, claim: Principal) -> Result<Identified, Error> {
        if let Peer::Tcp(address) = peer
            && !address.ip().to_canonical().is_loopback()
            && self.security.plain != Plain::Believed
        {
            return Err(refused("a token was sent without TLS over the network: revoke it, and use https"));
        }
        let token: Token = bearer.parse().map_err(|error| refused(format!("the token: {error}")))?;
        let Some(keeper) = &self.security.keeper else {
            return Err(refused("an agent takes no tokens; ask the controller"));
        };
        let found = keeper.authenticate(&token).await?;
        if claim.user.is_empty() || claim.user == found.user {
            return Ok(Identified::of(found));
        }
        if found.roles.contains(&Role::Admin) {
            let by = Some(found.user.clone());
            return Ok(Identified { by, ..Identified::of(Principal { user: claim.user, ..found }) });
        }
        Err(refused(format!("the token is {}'s, who may not act as '{}'; an admin may", found.user, claim.user)))
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
