//! `wharf faults scan` and `wharf xid`: kernel logs and codes, without a cluster.

use crate::harness::cluster::wharf;
use crate::harness::{Output, Running, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;

const SAMPLES: &str = include_str!("../data/kernel-log/samples.log");

fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut running = Running::start(wharf(arguments));
    running.feed(input);
    running.finish()
}

fn faults(log: &str) -> Vec<Value> {
    run(&["--json", "faults", "scan", "-"], log.as_bytes()).expect(0).json_lines()
}

fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
    let path = folder.path().join(name);
    std::fs::write(&path, content).expect("it is ours");
    (folder, path)
}

/// Some of a fault's fields.
fn some(fault: &Value, names: &[&str]) -> Value {
    names.iter().map(|name| fault[name].clone()).collect()
}

#[test]
fn a_log_becomes_faults_with_every_field_of_the_contract() {
    let found = faults(concat!(
        "[Sun Feb 23 16:24:18 2025] NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d\n",
        "[Sun Feb 23 16:24:18 2025] NVRM: Xid (PCI:0000:9b:00): 119, pid=77, name=nvidia-smi, Timeout after 6s of waiting\n",
        "[Sun Feb 23 16:24:30 2025] NVRM: Xid (PCI:0000:9b:00): 119, pid=78, name=nvidia-smi, Timeout after 6s of waiting\n",
        "[Sun Feb 23 16:24:36 2025] NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).\n",
        "[Sun Feb 23 16:24:37 2025] NVRM: Xid (PCI:0000:9b:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)\n",
        "[Sun Feb 23 16:25:00 2025] NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a b, Graphics Exception\n",
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    let names =
        "id kind code node gpu pci pid process verdict action count first_seen last_seen state evidence task job";
    for name in names.split(' ') {
        assert!(found.iter().all(|fault| fault.get(name).is_some()), "no {name}: {found:#?}");
    }
    let basics =
        ["id", "kind", "code", "pci", "pid", "process", "verdict", "action", "count", "state", "node", "task"];
    assert_eq!(
        some(&found[0], &basics),
        json!([1, "xid", 119, "0000:9b:00.0", 77, "nvidia-smi", "gpu", "reset_gpu", 2, "ACTIVE", null, null])
    );
    assert_eq!(found[0]["gpu"], "GPU-509665ad-b600-ac93-3616-d754b23d636d");
    assert!(
        found[0]["first_seen"].as_str().is_some_and(|time| time.starts_with("2025-02-23T16:24:18")),
        "{found:#?}"
    );
    assert!(found[0]["last_seen"].as_str().is_some_and(|time| time.starts_with("2025-02-23T16:24:37")), "{found:#?}");
    assert_eq!(found[0]["evidence"].as_array().map(Vec::len), Some(4));
    let slice = ["code", "pid", "process", "verdict", "action", "gpu_instance", "compute_instance"];
    assert_eq!(some(&found[1], &slice), json!([13, 9, "a b", "application", "restart_app", 1, 2]));
}

#[test]
fn every_form_of_a_log_says_the_same() {
    let text = "NVRM: Xid (PCI:0000:52:00): 48, An uncorrectable double bit error (DBE) at physAddr 0x18f31d80";
    for form in [
        format!("{text}\n"),
        format!("[  12.5] {text}\r\n"),
        format!("<4>[   12.500000] {text}\n"),
        format!("4,9,12500000,-;{text}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:52:00.0\n"),
        format!("kern  :warn  : 2025-01-21T04:41:44,283302+00:00 {text}"),
        format!("May 19 07:08:57 gpu-01 kernel: [680111.646286] {text}\n"),
        format!("2025-01-21T04:41:44+0000 gpu-01 kernel: {text}\n"),
    ] {
        let found = faults(&form);
        let expected = json!(["xid", 48, "0000:52:00.0", "gpu", "reset_gpu", 1]);
        assert_eq!(found.len(), 1, "{form}");
        assert_eq!(some(&found[0], &["kind", "code", "pci", "verdict", "action", "count"]), expected, "{form}");
        assert_eq!(found[0]["evidence"], json!([text]), "{form}");
        assert_eq!(found[0]["node"] == json!("gpu-01"), form.contains("gpu-01"), "{form}");
    }
}

#[test]
fn every_xid_of_real_logs_is_in_a_table_that_fits() {
    let (_folder, path) = file("kern.log", SAMPLES);
    let path = path.to_str().expect("it is UTF-8");
    let text = run(&["faults", "scan", path], b"").expect(0).text();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for wanted in [
        "Xid 119",
        "SXid 20034",
        "0000:9b:00 ",
        "02-23 16:24:18",
        "reset_gpu",
        "application",
        "link 14",
        "MIG 1.2",
        "nic",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    // Counted another way: a fault, or evidence of one, for each line with an Xid.
    let found = run(&["--json", "faults", "scan", path], b"").expect(0).json_lines();
    let evidence: String = found.iter().map(|fault| fault["evidence"].to_string()).collect();
    let counted: u64 =
        found.iter().map(|fault| fault["count"].as_u64().unwrap_or(0) + fault["related"].as_u64().unwrap_or(0)).sum();
    for line in SAMPLES.lines().filter(|line| line.contains("NVRM: Xid (")) {
        let code = line.split("): ").nth(1).unwrap_or_default().split([',', ' ']).next().unwrap_or_default();
        assert!(evidence.contains(&format!("): {code}")), "{line}");
    }
    assert!(counted >= SAMPLES.lines().filter(|line| line.contains("Xid (")).count() as u64 - 4, "{counted}");
}

#[test]
fn benign_lines_take_nothing_out_of_use() {
    let mut log = String::new();
    for number in 0..500 {
        for (code, rest) in [
            (13, "Graphics Exception"),
            (31, "MMU Fault"),
            (43, "Ch 8"),
            (45, "Ch 8"),
            (63, "Row Remapper: New row marked"),
        ] {
            let gpu = number % 8;
            log.push_str(&format!(
                "[{number}.5] NVRM: Xid (PCI:0000:0{gpu}:00): {code}, pid={number}, name=p, {rest}\n"
            ));
        }
        log.push_str(
            "mlx5_core 0000:5c:00.0: mlx5_cmd_out_err:838:(pid 123): ACCESS_REG(0x805) op_mod(0x0) failed\n",
        );
        log.push_str(
            "nvidia-nvswitch1: SXid (PCI:0000:0a:00.0): 22013, Non-fatal, Link 57 Minion Link DLREQ interrupt\n",
        );
        log.push_str("train[77]: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.\n");
    }
    let found = faults(&log);
    let grave = |fault: &&Value| !["none", "restart_app"].contains(&fault["action"].as_str().unwrap_or_default());
    assert_eq!(found.iter().find(grave), None);
    assert!((1..=41).contains(&found.len()), "{}", found.len());
}

#[test]
fn a_storm_and_a_line_without_an_end_cost_no_memory() {
    let mut running = Running::start(wharf(&["--json", "faults", "scan", "-"]));
    let storm: String = (0..40_000)
        .map(|number| {
            format!(
                "[{number}.5] NVRM: Xid (PCI:0000:37:00): 95, pid={number}, Uncontained: FBHUB. RST: Yes, D-RST: No\n"
            )
        })
        .collect();
    let first = peak_memory_kb(&running);
    running.feed_more(storm.as_bytes());
    running.feed_more(&vec![b'x'; 64 << 20]);
    running.feed_more(b"\nNVRM: Xid (PCI:0000:38:00): 79, GPU has fallen off the bus.\n");
    // All of it has been read when more than a pipe holds was written behind it.
    running.feed_more("usb 1-1: new device\n".repeat(50_000).as_bytes());
    let grown = peak_memory_kb(&running) - first;
    assert!(grown < 48 << 10, "{grown} kB more");
    let found = running.finish().expect(0).json_lines();
    assert_eq!(found.len(), 2, "{found:#?}");
    assert_eq!(some(&found[0], &["code", "count"]), json!([95, 40_000]));
    assert_eq!(some(&found[1], &["code", "action"]), json!([79, "reboot"]));
}

fn peak_memory_kb(running: &Running) -> i64 {
    let read = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.to_owned();
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    read().expect("it runs")
}

#[test]
fn whoever_ends_a_log_that_goes_on_sees_what_was_found() {
    let mut running = Running::start(wharf(&["--json", "faults", "scan", "-"]));
    // More than a pipe holds: the first line has been read when the last one is written.
    running.feed_more(b"NVRM: Xid (PCI:0000:38:00): 79, GPU has fallen off the bus.\n");
    running.feed_more("usb 1-1: new device\n".repeat(50_000).as_bytes());
    let status = format!("/proc/{}/status", running.id());
    until("it handles Ctrl-C", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
        let mask = u64::from_str_radix(caught.trim(), 16).unwrap_or_default();
        (mask & (1 << (Signal::SIGINT as u32 - 1)) != 0).then_some(())
    });
    running.signal(Signal::SIGINT);
    // Its input stays open until it has ended by itself.
    let stat = format!("/proc/{}/stat", running.id());
    until("it ends", || std::fs::read_to_string(&stat).unwrap_or_default().contains(") Z ").then_some(()));
    let found = running.finish().expect(130).json_lines();
    assert_eq!((found.len(), &found[0]["code"]), (1, &json!(79)));
}

#[test]
fn what_cannot_be_read_teaches() {
    let error = |arguments: &[&str]| {
        let output = run(arguments, b"").expect(2);
        assert!(!output.errors().is_empty());
        output.json()["error"].clone()
    };
    let missing = error(&["--json", "faults", "scan", "/no/such/log"]);
    assert_eq!((&missing["field"], &missing["found"]), (&json!("FILE"), &json!("/no/such/log")));
    assert!(missing["allowed"].as_str().is_some_and(|text| text.contains("dmesg") && text.contains("journalctl")));
    assert!(error(&["--json", "faults", "scan", "/"])["message"].to_string().contains("directory"));
    let (_folder, path) = file("table.toml", "[xid]\n79 = { action = \"pray\" }\n");
    let table = path.to_str().expect("it is UTF-8");
    let wrong = error(&["--json", "faults", "scan", "--table", table, "-"]);
    assert_eq!((&wrong["field"], &wrong["found"]), (&json!("line 2, xid.79.action"), &json!("\"pray\"")));
    assert!(wrong["allowed"].as_str().is_some_and(|text| text.contains("reset_gpu")), "{wrong}");
    for nonsense in [&[0_u8, 159, 146, 150, 10, 0][..], b"\n\n\n", b"", b"[[[[[[[["] {
        let text = run(&["faults", "scan", "-"], nonsense).expect(0).text();
        assert!(text.starts_with("no faults in "), "{text}");
    }
}

#[test]
fn codes_are_explained_and_a_site_may_know_better() {
    let text = run(&["xid", "79"], b"").expect(0).text();
    for wanted in ["Xid 79", "FALLEN_OFF_THE_BUS", "meaning", "verdict", "gpu", "reboot the machine"] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let object = run(&["--json", "xid", "94"], b"").expect(0).json();
    let names = ["type", "code", "verdict", "action", "rule", "takes_out_of_use"];
    assert_eq!(some(&object, &names), json!(["xid", 94, "gpu", "restart_app", "containment", false]));
    assert_eq!(run(&["--json", "xid", "26008"], b"").expect(0).json()["type"], "sxid");
    let (_folder, path) = file("table.toml", "[xid]\n109 = { action = \"none\" }\n");
    let table = path.to_str().expect("it is UTF-8");
    assert_eq!(run(&["--json", "xid", "109", "--table", table], b"").expect(0).json()["action"], "none");
    assert_eq!(run(&["--json", "xid", "109"], b"").expect(0).json()["action"], "reset_gpu");
    let error = run(&["--json", "xid", "500"], b"").expect(2).json()["error"].clone();
    assert_eq!((&error["code"], &error["found"]), (&json!("not_found"), &json!("500")));
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("173") && message.contains("1 to 173"), "{message}");
    run(&["xid", "seventy"], b"").expect(2);
}
