//! The files of `systemd/` against the code that they are for, and the daemons against a service manager that this
//! test plays. What needs a booted systemd is in `tests/systemd/boot` and `tests/systemd/qemu-v2`.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use wharf::config::{self, AgentConfig, ControllerConfig, Settings};

const PATIENCE: Duration = Duration::from_secs(60);

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `#key = value` lines of an example: the key and the line without its `#`.
fn settings_of(example: &str) -> Vec<(String, String)> {
    let setting = |line: &str| {
        let line = line.strip_prefix('#')?;
        let (key, _) = line.split_once(" = ")?;
        let word = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (word && !key.is_empty()).then(|| (key.to_owned(), line.to_owned()))
    };
    example.lines().filter_map(setting).collect()
}

fn check_example<T>(file: &str, default: &T)
where
    T: Settings + serde::Serialize + PartialEq + std::fmt::Debug,
{
    let example = shipped(file);
    assert_eq!(config::parse::<T>(file, &example).unwrap(), *default, "{file} as it is shipped changes nothing");
    let settings = settings_of(&example);
    let mut keys: Vec<&str> = settings.iter().map(|(key, _)| key.as_str()).collect();
    let mut known = T::KEYS.to_vec();
    keys.sort_unstable();
    known.sort_unstable();
    assert_eq!(keys, known, "{file} explains every key once");
    for (key, line) in &settings {
        let at = example.find(&format!("#{line}")).unwrap();
        let above = example[..at].lines().last().unwrap_or_default();
        assert!(above.starts_with("# ") && above.len() > 12, "{file}: nothing explains {key}: '{above}'");
    }
    // Keys without a default of their own show an example, so they are only read; the others must tell the truth.
    let defaults = toml::to_string(default).unwrap();
    let has_default = |key: &str| key != "name" && defaults.lines().any(|line| line.starts_with(&format!("{key} =")));
    let shown = |wanted: &dyn Fn(&str) -> bool| -> String {
        settings.iter().filter(|(key, _)| wanted(key)).map(|(_, line)| format!("{line}\n")).collect()
    };
    assert_eq!(config::parse::<T>(file, &shown(&has_default)).unwrap(), *default, "{file} shows the defaults");
    config::parse::<T>(file, &shown(&|_| true)).unwrap();
}

#[test]
fn the_examples_explain_every_key_and_show_the_defaults() {
    check_example("agent.toml", &AgentConfig::default());
    check_example("controller.toml", &ControllerConfig::default());
}

/// `Key=value` lines of a unit file.
fn unit(name: &str) -> Vec<(String, String)> {
    let text = shipped(name);
    let line = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.lines().filter(|text| !text.starts_with(['#', '['])).filter_map(line).collect()
}

fn value<'a>(unit: &'a [(String, String)], key: &str) -> &'a str {
    unit.iter().find(|(found, _)| found == key).map_or("", |(_, value)| value)
}

#[test]
fn what_tasks_live_by_stays_in_the_units() {
    let (agent, tasks) = (unit("wharf-agent.service"), unit("wharf-tasks.service"));
    for (key, expected) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "process"),
        ("OOMPolicy", "continue"),
        ("Delegate", "yes"),
        ("TasksMax", "infinity"),
        ("Restart", "always"),
    ] {
        assert_eq!(value(&agent, key), expected, "{key} of the agent");
    }
    let group = format!("WHARF_TASK_CGROUP={}/wharf-tasks.service", value(&tasks, "Slice"));
    assert_eq!(value(&agent, "Environment"), group, "where the agent makes groups is where systemd lets it");
    for (key, expected) in [
        ("Delegate", "yes"),
        ("OOMPolicy", "continue"),
        ("RemainAfterExit", "yes"),
        ("TasksMax", "infinity"),
        ("RefuseManualStop", "yes"),
    ] {
        assert_eq!(value(&tasks, key), expected, "{key} of the tasks");
    }
    let inherited = ["Private", "Protect", "Restrict", "SystemCall", "NoNewPrivileges", "RuntimeDirectory"];
    let sandbox: Vec<_> = agent
        .iter()
        .filter(|(key, _)| inherited.iter().any(|prefix| key.starts_with(prefix)) && !key.starts_with("RestartSec"))
        .filter(|(key, _)| key != "Restart")
        .collect();
    assert!(sandbox.is_empty(), "tasks would inherit {sandbox:?}");
    let strong =
        |(key, _): &&(String, String)| matches!(key.as_str(), "Requires" | "BindsTo" | "PartOf" | "Requisite");
    assert_eq!(agent.iter().find(strong), None, "the agent ends with nothing else");
}

/// A daemon, ended with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A service manager for one daemon.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn start(&self, kind: &str, config: &Path) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.args([kind, "--config"]).arg(config).env("NOTIFY_SOCKET", &self.path);
        command.env("WATCHDOG_USEC", "400000").env_remove("WATCHDOG_PID").env_remove("WHARF_TASK_CGROUP");
        Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn next(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("the daemon says something in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}

/// Ready once it can be reached, then alive again and again, then ending.
fn check_daemon(kind: &str, config: &str, status: &str) {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("s");
    let file = folder.path().join("config.toml");
    let (folder_text, listen) = (folder.path().display(), address.display());
    fs::write(&file, format!("data_dir = '{folder_text}/d'\nlisten = 'unix:{listen}'\n{config}")).unwrap();
    let manager = Manager::new(folder.path());
    let mut daemon = manager.start(kind, &file);
    let first = manager.next();
    assert!(first.starts_with("READY=1\n") && first.contains(status), "{kind}: {first}");
    std::os::unix::net::UnixStream::connect(&address).expect("a daemon that is ready listens");
    for _ in 0..3 {
        let message = manager.next();
        assert!(message.contains("WATCHDOG=1") && !message.contains("READY=1"), "{kind}: {message}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(daemon.0.id() as i32), nix::sys::signal::SIGTERM).unwrap();
    let end = Instant::now() + PATIENCE;
    while !manager.next().contains("STOPPING=1") {
        assert!(Instant::now() < end, "{kind} does not say that it ends");
    }
    assert!(daemon.0.wait().unwrap().success(), "{kind} ends well when it is told to");
}

#[test]
fn the_controller_tells_its_service_manager() {
    check_daemon("controller", "", "0 unfinished jobs");
}

#[test]
fn the_agent_tells_its_service_manager() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().display();
    let config =
        format!("name = 'n'\ngpus = 'sim:2xH100'\nruntime = 'process'\nrun_dir = '{run_dir}/r'\nkernel_log = ''\n");
    check_daemon("agent", &config, "node n: 0 tasks, 0 RUNNING; 0 of 2 GPUs held");
}
