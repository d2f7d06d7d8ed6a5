//! One value of everything that crosses the wire, with no field at its default where that can be helped.

use super::task;
use crate::api::agent::NodeInfo;
use crate::api::stream::{LogBatch, LogContent, LogRecord, LogStream};
use crate::domain::command::{Heartbeat, Registration};
use crate::domain::container::{ContainerSpec, JobFiles, Network, PullPolicy, Ulimit};
use crate::domain::event::Event;
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part, Subject, Verdict};
use crate::domain::gpu::condition::GpuCondition;
use crate::domain::gpu::{
    DriverState, Gpu, GpuDriver, GpuHealth, GpuSample, GpuState, Link, LinkKind, MigSlice, Topology,
};
use crate::domain::ids::{Generation, GpuUuid, JobId, Term};
use crate::domain::level::Level;
use crate::domain::remediation::GoingOut;
use crate::domain::task::{AssignedPorts, Inventory, TaskSpec, TaskState, TaskStatus};
use crate::domain::time::Timestamp;
use crate::domain::view::{
    ExplainedDecision, ExplainedReason, ExplainedTask, Explanation, GpuView, JobView, NodeDetail, NodeTask, NodeView,
    RetriesView, RunView, Submitted, TaskView,
};
use std::collections::BTreeMap;

pub(super) fn exit() -> Exit {
    Exit {
        code: None,
        signal: Some(9),
        oom: true,
        class: ExitClass::Hardware,
        reason: "GPU 3 fell off the bus".into(),
        faults: vec![4, 5],
        busy_ports: vec![15_000, 65_535],
        faulty_gpus: vec!["GPU-4".into()],
    }
}

pub(super) fn batches() -> Vec<LogBatch> {
    let output = |stream, bytes: &[u8]| LogContent::Output { stream, bytes: bytes.to_vec() };
    let record = |sequence: u64, content| LogRecord {
        sequence,
        time: Timestamp(1_700_000_000_000_000_000 + sequence as i64),
        content,
        cursor: format!("1.1.0.1:{sequence}.5"),
    };
    let records = vec![
        record(1, output(LogStream::Stdout, b"epoch 1\xff\x00\n")),
        record(2, LogContent::Gap { lost_records: 12, lost_bytes: 3456 }),
        record(15, output(LogStream::Stderr, b"")),
    ];
    vec![LogBatch { records, exit: None }, LogBatch { records: Vec::new(), exit: Some(exit()) }]
}

pub(super) fn spec() -> TaskSpec {
    TaskSpec {
        id: task(7),
        job_name: "train~1".into(),
        user: "alice".into(),
        role_name: "worker".into(),
        image: "registry/pytorch:2".into(),
        command: "python train.py\n--x".into(),
        command_style: crate::domain::spec::CommandStyle::Shell,
        cpus: 8,
        memory_mb: 65536,
        shm_mb: 64,
        gpus: vec!["GPU-1".into(), "MIG-2".into()],
        ports: vec![AssignedPorts { label: "http".into(), ports: vec![15000, 65535] }],
        lease_s: Some(1800),
        debug_hold_s: Some(60),
        files: JobFiles {
            auth_file: "file:///etc/wharf/auth".into(),
            code_dir: "/code".into(),
            data_dir: "hdfs://data".into(),
            output_dir: "/out".into(),
        },
        container: ContainerSpec {
            pull: PullPolicy::Always,
            network: Network::Bridge,
            user: Some("1000:1000".into()),
            read_only_root: true,
            capabilities: vec!["SYS_PTRACE".into()],
            ulimits: vec![Ulimit { name: "memlock".into(), soft: -1, hard: -1 }],
            pids_limit: Some(100),
            infiniband: true,
            numa_cpus: true,
        },
    }
}

pub(super) fn status(index: u64) -> TaskStatus {
    TaskStatus {
        id: task(index),
        generation: Generation(index),
        state: TaskState::Failed,
        started_at: Some(Timestamp(5)),
        ended_at: None,
        exit: Some(exit()),
        holding: true,
        notices: vec!["memory is not limited".into()],
        progress: Some("3 of 7 layers".into()),
        held_until: Some(Timestamp(9)),
    }
}

pub(super) fn inventory() -> Inventory {
    let gpu = |index: u32| Gpu {
        uuid: GpuUuid(format!("GPU-{index}")),
        index,
        minor: index + 1,
        model: "NVIDIA H100".into(),
        gpu_type: "H100".into(),
        memory_mb: 81559,
        pci: "00000000:1B:00.0".into(),
        numa_node: Some(index),
        mig_parent: (index == 1).then(|| "GPU-0".into()),
        ecc: Some(index == 0),
        mig_mode: (index == 0).then_some(true),
        mig: (index == 1).then(mig),
    };
    let kinds = [LinkKind::NvLink { lanes: 18 }, LinkKind::PcieSwitch, LinkKind::NumaNode, LinkKind::System];
    let links = kinds.into_iter().map(|kind| Link { a: "GPU-0".into(), b: "GPU-1".into(), kind }).collect();
    Inventory {
        cpus: 96,
        memory_mb: 1 << 20,
        gpus: vec![gpu(0), gpu(1)],
        topology: Topology { links },
        ports: (15000, 29999),
        labels: BTreeMap::from([("rack".into(), "r7".into()), ("empty".into(), String::new())]),
        runtime: "process".into(),
        gpu_driver: driver(),
        gpu_conditions: vec![GpuCondition {
            gpu: "GPU-1".into(),
            state: GpuState::Lost,
            reason: "fell off the bus".into(),
        }],
        features: vec!["ssh-seed".into()],
    }
}

fn mig() -> MigSlice {
    MigSlice {
        index: 3,
        gpu_instance: 7,
        compute_instance: 1,
        profile: "1g.10gb".into(),
        gpu_instance_minor: Some(66),
        compute_instance_minor: None,
    }
}

fn driver() -> GpuDriver {
    GpuDriver {
        state: DriverState::VersionMismatch,
        driver_version: Some("580.95.05".into()),
        cuda_version: Some("13.0".into()),
        nvml_version: None,
        sentence: Some("reboot this node".into()),
    }
}

pub(super) fn gpu_view() -> GpuView {
    GpuView {
        node: "node-1".into(),
        uuid: "GPU-0".into(),
        index: 3,
        model: "NVIDIA H100".into(),
        memory_mb: 81559,
        memory_used_mb: Some(0),
        utilization: None,
        temperature_c: Some(41),
        power_w: Some(300),
        state: GpuState::Withheld,
        task: Some("7.7.0.1".into()),
        mig_parent: Some("GPU-9".into()),
        faults: vec![1],
        reason: Some("process 7 is on it".into()),
        user: Some("alice".into()),
        job: Some("train".into()),
        since: Some(Timestamp(8)),
        minor: 4,
        pci: "00000000:1B:00.0".into(),
        gpu_type: "H100".into(),
        numa_node: Some(0),
        power_limit_w: Some(700),
        sm_clock_mhz: Some(1980),
        memory_clock_mhz: Some(2619),
        fan_percent: Some(30),
        pstate: Some(0),
        ecc: Some(false),
        ecc_errors: Some(2),
        mig_mode: Some(true),
        mig: Some(mig()),
    }
}

pub(super) fn node_info(name: &str) -> NodeInfo {
    NodeInfo {
        name: name.into(),
        node_uid: "u-1".into(),
        journal_id: "j-1".into(),
        version: "0.1.0".into(),
        inventory: inventory(),
        gpus: vec![gpu_view()],
        term: Term(7),
    }
}

pub(super) fn task_view() -> TaskView {
    TaskView {
        id: "7.7.0.1".into(),
        role: "worker".into(),
        index: 1,
        state: "RUNNING".into(),
        node: Some("node-1".into()),
        ip: None,
        ports: BTreeMap::from([("http".into(), vec![15001]), ("ssh".into(), vec![])]),
        gpus: vec!["GPU-0".into()],
        started_at: Some(Timestamp(7)),
        ended_at: None,
        exit: None,
        notices: vec!["n".into()],
        progress: Some("p".into()),
        held_until: Some(Timestamp(11)),
    }
}

pub(super) fn job_view(tasks: Option<Vec<TaskView>>) -> JobView {
    let run = RunView {
        run_id: 8,
        attempt: 2,
        state: "RUNNING".into(),
        node_count: 1,
        started_at: Some(Timestamp(1)),
        ended_at: None,
        exit: Some(exit()),
    };
    JobView {
        job_id: 7,
        name: "train~1".into(),
        user: "alice".into(),
        state: "RUNNING".into(),
        priority: -5,
        chain_id: "chain".into(),
        run_id: 8,
        submitted_at: Timestamp(1_700_000_000_000_000_001),
        exit: Some(exit()),
        reason: Some(String::new()),
        runs: vec![run],
        tasks,
        tasks_running: 1,
        tasks_total: 2,
        gpus_total: 3,
        retries: RetriesView { user: 1, platform: 2, hardware: 3, asked: 4 },
        next_run_at: Some(Timestamp(13)),
    }
}

pub(super) fn explanation() -> Explanation {
    let reason = ExplainedReason {
        node: Some("node-1".into()),
        reason: "gpus".into(),
        need: "8 H100".into(),
        have: "2 free".into(),
    };
    Explanation {
        job_id: 7,
        name: "train".into(),
        state: "WAITING".into(),
        summary: "waits for GPUs".into(),
        queue_position: Some(1),
        reasons: vec![reason.clone(), ExplainedReason { node: None, ..reason }],
        queue_length: Some(9),
        virtual_cluster: "research".into(),
        behind: Some(3),
        never_possible: true,
        earliest: Some(Timestamp(1_700_000_000_000_000_009)),
        earliest_note: "it backs off".into(),
        nodes_left_out: 4,
        tasks: vec![ExplainedTask {
            id: "7.7.0.1".into(),
            role: "worker".into(),
            index: 1,
            node: "node-1".into(),
            state: "STAGING".into(),
            detail: "pulling".into(),
        }],
        tasks_left_out: 5,
        decisions: vec![ExplainedDecision {
            time: Timestamp(1_700_000_000_000_000_001),
            event: "run.placed".into(),
            task: Some("7.7.0.1".into()),
            node: Some("node-1".into()),
            detail: "run 7 on node-1".into(),
        }],
        decisions_left_out: 6,
    }
}

pub(super) fn node_view() -> NodeView {
    NodeView {
        name: "node-1".into(),
        address: "unix:/run/wharf/a.sock".into(),
        state: "DRAINING".into(),
        reason: Some("by bob".into()),
        gpus_total: 8,
        gpus_free: 1,
        cpus: 96,
        memory_mb: 5,
        labels: BTreeMap::from([("a".into(), "b".into())]),
        version: "0.1.0".into(),
        node_uid: "u-1".into(),
        last_heartbeat: Some(Timestamp(9)),
        gpu_driver: driver(),
        standing: "DRAINING".into(),
        by: Some("bob".into()),
        since: Some(Timestamp(6)),
        deadline: Some(Timestamp(8)),
        tasks_held: 3,
    }
}

pub(super) fn node_detail() -> NodeDetail {
    NodeDetail {
        node: node_view(),
        cpus_free: 90,
        memory_free_mb: 4,
        gpus: vec![gpu_view()],
        tasks: vec![NodeTask {
            id: "7.9.0.1".into(),
            job_id: 7,
            job: "train".into(),
            user: "bob".into(),
            role: "worker".into(),
            index: 1,
            state: "RUNNING".into(),
            gpus: vec!["GPU-1".into()],
            cpus: 6,
            memory_mb: 1,
            started_at: Some(Timestamp(4)),
        }],
    }
}

pub(super) fn event() -> Event {
    Event {
        sequence: 5,
        time: Timestamp(6),
        kind: "job.submitted".into(),
        job: Some(7),
        task: None,
        node: Some("node-1".into()),
        message: "alice submitted 'train'".into(),
    }
}

pub(super) fn submitted() -> Submitted {
    Submitted { job_id: 7, run_id: 7, name: "train".into(), warnings: vec!["no retry".into()] }
}

pub(super) fn registration() -> Registration {
    Registration {
        name: "node-1".into(),
        node_uid: "u-1".into(),
        journal_id: "j-1".into(),
        address: "10.0.0.1:7601".into(),
        task_ip: "10.0.0.1".into(),
        version: "0.1.0".into(),
        inventory: inventory(),
        cluster_id: String::new(),
        term: Term(4),
        level: Level(3),
    }
}

pub(super) fn heartbeat() -> Heartbeat {
    let sample = GpuSample {
        memory_used_mb: Some(1),
        power_w: Some(2),
        ecc_errors: Some(3),
        pstate: Some(8),
        health: GpuHealth::Lost("fell off the bus".into()),
        ..GpuSample::default()
    };
    let faulty = GpuSample { health: GpuHealth::Faulty("an error".into()), ..GpuSample::default() };
    Heartbeat {
        node_uid: "u-1".into(),
        journal_id: "j-1".into(),
        samples: vec![("GPU-0".into(), sample), ("GPU-1".into(), GpuSample::default()), ("GPU-2".into(), faulty)],
        progress: vec![("7.9.0.3".parse().unwrap(), "pulling x: 3 of 7 layers".into())],
        faults_version: 9,
        faults: Some(vec![fault()]),
        going_out: Some(GoingOut { fault: FaultId(1_234_560_001), begun: true }),
    }
}

/// Nothing of it is as it is where it is not known.
pub(super) fn fault() -> Fault {
    Fault {
        id: FaultId(1_234_560_001),
        kind: FaultKind::Xid,
        code: Some(74),
        node: Some("n".into()),
        subject: Subject {
            part: Part::Link,
            gpu: Some("GPU-0".into()),
            pci: Some("0000:9b:00".parse().unwrap()),
            gpu_instance: Some(1),
            compute_instance: Some(2),
            link: Some(3),
            device: Some("nvidia-nvswitch0".into()),
        },
        pid: Some(4),
        process: Some("python".into()),
        verdict: Verdict::Link,
        action: Action::ResetGpu,
        by_driver: true,
        reason: "a link".into(),
        count: 5,
        related: 6,
        first_seen: Some(Timestamp(7)),
        last_seen: Some(Timestamp(8)),
        first_seen_boot_us: Some(9),
        last_seen_boot_us: Some(10),
        state: FaultState::Cleared,
        evidence: vec!["a line".into()],
        task: Some("7.9.0.3".parse().unwrap()),
        job: Some(JobId(7)),
    }
}
