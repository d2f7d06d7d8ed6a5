//! Both daemons on TCP and Unix sockets, who attacks them, and who wants nothing but an answer.

use super::wire::Stream;
use crate::harness::port::Port;
use crate::harness::proc::number;
use crate::harness::{Cluster, Node, until};
use std::fs;
use std::path::Path;
use wharf::api::{AgentApi, ControllerApi};
use wharf::domain::principal::{Principal, Role};
use wharf::rpc::{AgentClient, ControllerClient};

/// Most memory that a daemon may ever have had, whatever is tried: twice what debug builds were seen to take.
pub(super) const MOST_KB: u64 = 400 * 1024;
/// Most that it may have written to its log.
const MOST_LOG_BYTES: u64 = 4 << 20;

pub(super) struct Site {
    pub(super) cluster: Cluster,
    pub(super) listeners: Vec<Listener>,
    runtime: tokio::runtime::Runtime,
    _port: Port,
}

/// One socket of a daemon.
#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) is_agent: bool,
    /// `HOST:PORT` or `unix:PATH`.
    pub(super) address: String,
}

impl Listener {
    pub(super) fn connect(&self) -> Stream {
        Stream::connect(&self.address).unwrap_or_else(|error| panic!("connecting to {self:?}: {error}"))
    }

    pub(super) fn service(&self) -> &'static str {
        if self.is_agent { "wharf.v1.Agent" } else { "wharf.v1.Controller" }
    }
}

impl Site {
    pub(super) fn new() -> Self {
        Self::with("")
    }

    /// With more lines of the agent's configuration.
    pub(super) fn with(more: &str) -> Self {
        Self::of(Node { more: more.to_owned(), ..Node::new("n0", "none") })
    }

    /// Whose tasks are containers.
    pub(super) fn with_docker(socket: &Path) -> Self {
        let more = format!("docker_socket = '{}'\n", socket.display());
        Self::of(Node { runtime: "docker".to_owned(), more, ..Node::new("n0", "none") })
    }

    fn of(node: Node) -> Self {
        let port = Port::claim();
        let agent = format!("127.0.0.1:{}", port.number);
        let node = Node { listen: vec![agent.clone()], ..node };
        let cluster = Cluster::with(vec![node], "");
        let unix = |name: &str| format!("unix:{}", cluster.path(name).display());
        let listener = |is_agent, address| Listener { is_agent, address };
        let listeners = vec![
            listener(false, cluster.address()),
            listener(false, unix("c.sock")),
            listener(true, agent),
            listener(true, unix("a0.sock")),
        ];
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        Self { cluster, listeners, runtime, _port: port }
    }

    pub(super) fn pid(&self, is_agent: bool) -> i32 {
        let pid = if is_agent { self.cluster.agent_pid(0) } else { self.cluster.controller_pid() };
        pid.unwrap_or_else(|| panic!("the {} has ended", if is_agent { "agent" } else { "controller" }))
    }

    /// Descriptors that a daemon has open.
    pub(super) fn descriptors(&self, is_agent: bool) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid(is_agent))).expect("the daemon runs").count()
    }

    /// Somebody new gets an answer of every listener, by gRPC and by HTTP.
    #[track_caller]
    pub(super) fn answers(&self) {
        for listener in &self.listeners {
            until(&format!("{} answers at {}", listener.service(), listener.address), || {
                let answered = self.ask(listener);
                // It must not have ended.
                self.pid(listener.is_agent);
                answered.is_ok().then_some(())
            });
            until(&format!("{} answers HTTP at {}", listener.service(), listener.address), || {
                let mut stream = listener.connect();
                stream.say(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                stream.rest()?.starts_with(b"HTTP/1.1 200").then_some(())
            });
        }
    }

    fn ask(&self, listener: &Listener) -> Result<(), wharf::domain::command::Error> {
        let who = Principal { user: "root".into(), uid: None, roles: vec![Role::User] };
        self.runtime.block_on(async {
            if listener.is_agent {
                AgentClient::new(&listener.address)?.get_node(&who).await.map(drop)
            } else {
                ControllerClient::new(&[&listener.address])?.list_nodes(&who).await.map(drop)
            }
        })
    }

    /// The most memory that a daemon has had, in KB.
    pub(super) fn peak_kb(&self, is_agent: bool) -> u64 {
        number(self.pid(is_agent), "status", "VmHWM").expect("the daemon runs")
    }

    /// After an attack: both are the same processes, answer, fit their bounds and have not panicked. Their peaks.
    #[track_caller]
    pub(super) fn is_well(&self) -> String {
        self.answers();
        self.is_within(MOST_KB)
    }

    #[track_caller]
    pub(super) fn is_within(&self, most_kb: u64) -> String {
        for log in ["agent0", "controller"] {
            let text = self.cluster.log_of(log);
            let panicked = text.lines().find(|line| line.contains("panicked"));
            assert_eq!(panicked, None, "{log}");
            let bytes = text.len() as u64;
            assert!(bytes <= MOST_LOG_BYTES, "the log of {log} has {bytes} bytes");
        }
        let [controller, agent] = [false, true].map(|is_agent| self.peak_kb(is_agent));
        assert!(controller.max(agent) <= most_kb, "controller {controller} KB, agent {agent} KB");
        format!("up, others answered, peaks {} and {} MB of {}", controller / 1024, agent / 1024, most_kb / 1024)
    }
}
