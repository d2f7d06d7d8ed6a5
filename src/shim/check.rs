//! What the shim looks at before it says `Ready`. Pure: kinds, results and their codes on the wire.

use super::wire::DecodeError;

/// What a check was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckKind {
    /// A device node that must open.
    DeviceNode,
    /// A library file that must be there.
    Library,
    /// The IPC namespace of its own (unshare).
    IpcNamespace,
    /// The `/proc` descriptor shows the shim's own process namespace.
    Proc,
    /// A log segment or the exit file takes writes.
    Files,
}

impl CheckKind {
    const ALL: [Self; 5] = [Self::DeviceNode, Self::Library, Self::IpcNamespace, Self::Proc, Self::Files];

    pub(super) fn code(self) -> u8 {
        match self {
            Self::DeviceNode => 1,
            Self::Library => 2,
            Self::IpcNamespace => 3,
            Self::Proc => 4,
            Self::Files => 5,
        }
    }

    pub(super) fn of_code(found: u8) -> Result<Self, DecodeError> {
        let known = Self::ALL.into_iter().find(|kind| kind.code() == found);
        known.ok_or(DecodeError::BadValue { what: "kind of check", found: found.into() })
    }
}

/// One thing the shim tried before it said `Ready`. What a failure means is the agent's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub kind: CheckKind,
    /// A path, or empty where the kind says it all.
    pub subject: String,
    /// 0: passed.
    pub errno: i32,
    /// A sentence for a person; empty when passed.
    pub message: String,
}

impl Check {
    pub fn passed(&self) -> bool {
        self.errno == 0
    }
}
