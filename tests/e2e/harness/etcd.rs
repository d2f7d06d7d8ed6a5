//! A real etcd of one or three members, on ports and in a folder of its own; if it is wanted, on a machine of its own to the
//! network.

use super::cables::Cables;
use super::port::Port;
use super::proc;
use super::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// The members. Dropping it ends them.
#[derive(Debug)]
pub struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    more: Vec<String>,
    /// Behind the members, which run there.
    cables: Option<Cables>,
}

#[derive(Debug)]
struct Member {
    client: Port,
    peer: Port,
    process: Mutex<Option<Child>>,
}

impl Etcd {
    pub fn start(members: usize) -> Self {
        Self::with(members, &[])
    }

    /// At the far end of these cables: each controller is told another address.
    pub fn behind(cables: Cables, members: usize) -> Self {
        Self::of(members, &[], Some(cables))
    }

    /// With more arguments for each member.
    pub fn with(members: usize, more: &[&str]) -> Self {
        Self::of(members, more, None)
    }

    fn of(members: usize, more: &[&str], cables: Option<Cables>) -> Self {
        let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            found.is_ok_and(|status| status.success()),
            "this test needs etcd, and there is none: install Debian's package with 'apt-get install etcd-server'"
        );
        let folder = tempfile::Builder::new().prefix("wh-etcd-").tempdir().expect("a temporary folder can be made");
        let member = |_| Member { client: Port::claim(), peer: Port::claim(), process: Mutex::new(None) };
        let members: Vec<_> = (0..members).map(member).collect();
        let etcd = Self { folder, members, more: more.iter().map(|&word| word.to_owned()).collect(), cables };
        (0..etcd.members.len()).for_each(|i| etcd.start_member(i));
        (0..etcd.members.len()).for_each(|i| etcd.wait_healthy(i));
        etcd
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.endpoints_of(0)
    }

    fn endpoints_of(&self, cable: usize) -> Vec<String> {
        let host = self.host(cable);
        self.members.iter().map(|member| format!("{host}:{}", member.client.number)).collect()
    }

    fn host(&self, cable: usize) -> String {
        self.cables.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |cables| cables.far(cable))
    }

    /// The cables that it was put behind.
    pub fn cables(&self) -> &Cables {
        self.cables.as_ref().expect("it was put behind cables")
    }

    /// Lines for the settings of a controller.
    pub fn settings(&self) -> String {
        self.settings_of(0)
    }

    /// Lines for the settings of the controller at this cable.
    pub fn settings_of(&self, cable: usize) -> String {
        let endpoints: Vec<String> =
            self.endpoints_of(cable).iter().map(|endpoint| format!("'{endpoint}'")).collect();
        format!("[etcd]\nendpoints = [{}]\n", endpoints.join(", "))
    }

    pub fn start_member(&self, i: usize) {
        let mut slot = self.members[i].process.lock().expect("no test panics with it");
        assert!(slot.is_none(), "member {i} runs already");
        let url = |port: &Port| format!("http://127.0.0.1:{}", port.number);
        let (client, peer) =
            (format!("http://{}:{}", self.host(0), self.members[i].client.number), url(&self.members[i].peer));
        // At the ends of all cables.
        let listen =
            self.cables.as_ref().map_or_else(|| client.clone(), |_| client.replace(&self.host(0), "0.0.0.0"));
        let all: Vec<String> =
            self.members.iter().enumerate().map(|(n, m)| format!("m{n}={}", url(&m.peer))).collect();
        let log = File::options().create(true).append(true).open(self.log(i)).expect("the folder is ours");
        let mut command = self.cables.as_ref().map_or_else(|| Command::new("etcd"), |cables| cables.program("etcd"));
        command
            .args(["--name", &format!("m{i}"), "--data-dir"])
            .arg(self.folder.path().join(format!("m{i}")))
            .args(["--listen-client-urls", &listen, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            // A busy machine is no reason to elect another leader.
            .args(["--heartbeat-interval", "100", "--election-timeout", "1500"])
            .args(&self.more)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("descriptors can be copied"))
            .stderr(log);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        *slot = Some(command.spawn().expect("etcd starts"));
    }

    fn log(&self, i: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("m{i}.log"))
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9(&self, i: usize) {
        let mut slot = self.members[i].process.lock().expect("no test panics with it");
        let mut child = slot.take().expect("the member runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// SIGSTOP or SIGCONT, for instance.
    pub fn signal(&self, i: usize, signal: Signal) {
        let slot = self.members[i].process.lock().expect("no test panics with it");
        let pid = slot.as_ref().expect("the member runs").id();
        kill(Pid::from_raw(i32::try_from(pid).expect("process ids are small")), signal).expect("it is ours");
    }

    /// Waits until the member answers and knows a leader.
    pub fn wait_healthy(&self, i: usize) {
        until(&format!("etcd's member {i} is healthy"), || self.is_healthy(i).then_some(()));
    }

    pub fn is_healthy(&self, i: usize) -> bool {
        let port = self.members[i].client.number;
        http_get(&self.host(0), port, "/health").is_some_and(|answer| answer.contains("\"health\":\"true\""))
    }
}

fn http_get(host: &str, port: u16, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let limit = Some(std::time::Duration::from_secs(5));
    let mut stream = std::net::TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(limit).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for (i, member) in self.members.iter().enumerate() {
            if let Some(mut child) = member.process.lock().expect("no test panics with it").take() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                eprintln!("---- etcd's member {i}:\n{}", tail(&self.log(i)));
            }
        }
        proc::kill_folder(self.folder.path());
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
