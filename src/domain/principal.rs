//! Who asks. Carried by every call from the first day, whatever authenticates it.

use serde::{Deserialize, Serialize};

/// The caller of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub user: String,
    /// The operating system's user id, where known.
    pub uid: Option<u32>,
    pub roles: Vec<Role>,
}

/// What a caller may do; see the controller's admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Agent,
    Controller,
    User,
    Operator,
    Admin,
}
