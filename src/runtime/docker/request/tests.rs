//! Requests, compared whole with files beside, and the folders that jobs name.
//!
//! `WHARF_BLESS=1` writes the files anew.

use super::mounts::{Folder, JobMounts};
use super::*;
use crate::domain::container::{ContainerSpec, JobFiles, Network, Ulimit};
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::domain::policy::Policy;
use crate::domain::spec::CommandStyle;
use crate::domain::task::{AssignedPorts, TaskSpec};
use crate::runtime::docker::beneath::Held;
use crate::runtime::docker::images::facts::ImageFacts;
use crate::runtime::docker::injection::{EngineFacts, GpuInjection, HostDriver, Injection, plan};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

fn task() -> TaskSpec {
    TaskSpec {
        id: TaskId { job: JobId(7), run: RunId(9), role: 0, index: 1 },
        job_name: "mnist".into(),
        user: "ada".into(),
        role_name: "worker".into(),
        image: "python:3.12".into(),
        command: "echo $SECRET_OF_THE_JOB".into(),
        command_style: CommandStyle::Shell,
        cpus: 4,
        memory_mb: 8192,
        shm_mb: 64,
        gpus: Vec::new(),
        ports: vec![
            AssignedPorts { label: "http".into(), ports: vec![15001] },
            AssignedPorts { label: "data".into(), ports: vec![15002, 15003] },
        ],
        lease_s: None,
        debug_hold_s: None,
        files: JobFiles::default(),
        container: ContainerSpec::default(),
    }
}

fn image() -> ImageFacts {
    let env = [("PATH", "/usr/bin:/bin"), ("NVIDIA_VISIBLE_DEVICES", "all")];
    ImageFacts {
        id: "sha256:0123".into(),
        reference: "python:3.12".into(),
        entrypoint: vec!["/entry".into()],
        cmd: vec!["serve".into()],
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        user: "1000:100".into(),
        ..ImageFacts::default()
    }
}

fn node() -> NodeFacts {
    NodeFacts { cluster_id: "c1".into(), node_uid: "n1".into(), pids_limit: Some(32_768), ..NodeFacts::default() }
}

fn shim() -> ShimMounts {
    ShimMounts {
        binds: vec![("/var/lib/wharf/agent/shim/x".into(), "/.wharf/shim".into())],
        entrypoint: vec!["/.wharf/shim".into(), "/.wharf/s".into()],
        generation: Generation(3),
        nonce: "b2a1".into(),
    }
}

fn gpu(index: u32, numa: Option<u32>) -> Gpu {
    Gpu {
        uuid: format!("GPU-{index}").as_str().into(),
        index,
        minor: index,
        model: "NVIDIA H100".into(),
        gpu_type: "H100".into(),
        memory_mb: 80_000,
        pci: String::new(),
        numa_node: numa,
        mig_parent: None,
        ..Gpu::default()
    }
}

fn no_gpus() -> Injection {
    plan(GpuInjection::Auto, &EngineFacts::default(), &HostDriver::default(), &[]).unwrap()
}

/// Keys in order, so that the files can be read and compared by people.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let sorted: BTreeMap<String, Value> =
                members.into_iter().map(|(key, value)| (key, self::sorted(value))).collect();
            Value::Object(sorted.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[track_caller]
fn compare(name: &str, task: &TaskSpec, node: &NodeFacts, injection: &Injection, files: &JobMounts) -> Vec<String> {
    let (body, notices) = body(task, &image(), node, injection, &shim(), files);
    let mut body = serde_json::to_value(body).unwrap();
    // A set.
    if let Some(Value::Array(ports)) = body.get_mut("ExposedPorts") {
        ports.sort_by_key(Value::to_string);
    }
    let text = serde_json::to_string_pretty(&sorted(body)).unwrap() + "\n";
    assert!(!text.contains("SECRET_OF_THE_JOB"), "the command can be read by 'docker inspect'");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/runtime/docker/request/golden/{name}.json"));
    if std::env::var_os("WHARF_BLESS").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, want, "{name} is not as in {}", file.display());
    notices
}

#[test]
fn an_ordinary_task() {
    assert!(compare("ordinary", &task(), &node(), &no_gpus(), &JobMounts::default()).is_empty());
}

#[test]
fn gpus_by_device_nodes_next_to_their_cpus() {
    let mut task = task();
    task.gpus = vec!["GPU-0".into(), "GPU-1".into()];
    task.container.numa_cpus = true;
    task.container.infiniband = true;
    let node = NodeFacts {
        gpus: vec![gpu(0, Some(1)), gpu(1, Some(0))],
        numa_cpus: BTreeMap::from([(0, "0-15".to_owned()), (1, "16-31,48-63".to_owned())]),
        infiniband: true,
        ..node()
    };
    let injection = Injection {
        devices: vec!["/dev/nvidia0".into(), "/dev/nvidiactl".into()],
        binds: vec![("/usr/lib/libcuda.so.550.1".into(), "/usr/lib64/libcuda.so.1".into())],
        ..no_gpus()
    };
    assert!(compare("gpus", &task, &node, &injection, &JobMounts::default()).is_empty());
}

#[test]
fn a_bridged_task_with_a_read_only_root_and_a_user() {
    let mut task = task();
    task.container.network = Network::Bridge;
    task.container.read_only_root = true;
    task.container.user = Some("1000:1000".into());
    task.container.pids_limit = Some(64);
    compare("bridge", &task, &node(), &no_gpus(), &JobMounts::default());
}

#[test]
fn limits_and_capabilities() {
    let mut task = task();
    let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    task.container.ulimits = vec![limit("nofile", 1024, 4096), limit("as", 1 << 30, -1), limit("memlock", 1, 1)];
    task.container.capabilities = vec!["SYS_PTRACE".into(), "MKNOD".into()];
    task.container.infiniband = true;
    task.container.numa_cpus = true;
    task.shm_mb = 0;
    let notices = compare("limits", &task, &node(), &no_gpus(), &JobMounts::default());
    assert!(notices.iter().any(|notice| notice.contains("/dev/infiniband")), "{notices:?}");
    assert!(notices.iter().any(|notice| notice.contains("numaCpus")), "{notices:?}");
    let limits = shim_limits(&task);
    assert_eq!((limits.len(), limits[1].soft, limits[1].hard), (3, 1 << 30, u64::MAX));
}

#[test]
fn code_data_output_and_the_nvidia_runtime() {
    let held = Held::at(Path::new("/")).unwrap();
    let folder = |source: &str, target: &str, read_only| {
        let held = held.clone();
        Folder { source: source.into(), held, target: target.into(), read_only }
    };
    let files = JobMounts {
        code: Some(folder("/srv/code", CODE_TARGET, true)),
        folders: vec![folder("/mnt/real", "/data", true), folder("/out", "/out", false)],
        notices: vec!["told".into()],
        ..JobMounts::default()
    };
    let injection = Injection {
        runtime: Some("nvidia".into()),
        environment: vec![("NVIDIA_VISIBLE_DEVICES".into(), "GPU-1".into())],
        default_environment: vec![("NVIDIA_DRIVER_CAPABILITIES".into(), "compute,utility".into())],
        ..Injection::default()
    };
    assert_eq!(compare("files", &task(), &node(), &injection, &files), ["told"]);
}

fn checked(task: &TaskSpec, node: &NodeFacts, policy: &Policy) -> Result<(), String> {
    let injection = Injection { devices: vec!["/dev/nvidia0".into()], ..no_gpus() };
    let (body, _) = body(task, &image(), node, &injection, &shim(), &JobMounts::default());
    policy.check(&asked(&body, task, &injection)).map_err(|refused| RequestError::Refused(refused).to_string())
}

fn capable(names: &[&str]) -> Policy {
    Policy { capabilities: names.iter().map(|&it| it.into()).collect(), ..Policy::default() }
}

#[test]
fn what_hands_over_the_node_is_refused() {
    let mut task = task();
    task.container.capabilities = vec!["SYS_ADMIN".into(), "SYS_MODULE".into()];
    let said = checked(&task, &node(), &Policy::default()).unwrap_err();
    assert!(said.contains("SYS_ADMIN") && said.contains("agent.toml: policy.capabilities"), "{said}");
    assert!(checked(&task, &node(), &capable(&["SYS_ADMIN"])).unwrap_err().contains("SYS_MODULE"));
    assert_eq!(checked(&task, &node(), &capable(&["SYS_ADMIN", "SYS_MODULE"])), Ok(()));
    for name in
        ["ALL", "DAC_READ_SEARCH", "SYS_RAWIO", "NET_ADMIN", "BPF", "MKNOD", "SYS_RESOURCE", "SYS_PTRACE", "SYS_NICE"]
    {
        task.container.capabilities = vec![name.into()];
        assert!(checked(&task, &node(), &Policy::default()).is_err(), "{name}");
    }
}

#[test]
fn devices_beside_those_of_gpus_and_the_nodes_network_are_the_operators_to_give() {
    let mut task = task();
    let node = NodeFacts { infiniband: true, ..node() };
    assert_eq!(checked(&task, &node, &Policy::default()), Ok(()));
    task.container.infiniband = true;
    assert_eq!(checked(&task, &node, &Policy::default()), Ok(()));
    let none = Policy { devices: Vec::new(), host_network: false, ..Policy::default() };
    let said = checked(&task, &node, &none).unwrap_err();
    assert!(said.contains("policy.devices") && said.contains("policy.host_network"), "{said}");
    task.container.infiniband = false;
    task.container.network = Network::Bridge;
    assert_eq!(checked(&task, &node, &none), Ok(()));
}

#[test]
fn where_nobody_may_be_root_nobody_becomes_it() {
    let options = |never_root| {
        let node = NodeFacts { never_root, ..node() };
        let (body, _) = body(&task(), &image(), &node, &no_gpus(), &shim(), &JobMounts::default());
        let injection = no_gpus();
        assert_eq!(Policy::default().check(&asked(&body, &task(), &injection)), Ok(()));
        body.host_config.unwrap().security_opt
    };
    assert_eq!((options(true), options(false)), (Some(vec!["no-new-privileges".to_owned()]), None));
}

#[test]
fn priority_over_the_nodes_other_processes_is_the_operators_to_give() {
    for name in ["rtprio", "nice"] {
        let mut task = task();
        task.container.ulimits = vec![Ulimit { name: name.into(), soft: 0, hard: 40 }];
        let said = checked(&task, &node(), &Policy::default()).unwrap_err();
        assert!(said.contains(&format!("ulimits.{name}")) && said.contains("policy.capabilities"), "{said}");
        assert_eq!(checked(&task, &node(), &capable(&["SYS_NICE"])), Ok(()));
        task.container.ulimits[0].hard = 0;
        assert_eq!(checked(&task, &node(), &Policy::default()), Ok(()));
    }
}

#[test]
fn the_jobs_limits_are_for_its_command_and_leave_the_shim_what_it_needs() {
    let mut task = task();
    let names = crate::domain::container::ULIMIT_NAMES;
    task.container.ulimits = names.map(|name| Ulimit { name: name.into(), soft: 1, hard: 2 }).to_vec();
    assert_eq!(shim_limits(&task).len(), names.len(), "every name is known");
    let made = |task: &TaskSpec| -> BTreeMap<String, (i64, i64)> {
        let (body, _) = body(task, &image(), &node(), &no_gpus(), &shim(), &JobMounts::default());
        let limits = body.host_config.unwrap().ulimits.unwrap().into_iter();
        limits.map(|it| (it.name.unwrap(), (it.soft.unwrap(), it.hard.unwrap()))).collect()
    };
    let found = made(&task);
    for (name, want) in [("fsize", -1), ("nofile", 1024), ("cpu", -1), ("nproc", -1), ("memlock", 2)] {
        assert_eq!(found[name], (want, want), "{name}");
    }
    assert!(!found.contains_key("as"));
    task.container.ulimits = vec![Ulimit { name: "nofile".into(), soft: 64, hard: 1 << 20 }];
    assert_eq!(made(&task)["nofile"], (1 << 20, 1 << 20));
    task.container.ulimits[0].hard = -1;
    assert_eq!(made(&task)["nofile"], (-1, -1));
}
