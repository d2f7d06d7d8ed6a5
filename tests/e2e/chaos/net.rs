//! A network namespace per node, with one cable each to the controllers, that can be cut both ways or one way.

pub use crate::harness::cables::Way;
use crate::harness::port::Port;
use crate::harness::proc;
use std::process::Command;

/// The cables. Dropping it removes them.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    /// The first two numbers of every address, and the third.
    block: (u16, u16),
    nodes: usize,
    /// What is its own among other tests' networks follows from it.
    _claim: Port,
}

const CABLE: &str = "cable0";

impl Net {
    pub fn lay(nodes: usize) -> Self {
        remove_orphans();
        let claim = Port::claim();
        let block = (64 + (claim.number >> 8), claim.number & 255);
        let net = Self { prefix: format!("wc-{}-", std::process::id()), block, nodes, _claim: claim };
        for i in 0..nodes {
            let (name, near) = (net.namespace(i), format!("wc{}n{i}", net._claim.number));
            ip(&["netns", "add", &name]);
            ip(&["link", "add", &near, "type", "veth", "peer", "name", CABLE, "netns", &name]);
            ip(&["addr", "add", &format!("{}/30", net.near(i)), "dev", &near]);
            ip(&["link", "set", &near, "up"]);
            ip(&["-n", &name, "addr", "add", &format!("{}/30", net.far(i)), "dev", CABLE]);
            ip(&["-n", &name, "link", "set", CABLE, "up"]);
            ip(&["-n", &name, "link", "set", "lo", "up"]);
        }
        net
    }

    pub fn namespace(&self, i: usize) -> String {
        format!("{}{i}", self.prefix)
    }

    fn address(&self, i: usize, end: usize) -> String {
        format!("10.{}.{}.{}", self.block.0, self.block.1, 4 * i + end)
    }

    /// The controllers' end.
    pub fn near(&self, i: usize) -> String {
        self.address(i, 1)
    }

    /// The node's end.
    pub fn far(&self, i: usize) -> String {
        self.address(i, 2)
    }

    pub fn cut(&self, i: usize, way: Way) {
        self.rules(i, "-A", way);
    }

    pub fn mend(&self, i: usize, way: Way) {
        self.rules(i, "-D", way);
    }

    fn rules(&self, i: usize, what: &str, way: Way) {
        for (chain, interface) in way.chains() {
            let namespace = self.namespace(i);
            let rule = ["-w", what, chain, interface, CABLE, "-j", "DROP"];
            run(Command::new("ip").args(["netns", "exec", &namespace, "iptables"]).args(rule));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // Cables go with their ends.
        for i in 0..self.nodes {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(i)]).status();
        }
    }
}

/// Of runs that were killed.
fn remove_orphans() {
    let listed = Command::new("ip").args(["netns", "list"]).output().expect("ip starts");
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter_map(|line| line.split(' ').next()) {
        let owner = ["wc-", "we-"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid| !proc::is_alive(pid)) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
