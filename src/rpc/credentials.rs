//! What a client shows, and whom it believes.

use super::tls::client::ClientTls;
use crate::domain::access::token::{Fingerprint, Token};
use crate::domain::command::{Error, ErrorKind};

/// What a client shows to servers, and which it believes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Credentials {
    pub(super) tls: Option<ClientTls>,
    /// Goes over TLS, and over Unix sockets; never over plain TCP.
    pub(super) bearer: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tls, bearer) = (self.tls.is_some(), self.bearer.is_some());
        f.debug_struct("Credentials").field("tls", &tls).field("bearer", &bearer).finish()
    }
}

impl Credentials {
    /// TLS, with a certificate or without, by what `tls` holds.
    pub fn of_tls(tls: ClientTls) -> Self {
        Self { tls: Some(tls), bearer: None }
    }

    /// A token, which says itself whom to believe.
    pub fn of_token(token: &Token) -> Result<Self, Error> {
        let Some(authority) = token.authority else {
            let message = "the token does not say whom to believe: its last part, the fingerprint, is missing";
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        Ok(Self { tls: Some(ClientTls::pinned(authority)?), bearer: Some(token.bearer()) })
    }

    /// Whoever has the authority with this fingerprint behind it is believed; nothing is shown.
    pub fn of_authority(authority: Fingerprint) -> Result<Self, Error> {
        Ok(Self { tls: Some(ClientTls::pinned(authority)?), bearer: None })
    }
}
