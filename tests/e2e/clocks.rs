//! The clocks of agent and controller jump by an hour and by a day, either way, while tasks run: under `libfaketime`,
//! which tells each of them another time than the machine's. As when somebody sets a machine's clock, its monotonic
//! clocks notice nothing.

use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HOUR: i64 = 3600;

/// The library of Debian's package, for programs with threads.
fn library() -> Option<PathBuf> {
    let folders = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|folder| Path::new("/usr/lib").join(folder));
    let found = folders.iter().map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    if found.is_none() {
        skip("clocks that jump while tasks run", "there is no libfaketime (Debian's package faketime)");
    }
    found
}

/// What makes a process see the time that `file` says.
fn faked(library: &Path, file: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.display().to_string();
    [
        ("LD_PRELOAD", text(library)),
        ("FAKETIME_TIMESTAMP_FILE", text(file)),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        // The one name, and the other, by which versions of the library know it.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// At once for whoever reads it.
fn set(file: &Path, seconds: i64) {
    let draft = file.with_extension("draft");
    fs::write(&draft, format!("{seconds:+}\n")).unwrap();
    fs::rename(draft, file).unwrap();
}

fn seconds_ahead(time: &Value) -> i64 {
    let time = wharf::domain::time::Timestamp::parse_rfc3339(time.as_str().expect("a time")).expect("RFC 3339");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    time.0 / 1_000_000_000 - i64::try_from(now).expect("small")
}

#[test]
fn nothing_ends_or_waits_because_a_clock_jumps() {
    let Some(library) = library() else { return };
    let times = tempfile::tempdir().unwrap();
    fs::set_permissions(times.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (agents, controllers) = (times.path().join("agent"), times.path().join("controller"));
    [&agents, &controllers].into_iter().for_each(|file| set(file, 0));
    let nodes = ["n0", "n1"].map(|name| Node { env: faked(&library, &agents), ..Node::new(name, "none") });
    let cluster = Cluster::with(nodes.into(), "");
    cluster.stop_controller();
    let mut program = Command::new(env!("CARGO_BIN_EXE_wharf"));
    program.envs(faked(&library, &controllers)).env("RUST_BACKTRACE", "1");
    cluster.start_controller_by(program);
    cluster.wait_ready();

    let begin = |name: &str, more: &Value| {
        let (starts, stop) = (cluster.path(&format!("{name}.starts")), cluster.path("stop"));
        let command = format!(
            "echo $$ >> {}; i=0; until [ -e {} ]; do i=$((i+1)); echo line $i; sleep 0.05; done; echo last $i",
            quoted(&starts),
            quoted(&stop)
        );
        let id = cluster.submit(&with(job(name, &[role("main", 1, &command)]), more));
        cluster.wait_running(&id);
        cluster.wait_file(&format!("{name}.starts"));
        (name.to_owned(), id)
    };
    let leased = json!({ "extras": { "wharf": { "onNodeLost": "restart", "leaseSeconds": 300 } } });
    let on_n1 = json!({ "extras": { "wharf": { "nodes": { "names": ["n1"] } } } });
    let tasks = [begin("waits", &json!({})), begin("leased", &leased), begin("drained", &on_n1)];
    cluster.cli(&["node", "drain", "n1", "--reason", "fan", "--deadline", "30m"]).expect(0);

    // Together, and each alone.
    let jumps = [(HOUR, HOUR), (0, 0), (24 * HOUR, 0), (-24 * HOUR, 24 * HOUR), (0, -HOUR), (0, 0)];
    for (round, (agent, controller)) in jumps.into_iter().enumerate() {
        set(&agents, agent);
        set(&controllers, controller);
        // From here on the controller's time is the other one, as is what it writes down.
        let ahead = |time: &Value, by: i64| (seconds_ahead(time) - by).abs() < 600;
        until("the agents are heard at the other time", || {
            let nodes = cluster.json(&["nodes"]);
            nodes.as_array()?.iter().all(|node| ahead(&node["last_heartbeat"], controller)).then_some(())
        });
        let short = cluster.submit(&job(&format!("short{round}"), &[role("main", 1, "echo out; exit 4")]));
        let shown = cluster.wait_end(&short);
        assert_eq!(shown["exit"]["code"], 4, "{shown}");
        assert!(ahead(&shown["submitted_at"], controller), "the clock was not faked: {shown}");
        assert_eq!(cluster.cli(&["logs", &short]).expect(0).text(), "out\n");
        for (name, id) in &tasks {
            let shown = cluster.show(id);
            assert_eq!(
                (&shown["state"], shown["runs"].as_array().map(Vec::len)),
                (&json!("RUNNING"), Some(1)),
                "{name}: {shown}"
            );
        }
        let nodes = cluster.json(&["nodes"]);
        assert_eq!((&nodes[0]["state"], &nodes[1]["state"]), (&json!("READY"), &json!("DRAINING")), "{nodes}");
    }
    let stubborn = "trap '' TERM; echo trapped; while :; do sleep 0.1; done";
    let id = cluster.submit(&job("stubborn", &[role("main", 1, stubborn)]));
    until("it ignores the signal", || (cluster.cli(&["logs", &id]).text() == "trapped\n").then_some(()));
    set(&agents, -24 * HOUR);
    cluster.cli(&["stop", &id, "--grace", "1"]).expect(0);
    assert_eq!(cluster.wait_end(&id)["state"], "STOPPED");

    cluster.touch("stop");
    for (name, id) in &tasks {
        let shown = cluster.wait_end(id);
        assert_eq!(shown["state"], "SUCCEEDED", "{name}: {shown}");
        assert_eq!(fs::read_to_string(cluster.path(&format!("{name}.starts"))).unwrap().lines().count(), 1);
        let text = cluster.cli(&["logs", id]).expect(0).text();
        let count = text.lines().count() - 1;
        let expected: String = (1..=count).map(|i| format!("line {i}\n")).collect();
        assert_eq!(text, format!("{expected}last {count}\n"), "{name}");
    }
    let events = cluster.cli(&["--json", "events"]).expect(0).json_lines();
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert!(sequences.len() == events.len() && sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["kind"].as_str()).collect();
    for never in ["node.unreachable", "task.lost", "run.preempted"] {
        assert!(!kinds.contains(&never), "{never}: {events:?}");
    }
    assert!(kinds.contains(&"clock.set"), "the controller says that its clock was set: {kinds:?}");
}
