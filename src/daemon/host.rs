//! What this machine has, where the settings do not say.

use crate::config::Endpoint;
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::NodeUid;
use crate::runtime::process::OpenFiles;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::OnceLock;

/// Lets this process open as many files as it may: every task takes several, and the usual soft limit is for programs
/// that call `select`. Answers what it was at first, which is what tasks get; `None` where it cannot be known.
pub(super) fn raise_open_files() -> Option<OpenFiles> {
    // Raised once for all agents of this process: a second look would see the raised one.
    static AT_FIRST: OnceLock<Option<OpenFiles>> = OnceLock::new();
    *AT_FIRST.get_or_init(|| {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            tracing::warn!(%error, soft, hard, "raising the limit on open files");
        }
        Some(OpenFiles { soft, hard })
    })
}

/// The control group, relative to each hierarchy's mount, below which process tasks get theirs. Under systemd that is
/// the group of a unit of their own, as the agent's unit says (`systemd/wharf-tasks.service`); elsewhere ours alone.
pub(super) fn task_groups(node_uid: &NodeUid) -> String {
    let parent = std::env::var("WHARF_TASK_CGROUP").ok().filter(|parent| !parent.is_empty());
    format!("{}/{node_uid}", parent.as_deref().unwrap_or("wharf"))
}

/// What this machine is called: its host name, and that without the domain.
pub(super) fn host_names() -> Vec<String> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let short = name.split('.').next().unwrap_or_default().to_owned();
    let names = if short == name { vec![name] } else { vec![name, short] };
    names.into_iter().filter(|name| !name.is_empty()).collect()
}

/// CPUs that this process may use.
pub(super) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// `MemTotal` of `/proc/meminfo`.
pub(super) fn memory_mb() -> Result<u64, Error> {
    let unknown = |why: String| {
        Error::new(ErrorKind::Refused, format!("reading this machine's memory: {why}; set memory_mb in the settings"))
    };
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| unknown(error.to_string()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| unknown("/proc/meminfo has no MemTotal".to_owned()))
}

/// The address of this machine that leads to the first controller: what tasks elsewhere can reach this one by.
pub(super) fn address_towards(controllers: &[Endpoint]) -> IpAddr {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let Some(Endpoint::Tcp { host, port }) = controllers.first() else { return local };
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let route = || -> std::io::Result<IpAddr> {
        let any: SocketAddr =
            if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" }.parse().map_err(std::io::Error::other)?;
        let socket = UdpSocket::bind(any)?;
        socket.connect((host.as_str(), *port))?;
        Ok(socket.local_addr()?.ip())
    };
    route().unwrap_or(local)
}
