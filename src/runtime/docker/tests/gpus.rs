//! GPUs in containers that are really started, without a GPU: a tree like a node's with the driver's names for devices
//! that every kernel has, and a stand-in for the NVIDIA runtime. A task that asks for GPUs never starts without.

use super::*;
use crate::domain::ids::GpuUuid;
use crate::runtime::contract::Subject;
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;

const LIBRARY: &str = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
const NULL: (u32, u32) = (1, 3);
const ZERO: (u32, u32) = (1, 5);
const FULL: (u32, u32) = (1, 7);
/// A major number that no driver has.
const NOBODY: (u32, u32) = (4000, 0);

fn make_node(root: &Path, name: &str, (major, minor): (u32, u32)) {
    let path = root.join("dev").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::remove_file(&path).ok();
    let (major, minor) = (major.to_string(), minor.to_string());
    let made = Command::new("mknod").arg(&path).args(["c", &major, &minor]).status().unwrap();
    assert!(made.success());
}

/// A driver with two GPUs: reading the first gives zeros, writing to the second fails.
fn driver(place: &Place) -> PathBuf {
    let root = place.dir.path().join("driver");
    for (name, device) in [("nvidiactl", NULL), ("nvidia-uvm", NULL), ("nvidia0", ZERO), ("nvidia1", FULL)] {
        make_node(&root, name, device);
    }
    let library = root.join(LIBRARY);
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    std::fs::write(library, "of the driver").unwrap();
    root
}

fn start(place: &Place, injection: GpuInjection) -> Subject {
    let (sender, events) = mpsc::channel(16);
    let config =
        DockerConfig { driver_root: place.dir.path().join("driver"), gpu_injection: injection, ..place.config() };
    Subject { runtime: Arc::new(DockerRuntime::new(config, sender).unwrap()), events }
}

fn gpus(minors: &[u32]) -> Vec<Gpu> {
    let gpu =
        |minor: &u32| Gpu { uuid: GpuUuid(format!("GPU-{minor}")), index: *minor, minor: *minor, ..Gpu::default() };
    minors.iter().map(gpu).collect()
}

fn with(task: TaskSpec, gpus: &[Gpu]) -> TaskSpec {
    TaskSpec { gpus: gpus.iter().map(|gpu| gpu.uuid.clone()).collect(), ..task }
}

/// Runs to its end and gives its output.
async fn run(subject: &mut Subject, task: &TaskSpec, gpus: &[Gpu], env: &[(&str, &str)]) -> String {
    subject.runtime.prepare(task, gpus).await.unwrap();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    subject.runtime.launch(task.id, &Launch { env, ..Launch::default() }).await.unwrap();
    subject.started().await;
    let exit = subject.exited().await;
    let (stdout, stderr) = output(&subject.runtime.log_dir(task.id));
    assert!(exit.is_success(), "{exit:?}: {} {}", text(&stdout), text(&stderr));
    text(&stdout)
}

/// Preparing says this, and leaves nothing.
async fn refuses(place: &Place, subject: &Subject, gpus: &[Gpu], said: &[&str]) {
    let task = with(place.task("echo ran"), gpus);
    let refused = subject.runtime.prepare(&task, gpus).await.unwrap_err();
    assert!(!refused.user_error, "another node may do: {refused}");
    assert!(said.iter().all(|part| refused.message.contains(part)), "{refused}");
    place.assert_nothing_left(task.id);
    assert!(!place.task_dir(task.id).exists());
}

const LOOK: &str = "echo nodes /dev/nvidia*; cat /usr/lib/x86_64-linux-gnu/libcuda.so.1 2>/dev/null; \
    echo; echo visible $NVIDIA_VISIBLE_DEVICES, $CUDA_VISIBLE_DEVICES; ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_nodes_and_library_are_in_the_container() {
    let Some(place) = Place::new("docker: device_nodes_and_library_are_in_the_container") else { return };
    driver(&place);
    let mut subject = start(&place, GpuInjection::DeviceNodes);
    let both = gpus(&[0, 1]);
    let probe = "head -c 3 /dev/nvidia0 | od -An -tx1; (echo x >/dev/nvidia1) 2>/dev/null || echo full";
    let task = with(place.task(&format!("{LOOK}{probe}")), &both);
    let env = [("NVIDIA_VISIBLE_DEVICES", "GPU-0,GPU-1"), ("CUDA_VISIBLE_DEVICES", "0,1")];
    let found = run(&mut subject, &task, &both, &env).await;
    let nodes = "nodes /dev/nvidia-uvm /dev/nvidia0 /dev/nvidia1 /dev/nvidiactl";
    assert_eq!(found, format!("{nodes}\nof the driver\nvisible GPU-0,GPU-1, 0,1\n 00 00 00\nfull\n"));
    subject.runtime.remove(task.id).await.unwrap();
    // One of the two: the other is not there.
    let second = gpus(&[1]);
    let task = with(place.task(LOOK), &second);
    let env = [("NVIDIA_VISIBLE_DEVICES", "GPU-1"), ("CUDA_VISIBLE_DEVICES", "0")];
    let found = run(&mut subject, &task, &second, &env).await;
    let nodes = "nodes /dev/nvidia-uvm /dev/nvidia1 /dev/nvidiactl";
    assert_eq!(found, format!("{nodes}\nof the driver\nvisible GPU-1, 0\n"));
    subject.finish(task.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_node_lacks_is_named_before_anything_is_made() {
    let Some(place) = Place::new("docker: what_the_node_lacks_is_named_before_anything_is_made") else { return };
    let root = driver(&place);
    let subject = start(&place, GpuInjection::DeviceNodes);
    let one = gpus(&[0]);
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
        let path = root.join("dev").join(node);
        std::fs::rename(&path, root.join("away")).unwrap();
        refuses(&place, &subject, &one, &[&format!("/dev/{node} "), "GPU-0", "is not on this node"]).await;
        std::fs::rename(root.join("away"), &path).unwrap();
    }
    std::fs::remove_file(root.join(LIBRARY)).unwrap();
    refuses(&place, &subject, &one, &["libcuda.so.1 is not on this node"]).await;
    subject.finish(place.task("").id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_open_inside_is_a_veto() {
    let Some(place) = Place::new("docker: a_node_that_does_not_open_inside_is_a_veto") else { return };
    let root = driver(&place);
    let subject = start(&place, GpuInjection::DeviceNodes);
    for (node, device) in [("nvidia1", FULL), ("nvidiactl", NULL), ("nvidia-uvm", NULL)] {
        make_node(&root, node, NOBODY);
        refuses(&place, &subject, &gpus(&[0, 1]), &[&format!("/dev/{node} open it"), "No such device"]).await;
        make_node(&root, node, device);
    }
    subject.finish(place.task("").id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_without_gpus_sees_none() {
    let Some(place) = Place::new("docker: a_task_without_gpus_sees_none") else { return };
    driver(&place);
    let mut subject = start(&place, GpuInjection::Auto);
    let task = place.task(LOOK);
    assert_eq!(run(&mut subject, &task, &[], &[]).await, "nodes /dev/nvidia*\n\nvisible void,\n");
    subject.finish(task.id).await;
}

/// A runtime that gives a container what `NVIDIA_VISIBLE_DEVICES` of it says: here, a variable that says so, and the
/// library unless the folder has a file `no-library`. As dockerd's default, as on nodes set up for GPUs.
fn injecting_runtime(place: &Place) {
    use std::os::unix::fs::PermissionsExt;
    let dir = place.dir.path();
    let script = format!(
        r#"#!/bin/sh
case " $* " in *" create "*) ;; *) exec runc "$@" ;; esac
last=; for word; do [ "$last" = --bundle ] && config="$word/config.json"; last="$word"; done
if ! grep -q 'NVIDIA_VISIBLE_DEVICES=void' "$config"; then
    sed -i 's|"env":\[|"env":["INJECTED=yes",|' "$config"
    [ -e {0}/no-library ] || sed -i 's|"mounts":\[|"mounts":[{{"destination":"/{LIBRARY}","type":"bind","source":"{0}/driver/{LIBRARY}","options":["rbind","ro"]}},|' "$config"
fi
exec runc "$@"
"#,
        dir.display()
    );
    let path = dir.join("nvidia-runtime");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = serde_json::json!({ "runtimes": { "nvidia": { "path": path } }, "default-runtime": "nvidia" });
    std::fs::write(place.dockerd.socket.with_file_name("daemon.json"), config.to_string()).unwrap();
    place.dockerd.signal(Signal::SIGHUP);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_runtime_that_injects_gives_gpus_only_to_who_asked() {
    let test = "docker: a_default_runtime_that_injects_gives_gpus_only_to_who_asked";
    let Some(place) = Dockerd::own(test).map(Place::beside) else { return };
    driver(&place);
    injecting_runtime(&place);
    let default = || place.dockerd.docker(&["info", "--format", "{{.DefaultRuntime}}"]);
    contract::wait_until("the default runtime", || default().trim() == "nvidia").await;
    // The stand-in does inject, where nobody forbids it.
    let image = "wharf-test/busybox:1";
    let plain = place.dockerd.docker(&["run", "--rm", "--network=host", image, "sh", "-c", "echo $INJECTED"]);
    assert_eq!(plain, "yes\n");
    let mut subject = start(&place, GpuInjection::Auto);
    let look = format!("{LOOK}echo injected $INJECTED");
    let task = place.task(&look);
    let found = run(&mut subject, &task, &[], &[]).await;
    assert_eq!(found, "nodes /dev/nvidia*\n\nvisible void,\ninjected\n");
    subject.runtime.remove(task.id).await.unwrap();
    // Who asked gets them by this runtime.
    let one = gpus(&[0]);
    let task = with(place.task(&look), &one);
    let found = run(&mut subject, &task, &one, &[("CUDA_VISIBLE_DEVICES", "0")]).await;
    let nodes = "nodes /dev/nvidia-uvm /dev/nvidia0 /dev/nvidiactl";
    assert_eq!(found, format!("{nodes}\nof the driver\nvisible GPU-0, 0\ninjected yes\n"));
    subject.runtime.remove(task.id).await.unwrap();
    // A runtime that does not do its part is found out in the container.
    std::fs::write(place.dir.path().join("no-library"), "").unwrap();
    refuses(&place, &subject, &one, &["libcuda.so.1 open it", "No such file"]).await;
    subject.finish(task.id).await;
}
