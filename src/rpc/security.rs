//! How a port knows who calls: TLS, and what a connection without it counts for.

use super::peer::Peer;
use super::tls::server::{self, Keyring};
use crate::api::ControllerApi;
use crate::domain::access::calls::{Service, is_audited};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::principal::{Principal, Role};
use crate::telemetry::audit::{AuditLog, Entry};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a TCP connection without TLS counts for. Unix sockets say who is there, and are not concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// Nothing: only a token proves who calls, and only on loopback.
    Nobody,
    /// On loopback the account that made the connection, if it is our own or root's: for clusters of one process.
    OwnAccount,
    /// Whoever calls is who they say: `insecure`.
    Believed,
}

/// How a port knows who calls. Cheap to clone.
#[derive(Clone)]
pub struct Security {
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) plain: Plain,
    /// Knows tokens and which certificates were revoked; of controllers.
    pub(super) keeper: Option<Arc<dyn ControllerApi>>,
    /// Where calls are written down.
    pub(super) audit: Option<AuditLog>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tls, keeper) = (self.tls.is_some(), self.keeper.is_some());
        f.debug_struct("Security").field("tls", &tls).field("plain", &self.plain).field("keeper", &keeper).finish()
    }
}

/// A call that has ended, for the audit log.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    pub(super) service: Service,
    pub(super) method: &'static str,
    /// Who was admitted.
    pub(super) who: Option<&'a Principal>,
    /// Who really called, where that is somebody who acts as `who`.
    pub(super) by: Option<&'a str>,
    pub(super) object: &'a str,
    pub(super) outcome: Outcome<'a>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    Ok,
    Failed(&'a Error),
    /// The caller went away before it was known; what was asked for may have been done.
    Unknown,
}

impl<'a> Outcome<'a> {
    pub(super) fn of(error: Option<&'a Error>) -> Self {
        error.map_or(Self::Ok, Self::Failed)
    }
}

/// Characters of what callers say that are written down.
const MAX_AUDITED: usize = 200;

impl Security {
    /// Writes down that a connection did not prove what it had to.
    pub(super) fn note_handshake(&self, address: SocketAddr, error: &io::Error) {
        let Some(log) = &self.audit else { return };
        log.record(&Entry {
            user: String::new(),
            roles: Vec::new(),
            by: String::new(),
            from: format!("tls {address}"),
            method: "handshake",
            object: String::new(),
            result: ErrorKind::NotAllowed.as_str(),
            message: error.to_string().chars().take(MAX_AUDITED).collect(),
        });
    }

    /// Writes down what changed something or was refused.
    pub(super) fn note(&self, peer: Option<&Peer>, ended: &Ended<'_>) {
        let Some(log) = &self.audit else { return };
        let Ended { service, method, who, by, object, outcome } = *ended;
        let (result, message) = match outcome {
            Outcome::Ok => ("ok", ""),
            Outcome::Failed(error) => (error.kind.as_str(), error.message.as_str()),
            Outcome::Unknown => ("unknown", "the caller went away"),
        };
        let by_controller = who.is_some_and(|who| who.roles.contains(&Role::Controller));
        let is_refused = matches!(outcome, Outcome::Failed(error) if error.kind == ErrorKind::NotAllowed);
        if !is_refused && !is_audited(service, method, by_controller) {
            return;
        }
        log.record(&Entry {
            user: who.map(|who| who.user.clone()).unwrap_or_default(),
            roles: who.iter().flat_map(|who| &who.roles).map(|role| role.as_str()).collect(),
            from: peer.map(Peer::words).unwrap_or_default(),
            method,
            by: by.unwrap_or_default().to_owned(),
            object: object.chars().take(MAX_AUDITED).collect(),
            result,
            message: message.chars().take(MAX_AUDITED).collect(),
        });
    }

    /// Without TLS.
    pub fn plain(plain: Plain) -> Self {
        Self { tls: None, plain, keeper: None, audit: None }
    }

    /// With TLS as whom `keyring` says, for those that `ca` has certified and for those with a token.
    pub fn with_tls(self, keyring: Arc<Keyring>, ca: &CertificateDer<'static>) -> Result<Self, Error> {
        Ok(Self { tls: Some(server::config(keyring, ca)?), ..self })
    }

    /// Calls are written down there.
    pub fn audited(self, log: AuditLog) -> Self {
        Self { audit: Some(log), ..self }
    }

    /// Tokens and certificates are asked about there.
    pub fn kept_by(self, keeper: Arc<dyn ControllerApi>) -> Self {
        Self { keeper: Some(keeper), ..self }
    }
}
