//! What a task as a container costs over Docker alone.

use super::clock::{Stamps, ms_between, now_ns};
use super::cluster::{Cluster, job};
use super::table::{Sample, Table};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions, StartContainerOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const IMAGE: &str = "wharf-bench:1";

/// A Docker of our own, with one small image.
pub struct Dockerd {
    child: Child,
    pub socket: PathBuf,
}

impl Dockerd {
    /// None, with a word why, where there is no dockerd or no right to run one.
    pub async fn start(folder: &Path, stamps: &Stamps) -> Option<Self> {
        let root = folder.join("docker");
        std::fs::create_dir_all(&root).expect("the folder is ours");
        let socket = root.join("s");
        let log = std::fs::File::create(root.join("log")).expect("the folder is ours");
        let started = Command::new("dockerd")
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false"])
            .arg(format!("--data-root={}", root.join("data").display()))
            .arg(format!("--exec-root={}", root.join("exec").display()))
            .arg(format!("--pidfile={}", root.join("pid").display()))
            .arg(format!("--host=unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                eprintln!("not measured: anything with Docker: dockerd does not start: {error}");
                return None;
            }
        };
        let mut dockerd = Self { child, socket };
        let end = Instant::now() + Duration::from_secs(30);
        while !dockerd
            .docker(&["version"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
        {
            if Instant::now() > end || dockerd.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                eprintln!("not measured: anything with Docker: dockerd does not answer here");
                return None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        dockerd.import(&root, stamps);
        Some(dockerd)
    }

    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg(format!("--host=unix://{}", self.socket.display())).args(arguments).stdin(Stdio::null());
        command
    }

    fn import(&self, root: &Path, stamps: &Stamps) {
        let tree = root.join("tree");
        std::fs::create_dir_all(tree.join("bin")).expect("the folder is ours");
        std::fs::create_dir_all(tree.join("tmp")).expect("the folder is ours");
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let busybox = busybox.expect("busybox-static is installed");
        std::fs::copy(busybox, tree.join("bin/busybox")).expect("busybox can be copied");
        for name in ["sh", "cat", "yes", "head", "sleep"] {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).ok();
        }
        std::fs::copy(&stamps.program, tree.join("stamp")).expect("the stamp can be copied");
        let tar = root.join("image.tar");
        let packed = Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.is_ok_and(|status| status.success()), "tar failed");
        let done = self.docker(&["import", &tar.display().to_string(), IMAGE]).stdout(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "docker import failed");
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.child.wait().ok();
    }
}

/// Submit to first instruction, beside create + start over the API and `docker run -d`, in turns.
pub async fn run(folder: &Path, stamps: &Stamps, dockerd: &Dockerd, rounds: usize, table: &mut Table) {
    let settings = format!("runtime = 'docker'\ngpus = 'none'\ndocker_socket = '{}'", dockerd.socket.display());
    let cluster = Cluster::start(&folder.join("containers"), &[settings]).await;
    let api = Docker::connect_with_unix(&dockerd.socket.display().to_string(), 60, bollard::API_DEFAULT_VERSION)
        .expect("the socket is there")
        .negotiate_version()
        .await
        .expect("dockerd answers");
    let (mut ours, mut raw, mut cli) = <(Sample, Sample, Sample)>::default();
    for round in 0..rounds {
        let command = |tag: &str| format!("exec /stamp {} {tag}", stamps.port);
        let tag = format!("w{round}");
        let start = now_ns();
        let id = cluster.submit(&job(&format!("bench-{tag}"), IMAGE, 1, &command(&tag))).await;
        ours.0.push(ms_between(start, stamps.wait(&tag)));
        cluster.wait_ended(id).await;

        let tag = format!("r{round}");
        let start = now_ns();
        let name = create_and_start(&api, &command(&tag)).await;
        raw.0.push(ms_between(start, stamps.wait(&tag)));
        remove(&api, &name).await;

        let tag = format!("d{round}");
        let start = now_ns();
        let run = ["run", "-d", "--rm", "--network=host", IMAGE, "/bin/sh", "-c", &command(&tag)];
        let done = dockerd.docker(&run).stdout(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "docker run failed");
        cli.0.push(ms_between(start, stamps.wait(&tag)));
    }
    table.pair("container: submit to first instruction", "ms", &ours, "API create + start", &raw);
    table.pair("container: submit to first instruction", "ms", &ours, "docker run -d", &cli);
    let over: Vec<f64> = ours.0.iter().zip(&raw.0).map(|(ours, raw)| ours - raw).collect();
    table.alone("container: over API create + start of the same round", "ms", &Sample(over));
}

async fn create_and_start(api: &Docker, command: &str) -> String {
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()]),
        host_config: Some(HostConfig { network_mode: Some("host".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let made = api.create_container(None::<CreateContainerOptions>, body).await.expect("Docker creates");
    api.start_container(&made.id, None::<StartContainerOptions>).await.expect("Docker starts");
    made.id
}

async fn remove(api: &Docker, id: &str) {
    let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
    api.remove_container(id, Some(options)).await.expect("Docker removes");
}
