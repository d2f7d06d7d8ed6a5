//! The settings of a controller.

use super::listen::{self, Endpoint};
use super::source::Settings;
use super::{Checks, one_or_many};
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::domain::placement::Arrangement;
use crate::domain::quantity::MAX_NAME_BYTES;
use crate::scheduler::Policy;
use crate::scheduler::policy::KEPT_FOR_GPUS_PERCENT;
use crate::scheduler::quota::Limits;
use crate::store::etcd::{EtcdSettings, EtcdTls};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where people of the controller's machine reach it, known by their accounts.
pub const CONTROLLER_SOCKET: &str = "/run/wharf-controller/controller.sock";

/// `controller.toml`. Every key has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControllerConfig {
    /// Jobs, nodes and events.
    pub data_dir: PathBuf,
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Vec<Endpoint>,
    /// Neither TLS nor tokens: whoever reaches a listener is believed.
    pub insecure: bool,
    /// The cluster's certificates.
    pub tls: TlsConfig,
    /// See [`super::AgentConfig::own_account`].
    #[serde(skip)]
    pub own_account: bool,
    /// `PAI_DEFAULT_FS_URI` of every task; empty for none.
    pub default_fs_uri: String,
    /// How often agents report.
    pub heartbeat_ms: u32,
    /// A node that was not heard of for so long is UNREACHABLE.
    pub node_timeout_ms: u32,
    /// How many events are kept.
    pub event_retention: u32,
    /// How many ended jobs stay to be looked at, the newest.
    pub keep_ended_jobs: u32,
    /// How jobs share nodes that do not say it: `pack` or `spread`.
    pub placement: Arrangement,
    /// What every free GPU keeps from jobs without GPUs, in percent of its even share of its node's CPUs and memory; 0
    /// keeps nothing.
    pub kept_for_gpus_percent: u8,
    /// How often a job is run again after hardware faults, which `retryCount` does not count.
    pub hardware_restarts: u32,
    /// Of all nodes, how many may be closed for faults of their own at once, in percent; one may always.
    pub max_nodes_out_percent: u8,
    /// The queues and what each may hold. Without any, every name is accepted and nothing is limited.
    pub virtual_clusters: BTreeMap<String, VirtualCluster>,
    /// What clients of another controller are told when this one leads, if it is not the first of `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<Endpoint>,
    /// The store is in etcd, and several controllers may use it, of which one leads; default: in `data_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdConfig>,
}

/// The quota of one virtual cluster; what is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VirtualCluster {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
}

/// The table `[etcd]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Its members.
    #[serde(deserialize_with = "one_or_many")]
    pub endpoints: Vec<Endpoint>,
    /// Of all keys; one cluster has it for itself.
    pub prefix: String,
    /// How long the lead outlives a leader that is gone.
    pub lease_s: u32,
    /// Whom to believe as etcd: an authority's certificate in PEM. With it everything goes through TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PathBuf>,
    /// What etcd is shown, where it asks: a certificate and its private key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Allows members on other machines without TLS, though what is said to them can be read and changed on the way.
    pub insecure: bool,
}

/// The table `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The operator's own certificate authority, in PEM; default: one that the first start makes in
    /// `data_dir/cluster/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificate: Option<PathBuf>,
    /// Its private key (PKCS #8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_key: Option<PathBuf>,
    /// How long certificates of nodes are valid, which are renewed at half of it.
    pub node_life_s: u64,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self { ca_certificate: None, ca_key: None, node_life_s: 365 * 86_400 }
    }
}

impl TlsConfig {
    fn check(&self, checks: &mut Checks) {
        let (life, allowed) = (self.node_life_s, "10 to 315360000: ten years");
        checks.expect((10..=315_360_000).contains(&life), "tls.node_life_s", "is out of range", life, allowed);
        let is_whole = self.ca_certificate.is_some() == self.ca_key.is_some();
        let allowed = "both ca_certificate and ca_key, or neither";
        checks.expect(is_whole, "tls", "has only one half of the authority", "", allowed);
        for (field, path) in [("tls.ca_certificate", &self.ca_certificate), ("tls.ca_key", &self.ca_key)] {
            if let Some(path) = path {
                checks.expect(path.is_absolute(), field, "is not absolute", path.display(), "an absolute path");
            }
        }
    }
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: EtcdSettings::DEFAULT_PREFIX.to_owned(),
            lease_s: 6,
            ca_certificate: None,
            certificate: None,
            key: None,
            insecure: false,
        }
    }
}

impl EtcdConfig {
    /// For the store. Reads the files of certificates.
    pub fn settings(&self) -> Result<EtcdSettings, Error> {
        let endpoints = self.endpoints.iter().map(ToString::to_string).collect();
        Ok(EtcdSettings { prefix: self.prefix.clone(), tls: self.tls()?, ..EtcdSettings::new(endpoints) })
    }

    /// How its TLS is, if it has any.
    pub fn tls(&self) -> Result<Option<EtcdTls>, Error> {
        let read = |field: &str, path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("etcd.{field}: reading {}: {error}", path.display()))
            })
        };
        let Some(ca) = &self.ca_certificate else { return Ok(None) };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((read("certificate", certificate)?, read("key", key)?)),
            _ => None,
        };
        Ok(Some(EtcdTls { ca: read("ca_certificate", ca)?, identity }))
    }

    fn check_tls(&self, checks: &mut Checks) {
        let is_whole = self.certificate.is_some() == self.key.is_some();
        checks.expect(
            is_whole,
            "etcd",
            "has only one half of what it shows",
            "",
            "both certificate and key, or neither",
        );
        let of = [
            ("etcd.ca_certificate", &self.ca_certificate),
            ("etcd.certificate", &self.certificate),
            ("etcd.key", &self.key),
        ];
        for (field, path) in of.into_iter().filter_map(|(field, path)| Some((field, path.as_ref()?))) {
            checks.expect(path.is_absolute(), field, "is not absolute", path.display(), "an absolute path");
            let allowed = "only beside ca_certificate";
            checks.expect(
                self.ca_certificate.is_some(),
                field,
                "is never shown without TLS",
                path.display(),
                allowed,
            );
        }
    }

    fn check(&self, insecure: bool, checks: &mut Checks) {
        let insecure = insecure || self.insecure || self.ca_certificate.is_some();
        self.check_tls(checks);
        let field = "etcd.endpoints";
        checks.expect(!self.endpoints.is_empty(), field, "there is no member to ask", "[]", "HOST:PORT");
        for endpoint in &self.endpoints {
            let tcp = matches!(endpoint, Endpoint::Tcp { .. });
            checks.expect(tcp, field, "is no member of an etcd", endpoint, "HOST:PORT");
            let message = "without TLS only this machine may be asked";
            let allowed = "a loopback address such as 127.0.0.1:2379, ca_certificate, or insecure = true in [etcd]";
            checks.expect(insecure || endpoint.is_local(), field, message, endpoint, allowed);
        }
        let right = self.prefix.starts_with('/') && self.prefix.ends_with('/') && self.prefix.len() <= 100;
        checks.expect(right, "etcd.prefix", "is no prefix of keys", &self.prefix, "/NAME/, at most 100 bytes");
        let lease = self.lease_s;
        checks.expect((3..=60).contains(&lease), "etcd.lease_s", "is out of range", lease, "3 to 60");
    }
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/wharf/controller"),
            listen: vec![
                Endpoint::Tcp { host: "127.0.0.1".to_owned(), port: 7600 },
                Endpoint::Unix { path: PathBuf::from(CONTROLLER_SOCKET) },
            ],
            insecure: false,
            tls: TlsConfig::default(),
            own_account: false,
            default_fs_uri: String::new(),
            heartbeat_ms: 1000,
            node_timeout_ms: 10_000,
            event_retention: 100_000,
            keep_ended_jobs: 10_000,
            placement: Arrangement::Pack,
            kept_for_gpus_percent: KEPT_FOR_GPUS_PERCENT,
            hardware_restarts: 5,
            max_nodes_out_percent: 20,
            virtual_clusters: BTreeMap::new(),
            advertise_address: None,
            etcd: None,
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

    /// The rules by which jobs get their places.
    pub fn policy(&self) -> Policy {
        let limits = |cluster: &VirtualCluster| Limits {
            gpus: cluster.gpus,
            cpus: cluster.cpus,
            memory_mb: cluster.memory_mb,
        };
        Policy {
            arrangement: self.placement,
            kept_for_gpus_percent: self.kept_for_gpus_percent,
            clusters: self.virtual_clusters.iter().map(|(name, cluster)| (name.clone(), limits(cluster))).collect(),
        }
    }

    /// What to say at every start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = if self.insecure { listen::warnings("listen", &self.listen) } else { Vec::new() };
        let plain = self.etcd.iter().filter(|etcd| etcd.ca_certificate.is_none());
        let endpoints = plain.flat_map(|etcd| &etcd.endpoints);
        warnings.extend(endpoints.filter(|endpoint| !endpoint.is_local()).map(|endpoint| {
            format!("etcd.endpoints: what is said to {endpoint} can be read and changed on the way: there is no TLS (insecure is set)")
        }));
        warnings
    }
}

impl Settings for ControllerConfig {
    const KEYS: &'static [&'static str] = &[
        "data_dir",
        "listen",
        "insecure",
        "tls",
        "default_fs_uri",
        "heartbeat_ms",
        "node_timeout_ms",
        "event_retention",
        "keep_ended_jobs",
        "placement",
        "kept_for_gpus_percent",
        "hardware_restarts",
        "max_nodes_out_percent",
        "virtual_clusters",
        "advertise_address",
        "etcd",
    ];

    fn check(&self) -> Vec<Violation> {
        let mut checks = Checks::default();
        let data_dir = self.data_dir.display();
        checks.expect(self.data_dir.is_absolute(), "data_dir", "is not absolute", data_dir, "an absolute path");
        checks.expect(!self.listen.is_empty(), "listen", "nobody could reach this controller", "[]", "HOST:PORT");
        if self.own_account && !self.insecure {
            let because = "this controller is its account's alone, and has no TLS";
            checks.0.extend(listen::refuse_outside("listen", &self.listen, because, "'wharf controller'"));
        }
        self.tls.check(&mut checks);
        let heartbeat = self.heartbeat_ms;
        let in_range = (100..=60_000).contains(&heartbeat);
        checks.expect(in_range, "heartbeat_ms", "is out of range", heartbeat, "100 to 60000");
        // Two lost heartbeats in a row are no reason to give up a node.
        let (timeout, least) = (self.node_timeout_ms, heartbeat.saturating_mul(3));
        let (allowed, message) = (format!("at least {least}"), "is less than three times heartbeat_ms");
        checks.expect(timeout >= least, "node_timeout_ms", message, timeout, &allowed);
        let retention = self.event_retention;
        checks.expect(retention >= 100, "event_retention", "is too few to follow them", retention, "at least 100");
        let (jobs, allowed) = (self.keep_ended_jobs, "10 to 1000000");
        checks.expect((10..=1_000_000).contains(&jobs), "keep_ended_jobs", "is out of range", jobs, allowed);
        let percent = self.kept_for_gpus_percent;
        checks.expect(percent <= 100, "kept_for_gpus_percent", "is more than all", percent, "0 to 100");
        let restarts = self.hardware_restarts;
        checks.expect(restarts <= 1000, "hardware_restarts", "is out of range", restarts, "0 to 1000; 0 is never");
        let out = self.max_nodes_out_percent;
        checks.expect(out <= 100, "max_nodes_out_percent", "is more than all", out, "0 to 100; one node may always");
        for name in self.virtual_clusters.keys() {
            let right = (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
            let allowed = format!("1 to {MAX_NAME_BYTES} bytes without control characters");
            let found = name.escape_debug();
            checks.expect(right, "virtual_clusters", "is not the name of a virtual cluster", found, &allowed);
        }
        if let Some(etcd) = &self.etcd {
            etcd.check(self.insecure, &mut checks);
        }
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
    fn listeners_for_others_have_tls_or_warn() {
        let config: ControllerConfig = parse("c.toml", "listen = ['0.0.0.0:7600', 'unix:/run/c.sock']").unwrap();
        assert!(config.warnings().is_empty());
        let error = ControllerConfig { own_account: true, ..config }.check().remove(0).to_string();
        assert!(error.contains("insecure = true"), "{error}");
        let config: ControllerConfig = parse("c.toml", "listen = '0.0.0.0:7600'\ninsecure = true").unwrap();
        assert_eq!(config.warnings().len(), 1);
        for (text, part) in [
            ("[tls]\nca_key = '/k'", "only one half"),
            ("[tls]\nca_key = 'k'\nca_certificate = '/c'", "tls.ca_key: is not absolute"),
            ("[tls]\nnode_life_s = 1", "tls.node_life_s: is out of range"),
        ] {
            let error = parse::<ControllerConfig>("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_etcd_of_others_needs_insecure_and_everything_wrong_is_named() {
        let config: ControllerConfig =
            parse("c.toml", "[etcd]\nendpoints = ['127.0.0.1:2379', '[::1]:2379']").unwrap();
        let etcd = config.etcd.clone().unwrap();
        assert_eq!((etcd.prefix.as_str(), etcd.lease_s, etcd.settings().unwrap().endpoints.len()), ("/wharf/", 6, 2));
        assert_eq!(parse("c.toml", &toml::to_string(&config).unwrap()), Ok(config));
        let text = "[etcd]\nendpoints = ['10.0.0.1:2379', 'unix:/x']\nprefix = 'x'\nlease_s = 1";
        let error = parse::<ControllerConfig>("c.toml", text).unwrap_err().to_string();
        for part in ["found '10.0.0.1:2379'", "insecure = true", "found 'unix:/x'", "etcd.prefix", "etcd.lease_s"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let config: ControllerConfig =
            parse("c.toml", "[etcd]\nendpoints = '10.0.0.1:2379'\ninsecure = true").unwrap();
        assert!(config.warnings()[0].contains("10.0.0.1:2379"), "{:?}", config.warnings());
        assert!(parse::<ControllerConfig>("c.toml", "[etcd]\nendpoint = 'x'").is_err(), "unknown keys are errors");
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let error = parse::<ControllerConfig>("c.toml", "heartbeat_ms = 5000\nnode_timeout_ms = 9000").unwrap_err();
        let expected =
            "c.toml:2: node_timeout_ms: is less than three times heartbeat_ms; found '9000'; allowed: at least 15000";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn queues_have_quotas() {
        let text = "placement = 'spread'\nkept_for_gpus_percent = 0\n[virtual_clusters.vision]\ngpus = 16\n[virtual_clusters.default]\n";
        let config: ControllerConfig = parse("c.toml", text).unwrap();
        assert_eq!(parse("c.toml", &toml::to_string(&config).unwrap()), Ok(config.clone()));
        let policy = config.policy();
        assert_eq!((policy.arrangement, policy.kept_for_gpus_percent), (Arrangement::Spread, 0));
        assert_eq!(policy.clusters["vision"], Limits { gpus: Some(16), ..Limits::default() });
        assert_eq!(policy.clusters["default"], Limits::default());
        assert_eq!(ControllerConfig::default().policy(), Policy::default());
        for (text, part) in [
            ("[virtual_clusters.a]\ngpu = 1", "virtual_clusters: unknown field `gpu`"),
            ("[virtual_clusters.a]\ngpus = -1", "virtual_clusters: "),
            ("[virtual_clusters.'']\ngpus = 1", "is not the name of a virtual cluster"),
            ("kept_for_gpus_percent = 101", "c.toml:1: kept_for_gpus_percent: is more than all"),
            ("hardware_restarts = 1001", "c.toml:1: hardware_restarts: is out of range"),
            ("max_nodes_out_percent = 101", "c.toml:1: max_nodes_out_percent: is more than all"),
            ("placement = 'scatter'", "c.toml:1: placement: "),
        ] {
            let error = parse::<ControllerConfig>("c.toml", text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
