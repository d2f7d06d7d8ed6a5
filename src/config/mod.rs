//! The configuration of agents and controllers: `/etc/wharf/*.toml`, or flags of the same names. Unknown keys are
//! errors, because a misspelt key is a setting that its author believes in.

pub mod agent;
pub mod choice;
pub mod controller;
pub mod listen;
mod policy;
mod source;

pub use agent::AgentConfig;
pub use choice::{GpuChoice, PortRange, RuntimeChoice};
pub use controller::{CONTROLLER_SOCKET, ControllerConfig, EtcdConfig, TlsConfig};
pub use listen::Endpoint;
pub use policy::PolicyTable;
pub use source::{ConfigError, Problem, Settings, load, parse};

use crate::domain::command::Violation;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

/// Messages of a check, built field by field.
#[derive(Debug, Default)]
struct Checks(Vec<Violation>);

impl Checks {
    /// A violation of `field` unless `right`.
    fn expect(&mut self, right: bool, field: &str, message: &str, found: impl std::fmt::Display, allowed: &str) {
        if !right {
            let (field, message, allowed) = (field.to_owned(), message.to_owned(), allowed.to_owned());
            self.0.push(Violation { field, message, found: format!("'{found}'"), allowed });
        }
    }
}

/// One address as a text, or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Endpoint>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an address, or a list of addresses")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(|endpoint| vec![endpoint]).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut endpoints = Vec::new();
            while let Some(text) = list.next_element::<String>()? {
                endpoints.push(text.parse().map_err(A::Error::custom)?);
            }
            Ok(endpoints)
        }
    }

    deserializer.deserialize_any(OneOrMany)
}
