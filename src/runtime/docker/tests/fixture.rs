//! A dockerd for tests and a node's state beside it. Nothing of either is left behind.

use super::*;
use crate::domain::policy::MountRule;
use crate::runtime::contract::Subject;
use crate::runtime::shimmed::process_id::ProcessId;
use std::path::Path;
use std::process::Command;

/// A dockerd of `tests/docker.sh`.
pub struct Dockerd {
    pub socket: PathBuf,
    /// Started for one test.
    own: Option<PathBuf>,
}

impl Dockerd {
    /// The one that was started for all tests, else one of its own.
    pub fn any(test: &str) -> Option<Self> {
        match std::env::var_os("WHARF_TEST_DOCKER") {
            Some(socket) => Some(Self { socket: socket.into(), own: None }),
            None => Self::own(test),
        }
    }

    /// One that a test may stop and kill.
    pub fn own(test: &str) -> Option<Self> {
        Self::begin(test, "start")
    }

    /// One that has a bridge.
    pub fn bridged(test: &str) -> Option<Self> {
        Self::begin(test, "bridge")
    }

    fn begin(test: &str, how: &str) -> Option<Self> {
        if !script(&["can-run"]).status.success() {
            skip(test, "it needs root, dockerd, docker, busybox, nsenter and ip");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("wd").tempdir().unwrap().keep();
        let started = script(&[how, dir.to_str().unwrap()]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Some(Self { socket: dir.join("docker.sock"), own: Some(dir) })
    }

    /// What `docker ARGUMENTS` prints.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.socket.display());
        let run = Command::new("docker").arg("-H").arg(host).args(arguments).output().unwrap();
        assert!(run.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    }

    pub fn pid(&self) -> i32 {
        let file = self.own.as_ref().unwrap().join("pid");
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// After it was killed.
    pub fn start_again(&self) {
        let started = script(&["launch", self.own.as_ref().unwrap().to_str().unwrap()]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(dir) = &self.own {
            // A test that stopped it may have failed.
            if let Some(pid) = std::fs::read_to_string(dir.join("pid")).ok().and_then(|pid| pid.trim().parse().ok()) {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGCONT).ok();
            }
            script(&["stop", dir.to_str().unwrap()]);
        }
    }
}

fn script(arguments: &[&str]) -> std::process::Output {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker.sh");
    Command::new("bash").arg(path).args(arguments).output().unwrap()
}

/// As `tests/e2e` has it: `tests/run` prints what was not run.
fn skip(what: &str, why: &str) {
    let line = format!("{what}: {why}\n");
    eprint!("not run here: {line}");
    let Some(path) = std::env::var_os("WHARF_SKIPS") else { return };
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes())).unwrap();
}

/// A node's state, and its name in labels.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub node_uid: String,
    pub dockerd: Dockerd,
}

impl Place {
    pub fn new(test: &str) -> Option<Self> {
        Dockerd::any(test).map(Self::beside)
    }

    pub fn beside(dockerd: Dockerd) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        // As a node's state directory: users of images pass through.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        Self { dir, node_uid: uuid::Uuid::new_v4().to_string(), dockerd }
    }

    pub fn config(&self) -> DockerConfig {
        let log = LogRing { segment_bytes: 1024 * 1024, ..LogRing::default() };
        let node_uid = NodeUid(self.node_uid.clone());
        let policy = jobs_in(self.dir.path());
        DockerConfig {
            log,
            policy,
            ..DockerConfig::new(self.dir.path().join("state"), &self.dockerd.socket, node_uid)
        }
    }

    pub fn task_dir(&self, id: TaskId) -> PathBuf {
        self.dir.path().join("state/tasks").join(id.to_string())
    }

    pub fn shim(&self, id: TaskId) -> ProcessId {
        let text = std::fs::read_to_string(self.task_dir(id).join("shim.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub fn record(&self, id: TaskId) -> TaskRecord<ContainerFacts> {
        let text = std::fs::read_to_string(self.task_dir(id).join("task.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Living processes of the task.
    pub fn members(&self, id: TaskId) -> Vec<i32> {
        self.record(id).facts.started.unwrap().groups.members().into_iter().collect()
    }

    /// The names of this node's containers, in whatever state.
    pub fn containers(&self) -> Vec<String> {
        let label = format!("label=wharf.node_uid={}", self.node_uid);
        let listed = self.dockerd.docker(&["ps", "-a", "--no-trunc", "--filter", &label, "--format", "{{.Names}}"]);
        listed.lines().map(str::to_owned).collect()
    }

    pub fn container(&self, id: TaskId) -> Option<String> {
        let begin = format!("wharf-{id}-");
        self.containers().into_iter().find(|name| name.starts_with(&begin))
    }

    /// No container, no process, no folder but the log.
    pub fn assert_nothing_left(&self, id: TaskId) {
        assert_eq!(self.containers(), [""; 0]);
        let shim = self.task_dir(id).join("shim.json");
        assert!(!shim.exists() && !self.task_dir(id).join("mount").exists());
    }
}

impl Site for Place {
    fn start(&self) -> Subject {
        let (sender, events) = mpsc::channel(16);
        Subject { runtime: Arc::new(DockerRuntime::new(self.config(), sender).unwrap()), events }
    }

    fn task(&self, command: &str) -> TaskSpec {
        TaskSpec { image: "wharf-test/busybox:1".into(), ..contract::task(command) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that failed half-way must leave nothing either.
        let panicking = std::thread::panicking();
        let left = if panicking { Vec::new() } else { self.containers() };
        if panicking {
            let label = format!("label=wharf.node_uid={}", self.node_uid);
            let host = format!("unix://{}", self.dockerd.socket.display());
            let script = format!("docker -H {host} ps -aq --filter {label} | xargs -r docker -H {host} rm -fv");
            Command::new("timeout").args(["20", "sh", "-c", &script]).output().ok();
        }
        assert_eq!(left, [""; 0], "no container is left");
    }
}

/// Jobs may name this folder.
pub fn jobs_in(folder: &Path) -> Policy {
    Policy { mounts: vec![MountRule::writable(folder)], ..Policy::default() }
}
