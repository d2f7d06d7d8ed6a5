//! What is wrong with a node rather than with what its GPUs say: GPUs that are missing, a driver that does not fit, ports.

use super::bench::{healthy, held, node};
use crate::harness::{Cluster, until};
use crate::mock::Mock;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

/// As the kernel shows a GPU of the mock that the driver has.
fn put_on_bus(mock: &Mock, number: usize) {
    let at = folder_of(number);
    for (file, text) in [("vendor", "0x10de"), ("device", "0x2330"), ("class", "0x030200")] {
        mock.put(&format!("{at}/{file}"), &format!("{text}\n"));
    }
    mock.put("sys/bus/pci/drivers/nvidia/module", "nvidia\n");
    symlink(mock.root().join("sys/bus/pci/drivers/nvidia"), mock.root().join(at).join("driver")).expect("it is ours");
}

fn folder_of(number: usize) -> String {
    format!("sys/bus/pci/devices/0000:{:02x}:00.0", 0x10 + number)
}

fn put_port(mock: &Mock, device: &str, files: &[(&str, &str)]) {
    for (file, text) in files {
        mock.put(&format!("sys/class/infiniband/{device}/ports/1/{file}"), &format!("{text}\n"));
    }
}

/// The active faults of a node: kind, part, verdict, action.
fn faults(cluster: &Cluster, node: &str) -> Vec<Value> {
    cluster.json(&["faults", "--node", node]).as_array().expect("a list").clone()
}

/// Waits for a fault that is so.
#[track_caller]
fn until_fault(cluster: &Cluster, node: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, || faults(cluster, node).into_iter().find(|fault| is_so(fault)))
}

#[track_caller]
fn assert_judged(fault: &Value, [kind, verdict, action]: [&str; 3], evidence: &str) {
    let judged = [&fault["kind"], &fault["verdict"], &fault["action"]];
    assert_eq!(judged, [&json!(kind), &json!(verdict), &json!(action)], "{fault}");
    assert!(fault["evidence"].to_string().contains(evidence), "no '{evidence}' in {fault}");
}

fn gpu(cluster: &Cluster, uuid: &Value) -> Value {
    let gpus = cluster.json(&["gpus"]);
    gpus.as_array().expect("a list").iter().find(|gpu| gpu["uuid"] == *uuid).cloned().unwrap_or_default()
}

fn state_of(cluster: &Cluster, name: &str) -> Value {
    let nodes = cluster.json(&["nodes"]);
    let node = nodes.as_array().expect("a list").iter().find(|node| node["name"] == name).cloned();
    node.expect("it has joined")["state"].clone()
}

/// It runs, and always has.
#[track_caller]
fn assert_untouched(cluster: &Cluster, id: &str) {
    let shown = cluster.show(id);
    assert_eq!((&shown["tasks"][0]["state"], &shown["runs"][1]), (&json!("RUNNING"), &Value::Null), "{shown}");
}

#[test]
fn gpus_that_are_missing_are_missed_where_they_were() {
    let mut mocks = [healthy(3), healthy(3), healthy(2)];
    mocks[..2].iter().for_each(|mock| (0..3).for_each(|gpu| put_on_bus(mock, gpu)));
    for (number, mock) in mocks.iter_mut().enumerate() {
        // UUIDs are one's own.
        mock.change(|state| {
            for device in state["devices"].as_array_mut().expect("a list") {
                let uuid = device["uuid"].as_str().expect("text").replace("-4000-", &format!("-500{number}-"));
                device["uuid"] = json!(uuid);
            }
        });
    }
    let more = ["", "", "expected_gpus = 3\n"];
    let nodes = mocks.iter().zip(more).enumerate().map(|(at, (mock, more))| node(&format!("n{at}"), mock, more));
    let cluster = Cluster::with(nodes.collect(), "");
    until("every GPU is known", || (cluster.json(&["gpus"]).as_array()?.len() == 8).then_some(()));
    let jobs: Vec<String> = (0..8).map(|number| held(&cluster, &format!("job-{number}"))).collect();
    let with_gpu = |id: String| {
        let gpu = cluster.wait_running(&id)["tasks"][0]["gpus"][0].clone();
        (id, gpu)
    };
    let jobs: Vec<(String, Value)> = jobs.into_iter().map(with_gpu).collect();

    // From the start, and nobody can say which.
    let fewer = until_fault(&cluster, "n2", "fewer than the operator says", |_| true);
    assert_judged(&fewer, ["gpu_count", "unknown", "reboot"], "3 expected, 2 shown by the driver");
    assert_eq!((&fewer["gpu"], state_of(&cluster, "n2")), (&Value::Null, json!("READY")), "{fewer}");

    // The driver shows one no more; on the other node the kernel does not either.
    let gone: Vec<Value> = mocks[..2].iter().map(|mock| mock.state["devices"][1].clone()).collect();
    for mock in &mut mocks[..2] {
        mock.change(|state| drop(state["devices"].as_array_mut().expect("a list").remove(1)));
    }
    std::fs::remove_dir_all(mocks[1].root().join(folder_of(1))).expect("it was there");
    let of = |at: usize| gone[at]["uuid"].clone();
    let what = ["on the PCI bus, and the driver does not show it", "was there, and is not on the PCI bus"];
    for (at, what) in what.into_iter().enumerate() {
        let name = format!("n{at}");
        let missed = |fault: &Value| fault["gpu"] == of(at) && fault["kind"] == "gpu_count";
        let fault = until_fault(&cluster, &name, "a GPU is missed", missed);
        assert_judged(&fault, ["gpu_count", "gpu", "reboot"], what);
        // Whoever listened to it has lost it.
        let lost = until_fault(&cluster, &name, "it is lost", |fault| fault["kind"] == "gpu_lost");
        assert_judged(&lost, ["gpu_lost", "gpu", "reboot"], "");
        let faults = faults(&cluster, &name);
        assert!(faults.iter().all(|fault| fault["gpu"] == of(at)), "the others are there: {faults:?}");
        until("it is lost", || (gpu(&cluster, &of(at))["state"] == "LOST").then_some(()));
        assert_eq!(state_of(&cluster, &name), json!("READY"), "the others can be used");
    }
    // Who had them waits for others; nobody else has noticed.
    let (hit, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, gpu)| (0..2).any(|at| *gpu == of(at)));
    assert_eq!((hit.len(), others.len()), (2, 6));
    for (id, _) in &hit {
        let shown = until("its job waits for another one", || {
            let shown = cluster.show(id);
            (shown["state"] == "WAITING").then_some(shown)
        });
        assert_eq!(shown["runs"][0]["exit"]["class"], "hardware", "{shown}");
    }
    others.iter().for_each(|(id, _)| assert_untouched(&cluster, id));

    // A driver that is open shows no others: they come back as after a boot.
    (0..3).for_each(|at| assert_eq!(cluster.stop_agent(at), 0));
    put_on_bus(&mocks[1], 1);
    for (mock, device) in mocks[..2].iter_mut().zip(&gone) {
        mock.change(|state| state["devices"].as_array_mut().expect("a list").insert(1, device.clone()));
    }
    mocks[2].change(|state| {
        let mut third = state["devices"][1].clone();
        (third["uuid"], third["pci"]) = (json!("GPU-third"), json!("00000000:7F:00.0"));
        state["devices"].as_array_mut().expect("a list").push(third);
    });
    (0..3).for_each(|at| cluster.start_agent(at));
    until("nobody is missed, and what was lost is told to be back", || {
        let faults = cluster.json(&["faults"]);
        let faults = faults.as_array()?;
        let lost = faults.iter().filter(|fault| fault["kind"] == "gpu_lost");
        lost.for_each(|fault| drop(cluster.cli(&["fault", "clear", &fault["id"].to_string()])));
        faults.is_empty().then_some(())
    });
    // Not where they were hit.
    hit.iter().for_each(|(id, gpu)| assert_ne!(cluster.wait_running(id)["tasks"][0]["gpus"][0], *gpu));
    others.iter().for_each(|(id, _)| assert_untouched(&cluster, id));
}

#[test]
fn a_driver_that_does_not_fit_closes_its_node_until_it_does() {
    let mut mock = healthy(2);
    let cluster = Cluster::with(vec![node("n0", &mock, "")], "");
    until("both GPUs are known", || (cluster.json(&["gpus"]).as_array()?.len() == 2).then_some(()));
    let runs = held(&cluster, "runs");
    cluster.wait_running(&runs);
    // An upgrade: who has the old library open goes on, whoever opens it anew cannot.
    mock.change(|state| state["errors"] = json!({ "nvmlInit_v2": "LIB_RM_VERSION_MISMATCH" }));
    for worker in mock.workers() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL)
            .expect("it is ours");
    }
    let fault = until_fault(&cluster, "n0", "the versions differ", |fault| fault["kind"] == "driver_mismatch");
    assert_judged(&fault, ["driver_mismatch", "node", "reboot"], "of different versions");
    until("the node is closed", || (state_of(&cluster, "n0") == "CORDONED").then_some(()));
    let waits = held(&cluster, "waits");
    until("it is known why it waits", || {
        let shown = cluster.show(&waits);
        (shown["state"] == "WAITING" && shown["reason"].is_string()).then_some(())
    });
    assert_untouched(&cluster, &runs);
    mock.mend();
    cluster.wait_running(&waits);
    // That a worker was killed is remembered for longer.
    until("the fault is over", || faults(&cluster, "n0").iter().all(|left| left["id"] != fault["id"]).then_some(()));
    assert_eq!(state_of(&cluster, "n0"), json!("READY"));
    assert_untouched(&cluster, &runs);
}

const ACTIVE: [(&str, &str); 5] = [
    ("state", "4: ACTIVE"),
    ("phys_state", "5: LinkUp"),
    ("rate", "400 Gb/sec (4X NDR)"),
    ("link_layer", "InfiniBand"),
    ("counters/link_downed", "7"),
];

#[test]
fn ports_that_worked_are_missed_and_their_gpus_are_used_on() {
    let mut mock = healthy(2);
    (0..6).chain([7]).for_each(|number| put_port(&mock, &format!("mlx5_{number}"), &ACTIVE));
    put_port(&mock, "mlx5_6", &[("state", "1: DOWN"), ("phys_state", "3: Disabled"), ("counters/link_downed", "0")]);
    // Beside the ports, so that it is known when they were looked at.
    mock.change(|state| state["devices"][1]["remapped_rows"] = json!({ "pending": true }));
    let cluster = Cluster::with(vec![node("n0", &mock, "[checks]\ninfiniband_flaps = 'enforce'\n")], "");
    let first = until_fault(&cluster, "n0", "a round has looked", |fault| fault["kind"] == "row_remap");
    let runs = held(&cluster, "runs");
    cluster.wait_running(&runs);
    put_port(&mock, "mlx5_0", &[("state", "1: DOWN"), ("phys_state", "2: Polling")]);
    put_port(&mock, "mlx5_1", &[("state", "2: INIT")]);
    put_port(&mock, "mlx5_2", &[("rate", "200 Gb/sec (2X NDR)")]);
    put_port(&mock, "mlx5_3", &[("counters/link_downed", "8")]);
    put_port(&mock, "mlx5_4", &[("counters/link_downed", "10")]);
    std::fs::remove_dir_all(mock.root().join("sys/class/infiniband/mlx5_5")).expect("it was there");
    put_port(&mock, "mlx5_7", &[("state", "1: DOWN"), ("phys_state", "3: Disabled"), ("counters/link_downed", "8")]);
    let expected = [
        (0, "link", "inspect", "state Down, physical state Polling"),
        (1, "fabric", "inspect", "state Init"),
        (2, "link", "inspect", "200 Gb/s, was 400 Gb/s"),
        (3, "link", "none", "link_downed: 8 now"),
        (4, "link", "inspect", "3 times or more"),
        (5, "node", "reboot", "does not show the port any more"),
    ];
    for (number, verdict, action, evidence) in expected {
        let device = json!(format!("mlx5_{number}:1"));
        let fault = until_fault(&cluster, "n0", "a port is missed", |fault| fault["device"] == device);
        assert_judged(&fault, ["infiniband", verdict, action], evidence);
        assert_eq!((&fault["gpu"], &fault["task"]), (&Value::Null, &Value::Null), "{fault}");
    }
    assert_eq!(
        faults(&cluster, "n0").len(),
        expected.len() + 1,
        "one that never worked, or was switched off, is not missed"
    );
    assert_eq!(state_of(&cluster, "n0"), json!("READY"));
    assert_untouched(&cluster, &runs);

    // Mended, they have to stay well for minutes; an operator need not wait. A port that came and went has.
    (0..6).for_each(|number| put_port(&mock, &format!("mlx5_{number}"), &ACTIVE));
    until("no fault is left", || {
        let left = faults(&cluster, "n0");
        let ports = left.iter().filter(|fault| fault["id"] != first["id"]);
        ports.for_each(|fault| drop(cluster.cli(&["fault", "clear", &fault["id"].to_string()])));
        let flaps = [3, 4].map(|number| json!(format!("mlx5_{number}:1")));
        left.iter().all(|fault| fault["id"] == first["id"] || flaps.contains(&fault["device"])).then_some(())
    });
    assert_untouched(&cluster, &runs);
}

#[test]
fn what_worked_before_a_restart_of_the_agent_is_missed_after_it() {
    let mut mock = healthy(1);
    (0..2).for_each(|number| put_port(&mock, &format!("mlx5_{number}"), &ACTIVE));
    let cluster = Cluster::with(vec![node("n0", &mock, "")], "");
    let journal = cluster.path("a0").join("journal.db");
    until("what works is kept", || {
        let bytes =
            ["", "-wal"].map(|more| std::fs::read(format!("{}{more}", journal.display())).unwrap_or_default());
        let kept = b"\"mlx5_1:1\":400000";
        bytes.concat().windows(kept.len()).any(|part| part == kept).then_some(())
    });
    assert_eq!(cluster.stop_agent(0), 0);
    put_port(&mock, "mlx5_1", &[("state", "1: DOWN"), ("phys_state", "2: Polling")]);
    let gpu = mock.state["devices"][0]["uuid"].clone();
    mock.change(|state| state["devices"][0]["nvlinks"][1]["down"] = json!(true));
    cluster.start_agent(0);
    let port = until_fault(&cluster, "n0", "the port is missed", |fault| fault["kind"] == "infiniband");
    assert_judged(&port, ["infiniband", "link", "inspect"], "state Down, physical state Polling");
    assert_eq!(port["device"], "mlx5_1:1", "{port}");
    let link = until_fault(&cluster, "n0", "the link is missed", |fault| fault["kind"] == "nvlink");
    assert_judged(&link, ["nvlink", "link", "reset_gpu"], "link 1 to the NVSwitch at 0000:c1:00.0: inactive");
    assert_eq!((&link["gpu"], faults(&cluster, "n0").len()), (&gpu, 2), "{link}");
}
