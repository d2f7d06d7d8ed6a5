//! Texts that nobody is shown.

use super::ssh::SshSeed;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// What stands where a secret would.
pub const MASK: &str = "******";

/// A text that is neither printed nor written: who needs it says [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq, Default, Hash, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// What only a task itself may know, and is told at its launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskSecrets {
    /// Variables, set after all others.
    pub env: Vec<(String, Secret)>,
    /// What the keys of the job come from. The command never gets it.
    pub ssh_seed: Option<SshSeed>,
}

/// Writes variables as the list of their names. What is read from that has no values yet.
pub mod names {
    use super::Secret;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(secrets: &[(String, Secret)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(secrets.iter().map(|(name, _)| name))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Secret)>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        Ok(names.into_iter().map(|name| (name, Secret::default())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nowhere_but_where_it_is_asked_for() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "****** Some(******)");
        assert_eq!(serde_json::to_string(&[&secret]).unwrap(), "[\"******\"]");
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(serde_json::from_str::<Secret>("\"x\"").unwrap(), Secret::new("x"));
        assert!(Secret::new("a") != Secret::new("b"));
    }
}
