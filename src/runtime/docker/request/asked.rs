//! What a request asks of the node, read from the request itself: what comes into it later is asked too, and what has no
//! rule is refused. Pure.

use crate::domain::container::Network;
use crate::domain::policy::Asked;
use crate::domain::task::TaskSpec;
use crate::runtime::docker::images::reference::Reference;
use crate::runtime::docker::injection::Injection;
use bollard::models::{ContainerCreateBody, HostConfig};

/// Limits that let a task run before others.
const PRIORITIES: [&str; 2] = ["nice", "rtprio"];

/// For [`Policy::check`](crate::domain::policy::Policy::check).
pub fn asked(body: &ContainerCreateBody, task: &TaskSpec, injection: &Injection) -> Asked {
    let none = HostConfig::default();
    let host = body.host_config.as_ref().unwrap_or(&none);
    let root = injection.root.to_string_lossy();
    let of_gpus = |path: &String| {
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
        injection.devices.iter().any(|device| device == below)
    };
    let devices = host.devices.iter().flatten().filter_map(|device| device.path_on_host.clone());
    Asked {
        image: image(task),
        host_network: host.network_mode.as_deref() == Some("host"),
        capabilities: host.cap_add.clone().unwrap_or_default(),
        priorities: priorities(task),
        pids: task.container.pids_limit,
        ports: ports(task),
        devices: devices.filter(|path| !of_gpus(path)).collect(),
        never: never(host),
    }
}

/// What of it the job itself says, before there is a request.
pub fn asked_early(task: &TaskSpec) -> Asked {
    Asked {
        image: image(task),
        host_network: task.container.network == Network::Host,
        capabilities: task.container.capabilities.clone(),
        priorities: priorities(task),
        pids: task.container.pids_limit,
        ports: ports(task),
        ..Asked::default()
    }
}

/// One that has no right name is told when it is asked for.
fn image(task: &TaskSpec) -> Option<(String, String)> {
    Reference::parse(&task.image).ok().map(|image| (image.whole(), image.to_string()))
}

fn ports(task: &TaskSpec) -> Vec<u16> {
    task.ports.iter().flat_map(|assigned| assigned.ports.iter().copied()).collect()
}

/// The job's limits that let it run before others.
fn priorities(task: &TaskSpec) -> Vec<(String, i64)> {
    let limits = task.container.ulimits.iter().filter(|limit| PRIORITIES.contains(&limit.name.as_str()));
    limits.map(|limit| (limit.name.clone(), limit.hard)).collect()
}

/// What gives a container more than its own, by Docker's names.
fn never(host: &HostConfig) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut never = Vec::new();
    let mut unless = |right: bool, name: &str, value: String| {
        if !right {
            never.push(format!("{name}={value}"));
        }
    };
    unless(host.privileged != Some(true), "Privileged", "true".to_owned());
    unless(host.ipc_mode.as_deref() == Some("private"), "IpcMode", text(&host.ipc_mode));
    let network = host.network_mode.as_deref();
    unless(matches!(network, Some("host" | "bridge")), "NetworkMode", text(&host.network_mode));
    for (name, value) in [
        ("PidMode", &host.pid_mode),
        ("UTSMode", &host.uts_mode),
        ("UsernsMode", &host.userns_mode),
        ("CgroupParent", &host.cgroup_parent),
        ("VolumeDriver", &host.volume_driver),
    ] {
        unless(value.as_deref().is_none_or(str::is_empty), name, text(value));
    }
    for (name, list) in [
        ("Binds", &host.binds),
        ("VolumesFrom", &host.volumes_from),
        ("DeviceCgroupRules", &host.device_cgroup_rules),
        ("GroupAdd", &host.group_add),
    ] {
        let list = list.as_deref().unwrap_or_default();
        unless(list.is_empty(), name, list.join(","));
    }
    let options = host.security_opt.as_deref().unwrap_or_default();
    unless(options.iter().all(|option| option == super::body::NO_NEW_PRIVILEGES), "SecurityOpt", options.join(","));
    never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_gives_more_than_its_own_is_named() {
        let own = || HostConfig {
            ipc_mode: Some("private".into()),
            network_mode: Some("host".into()),
            ..HostConfig::default()
        };
        assert_eq!(never(&own()), [""; 0]);
        let text = |text: &str| Some(text.to_owned());
        let list = |text: &str| Some(vec![text.to_owned()]);
        for (host, name) in [
            (HostConfig { privileged: Some(true), ..own() }, "Privileged"),
            (HostConfig { pid_mode: text("host"), ..own() }, "PidMode"),
            (HostConfig { ipc_mode: text("host"), ..own() }, "IpcMode"),
            (HostConfig { ipc_mode: None, ..own() }, "IpcMode"),
            (HostConfig { uts_mode: text("host"), ..own() }, "UTSMode"),
            (HostConfig { userns_mode: text("host"), ..own() }, "UsernsMode"),
            (HostConfig { network_mode: text("container:other"), ..own() }, "NetworkMode"),
            (HostConfig { binds: list("/:/host"), ..own() }, "Binds"),
            (HostConfig { volumes_from: list("other"), ..own() }, "VolumesFrom"),
            (HostConfig { device_cgroup_rules: list("a *:* rwm"), ..own() }, "DeviceCgroupRules"),
            (HostConfig { security_opt: list("seccomp=unconfined"), ..own() }, "SecurityOpt"),
            (HostConfig { group_add: list("docker"), ..own() }, "GroupAdd"),
        ] {
            let found = never(&host);
            assert!(found.len() == 1 && found[0].starts_with(name), "{name}: {found:?}");
        }
        let careful = HostConfig { security_opt: list(super::super::body::NO_NEW_PRIVILEGES), ..own() };
        assert_eq!(never(&careful), [""; 0]);
    }
}
