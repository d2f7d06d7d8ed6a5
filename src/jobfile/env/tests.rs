//! Every variable by its exact value, and the whole environment of one task against a file.

use super::{EnvContext, MAX_ENVIRONMENT_BYTES, SeatError, SharedEnvironment, TaskSeat};
use super::{environment_bytes_at_most, task_environment};
use crate::domain::ids::{JobId, RunId};
use crate::domain::spec::JobSpec;
use crate::domain::task::AssignedPorts;
use crate::jobfile::{parse, substitute};
use std::collections::{BTreeMap, BTreeSet};

const JOB: &str = r#"{
    "jobName": "tf-job", "image": "tf", "virtualCluster": "vc1", "dataDir": "$PAI_DEFAULT_FS_URI/$PAI_USER_NAME/data",
    "codeDir": "/code", "taskRoles": [
        {"name": "ps_server", "taskNumber": 2, "cpuNumber": 2, "memoryMB": 8192, "gpuNumber": 0, "command": "ps",
         "minFailedTaskCount": null},
        {"name": "worker", "taskNumber": 2, "cpuNumber": 4, "memoryMB": 16384, "shmMB": 640, "gpuNumber": 2, "command": "w",
         "minSucceededTaskCount": 2, "portList": [{"label": "jupyter", "beginAt": 0, "portNumber": 1},
                                                  {"label": "nccl", "beginAt": 29000, "portNumber": 2}]}],
    "jobEnvs": {"MODEL": "a $HOME \"b\""}
}"#;

fn spec() -> JobSpec {
    let mut spec = parse("job.json", JOB.as_bytes()).expect("valid").spec;
    substitute(&mut spec, "alice", "hdfs://10.0.0.1:9000");
    spec
}

fn seat(role: u32, index: u32, ip: &str, ports: &[(&str, &[u16])], gpus: &[&str]) -> TaskSeat {
    let ports =
        ports.iter().map(|(label, ports)| AssignedPorts { label: (*label).to_owned(), ports: ports.to_vec() });
    let gpus = gpus.iter().map(|uuid| (*uuid).into()).collect();
    TaskSeat { role, index, ip: ip.to_owned(), ports: ports.collect(), gpus }
}

/// Two nodes, one task of each role on each; not in order, since nothing says they are.
fn seats() -> Vec<TaskSeat> {
    let worker = |base: u16| {
        [("nccl", vec![29000, 29001]), ("jupyter", vec![base]), ("http", vec![base + 1]), ("ssh", vec![base + 2])]
    };
    let worker = |index, ip, base, gpus: &[&str]| {
        let ports = worker(base);
        let ports: Vec<(&str, &[u16])> = ports.iter().map(|(label, ports)| (*label, ports.as_slice())).collect();
        seat(1, index, ip, &ports, gpus)
    };
    vec![
        worker(1, "10.0.0.6", 21000, &["GPU-c", "GPU-d"]),
        seat(0, 0, "10.0.0.5", &[("http", &[15000]), ("ssh", &[15001])], &[]),
        worker(0, "10.0.0.5", 20000, &["GPU-a", "GPU-b"]),
        seat(0, 1, "10.0.0.6", &[("http", &[16000]), ("ssh", &[16001])], &[]),
    ]
}

fn context<'a>(spec: &'a JobSpec, seats: &'a [TaskSeat]) -> EnvContext<'a> {
    EnvContext {
        spec,
        user: "alice",
        default_fs_uri: "hdfs://10.0.0.1:9000",
        job: JobId(7),
        run: RunId(9),
        seats,
        in_container: true,
    }
}

fn environment(role: u32, index: u32) -> Vec<(String, String)> {
    let (spec, seats) = (spec(), seats());
    task_environment(&context(&spec, &seats), role, index).expect("everyone has a seat")
}

/// Every name of OpenPAI's tables 1.1 and 1.2 and of ours, as worker 1 sees it.
const WORKER_1: &[(&str, &str)] = &[
    // The documented ones.
    ("PAI_JOB_NAME", "tf-job"),
    ("PAI_USER_NAME", "alice"),
    ("PAI_DEFAULT_FS_URI", "hdfs://10.0.0.1:9000"),
    ("PAI_TASK_ROLE_COUNT", "2"),
    ("PAI_TASK_ROLE_LIST", "ps_server,worker"),
    ("PAI_TASK_ROLE_TASK_COUNT_ps_server", "2"),
    ("PAI_TASK_ROLE_TASK_COUNT_worker", "2"),
    ("PAI_HOST_IP_ps_server_0", "10.0.0.5"),
    ("PAI_HOST_IP_ps_server_1", "10.0.0.6"),
    ("PAI_HOST_IP_worker_0", "10.0.0.5"),
    ("PAI_HOST_IP_worker_1", "10.0.0.6"),
    ("PAI_PORT_LIST_ps_server_0_http", "15000"),
    ("PAI_PORT_LIST_ps_server_0_ssh", "15001"),
    ("PAI_PORT_LIST_ps_server_1_http", "16000"),
    ("PAI_PORT_LIST_ps_server_1_ssh", "16001"),
    ("PAI_PORT_LIST_worker_0_nccl", "29000,29001"),
    ("PAI_PORT_LIST_worker_0_jupyter", "20000"),
    ("PAI_PORT_LIST_worker_0_http", "20001"),
    ("PAI_PORT_LIST_worker_0_ssh", "20002"),
    ("PAI_PORT_LIST_worker_1_nccl", "29000,29001"),
    ("PAI_PORT_LIST_worker_1_jupyter", "21000"),
    ("PAI_PORT_LIST_worker_1_http", "21001"),
    ("PAI_PORT_LIST_worker_1_ssh", "21002"),
    ("PAI_RESOURCE_ps_server", "0,2,8192,64"),
    ("PAI_RESOURCE_worker", "2,4,16384,640"),
    ("PAI_MIN_FAILED_TASK_COUNT_ps_server", ""),
    ("PAI_MIN_FAILED_TASK_COUNT_worker", "1"),
    ("PAI_MIN_SUCCEEDED_TASK_COUNT_ps_server", ""),
    ("PAI_MIN_SUCCEEDED_TASK_COUNT_worker", "2"),
    ("PAI_CURRENT_TASK_ROLE_NAME", "worker"),
    ("PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX", "1"),
    // Set by the code.
    ("PAI_CONTAINER_HOST_IP", "10.0.0.6"),
    ("PAI_CURRENT_CONTAINER_IP", "10.0.0.6"),
    ("PAI_CONTAINER_HOST_PORT_LIST", "nccl:29000,29001;jupyter:21000;http:21001;ssh:21002;"),
    ("PAI_CONTAINER_HOST_nccl_PORT_LIST", "29000,29001"),
    ("PAI_CONTAINER_HOST_jupyter_PORT_LIST", "21000"),
    ("PAI_CONTAINER_HOST_http_PORT_LIST", "21001"),
    ("PAI_CONTAINER_HOST_ssh_PORT_LIST", "21002"),
    ("PAI_CONTAINER_HOST_PORT", "21001"),
    ("PAI_CURRENT_CONTAINER_PORT", "21001"),
    ("PAI_CONTAINER_SSH_PORT", "21002"),
    ("PAI_ps_server_0_http_PORT", "15000"),
    ("PAI_ps_server_0_ssh_PORT", "15001"),
    ("PAI_ps_server_1_http_PORT", "16000"),
    ("PAI_ps_server_1_ssh_PORT", "16001"),
    ("PAI_worker_0_nccl_PORT", "29000,29001"),
    ("PAI_worker_0_jupyter_PORT", "20000"),
    ("PAI_worker_0_http_PORT", "20001"),
    ("PAI_worker_0_ssh_PORT", "20002"),
    ("PAI_worker_1_nccl_PORT", "29000,29001"),
    ("PAI_worker_1_jupyter_PORT", "21000"),
    ("PAI_worker_1_http_PORT", "21001"),
    ("PAI_worker_1_ssh_PORT", "21002"),
    ("PAI_TASK_ROLE_ps_server_HOST_LIST", "10.0.0.5:15000,10.0.0.6:16000"),
    ("PAI_TASK_ROLE_worker_HOST_LIST", "10.0.0.5:20001,10.0.0.6:21001"),
    ("PAI_CONTAINER_ID", "container_7_9_1_1"),
    ("PAI_DATA_DIR", "hdfs://10.0.0.1:9000/alice/data"),
    ("PAI_OUTPUT_DIR", "hdfs://10.0.0.1:9000/Output/tf-job"),
    ("PAI_CODE_DIR", "/code"),
    ("PAI_CURRENT_TASK_ROLE_TASK_COUNT", "2"),
    ("PAI_CURRENT_TASK_ROLE_CPU_COUNT", "4"),
    ("PAI_CURRENT_TASK_ROLE_MEM_MB", "16384"),
    ("PAI_CURRENT_TASK_ROLE_SHM_MB", "640"),
    ("PAI_CURRENT_TASK_ROLE_GPU_COUNT", "2"),
    ("PAI_CURRENT_TASK_ROLE_MIN_FAILED_TASK_COUNT", "1"),
    ("PAI_CURRENT_TASK_ROLE_MIN_SUCCEEDED_TASK_COUNT", "2"),
    ("PAI_JOB_TASK_COUNT", "4"),
    ("PAI_TASKS_NUM", "4"),
    ("PAI_JOB_TASK_ROLE_COUNT", "2"),
    ("PAI_TASK_ROLES_NUM", "2"),
    ("PAI_JOB_TASK_ROLE_LIST", "ps_server,worker"),
    ("PAI_TASK_ROLE_NAME", "worker"),
    ("PAI_TASK_ROLE_NUM", "2"),
    ("PAI_TASK_ROLE_INDEX", "1"),
    ("PAI_TASK_ROLE_NO", "1"),
    ("PAI_TASK_INDEX", "1"),
    ("PAI_TASK_CPU_NUM", "4"),
    ("PAI_TASK_MEM_MB", "16384"),
    ("PAI_TASK_GPU_NUM", "2"),
    ("PAI_RESOURCE", "2,4,16384,640"),
    ("APP_ID", "application_7_9"),
    ("FRAMEWORK_NAME", "alice~tf-job"),
    ("HADOOP_USER_NAME", "alice"),
    ("NVIDIA_VISIBLE_DEVICES", "GPU-c,GPU-d"),
    ("PAI_JOB_VC_NAME", "vc1"),
    // Of OpenPAI on Kubernetes.
    ("PAI_FRAMEWORK_NAME", "alice~tf-job"),
    ("PAI_VIRTUAL_CLUSTER", "vc1"),
    ("PAI_TASK_ROLE_INSTANCES", "ps_server:0,ps_server:1,worker:0,worker:1"),
    // Ours, and the job's own.
    ("CUDA_VISIBLE_DEVICES", "0,1"),
    ("WHARF_TASK_ID", "7.9.1.1"),
    ("WHARF_JOB_ID", "7"),
    ("WHARF_RUN_ID", "9"),
    ("MODEL", "a $HOME \"b\""),
    ("PAI_USERNAME", "alice"),
];

#[test]
fn every_variable_has_its_exact_value() {
    let environment: BTreeMap<String, String> = environment(1, 1).into_iter().collect();
    for (name, value) in WORKER_1 {
        assert_eq!(environment.get(*name).map(String::as_str), Some(*value), "{name}");
    }
    let named: BTreeSet<&str> = WORKER_1.iter().map(|(name, _)| *name).collect();
    let others: Vec<&String> = environment.keys().filter(|name| !named.contains(name.as_str())).collect();
    assert!(others.is_empty(), "not in the table: {others:?}");
}

#[test]
fn two_roles_on_two_nodes_as_a_whole() {
    let lines: String = environment(0, 1).iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    let golden = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/env_two_roles.txt"));
    assert_eq!(lines, golden, "this is now:\n{lines}");
}

#[test]
fn a_task_without_gpus_sees_none() {
    let environment: BTreeMap<String, String> = environment(0, 0).into_iter().collect();
    assert_eq!(environment["NVIDIA_VISIBLE_DEVICES"], "void");
    assert_eq!(environment["CUDA_VISIBLE_DEVICES"], "");
    assert_eq!(environment["PAI_TASK_ROLE_NO"], "0");
    assert_eq!(environment["PAI_CURRENT_TASK_ROLE_MIN_FAILED_TASK_COUNT"], "");
}

#[test]
fn cuda_gets_uuids_in_processes_and_for_slices() {
    let (spec, mut seats) = (spec(), seats());
    let cuda = |seats: &[TaskSeat], in_container| {
        let ctx = EnvContext { in_container, ..context(&spec, seats) };
        let environment = task_environment(&ctx, 1, 1).expect("seated");
        environment.into_iter().find(|(name, _)| name == "CUDA_VISIBLE_DEVICES").map(|(_, value)| value)
    };
    assert_eq!(cuda(&seats, true).as_deref(), Some("0,1"));
    assert_eq!(cuda(&seats, false).as_deref(), Some("GPU-c,GPU-d"));
    seats[0].gpus[0] = "MIG-x".into();
    assert_eq!(cuda(&seats, true).as_deref(), Some("MIG-x,GPU-d"));
}

#[test]
fn the_jobs_variables_come_last_and_replace_ours() {
    let (mut spec, seats) = (spec(), seats());
    for name in ["PAI_JOB_NAME", "PAI_TASK_INDEX"] {
        spec.env.push((name.to_owned(), "mine".to_owned()));
    }
    let environment = task_environment(&context(&spec, &seats), 1, 0).expect("seated");
    let names: BTreeSet<&String> = environment.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), environment.len(), "no name twice");
    let last = &environment[environment.len() - 3..];
    let last: Vec<(&str, &str)> = last.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(last, [("MODEL", "a $HOME \"b\""), ("PAI_JOB_NAME", "mine"), ("PAI_TASK_INDEX", "mine")]);
}

#[test]
fn names_that_spell_other_variables_do_not_double_them() {
    let mut spec = spec();
    // PAI_PORT_LIST_a_0_0_x, once as task 0's label 0_x and once as role a_0's label x.
    spec.roles.truncate(2);
    for (role, name, label) in [(0, "a", "0_x"), (1, "a_0", "x")] {
        let role = &mut spec.roles[role];
        (role.name, role.count, role.gpus) = (name.to_owned(), 1, 0);
        role.ports = vec![crate::domain::spec::PortSpec { label: label.to_owned(), begin_at: 0, count: 1 }];
    }
    let seats = [
        seat(0, 0, "10.0.0.5", &[("0_x", &[1]), ("http", &[2]), ("ssh", &[3])], &[]),
        seat(1, 0, "::1", &[("x", &[4]), ("http", &[5]), ("ssh", &[6])], &[]),
    ];
    let environment = task_environment(&context(&spec, &seats), 1, 0).expect("seated");
    let find = |wanted: &str| -> Vec<&str> {
        environment.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect()
    };
    assert_eq!(find("PAI_PORT_LIST_a_0_0_x"), ["1"]);
    assert_eq!(find("PAI_TASK_ROLE_a_0_HOST_LIST"), ["[::1]:5"]);
    assert_eq!(find("PAI_HOST_IP_a_0_0"), ["::1"]);
}

#[test]
fn seats_must_fit_the_job() {
    let (spec, good) = (spec(), seats());
    let error = |seats: &[TaskSeat]| SharedEnvironment::new(&context(&spec, seats)).err();
    assert_eq!(error(&good), None);
    assert_eq!(error(&good[1..]), Some(SeatError::Missing { role: 1, index: 1 }));
    assert_eq!(error(&[good.clone(), good[..1].to_vec()].concat()), Some(SeatError::Twice { role: 1, index: 1 }));
    let mut seats = good.clone();
    seats[0].index = 2;
    assert_eq!(error(&seats), Some(SeatError::Unknown { role: 1, index: 2 }));
    let mut seats = good.clone();
    seats[0].ports.pop();
    let ports = SeatError::Ports { role: 1, index: 1, label: "ssh".to_owned(), want: 1, have: 0 };
    assert_eq!(error(&seats), Some(ports));
    let mut seats = good.clone();
    seats[0].gpus.pop();
    assert_eq!(error(&seats), Some(SeatError::Gpus { role: 1, index: 1, want: 2, have: 1 }));
    let ctx = context(&spec, &good);
    let shared = SharedEnvironment::new(&ctx).expect("seated");
    assert_eq!(shared.for_task(5, 0), Err(SeatError::Missing { role: 5, index: 0 }));
}

#[test]
fn a_gang_shares_and_stays_startable() {
    let mut spec = spec();
    spec.roles.truncate(1);
    spec.roles[0].count = 10_000;
    let seats: Vec<TaskSeat> = (0..10_000)
        .map(|index| seat(0, index, "192.168.100.100", &[("http", &[29998]), ("ssh", &[29999])], &[]))
        .collect();
    let ctx = context(&spec, &seats);
    let shared = SharedEnvironment::new(&ctx).expect("seated");
    assert_eq!(shared.omitted(), ["PAI_TASK_ROLE_INSTANCES", "PAI_TASK_ROLE_ps_server_HOST_LIST"]);
    let environment = shared.for_task(0, 9_999).expect("seated");
    assert!(environment.iter().all(|(name, value)| name.len() + value.len() + 2 <= 128 * 1024));
    let own = task_environment(&ctx, 0, 9_999).expect("seated");
    assert_eq!(environment, own);
    assert!(bytes_of(&environment) <= environment_bytes_at_most(&spec));
    assert!(environment_bytes_at_most(&spec) <= MAX_ENVIRONMENT_BYTES, "{}", environment_bytes_at_most(&spec));
}

fn bytes_of(environment: &[(String, String)]) -> u64 {
    environment.iter().map(|(name, value)| (name.len() + value.len() + 2) as u64).sum()
}

#[test]
fn the_size_is_bounded_beforehand() {
    let (mut spec, mut seats) = (spec(), seats());
    for role in &mut spec.roles {
        role.name = role.name.repeat(25);
        role.ports.iter_mut().for_each(|port| port.label = port.label.repeat(30));
    }
    for seat in &mut seats {
        seat.ip = "2001:0db8:0000:0000:0000:0000:0000:0001".to_owned();
        let implicit = |label: &str| label == "http" || label == "ssh";
        seat.ports
            .iter_mut()
            .filter(|port| !implicit(&port.label))
            .for_each(|port| port.label = port.label.repeat(30));
    }
    for (role, index) in [(0, 0), (1, 1)] {
        let environment = task_environment(&context(&spec, &seats), role, index).expect("seated");
        assert!(bytes_of(&environment) <= environment_bytes_at_most(&spec));
    }
}
