//! PURE. Who may call what: the roles, what tokens look like, and the table of calls.

pub mod calls;
pub mod token;

use super::principal::Role;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// A token as the controller keeps and shows it: never the secret itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub id: token::TokenId,
    pub role: Role,
    /// Whose calls it makes. Of a node's token: the one node that it admits, if it names one.
    pub subject: Option<String>,
    pub created_at: Timestamp,
    pub created_by: String,
    /// None: until it is revoked.
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    /// Nodes that it may still admit; none for people's tokens, which are used again and again.
    pub uses_left: Option<u32>,
}

/// Where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    Valid,
    Expired,
    Revoked,
    /// It has admitted as many nodes as it was made for.
    Spent,
}

impl TokenState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Expired => "EXPIRED",
            Self::Revoked => "REVOKED",
            Self::Spent => "SPENT",
        }
    }
}

impl TokenView {
    pub fn state(&self, now: Timestamp) -> TokenState {
        if self.revoked_at.is_some() {
            TokenState::Revoked
        } else if self.expires_at.is_some_and(|at| at <= now) {
            TokenState::Expired
        } else if self.uses_left == Some(0) {
            TokenState::Spent
        } else {
            TokenState::Valid
        }
    }
}

/// A token that somebody asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    pub role: Role,
    pub subject: Option<String>,
    /// None: no end.
    pub ttl_s: Option<u64>,
    /// Of nodes' tokens: how many nodes it admits.
    pub uses: u32,
}

/// A new node asks to belong to the cluster, or one that belongs to it for a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    pub node: String,
    /// PKCS #10 in PEM. Its public key is taken, and nothing else.
    pub csr_pem: String,
}

/// What a node belongs to its cluster by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    pub certificate_pem: String,
    pub ca_pem: String,
    pub cluster_id: String,
}
