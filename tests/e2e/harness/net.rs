//! Machines of their own to the network: a namespace for the controller and one for every node, joined by a bridge, and
//! what can happen to the wires between them.
//!
//! ```text
//!   controller's namespace                         node 0's
//!   br0 10.214.0.1 ==+== n0 ------------------- net0 10.214.1.2
//!                    +== n1 ----------------+   node 1's
//!                                           +-- net0 10.214.1.2
//! ```
//!
//! Nothing of it is joined to the machine's own network: clients of a test come by a Unix socket.

use super::skip;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is lost between a node and the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Everything: the wire is pulled.
    Both,
    /// What is said to the node: it speaks and hears no answer.
    ToNode,
    /// What the node says: it hears, and nobody hears it.
    FromNode,
    /// What the controller says first, as a packet filter at the node does it: what the node begins is answered.
    Calls,
}

/// Dropping it removes the namespaces; whatever ran in them is to be gone by then.
#[derive(Debug)]
pub struct Net {
    name: String,
    nodes: usize,
}

impl Net {
    /// None, with the reason on the list of skips, where no such thing can be made.
    pub fn get(what: &str, nodes: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let able = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !nix::unistd::geteuid().is_root() || !["ip", "iptables", "nsenter"].into_iter().all(able) {
            skip(what, "network namespaces need root and Debian's iproute2, iptables and util-linux");
            return None;
        }
        let name = format!("wn-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self { name, nodes };
        let controller = net.namespace(None);
        run("ip", &["netns", "add", &controller]);
        let ip = |arguments: &str| run("ip", &words(&["-n", &controller], arguments));
        ip("link set lo up");
        ip("link add br0 type bridge");
        ip(&format!("address add {}/16 dev br0", Self::controller_ip()));
        ip("link set br0 up");
        (0..nodes).for_each(|i| net.join(i));
        Some(net)
    }

    fn join(&self, i: usize) {
        let (controller, node) = (self.namespace(None), self.namespace(Some(i)));
        run("ip", &["netns", "add", &node]);
        let ip = |namespace: &str, arguments: &str| run("ip", &words(&["-n", namespace], arguments));
        ip(&controller, &format!("link add n{i} type veth peer name net0 netns {node}"));
        ip(&controller, &format!("link set n{i} master br0 up"));
        ip(&node, &format!("address add {}/16 dev net0", Self::node_ip(i)));
        ip(&node, "link set net0 up");
        ip(&node, "link set lo up");
        // What is lost of one node's words, so that it can be found again when they are to pass.
        self.filter(None, &format!("-N n{i}"));
        self.filter(None, &format!("-A INPUT -s {} -j n{i}", Self::node_ip(i)));
    }

    /// With `None`, the controller's.
    fn namespace(&self, node: Option<usize>) -> String {
        node.map_or_else(|| format!("{}-c", self.name), |i| format!("{}-{i}", self.name))
    }

    pub fn controller_ip() -> String {
        "10.214.0.1".to_owned()
    }

    pub fn node_ip(i: usize) -> String {
        format!("10.214.1.{}", i + 1)
    }

    /// The same command, on the machine of a node or, with `None`, of the controller.
    pub fn inside(&self, node: Option<usize>, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--net=/run/netns/{}", self.namespace(node))).arg("--").arg(command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Cuts a node off. What is under way is lost, and nobody is told.
    pub fn cut(&self, node: usize, cut: Cut) {
        match cut {
            Cut::Both => self.link(&format!("n{node}"), "down"),
            Cut::ToNode => self.filter(Some(node), "-A INPUT -i net0 -j DROP"),
            Cut::Calls => self.filter(Some(node), "-A INPUT -i net0 -p tcp --dport 7601 -j DROP"),
            Cut::FromNode => self.filter(None, &format!("-A n{node} -j DROP")),
        }
    }

    /// Everything passes again.
    pub fn heal(&self, node: usize) {
        self.filter(Some(node), "-F INPUT");
        self.filter(None, &format!("-F n{node}"));
        self.link(&format!("n{node}"), "up");
    }

    /// Cuts the controller off from all nodes at once.
    pub fn cut_controller(&self) {
        self.link("br0", "down");
    }

    pub fn heal_controller(&self) {
        self.link("br0", "up");
    }

    fn link(&self, device: &str, state: &str) {
        run("ip", &["-n", &self.namespace(None), "link", "set", device, state]);
    }

    fn filter(&self, node: Option<usize>, rule: &str) {
        let mut command = Command::new("iptables");
        command.args(words(&["--wait"], rule));
        succeed(self.inside(node, &command));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for node in (0..self.nodes).map(Some).chain([None]) {
            // A test that failed while it was made has not made all of it.
            let _ = Command::new("ip").args(["netns", "delete", &self.namespace(node)]).output();
        }
    }
}

fn words<'a>(first: &[&'a str], rest: &'a str) -> Vec<&'a str> {
    first.iter().copied().chain(rest.split_whitespace()).collect()
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments);
    succeed(command);
}

#[track_caller]
fn succeed(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
