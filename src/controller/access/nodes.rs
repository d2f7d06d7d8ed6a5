//! Nodes' certificates: given to who has a token, renewed, revoked with the node.

use super::revocations::Revoked;
use super::tokens::{judged, knows_secret, spend};
use super::{Access, Certification, StoredCertificate};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::NodeName;
use crate::domain::principal::Role;
use crate::domain::time::Timestamp;
use std::time::Duration;

/// An answer that was lost may be asked for again so long.
const REPEAT: Duration = Duration::from_secs(600);

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotAllowed, message)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the certificate with this number may speak for the node.
pub(in crate::controller) fn admit(
    access: &Access,
    node: &NodeName,
    number: u64,
    expires_at: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    if expires_at <= now {
        let at = expires_at.to_rfc3339();
        return Err(refused(format!(
            "the certificate of node {node} has expired at {at}; join anew: 'wharf agent join ADDR TOKEN'"
        )));
    }
    // A name that the store does not know has joined after the backup that it was restored from.
    let revoked = access.nodes.get(node).map_or(0, |known| known.revoked_up_to);
    if number <= revoked {
        let advice = "it was removed, or has joined anew elsewhere; to come back: 'wharf agent join ADDR TOKEN'";
        return Err(refused(format!("the certificate of node {node} is revoked: {advice}")));
    }
    Ok(())
}

/// A machine with a token gets a certificate.
pub(in crate::controller) fn join(
    access: &mut Access,
    certification: &Certification,
    token: &Token,
    request: &CertificateRequest,
    now: Timestamp,
) -> Result<IssuedCertificate, Error> {
    let node = NodeName(request.node.clone());
    if !node.is_well_formed() {
        let found: String = node.0.chars().take(64).collect();
        let message = format!("'{}' is not a node's name; allowed are {}", found.escape_debug(), NodeName::ALLOWED);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let public_key = hex(&certification.authority.public_key(&request.csr_pem)?);
    if is_repeated(access, token, &node, &public_key, now) {
        return certify(access, certification, &node, &request.csr_pem, public_key, Some(token.id.clone()), now);
    }
    let view = judged(access, token, now)?;
    if view.role != Role::Agent {
        return Err(refused(format!(
            "token {} is of role {}; a machine joins with one of role agent",
            token.id,
            view.role.as_str()
        )));
    }
    if view.subject.as_ref().is_some_and(|subject| *subject != node.0) {
        return Err(refused(format!(
            "token {} admits node {} and no other; this machine calls itself {node}",
            token.id,
            view.subject.as_deref().unwrap_or_default()
        )));
    }
    let is_named = view.subject.is_some();
    if let Some(known) = access.nodes.get(&node)
        && known.is_valid(now)
        && !is_named
    {
        let message = format!(
            "node {node} belongs to the cluster already; if this machine takes its place, remove it first with \
             'wharf node remove {node}', or join with a token of 'wharf token create --role agent --node {node}'"
        );
        return Err(Error::new(ErrorKind::AlreadyExists, message));
    }
    spend(access, &token.id, now);
    // Whoever had the name before has it no more.
    revoke_node(access, &node, now);
    certify(access, certification, &node, &request.csr_pem, public_key, Some(token.id.clone()), now)
}

/// The same machine asks again, as it did not hear the answer.
fn is_repeated(access: &Access, token: &Token, node: &NodeName, public_key: &str, now: Timestamp) -> bool {
    let Some(known) = access.nodes.get(node) else { return false };
    // Though the token be spent.
    knows_secret(access, token)
        && known.token.as_ref() == Some(&token.id)
        && known.public_key_sha256 == public_key
        && known.is_valid(now)
        && now.since(known.issued_at) < REPEAT
}

/// An agent gets a new certificate; those that it has stay valid until they expire.
pub(in crate::controller) fn renew(
    access: &mut Access,
    certification: &Certification,
    node: &NodeName,
    csr_pem: &str,
    now: Timestamp,
) -> Result<IssuedCertificate, Error> {
    refuse_removed(access, node)?;
    let public_key = hex(&certification.authority.public_key(csr_pem)?);
    let token = access.nodes.get(node).and_then(|known| known.token.clone());
    certify(access, certification, node, csr_pem, public_key, token, now)
}

fn certify(
    access: &mut Access,
    certification: &Certification,
    node: &NodeName,
    csr_pem: &str,
    public_key_sha256: String,
    token: Option<TokenId>,
    now: Timestamp,
) -> Result<IssuedCertificate, Error> {
    let number = access.next_number(now);
    let issued = certification.authority.certify(&node.0, csr_pem, number, now, certification.life)?;
    let expires_at = now.plus(certification.life);
    let known = access.nodes.entry(node.clone()).or_default();
    let revoked_up_to = known.revoked_up_to;
    *known = StoredCertificate { number, public_key_sha256, issued_at: now, expires_at, revoked_up_to, token };
    access.dirty_nodes.insert(node.clone());
    let (certificate_pem, ca_pem) = (issued.certificate_pem, issued.ca_pem);
    // The controller says which cluster it is.
    Ok(IssuedCertificate { certificate_pem, ca_pem, cluster_id: String::new() })
}

/// A node may have been removed between the moment when its call was let in and this one.
pub(in crate::controller) fn refuse_removed(access: &Access, node: &NodeName) -> Result<(), Error> {
    let Some(known) = access.nodes.get(node) else { return Ok(()) };
    // What was never certified here calls over a Unix socket.
    if known.number == 0 || known.number > known.revoked_up_to {
        return Ok(());
    }
    Err(refused(format!("node {node} was removed; to come back: 'wharf agent join ADDR -'")))
}

/// No certificate of the node proves anything any more, also none that a restored store does not know of.
pub(in crate::controller) fn revoke_node(access: &mut Access, node: &NodeName, now: Timestamp) {
    let up_to = access.next_number(now);
    let known = access.nodes.entry(node.clone()).or_default();
    known.revoked_up_to = up_to;
    access.dirty_nodes.insert(node.clone());
    access.revoked.push(Revoked::Node { node: node.clone(), up_to });
}

/// Whether it is worth the core's time: before anything of the request is looked at.
pub(in crate::controller) fn may_join(access: &Access, token: &Token, now: Timestamp) -> Result<(), Error> {
    if knows_secret(access, token) { Ok(()) } else { judged(access, token, now).map(drop) }
}
