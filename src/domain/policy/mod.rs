//! What jobs may ask of a node: the rules that its operator sets, and whether something that is asked is within them.
//! Pure.
//!
//! What has no rule here cannot be asked at all: a container is never privileged, and never in the node's namespaces of
//! processes, IPC, users or host names. Which folders a job may name is decided by [`MountRule`] and what the kernel says
//! of the folder, in `runtime::docker::request::allowed`; what a user's tasks may hold together, by
//! [`Ledger`](super::allocation::Ledger).

mod image;
mod limits;
mod mount;
mod ports;
mod run_time;
mod users;

pub use image::ImagePattern;
pub use limits::{OverLimit, UserLimits};
pub use mount::MountRule;
pub use ports::PortRules;
pub use run_time::RunTime;
pub use users::UserIds;

use super::command::Violation;
use std::fmt;

/// Where a rule is set if nobody says.
pub const USUAL_FILE: &str = "agent.toml";
/// The limits on priorities give as much as this capability.
pub const PRIORITY_CAPABILITY: &str = "SYS_NICE";

/// Capabilities that any job may ask for: Docker's own but MKNOD, which would make disks of the node in an output folder,
/// and what registered memory needs. Not SYS_RESOURCE, which lifts the kernel's preference for killing the command rather
/// than others; not SYS_PTRACE, with which a task takes its shim's files; not SYS_NICE, for which CPU limits do not hold.
pub const USUAL_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "KILL",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Of images' users rather than of people; Docker's group for a number that an image does not know is 0.
const SYSTEM_GROUPS: std::ops::RangeInclusive<u32> = 0..=999;

/// The rules of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Where they are set, for those who read a refusal.
    pub file: String,
    /// Folders of the node that jobs may name, with what is in them.
    pub mounts: Vec<MountRule>,
    /// Capabilities beside [`USUAL_CAPABILITIES`], without `CAP_`.
    pub capabilities: Vec<String>,
    /// Containers may use the node's own network.
    pub host_network: bool,
    /// Device nodes that containers may get beside those of their GPUs.
    pub devices: Vec<String>,
    /// Empty: any image.
    pub images: Vec<ImagePattern>,
    /// Most processes and threads of a task; `None`: any number. The key is not in the table, as it is a limit for all.
    pub pids: Option<u32>,
    /// Whom tasks may run as. `None`: containers as anybody, processes as anybody but root.
    pub users: Option<UserIds>,
    /// Groups that they may be in. `None`: root in all; containers in the system's and in those of the same numbers as
    /// `users`; processes in any but root's.
    pub groups: Option<UserIds>,
    pub per_user: UserLimits,
    /// Ports that containers may ask for by number.
    pub ports: PortRules,
    /// The longest that one task may run.
    pub max_run_time: Option<RunTime>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            file: USUAL_FILE.to_owned(),
            mounts: Vec::new(),
            capabilities: Vec::new(),
            host_network: true,
            devices: vec!["/dev/infiniband".to_owned()],
            images: Vec::new(),
            pids: None,
            users: None,
            groups: None,
            per_user: UserLimits::default(),
            ports: PortRules::default(),
            max_run_time: None,
        }
    }
}

/// What is asked of a node for a container, beside its own share of CPUs, memory and GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// As [`ImagePattern`] wants it: with its registry, and in short.
    pub image: Option<(String, String)>,
    pub host_network: bool,
    pub capabilities: Vec<String>,
    /// Names of limits that let it run before others, and how far.
    pub priorities: Vec<(String, i64)>,
    /// Most processes and threads.
    pub pids: Option<u32>,
    pub ports: Vec<u16>,
    /// On the node, without those of its GPUs.
    pub devices: Vec<String>,
    /// What no rule allows, by what it is called where it is asked for.
    pub never: Vec<String>,
}

/// A task's share in the rights of the node's accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunsAs {
    Container(u32),
    Process(u32),
}

/// Something that a rule does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key of the rule, such as `policy.images`; empty: there is none that would allow it.
    pub rule: &'static str,
    pub file: String,
    /// Where the job asks for it.
    pub field: String,
    pub found: String,
    pub allowed: String,
}

impl Refusal {
    pub fn violation(self) -> Violation {
        let Self { rule, file, field, found, allowed } = self;
        let message = match rule {
            "" => "is given to no job".to_owned(),
            rule => format!("is not allowed on this node ({file}: {rule})"),
        };
        Violation { field, message, found, allowed }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.clone().violation().fmt(f)
    }
}

impl Policy {
    /// Whether a container may be made, with everything that stands against it.
    pub fn check(&self, asked: &Asked) -> Result<(), Vec<Refusal>> {
        let mut refusals = Vec::new();
        for never in &asked.never {
            refusals.push(self.refusal("", "container", never.clone(), "a container with its own namespaces"));
        }
        if asked.host_network && !self.host_network {
            let allowed = "\"bridge\": a network of its own, with the task's ports published";
            refusals.push(self.refusal(
                "policy.host_network",
                "extras.wharf.container.network",
                "host".into(),
                allowed,
            ));
        }
        refusals.extend(self.image(asked));
        refusals.extend(self.capabilities(asked));
        refusals.extend(self.priorities(asked));
        refusals.extend(self.pids(asked));
        refusals.extend(self.ports(asked));
        for device in asked.devices.iter().filter(|device| !self.devices.contains(device)) {
            let allowed = either(&self.devices, "no device but those of its GPUs");
            refusals.push(self.refusal(
                "policy.devices",
                "extras.wharf.container.infiniband",
                device.clone(),
                &allowed,
            ));
        }
        if refusals.is_empty() { Ok(()) } else { Err(refusals) }
    }

    /// Whether a task may have the rights of an account.
    pub fn check_user(&self, runs_as: RunsAs) -> Result<(), Refusal> {
        let (uid, is_process) = match runs_as {
            RunsAs::Container(uid) => (uid, false),
            RunsAs::Process(uid) => (uid, true),
        };
        let allowed = match &self.users {
            Some(users) if users.contains(uid) => return Ok(()),
            None if !is_process || uid != 0 => return Ok(()),
            Some(users) => format!("uid {users}"),
            None => "any user but root; set run_as, or name 0 in policy.users".to_owned(),
        };
        let field = if is_process { "user" } else { "extras.wharf.container.user" };
        Err(self.refusal("policy.users", field, format!("uid {uid}"), &allowed))
    }

    /// Whether a task may be in all of these groups.
    pub fn check_groups(&self, runs_as: RunsAs, groups: &[u32]) -> Result<(), Refusal> {
        let (uid, is_process) = match runs_as {
            RunsAs::Container(uid) => (uid, false),
            RunsAs::Process(uid) => (uid, true),
        };
        let among_users = |gid: u32| self.users.as_ref().is_none_or(|users| users.contains(gid));
        let may = |gid: u32| match &self.groups {
            Some(groups) => groups.contains(gid),
            None if uid == 0 => true,
            None if is_process => gid != 0,
            // Who may be root there is kept from no group.
            None => self.allows_root() || SYSTEM_GROUPS.contains(&gid) || among_users(gid),
        };
        let Some(refused) = groups.iter().find(|gid| !may(**gid)) else { return Ok(()) };
        let allowed = match (&self.groups, &self.users) {
            (Some(groups), _) => format!("gid {groups}"),
            (None, _) if is_process => "any group but root's; or name 0 in policy.groups".to_owned(),
            (None, Some(users)) => format!("gid 0-{}, {users}", SYSTEM_GROUPS.end()),
            (None, None) => "any".to_owned(),
        };
        let field = if is_process { "user" } else { "extras.wharf.container.user" };
        Err(self.refusal("policy.groups", field, format!("gid {refused}"), &allowed))
    }

    /// Root is among those that containers may be.
    pub fn allows_root(&self) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains(0))
    }

    fn image(&self, asked: &Asked) -> Option<Refusal> {
        let (whole, short) = asked.image.as_ref()?;
        let fits = |pattern: &ImagePattern| pattern.fits(whole) || pattern.fits(short);
        if self.images.is_empty() || self.images.iter().any(fits) {
            return None;
        }
        let patterns: Vec<_> = self.images.iter().map(ToString::to_string).collect();
        Some(self.refusal("policy.images", "image", short.clone(), &patterns.join(", ")))
    }

    fn capabilities(&self, asked: &Asked) -> Option<Refusal> {
        let given = |name: &&String| USUAL_CAPABILITIES.contains(&name.as_str()) || self.capabilities.contains(name);
        let refused: Vec<_> = asked.capabilities.iter().filter(|name| !given(name)).map(String::as_str).collect();
        if refused.is_empty() {
            return None;
        }
        let more = self.capabilities.iter().map(String::as_str).filter(|name| !USUAL_CAPABILITIES.contains(name));
        let allowed: Vec<_> = USUAL_CAPABILITIES.into_iter().chain(more).collect();
        let field = "extras.wharf.container.capabilities";
        Some(self.refusal("policy.capabilities", field, refused.join(", "), &allowed.join(", ")))
    }

    /// Limits that let a task run before all others of the node.
    fn priorities(&self, asked: &Asked) -> Vec<Refusal> {
        if self.capabilities.iter().any(|name| name == PRIORITY_CAPABILITY) {
            return Vec::new();
        }
        let allowed = format!("0; any with {PRIORITY_CAPABILITY} in policy.capabilities");
        let refuse = |(name, limit): &(String, i64)| {
            let field = format!("extras.wharf.container.ulimits.{name}");
            self.refusal("policy.capabilities", &field, limit.to_string(), &allowed)
        };
        asked.priorities.iter().filter(|(_, limit)| *limit != 0).map(refuse).collect()
    }

    fn pids(&self, asked: &Asked) -> Option<Refusal> {
        let (most, asked) = (self.pids?, asked.pids?);
        let refuse = || {
            let allowed = format!("at most {most}");
            self.refusal("pids_limit", "extras.wharf.container.pidsLimit", asked.to_string(), &allowed)
        };
        (asked > most).then(refuse)
    }

    fn ports(&self, asked: &Asked) -> Option<Refusal> {
        let refused: Vec<_> =
            asked.ports.iter().filter(|port| !self.ports.allow(**port)).map(u16::to_string).collect();
        let refuse = || self.refusal("policy.ports", "portList", refused.join(", "), &self.ports.to_string());
        (!refused.is_empty()).then(refuse)
    }

    pub fn refusal(&self, rule: &'static str, field: &str, found: String, allowed: &str) -> Refusal {
        let (file, field, allowed) = (self.file.clone(), field.to_owned(), allowed.to_owned());
        Refusal { rule, file, field, found, allowed }
    }
}

fn either(list: &[String], none: &str) -> String {
    if list.is_empty() { none.to_owned() } else { list.join(", ") }
}

#[cfg(test)]
mod tests;
