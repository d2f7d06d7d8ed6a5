//! What dockerd is and can. Pure: read from its answers to `version` and `info`.

use bollard::models::{SystemInfo, SystemVersion};
use std::collections::BTreeSet;
use std::fmt;

/// `MAJOR.MINOR` of dockerd's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ApiVersion(pub u32, pub u32);

impl ApiVersion {
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// One dockerd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineFacts {
    /// E.g. `20.10.24+dfsg1`.
    pub version: String,
    pub api: ApiVersion,
    pub runtimes: BTreeSet<String>,
    pub default_runtime: String,
    /// Folders with CDI specifications that dockerd reads; empty where CDI is off.
    pub cdi_dirs: Vec<String>,
    /// Where dockerd keeps its state.
    pub root_dir: String,
    /// `systemd` or `cgroupfs`.
    pub cgroup_driver: String,
    /// Without it a memory limit does not cover swap.
    pub swap_limit: bool,
}

/// Docker 25 makes read-only what is mounted below a read-only mount, too.
const ALL_READ_ONLY_SINCE: ApiVersion = ApiVersion(1, 44);

impl EngineFacts {
    pub fn makes_all_mounts_read_only(&self) -> bool {
        self.api >= ALL_READ_ONLY_SINCE
    }

    pub fn of(version: &SystemVersion, info: &SystemInfo) -> Self {
        let api = version.api_version.as_deref().and_then(ApiVersion::parse).unwrap_or_default();
        Self {
            version: version.version.clone().or_else(|| info.server_version.clone()).unwrap_or_default(),
            api,
            runtimes: info.runtimes.iter().flatten().map(|(name, _)| name.clone()).collect(),
            default_runtime: info.default_runtime.clone().unwrap_or_default(),
            cdi_dirs: info.cdi_spec_dirs.clone().unwrap_or_default(),
            root_dir: info.docker_root_dir.clone().unwrap_or_default(),
            cgroup_driver: info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default(),
            swap_limit: info.swap_limit.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(ApiVersion::parse("1.9") < ApiVersion::parse("1.44"));
        assert_eq!(ApiVersion::parse("1.41").map(|it| it.to_string()), Some("1.41".to_owned()));
        assert_eq!(ApiVersion::parse("new"), None);
    }
}
