//! Who asks. Carried by every call from the first day, whatever authenticates it.

use serde::{Deserialize, Serialize};

/// The caller of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Of an agent whose certificate was seen: its node's name.
    pub user: String,
    /// The operating system's user id, where known.
    pub uid: Option<u32>,
    pub roles: Vec<Role>,
}

/// What a caller may do; see [`super::access::calls`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Agent,
    Controller,
    User,
    Operator,
    Admin,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Controller => "controller",
            Self::User => "user",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
