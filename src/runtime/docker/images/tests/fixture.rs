//! A dockerd and a registry of a test's own, in a network namespace of their own: nothing of the machine is touched.

use super::proxy::Proxy;
use crate::runtime::docker::images::reference::Reference;
use bollard::auth::DockerCredentials;
use bollard::query_parameters::{BuildImageOptionsBuilder, PushImageOptionsBuilder, RemoveImageOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;

/// Long enough for a loaded machine; nothing waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(90);
pub const USER: &str = "ada";
/// In base 64 it holds characters that the alphabet for URLs writes otherwise.
pub const PASSWORD: &str = "hunter2>>>???~~~";
pub const REGISTRY_PORT: u16 = 5000;
/// The same registry, behind what can be told to stall or to break.
pub const PROXY_PORT: u16 = 5001;

/// Both daemons. Dropping ends them and removes what they wrote.
pub struct Fixture {
    pub docker: Docker,
    pub proxy: Proxy,
    registry: Option<Daemon>,
    dockerd: Daemon,
    dir: PathBuf,
}

/// Why there can be no fixture here; says so where skips are collected.
pub fn missing() -> Option<String> {
    let programs = ["dockerd", "docker-registry", "htpasswd", "unshare", "nsenter", "ip"];
    let there =
        |name: &&str| ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let why = if !nix::unistd::Uid::effective().is_root() {
        "needs root".to_owned()
    } else if let Some(name) = programs.iter().find(|name| !there(name)) {
        format!("needs {name}")
    } else {
        return None;
    };
    let line = format!("images from a real registry: {why}\n");
    eprint!("not run here: {line}");
    if let Some(path) = std::env::var_os("WHARF_SKIPS") {
        let file = File::options().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skips can be written");
    }
    Some(why)
}

impl Fixture {
    pub async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("image-{:08x}", uuid::Uuid::new_v4().as_fields().0));
        fs::create_dir_all(&dir).expect("a folder for the daemons");
        let socket = dir.join("docker.sock");
        let dockerd = Daemon::dockerd(&dir, &socket);
        until("dockerd listens", async || socket.exists()).await;
        let docker = Docker::connect_with_unix(socket.to_str().expect("ASCII"), 60, API_DEFAULT_VERSION)
            .expect("a client without a connection");
        until("dockerd answers", async || docker.ping().await.is_ok()).await;
        let docker = docker.negotiate_version().await.expect("dockerd tells its version");
        fs::write(dir.join("htpasswd"), htpasswd()).expect("logins can be written");
        let proxy = Proxy::start(dockerd.pid(), PROXY_PORT, REGISTRY_PORT);
        let mut fixture = Self { docker, proxy, registry: None, dockerd, dir };
        fixture.start_registry().await;
        fixture
    }

    pub async fn start_registry(&mut self) {
        let registry = Daemon::registry(&self.dir, self.dockerd.pid());
        let proxy = &self.proxy;
        until("the registry listens", async || proxy.reaches_registry()).await;
        self.registry = Some(registry);
    }

    pub fn kill_registry(&mut self) {
        self.registry.take().expect("the registry runs").0.kill().expect("it is ours");
    }

    /// Whether dockerd has logged something like this.
    pub fn dockerd_said(&self, what: &str) -> bool {
        fs::read_to_string(self.dir.join("dockerd.log")).expect("a log").contains(what)
    }

    /// How often the registry was asked for something like this, and gave it.
    pub fn requests(&self, what: &str) -> usize {
        let mut log = String::new();
        File::open(self.dir.join("registry.log")).and_then(|mut file| file.read_to_string(&mut log)).expect("a log");
        log.lines().filter(|line| line.contains(what) && line.contains("HTTP/1.1\" 200 ")).count()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts an image of `layers` layers of `bytes` bytes each into the registry, and none of it into dockerd. It is
    /// named as the proxy's.
    pub async fn publish(&self, name: &str, layers: usize, bytes: usize) -> String {
        let local = format!("127.0.0.1:{REGISTRY_PORT}/{name}:1");
        self.build(&local, layers, bytes, "").await;
        let login = DockerCredentials {
            username: Some("pusher".to_owned()),
            password: Some("plain".to_owned()),
            ..DockerCredentials::default()
        };
        let reference = Reference::parse(&local).expect("a name");
        let options = PushImageOptionsBuilder::new().tag("1").build();
        let mut pushing = self.docker.push_image(&reference.repository(), Some(options), Some(login));
        while let Some(message) = pushing.next().await {
            message.expect("the image is pushed");
        }
        self.remove(&local).await;
        format!("127.0.0.1:{PROXY_PORT}/{name}:1")
    }

    pub async fn build(&self, tag: &str, layers: usize, bytes: usize, more: &str) {
        let mut context = tar::Builder::new(Vec::new());
        let mut add = |path: String, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            context.append_data(&mut header, path, content).expect("memory takes it");
        };
        let mut text = "FROM scratch\n".to_owned();
        for layer in 0..layers {
            // Unlike every other layer, and not to be packed smaller.
            let mut noise = vec![0; bytes];
            File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut noise)).expect("noise");
            add(format!("layer{layer}"), &noise);
            text += &format!("COPY layer{layer} /layer{layer}\n");
        }
        text += more;
        add("Dockerfile".to_owned(), text.as_bytes());
        let context = context.into_inner().expect("memory takes it");
        let options = BuildImageOptionsBuilder::new().t(tag).build();
        let mut building = self.docker.build_image(options, None, Some(bollard::body_full(context.into())));
        while let Some(message) = building.next().await {
            message.expect("the image is built");
        }
    }

    pub async fn remove(&self, image: &str) {
        let options = RemoveImageOptionsBuilder::new().force(true).build();
        self.docker.remove_image(image, Some(options), None).await.expect("the image is removed");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.registry = None;
        self.dockerd.end();
        // One that had to be killed leaves its mount.
        Command::new("umount").arg("--lazy").arg(self.dir.join("data")).stderr(Stdio::null()).status().ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// The login that is tested, and one without difficult characters that fills the registry.
fn htpasswd() -> String {
    let line = |user: &str, password: &str| {
        let made =
            Command::new("htpasswd").args(["-Bbn", "-C", "4", user, password]).output().expect("htpasswd runs");
        String::from_utf8(made.stdout).expect("ASCII").trim().to_owned()
    };
    format!("{}\n{}\n", line(USER, PASSWORD), line("pusher", "plain"))
}

pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A process of the fixture, ended with it.
struct Daemon(Child);

impl Daemon {
    fn spawn(mut command: Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        // SAFETY: prctl is safe between fork and exec, and touches no memory.
        unsafe {
            command.pre_exec(|| {
                // Also when the test is killed.
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
                Ok(())
            });
        }
        Self(command.spawn().expect("the program starts"))
    }

    fn dockerd(dir: &Path, socket: &Path) -> Self {
        let mut command = Command::new("unshare");
        let arguments = format!(
            "ip link set lo up && exec dockerd --host unix://{} --data-root {dir}/data --exec-root {dir}/exec --pidfile {dir}/pid \
             --bridge none --iptables=false --storage-driver vfs --max-download-attempts 2",
            socket.display(),
            dir = dir.display()
        );
        command.args(["--net", "sh", "-c", &arguments]);
        Self::spawn(command, &dir.join("dockerd.log"))
    }

    fn registry(dir: &Path, dockerd: i32) -> Self {
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    rootdirectory: {dir}/registry\n\
             http:\n  addr: 127.0.0.1:{REGISTRY_PORT}\nauth:\n  htpasswd:\n    realm: r\n    path: {dir}/htpasswd\n",
            dir = dir.display()
        );
        fs::write(dir.join("registry.yml"), config).expect("a configuration");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{dockerd}/ns/net")).args(["docker-registry", "serve"]);
        command.arg(dir.join("registry.yml"));
        Self::spawn(command, &dir.join("registry.log"))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pids are small")
    }

    /// dockerd takes its containerd along.
    fn end(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            super::proxy::pause();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
