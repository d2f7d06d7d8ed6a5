//! What Prometheus reads of a controller and of an agent.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, Running, job, role, until};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;

/// Numbers by name and labels, as `curl` got them; every line is one of the format's.
fn scrape(arguments: &[&str]) -> BTreeMap<String, f64> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--include", "--max-time", "30"]).args(arguments);
    let answer = Running::start(curl).finish().expect(0).text();
    let (head, text) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let mut found = BTreeMap::new();
    let mut told: Option<(String, bool)> = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            told = Some((name.to_owned(), kind == "histogram"));
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let name = series.split('{').next().expect("a name");
            let (metric, is_histogram) = told.as_ref().expect("its type is told before");
            let suffix = name.strip_prefix(metric.as_str()).unwrap_or_else(|| panic!("not of {metric}: {line}"));
            let allowed: &[&str] = if *is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.contains(&suffix), "no series of {metric}: {line}");
            let before = found.insert(series.to_owned(), value.parse().expect("a number"));
            assert_eq!(before, None, "told twice: {line}");
        }
    }
    found
}

/// So many runs were launched, each is in the buckets from its time on, and no time is negative.
fn check_launches(all: &BTreeMap<String, f64>, runs: f64) {
    let name = "wharf_run_launch_seconds";
    let bound = |series: &str| -> Option<f64> {
        let bound = series.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.strip_suffix("\"}")?;
        Some(if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound is a number") })
    };
    let mut buckets: Vec<(f64, f64)> =
        all.iter().filter_map(|(series, count)| Some((bound(series)?, *count))).collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.len() > 10 && buckets.is_sorted_by(|one, other| one.1 <= other.1), "{buckets:?}");
    assert_eq!(buckets.last(), Some(&(f64::INFINITY, runs)), "{buckets:?}");
    let (sum, count) = (all[&format!("{name}_sum")], all[&format!("{name}_count")]);
    assert_eq!(count, runs);
    // The bounds of the test's own patience: a run that took longer would not have been waited for.
    assert!(sum > 0.0 && sum < 3600.0, "{sum}");
}

#[test]
fn both_daemons_tell_prometheus_how_they_are() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let log = folder.path().join("kmsg");
    std::fs::write(&log, "").expect("it is ours");
    let more = format!("kernel_log = {}\n", quoted(&log));
    let cluster = Cluster::with(vec![Node { more, ..Node::new("n0", "sim:3xH100") }], "");
    let command = format!("until [ -e {} ]; do sleep 0.05; done", quoted(cluster.path("go")));
    let id = cluster.submit(&job("held", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]));
    let shown = cluster.wait_running(&id);
    let gpus = cluster.json(&["gpus"]);
    let idle = gpus.as_array().expect("a list").iter().find(|gpu| gpu["uuid"] != shown["tasks"][0]["gpus"][0]);
    let pci = idle.expect("two are free")["pci"].as_str().expect("a place").to_lowercase();
    let line = format!("3,0,1,-;NVRM: Xid (PCI:{pci}): 79, GPU has fallen off the bus.\n3,5,2,-;hello\n");
    std::fs::write(&log, line).expect("it is ours");

    let (controller, socket) = (format!("http://{}/metrics", cluster.address()), cluster.path("a0.sock"));
    let agent = ["--unix-socket", socket.to_str().expect("text"), "http://localhost/metrics"];
    let fault = "wharf_faults_active{kind=\"xid\",verdict=\"gpu\",action=\"reboot\"}";
    let fleet = until("the controller counts the fault", || {
        Some(scrape(&[&controller])).filter(|all| all.contains_key(fault))
    });
    let node = until("the agent was heard", || {
        Some(scrape(&agent))
            .filter(|all| all["wharf_heartbeats_answered_total"] > 0.0 && all["wharf_kernel_log_records_total"] > 1.0)
    });
    let version = env!("CARGO_PKG_VERSION");
    for (all, role) in [(&fleet, "controller"), (&node, "agent")] {
        assert_eq!(all[&format!("wharf_build_info{{version=\"{version}\",role=\"{role}\"}}")], 1.0);
        assert_eq!(all[fault], 1.0, "{all:?}");
        let states = ["FREE", "HELD", "FAULTY", "LOST"].map(|state| all[&format!("wharf_gpus{{state=\"{state}\"}}")]);
        assert_eq!(states, [1.0, 1.0, 1.0, 0.0], "{all:?}");
        assert_eq!(all["wharf_tasks{state=\"RUNNING\"}"], 1.0, "{all:?}");
    }
    assert_eq!((fleet["wharf_jobs{state=\"RUNNING\"}"], fleet["wharf_jobs{state=\"FAILED\"}"]), (1.0, 0.0));
    assert_eq!((fleet["wharf_nodes{state=\"READY\"}"], fleet["wharf_queue_length"]), (1.0, 0.0));
    assert_eq!(fleet["wharf_controller_leads"], 1.0);
    check_launches(&fleet, 1.0);
    assert!(fleet["wharf_node_heartbeat_age_seconds{node=\"n0\"}"] < 60.0);
    assert_eq!((node["wharf_kernel_log_records_total"], node["wharf_kernel_log_lost_records_total"]), (2.0, 4.0));
    assert!(
        node.keys()
            .chain(fleet.keys())
            .all(|series| series.contains("{le=") || !series.contains(&format!("\"{id}\""))),
        "jobs are no labels"
    );

    // An agent has nothing else for browsers.
    let mut other = Command::new("curl");
    other.args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket"]);
    other.args([agent[1], "http://localhost/api/v1/jobs"]);
    assert_eq!(Running::start(other).finish().expect(0).text(), "404");
    cluster.touch("go");
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
}
