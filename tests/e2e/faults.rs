//! Hardware faults from the kernel's log to the job: whom they hit, what follows, and what does not.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// A kernel log that only grows, which a node's agent reads.
pub struct KernelLog {
    folder: tempfile::TempDir,
    next: std::cell::Cell<u64>,
}

impl KernelLog {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("kmsg"), "").expect("the folder is ours");
        Self { folder, next: std::cell::Cell::new(0) }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("kmsg")
    }

    pub fn node(&self, name: &str, gpus: &str) -> Node {
        Node { more: format!("kernel_log = {}\n", quoted(self.path())), ..Node::new(name, gpus) }
    }

    /// As the driver would say it now.
    pub fn say(&self, texts: &[String]) {
        let uptime = fs::read_to_string("/proc/uptime").expect("Linux has it");
        let seconds: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).expect("it is a number");
        let at_boot_us = (seconds * 1e6) as u64;
        let mut lines = String::new();
        for text in texts {
            let sequence = self.next.replace(self.next.get() + 1);
            lines.push_str(&format!("3,{sequence},{at_boot_us},-;{text}\n"));
        }
        let mut file = OpenOptions::new().append(true).open(self.path()).expect("it is ours");
        file.write_all(lines.as_bytes()).expect("there is room");
    }
}

/// How the driver names a place.
fn in_log(gpu: &Value) -> String {
    let pci = gpu["pci"].as_str().expect("a GPU has a place");
    pci.strip_prefix("0000").unwrap_or(pci).trim_end_matches(".0").to_lowercase()
}

pub fn xid(gpu: &Value, code: u32, more: &str) -> String {
    format!("NVRM: Xid (PCI:{}): {code}, {more}", in_log(gpu))
}

/// A job of one task with one GPU, which may restart elsewhere.
pub fn held(cluster: &Cluster, name: &str) -> Value {
    let command = format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path(&format!("go-{name}"))));
    job(name, &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))])
}

pub fn gpu_of(cluster: &Cluster, shown: &Value) -> Value {
    let uuid = &shown["tasks"][0]["gpus"][0];
    let gpus = cluster.json(&["gpus"]);
    let found = gpus.as_array().expect("a list").iter().find(|gpu| gpu["uuid"] == *uuid);
    found.cloned().unwrap_or_else(|| panic!("no {uuid} in {gpus}"))
}

pub fn gpu(cluster: &Cluster, uuid: &Value) -> Value {
    let gpus = cluster.json(&["gpus"]);
    gpus.as_array().expect("a list").iter().find(|gpu| gpu["uuid"] == *uuid).cloned().expect("it is known")
}

#[test]
fn a_lost_gpu_ends_its_own_task_alone_and_the_job_goes_on_elsewhere() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:3xH100")], "");
    let (hit, other) = (cluster.submit(&held(&cluster, "hit")), cluster.submit(&held(&cluster, "other")));
    let (before, beside) = (cluster.wait_running(&hit), cluster.wait_running(&other));
    let (lost, kept) = (gpu_of(&cluster, &before), gpu_of(&cluster, &beside));
    log.say(&[xid(&lost, 79, "pid=1234, name=python, GPU has fallen off the bus.")]);

    let again = until("the job runs again", || {
        let shown = cluster.show(&hit);
        let second = shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING";
        second.then_some(shown)
    });
    let first = cluster.json(&["job", "show", &hit, "--run", "-1"]);
    let exit = &first["tasks"][0]["exit"];
    assert_eq!(exit["class"], "hardware", "{first}");
    let faults = until("the controller knows the fault", || {
        let faults = cluster.json(&["faults"]);
        (faults.as_array()?.len() == 1).then_some(faults)
    });
    let fault = &faults[0];
    assert_eq!(exit["faults"], json!([fault["id"]]), "{first} {fault}");
    assert!(exit["reason"].as_str().unwrap_or_default().contains("Xid 79"), "{exit}");
    assert_eq!((&fault["kind"], &fault["code"], &fault["count"]), (&json!("xid"), &json!(79), &json!(1)), "{fault}");
    assert_eq!((&fault["node"], &fault["gpu"]), (&json!("n0"), &lost["uuid"]), "{fault}");
    assert_eq!((&fault["job"], &fault["state"]), (&before["job_id"], &json!("ACTIVE")), "{fault}");
    let task = fault["task"].as_str().expect("a task is named");
    assert!(task.starts_with(&format!("{hit}.{hit}.")), "{fault}");
    assert_eq!((&fault["pid"], &fault["process"]), (&json!(1234), &json!("python")), "{fault}");

    let one = cluster.json(&["fault", "show", &fault["id"].to_string()]);
    assert_eq!((&one["gpu_index"], &one["evidence"]), (&lost["index"], &fault["evidence"]), "{one}");
    let (whom, became) = (&one["hit"], &one["hit"]["exit"]["class"]);
    assert_eq!(
        (&whom["job_name"], &whom["role"], became),
        (&json!("hit"), &json!("main"), &json!("hardware")),
        "{one}"
    );
    assert_eq!((&whom["job_state"], &whom["attempt"]), (&json!("RUNNING"), &json!(2)), "{one}");

    assert_ne!(again["tasks"][0]["gpus"][0], lost["uuid"], "{again}");
    let now = gpu(&cluster, &lost["uuid"]);
    assert_eq!((&now["state"], &now["faults"]), (&json!("FAULTY"), &json!([fault["id"]])), "{now}");
    assert!(now["reason"].as_str().unwrap_or_default().contains("Xid 79"), "{now}");
    let untouched = cluster.show(&other);
    assert_eq!((&untouched["tasks"][0]["state"], &untouched["runs"][1]), (&json!("RUNNING"), &Value::Null));
    assert_eq!(gpu(&cluster, &kept["uuid"])["state"], "HELD");

    // Neither a restart of the agent nor the same records again make it well, or two.
    cluster.stop_agent(0);
    cluster.start_agent(0);
    log.say(&[xid(&lost, 79, "pid=1234, name=python, GPU has fallen off the bus.")]);
    let counted = until("it is counted on", || {
        let faults = cluster.json(&["faults"]);
        (faults[0]["count"] == 2).then_some(faults)
    });
    assert_eq!(counted.as_array().map(Vec::len), Some(1), "{counted}");
    assert_eq!(gpu(&cluster, &lost["uuid"])["state"], "FAULTY");

    let id = fault["id"].as_u64().expect("an integer").to_string();
    let table = cluster.cli(&["faults"]).expect(0).stdout;
    let table = String::from_utf8(table).expect("text");
    assert!(table.contains(&id) && table.lines().all(|line| line.chars().count() <= 100), "{table}");
    assert_eq!(cluster.json(&["fault", "clear", &id])["state"], "CLEARED");
    until("the GPU can be used again", || (gpu(&cluster, &lost["uuid"])["state"] == "FREE").then_some(()));
    until("no fault is active", || cluster.json(&["faults"]).as_array()?.is_empty().then_some(()));
    assert_eq!(cluster.json(&["faults", "--all"])[0]["state"], "CLEARED");
    let events = cluster.cli(&["--json", "events", "--node", "n0"]).expect(0).stdout;
    let events = String::from_utf8(events).expect("text");
    for kind in ["fault.opened", "fault.cleared"] {
        assert_eq!(events.matches(kind).count(), 1, "{events}");
    }
    cluster.cli(&["fault", "clear", "1"]).expect(2);
    for name in ["go-hit", "go-other"] {
        cluster.touch(name);
    }
    assert_eq!(cluster.wait_end(&hit)["state"], "SUCCEEDED");
    assert_eq!(cluster.wait_end(&other)["state"], "SUCCEEDED");
}

#[test]
fn what_programs_do_to_themselves_is_evidence_and_condemns_nothing() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "");
    let command = format!("until [ -e {} ]; do sleep 0.05; done; exit 3", quoted(cluster.path("go")));
    let failing = job("failing", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]);
    let id = cluster.submit(&failing);
    let shown = cluster.wait_running(&id);
    let used = gpu_of(&cluster, &shown);
    let storm: Vec<String> = (0..3000)
        .map(|i| match i % 3 {
            0 => xid(
                &used,
                13,
                "pid=77, name=python, Graphics SM Warp Exception on (GPC 0, TPC 0, SM 0): Out Of Range",
            ),
            1 => xid(&used, 31, "pid=77, name=python, Ch 00000008, intr 00000000. MMU Fault: ENGINE GRAPHICS"),
            _ => xid(&used, 45, "pid=77, name=python, Ch 00000008"),
        })
        .collect();
    log.say(&storm);
    let faults = until("the storm is counted", || {
        let faults = cluster.json(&["faults"]);
        let seen: u64 = faults.as_array()?.iter().filter_map(|fault| fault["count"].as_u64()).sum();
        (seen >= 2000).then_some(faults)
    });
    let faults = faults.as_array().expect("a list");
    assert!(faults.len() <= 3, "{faults:?}");
    assert!(
        faults.iter().all(|fault| fault["task"].as_str().is_some_and(|task| task.starts_with(&id))),
        "{faults:?}"
    );
    assert_eq!(cluster.show(&id)["tasks"][0]["state"], "RUNNING");
    assert!(cluster.json(&["gpus"]).as_array().expect("a list").iter().all(|gpu| gpu["state"] != "FAULTY"));
    cluster.touch("go");
    let end = cluster.wait_end(&id);
    let exit = &end["tasks"][0]["exit"];
    assert_eq!((&exit["class"], &exit["code"]), (&json!("user"), &json!(3)), "{end}");
    assert_eq!(end["runs"].as_array().map(Vec::len), Some(1), "{end}");
    cluster.wait_idle();
}

#[test]
fn a_crash_beside_a_contained_error_is_the_hardwares() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "");
    let (once, go) = (cluster.path("once"), cluster.path("go"));
    // Fails in its first run alone.
    let command =
        format!("if mkdir {}; then until [ -e {} ]; do sleep 0.05; done; exit 1; fi", quoted(once), quoted(go));
    let id = cluster.submit(&job("crash", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]));
    let used = gpu_of(&cluster, &cluster.wait_running(&id));
    log.say(&[xid(&used, 94, "pid=77, name=python, Contained: SM (0x1). RST: No, D-RST: No")]);
    cluster.touch("go");
    let end = cluster.wait_end(&id);
    assert_eq!((&end["state"], &end["runs"][0]["exit"]["class"]), (&json!("SUCCEEDED"), &json!("hardware")), "{end}");
    assert_ne!(gpu(&cluster, &used["uuid"])["state"], "FAULTY");
}

/// Places of simulated GPUs are their node's own: no other agent on this machine takes these for its own.
#[test]
fn the_kernels_own_log_names_a_job_and_tells_when_it_is_over() {
    let say = |line: &str| {
        let log = OpenOptions::new().write(true).open("/dev/kmsg");
        log.map(|mut log| log.write_all(format!("<3>{line}\n").as_bytes()).expect("the kernel takes it"))
    };
    if let Err(error) = OpenOptions::new().write(true).open("/dev/kmsg") {
        return skip("faults through the kernel's own log", &format!("/dev/kmsg: {error}"));
    }
    let node = Node { more: "kernel_log = '/dev/kmsg'\n".to_owned(), ..Node::new("n0", "sim:3xH100") };
    let cluster = Cluster::with(vec![node], "");
    let (hit, other) = (cluster.submit(&held(&cluster, "hit")), cluster.submit(&held(&cluster, "other")));
    let (before, beside) = (cluster.wait_running(&hit), cluster.wait_running(&other));
    let (lost, kept) = (gpu_of(&cluster, &before), gpu_of(&cluster, &beside));
    say(&xid(&lost, 119, "pid=1, name=x, Timeout after 6s of waiting for RPC response from GPU0 GSP!"))
        .expect("it was there");
    let fault = until("the fault is told", || {
        let faults = cluster.json(&["faults"]);
        faults.as_array()?.iter().find(|fault| fault["gpu"] == lost["uuid"]).cloned()
    });
    assert_eq!(
        (&fault["code"], &fault["verdict"], &fault["action"]),
        (&json!(119), &json!("gpu"), &json!("reset_gpu"))
    );
    assert_eq!((&fault["job"], &fault["node"]), (&before["job_id"], &json!("n0")), "{fault}");
    until("the job runs elsewhere", || {
        let shown = cluster.show(&hit);
        let second = shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING";
        (second && shown["tasks"][0]["gpus"][0] != lost["uuid"]).then_some(())
    });
    let first = cluster.json(&["job", "show", &hit, "--run", "-1"]);
    let exit = &first["tasks"][0]["exit"];
    assert_eq!((&exit["class"], &exit["faults"]), (&json!("hardware"), &json!([fault["id"]])), "{first}");
    assert_eq!(gpu(&cluster, &lost["uuid"])["state"], "FAULTY");
    // The driver was asked for a reset, and has had it.
    say(&xid(&lost, 154, "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"))
        .expect("as before");
    // History has it, also where the machine's log is full of others.
    let ended = format!("fault {}, xid 119", fault["id"]);
    until("the fault is over", || {
        let events = cluster.cli(&["--json", "events", "--node", "n0"]).expect(0).json_lines();
        let is_it = |event: &&Value| {
            event["kind"] == "fault.cleared" && event["message"].as_str().is_some_and(|text| text.starts_with(&ended))
        };
        events.iter().find(is_it).map(drop)
    });
    until("the GPU can be used again", || (gpu(&cluster, &lost["uuid"])["state"] == "FREE").then_some(()));
    let untouched = cluster.show(&other);
    assert_eq!((&untouched["tasks"][0]["state"], &untouched["runs"][1]), (&json!("RUNNING"), &Value::Null));
    assert_eq!(gpu(&cluster, &kept["uuid"])["state"], "HELD");
}

#[test]
fn a_chip_is_suspected_when_three_programs_meet_exceptions_at_one_place() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:1xH100")], "");
    for (name, condemned) in [("a", false), ("b", false), ("c", true)] {
        // Three people's: what one user runs counts as one program.
        let id = cluster.submit_with(&held(&cluster, name), &["--user", name]);
        let used = gpu_of(&cluster, &cluster.wait_running(&id));
        let place = "pid=7, name=python, Graphics SM Warp Exception on (GPC 3, TPC 2, SM 0): Illegal Address";
        log.say(&[xid(&used, 13, place)]);
        if condemned {
            until("the chip is suspected", || (gpu(&cluster, &used["uuid"])["state"] == "FAULTY").then_some(()));
            let why = gpu(&cluster, &used["uuid"])["reason"].clone();
            assert!(why.as_str().unwrap_or_default().contains("GPC 3, TPC 2"), "{why}");
            let fault = until("the fault is told", || {
                let faults = cluster.json(&["faults"]);
                faults.as_array()?.iter().find(|fault| fault["verdict"] == "gpu").cloned()
            });
            cluster.cli(&["stop", "--grace", "0", &id]).expect(0);
            let id = fault["id"].as_u64().expect("an integer").to_string();
            cluster.cli(&["fault", "clear", &id]).expect(0);
            until("the GPU can be used again", || (gpu(&cluster, &used["uuid"])["state"] == "FREE").then_some(()));
        } else {
            until("it is counted", || {
                let faults = cluster.json(&["faults"]);
                faults
                    .as_array()?
                    .iter()
                    .any(|fault| fault["task"].as_str().is_some_and(|task| task.starts_with(&id)))
                    .then_some(())
            });
            assert_eq!(gpu(&cluster, &used["uuid"])["state"], "HELD");
            cluster.touch(&format!("go-{name}"));
            assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
        }
    }
}

#[test]
fn a_fault_of_the_whole_node_closes_it_and_what_runs_goes_on() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "");
    let id = cluster.submit(&held(&cluster, "runs"));
    cluster.wait_running(&id);
    log.say(&["nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up".to_owned()]);
    let closed = until("the node is closed", || {
        let node = cluster.json(&["nodes"])[0].clone();
        (node["state"] == "CORDONED").then_some(node)
    });
    assert!(closed["reason"].as_str().unwrap_or_default().contains("sxid 20034"), "{closed}");
    let waits = cluster.submit(&held(&cluster, "waits"));
    until("it is known why it waits", || {
        let shown = cluster.show(&waits);
        (shown["state"] == "WAITING" && shown["reason"].is_string()).then_some(())
    });
    assert_eq!(cluster.show(&id)["tasks"][0]["state"], "RUNNING");
    let fault = cluster.json(&["faults"])[0]["id"].as_u64().expect("an integer").to_string();
    cluster.cli(&["fault", "clear", &fault]).expect(0);
    cluster.wait_running(&waits);
    assert_eq!(cluster.json(&["nodes"])[0]["state"], "READY");
    for (name, id) in [("go-runs", &id), ("go-waits", &waits)] {
        cluster.touch(name);
        assert_eq!(cluster.wait_end(id)["state"], "SUCCEEDED");
    }
}
