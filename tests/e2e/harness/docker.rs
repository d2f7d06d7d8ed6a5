//! A dockerd for a test: the one that `tests/run` has started, else one of the test's own.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Dropping it stops a dockerd that was started for the test.
#[derive(Debug)]
pub struct Dockerd {
    socket: PathBuf,
    own: Option<PathBuf>,
}

impl Dockerd {
    /// None, with the reason on the list of skips, where no dockerd can run.
    pub fn get(what: &str) -> Option<Self> {
        match std::env::var_os("WHARF_TEST_DOCKER") {
            Some(socket) => Some(Self { socket: socket.into(), own: None }),
            None => Self::own(what),
        }
    }

    /// One that the test may stop, kill and freeze.
    pub fn own(what: &str) -> Option<Self> {
        Self::begin(what, "start")
    }

    /// One without live-restore: what runs in it ends with it.
    pub fn mortal(what: &str) -> Option<Self> {
        Self::begin(what, "mortal")
    }

    fn begin(what: &str, how: &str) -> Option<Self> {
        if !script(&["can-run"]).status().is_ok_and(|status| status.success()) {
            super::skip(what, "no dockerd can run here: it needs root and Debian's docker.io and busybox-static");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("wd-").tempdir_in("/tmp").expect("a folder can be made").keep();
        let started = script(&[how]).arg(&folder).output().expect("the script starts");
        let said = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "tests/docker.sh {how}: {said}");
        Some(Self { socket: folder.join("docker.sock"), own: Some(folder) })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().expect("it runs")), signal).expect("it is ours");
    }

    /// As a service manager ends it; gone when this returns.
    pub fn stop(&self) {
        self.end(Signal::SIGTERM);
    }

    /// Without a word to what it runs; gone when this returns.
    pub fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    fn end(&self, signal: Signal) {
        let pid = self.pid().expect("it runs");
        self.signal(signal);
        super::wait::until("dockerd has ended", || (!super::proc::is_alive(pid)).then_some(()));
    }

    /// After it was stopped or killed.
    pub fn start_again(&self) {
        let folder = self.own.as_ref().expect("it is the test's own");
        let started = script(&["launch"]).arg(folder).output().expect("the script starts");
        assert!(started.status.success(), "tests/docker.sh launch: {}", String::from_utf8_lossy(&started.stderr));
    }

    /// Of one that is the test's own and runs.
    pub fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.own.as_ref()?.join("pid")).ok()?.trim().parse().ok()
    }

    /// Removes what nodes have left running: in dockerd's network their ports are another test's tomorrow.
    pub fn remove_of(&self, node_uids: &[String]) {
        for uid in node_uids {
            // dockerd refuses to remove what it is removing already; the next look tells what is left.
            super::wait::until("no container of the node is left", || {
                let found = self.docker(&["ps", "-aq", "--filter", &format!("label=wharf.node_uid={uid}")]);
                let found: Vec<&str> = found.split_whitespace().collect();
                let remove = [&["rm", "-fv"][..], &found].concat();
                let left =
                    !found.is_empty() && !self.command(&remove).output().expect("docker starts").status.success();
                (!left).then_some(())
            });
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.socket.display())).args(arguments);
        command
    }

    /// What `docker ARGUMENTS` prints.
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("docker starts");
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(folder) = &self.own {
            // A test that has frozen it may have failed.
            self.pid().and_then(|pid| kill(Pid::from_raw(pid), Signal::SIGCONT).ok());
            script(&["stop"]).arg(folder).status().ok();
        }
    }
}

fn script(arguments: &[&str]) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker.sh")).args(arguments);
    command
}
