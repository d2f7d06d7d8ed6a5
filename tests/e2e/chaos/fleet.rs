//! The victims: controllers, agents with their networks and disks, etcd and dockerd, all of them real processes.

use super::disks::Disks;
use super::net::Net;
use super::plan::Settings;
use crate::harness::cluster::wharf;
use crate::harness::docker::Dockerd;
use crate::harness::port::{Block, Port};
use crate::harness::{Cables, Etcd, Output, Running, proc, skip, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

/// Nodes for processes; the one for containers comes behind them.
pub const PROCESS_NODES: usize = 2;
/// A call may wait for a new leader, and for a thawed one.
pub const CALL: Duration = Duration::from_secs(60);

/// A process of wharf that is killed and started again.
#[derive(Debug)]
pub struct Daemon {
    pub name: String,
    kind: &'static str,
    settings: PathBuf,
    log: PathBuf,
    /// The network namespace it lives in.
    namespace: Option<String>,
    process: Mutex<Option<Child>>,
    bug: Option<&'static str>,
}

impl Daemon {
    pub fn start(&self) {
        let mut slot = self.process.lock().expect("no test panics with it");
        assert!(slot.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("the folder is ours");
        let program = wharf(&[self.kind, "--config"]);
        let mut command = match &self.namespace {
            // It becomes the program itself, with the same process id.
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg(program.get_program()).args(program.get_args());
                command.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
                command
            }
            None => program,
        };
        command.envs(self.bug.map(|bug| ("WHARF_SEEDED_BUG", bug)));
        command.arg(&self.settings).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("descriptors can be copied")).stderr(log);
        *slot = Some(command.spawn().expect("the program starts"));
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9(&self) {
        if let Some(mut child) = self.process.lock().expect("no test panics with it").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid), signal).expect("it is ours");
        }
    }

    pub fn pid(&self) -> Option<i32> {
        let slot = self.process.lock().expect("no test panics with it");
        slot.as_ref().map(|child| i32::try_from(child.id()).expect("process ids are small"))
    }

    /// How it ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        let mut slot = self.process.lock().expect("no test panics with it");
        let status = slot.as_mut()?.try_wait().ok()??;
        Some(format!("{} ended by itself: {status}", self.name))
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "--- {}, the last of {} lines\n{}",
            self.name,
            lines.len(),
            lines[lines.len().saturating_sub(40)..].join("\n")
        )
    }
}

/// All of them. Dropping it ends them, their tasks, their networks and disks.
#[derive(Debug)]
pub struct Fleet {
    pub controllers: Vec<Daemon>,
    pub agents: Vec<Daemon>,
    /// One per node.
    pub disks: Vec<Disks>,
    pub net: Option<Net>,
    pub etcd: Option<Etcd>,
    pub dockerd: Option<Dockerd>,
    /// Of the controllers, as everybody is told them.
    pub addresses: Vec<String>,
    pub node_uids: Vec<String>,
    bug: Option<&'static str>,
    /// Behind everything that is in it.
    folder: tempfile::TempDir,
    _ports: Vec<Port>,
    _blocks: Vec<Block>,
}

impl Fleet {
    pub fn start(settings: &Settings) -> Self {
        let folder = tempfile::Builder::new().prefix("wc-").tempdir().expect("a temporary folder can be made");
        // Tasks may run as another user and have to get through.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        fs::create_dir(folder.path().join("records")).expect("the folder is ours");
        let docker = settings.docker.then(|| Dockerd::own("faults of dockerd")).flatten();
        let nodes = PROCESS_NODES + usize::from(docker.is_some());
        let root = nix::unistd::Uid::effective().is_root();
        if !root {
            skip("chaos: networks that are cut and disks that are full", "they need root");
        }
        let ports: Vec<Port> = (0..2 + nodes).map(|_| Port::claim()).collect();
        let mut fleet = Self {
            controllers: Vec::new(),
            agents: Vec::new(),
            disks: Vec::new(),
            net: root.then(|| Net::lay(nodes)),
            etcd: settings.etcd.then(|| if root { Etcd::behind(Cables::lay(2), 3) } else { Etcd::start(3) }),
            dockerd: docker,
            addresses: Vec::new(),
            node_uids: Vec::new(),
            bug: settings.bug,
            folder,
            _blocks: (0..nodes).map(|_| Block::claim()).collect(),
            _ports: ports,
        };
        (0..1 + usize::from(settings.etcd)).for_each(|i| fleet.add_controller(i, nodes));
        (0..nodes).for_each(|i| fleet.add_agent(i, 256 + settings.time.as_secs() / 2));
        fleet.controllers.iter().chain(&fleet.agents).for_each(Daemon::start);
        fleet.wait_ready();
        let listed = fleet.json(&["nodes"]);
        let uids = listed.as_array().into_iter().flatten();
        fleet.node_uids = uids.filter_map(|node| Some(node["node_uid"].as_str()?.to_owned())).collect();
        fleet
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn daemon(&self, kind: &'static str, name: &str, settings: &str, namespace: Option<String>) -> Daemon {
        let file = self.path(&format!("{name}.toml"));
        fs::write(&file, settings).expect("the folder is ours");
        let log = self.path(&format!("{name}.log"));
        Daemon {
            name: name.to_owned(),
            kind,
            settings: file,
            log,
            namespace,
            process: Mutex::new(None),
            bug: self.bug,
        }
    }

    fn add_controller(&mut self, i: usize, nodes: usize) {
        let port = self._ports[i].number;
        let listen: Vec<String> = match &self.net {
            Some(net) => (0..nodes).map(|node| format!("{}:{port}", net.near(node))).collect(),
            None => vec![format!("127.0.0.1:{port}")],
        };
        // What controllers of one store share, as if it had been copied.
        let (shared, own) = (self.path("c0/cluster"), self.path(&format!("c{i}")));
        for folder in [&shared, &own] {
            fs::create_dir_all(folder).expect("the folder is ours");
        }
        if i > 0 {
            std::os::unix::fs::symlink(&shared, own.join("cluster")).expect("the folder is ours");
        }
        let quoted: Vec<String> = listen.iter().map(|address| format!("'{address}'")).collect();
        let etcd = self.etcd.as_ref().map(|etcd| etcd.settings_of(i)).unwrap_or_default();
        let settings = format!(
            "data_dir = '{}'\nlisten = [{}]\ninsecure = true\nheartbeat_ms = 250\nnode_timeout_ms = 5000\n{etcd}",
            self.path(&format!("c{i}")).display(),
            quoted.join(", "),
        );
        self.addresses.push(listen[0].clone());
        let daemon = self.daemon("controller", &format!("controller{i}"), &settings, None);
        self.controllers.push(daemon);
    }

    /// `logs_mb`: the size of its disk for logs.
    fn add_agent(&mut self, i: usize, logs_mb: u64) {
        let docker = self.dockerd.as_ref().filter(|_| i >= PROCESS_NODES);
        let data_dir = self.path(&format!("a{i}"));
        if self.net.is_some() {
            self.disks.push(Disks::of(&data_dir, logs_mb));
        }
        let port = self._ports[2 + i].number;
        let (listen, controllers, task_ip) = match &self.net {
            Some(net) => {
                let ports = self._ports[..self.controllers.len()].iter();
                let near = ports.map(|port| format!("'{}:{}'", net.near(i), port.number)).collect::<Vec<_>>();
                (format!("{}:{port}", net.far(i)), near.join(", "), net.far(i))
            }
            None => {
                let near: Vec<String> = self.addresses.iter().map(|address| format!("'{address}'")).collect();
                (format!("127.0.0.1:{port}"), near.join(", "), format!("127.0.1.{}", i + 1))
            }
        };
        let runtime = match docker {
            Some(dockerd) => format!(
                "runtime = 'docker'\ndocker_socket = '{}'\njob_dirs = ['{}']\n",
                dockerd.socket().display(),
                self.path("records").display()
            ),
            None => "runtime = 'process'\npolicy.users = ['0-4294967295']\n".to_owned(),
        };
        let settings = format!(
            "data_dir = '{}'\nrun_dir = '{}'\nname = 'n{i}'\ncontroller = [{controllers}]\nlisten = '{listen}'\n\
             insecure = true\ntask_ip = '{task_ip}'\ngpus = 'sim:4xH100'\ncpus = 64\nmemory_mb = 400000\n\
             ports = '{}-{}'\nkernel_log = ''\ndisk_high_percent = 100\n{runtime}[labels]\nkind = '{}'\n",
            data_dir.display(),
            self.path(&format!("r{i}")).display(),
            self._blocks[i].first,
            self._blocks[i].last,
            if docker.is_some() { "containers" } else { "processes" },
        );
        let namespace = self.net.as_ref().map(|net| net.namespace(i));
        let daemon = self.daemon("agent", &format!("agent{i}"), &settings, namespace);
        self.agents.push(daemon);
    }

    /// The command line with all controllers.
    pub fn cli(&self, args: &[&str], input: &[u8]) -> Output {
        self.ask(&self.addresses.join(","), args, input)
    }

    pub fn ask(&self, controllers: &str, args: &[&str], input: &[u8]) -> Output {
        let mut command = wharf(args);
        command.env("WHARF_CONTROLLER", controllers);
        let mut running = Running::start(command);
        running.feed(input);
        running.finish_within(CALL)
    }

    /// What a command says that succeeds at last.
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        until(&format!("wharf {args:?} succeeds"), || {
            let output = self.cli(&args, b"");
            (output.code == 0).then(|| output.json())
        })
    }

    /// Which controller answers for the cluster.
    pub fn leader(&self) -> Option<usize> {
        if self.controllers.len() == 1 {
            return Some(0);
        }
        (0..self.controllers.len()).find(|i| self.ask(&self.addresses[*i], &["nodes"], b"").code == 0)
    }

    /// Waits until every node is READY.
    pub fn wait_ready(&self) {
        until("every node is READY", || {
            let output = self.cli(&["nodes", "--json"], b"");
            self.assert_daemons_live();
            let nodes = serde_json::from_slice::<Value>(&output.stdout).ok().filter(|_| output.code == 0)?;
            let ready = nodes.as_array()?.iter().filter(|node| node["state"] == "READY").count();
            (ready == self.agents.len()).then_some(())
        });
    }

    /// A daemon that ended by itself never comes back: no use in waiting.
    pub fn assert_daemons_live(&self) {
        let ended = self.controllers.iter().chain(&self.agents).find_map(Daemon::ended);
        assert!(ended.is_none(), "{}", ended.unwrap_or_default());
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.controllers.iter().chain(&self.agents).for_each(Daemon::kill9);
        proc::kill_folder(self.folder.path());
        self.node_uids.iter().for_each(|uid| proc::remove_groups(uid));
        if std::thread::panicking() {
            self.controllers.iter().chain(&self.agents).for_each(|daemon| eprintln!("{}", daemon.tail()));
        }
        if std::env::var_os("WHARF_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.path().display());
        }
    }
}
