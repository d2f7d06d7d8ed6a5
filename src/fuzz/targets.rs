//! The parsers that can be named from here; those inside of `rpc`, `controller` and `agent` have lists of their own.

use super::Target;
use crate::config::{AgentConfig, ControllerConfig};
use crate::domain::command::Violation;
use crate::domain::exit::Exit;
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::pci::PciAddress;
use crate::domain::policy::{ImagePattern, MountRule, UserIds};
use crate::domain::quantity::MAX_JOB_FILE_BYTES;
use crate::domain::ssh::SshSeed;
use crate::domain::time::Timestamp;
use crate::health::Scan;
use crate::health::kernel_log::{Parser, Record};
use crate::health::table::Table;
use crate::jobfile::{self, MAX_REPORTED};
use crate::logs::cursor::Cursor;
use crate::logs::lines::LineSplitter;
use crate::logs::reader::{LogReader, Start};
use crate::runtime::docker::credentials::Credentials;
use crate::runtime::docker::images::reference::Reference;
use crate::shim::check::{Check, CheckKind};
use crate::shim::exit::{ExitRecord, Why};
use crate::shim::frame::{Frame, FrameBuffer, MAX_FRAME_BYTES};
use crate::shim::protocol::{AgentFrame, Phase, ShimFrame, Slot};
use crate::shim::record::{self, Encoder, Kind, Stamp};
use crate::shim::spec::{Command, ResourceLimit, ShimSpec};
use std::fmt::Debug;
use std::path::Path;

/// Longest line of a kernel's log that is looked at, and what a message over a channel of ours may hold.
const LINE_BYTES: usize = 16 * 1024;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "job files", seeds: job_files, parse: job_file, most_bytes: MAX_JOB_FILE_BYTES },
    Target { name: "job files as strict JSON", seeds: job_files, parse: strict, most_bytes: MAX_JOB_FILE_BYTES },
    Target { name: "records of /dev/kmsg", seeds: kernel_records, parse: kernel_record, most_bytes: LINE_BYTES },
    Target { name: "lines of a kernel log", seeds: kernel_lines, parse: kernel_line, most_bytes: LINE_BYTES },
    Target { name: "whole kernel logs", seeds: kernel_logs, parse: kernel_log, most_bytes: 8 * LINE_BYTES },
    Target { name: "tables of Xids", seeds: tables, parse: table, most_bytes: LINE_BYTES },
    Target { name: "agent.toml", seeds: agent_configs, parse: agent_config, most_bytes: 4 * LINE_BYTES },
    Target {
        name: "controller.toml",
        seeds: controller_configs,
        parse: controller_config,
        most_bytes: 4 * LINE_BYTES,
    },
    Target {
        name: "shim channel, from the shim",
        seeds: shim_frames,
        parse: shim_frame,
        most_bytes: 2 * MAX_FRAME_BYTES,
    },
    Target {
        name: "shim channel, from the agent",
        seeds: agent_frames,
        parse: agent_frame,
        most_bytes: 2 * MAX_FRAME_BYTES,
    },
    Target { name: "shim specifications", seeds: specs, parse: spec, most_bytes: 4 * LINE_BYTES },
    Target { name: "shim commands", seeds: commands, parse: command, most_bytes: 4 * LINE_BYTES },
    Target { name: "exit records", seeds: exits, parse: exit, most_bytes: LINE_BYTES },
    Target { name: "log records", seeds: segments, parse: log_records, most_bytes: 4 * LINE_BYTES },
    Target { name: "logs of a task", seeds: segments, parse: log, most_bytes: 4 * LINE_BYTES },
    Target { name: "lines of output", seeds: kernel_logs, parse: output_lines, most_bytes: 4 * LINE_BYTES },
    Target { name: "words: ids, times, addresses, images, rules", seeds: words, parse: word, most_bytes: LINE_BYTES },
    Target { name: "files with registry passwords", seeds: auth_files, parse: auth_file, most_bytes: LINE_BYTES },
];

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The files of a folder below `tests/data`.
fn data(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder is ours").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("the file is ours")).collect()
}

/// A refusal says which field, and what is wrong with it.
#[track_caller]
fn check_violations(violations: &[Violation]) {
    assert!(!violations.is_empty(), "a refusal without a reason");
    for violation in violations {
        assert!(!violation.field.is_empty() && !violation.message.is_empty(), "{violation:?}");
        assert!(violation.found.len() <= 4096, "what was found is shown whole: {} bytes", violation.found.len());
    }
}

fn job_files() -> Vec<Vec<u8>> {
    let with_everything = r#"{"jobName": "all", "image": "a/b:1", "virtualCluster": "default", "gpuType": "P100", "retryCount": 2,
        "jobEnvs": {"A": "b", "PAI_X": "1"}, "authFile": "/a", "codeDir": "$PAI_DEFAULT_FS_URI/c", "killAllOnCompletedTaskNumber": 1,
        "extras": {"wharf": {"container": {"ulimits": {"memlock": -1, "nofile": [1024, 4096]}, "pidsLimit": 4096, "user": "1000:1000",
        "network": "bridge", "capabilities": ["IPC_LOCK"]}, "debugHold": 60, "on_node_lost": "restart", "lease_s": 400}},
        "taskRoles": [{"name": "r", "taskNumber": 2, "cpuNumber": 1, "memoryMB": 100, "shmMB": 64, "gpuNumber": 1, "command": "c",
        "minFailedTaskCount": 1, "minSucceededTaskCount": null, "portList": [{"label": "p", "beginAt": 0, "portNumber": 2}]}]}"#;
    // Of formats that are told apart before they are read.
    let others =
        ["#!/bin/sh\n#SBATCH -N 1\ntrue\n", "version: 2\nname: x\nspec:\n  workspace: /w\n", with_everything];
    data("pai-jobs").into_iter().chain(texts(&others)).collect()
}

fn job_file(bytes: &[u8]) {
    for name in ["job.json", "", "job.yaml\u{7}"] {
        match jobfile::parse(name, bytes) {
            Ok(parsed) => {
                let mut spec = parsed.spec;
                jobfile::substitute(&mut spec, "alice", "hdfs://10.0.0.1:9000/");
                assert!(!spec.name.is_empty() && !spec.roles.is_empty(), "{spec:?}");
            }
            Err(violations) => {
                check_violations(&violations);
                assert!(violations.len() <= MAX_REPORTED + 1, "{} mistakes are told", violations.len());
            }
        }
    }
}

fn strict(bytes: &[u8]) {
    let Some(strict) = jobfile::strict_json(bytes) else { return };
    let value: serde_json::Value = match serde_json::from_slice(&strict) {
        Ok(value) => value,
        // Numbers beyond any, which are JSON all the same.
        Err(error) if error.to_string().contains("number out of range") => return,
        Err(error) => panic!("what is called strict JSON is none: {error}"),
    };
    drop(value);
    // The same job, as far as it is one.
    if let (Ok(before), Ok(after)) = (jobfile::parse("", bytes), jobfile::parse("", &strict)) {
        assert_eq!(before.spec, after.spec);
    }
}

fn kernel_logs() -> Vec<Vec<u8>> {
    data("kernel-log")
}

fn kernel_lines() -> Vec<Vec<u8>> {
    kernel_logs()
        .iter()
        .flat_map(|log| log.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect()
}

fn kernel_records() -> Vec<Vec<u8>> {
    let record = |(number, line): (usize, Vec<u8>)| {
        [format!("3,{number},77,-;").as_bytes(), &line, b"\n SUBSYSTEM=pci\n"].concat()
    };
    kernel_lines().into_iter().enumerate().map(record).collect()
}

fn kernel_record(bytes: &[u8]) {
    let Some(record) = crate::kernel_log::Record::parse(bytes) else { return };
    assert!(record.text.len() <= 3 * bytes.len() && record.priority < 8);
    let priority = u8::try_from(record.facility).unwrap_or(u8::MAX);
    drop(Parser::default().parse(&Record::kmsg(record.sequence, record.at_boot_us, priority, &record.text)));
}

fn kernel_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let seen = Parser::default().parse(&Record::from_line(&text));
    assert!(seen.len() <= 1 + text.len() / 8, "{} events in {} bytes", seen.len(), text.len());
}

fn kernel_log(bytes: &[u8]) {
    let mut scan = Scan::new(Table::builtin().clone());
    String::from_utf8_lossy(bytes).lines().for_each(|line| scan.line(line));
    assert!(scan.understood <= scan.lines.saturating_mul(1000));
    scan.faults().for_each(|fault| assert!(fault.evidence.len() < 1000 && fault.reason.len() < 100_000));
}

fn tables() -> Vec<Vec<u8>> {
    texts(&[
        "[xid]\n109 = { action = \"none\" }\n63 = { name = \"x\", verdict = \"gpu\", means = \"y\", cancels = [1, 2] }\n[sxid]\n20001 = { action = \"inspect\" }\n",
    ])
}

fn table(bytes: &[u8]) {
    if let Err(error) = Table::builtin().overridden(&String::from_utf8_lossy(bytes)) {
        assert!(!error.to_string().is_empty());
    }
}

fn agent_configs() -> Vec<Vec<u8>> {
    texts(&[
        "data_dir = '/d'\nrun_dir = '/r'\nname = 'n1'\ncontroller = ['127.0.0.1:7600', '[::1]:7600']\nlisten = 'unix:/a.sock'\n\
        gpus = 'sim:8xH100'\nruntime = 'process'\ncpus = 4\nmemory_mb = 8000\nports = '15000-29999'\nkernel_log = ''\ntask_ip = '127.0.0.1'\n\
        labels = { gpu_type = 'H100' }\n[policy]\nmounts = ['/srv:ro']\nusers = ['1000-2000']\ndevices = []\n[policy.per_user]\ngpus = 4\n",
    ])
}

fn agent_config(bytes: &[u8]) {
    config::<AgentConfig>(bytes);
}

fn controller_configs() -> Vec<Vec<u8>> {
    texts(&[
        "data_dir = '/d'\nlisten = ['127.0.0.1:7600', 'unix:/c.sock']\nheartbeat_ms = 250\nnode_timeout_ms = 10000\nkeep_ended_jobs = 10\n\
        event_retention = 1000\n[etcd]\nendpoints = ['http://127.0.0.1:2379']\nprefix = '/wharf/'\nlease_s = 6\n",
    ])
}

fn controller_config(bytes: &[u8]) {
    config::<ControllerConfig>(bytes);
}

fn config<T: crate::config::Settings>(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = crate::config::parse::<T>("file.toml", &text) {
        assert!(!error.problems.is_empty(), "a refusal without a reason");
        let lines = text.split('\n').count();
        for problem in &error.problems {
            assert!(!problem.violation.field.is_empty() && !problem.violation.message.is_empty(), "{problem:?}");
            assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem:?} of {lines} lines");
        }
    }
}

fn check() -> Check {
    Check { kind: CheckKind::DeviceNode, subject: "/dev/nvidia0".into(), errno: 2, message: "no".into() }
}

fn exit_record() -> ExitRecord {
    ExitRecord {
        code: Some(3),
        leftover_pids: vec![7, 8],
        ..ExitRecord::without_status(Why::OwnEnd, 1_700_000_000_000_000_000)
    }
}

fn encoded<F: Frame>(frames: &[F]) -> Vec<Vec<u8>> {
    let each: Vec<Vec<u8>> = frames.iter().map(|frame| frame.encode().expect("it is short")).collect();
    let all = each.concat();
    each.into_iter().chain([all]).collect()
}

fn shim_frames() -> Vec<Vec<u8>> {
    let running = Phase::Running { child_pid: 9, started_realtime_ns: 1, started_boottime_ns: 2 };
    encoded(&[
        ShimFrame::Hello { version: 1, pid: 7, started_boottime_ns: 5, phase: Phase::NeedSpec },
        ShimFrame::Hello { version: 1, pid: 7, started_boottime_ns: 5, phase: running },
        ShimFrame::Ready { checks: vec![check(), check()] },
        ShimFrame::Started {
            child_pid: 9,
            started_realtime_ns: 1,
            started_boottime_ns: 2,
            alternative: 1,
            program: "/bin/sh".into(),
        },
        ShimFrame::Ended { exit: exit_record() },
    ])
}

fn agent_frames() -> Vec<Vec<u8>> {
    encoded(&[
        AgentFrame::Spec { descriptors: vec![Slot::Spec, Slot::Segment, Slot::CgroupFolder] },
        AgentFrame::Go,
        AgentFrame::Stop { grace_ms: 5000 },
        AgentFrame::Signal { number: 15 },
        AgentFrame::Renew { until_boottime_ns: 1 << 40 },
        AgentFrame::Bye,
    ])
}

fn shim_frame(bytes: &[u8]) {
    frames::<ShimFrame>(bytes);
}

fn agent_frame(bytes: &[u8]) {
    frames::<AgentFrame>(bytes);
}

/// As it comes from a socket: in pieces, until a frame is wrong.
fn frames<F: Frame + Debug + PartialEq>(bytes: &[u8]) {
    let mut buffer = FrameBuffer::default();
    for piece in bytes.chunks(40_009) {
        buffer.push(piece);
        loop {
            match buffer.next_frame::<F>() {
                Ok(None) => break,
                Ok(Some(frame)) => again(&frame),
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            }
        }
    }
}

/// What was understood is understood again, whatever later versions had added to it.
fn again<F: Frame + Debug + PartialEq>(frame: &F) {
    let mut buffer = FrameBuffer::default();
    buffer.push(&frame.encode().expect("it came in a frame"));
    assert_eq!(buffer.next_frame::<F>().expect("it is ours").as_ref(), Some(frame));
}

fn specs() -> Vec<Vec<u8>> {
    let spec = ShimSpec {
        uid: Some(1000),
        gid: Some(1000),
        groups: Some(vec![4, 5]),
        umask: Some(0o22),
        limits: vec![ResourceLimit { resource: 7, soft: 1, hard: 2 }],
        oom_score_adj: Some(500),
        lease_s: Some(300),
        segment_bytes: 1 << 20,
        checks: vec![(CheckKind::DeviceNode, "/dev/nvidia0".into())],
        banner: Some("the output is elsewhere".into()),
        debug_hold_s: Some(60),
        ..ShimSpec::default()
    };
    vec![spec.encode(), ShimSpec::default().encode()]
}

fn spec(bytes: &[u8]) {
    if let Ok(spec) = ShimSpec::decode(bytes) {
        assert_eq!(ShimSpec::decode(&spec.encode()).as_ref(), Ok(&spec));
    }
}

fn commands() -> Vec<Vec<u8>> {
    let shell = |shell: &str| vec![shell.into(), b"-c".to_vec(), b"echo \xff".to_vec()];
    let env = vec![(b"A".to_vec(), b"b\0c".to_vec()), (Vec::new(), Vec::new())];
    vec![
        Command { alternatives: vec![shell("/bin/bash"), shell("/bin/sh")], env, cwd: Some(b"/w".to_vec()) }.encode(),
    ]
}

fn command(bytes: &[u8]) {
    if let Ok(command) = Command::decode(bytes) {
        assert_eq!(Command::decode(&command.encode()).as_ref(), Ok(&command));
    }
}

fn exits() -> Vec<Vec<u8>> {
    vec![exit_record().encode_file()]
}

/// With a checksum that is right, too: a task that runs as its agent could write one.
fn exit(bytes: &[u8]) {
    let decoded = |bytes: &[u8]| {
        if let Ok(Some(record)) = ExitRecord::decode_file(bytes) {
            assert_eq!(ExitRecord::decode_file(&record.encode_file()), Ok(Some(record)));
        }
    };
    decoded(bytes);
    let magic = exits()[0][..8].to_vec();
    let fields = &bytes[bytes.len().min(12)..bytes.len().min(1024)];
    let length = u32::try_from(fields.len()).expect("it is short").to_le_bytes();
    for magic_bytes in 4..=8 {
        let mut file = [&magic[..magic_bytes], &length, fields].concat();
        let crc = crate::shim::crc::crc32c(&file).to_le_bytes();
        file.extend_from_slice(&crc);
        decoded(&file);
    }
}

const SALT: u64 = 0xabcd_ef01_2345;

fn segments() -> Vec<Vec<u8>> {
    let stamp =
        |number: i64| Stamp { realtime_ns: 1_700_000_000_000_000_000 + number, boottime_ns: number.unsigned_abs() };
    let (mut encoder, mut all) = (Encoder::new(), Vec::new());
    for number in 0..2 {
        let mut segment = Vec::new();
        encoder.begin_segment(SALT, &mut segment);
        encoder.output(Kind::Stdout, stamp(number), b"epoch 1\nepoch 2\n", &mut segment);
        encoder.gap(stamp(number + 1), 3, 4000, &mut segment);
        encoder.output(Kind::Stderr, stamp(number + 2), b"warning \xff\n", &mut segment);
        all.push(segment);
    }
    all
}

fn log_records(bytes: &[u8]) {
    let salt = record::decode_segment_header(bytes).map_or(SALT, |header| header.salt);
    let mut at = 0;
    while at < bytes.len() {
        match record::decode_record(&bytes[at..], salt) {
            record::Decoded::Complete { header, .. } | record::Decoded::CorruptBody { header } => {
                at += header.total_bytes()
            }
            record::Decoded::NeedMore | record::Decoded::CorruptHeader => {
                match record::find_record(bytes, at + 1, salt) {
                    Some(next) => {
                        assert!(next > at, "it goes back");
                        at = next;
                    }
                    None => return,
                }
            }
        }
    }
}

/// The files of a task's log folder, which the task itself may have written: read from the start, from a time, the last
/// lines of it.
fn log(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for (name, content) in [("log.0", bytes), ("log.1", rest), ("exit", first)] {
        std::fs::write(folder.path().join(name), content).expect("the folder is ours");
    }
    let task: TaskId = "7.8.0.1".parse().expect("it is one");
    let since = Some(Timestamp(1_700_000_000_000_000_000));
    for start in [
        Start::default(),
        Start { since, ..Start::default() },
        Start { tail: Some(2), until_now: true, ..Start::default() },
    ] {
        let Ok(mut reader) = LogReader::open(folder.path(), task, start) else { continue };
        // Each batch brings something or says that there is no more.
        for _ in 0..=bytes.len() {
            match reader.read_batch(4096) {
                Ok(batch) if batch.end_of_data => break,
                Ok(_) => {}
                Err(_) => break,
            }
        }
        let ended = reader.read_batch(4096).map_or(true, |batch| batch.end_of_data);
        assert!(ended, "a log of {} bytes has no end", bytes.len());
        let _ = reader.finish();
    }
}

fn output_lines(bytes: &[u8]) {
    let mut splitter = LineSplitter::new();
    let mut told = 0;
    for piece in bytes.chunks(977) {
        told += splitter.push(piece).iter().map(|line| line.bytes.len()).sum::<usize>();
    }
    told += splitter.flush().map_or(0, |line| line.bytes.len());
    assert!(told <= bytes.len(), "{told} bytes of {}", bytes.len());
}

fn words() -> Vec<Vec<u8>> {
    texts(&[
        "7.8.0.1",
        "7.8.0.1:12.3456",
        "2026-11-22T12:00:00.123456789+01:00",
        "00000000:9b:00.0",
        "registry.local:5000/team/image:1.2@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "*/torch:*",
        "/mnt/datasets:ro",
        "1000-59999",
        &"0f".repeat(64),
        "127.0.0.1:7600",
        "unix:/run/wharf/a.sock",
        "sim:8xH100",
        "15000-29999",
    ])
}

fn word(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    if let Ok(task) = text.parse::<TaskId>() {
        assert_eq!(task.to_string().parse(), Ok(task));
        let _ = Cursor::parse(text, task);
    }
    let _ = Cursor::parse(text, "7.8.0.1".parse().expect("it is one"));
    if let Ok(pci) = text.parse::<PciAddress>() {
        assert_eq!(pci.to_string().parse::<PciAddress>().ok(), Some(pci));
    }
    if let Some(time) = Timestamp::parse_rfc3339(text) {
        // Milliseconds are what is shown.
        let shown = time.to_rfc3339();
        assert_eq!(Timestamp::parse_rfc3339(&shown).map(Timestamp::to_rfc3339), Some(shown));
    }
    if let Ok(reference) = Reference::parse(text) {
        let _ = (reference.repository(), reference.whole(), reference.version().to_owned());
    }
    if let Some(pattern) = ImagePattern::parse(text) {
        let _ = pattern.fits("docker.io/library/python:3.12");
    }
    let _ = (MountRule::parse(text), UserIds::parse([text]), SshSeed::parse(text));
    let _ = (text.parse::<crate::config::listen::Endpoint>(), text.parse::<crate::config::choice::GpuChoice>());
    let _ = text.parse::<crate::config::choice::PortRange>();
    let _: Result<Exit, _> = serde_json::from_str::<Exit>(text);
    let _ = GpuUuid::from(text);
}

fn auth_files() -> Vec<Vec<u8>> {
    texts(&["registry.local\nalice\nsecret\n", "docker.io\nbob\n a b \n"])
}

fn auth_file(bytes: &[u8]) {
    if let Err(why) = Credentials::parse(bytes) {
        assert!(!why.is_empty());
    }
}
