//! Whom a fault hit, where its place does not say it: by the process that the driver's line names, or by the slice.

use crate::checks::bench;
use crate::faults::{KernelLog, gpu};
use crate::harness::docker::Dockerd;
use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, proc, role, skip, until};
use crate::mock::Mock;
use serde_json::{Value, json};
use std::path::Path;

/// Where no GPU of any node is.
const NOWHERE: &str = "NVRM: Xid (PCI:0000:fe:00)";

/// A job whose task fails in its first run once it may, and waits for its end in the next one. `within`: its folder, as the
/// task's shell sees it.
fn failing(name: &str, within: &str) -> Value {
    let wait = |file: &str| format!("until [ -e {within}/{file}-{name} ]; do sleep 0.05; done");
    let first = format!("echo $$ > {within}/pid-{name}; {}; exit 1", wait("fail"));
    let command = format!("if mkdir {within}/once-{name}; then {first}; fi; {}", wait("go"));
    job(name, &[with(role("main", 1, &command), &json!({ "gpuNumber": 1 }))])
}

fn touch(folder: &Path, name: &str) {
    std::fs::write(folder.join(name), "").expect("the folder is ours");
}

/// Two jobs run on a node that hears the log; the driver names a place that nobody knows, and a process of the first one.
fn only_whom_the_process_names_is_hit(site: &Site, [hit, other]: [&str; 2], pid: i32) {
    let Site { cluster, log, folder } = site;
    let contained = format!("{NOWHERE}: 94, pid={pid}, name=python, Contained: SM (0x1). RST: No, D-RST: No");
    // This process is no task's.
    log.say(&[contained, format!("{NOWHERE}: 13, pid={}, name=cargo, Illegal Address", std::process::id())]);
    let told = until("both are told", || {
        let faults = cluster.json(&["faults"]);
        (faults.as_array()?.len() == 2).then_some(faults)
    });
    let of_code = |code: u32| told.as_array().expect("a list").iter().find(|fault| fault["code"] == code);
    let (fault, nobodys) = (of_code(94).expect("it is one"), of_code(13).expect("it is the other"));
    assert_eq!((&fault["verdict"], &fault["action"]), (&json!("gpu"), &json!("restart_app")), "{fault}");
    assert_eq!((&fault["gpu"], &fault["pid"]), (&Value::Null, &json!(pid)), "{fault}");
    assert_eq!(fault["job"].to_string(), hit, "{fault}");
    assert!(fault["task"].as_str().is_some_and(|task| task.starts_with(&format!("{hit}."))), "{fault}");
    assert_eq!((&nobodys["task"], &nobodys["job"]), (&Value::Null, &Value::Null), "{nobodys}");

    // Both crash; the hardware's doing is what the fault names, and nothing else.
    touch(folder, "fail-hit");
    let again = until("the job runs again", || {
        let shown = cluster.show(hit);
        (shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING").then_some(shown)
    });
    let first = cluster.json(&["job", "show", hit, "--run", "-1"]);
    let exit = &first["tasks"][0]["exit"];
    assert_eq!((&exit["class"], &exit["faults"]), (&json!("hardware"), &json!([fault["id"]])), "{first} {again}");
    touch(folder, "fail-other");
    let ended = cluster.wait_end(other);
    let exit = &ended["tasks"][0]["exit"];
    assert_eq!((&ended["state"], &exit["class"], &exit["faults"]), (&json!("FAILED"), &json!("user"), &json!([])));
    let gpus = cluster.json(&["gpus"]);
    assert!(gpus.as_array().expect("a list").iter().all(|gpu| gpu["state"] != "FAULTY"), "{gpus}");

    for fault in [fault, nobodys] {
        assert_eq!(cluster.json(&["fault", "clear", &fault["id"].to_string()])["state"], "CLEARED");
    }
    until("no fault is active", || cluster.json(&["faults"]).as_array()?.is_empty().then_some(()));
    touch(folder, "go-hit");
    assert_eq!(cluster.wait_end(hit)["state"], "SUCCEEDED");
    cluster.wait_idle();
}

struct Site<'a> {
    cluster: &'a Cluster,
    log: &'a KernelLog,
    /// Of the jobs' files, here.
    folder: &'a Path,
}

#[test]
fn a_process_is_its_tasks_where_the_place_says_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return skip("faults by the process that they name", "control groups of tasks need root");
    }
    let log = KernelLog::new();
    let cluster = Cluster::with(vec![log.node("n0", "sim:2xH100")], "");
    let folder = cluster.folder();
    let [hit, other] = ["hit", "other"].map(|name| cluster.submit(&failing(name, &quoted(folder))));
    [&hit, &other].iter().for_each(|id| drop(cluster.wait_running(id)));
    let pid = cluster.wait_file("pid-hit").parse().expect("a number");
    only_whom_the_process_names_is_hit(&Site { cluster: &cluster, log: &log, folder }, [&hit, &other], pid);
}

#[test]
fn a_process_in_a_container_is_its_tasks_where_the_place_says_nothing() {
    let Some(dockerd) = Dockerd::get("faults by a process in a container") else { return };
    let (log, shared) = (KernelLog::new(), tempfile::tempdir().expect("a temporary folder can be made"));
    let folder = shared.path();
    let mut node = Node { runtime: "docker".to_owned(), ..log.node("n0", "sim:2xH100") };
    let (socket, dirs) = (quoted(dockerd.socket()), quoted(folder));
    node.more.push_str(&format!("docker_socket = {socket}\njob_dirs = [{dirs}]\n"));
    let cluster = Cluster::with(vec![node], "");
    let contained = json!({ "image": "wharf-test/busybox:1", "outputDir": folder });
    let [hit, other] =
        ["hit", "other"].map(|name| cluster.submit(&with(failing(name, "$PAI_OUTPUT_DIR"), &contained)));
    [&hit, &other].iter().for_each(|id| drop(cluster.wait_running(id)));
    let label = format!("label=wharf.task={hit}.{hit}.0.0");
    let container = dockerd.docker(&["ps", "--quiet", "--filter", &label]);
    let shim = dockerd.docker(&["inspect", "--format", "{{.State.Pid}}", container.trim()]);
    let pid = until("the command runs", || proc::children(shim.trim().parse().ok()?).first().copied());
    only_whom_the_process_names_is_hit(&Site { cluster: &cluster, log: &log, folder }, [&hit, &other], pid);
    dockerd.remove_of(cluster.node_uids());
}

#[test]
fn a_fault_of_one_slice_hits_whoever_has_that_slice() {
    let (log, mut mock) = (KernelLog::new(), Mock::new("MIG-A100.json"));
    mock.change(|state| state["devices"].as_array_mut().expect("a list").truncate(1));
    let device = mock.state["devices"][0].clone();
    let more = format!("kernel_log = {}\n", quoted(log.path()));
    let cluster = Cluster::with(vec![bench::node("n0", &mock, &more)], "");
    let slices = || device["slices"].as_array().expect("a list").iter();
    until("all slices are free", || {
        let state = |slice: &Value| gpu(&cluster, &slice["uuid"])["state"].clone();
        (cluster.json(&["gpus"]).as_array()?.len() == 4 && slices().all(|slice| state(slice) == "FREE")).then_some(())
    });
    let [hit, other] = ["hit", "other"].map(|name| cluster.submit(&failing(name, &quoted(cluster.folder()))));
    let [of_hit, of_other] = [&hit, &other].map(|id| cluster.wait_running(id)["tasks"][0]["gpus"][0].clone());
    assert_ne!(of_hit, of_other);
    // As the driver names a slice: its instance, at the board's place.
    let said = |slice: &Value, code: u32, more: &str| {
        let slice = slices().find(|known| known["uuid"] == *slice).expect("it is one");
        let line = format!(
            "(PCI:0000:07:00 GPU-I:{:02}): {code}, {more}",
            slice["gpu_instance"].as_u64().expect("a number")
        );
        (format!("NVRM: Xid {line}"), slice["gpu_instance"].clone())
    };
    let fault_of = |code: u32| {
        until("the fault is told", || {
            let faults = cluster.json(&["faults"]);
            faults.as_array()?.iter().find(|fault| fault["code"] == code).cloned()
        })
    };

    // The error was kept within the program: it crashes, and runs again on another slice of the same board.
    let (line, instance) = said(&of_hit, 94, "pid=77, name=python, Contained: SM (0x1). RST: No, D-RST: No");
    log.say(&[line]);
    let fault = fault_of(94);
    assert_eq!((&fault["gpu"], &fault["gpu_instance"]), (&device["uuid"], &instance), "{fault}");
    assert_eq!((fault["job"].to_string(), &fault["action"]), (hit.clone(), &json!("restart_app")), "{fault}");
    cluster.touch("fail-hit");
    let again = until("the job runs again", || {
        let shown = cluster.show(&hit);
        (shown["runs"].as_array()?.len() == 2 && shown["tasks"][0]["state"] == "RUNNING").then_some(shown)
    });
    let first = cluster.json(&["job", "show", &hit, "--run", "-1"]);
    let exit = &first["tasks"][0]["exit"];
    assert_eq!((&exit["class"], &exit["faulty_gpus"]), (&json!("hardware"), &json!([of_hit])), "{first}");
    let second = &again["tasks"][0]["gpus"][0];
    assert!(*second != of_hit && *second != of_other, "{again}");

    // One that was not ends that slice's program, and lets nobody new on the board; the other slice's program goes on.
    log.say(&[said(second, 95, "pid=78, name=python, Uncontained: LTC TAG (0x2,0x1). RST: Yes, D-RST: No").0]);
    let fault = fault_of(95);
    assert_eq!((fault["job"].to_string(), &fault["action"]), (hit.clone(), &json!("reset_gpu")), "{fault}");
    until("its job waits", || (cluster.show(&hit)["state"] == "WAITING").then_some(()));
    let last = cluster.json(&["job", "show", &hit, "--run", "-1"]);
    let exit = &last["tasks"][0]["exit"];
    assert_eq!((&exit["class"], &exit["faults"]), (&json!("hardware"), &json!([fault["id"]])), "{last}");
    until("the board is out of use", || (gpu(&cluster, second)["state"] == "FAULTY").then_some(()));
    let untouched = cluster.show(&other);
    assert_eq!((&untouched["tasks"][0]["state"], &untouched["runs"][1]), (&json!("RUNNING"), &Value::Null));
    assert_eq!(cluster.json(&["fault", "clear", &fault["id"].to_string()])["state"], "CLEARED");
    // Not where it was hit, though both can be used again: the third is free once the other program has ended.
    cluster.touch("fail-other");
    let exit = cluster.wait_end(&other)["tasks"][0]["exit"].clone();
    assert_eq!((&exit["class"], &exit["faults"]), (&json!("user"), &json!([])), "nothing has hit it: {exit}");
    assert_eq!(cluster.wait_running(&hit)["tasks"][0]["gpus"][0], of_other);
}
