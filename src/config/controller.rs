//! The settings of a controller.

use super::listen::{self, Endpoint};
use super::source::Settings;
use super::{Checks, one_or_many};
use crate::domain::command::Violation;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `controller.toml`. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerConfig {
    /// Jobs, nodes and events.
    pub data_dir: PathBuf,
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Vec<Endpoint>,
    /// Allows listeners that others can reach without TLS and tokens.
    pub insecure: bool,
    /// `PAI_DEFAULT_FS_URI` of every task; empty for none.
    pub default_fs_uri: String,
    /// How often agents report.
    pub heartbeat_ms: u32,
    /// A node that was not heard of for so long is UNREACHABLE.
    pub node_timeout_ms: u32,
    /// How many events are kept.
    pub event_retention: u32,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/wharf/controller"),
            listen: vec![Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 7600 }],
            insecure: false,
            default_fs_uri: String::new(),
            heartbeat_ms: 1000,
            node_timeout_ms: 10_000,
            event_retention: 100_000,
        }
    }
}

impl ControllerConfig {
    /// The store's file.
    pub fn store_path(&self) -> PathBuf {
        self.data_dir.join("store.db")
    }

    /// The event log's file.
    pub fn event_log_path(&self) -> PathBuf {
        self.data_dir.join("events.db")
    }

    /// What to say at every start.
    pub fn warnings(&self) -> Vec<String> {
        listen::check("listen", &self.listen, self.insecure).unwrap_or_default()
    }
}

impl Settings for ControllerConfig {
    const KEYS: &'static [&'static str] =
        &["data_dir", "listen", "insecure", "default_fs_uri", "heartbeat_ms", "node_timeout_ms", "event_retention"];

    fn check(&self) -> Vec<Violation> {
        let mut checks = Checks::default();
        let data_dir = self.data_dir.display();
        checks.expect(self.data_dir.is_absolute(), "data_dir", "is not absolute", data_dir, "an absolute path");
        checks.expect(!self.listen.is_empty(), "listen", "nobody could reach this controller", "[]", "HOST:PORT");
        checks.0.extend(listen::check("listen", &self.listen, self.insecure).err().unwrap_or_default());
        let heartbeat = self.heartbeat_ms;
        let in_range = (100..=60_000).contains(&heartbeat);
        checks.expect(in_range, "heartbeat_ms", "is out of range", heartbeat, "100 to 60000");
        // Two lost heartbeats in a row are no reason to give up a node.
        let (timeout, least) = (self.node_timeout_ms, heartbeat.saturating_mul(3));
        let (allowed, message) = (format!("at least {least}"), "is less than three times heartbeat_ms");
        checks.expect(timeout >= least, "node_timeout_ms", message, timeout, &allowed);
        let retention = self.event_retention;
        checks.expect(retention >= 100, "event_retention", "is too few to follow them", retention, "at least 100");
        checks.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_file() {
        let config = ControllerConfig::default();
        assert_eq!(config.check(), []);
        assert!(config.warnings().is_empty());
        assert_eq!(parse("c.toml", ""), Ok(config.clone()));
        assert_eq!(parse("c.toml", &toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn listeners_for_others_need_insecure_and_then_warn() {
        let error = parse::<ControllerConfig>("c.toml", "listen = ['0.0.0.0:7600', 'unix:/run/c.sock']").unwrap_err();
        assert!(error.to_string().contains("insecure = true"), "{error}");
        let config: ControllerConfig = parse("c.toml", "listen = '0.0.0.0:7600'\ninsecure = true").unwrap();
        assert_eq!(config.warnings().len(), 1);
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let error = parse::<ControllerConfig>("c.toml", "heartbeat_ms = 5000\nnode_timeout_ms = 9000").unwrap_err();
        let expected =
            "c.toml:2: node_timeout_ms: is less than three times heartbeat_ms; found '9000'; allowed: at least 15000";
        assert_eq!(error.to_string(), expected);
    }
}
