//! Tokens: made, shown once, judged with every call, revoked.

use super::revocations::Revoked;
use super::{Access, StoredToken};
use crate::domain::access::token::{Fingerprint, Token, TokenId, TokenSecret};
use crate::domain::access::{NewToken, TokenState, TokenView};
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::principal::{Principal, Role};
use crate::domain::time::Timestamp;
use ring::digest::{SHA256, digest};
use std::time::Duration;

/// Tokens that are kept, with those that are over.
const MOST_TOKENS: usize = 10_000;
/// How long one that is over is still listed.
const LISTED: Duration = Duration::from_secs(30 * 86_400);
const MOST_USES: u32 = 10_000;
/// Of the name of a user.
const MOST_NAME: usize = 64;

fn wrong(field: &str, message: &str, found: impl Into<String>, allowed: &str) -> Error {
    let violation = Violation {
        field: field.to_owned(),
        message: message.to_owned(),
        found: found.into(),
        allowed: allowed.to_owned(),
    };
    Error { violations: vec![violation.clone()], ..Error::new(ErrorKind::Invalid, violation.to_string()) }
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::NotAllowed, message)
}

fn hash(secret: &TokenSecret) -> String {
    digest(&SHA256, &secret.0).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names that only accounts of a machine have, or that are of ours.
fn is_name_of_somebody(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'@');
    (1..=MOST_NAME).contains(&name.len())
        && name.bytes().all(word)
        && !name.bytes().all(|byte| byte.is_ascii_digit())
        && !matches!(name, "root" | "controller" | "guest")
}

fn check(token: &NewToken) -> Result<(), Error> {
    match token.role {
        Role::Controller => {
            return Err(wrong("role", "is for nobody to have", "controller", "agent, user, operator, admin"));
        }
        Role::Agent => {
            let (uses, allowed) = (token.uses, "1 to 10000");
            if !(1..=MOST_USES).contains(&uses) {
                return Err(wrong("uses", "is out of range", uses.to_string(), allowed));
            }
        }
        Role::User | Role::Operator | Role::Admin => {
            let user = token.subject.as_deref().unwrap_or_default();
            if !is_name_of_somebody(user) {
                let allowed = "the name of a person: 1 to 64 letters, digits, '.', '-', '_', '@', not digits only, and \
                               not root, controller or guest";
                return Err(wrong("user", "is not the name of a user", user, allowed));
            }
        }
    }
    Ok(())
}

/// From the kernel: an id, and a secret.
pub(in crate::controller) fn chance() -> Result<([u8; 8], [u8; 32]), Error> {
    use ring::rand::{SystemRandom, generate};
    let none = |_| Error::unavailable("the kernel gives no random numbers");
    let source = SystemRandom::new();
    Ok((generate(&source).map_err(none)?.expose(), generate(&source).map_err(none)?.expose()))
}

/// Makes a token of `chance`.
pub(in crate::controller) fn create(
    access: &mut Access,
    who: &Principal,
    asked: &NewToken,
    authority: Fingerprint,
    chance: ([u8; 8], [u8; 32]),
    now: Timestamp,
) -> Result<(TokenView, Token), Error> {
    check(asked)?;
    forget(access, now);
    if access.tokens.len() >= MOST_TOKENS {
        let message = format!("there are {MOST_TOKENS} tokens; revoke some with 'wharf token revoke ID'");
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    let token = Token::new(chance.0, chance.1, Some(authority));
    let view = TokenView {
        id: token.id.clone(),
        role: asked.role,
        subject: asked.subject.clone(),
        created_at: now,
        created_by: who.user.clone(),
        expires_at: asked.ttl_s.map(|seconds| now.plus(Duration::from_secs(seconds))),
        revoked_at: None,
        uses_left: (asked.role == Role::Agent).then_some(asked.uses),
    };
    let stored = StoredToken { view: view.clone(), secret_sha256: hash(&token.secret) };
    access.dirty_tokens.insert(token.id.clone());
    access.tokens.insert(token.id.clone(), stored);
    Ok((view, token))
}

/// Deletes what has been over for long.
fn forget(access: &mut Access, now: Timestamp) {
    let over = |view: &TokenView| {
        let spent = (view.uses_left == Some(0)).then_some(view.created_at);
        let ended = [view.revoked_at, view.expires_at, spent].into_iter().flatten().min();
        ended.is_some_and(|at| at.plus(LISTED) <= now)
    };
    let old: Vec<TokenId> =
        access.tokens.iter().filter(|(_, token)| over(&token.view)).map(|(id, _)| id.clone()).collect();
    for id in old {
        access.tokens.remove(&id);
        access.dirty_tokens.insert(id);
    }
}

/// The token, if its secret is right and it is still valid.
pub(super) fn judged<'a>(access: &'a Access, token: &Token, now: Timestamp) -> Result<&'a TokenView, Error> {
    // Unknown and wrong sound the same: nobody learns which ids there are.
    let unknown = || refused(format!("token {} is not known here, or its secret is wrong", token.id));
    let stored = access.tokens.get(&token.id).ok_or_else(unknown)?;
    if !is_same(stored.secret_sha256.as_bytes(), hash(&token.secret).as_bytes()) {
        return Err(unknown());
    }
    match stored.view.state(now) {
        TokenState::Valid => Ok(&stored.view),
        TokenState::Spent => {
            Err(refused(format!("token {} has admitted as many nodes as it was made for", token.id)))
        }
        TokenState::Expired => Err(refused(format!(
            "token {} has expired at {}; an admin makes another with 'wharf token create'",
            token.id,
            stored.view.expires_at.unwrap_or(now).to_rfc3339()
        ))),
        TokenState::Revoked => Err(refused(format!("token {} was revoked", token.id))),
    }
}

/// Whoever has the secret of a token had the token, whatever has become of it; one that an admin revoked counts for
/// nothing.
pub(super) fn knows_secret(access: &Access, token: &Token) -> bool {
    access.tokens.get(&token.id).is_some_and(|stored| {
        stored.view.revoked_at.is_none() && is_same(stored.secret_sha256.as_bytes(), hash(&token.secret).as_bytes())
    })
}

/// In a time that says nothing of where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Whom a token stands for.
pub(in crate::controller) fn authenticate(
    access: &Access,
    token: &Token,
    now: Timestamp,
) -> Result<Principal, Error> {
    let view = judged(access, token, now)?;
    if view.role == Role::Agent {
        return Err(refused("a token of a node only lets a machine join: 'wharf agent join ADDR TOKEN'"));
    }
    let user = view.subject.clone().unwrap_or_default();
    Ok(Principal { user, uid: None, roles: vec![view.role] })
}

pub(in crate::controller) fn list(access: &Access) -> Vec<TokenView> {
    let mut views: Vec<TokenView> = access.tokens.values().map(|token| token.view.clone()).collect();
    views.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
    views
}

pub(in crate::controller) fn revoke(access: &mut Access, id: &TokenId, now: Timestamp) -> Result<TokenView, Error> {
    let Some(token) = access.tokens.get_mut(id) else {
        return Err(Error::not_found(format!("there is no token {id}; 'wharf token list' shows them")));
    };
    if token.view.revoked_at.is_none() {
        token.view.revoked_at = Some(now);
        access.dirty_tokens.insert(id.clone());
        access.revoked.push(Revoked::Token { id: id.clone(), at: now });
    }
    Ok(token.view.clone())
}

/// One node more was admitted by it.
pub(super) fn spend(access: &mut Access, id: &TokenId, now: Timestamp) {
    let Some(token) = access.tokens.get_mut(id) else { return };
    let left = token.view.uses_left.unwrap_or(0).saturating_sub(1);
    token.view.uses_left = Some(left);
    access.dirty_tokens.insert(id.clone());
    if left == 0 {
        // A store of before would let it admit again.
        access.revoked.push(Revoked::Token { id: id.clone(), at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

    fn admin() -> Principal {
        Principal { user: "ada".into(), uid: None, roles: vec![Role::Admin] }
    }

    fn new(role: Role, subject: Option<&str>) -> NewToken {
        NewToken { role, subject: subject.map(str::to_owned), ttl_s: Some(60), uses: 1 }
    }

    fn made(access: &mut Access, asked: &NewToken, number: u8) -> (TokenView, Token) {
        create(access, &admin(), asked, Fingerprint([1; 32]), ([number; 8], [number; 32]), NOW).unwrap()
    }

    #[test]
    fn a_token_is_its_users_until_it_expires_or_is_revoked() {
        let mut access = Access::default();
        let (view, token) = made(&mut access, &new(Role::User, Some("bob")), 3);
        let bob = authenticate(&access, &token, NOW).unwrap();
        assert_eq!((bob.user.as_str(), bob.roles), ("bob", vec![Role::User]));
        let late = NOW.plus(Duration::from_secs(60));
        assert!(authenticate(&access, &token, late).unwrap_err().message.contains("expired"));
        let forged = Token { secret: TokenSecret([4; 32]), ..token.clone() };
        let unknown = Token { id: TokenId("ffffffffffffffff".into()), ..token.clone() };
        for wrong in [forged, unknown] {
            assert!(authenticate(&access, &wrong, NOW).unwrap_err().message.contains("its secret is wrong"));
        }
        assert!(!serde_json::to_string(&access.tokens).unwrap().contains(&token.bearer()[25..]));
        assert_eq!(revoke(&mut access, &view.id, NOW).unwrap().state(NOW), TokenState::Revoked);
        assert!(authenticate(&access, &token, NOW).unwrap_err().message.contains("revoked"));
        assert_eq!(access.revoked.len(), 1);
        assert_eq!(revoke(&mut access, &TokenId("x".into()), NOW).unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_restored_store_revives_nothing() {
        let mut access = Access::default();
        let (view, token) = made(&mut access, &new(Role::Admin, Some("eve")), 5);
        let before = access.tokens.clone();
        revoke(&mut access, &view.id, NOW).unwrap();
        let file = std::mem::take(&mut access.revoked);
        let mut restored = Access { tokens: before, ..Access::default() };
        assert!(authenticate(&restored, &token, NOW).is_ok());
        restored.take(file);
        assert!(authenticate(&restored, &token, NOW).is_err());
        assert!(restored.dirty_tokens.contains(&view.id));
    }

    #[test]
    fn what_cannot_be_a_token_is_named() {
        let mut access = Access::default();
        let mut refused = |asked: &NewToken| {
            create(&mut access, &admin(), asked, Fingerprint([1; 32]), ([0; 8], [0; 32]), NOW).unwrap_err()
        };
        for (asked, field) in [
            (new(Role::Controller, None), "role"),
            (new(Role::User, None), "user"),
            (new(Role::User, Some("root")), "user"),
            (new(Role::Admin, Some("1000")), "user"),
            (new(Role::User, Some("a/b")), "user"),
            (NewToken { uses: 0, ..new(Role::Agent, None) }, "uses"),
        ] {
            assert_eq!(refused(&asked).violations[0].field, field, "{asked:?}");
        }
    }

    #[test]
    fn old_tokens_are_forgotten() {
        let mut access = Access::default();
        let (view, _) = made(&mut access, &new(Role::User, Some("bob")), 3);
        let later = NOW.plus(LISTED + Duration::from_secs(120));
        let fingerprint = Fingerprint([1; 32]);
        let asked = new(Role::User, Some("eva"));
        create(&mut access, &admin(), &asked, fingerprint, ([9; 8], [9; 32]), later).unwrap();
        assert!(!access.tokens.contains_key(&view.id) && access.tokens.len() == 1);
    }
}
