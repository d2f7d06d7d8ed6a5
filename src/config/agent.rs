//! The settings of an agent.

use super::choice::{GpuChoice, PortRange, RuntimeChoice};
use super::controller::ControllerConfig;
use super::listen::{self, Endpoint};
use super::policy::{self, PolicyTable};
use super::source::Settings;
use super::{Checks, one_or_many};
use crate::domain::command::Violation;
use crate::domain::gpu::occupancy::IGNORED_BY_DEFAULT;
use crate::domain::policy::{Policy, PortRules, RunsAs, USUAL_FILE};
use crate::domain::quantity::DEFAULT_PORTS;
use crate::domain::remediation::Remediation;
use crate::health::checks::Modes;
use crate::runtime::docker::injection::GpuInjection;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

/// Socket paths end at 108 bytes; the rest is for the directory and name of a task's socket.
const MAX_RUN_DIR: usize = 64;

/// `agent.toml`. Every key has a default; without a controller the agent belongs to none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The journal, logs and task directories.
    pub data_dir: PathBuf,
    /// Sockets; may be gone after a boot.
    pub run_dir: PathBuf,
    /// The node's name; default: the host name.
    pub name: String,
    /// Where the controllers listen; default: where this node has joined.
    #[serde(deserialize_with = "one_or_many")]
    pub controller: Vec<Endpoint>,
    /// Default: see [`Self::usual_listeners`].
    #[serde(deserialize_with = "one_or_many")]
    pub listen: Vec<Endpoint>,
    /// What the controller connects to, if it is not the first of `listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise_address: Option<Endpoint>,
    /// What tasks of other nodes connect to; default: the address that leads to the controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_ip: Option<IpAddr>,
    pub gpus: GpuChoice,
    pub runtime: RuntimeChoice,
    /// dockerd's, for tasks in containers.
    pub docker_socket: PathBuf,
    /// How GPUs get into a container: `auto`, `cdi`, `nvidia-runtime` or `device-nodes`. `auto` takes the first of
    /// these that can be.
    pub gpu_injection: GpuInjection,
    /// Most processes and threads of one task; 0 is no limit.
    pub pids_limit: u32,
    /// How long a failed task of a job with `isDebug` is kept at most, in seconds; 0 keeps none.
    pub debug_hold_s: u32,
    /// More of `policy.mounts`, by its older name.
    pub job_dirs: Vec<PathBuf>,
    /// More of `policy.capabilities`, by its older name.
    pub allow_capabilities: Vec<String>,
    /// What jobs may ask of the node.
    pub policy: PolicyTable,
    /// Instead of what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Instead of what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u64>,
    /// The driver's library, if it is not `libnvidia-ml.so.1` of the usual folders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvml_library: Option<PathBuf>,
    /// Programs that may be on a GPU beside a task, by `/proc/PID/comm`; `*` at the end stands for anything.
    pub ignore_processes: Vec<String>,
    /// The kernel's log, where hardware faults are told, or a file in its form; empty: it is not heard.
    pub kernel_log: PathBuf,
    /// How often the GPUs' health, the PCI bus and InfiniBand are looked at, in seconds.
    pub health_interval_s: u32,
    /// How far each check of the hardware may go: `off`, `observe` or `enforce`.
    pub checks: Modes,
    /// Rows that go before the built-in table of Xids and SXids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid_table: Option<PathBuf>,
    /// How many GPUs the machine has, so that missing ones are missed; default: those that were seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_gpus: Option<u32>,
    /// Where the host's `/sys` is looked at.
    pub host_root: PathBuf,
    /// What is done by itself about a fault of a GPU that nobody holds: `none`, `reset-gpu`, or a program with its
    /// arguments, which gets the fault as a line of JSON.
    pub remediation: Remediation,
    /// For tasks; below the kernel's ephemeral range. Default: a slice of 15000-29999 that no other agent of this
    /// machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// What jobs select nodes by; `gpu_type` names the type of the GPUs.
    pub labels: BTreeMap<String, String>,
    /// Whom processes run as: `submitter` for the job's user, or the name of one user for all; default: the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// A task keeps this many log segments; the oldest is overwritten.
    pub log_segments: u32,
    pub log_segment_mb: u32,
    /// How long logs and records of ended tasks stay.
    pub keep_ended_hours: u32,
    /// Of how many ended tasks at most, the newest.
    pub keep_ended_tasks: u32,
    /// While the disk of `data_dir` is fuller than this, the oldest logs of ended tasks go; 100 is never.
    pub disk_high_percent: u8,
    /// Images that were pulled for jobs go when no task has needed them for so long; 0 is never.
    pub keep_images_hours: u32,
    /// ... and the longest unused of them while dockerd's disk is fuller than this; 100 is never.
    pub images_high_percent: u8,
    /// Allows listeners that others can reach without TLS and tokens.
    pub insecure: bool,
    /// Controller and agent are one process of this account, as in `wharf dev`: nobody else is to be let in, and nothing
    /// has to be proved but that.
    #[serde(skip)]
    pub own_account: bool,
    /// Where the settings are from.
    #[serde(skip)]
    pub file: PathBuf,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/wharf/agent"),
            run_dir: PathBuf::from("/run/wharf"),
            name: host_name(),
            controller: Vec::new(),
            listen: Vec::new(),
            advertise_address: None,
            task_ip: None,
            gpus: GpuChoice::default(),
            runtime: RuntimeChoice::default(),
            docker_socket: PathBuf::from("/var/run/docker.sock"),
            gpu_injection: GpuInjection::default(),
            pids_limit: 32_768,
            debug_hold_s: 604_800,
            job_dirs: Vec::new(),
            allow_capabilities: Vec::new(),
            policy: PolicyTable::default(),
            cpus: None,
            memory_mb: None,
            nvml_library: None,
            ignore_processes: IGNORED_BY_DEFAULT.map(str::to_owned).into(),
            kernel_log: PathBuf::from("/dev/kmsg"),
            health_interval_s: 15,
            checks: Modes::default(),
            xid_table: None,
            expected_gpus: None,
            host_root: PathBuf::from("/"),
            remediation: Remediation::None,
            ports: None,
            labels: BTreeMap::new(),
            run_as: None,
            log_segments: 8,
            log_segment_mb: 64,
            keep_ended_hours: 72,
            keep_ended_tasks: 1000,
            disk_high_percent: 90,
            keep_images_hours: 336,
            images_high_percent: 85,
            insecure: false,
            own_account: false,
            file: PathBuf::from(USUAL_FILE),
        }
    }
}

impl AgentConfig {
    /// The journal's file.
    pub fn journal_path(&self) -> PathBuf {
        self.data_dir.join("journal.db")
    }

    /// What jobs may ask of the node.
    pub fn policy(&self) -> Policy {
        let pids = (self.pids_limit > 0).then_some(self.pids_limit);
        let rules = self.policy.rules(&self.job_dirs, &self.allow_capabilities, &self.file);
        let given = self.ports.as_ref().map_or(DEFAULT_PORTS, |ports| ports.0.clone());
        let ports = PortRules { own: self.own_ports(), given, ..rules.ports.clone() };
        Policy { pids, ports, ..rules }
    }

    /// Of this agent, and of a controller that may be here.
    fn own_ports(&self) -> Vec<u16> {
        let named = self.listen.iter().chain(&self.controller).chain(&self.advertise_address);
        let usual = AgentConfig::default().listen;
        let controllers = ControllerConfig::default().listen;
        let port = |endpoint: &Endpoint| match endpoint {
            Endpoint::Tcp { port, .. } if *port > 0 => Some(*port),
            _ => None,
        };
        let mut ports: Vec<u16> = named.chain(&usual).chain(&controllers).filter_map(port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Where an agent listens that is not told: the port for its controllers, which is open to other machines if they are
    /// on some, and a socket for its own.
    pub fn usual_listeners(&self) -> Vec<Endpoint> {
        let outside = self.controller.iter().any(|controller| !controller.is_local());
        let host = if outside { "0.0.0.0" } else { "127.0.0.1" };
        let socket = Endpoint::Unix { path: self.run_dir.join("agent.sock") };
        vec![Endpoint::Tcp { host: host.to_owned(), port: 7601 }, socket]
    }

    /// What to say at every start.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.insecure {
            warnings.extend(listen::warnings("listen", &self.listen));
            let outside = self.controller.iter().filter(|controller| !controller.is_local());
            warnings.extend(outside.map(|controller| {
                format!("controller: whoever answers as {controller} may run commands on this node: there is no TLS (insecure is set)")
            }));
        }
        let root = nix::unistd::Uid::effective().is_root();
        warnings.extend(if root { self.warning_of_root() } else { self.warning_of_own_account() });
        warnings
    }

    /// What an agent says whose tasks would be of its own account, if that is not root's.
    fn warning_of_own_account(&self) -> Option<String> {
        let shared = self.runtime != RuntimeChoice::Docker && !self.own_account && !self.insecure;
        shared.then(|| {
            "run_as: without root every task that is a process is one of this agent's own account: it can read the node's \
             key and speak for the node; containers cannot"
                .to_owned()
        })
    }

    /// What an agent that runs as root says.
    fn warning_of_root(&self) -> Option<String> {
        if self.run_as.is_some() || self.runtime == RuntimeChoice::Docker {
            return None;
        }
        let allowed = "allowed are submitter and the name of a user";
        Some(match self.policy().check_user(RunsAs::Process(0)) {
            Ok(()) => format!(
                "run_as: without it every task is a process of root, with all rights on this node: it reaches this agent \
                 and every other task; {allowed}"
            ),
            Err(_) => format!(
                "run_as: without it every task would be a process of root, which policy.users does not allow: tasks \
                 that are processes are refused; {allowed}"
            ),
        })
    }

    fn check_addresses(&self, checks: &mut Checks) {
        let allowed = "HOST:PORT that the controller can reach, as advertise_address";
        if let Some(address) = &self.advertise_address {
            let right = !address.is_unspecified();
            checks.expect(right, "advertise_address", "is an address of every machine", address, allowed);
        }
        if let Some(ip) = self.task_ip {
            let right = !ip.is_unspecified() && !ip.is_multicast();
            checks.expect(right, "task_ip", "is not the address of one machine", ip, "an address of this machine");
        }
    }

    fn check_health(&self, checks: &mut Checks) {
        let (seconds, allowed) = (self.health_interval_s, "1 to 3600");
        checks.expect((1..=3600).contains(&seconds), "health_interval_s", "is out of range", seconds, allowed);
        let paths = [("xid_table", self.xid_table.as_ref()), ("host_root", Some(&self.host_root))];
        for (field, path) in paths.into_iter().filter_map(|(field, path)| Some((field, path?))) {
            checks.expect(path.is_absolute(), field, "is not absolute", path.display(), "an absolute path");
        }
        if let Some(gpus) = self.expected_gpus {
            let allowed = "1 to 1024, or no such key";
            checks.expect((1..=1024).contains(&gpus), "expected_gpus", "is out of range", gpus, allowed);
        }
    }

    fn check_jobs(&self, checks: &mut Checks) {
        for dir in &self.job_dirs {
            let plain = !dir.components().any(|part| part == Component::ParentDir);
            let allowed = "absolute folders below /, without '..'";
            let right = dir.is_absolute() && plain && dir.components().count() > 1;
            checks.expect(right, "job_dirs", "is not a folder for jobs", dir.display(), allowed);
        }
        policy::check_capabilities("allow_capabilities", &self.allow_capabilities, checks);
        self.policy.check(checks);
    }

    fn check_labels(&self, checks: &mut Checks) {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
        for (key, value) in &self.labels {
            let right = (1..=128).contains(&key.len()) && key.bytes().all(word);
            let allowed = "1 to 128 letters, digits, '.', '-', '_', '/'";
            checks.expect(right, &format!("labels.{key}"), "is not a label's name", key, allowed);
            let right = value.len() <= 256 && !value.chars().any(char::is_control);
            let allowed = "at most 256 bytes on one line";
            checks.expect(right, &format!("labels.{key}"), "is not a label's value", value.escape_debug(), allowed);
        }
    }
}

impl Settings for AgentConfig {
    const KEYS: &'static [&'static str] = &[
        "data_dir",
        "run_dir",
        "name",
        "controller",
        "listen",
        "advertise_address",
        "task_ip",
        "gpus",
        "runtime",
        "docker_socket",
        "gpu_injection",
        "pids_limit",
        "debug_hold_s",
        "job_dirs",
        "allow_capabilities",
        "policy",
        "cpus",
        "memory_mb",
        "nvml_library",
        "ignore_processes",
        "kernel_log",
        "health_interval_s",
        "checks",
        "xid_table",
        "expected_gpus",
        "host_root",
        "remediation",
        "ports",
        "labels",
        "run_as",
        "log_segments",
        "log_segment_mb",
        "keep_ended_hours",
        "keep_ended_tasks",
        "disk_high_percent",
        "keep_images_hours",
        "images_high_percent",
        "insecure",
    ];

    fn are_from(&mut self, file: &Path) {
        file.clone_into(&mut self.file);
    }

    fn check(&self) -> Vec<Violation> {
        let mut checks = Checks::default();
        let paths =
            [("data_dir", &self.data_dir), ("run_dir", &self.run_dir), ("docker_socket", &self.docker_socket)];
        for (field, path) in paths {
            checks.expect(path.is_absolute(), field, "is not absolute", path.display(), "an absolute path");
        }
        let (run_dir, allowed) =
            (self.run_dir.display(), format!("at most {MAX_RUN_DIR} bytes: socket paths are short"));
        checks.expect(self.run_dir.as_os_str().len() <= MAX_RUN_DIR, "run_dir", "is too long", run_dir, &allowed);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let right = (1..=253).contains(&self.name.len()) && self.name.bytes().all(word);
        let allowed = "1 to 253 letters, digits, '.', '-', '_'";
        checks.expect(right, "name", "is not a node's name", self.name.escape_debug(), allowed);
        self.check_addresses(&mut checks);
        self.check_labels(&mut checks);
        self.check_jobs(&mut checks);
        checks.expect(self.cpus != Some(0), "cpus", "leaves nothing for tasks", 0, "at least 1, or no such key");
        let right = self.memory_mb != Some(0);
        checks.expect(right, "memory_mb", "leaves nothing for tasks", 0, "at least 1, or no such key");
        let right = self.nvml_library.as_ref().is_none_or(|path| !path.as_os_str().is_empty());
        checks.expect(right, "nvml_library", "is empty", "", "the path of a library, or no such key");
        for name in &self.ignore_processes {
            let right = !name.trim_end_matches('*').is_empty();
            checks.expect(right, "ignore_processes", "would ignore everything", name, "names of programs");
        }
        let (log, allowed) = (&self.kernel_log, "an absolute path, or nothing for none");
        let right = log.as_os_str().is_empty() || log.is_absolute();
        checks.expect(right, "kernel_log", "is not absolute", log.display(), allowed);
        self.check_health(&mut checks);
        if let Remediation::Command(words) = &self.remediation {
            let right = words.first().is_some_and(|program| Path::new(program).is_absolute());
            let allowed = "none, reset-gpu, or a list that begins with the absolute path of a program";
            checks.expect(right, "remediation", "is no command", words.join(" ").escape_debug(), allowed);
        }
        let right = self.run_as.as_ref().is_none_or(|user| !user.is_empty());
        checks.expect(right, "run_as", "is empty", "", "submitter, a user name, or no such key");
        // The kernel's own limit on pids.
        let (pids, allowed) = (self.pids_limit, "0 to 4194304; 0 is no limit");
        checks.expect(pids <= 4_194_304, "pids_limit", "is out of range", pids, allowed);
        let (hold, allowed) = (self.debug_hold_s, "0 to 2592000: thirty days; 0 keeps none");
        checks.expect(hold <= 2_592_000, "debug_hold_s", "is out of range", hold, allowed);
        let (segments, megabytes) = (self.log_segments, self.log_segment_mb);
        // One segment is written while another can still be read; one message brings all of them to a task's shim.
        checks.expect((2..=64).contains(&segments), "log_segments", "is out of range", segments, "2 to 64");
        checks.expect((1..=1024).contains(&megabytes), "log_segment_mb", "is out of range", megabytes, "1 to 1024");
        let (hours, allowed) = (self.keep_ended_hours, "1 to 87600");
        checks.expect((1..=87_600).contains(&hours), "keep_ended_hours", "is out of range", hours, allowed);
        let (tasks, allowed) = (self.keep_ended_tasks, "10 to 1000000");
        checks.expect((10..=1_000_000).contains(&tasks), "keep_ended_tasks", "is out of range", tasks, allowed);
        let (percent, allowed) = (self.disk_high_percent, "50 to 100; 100 is never");
        checks.expect((50..=100).contains(&percent), "disk_high_percent", "is out of range", percent, allowed);
        let percent = self.images_high_percent;
        checks.expect((50..=100).contains(&percent), "images_high_percent", "is out of range", percent, allowed);
        let (hours, allowed) = (self.keep_images_hours, "0 to 87600; 0 is never");
        checks.expect(hours <= 87_600, "keep_images_hours", "is out of range", hours, allowed);
        checks.0
    }
}

/// Empty, and so refused by the check, where the machine has none that is text.
fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_file() {
        let config = AgentConfig::default();
        assert_eq!(config.check(), []);
        assert!(!config.name.is_empty());
        let about_root = config.warning_of_root().unwrap();
        assert!(about_root.contains("a process of root"), "{about_root}");
        assert!(config.warnings().iter().all(|warning| warning.starts_with("run_as: ")), "{:?}", config.warnings());
        assert_eq!(AgentConfig { runtime: RuntimeChoice::Docker, ..config.clone() }.warnings(), [""; 0]);
        assert_eq!(parse("a.toml", ""), Ok(config.clone()));
        assert_eq!(parse("a.toml", &toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn every_key_is_read() {
        let text = "data_dir = '/d'\nrun_dir = '/r'\nname = 'node-3'\ncontroller = ['c1:7600', 'c2:7600']\n\
            listen = ['0.0.0.0:7601', 'unix:/r/agent.sock']\nadvertise_address = '10.0.0.3:7601'\n\
            task_ip = '192.168.1.3'\ngpus = 'sim:8xA100'\nruntime = 'process'\n\
            docker_socket = '/r/docker.sock'\ngpu_injection = 'device-nodes'\npids_limit = 99\ndebug_hold_s = 60\n\
            job_dirs = ['/srv/jobs', '/mnt/nfs']\nallow_capabilities = ['SYS_ADMIN']\ncpus = 4\nmemory_mb = 8000\n\
            nvml_library = '/l.so'\nignore_processes = ['Xorg']\n\
            ports = '20000-20999'\nrun_as = 'nobody'\nlog_segments = 3\nlog_segment_mb = 5\nkeep_ended_hours = 7\n\
            keep_ended_tasks = 55\n\
            disk_high_percent = 75\nkeep_images_hours = 9\nimages_high_percent = 70\n\
            insecure = true\n[labels]\ngpu_type = 'jd_a100'\n\
            [policy]\nmounts = ['/data:ro']\ncapabilities = ['SYS_PTRACE']\nhost_network = false\ndevices = []\n\
            images = ['r.local/*']\nusers = ['0', '1000-1999']\ngroups = ['100']\nports = ['80', '7601']\n\
            max_run_time = '7d'\nper_user = { gpus = 4 }\n";
        let config: AgentConfig = parse("a.toml", text).unwrap();
        assert_eq!(config.warnings().len(), 3);
        assert_eq!(config.gpus, GpuChoice::Sim { count: 8, model: "A100".into() });
        assert_eq!((config.gpu_injection, config.pids_limit), (GpuInjection::DeviceNodes, 99));
        assert_eq!((config.ports.clone(), config.debug_hold_s), (Some(PortRange(20_000..=20_999)), 60));
        assert_eq!((config.disk_high_percent, config.keep_ended_tasks), (75, 55));
        assert_eq!((config.keep_images_hours, config.images_high_percent), (9, 70));
        assert_eq!(config.job_dirs, [PathBuf::from("/srv/jobs"), PathBuf::from("/mnt/nfs")]);
        assert_eq!(config.allow_capabilities, ["SYS_ADMIN"]);
        let rules = config.policy();
        let mounts: Vec<_> = rules.mounts.iter().map(ToString::to_string).collect();
        assert_eq!(mounts, ["/srv/jobs", "/mnt/nfs", "/data:ro"]);
        assert_eq!((rules.capabilities, rules.host_network), (vec!["SYS_PTRACE".into(), "SYS_ADMIN".into()], false));
        assert_eq!((rules.devices.len(), rules.images.len()), (0, 1));
        assert_eq!(rules.users.map(|users| users.to_string()).as_deref(), Some("0, 1000-1999"));
        assert_eq!(rules.groups.map(|groups| groups.to_string()).as_deref(), Some("100"));
        let ports = [80, 81, 7601, 20_000].map(|port| rules.ports.allow(port));
        assert_eq!((rules.pids, ports), (Some(99), [true, false, false, true]));
        assert_eq!(rules.max_run_time.map(|time| time.to_string()).as_deref(), Some("7d"));
        assert_eq!((rules.per_user.gpus, rules.per_user.cpus), (Some(4), None));
        assert_eq!(
            (config.cpus, config.memory_mb, &config.labels["gpu_type"]),
            (Some(4), Some(8000), &"jd_a100".into())
        );
        assert_eq!(config.advertise_address.as_ref().map(ToString::to_string).as_deref(), Some("10.0.0.3:7601"));
        assert_eq!(parse("a.toml", &toml::to_string(&config).unwrap()), Ok(config));
    }

    #[test]
    fn what_cannot_work_is_named_by_field() {
        let fields = |text: &str| -> Vec<String> {
            let error = parse::<AgentConfig>("a.toml", text).unwrap_err();
            error.problems.into_iter().map(|problem| problem.violation.field).collect()
        };
        assert_eq!(fields("data_dir = 'x'\nname = 'a b'\ncpus = 0\nlisten = []"), ["data_dir", "name", "cpus"]);
        assert_eq!(fields("advertise_address = '[::]:1'\ntask_ip = '0.0.0.0'"), ["advertise_address", "task_ip"]);
        assert_eq!(fields("labels = { 'a b' = 'x', c = \"1\\n2\" }"), ["labels.a b", "labels.c"]);
        assert_eq!(
            fields("run_dir = '/a/path/that/is/much/too/long/for/a/unix/socket/when/a/name/follows/it'"),
            ["run_dir"]
        );
        assert_eq!(fields("run_as = ''\nmemory_mb = 0"), ["memory_mb", "run_as"]);
        assert_eq!(fields("nvml_library = ''\nignore_processes = ['*']"), ["nvml_library", "ignore_processes"]);
        assert_eq!(fields("log_segments = 65\nlog_segment_mb = 0"), ["log_segments", "log_segment_mb"]);
        assert_eq!(fields("docker_socket = 'd'\npids_limit = 5000000"), ["docker_socket", "pids_limit"]);
        assert_eq!(fields("ports = '80-90'\ndebug_hold_s = 2592001"), ["ports"]);
        assert_eq!(fields("debug_hold_s = 2592001"), ["debug_hold_s"]);
        assert_eq!(fields("job_dirs = ['/', 'a', '/a/../b', '/fine']"), ["job_dirs"; 3]);
        assert_eq!(fields("allow_capabilities = ['CAP_KILL', 'ALL', 'x', 'SYS_TIME']"), ["allow_capabilities"; 3]);
        let policy = "[policy]\nmounts = ['/', '/a:ro', 'b']\ncapabilities = ['ALL']\ndevices = ['/dev', '/etc/x']\n\
            images = ['', 'a b']\nusers = ['root']";
        let wrong = fields(policy);
        let named = |name: &str| wrong.iter().filter(|field| *field == &format!("policy.{name}")).count();
        let counts = ["mounts", "capabilities", "devices", "images", "users"].map(named);
        assert_eq!(counts, [2, 1, 2, 2, 1]);
        let wrong = fields("[policy]\ngroups = ['x']\nports = ['2-1']\nmax_run_time = '7'");
        assert_eq!(wrong, ["policy.groups", "policy.ports", "policy.max_run_time"]);
        assert_eq!(fields("[policy]\nprivileged = true"), ["policy"]);
        assert_eq!(fields("[policy]\nper_user = { hours = 1 }"), ["policy"]);
        assert_eq!(fields("disk_high_percent = 49"), ["disk_high_percent"]);
        assert_eq!(fields("keep_ended_tasks = 9"), ["keep_ended_tasks"]);
        assert_eq!(
            fields("keep_images_hours = 90000\nimages_high_percent = 3"),
            ["images_high_percent", "keep_images_hours"]
        );
        assert_eq!(fields("gpu_injection = 'by-magic'"), ["gpu_injection"]);
        assert_eq!(fields("kernel_log = 'kmsg'"), ["kernel_log"]);
        assert_eq!(fields("kernel_log = 7"), ["kernel_log"]);
        assert_eq!(fields("remediation = 'reboot'"), ["remediation"]);
        assert_eq!(fields("remediation = ['mend', '--now']"), ["remediation"]);
        assert_eq!(fields("remediation = []"), ["remediation"]);
        parse::<AgentConfig>("a.toml", "remediation = ['/bin/mend', '--now']").unwrap();
        parse::<AgentConfig>("a.toml", "kernel_log = ''").unwrap();
        assert_eq!(fields("health_interval_s = 0\nexpected_gpus = 0"), ["health_interval_s", "expected_gpus"]);
        assert_eq!(fields("xid_table = 'x'\nhost_root = ''"), ["xid_table", "host_root"]);
        let error = parse::<AgentConfig>("a.toml", "\n[checks]\npcie_replay = 'maybe'").unwrap_err().to_string();
        assert!(error.contains("a.toml:3") && error.contains("maybe") && error.contains("enforce"), "{error}");
        let error = parse::<AgentConfig>("a.toml", "[checks]\npcie_replays = 'off'").unwrap_err().to_string();
        assert!(error.contains("pcie_replays") && error.contains("`pcie_replay`"), "{error}");
    }
}
