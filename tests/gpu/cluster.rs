//! A controller and an agent over the mock: what operators see and where jobs go.

use crate::harness::{Cluster, Node, job, role, until};
use crate::mock::{Mock, library};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::process::{Child, Command};

pub fn cluster(mock: &Mock, gpus: &str) -> Cluster {
    let mut node = Node::new("n0", gpus);
    node.more = format!("nvml_library = '{}'\nhealth_interval_s = 1", library().display());
    node.env = vec![("WHARF_MOCK_NVML".to_owned(), mock.file().display().to_string())];
    Cluster::with(vec![node], "")
}

/// Waits until the controller shows a GPU as wanted.
pub fn until_gpu(cluster: &Cluster, index: usize, state: &str) -> Value {
    until(&format!("GPU {index} is {state}"), || {
        let gpus = cluster.json(&["gpus"]);
        Some(gpus[index].clone()).filter(|gpu| gpu["state"] == state)
    })
}

pub fn until_driver(cluster: &Cluster, state: &str) -> Value {
    until(&format!("the driver is {state}"), || {
        let node = cluster.json(&["nodes"])[0].clone();
        Some(node).filter(|node| node["gpu_driver"]["state"] == state)
    })
}

/// A process that is on a GPU of the mock; ended when dropped.
struct Foreign(Child);

impl Foreign {
    fn start() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn with_gpus(name: &str, gpus: u32, command: &str) -> Value {
    let mut role = role("worker", 1, command);
    role["gpuNumber"] = json!(gpus);
    job(name, &[role])
}

#[test]
fn a_job_waits_until_a_foreign_process_is_gone() {
    let mut mock = Mock::new("2xTITANX.json");
    let foreign = Foreign::start();
    mock.change(|state| state["devices"][1]["processes"] = json!([{"pid": foreign.pid(), "memory_mb": 300}]));
    let cluster = cluster(&mock, "nvml");
    let gpu = until_gpu(&cluster, 1, "WITHHELD");
    let reason = gpu["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("process {} (sleep)", foreign.pid())), "{reason}");
    assert_eq!(gpu["gpu_type"].as_str(), Some("TITANX"));
    // What is measured comes with the first heartbeat after the registration.
    until("the fan's speed is known", || (until_gpu(&cluster, 1, "WITHHELD")["fan_percent"] == 23).then_some(()));
    let id = cluster.submit(&with_gpus("both", 2, "echo $NVIDIA_VISIBLE_DEVICES"));
    let free = |count: u64| {
        until(&format!("{count} GPUs are free"), || {
            (cluster.json(&["nodes"])[0]["gpus_free"] == count).then_some(())
        });
    };
    free(1);
    assert_eq!(cluster.show(&id)["state"], "WAITING");
    let one = cluster.submit(&with_gpus("one", 1, "true"));
    let ended = cluster.wait_end(&one);
    assert_eq!(ended["state"], "SUCCEEDED");
    assert_ne!(ended["tasks"][0]["gpus"][0], gpu["uuid"], "the other one");
    // The driver drops a process from its list as it ends; this one's number is no process any more.
    drop(foreign);
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    cluster.wait_idle();
    let history = cluster.cli(&["events", "--json"]).expect(0).text();
    assert!(history.contains("gpu.withheld") && history.contains("gpu.usable"), "{history}");
}

#[test]
fn what_a_task_leaves_on_its_gpu_withholds_it() {
    let mut mock = Mock::new("2xTITANX.json");
    let cluster = cluster(&mock, "nvml");
    until_driver(&cluster, "OK");
    let id = cluster.submit(&with_gpus("leaves", 2, "sleep 1000"));
    cluster.wait_running(&id);
    let foreign = Foreign::start();
    mock.change(|state| state["devices"][0]["processes"] = json!([{"pid": foreign.pid(), "memory_mb": 300}]));
    let held = until_gpu(&cluster, 0, "HELD");
    assert_eq!((held["job"].as_str(), held["reason"].clone()), (Some("leaves"), Value::Null));
    assert!(held["user"].is_string() && held["since"].is_string(), "{held}");
    cluster.cli(&["stop", "--grace", "0", &id]).expect(0);
    cluster.wait_end(&id);
    let withheld = until_gpu(&cluster, 0, "WITHHELD");
    assert!(withheld["reason"].as_str().unwrap().contains(&foreign.pid().to_string()), "{withheld}");
    drop(foreign);
    cluster.wait_idle();
}

#[test]
fn a_stopped_worker_delays_no_question_to_the_agent() {
    let mock = Mock::new("8xH100.json");
    let cluster = cluster(&mock, "nvml");
    until_driver(&cluster, "OK");
    let agent = format!("unix:{}", cluster.path("a0.sock").display());
    let stopped = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    };
    until("an answer while the worker is stopped", || {
        let worker = *mock.workers().first()?;
        kill(Pid::from_raw(worker), Signal::SIGSTOP).ok()?;
        let gpus = cluster.json(&["gpus", "--agent", &agent]);
        assert_eq!(gpus.as_array().unwrap().len(), 8);
        // Still the same: the agent did not wait for it to be replaced.
        stopped(worker).then_some(())
    });
    let id = cluster.submit(&with_gpus("after", 8, "true"));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED", "with a new worker");
}

#[test]
fn a_lost_gpu_is_shown_and_the_rest_are_used() {
    let mut mock = Mock::new("8xH100.json");
    let cluster = cluster(&mock, "nvml");
    until_driver(&cluster, "OK");
    mock.change(|state| state["devices"][6]["errors"] = json!({"*": "GPU_IS_LOST"}));
    let lost = until_gpu(&cluster, 6, "LOST");
    assert!(lost["reason"].as_str().unwrap().contains("GPU 6"), "{lost}");
    let id = cluster.submit(&with_gpus("seven", 7, "true"));
    assert_eq!(cluster.wait_end(&id)["state"], "SUCCEEDED");
    mock.mend();
    until_gpu(&cluster, 6, "FREE");
}

#[test]
fn a_node_says_how_its_driver_is_and_finds_it_when_it_comes() {
    let mut mock = Mock::new("MIG-A100.json");
    mock.fail("nvmlInit_v2", "DRIVER_NOT_LOADED");
    let cluster = cluster(&mock, "nvml");
    let node = until_driver(&cluster, "DRIVER_NOT_LOADED");
    assert!(node["gpu_driver"]["sentence"].as_str().unwrap().contains("modprobe nvidia"), "{node}");
    assert_eq!((node["state"].as_str(), node["gpus_total"].as_u64()), (Some("READY"), Some(0)));
    mock.mend();
    let node = until_driver(&cluster, "OK");
    assert_eq!(node["gpu_driver"]["driver_version"], "570.172.08");
    let node = until("the slices and the whole GPU", || {
        Some(cluster.json(&["nodes"])[0].clone()).filter(|node| node["gpus_free"] == 4)
    });
    assert_eq!(node["gpus_total"], 4, "a divided GPU is not one more");
    let shown = until_gpu(&cluster, 0, "WITHHELD");
    assert!(shown["reason"].as_str().unwrap().contains("3 MIG slices"), "{shown}");
    let gpus = cluster.json(&["gpus"]);
    assert_eq!((gpus[1]["mig"]["profile"].as_str(), &gpus[1]["mig_parent"]), (Some("3g.40gb"), &gpus[0]["uuid"]));
}
