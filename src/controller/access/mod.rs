//! Who may call: tokens, the certificates of nodes, and what of both was revoked.
//!
//! The store holds no secret: of a token its hash, of a node's certificate its number and the hash of its key. What was
//! revoked is in a file beside the authority as well ([`revocations`]), so that a store restored from an older backup
//! revives nothing.

mod authority;
mod nodes;
mod tokens;

pub(super) mod revocations;

pub use authority::{authority_of, claim_authority};
pub(super) use nodes::{admit, join, may_join, refuse_removed, renew, revoke_node};
pub(super) use tokens::{authenticate, chance, create, list, revoke};

use crate::api::authority::Authority;
use crate::domain::access::TokenView;
use crate::domain::access::token::TokenId;
use crate::domain::ids::NodeName;
use crate::domain::time::Timestamp;
use revocations::{Revocations, Revoked};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a controller certifies nodes with.
#[derive(Debug, Clone)]
pub struct Certification {
    pub authority: Arc<dyn Authority>,
    /// How long a node's certificate is valid.
    pub life: Duration,
    pub revocations: Revocations,
}

/// What is known of all of it, as the store has it.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) tokens: BTreeMap<TokenId, StoredToken>,
    pub(super) nodes: BTreeMap<NodeName, StoredCertificate>,
    /// What has to be written with the next batch.
    pub(super) dirty_tokens: BTreeSet<TokenId>,
    pub(super) dirty_nodes: BTreeSet<NodeName>,
    /// ... and to the file of revocations.
    pub(super) revoked: Vec<Revoked>,
}

/// A token as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredToken {
    pub(super) view: TokenView,
    /// SHA-256 of the secret, in hexadecimal: 256 bits of chance need no slower one.
    pub(super) secret_sha256: String,
}

/// What was certified for a name of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct StoredCertificate {
    /// Of the newest certificate; numbers only grow.
    pub(super) number: u64,
    pub(super) public_key_sha256: String,
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
    /// Certificates up to this number prove nothing any more.
    pub(super) revoked_up_to: u64,
    /// The token that admitted it.
    pub(super) token: Option<TokenId>,
}

impl StoredCertificate {
    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        self.number > self.revoked_up_to && self.expires_at > now
    }
}

impl Access {
    /// The next number of a certificate: above every one of before, also of those that a restored store has forgotten.
    fn next_number(&self, now: Timestamp) -> u64 {
        let highest = self.nodes.values().map(|node| node.number.max(node.revoked_up_to)).max().unwrap_or(0);
        let millis = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
        millis.max(highest + 1)
    }

    /// What the store says is revoked, in the words of the file.
    pub(super) fn revoked_by_now(&self) -> Vec<Revoked> {
        let tokens = self.tokens.values().filter_map(|token| {
            let spent = (token.view.uses_left == Some(0)).then_some(token.view.created_at);
            let at = token.view.revoked_at.or(spent)?;
            Some(Revoked::Token { id: token.view.id.clone(), at })
        });
        let nodes = self.nodes.iter().filter(|(_, known)| known.revoked_up_to > 0);
        let nodes = nodes.map(|(node, known)| Revoked::Node { node: node.clone(), up_to: known.revoked_up_to });
        tokens.chain(nodes).collect()
    }

    /// What the file says is revoked is, whatever the store says.
    pub(super) fn take(&mut self, revoked: Vec<Revoked>) {
        for word in revoked {
            match word {
                Revoked::Token { id, at } => {
                    if let Some(token) = self.tokens.get_mut(&id)
                        && token.view.revoked_at.is_none()
                        // Spent by itself, as the file says of it too.
                        && token.view.uses_left != Some(0)
                    {
                        token.view.revoked_at = Some(at);
                        self.dirty_tokens.insert(id);
                    }
                }
                Revoked::Node { node, up_to } => {
                    let known = self.nodes.entry(node.clone()).or_default();
                    if known.revoked_up_to < up_to {
                        known.revoked_up_to = up_to;
                        self.dirty_nodes.insert(node);
                    }
                }
            }
        }
    }
}
