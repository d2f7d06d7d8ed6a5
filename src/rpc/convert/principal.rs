//! Who asks.

use super::{MAX_WORD_BYTES, Parsed, text, wrong};
use crate::domain::command::Violation;
use crate::domain::principal::{Principal, Role};
use crate::rpc::generated as pb;

const ROLES: [Role; 5] = [Role::Agent, Role::Controller, Role::User, Role::Operator, Role::Admin];

pub(in crate::rpc) fn role(word: &str, field: &str) -> Parsed<Role> {
    let found = ROLES.into_iter().find(|role| role.as_str() == word);
    found.ok_or_else(|| wrong(field, "is not a role", word, "agent, controller, user, operator, admin"))
}

impl From<Principal> for pb::Principal {
    fn from(Principal { user, uid, roles }: Principal) -> Self {
        Self { user, uid, roles: roles.into_iter().map(|role| role.as_str().to_owned()).collect() }
    }
}

impl TryFrom<pb::Principal> for Principal {
    type Error = Violation;

    /// The user may be empty here: on a Unix socket the kernel names it.
    fn try_from(wire: pb::Principal) -> Parsed<Self> {
        let user = text(wire.user, "user", MAX_WORD_BYTES)?;
        if let Some(bad) = user.chars().find(|c| c.is_control() || *c == '/') {
            return Err(wrong(
                "user",
                "is not a user name",
                bad.escape_default(),
                "no '/' and no control characters",
            ));
        }
        let roles: Parsed<Vec<Role>> =
            wire.roles.iter().enumerate().map(|(i, word)| role(word, &format!("roles[{i}]"))).collect();
        Ok(Self { user, uid: wire.uid, roles: roles? })
    }
}
