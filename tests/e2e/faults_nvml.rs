//! Hardware faults that the driver's library tells, from the mock of it to the job: what it says unasked, and what its
//! devices say of themselves.

use crate::faults::{KernelLog, gpu, gpu_of, held, xid};
use crate::harness::job::quoted;
use crate::harness::{Cluster, Node, until};
use crate::mock::{Mock, library};
use serde_json::{Value, json};

/// A node over the mock that looks at its hardware all the time.
fn node(mock: &Mock, more: &str) -> Node {
    let library = quoted(library());
    let more =
        format!("nvml_library = {library}\nhealth_interval_s = 1\nhost_root = {}\n{more}", quoted(mock.root()));
    let env = vec![("WHARF_MOCK_NVML".to_owned(), mock.file().display().to_string())];
    Node { more, env, ..Node::new("n0", "nvml") }
}

fn with_log(log: &KernelLog) -> String {
    format!("kernel_log = {}\n", quoted(log.path()))
}

/// Told to whoever listens by then; what is there when somebody begins to listen is no news.
fn happen(mock: &mut Mock, event: &Value) {
    mock.change(|state| match &mut state["events"] {
        Value::Array(events) => events.push(event.clone()),
        none => *none = json!([event]),
    });
}

fn until_states(cluster: &Cluster, what: &str, wanted: impl Fn(usize) -> &'static str) -> Value {
    until(what, || {
        let gpus = cluster.json(&["gpus"]);
        let list = gpus.as_array().filter(|list| list.len() == 8)?;
        list.iter().enumerate().all(|(index, gpu)| gpu["state"] == wanted(index)).then_some(gpus.clone())
    })
}

fn kinds(cluster: &Cluster) -> Vec<(Value, String)> {
    let faults = cluster.json(&["faults"]);
    let kind = |fault: &Value| (fault["gpu"].clone(), fault["kind"].as_str().unwrap_or_default().to_owned());
    faults.as_array().expect("a list").iter().map(kind).collect()
}

/// The first fault with this Xid.
fn of_code(cluster: &Cluster, code: u32) -> Option<Value> {
    let faults = cluster.json(&["faults"]);
    faults.as_array()?.iter().find(|fault| fault["code"] == code).cloned()
}

#[test]
fn an_xid_that_both_sources_tell_is_one_fault() {
    let (log, mut mock) = (KernelLog::new(), Mock::new("8xH100.json"));
    let cluster = Cluster::with(vec![node(&mock, &with_log(&log))], "");
    until_states(&cluster, "all are free", |_| "FREE");
    let hit = cluster.submit(&held(&cluster, "hit"));
    let before = cluster.wait_running(&hit);
    let lost = gpu_of(&cluster, &before);
    let index = lost["index"].as_u64().expect("it has one");
    // What is told before somebody listens is no news: a program's own error first, until it is heard.
    until("the GPU is listened to", || {
        happen(&mut mock, &json!({"device": index, "type": 8, "data": 43}));
        of_code(&cluster, 43)
    });
    log.say(&[xid(&lost, 79, "pid=1234, name=python, GPU has fallen off the bus.")]);
    happen(&mut mock, &json!({"device": index, "type": 8, "data": 79}));
    let fault = until("both have told it", || {
        let fault = of_code(&cluster, 79)?;
        let evidence = fault["evidence"].to_string();
        (evidence.contains("NVRM: Xid") && evidence.contains("NVML event")).then_some(fault)
    });
    assert_eq!((&fault["count"], &fault["gpu"]), (&json!(1), &lost["uuid"]), "{fault}");
    let faults = cluster.json(&["faults", "--all"]);
    let same = faults.as_array().expect("a list").iter().filter(|fault| fault["code"] == 79).count();
    assert_eq!(same, 1, "{faults}");
    assert_eq!((&fault["job"], &fault["pid"]), (&before["job_id"], &json!(1234)), "{fault}");
    let first = until("its run has ended", || {
        let shown = cluster.json(&["job", "show", &hit, "--run", "-1"]);
        (shown["tasks"][0]["exit"]["class"] == "hardware").then_some(shown)
    });
    let named = first["tasks"][0]["exit"]["faults"].as_array().cloned().unwrap_or_default();
    assert!(named.contains(&fault["id"]), "{first}");
    assert_eq!(gpu(&cluster, &lost["uuid"])["state"], "FAULTY");
    cluster.touch("go-hit");
    assert_eq!(cluster.wait_end(&hit)["state"], "SUCCEEDED");
}

#[test]
fn the_drivers_library_alone_suffices_and_a_reset_while_the_agent_is_away_is_seen() {
    let mut mock = Mock::new("8xH100.json");
    mock.change(|state| state["devices"][2]["pcie"]["replays"] = json!(9));
    let cluster = Cluster::with(vec![node(&mock, "")], "");
    let gpus = until_states(&cluster, "all are free", |_| "FREE");
    let uuid = &gpus[2]["uuid"];
    let faulty = |index| if index == 2 { "FAULTY" } else { "FREE" };
    until("the fault is told", || {
        happen(&mut mock, &json!({"device": 2, "type": 8, "data": 119}));
        (!cluster.json(&["faults"]).as_array()?.is_empty()).then_some(())
    });
    until_states(&cluster, "it is out of use", faulty);
    let faults = cluster.json(&["faults"]);
    assert_eq!(
        (&faults[0]["code"], &faults[0]["gpu"], &faults[0]["action"]),
        (&json!(119), uuid, &json!("reset_gpu"))
    );
    cluster.stop_agent(0);
    cluster.start_agent(0);
    cluster.wait_ready();
    // What is kept by now is of after the last event.
    mock.change(|state| state["devices"][2]["pcie"]["replays"] = json!(10));
    let (journal, kept) = (cluster.path("a0").join("journal.db"), b"\"PCIe replays\":10");
    until("what a reset forgets is kept", || {
        let bytes =
            ["", "-wal"].map(|more| std::fs::read(format!("{}{more}", journal.display())).unwrap_or_default());
        bytes.concat().windows(kept.len()).any(|part| part == kept).then_some(())
    });
    until_states(&cluster, "a restart resets nothing", faulty);
    cluster.stop_agent(0);
    mock.change(|state| state["devices"][2]["pcie"]["replays"] = json!(0));
    cluster.start_agent(0);
    until_states(&cluster, "the reset is seen", |_| "FREE");
    // The list comes with the next heartbeat.
    until("it is told", || (cluster.json(&["faults", "--all"])[0]["state"] == "CLEARED").then_some(()));
}

#[test]
fn what_devices_say_of_themselves_is_found_named_and_over_once_it_is_mended() {
    let mut mock = Mock::new("8xH100.json");
    let cluster = Cluster::with(vec![node(&mock, "")], "");
    let gpus = until_states(&cluster, "all are free", |_| "FREE");
    mock.change(|state| {
        let devices = &mut state["devices"];
        devices[1]["remapped_rows"] = json!({"uncorrected": 1, "pending": true});
        devices[3]["fields"]["230"] = json!(1);
        devices[5]["sram_ecc"] = json!({"aggregate_parity": 9, "threshold_exceeded": true});
        devices[6]["fields"]["226"] = json!(1);
    });
    let sick = |index: usize| if [1, 3, 5, 6].contains(&index) { "FAULTY" } else { "FREE" };
    until_states(&cluster, "the sick ones are out of use, and no others", sick);
    let found = until("the faults are told", || Some(kinds(&cluster)).filter(|found| found.len() >= 4));
    for (index, kind) in [(1, "row_remap"), (3, "recovery_action"), (5, "sram_ecc"), (6, "reset_required")] {
        assert!(found.contains(&(gpus[index]["uuid"].clone(), kind.to_owned())), "no {kind} in {found:?}");
    }
    assert_eq!(found.len(), 4, "{found:?}");
    mock.change(|state| {
        let devices = &mut state["devices"];
        devices[1]["remapped_rows"] = json!({"uncorrected": 1, "pending": false});
        devices[3]["fields"]["230"] = json!(0);
        devices[6]["fields"]["226"] = json!(0);
    });
    // The board over its threshold is to be replaced: nothing else ends that but an operator.
    until_states(&cluster, "what is mended is used again", |index| if index == 5 { "FAULTY" } else { "FREE" });
    mock.change(|state| state["devices"][5]["sram_ecc"] = json!({"aggregate_parity": 9}));
    // A round that began before has it once more.
    until("all are used again", || {
        for fault in cluster.json(&["faults"]).as_array()? {
            cluster.cli(&["fault", "clear", &fault["id"].to_string()]);
        }
        cluster.json(&["gpus"]).as_array()?.iter().all(|gpu| gpu["state"] == "FREE").then_some(())
    });
}

#[test]
fn a_check_that_only_observes_takes_nothing_out_of_use_and_one_that_is_off_finds_nothing() {
    let mut mock = Mock::new("8xH100.json");
    let modes = "[checks]\nrow_remap = 'observe'\nrecovery_action = 'off'\n";
    mock.change(|state| {
        state["devices"][1]["remapped_rows"] = json!({"uncorrected": 1, "pending": true});
        state["devices"][3]["fields"]["230"] = json!(1);
    });
    let cluster = Cluster::with(vec![node(&mock, modes)], "");
    let found = until("it is observed", || Some(kinds(&cluster)).filter(|found| !found.is_empty()));
    assert_eq!(found.iter().map(|(_, kind)| kind.as_str()).collect::<Vec<_>>(), ["row_remap"]);
    let reason = cluster.json(&["faults"])[0]["reason"].clone();
    assert!(reason.as_str().unwrap_or_default().contains("enforced"), "{reason}");
    until_states(&cluster, "all are free", |_| "FREE");
}

#[test]
fn a_gpu_that_hangs_is_a_fault_and_the_others_are_looked_at_all_the_same() {
    let mut mock = Mock::new("8xH100.json");
    let cluster = Cluster::with(vec![node(&mock, "")], "");
    let gpus = until_states(&cluster, "all are free", |_| "FREE");
    mock.change(|state| {
        state["devices"][2]["hangs"] = json!(["*"]);
        state["devices"][7]["remapped_rows"] = json!({"uncorrected": 1, "pending": true});
    });
    until("both are found", || {
        let found = kinds(&cluster);
        let has = |index: usize, kind: &str| found.contains(&(gpus[index]["uuid"].clone(), kind.to_owned()));
        (has(2, "gpu_worker") && has(7, "row_remap")).then_some(())
    });
    let others = cluster.json(&["gpus"]);
    let states = others.as_array().expect("a list").iter().map(|gpu| gpu["state"].as_str().unwrap_or_default());
    assert!([0, 1, 3, 4, 5, 6].iter().all(|index| states.clone().nth(*index) == Some("FREE")), "{others}");
    mock.mend();
}

#[test]
fn a_table_that_is_wrong_keeps_the_agent_from_starting_and_a_right_one_counts() {
    let (log, mock) = (KernelLog::new(), Mock::new("8xH100.json"));
    let table = mock.root().join("xid.toml");
    let more = format!("{}xid_table = {}\n", with_log(&log), quoted(&table));
    std::fs::write(&table, "[xid]\n79 = { action = \"none\" }\n").expect("the folder is ours");
    let cluster = Cluster::with(vec![node(&mock, &more)], "");
    let gpus = until_states(&cluster, "all are free", |_| "FREE");
    log.say(&[xid(&gpus[0], 79, "pid=1234, name=python, GPU has fallen off the bus.")]);
    let faults = until("the fault is told", || {
        let faults = cluster.json(&["faults"]);
        (!faults.as_array()?.is_empty()).then_some(faults)
    });
    assert_eq!((&faults[0]["action"], &cluster.json(&["gpus"])[0]["state"]), (&json!("none"), &json!("FREE")));
    cluster.stop_agent(0);
    std::fs::write(&table, "[xid]\n79 = { action = \"pray\" }\n").expect("the folder is ours");
    cluster.start_agent(0);
    assert_ne!(cluster.wait_agent_ended(0), 0);
    let said = cluster.log_of("agent0");
    for part in ["xid.toml", "line 2", "xid.79.action", "\"pray\"", "reset_gpu"] {
        assert!(said.contains(part), "no {part} in {said}");
    }
}

#[test]
fn a_port_that_goes_down_is_named_and_takes_no_gpu_out_of_use() {
    let mut mock = Mock::new("8xH100.json");
    let put = |mock: &Mock, file: &str, text: &str| {
        mock.put(&format!("sys/class/infiniband/mlx5_0/ports/1/{file}"), &format!("{text}\n"));
    };
    for (file, text) in [("state", "4: ACTIVE"), ("phys_state", "5: LinkUp"), ("link_layer", "InfiniBand")] {
        put(&mock, file, text);
    }
    mock.change(|state| state["devices"][0]["remapped_rows"] = json!({"pending": true}));
    let cluster = Cluster::with(vec![node(&mock, "[checks]\nrow_remap = 'observe'\n")], "");
    until("a round has seen everything", || (!kinds(&cluster).is_empty()).then_some(()));
    put(&mock, "state", "1: DOWN");
    put(&mock, "phys_state", "2: Polling");
    let fault = until("the port is missed", || {
        let faults = cluster.json(&["faults"]);
        faults.as_array()?.iter().find(|fault| fault["kind"] == "infiniband").cloned()
    });
    assert_eq!((&fault["device"], &fault["verdict"]), (&json!("mlx5_0:1"), &json!("link")), "{fault}");
    until_states(&cluster, "all are free", |_| "FREE");
    assert_eq!(cluster.json(&["nodes"])[0]["state"], "READY");
}
