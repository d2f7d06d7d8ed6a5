//! The runtime of an agent from its settings: containers or processes.

use super::host;
use crate::config::{AgentConfig, ControllerConfig, Endpoint, GpuChoice, RuntimeChoice};
use crate::domain::command::Error;
use crate::domain::ids::NodeUid;
use crate::domain::remediation::Remediation;
use crate::runtime::docker::images::Images;
use crate::runtime::docker::images::collect::ImageRules;
use crate::runtime::docker::{Daemon, DockerConfig, DockerRuntime};
use crate::runtime::process::{OpenFiles, ProcessConfig, ProcessRuntime, RunAs};
use crate::runtime::{LogRing, Runtime, RuntimeEvent, StartError, unfinished};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// With `runtime = auto` a dockerd that does not answer for this long is none.
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// With `auto` Docker if it answers now or is installed, else processes. What earlier tasks run in goes before: only
/// the runtime that started them can look after them.
pub async fn of(
    config: &AgentConfig,
    node_uid: &NodeUid,
    open_files: Option<OpenFiles>,
    events: mpsc::Sender<RuntimeEvent>,
) -> Result<Arc<dyn Runtime>, Error> {
    let runtime: Result<Arc<dyn Runtime>, StartError> = match choose(config).await {
        Kind::Docker => DockerRuntime::new(docker(config, node_uid), events).map(|made| Arc::new(made) as _),
        Kind::Process => {
            ProcessRuntime::new(process(config, node_uid, open_files), events).map(|made| Arc::new(made) as _)
        }
    };
    runtime.map_err(|error| Error::refused(error.to_string()))
}

/// Whether the dockerd at `socket` has an image, or one sentence on why it does not answer.
pub async fn has_image(socket: &Path, reference: &str) -> Result<bool, String> {
    let asked = async {
        let docker = Daemon::new(socket).client().await.map_err(|error| error.to_string())?;
        let found = Images::new(docker).inspect(reference).await.map_err(|error| error.to_string())?;
        Ok(found.is_some())
    };
    let late = |_| Err(format!("dockerd at {} did not answer in {} s", socket.display(), PING_DEADLINE.as_secs()));
    tokio::time::timeout(PING_DEADLINE, asked).await.unwrap_or_else(late)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Docker,
    Process,
}

async fn choose(config: &AgentConfig) -> Kind {
    let answer = match config.runtime {
        RuntimeChoice::Process => return Kind::Process,
        RuntimeChoice::Docker | RuntimeChoice::Auto => Daemon::new(&config.docker_socket).ping(PING_DEADLINE).await,
    };
    if config.runtime == RuntimeChoice::Docker {
        if let Err(error) = answer {
            tracing::warn!(%error, "tasks run in containers, as soon as dockerd answers");
        }
        return Kind::Docker;
    }
    let dir = config.data_dir.clone();
    let earlier = tokio::task::spawn_blocking(move || unfinished(&dir)).await.unwrap_or_default();
    match (earlier.as_deref(), answer) {
        (Some("docker"), Err(error)) => {
            tracing::warn!(%error, "tasks run in containers, as earlier ones on this node still do");
            Kind::Docker
        }
        (Some("process"), Ok(())) => {
            tracing::warn!(
                "tasks run as plain processes, as earlier ones on this node still do, though dockerd answers"
            );
            Kind::Process
        }
        (_, Ok(())) => {
            tracing::info!(socket = %config.docker_socket.display(), "tasks run in containers: dockerd answers");
            Kind::Docker
        }
        (_, Err(error)) if is_installed(&config.docker_socket) => {
            // Jobs that were meant for a container would run as processes of this node's root.
            tracing::warn!(%error, "tasks run in containers, as soon as dockerd answers: this node has Docker");
            Kind::Docker
        }
        (_, Err(error)) => {
            tracing::info!(reason = %error, "tasks run as plain processes: dockerd does not answer");
            Kind::Process
        }
    }
}

/// Whether dockerd has listened at this socket, or is a service of this machine that would.
fn is_installed(socket: &Path) -> bool {
    const UNITS: [&str; 3] = [
        "/etc/systemd/system/docker.service",
        "/usr/lib/systemd/system/docker.service",
        "/run/systemd/system/docker.service",
    ];
    let usual = AgentConfig::default().docker_socket == socket;
    // Without systemd a unit's file says nothing.
    let service =
        usual && Path::new("/run/systemd/system").is_dir() && UNITS.iter().any(|unit| Path::new(unit).exists());
    service || std::fs::symlink_metadata(socket).is_ok()
}

fn log(config: &AgentConfig) -> LogRing {
    LogRing { segments: config.log_segments, segment_bytes: u64::from(config.log_segment_mb) * 1024 * 1024 }
}

fn docker(config: &AgentConfig, node_uid: &NodeUid) -> DockerConfig {
    DockerConfig {
        log: log(config),
        pids_limit: config.pids_limit,
        debug_hold_s: config.debug_hold_s,
        gpu_injection: config.gpu_injection,
        simulated_gpus: matches!(config.gpus, GpuChoice::Sim { .. }),
        policy: config.policy(),
        refused_dirs: own_places(config),
        image_rules: ImageRules {
            keep: (config.keep_images_hours > 0)
                .then(|| Duration::from_secs(u64::from(config.keep_images_hours) * 3600)),
            high_percent: config.images_high_percent,
            ..ImageRules::default()
        },
        ..DockerConfig::new(&config.data_dir, &config.docker_socket, node_uid.clone())
    }
}

/// Every path of wharf's own that the settings name.
fn own_places(config: &AgentConfig) -> Vec<PathBuf> {
    let sockets = config.listen.iter().chain(&config.controller).filter_map(|endpoint| match endpoint {
        Endpoint::Unix { path } => Some(path.clone()),
        Endpoint::Tcp { .. } => None,
    });
    // Of a controller beside it, and what the agent, as root, reads and runs.
    let controller = ControllerConfig::default().data_dir;
    let read = [config.nvml_library.as_ref(), config.xid_table.as_ref(), Some(&config.file)].into_iter().flatten();
    let run = match &config.remediation {
        Remediation::Command(words) => words.first().map(PathBuf::from),
        _ => None,
    };
    let files = read.cloned().chain(run).filter_map(|file| std::path::absolute(file).ok());
    [&config.data_dir, &config.run_dir, &controller].into_iter().cloned().chain(sockets).chain(files).collect()
}

fn process(config: &AgentConfig, node_uid: &NodeUid, open_files: Option<OpenFiles>) -> ProcessConfig {
    let LogRing { segments, segment_bytes } = log(config);
    ProcessConfig {
        run_as: run_as(config.run_as.as_deref()),
        policy: config.policy(),
        log_segments: segments,
        segment_bytes,
        pids_limit: config.pids_limit,
        debug_hold_s: config.debug_hold_s,
        open_files,
        ..ProcessConfig::new(&config.data_dir, &config.run_dir, host::task_groups(node_uid))
    }
}

fn run_as(setting: Option<&str>) -> RunAs {
    match setting {
        None => RunAs::AgentUser,
        Some("submitter") => RunAs::Submitter,
        Some(name) => RunAs::User(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node with the record of a task of this runtime that has not been removed.
    fn node(runtime: RuntimeChoice, earlier: Option<&str>) -> (tempfile::TempDir, AgentConfig) {
        let dir = tempfile::tempdir().unwrap();
        if let Some(earlier) = earlier {
            let task = dir.path().join("tasks/1.1.0.0");
            std::fs::create_dir_all(&task).unwrap();
            std::fs::write(task.join("task.json"), format!("{{\"runtime\": \"{earlier}\"}}")).unwrap();
            std::fs::write(task.join("shim.json"), "{}").unwrap();
        }
        let (data_dir, docker_socket) = (dir.path().to_owned(), dir.path().join("no-docker.sock"));
        (dir, AgentConfig { data_dir, docker_socket, runtime, ..AgentConfig::default() })
    }

    #[tokio::test]
    async fn without_dockerd_the_setting_or_earlier_tasks_decide() {
        for (setting, earlier, kind) in [
            (RuntimeChoice::Auto, None, Kind::Process),
            (RuntimeChoice::Auto, Some("process"), Kind::Process),
            (RuntimeChoice::Auto, Some("docker"), Kind::Docker),
            (RuntimeChoice::Docker, None, Kind::Docker),
            (RuntimeChoice::Process, Some("docker"), Kind::Process),
        ] {
            let (_dir, config) = node(setting, earlier);
            assert_eq!(choose(&config).await, kind, "{setting}, {earlier:?}");
        }
    }

    #[tokio::test]
    async fn a_node_with_docker_waits_for_it_rather_than_run_processes() {
        let (dir, config) = node(RuntimeChoice::Auto, None);
        // As dockerd leaves it when it is killed.
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("no-docker.sock")).unwrap());
        assert_eq!(choose(&config).await, Kind::Docker);
    }
}
