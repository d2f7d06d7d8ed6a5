//! What the demo runs on: what this machine has, else what can be simulated. Says which, and why.

use crate::cli::args::NodeArgs;
use crate::cli::serve::docker_socket;
use crate::daemon::has_image;
use std::path::Path;

/// Small, with a shell, and on many machines already.
pub(super) const IMAGE: &str = "busybox:1";
/// Processes need none.
const NO_IMAGE: &str = "none";

/// The demo's node.
pub(super) struct Choice {
    pub(super) node: NodeArgs,
    /// Of its job.
    pub(super) image: &'static str,
    /// Lines for whoever looks on.
    pub(super) why: [String; 2],
}

pub(super) async fn choose(args: &NodeArgs) -> Choice {
    let mut node = args.clone();
    // More than a small machine has: the demo's tasks only sleep and print.
    node.cpus = node.cpus.or(Some(16));
    node.memory_mb = node.memory_mb.or(Some(65_536));
    let gpus = gpus(&mut node);
    let runtime = runtime(&mut node).await;
    let image = if node.runtime == "docker" { IMAGE } else { NO_IMAGE };
    Choice { node, image, why: [gpus, runtime] }
}

fn gpus(node: &mut NodeArgs) -> String {
    if node.gpus != "auto" {
        return format!("GPUs: {}, as asked", node.gpus);
    }
    if Path::new("/dev/nvidiactl").exists() {
        node.gpus = "nvml".to_owned();
        return "GPUs: this machine's own, through the NVIDIA driver".to_owned();
    }
    node.gpus = "sim:8xH100".to_owned();
    "GPUs: 8 simulated H100: this machine has no NVIDIA driver (no /dev/nvidiactl)".to_owned()
}

/// Nothing is fetched unasked: a demo that waits for a registry shows nothing.
async fn runtime(node: &mut NodeArgs) -> String {
    if node.runtime != "auto" {
        let runtime = &node.runtime;
        return format!("runtime: {runtime}, as asked");
    }
    let socket = docker_socket();
    let (runtime, why) = match has_image(&socket, IMAGE).await {
        Ok(true) => ("docker", format!("dockerd answers at {} and has {IMAGE}", socket.display())),
        Ok(false) => (
            "process",
            format!("dockerd answers, but has no {IMAGE}; '--runtime docker' fetches it and uses containers"),
        ),
        Err(reason) => ("process", reason),
    };
    node.runtime = runtime.to_owned();
    let name = if runtime == "docker" { "Docker containers" } else { "plain processes" };
    format!("runtime: {name}: {why}")
}
