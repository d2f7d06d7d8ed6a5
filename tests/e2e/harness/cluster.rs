//! A controller and agents as processes of their own, with everything they need in one folder that goes with them.

use super::job::ended;
use super::net::Net;
use super::port::{Block, Port};
use super::proc;
use super::running::{Output, Running};
use super::wait::{PATIENCE, until};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct Node {
    pub name: String,
    pub gpus: String,
    pub cpus: u32,
    pub memory_mb: u64,
    /// More lines of its configuration.
    pub more: String,
    /// `process` or `docker`.
    pub runtime: String,
    /// More variables of its environment.
    pub env: Vec<(String, String)>,
    /// More addresses where it listens; then the controller listens on `c.sock` too.
    pub listen: Vec<String>,
}

impl Node {
    /// Big enough for anything but its GPUs.
    pub fn new(name: &str, gpus: &str) -> Self {
        Self {
            name: name.to_owned(),
            gpus: gpus.to_owned(),
            cpus: 64,
            memory_mb: 400_000,
            more: String::new(),
            runtime: "process".to_owned(),
            env: Vec::new(),
            listen: Vec::new(),
        }
    }
}

/// The processes. Dropping it ends them, their tasks and what they left; after a failure it shows what they said.
#[derive(Debug)]
pub struct Cluster {
    folder: tempfile::TempDir,
    port: Port,
    /// One per node: on one machine two would give the same port to two tasks.
    blocks: Vec<Block>,
    controller: Mutex<Option<Child>>,
    /// A second controller, for a store that both can reach.
    second: Option<(Port, Mutex<Option<Child>>)>,
    agents: Vec<(Node, Mutex<Option<Child>>)>,
    node_uids: Vec<String>,
    /// Its daemons are on machines of their own; clients then come by a Unix socket.
    net: Option<Net>,
    /// Callers have to prove who they are: nodes join with tokens, and clients come by a Unix socket.
    is_secured: bool,
}

impl Cluster {
    /// Nodes `n0`, `n1`, ... with these GPUs, ready.
    pub fn start(gpus: &[&str]) -> Self {
        Self::with(gpus.iter().enumerate().map(|(i, gpus)| Node::new(&format!("n{i}"), gpus)).collect(), "")
    }

    /// These nodes, and a controller with more lines in its configuration.
    pub fn with(nodes: Vec<Node>, controller: &str) -> Self {
        Self::of(nodes, [controller; 2], None, None, false)
    }

    /// The same, and nobody is believed: as a controller without a word about it is.
    pub fn secured(nodes: Vec<Node>, controller: &str) -> Self {
        Self::of(nodes, [controller; 2], None, None, true)
    }

    /// The same with two controllers, whose store the lines must say.
    pub fn secured_with_two_controllers(nodes: Vec<Node>, controller: &str) -> Self {
        Self::of(nodes, [controller; 2], Some((Port::claim(), Mutex::new(None))), None, true)
    }

    /// The same with two controllers, whose store the lines must say.
    pub fn with_two_controllers(nodes: Vec<Node>, controller: &str) -> Self {
        Self::with_two_controllers_of(nodes, [controller, controller])
    }

    /// The same, each with lines of its own.
    pub fn with_two_controllers_of(nodes: Vec<Node>, controllers: [&str; 2]) -> Self {
        Self::of(nodes, controllers, Some((Port::claim(), Mutex::new(None))), None, false)
    }

    /// Nodes `n0`, `n1`, ... with these GPUs, each and the controller on machines of their own; one that is not heard is
    /// missed soon.
    pub fn across(net: Net, gpus: &[&str]) -> Self {
        let nodes = gpus.iter().enumerate().map(|(i, gpus)| Node::new(&format!("n{i}"), gpus)).collect();
        Self::of(nodes, [""; 2], None, Some(net), false)
    }

    fn of(
        nodes: Vec<Node>,
        controllers: [&str; 2],
        second: Option<(Port, Mutex<Option<Child>>)>,
        net: Option<Net>,
        is_secured: bool,
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("wh-").tempdir().expect("a temporary folder can be made");
        // Tasks may run as another user and have to get through.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let agents: Vec<_> = nodes.into_iter().map(|node| (node, Mutex::new(None))).collect();
        let blocks = agents.iter().map(|_| Block::claim()).collect();
        let (port, controller) = (Port::claim(), Mutex::new(None));
        let mut cluster =
            Self { folder, port, blocks, controller, second, agents, node_uids: Vec::new(), net, is_secured };
        cluster.write_settings(controllers);
        cluster.start_controller();
        if cluster.second.is_some() {
            if is_secured {
                cluster.share_authority();
            }
            cluster.start_second();
        }
        if is_secured {
            (0..cluster.agents.len()).for_each(|i| cluster.join(i));
        }
        (0..cluster.agents.len()).for_each(|i| cluster.start_agent(i));
        cluster.wait_ready();
        let uids = cluster.json(&["nodes"]);
        cluster.node_uids =
            uids.as_array().into_iter().flatten().filter_map(|n| Some(n["node_uid"].as_str()?.to_owned())).collect();
        cluster
    }

    /// The folder of everything, for the tests' own files too.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The nodes' own ids, as containers are labelled with them.
    pub fn node_uids(&self) -> &[String] {
        &self.node_uids
    }

    pub fn address(&self) -> String {
        if self.net.is_some() || self.is_secured {
            return format!("unix:{}", self.path("c.sock").display());
        }
        self.tcp()
    }

    /// Where the first controller listens on TCP, except across a network.
    pub fn tcp(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// Between machines of their own.
    pub fn net(&self) -> &Net {
        self.net.as_ref().expect("the cluster was started across a network")
    }

    /// Of all controllers, as a client is told them.
    pub fn addresses(&self) -> String {
        let second = self.second.iter().map(|(port, _)| match self.is_secured {
            true => format!(",unix:{}", self.path("c2.sock").display()),
            false => format!(",127.0.0.1:{}", port.number),
        });
        std::iter::once(self.address()).chain(second).collect()
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.agents.len()
    }

    /// The ports that a node gives to tasks.
    pub fn ports(&self, i: usize) -> std::ops::RangeInclusive<u16> {
        self.blocks[i].first..=self.blocks[i].last
    }

    /// Callers are who they say: who may do what is tried by tests with certificates and tokens of their own.
    fn write_settings(&self, [more, of_second]: [&str; 2]) {
        let folder = self.folder().display();
        let (listen, timeout_ms) = match &self.net {
            Some(_) => (format!("['{}:7600', '{}']", Net::controller_ip(), self.address()), 4_000),
            None if self.agents.iter().any(|(node, _)| !node.listen.is_empty()) => {
                (format!("['{}', 'unix:{folder}/c.sock']", self.address()), 10_000)
            }
            None => (format!("'{}'", self.address()), 10_000),
        };
        let (listen, insecure) = match self.is_secured {
            true => (format!("['{}', '{}']", self.tcp(), self.address()), "false"),
            false => (listen, "true"),
        };
        let own = format!(
            "data_dir = '{folder}/c'\nlisten = {listen}\ninsecure = {insecure}\nheartbeat_ms = 250\nnode_timeout_ms = {timeout_ms}\n"
        );
        if let Some((port, _)) = &self.second {
            let address = format!("127.0.0.1:{}", port.number);
            let other = own.replace(&self.tcp(), &address).replace("/c'", "/c2'").replace("/c.sock", "/c2.sock");
            fs::write(self.path("second.toml"), format!("{other}{of_second}\n")).expect("the folder is ours");
            // What controllers of one store share, as if it had been copied; see `share_authority`.
            if !self.is_secured {
                for name in ["c/cluster", "c2"] {
                    fs::create_dir_all(self.path(name)).expect("the folder is ours");
                }
                std::os::unix::fs::symlink("../c/cluster", self.path("c2/cluster")).expect("the folder is ours");
            }
        }
        fs::write(self.path("controller.toml"), format!("{own}{more}\n")).expect("the folder is ours");
        let addresses = match (&self.net, self.is_secured) {
            (Some(_), _) => format!("{}:7600", Net::controller_ip()),
            (None, true) => self.tcp_addresses(),
            (None, false) => self.addresses(),
        };
        let controllers: Vec<String> = addresses.split(',').map(|address| format!("'{address}'")).collect();
        let controllers = controllers.join(", ");
        for (i, (node, _)) in self.agents.iter().enumerate() {
            let ports = &self.blocks[i];
            let listen = match &self.net {
                Some(_) => format!("'{}:7601'", Net::node_ip(i)),
                None if self.is_secured => format!("'127.0.0.1:0'\ntask_ip = '127.0.1.{}'", i + 1),
                None => {
                    let more: String = node.listen.iter().map(|address| format!(", '{address}'")).collect();
                    format!("['unix:{folder}/a{i}.sock'{more}]\ntask_ip = '127.0.1.{}'", i + 1)
                }
            };
            // The machine's own log is everybody's: only a test that asks for it hears it.
            let log = if node.more.contains("kernel_log") { "" } else { "kernel_log = ''\n" };
            // Tests run as root, and so do their tasks: only a test of that says otherwise.
            let said = node.more.contains("policy.users") || node.more.contains("run_as");
            let users = if said { "" } else { "policy.users = ['0-4294967295']\n" };
            let agent = format!(
                "data_dir = '{folder}/a{i}'\nrun_dir = '{folder}/r{i}'\nname = '{}'\ncontroller = [{controllers}]\n\
                 listen = {listen}\ninsecure = {insecure}\ngpus = '{}'\nruntime = '{}'\ncpus = {}\nmemory_mb = {}\nports = '{}-{}'\n{log}{users}{}\n",
                node.name, node.gpus, node.runtime, node.cpus, node.memory_mb, ports.first, ports.last, node.more,
            );
            fs::write(self.path(&format!("agent{i}.toml")), agent).expect("the folder is ours");
        }
    }

    /// On the machine of a node or, with `None`, of the controller.
    fn daemon(&self, on: Option<usize>, kind: &str, file: &str, env: &[(String, String)]) -> Child {
        self.daemon_of(program(), on, kind, file, env)
    }

    fn daemon_of(
        &self,
        mut command: Command,
        on: Option<usize>,
        kind: &str,
        file: &str,
        env: &[(String, String)],
    ) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(self.path(&format!("{file}.log")));
        let log = log.expect("the folder is ours");
        command.args([kind, "--config"]).arg(self.path(&format!("{file}.toml")));
        command.envs(env.iter().map(|(name, value)| (name, value)));
        if let Some(net) = &self.net {
            command = net.inside(on, &command);
        }
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("descriptors can be copied")).stderr(log);
        command.spawn().expect("the program starts")
    }

    pub fn start_controller(&self) {
        let mut slot = self.controller.lock().expect("no test panics with it");
        assert!(slot.is_none(), "the controller runs already");
        *slot = Some(self.daemon(None, "controller", "controller", &[]));
    }

    pub fn start_second(&self) {
        let mut slot = self.second().lock().expect("no test panics with it");
        assert!(slot.is_none(), "the second controller runs already");
        *slot = Some(self.daemon(None, "controller", "second", &[]));
    }

    /// Of the second controller, if there is one.
    pub fn second_port(&self) -> Option<u16> {
        self.second.as_ref().map(|(port, _)| port.number)
    }

    fn second(&self) -> &Mutex<Option<Child>> {
        &self.second.as_ref().expect("there are two controllers").1
    }

    /// SIGKILL to one of two, and gone when this returns.
    pub fn kill9_one(&self, second: bool) {
        end(if second { self.second() } else { &self.controller });
    }

    /// A signal to one of two.
    pub fn signal_one(&self, second: bool, signal: nix::sys::signal::Signal) {
        let slot = if second { self.second() } else { &self.controller };
        let pid = slot.lock().expect("no test panics with it").as_ref().expect("it runs").id();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("process ids are small"));
        nix::sys::signal::kill(pid, signal).expect("it is ours");
    }

    pub fn start_agent(&self, i: usize) {
        let mut slot = self.agents[i].1.lock().expect("no test panics with it");
        assert!(slot.is_none(), "agent {i} runs already");
        *slot = Some(self.daemon(Some(i), "agent", &format!("agent{i}"), &self.agents[i].0.env));
    }

    /// The same by another program, such as wharf of another version.
    pub fn start_controller_by(&self, program: Command) {
        let mut slot = self.controller.lock().expect("no test panics with it");
        assert!(slot.is_none(), "the controller runs already");
        *slot = Some(self.daemon_of(program, None, "controller", "controller", &[]));
    }

    /// The same by another program, such as wharf of another version.
    pub fn start_agent_by(&self, i: usize, program: Command) {
        let mut slot = self.agents[i].1.lock().expect("no test panics with it");
        assert!(slot.is_none(), "agent {i} runs already");
        *slot = Some(self.daemon_of(program, Some(i), "agent", &format!("agent{i}"), &self.agents[i].0.env));
    }

    /// What a daemon has said so far: `controller`, `agent0`, ...
    pub fn log_of(&self, daemon: &str) -> String {
        fs::read_to_string(self.path(&format!("{daemon}.log"))).unwrap_or_default()
    }

    /// Waits until an agent ends by itself, and returns its exit code.
    pub fn wait_agent_ended(&self, i: usize) -> i32 {
        wait_ended(&self.agents[i].1, "the agent ends")
    }

    /// Waits until the controller ends by itself, and returns its exit code.
    pub fn wait_controller_ended(&self) -> i32 {
        wait_ended(&self.controller, "the controller ends")
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill9_controller(&self) {
        end(&self.controller);
    }

    pub fn kill9_agent(&self, i: usize) {
        end(&self.agents[i].1);
    }

    /// SIGTERM; returns the exit code.
    pub fn stop_agent(&self, i: usize) -> i32 {
        stop(&self.agents[i].1)
    }

    pub fn stop_controller(&self) -> i32 {
        stop(&self.controller)
    }

    pub fn controller_pid(&self) -> Option<i32> {
        pid(&self.controller)
    }

    pub fn agent_pid(&self, i: usize) -> Option<i32> {
        pid(&self.agents[i].1)
    }

    /// Waits until the controller hears every agent.
    pub fn wait_ready(&self) {
        until("every node is READY", || {
            let output = self.cli(&["nodes", "--json"]);
            let nodes = serde_json::from_slice::<Value>(&output.stdout).ok().filter(|_| output.code == 0)?;
            let ready = nodes.as_array()?.iter().filter(|node| node["state"] == "READY").count();
            self.assert_daemons_live();
            (ready >= self.agents.len()).then_some(())
        });
    }

    /// A daemon that ended by itself never comes back: no use in waiting.
    fn assert_daemons_live(&self) {
        let slots = std::iter::once(("controller", &self.controller));
        for (what, slot) in slots.chain(self.agents.iter().map(|(node, slot)| (node.name.as_str(), slot))) {
            let ended =
                slot.lock().expect("no test panics with it").as_mut().and_then(|child| child.try_wait().ok()?);
            assert!(ended.is_none(), "{what} ended by itself: {ended:?}");
        }
    }

    /// The command line, ready for more arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.env("WHARF_CONTROLLER", self.addresses()).args(args);
        command
    }

    pub fn spawn(&self, args: &[&str]) -> Running {
        Running::start(self.command(args))
    }

    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        self.spawn(args).finish_within(PATIENCE)
    }

    #[track_caller]
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> Output {
        let mut running = self.spawn(args);
        running.feed(input);
        running.finish_within(PATIENCE)
    }

    /// What a command that must succeed says with `--json`.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = std::iter::once("--json").chain(args.iter().copied()).collect();
        self.cli(&args).expect(0).json()
    }

    /// Submits and returns the job's id.
    #[track_caller]
    pub fn submit(&self, job: &Value) -> String {
        self.submit_with(job, &[])
    }

    #[track_caller]
    pub fn submit_with(&self, job: &Value, args: &[&str]) -> String {
        let args: Vec<&str> = ["--json", "submit", "-"].iter().chain(args).copied().collect();
        let answer = self.cli_with(&args, job.to_string().as_bytes()).expect(0).json();
        answer["job_id"].as_u64().expect("job_id is an integer").to_string()
    }

    #[track_caller]
    pub fn show(&self, job: &str) -> Value {
        self.json(&["job", "show", job])
    }

    /// Waits for the job's end and returns it as it is shown.
    #[track_caller]
    pub fn wait_end(&self, job: &str) -> Value {
        until(&format!("job {job} has ended"), || Some(self.show(job)).filter(|shown| ended(&shown["state"])))
    }

    /// Waits until every task of the job runs.
    #[track_caller]
    pub fn wait_running(&self, job: &str) -> Value {
        until(&format!("all tasks of job {job} run"), || {
            let shown = self.show(job);
            assert!(!ended(&shown["state"]), "job {job} has ended: {shown}");
            shown["tasks"].as_array()?.iter().all(|task| task["state"] == "RUNNING").then_some(shown)
        })
    }

    /// Waits until a file that a task makes is there, and returns what is in it.
    #[track_caller]
    pub fn wait_file(&self, name: &str) -> String {
        let path = self.path(name);
        until(&format!("{name} is written"), || {
            fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n')).map(|text| text.trim_end().to_owned())
        })
    }

    /// Lets tasks go on that wait for a file.
    pub fn touch(&self, name: &str) {
        fs::write(self.path(name), "go\n").expect("the folder is ours");
    }

    /// Waits until nothing is held: neither GPUs nor processes.
    #[track_caller]
    pub fn wait_idle(&self) {
        until("every GPU is free", || {
            let gpus = self.json(&["gpus"]);
            gpus.as_array()?.iter().all(|gpu| gpu["state"] == "FREE").then_some(())
        });
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    for name in ["WHARF_CONTROLLER", "WHARF_AGENT", "WHARF_USER", "WHARF_TOKEN"] {
        command.env_remove(name);
    }
    // Where whoever runs the tests has logged in is of no concern.
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    // Its backtraces and log lines are for a failure's report.
    command.env("RUST_BACKTRACE", "1");
    command
}

/// The program alone, for tests without a cluster.
pub fn wharf(args: &[&str]) -> Command {
    let mut command = program();
    command.args(args);
    command
}

fn end(slot: &Mutex<Option<Child>>) {
    if let Some(mut child) = slot.lock().expect("no test panics with it").take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Of one that runs.
fn pid(slot: &Mutex<Option<Child>>) -> Option<i32> {
    let mut slot = slot.lock().expect("no test panics with it");
    let child = slot.as_mut()?;
    child.try_wait().ok()?.is_none().then(|| i32::try_from(child.id()).ok()).flatten()
}

fn wait_ended(slot: &Mutex<Option<Child>>, what: &str) -> i32 {
    let mut slot = slot.lock().expect("no test panics with it");
    let child = slot.as_mut().expect("it was started");
    let status = until(what, || child.try_wait().expect("it is our child"));
    *slot = None;
    status.code().unwrap_or(-1)
}

fn stop(slot: &Mutex<Option<Child>>) -> i32 {
    let mut child = slot.lock().expect("no test panics with it").take().expect("it runs");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is ours");
    let status = until("a daemon ends after SIGTERM", || child.try_wait().expect("it is our child"));
    status.code().unwrap_or(-1)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        end(&self.controller);
        self.second.iter().for_each(|(_, slot)| end(slot));
        self.agents.iter().for_each(|(_, slot)| end(slot));
        proc::kill_folder(self.folder.path());
        self.node_uids.iter().for_each(|uid| proc::remove_groups(uid));
        if !std::thread::panicking() {
            return;
        }
        let names =
            (0..self.agents.len()).map(|i| format!("agent{i}")).chain(["controller".to_owned(), "second".to_owned()]);
        for name in names {
            let text = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {name}, the last of {} lines", lines.len());
            lines[lines.len().saturating_sub(60)..].iter().for_each(|line| eprintln!("{line}"));
        }
        if std::env::var_os("WHARF_TEST_KEEP").is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("kept: {}", self.folder.path().display());
        }
    }
}
