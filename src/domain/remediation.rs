//! What a node does by itself about a fault of a GPU that nobody holds, or of its own; and how many may at once.
//!
//! A remedy that takes a whole node out, as a reboot does, waits for a permit: the controller counts the nodes that are
//! out, an agent knows itself alone. The agent asks with each heartbeat for as long as it wants to, works or is away; a
//! heartbeat that does not ask gives the permit back. What was granted is not stored: a controller that has just begun
//! takes nodes that it has not heard for nodes that are out, and believes an agent that has begun.

use super::fault::{Action, FaultId};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::{Serialize, Serializer};

/// As configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Remediation {
    /// Nothing: an operator decides.
    #[default]
    None,
    /// Resets a GPU for which that is what should be done.
    ResetGpu,
    /// Starts this program with these arguments; it gets the fault as one line of JSON.
    Command(Vec<String>),
}

impl Remediation {
    /// Whether it is for faults with this advice.
    pub fn is_for(&self, action: Action) -> bool {
        match self {
            Self::None => false,
            Self::ResetGpu => action == Action::ResetGpu,
            Self::Command(_) => matches!(action, Action::ResetGpu | Action::Reboot | Action::Inspect),
        }
    }

    /// Whether it is also for faults that are no GPU's but close the whole node.
    pub const fn is_for_nodes(&self) -> bool {
        matches!(self, Self::Command(_))
    }

    /// The word for it, for people.
    pub fn name(&self) -> &str {
        match self {
            Self::None => "none",
            Self::ResetGpu => "reset-gpu",
            Self::Command(words) => words.first().map_or("none", String::as_str),
        }
    }
}

/// What an agent asks for with its heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoingOut {
    /// Because of which fault.
    pub fault: FaultId,
    /// The permit was used: the remedy is under way, or its reboot is.
    pub begun: bool,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    pub fault: FaultId,
    /// None: granted.
    pub refusal: Option<String>,
}

impl Serialize for Remediation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None | Self::ResetGpu => serializer.serialize_str(self.name()),
            Self::Command(words) => words.serialize(serializer),
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Command(Vec<String>),
}

impl<'de> Deserialize<'de> for Remediation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let allowed = "none, reset-gpu, or a list of a program's path and its arguments";
        let written = Written::deserialize(deserializer);
        match written.map_err(|_| D::Error::custom(format!("allowed: {allowed}")))? {
            Written::Word(word) if word == "none" => Ok(Self::None),
            Written::Word(word) if word == "reset-gpu" => Ok(Self::ResetGpu),
            Written::Word(word) => Err(D::Error::custom(format!("found '{word}'; allowed: {allowed}"))),
            Written::Command(words) => Ok(Self::Command(words)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_commands_survive_text_and_others_are_refused() {
        for text in [r#""none""#, r#""reset-gpu""#, r#"["/bin/mend","--now"]"#] {
            let read: Remediation = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), text);
        }
        let error = serde_json::from_str::<Remediation>(r#""reboot""#).unwrap_err().to_string();
        assert!(error.contains("found 'reboot'") && error.contains("reset-gpu"), "{error}");
        assert!(serde_json::from_str::<Remediation>("7").unwrap_err().to_string().contains("reset-gpu"));
    }

    #[test]
    fn a_reset_is_for_what_a_reset_mends_and_a_command_is_told_all() {
        let command = Remediation::Command(vec!["/bin/true".to_owned()]);
        for action in Action::ALL {
            assert_eq!(Remediation::ResetGpu.is_for(*action), *action == Action::ResetGpu);
            assert_eq!(command.is_for(*action), *action > Action::RestartApp);
            assert!(!Remediation::None.is_for(*action));
        }
    }
}
