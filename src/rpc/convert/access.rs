//! Tokens and certificates.

use super::principal::role;
use super::{
    MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, filled, inner, nanos, optional_text, time, wrong,
};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{IssuedCertificate, NewToken, TokenView};
use crate::domain::command::Violation;
use crate::domain::time::Timestamp;
use crate::rpc::generated as pb;

impl From<TokenView> for pb::Token {
    fn from(token: TokenView) -> Self {
        let TokenView { id, role, subject, created_at, created_by, expires_at, revoked_at, uses_left } = token;
        Self {
            id: id.0,
            role: role.as_str().to_owned(),
            subject,
            created_at: created_at.0,
            created_by,
            expires_at: nanos(expires_at),
            revoked_at: nanos(revoked_at),
            uses_left,
        }
    }
}

impl TryFrom<pb::Token> for TokenView {
    type Error = Violation;

    fn try_from(wire: pb::Token) -> Parsed<Self> {
        Ok(Self {
            id: TokenId(filled(wire.id, "id", MAX_WORD_BYTES)?),
            role: role(&wire.role, "role")?,
            subject: optional_text(wire.subject, "subject", MAX_WORD_BYTES)?,
            created_at: Timestamp(wire.created_at),
            created_by: filled(wire.created_by, "created_by", MAX_WORD_BYTES)?,
            expires_at: time(wire.expires_at),
            revoked_at: time(wire.revoked_at),
            uses_left: wire.uses_left,
        })
    }
}

pub(in crate::rpc) fn new_token(wire: pb::CreateTokenRequest) -> Parsed<NewToken> {
    Ok(NewToken {
        role: role(&wire.role, "role")?,
        subject: optional_text(wire.subject, "subject", MAX_WORD_BYTES)?,
        ttl_s: (wire.ttl_s != 0).then_some(wire.ttl_s),
        uses: wire.uses.max(1),
    })
}

pub(in crate::rpc) fn created(wire: pb::CreateTokenReply) -> Parsed<(TokenView, Token)> {
    // Nothing of a secret goes into a message.
    let secret = wire.secret.parse().map_err(|_| wrong("secret", "is no token", "", "a token"))?;
    Ok((inner(wire.token, "token")?, secret))
}

pub(in crate::rpc) fn issued(wire: pb::CertificateReply) -> Parsed<IssuedCertificate> {
    Ok(IssuedCertificate {
        certificate_pem: filled(wire.certificate_pem, "certificate_pem", MAX_SENTENCE_BYTES)?,
        ca_pem: filled(wire.ca_pem, "ca_pem", MAX_SENTENCE_BYTES)?,
        cluster_id: filled(wire.cluster_id, "cluster_id", MAX_LINE_BYTES)?,
    })
}

impl From<IssuedCertificate> for pb::CertificateReply {
    fn from(issued: IssuedCertificate) -> Self {
        let IssuedCertificate { certificate_pem, ca_pem, cluster_id } = issued;
        Self { certificate_pem, ca_pem, cluster_id }
    }
}
