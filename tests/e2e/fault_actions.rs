//! What is done about a fault: restarts elsewhere, checks, and what an operator configures.

use crate::faults::{KernelLog, gpu, gpu_of, held, xid};
use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, job, role, until};
use serde_json::json;

#[test]
fn a_job_that_a_contained_error_ended_runs_again_on_another_gpu_at_once() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "hardware_restarts = 1");
    let (once, go) = (cluster.path("once"), cluster.path("go"));
    // Fails in both of its runs.
    let wait = |file: &std::path::Path| format!("until [ -e {} ]; do sleep 0.05; done; exit 1", quoted(file));
    let second = cluster.path("again");
    let command = format!("if mkdir {}; then {}; else {}; fi", quoted(once), wait(&go), wait(&second));
    let id = cluster.submit(&job("twice", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]));
    let used = gpu_of(&cluster, &cluster.wait_running(&id));
    let contained = "pid=77, name=python, Contained: SM (0x1). RST: No, D-RST: No";
    log.say(&[xid(&used, 94, contained)]);
    cluster.touch("go");
    let shown = until("it runs again", || {
        let shown = cluster.show(&id);
        (shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING").then_some(shown)
    });
    let other = gpu_of(&cluster, &shown);
    assert_ne!(other["uuid"], used["uuid"], "nothing else spoke against it: {shown}");
    let first = cluster.json(&["job", "show", &id, "--run", "-1"]);
    assert_eq!(first["tasks"][0]["exit"]["faulty_gpus"], json!([used["uuid"]]), "{first}");
    // Once is all that this cluster allows.
    log.say(&[xid(&other, 94, contained)]);
    cluster.touch("again");
    let end = cluster.wait_end(&id);
    assert_eq!((&end["state"], &end["exit"]["class"]), (&json!("FAILED"), &json!("hardware")), "{end}");
    let reason = end["exit"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("hardware_restarts allows 1"), "{reason}");
}

#[test]
fn an_operator_looks_at_the_gpus_of_a_node() {
    let cluster = Cluster::start(&["sim:2xH100"]);
    let id = cluster.submit(&held(&cluster, "holds"));
    let shown = cluster.wait_running(&id);
    let used = gpu_of(&cluster, &shown)["index"].to_string();
    let checked = cluster.json(&["node", "check", "n0"]);
    assert_eq!((&checked["node"], &checked["outcome"]), (&json!("n0"), &json!("ok")), "{checked}");
    let gpus = checked["gpus"].as_array().expect("a list");
    let tasks: Vec<bool> = gpus.iter().map(|gpu| gpu["task"].is_string()).collect();
    assert_eq!((gpus.len(), tasks.iter().filter(|held| **held).count()), (2, 1), "{checked}");
    let infiniband = checked["host"].as_array().expect("a list").iter().find(|thing| thing["what"] == "InfiniBand");
    assert_ne!(infiniband.expect("it is looked at")["outcome"], "failed");
    let table = cluster.cli(&["node", "check", "n0", "--gpus", &used]).expect(0).text();
    assert!(table.contains("nothing wrong was found") && table.lines().all(|line| line.len() <= 100), "{table}");
    let refused = cluster.cli(&["node", "check", "n0", "--gpus", &used, "--deep"]).expect(1);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds GPU"), "{refused:?}");
    cluster.cli(&["node", "check", "n0", "--gpus", "9"]).expect(2);
    cluster.cli(&["node", "check", "nowhere"]).expect(2);
    cluster.touch("go-holds");
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    cluster.wait_idle();
    let deep = cluster.json(&["node", "check", "n0", "--deep"]);
    assert_eq!(deep["outcome"], "ok", "simulated memory is no fault: {deep}");
    assert_eq!(gpu(&cluster, &gpu_of(&cluster, &shown)["uuid"])["state"], "FREE");
}

/// What the driver says of a GPU that only a reset mends.
fn hung(gpu: &serde_json::Value) -> String {
    xid(gpu, 119, "pid=77, name=python, Timeout after 6s of waiting for RPC response from GPU0 GSP!")
}

/// The evidence of the one fault, once it tells what was done.
fn remedied(cluster: &Cluster) -> String {
    until("it is told what was done", || {
        let faults = cluster.json(&["faults"]);
        let evidence = faults[0]["evidence"].as_array()?;
        let lines = evidence.iter().filter_map(|line| line.as_str());
        lines.filter(|line| line.starts_with("remediation")).map(str::to_owned).next()
    })
}

#[test]
fn a_command_gets_the_fault_once_and_only_when_the_gpu_is_free() {
    let log = KernelLog::new();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (told, ended) = (folder.path().join("told"), folder.path().join("ended"));
    let script = format!("cat >> {}; [ -e {} ] && echo mended", told.display(), ended.display());
    let mut node = log.node("n0", "sim:2xH100");
    node.more.push_str(&format!("remediation = ['/bin/sh', '-c', '{script}']\n"));
    let cluster = Cluster::with(vec![node], "");
    let trap = format!("trap 'sleep 0.3; touch {}; exit 1' TERM", ended.display());
    let command = format!("{trap}; mkdir {} && while :; do sleep 0.05; done", quoted(cluster.path("once")));
    let id = cluster.submit(&job("hit", &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))]));
    let used = gpu_of(&cluster, &cluster.wait_running(&id));
    log.say(&[hung(&used)]);
    let done = remedied(&cluster);
    assert_eq!(done, "remediation /bin/sh: done: mended", "the task had ended before");
    let lines = std::fs::read_to_string(&told).expect("it was told");
    let fault: serde_json::Value = serde_json::from_str(&lines).expect("one line of JSON");
    assert_eq!((&fault["gpu"], &fault["code"]), (&used["uuid"], &json!(119)), "{fault}");
    assert!(fault["task"].as_str().is_some_and(|task| task.starts_with(&id)), "{fault}");

    cluster.stop_agent(0);
    cluster.start_agent(0);
    log.say(&[hung(&used)]);
    until("it is counted on", || (cluster.json(&["faults"])[0]["count"] == 2).then_some(()));
    assert_eq!(std::fs::read_to_string(&told).expect("it is there"), lines, "once per fault");
    assert_eq!(gpu(&cluster, &used["uuid"])["state"], "FAULTY", "no command's word ends a fault");
    let events = cluster.cli(&["--json", "events", "--node", "n0"]).expect(0).text();
    assert_eq!(events.matches("fault.remedied").count(), 1, "{events}");
    cluster.cli(&["stop", &id]);
}

#[test]
fn a_reboot_waits_until_its_node_is_empty_and_nobody_new_is_sent_there() {
    let log = KernelLog::new();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let told = folder.path().join("told");
    let mut node = log.node("n0", "sim:3xH100");
    node.more.push_str(&format!("remediation = ['/bin/sh', '-c', 'cat >> {}']\n", told.display()));
    let cluster = Cluster::with(vec![node], "");
    let first = cluster.submit(&held(&cluster, "first"));
    let used = gpu_of(&cluster, &cluster.wait_running(&first));
    let gpus = cluster.json(&["gpus"]);
    let idle = gpus.as_array().expect("a list").iter().find(|gpu| gpu["uuid"] != used["uuid"]).expect("two are free");
    log.say(&[xid(idle, 79, "pid=77, name=python, GPU has fallen off the bus.")]);
    until("why it waits is told", || {
        let faults = cluster.json(&["faults"]);
        let waits = "not remedied yet: 1 tasks are there or on their way";
        faults[0]["evidence"].to_string().contains(waits).then_some(())
    });
    let shown = cluster.json(&["nodes"])[0].clone();
    assert_eq!(shown["state"], "CORDONED", "{shown}");
    assert!(shown["reason"].as_str().unwrap_or_default().contains("it is to be empty"), "{shown}");
    let second = cluster.submit(&held(&cluster, "second"));
    until("it is known why it waits", || {
        let shown = cluster.show(&second);
        (shown["state"] == "WAITING" && shown["reason"].is_string()).then_some(())
    });
    assert!(!told.exists(), "a task is in the way");
    cluster.touch("go-first");
    assert_eq!(cluster.wait_end(&first)["state"], "SUCCEEDED");
    assert_eq!(remedied(&cluster), "remediation /bin/sh: done");
    assert_eq!(std::fs::read_to_string(&told).expect("it was told").lines().count(), 1);
    let faults = cluster.json(&["faults"]);
    assert!(!faults[0]["evidence"].to_string().contains("not remedied yet"), "{faults}");
    // The boot is yet to come; here an operator says that it is over.
    assert_eq!(cluster.json(&["nodes"])[0]["state"], "CORDONED");
    assert_eq!(cluster.json(&["fault", "clear", &faults[0]["id"].to_string()])["state"], "CLEARED");
    cluster.wait_running(&second);
    cluster.touch("go-second");
    assert_eq!(cluster.wait_end(&second)["state"], "SUCCEEDED");
}

#[test]
fn a_gpu_is_reset_by_the_drivers_own_tool() {
    let log = KernelLog::new();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (tool, asked) = (folder.path().join("nvidia-smi"), folder.path().join("asked"));
    std::fs::write(&tool, format!("#!/bin/sh\necho \"$@\" >> {}\necho cannot >&2\nexit 4\n", asked.display()))
        .expect("it is ours");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&tool, mode).expect("it is ours");
    let mut node = log.node("n0", "sim:2xH100");
    node.more.push_str("remediation = 'reset-gpu'\n");
    let path = std::env::var("PATH").unwrap_or_default();
    node.env.push(("PATH".to_owned(), format!("{}:{path}", folder.path().display())));
    let cluster = Cluster::with(vec![node], "");
    let gpus = cluster.json(&["gpus"]);
    // What needs a reboot is not reset.
    log.say(&[xid(&gpus[1], 79, "pid=77, name=python, GPU has fallen off the bus.")]);
    until("it is known", || (gpu(&cluster, &gpus[1]["uuid"])["state"] == "FAULTY").then_some(()));
    log.say(&[hung(&gpus[0])]);
    let done = until("it is told what was done", || {
        let faults = cluster.json(&["faults"]);
        let reset = faults.as_array()?.iter().find(|fault| fault["code"] == 119)?;
        let lines = reset["evidence"].as_array()?.iter().filter_map(|line| line.as_str());
        lines.filter(|line| line.starts_with("remediation")).map(str::to_owned).next()
    });
    assert!(done.contains("reset-gpu: failed") && done.contains("4: cannot"), "{done}");
    let uuid = gpus[0]["uuid"].as_str().expect("a text");
    assert_eq!(std::fs::read_to_string(&asked).expect("it was asked"), format!("--gpu-reset -i {uuid}\n"));
}

#[test]
fn a_kill_for_memory_names_the_task_of_its_control_group() {
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:1xH100")], "");
    let id = cluster.submit(&held(&cluster, "hungry"));
    let task = cluster.wait_running(&id)["tasks"][0]["id"].as_str().expect("a text").to_owned();
    let killed = |group: &str, pid: u32| {
        let groups = format!("oom_memcg={group},task_memcg={group}");
        format!(
            "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,{groups},task=python,pid={pid},uid=0"
        )
    };
    log.say(&[killed(&format!("/wharf/node/{task}/payload"), 4_000_001), killed("/user.slice/9.9.0.0", 4_000_002)]);
    let faults = until("both are known", || {
        let faults = cluster.json(&["faults"]);
        (faults.as_array()?.len() == 2).then_some(faults)
    });
    let named =
        |pid: u32| faults.as_array().expect("a list").iter().find(|fault| fault["pid"] == pid).expect("it is one");
    assert_eq!(named(4_000_001)["task"], json!(task), "{faults}");
    assert_eq!(named(4_000_002)["task"], json!(null), "it is no task of this node's: {faults}");
    cluster.touch("go-hungry");
    cluster.wait_end(&id);
}
