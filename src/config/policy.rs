//! `[policy]` of `agent.toml`: what jobs may ask of the node.

use super::Checks;
use crate::domain::policy::{ImagePattern, MountRule, Policy, PortRules, RunTime, UserIds, UserLimits};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// As it is written; [`PolicyTable::rules`] is what holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyTable {
    /// Folders of the node that jobs in containers may name, with everything in them: `/srv/jobs`, or `/srv/data:ro` for
    /// one that is only read.
    pub mounts: Vec<String>,
    /// Capabilities that jobs may ask for beside the usual ones, by names without `CAP_`.
    pub capabilities: Vec<String>,
    /// Containers may use the node's own network, which is what job files mean that say nothing.
    pub host_network: bool,
    /// Device nodes that containers may get beside those of their GPUs.
    pub devices: Vec<String>,
    /// Patterns with `*`; empty: any image.
    pub images: Vec<String>,
    /// Numbers and ranges of users that tasks may run as. Without it: containers as anybody, processes as anybody but
    /// root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
    /// The same of groups. Without it: containers in those up to 999 and in those of the numbers of `users`, processes in
    /// any but root's; who may be root is in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// Numbers and ranges of ports that containers may ask for by number; without it those from 1024 on. Never wharf's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<String>>,
    /// The longest that one task may run: `90s`, `15m`, `2h`, `7d`. Without it, as long as it likes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_run_time: Option<String>,
    /// What the tasks of one user may hold together on this node.
    pub per_user: UserLimits,
}

impl Default for PolicyTable {
    fn default() -> Self {
        let Policy { host_network, devices, .. } = Policy::default();
        Self {
            mounts: Vec::new(),
            capabilities: Vec::new(),
            host_network,
            devices,
            images: Vec::new(),
            users: None,
            groups: None,
            ports: None,
            max_run_time: None,
            per_user: UserLimits::default(),
        }
    }
}

impl PolicyTable {
    /// With the older keys for the same, and the file that they are all in. What is not right has been refused before.
    pub(super) fn rules(&self, job_dirs: &[PathBuf], allow_capabilities: &[String], file: &Path) -> Policy {
        let mounts = self.mounts.iter().filter_map(|text| MountRule::parse(text));
        let ranges = |ids: &Option<Vec<String>>| {
            let ids = ids.as_ref().map(|ids| UserIds::parse(ids.iter().map(String::as_str)));
            // What cannot be read allows nobody.
            ids.map(Result::unwrap_or_default)
        };
        Policy {
            file: file.display().to_string(),
            mounts: job_dirs.iter().map(MountRule::writable).chain(mounts).collect(),
            capabilities: self.capabilities.iter().chain(allow_capabilities).cloned().collect(),
            host_network: self.host_network,
            devices: self.devices.clone(),
            images: self.images.iter().filter_map(|text| ImagePattern::parse(text)).collect(),
            pids: None,
            users: ranges(&self.users),
            groups: ranges(&self.groups),
            per_user: self.per_user,
            ports: PortRules { fixed: ranges(&self.ports), ..PortRules::default() },
            max_run_time: self.max_run_time.as_deref().and_then(RunTime::parse),
        }
    }

    pub(super) fn check(&self, checks: &mut Checks) {
        for text in &self.mounts {
            let allowed = "absolute folders below /, without '..'; ':ro' at the end makes one read-only";
            let right = MountRule::parse(text).is_some();
            checks.expect(right, "policy.mounts", "is not a folder for jobs", text.escape_debug(), allowed);
        }
        check_capabilities("policy.capabilities", &self.capabilities, checks);
        for device in &self.devices {
            let path = Path::new(device);
            let right = path.starts_with("/dev") && path.components().count() > 2 && !device.contains("..");
            checks.expect(right, "policy.devices", "is no device", device.escape_debug(), "paths below /dev");
        }
        for text in &self.images {
            let (right, allowed) = (ImagePattern::parse(text).is_some(), "names of images, with * for any text");
            checks.expect(right, "policy.images", "is no image's name", text.escape_debug(), allowed);
        }
        for (field, message, ids) in [
            ("policy.users", "is no user id", &self.users),
            ("policy.groups", "is no group id", &self.groups),
            ("policy.ports", "is no port", &self.ports),
        ] {
            if let Err(wrong) = UserIds::parse(ids.iter().flatten().map(String::as_str)) {
                let allowed = "numbers and ranges of them, e.g. \"1000-59999\"";
                checks.expect(false, field, message, wrong.escape_debug(), allowed);
            }
        }
        if let Some(text) = &self.max_run_time {
            let right = RunTime::parse(text).is_some();
            let allowed = "a number with s, m, h or d, such as 7d";
            checks.expect(right, "policy.max_run_time", "is no time", text.escape_debug(), allowed);
        }
    }
}

pub(super) fn check_capabilities(field: &str, names: &[String], checks: &mut Checks) {
    for name in names {
        let word = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let right = !name.is_empty() && name.bytes().all(word) && !name.starts_with("CAP_") && name != "ALL";
        let allowed = "a capability in upper case without CAP_, e.g. SYS_ADMIN";
        checks.expect(right, field, "is not one capability", name.escape_debug(), allowed);
    }
}
