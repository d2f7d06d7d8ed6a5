//! The request for a container. Pure.
//!
//! What is in it can be read by everybody who can run `docker inspect`: no environment of the job, no login. The job's
//! environment goes to the shim at launch.

use super::mounts::JobMounts;
use super::{
    LABEL_CLUSTER, LABEL_GENERATION, LABEL_JOB, LABEL_NODE_UID, LABEL_NONCE, LABEL_ROLE, LABEL_TASK, LABEL_USER,
    NodeFacts, ShimMounts, limits,
};
use crate::domain::container::Network;
use crate::domain::task::TaskSpec;
use crate::runtime::docker::images::facts::ImageFacts;
use crate::runtime::docker::injection::Injection;
use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use std::collections::HashMap;
use std::path::Path;

pub(super) const NO_NEW_PRIVILEGES: &str = "no-new-privileges";
const INFINIBAND: &str = "/dev/infiniband";
/// Programs are built and run there by compilers of kernels.
const TMPFS: &str = "rw,exec,nosuid,nodev,mode=1777";

/// What dockerd is asked to create, and what the submitter should know of it.
///
/// Images' volumes become anonymous ones: who removes the container asks for them to go too (`v=true`). Ports are
/// published for TCP only, as by OpenPAI. A shared memory of 0 MB is Docker's default, 64 MB.
pub fn body(
    task: &TaskSpec,
    image: &ImageFacts,
    node: &NodeFacts,
    injection: &Injection,
    shim: &ShimMounts,
    files: &JobMounts,
) -> (ContainerCreateBody, Vec<String>) {
    let mut notices: Vec<String> = files.notices.iter().chain(&injection.notices).cloned().collect();
    let (added, dropped) = limits::capabilities(task, node);
    let mut host = HostConfig {
        mounts: Some(mounts(injection, shim, files)),
        devices: some(devices(task, node, injection, &mut notices)),
        device_requests: some(injection.device_requests.clone()),
        runtime: injection.runtime.clone(),
        cap_add: some(added),
        cap_drop: some(dropped),
        ipc_mode: Some("private".to_owned()),
        readonly_rootfs: Some(task.container.read_only_root),
        // The shim is init.
        init: Some(false),
        privileged: Some(false),
        auto_remove: Some(false),
        // A program of the image's that is root's by its owner would be a way around the node's rule.
        security_opt: node.never_root.then(|| vec![NO_NEW_PRIVILEGES.to_owned()]),
        restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
        oom_score_adj: Some(i64::from(node.oom_score_adj)),
        log_config: Some(log_config()),
        ..HostConfig::default()
    };
    if task.container.read_only_root {
        host.tmpfs = Some(HashMap::from([("/tmp".to_owned(), TMPFS.to_owned())]));
    }
    limits::apply(&mut host, task, node, &mut notices);
    let ports = ports(task);
    let bridged = task.container.network == Network::Bridge;
    host.network_mode = Some(task.container.network.as_str().to_owned());
    if bridged {
        let binding = |port: &u16| PortBinding { host_ip: None, host_port: Some(port.to_string()) };
        let published = ports.iter().map(|port| (format!("{port}/tcp"), Some(vec![binding(port)])));
        host.port_bindings = Some(published.collect());
    }
    let body = ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint: Some(shim.entrypoint.clone()),
        // An entrypoint of ours must not get the image's arguments.
        cmd: Some(Vec::new()),
        env: some(environment(image, injection)),
        user: task.container.user.clone(),
        labels: Some(labels(task, node, shim)),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        exposed_ports: bridged.then(|| ports.iter().map(|port| format!("{port}/tcp")).collect()),
        stop_signal: Some("SIGTERM".to_owned()),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    };
    (body, notices)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn ports(task: &TaskSpec) -> Vec<u16> {
    let mut ports: Vec<u16> = task.ports.iter().flat_map(|assigned| assigned.ports.iter().copied()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Only what decides which GPUs there are.
fn environment(image: &ImageFacts, injection: &Injection) -> Vec<String> {
    let unsaid = injection.default_environment.iter().filter(|(name, _)| image.variable(name).is_none());
    unsaid.chain(&injection.environment).map(|(name, value)| format!("{name}={value}")).collect()
}

fn labels(task: &TaskSpec, node: &NodeFacts, shim: &ShimMounts) -> HashMap<String, String> {
    let generation = Some(shim.generation).filter(|generation| generation.0 > 0);
    let labels = [
        (LABEL_CLUSTER, node.cluster_id.clone()),
        (LABEL_NODE_UID, node.node_uid.clone()),
        (LABEL_TASK, task.id.to_string()),
        (LABEL_GENERATION, generation.map(|generation| generation.to_string()).unwrap_or_default()),
        (LABEL_NONCE, shim.nonce.clone()),
        (LABEL_JOB, task.job_name.clone()),
        (LABEL_USER, task.user.clone()),
        (LABEL_ROLE, task.role_name.clone()),
    ];
    // A label that says nothing is worse than none.
    labels.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The shim says one line there: where the output is.
fn log_config() -> HostConfigLogConfig {
    let options = [("max-size", "64k"), ("max-file", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(options.into()) }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// Mounts and not binds: dockerd makes the source of a bind that is not there.
fn mounts(injection: &Injection, shim: &ShimMounts, files: &JobMounts) -> Vec<Mount> {
    let read_only = shim.binds.iter().chain(&injection.binds).map(|(source, target)| bind(source, target, true));
    let folders =
        files.code.iter().chain(&files.folders).map(|folder| bind(&folder.source, &folder.target, folder.read_only));
    read_only.chain(folders).collect()
}

fn devices(
    task: &TaskSpec,
    node: &NodeFacts,
    injection: &Injection,
    notices: &mut Vec<String>,
) -> Vec<DeviceMapping> {
    // dockerd looks up numbers at the first path and makes a node with them at the second.
    let device = |on_node: String, path: String| DeviceMapping {
        path_on_host: Some(on_node),
        path_in_container: Some(path),
        cgroup_permissions: Some("rwm".to_owned()),
    };
    let root = injection.root.to_string_lossy();
    let of_gpus =
        injection.devices.iter().map(|path| device(format!("{}{path}", root.trim_end_matches('/')), path.clone()));
    let mut devices: Vec<_> = of_gpus.collect();
    match (task.container.infiniband, node.infiniband) {
        (true, true) => devices.push(device(INFINIBAND.to_owned(), INFINIBAND.to_owned())),
        (true, false) => notices.push(format!(
            "extras.wharf.container.infiniband: this node has no {INFINIBAND}: the container gets none"
        )),
        (false, _) => {}
    }
    devices
}
