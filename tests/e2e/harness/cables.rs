//! A machine of its own to the network for a store, with a cable to each of the controllers that can be cut, both ways or
//! one way: everybody else goes on hearing everybody.
//!
//! ```text
//!   the test's machine                     the store's namespace
//!   controller 0 - 10.B.C.1 ------ cable0 - 10.B.C.2
//!   controller 1 - 10.B.C.5 ------ cable1 - 10.B.C.6
//! ```

use super::port::Port;
use super::skip;
use std::process::Command;

/// Which way nothing goes any more, as the machine in the namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
    Both,
}

impl Way {
    pub fn chains(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::In => &[("INPUT", "-i")],
            Self::Out => &[("OUTPUT", "-o")],
            Self::Both => &[("INPUT", "-i"), ("OUTPUT", "-o")],
        }
    }
}

/// Dropping it removes namespace and cables; whatever ran there is to be gone by then.
#[derive(Debug)]
pub struct Cables {
    name: String,
    /// The second and the third number of every address.
    block: (u16, u16),
    /// What is its own among other tests' networks follows from it.
    _claim: Port,
}

impl Cables {
    /// None, with the reason on the list of skips, where no such thing can be made.
    pub fn get(what: &str, cables: usize) -> Option<Self> {
        let able = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !nix::unistd::geteuid().is_root() || !["ip", "iptables", "nsenter"].into_iter().all(able) {
            skip(what, "network namespaces need root and Debian's iproute2, iptables and util-linux");
            return None;
        }
        Some(Self::lay(cables))
    }

    pub fn lay(cables: usize) -> Self {
        let claim = Port::claim();
        // Ports of tests are from 30100 on; networks of nodes begin with 10.64 + their port's upper half.
        let block = (claim.number >> 8, claim.number & 255);
        let laid = Self { name: format!("we-{}-{}", std::process::id(), claim.number), block, _claim: claim };
        run(Command::new("ip").args(["netns", "add", &laid.name]));
        laid.ip("link set lo up");
        for i in 0..cables {
            let near = format!("we{}n{i}", laid._claim.number);
            let peer = ["type", "veth", "peer", "name", &format!("cable{i}"), "netns", &laid.name];
            run(Command::new("ip").args(["link", "add", &near]).args(peer));
            run(Command::new("ip").args(["address", "add", &format!("{}/30", laid.address(i, 1)), "dev", &near]));
            run(Command::new("ip").args(["link", "set", &near, "up"]));
            laid.ip(&format!("address add {}/30 dev cable{i}", laid.far(i)));
            laid.ip(&format!("link set cable{i} up"));
        }
        laid
    }

    fn ip(&self, arguments: &str) {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')));
    }

    fn address(&self, i: usize, end: usize) -> String {
        format!("10.{}.{}.{}", self.block.0, self.block.1, 4 * i + end)
    }

    /// Of the machine in the namespace, at the end of a cable.
    pub fn far(&self, i: usize) -> String {
        self.address(i, 2)
    }

    /// A program that is to run in the namespace, ready for its arguments. It keeps its process id.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// What is under way is lost, and nobody is told.
    pub fn cut(&self, i: usize, way: Way) {
        self.rules(i, "-A", way);
    }

    pub fn mend(&self, i: usize, way: Way) {
        self.rules(i, "-D", way);
    }

    fn rules(&self, i: usize, what: &str, way: Way) {
        for (chain, interface) in way.chains() {
            let cable = format!("cable{i}");
            run(self.program("iptables").args(["--wait", what, chain, interface, &cable, "-j", "DROP"]));
        }
    }
}

impl Drop for Cables {
    fn drop(&mut self) {
        // Cables go with their ends.
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
