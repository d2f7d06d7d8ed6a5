//! Keeps the promised ports of a task from everybody else between Prepare and "go".
//!
//! The sockets are bound on every address and never listen, so nobody can connect to them. They may not be
//! opened with SO_REUSEADDR: a port that something else still uses has to show itself here, as a veto, and not
//! in the task as "address already in use". The one exception is a port of which nothing is left but connections in
//! TIME_WAIT: the task before had it, and this one need not wait a minute for it.

use super::lingering::Lingering;
use super::own_table;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};
use nix::unistd::close;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

/// Whose ports they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ports {
    #[default]
    Machine,
    /// Of a machine that is played: there are no sockets, and nobody else.
    Imagined,
}

impl Ports {
    /// As [`HeldPorts::bind`].
    pub fn hold(self, ports: impl IntoIterator<Item = u16>) -> Result<HeldPorts, PortsTaken> {
        match self {
            Self::Machine => HeldPorts::bind(ports),
            Self::Imagined => Ok(HeldPorts::default()),
        }
    }

    /// As [`taken_by_others`].
    pub fn taken_by_others(self, ports: impl IntoIterator<Item = u16>) -> Vec<u16> {
        match self {
            Self::Machine => taken_by_others(ports),
            Self::Imagined => Vec::new(),
        }
    }
}

/// Bound sockets of one task; dropping them gives the ports to the task, at once and for certain: no process that is
/// being started has a copy of them.
#[derive(Debug, Default)]
pub struct HeldPorts {
    /// Of the table of [`own_table`].
    sockets: Vec<RawFd>,
}

impl Drop for HeldPorts {
    fn drop(&mut self) {
        let sockets = std::mem::take(&mut self.sockets);
        if !sockets.is_empty() {
            own_table::run(move || {
                for fd in sockets {
                    let _ = close(fd);
                }
            });
        }
    }
}

/// Promised ports that cannot be had, all of them, and why the first cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} cannot be bound: {reason}", named(ports))]
pub struct PortsTaken {
    pub ports: Vec<u16>,
    pub reason: String,
}

/// Ports in words; of many, the first few.
pub fn named(ports: &[u16]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<String> = ports.iter().take(SHOWN).map(ToString::to_string).collect();
    let more = if ports.len() > SHOWN { format!(" and {} more", ports.len() - SHOWN) } else { String::new() };
    format!("{} {}{more}", if ports.len() == 1 { "port" } else { "ports" }, shown.join(", "))
}

impl HeldPorts {
    /// Binds all of `ports`, TCP over IPv4 and IPv6; none stay bound on error. Does not wait for anything.
    fn bind(ports: impl IntoIterator<Item = u16>) -> Result<Self, PortsTaken> {
        let ports: Vec<u16> = ports.into_iter().collect();
        let bound = own_table::run(move || {
            bind_all(ports).map(|sockets| sockets.into_iter().map(IntoRawFd::into_raw_fd).collect())
        });
        bound.map(|sockets| Self { sockets })
    }
}

fn bind_all(ports: Vec<u16>) -> Result<Vec<OwnedFd>, PortsTaken> {
    let mut held = Vec::new();
    let mut taken: Option<PortsTaken> = None;
    // Looked up once, for all ports.
    let mut lingering: Option<Lingering> = None;
    for port in ports {
        let sockets = bind_port(port, false).or_else(|errno| {
            let lingers = errno == Errno::EADDRINUSE && lingering.get_or_insert_with(Lingering::read).only(port);
            if lingers { bind_port(port, true) } else { Err(errno) }
        });
        match sockets {
            Ok(sockets) => held.extend(sockets),
            Err(errno) => {
                let first = || PortsTaken { ports: Vec::new(), reason: errno.desc().to_lowercase() };
                taken.get_or_insert_with(first).ports.push(port);
            }
        }
    }
    taken.map_or(Ok(held), Err)
}

/// Of the ports of a task of which nothing is left: those that somebody has all the same, for certain. What only the
/// kernel still keeps, for connections that are not closed to the end, is nobody's.
fn taken_by_others(ports: impl IntoIterator<Item = u16>) -> Vec<u16> {
    let Err(taken) = HeldPorts::bind(ports) else { return Vec::new() };
    let sockets = Lingering::read();
    taken.ports.into_iter().filter(|port| sockets.somebody_has(*port)).collect()
}

/// Which of these ports cannot be bound right now, whoever has them. They are bound and let go one by one: none of them
/// may be one that a task of ours is about to use.
pub fn busy_among(ports: impl IntoIterator<Item = u16>) -> Vec<u16> {
    let ports: Vec<u16> = ports.into_iter().collect();
    own_table::run(move || ports.into_iter().filter(|port| bind_port(*port, false).is_err()).collect())
}

fn bind_port(port: u16, beside_lingering: bool) -> Result<Vec<OwnedFd>, Errno> {
    let mut sockets = vec![bind_ipv4(port, beside_lingering)?];
    sockets.extend(bind_ipv6(port, beside_lingering)?);
    if beside_lingering {
        // Only for the bind: others who set it must not get in beside us.
        sockets.iter().try_for_each(|fd| setsockopt(fd, sockopt::ReuseAddr, &false))?;
    }
    Ok(sockets)
}

fn bind_ipv4(port: u16, beside_lingering: bool) -> Result<OwnedFd, Errno> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &beside_lingering)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(fd)
}

/// `None` on a machine without IPv6: then nobody else can have the port there either.
fn bind_ipv6(port: u16, beside_lingering: bool) -> Result<Option<OwnedFd>, Errno> {
    let fd = match socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(fd) => fd,
        Err(Errno::EAFNOSUPPORT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    // Without this the socket wants the IPv4 port as well, which our other socket has.
    setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    setsockopt(&fd, sockopt::ReuseAddr, &beside_lingering)?;
    match bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))) {
        Ok(()) => Ok(Some(fd)),
        Err(Errno::EADDRNOTAVAIL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_port_in_use_is_named() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let error = HeldPorts::bind([port]).unwrap_err();
        assert_eq!(error.ports, [port]);
        assert!(error.to_string().contains("already in use"), "{error}");
    }

    /// Leaves a connection of a port in TIME_WAIT, as a server does that hangs up first. As servers do, std sets
    /// SO_REUSEADDR, without which the task could not bind either.
    fn lingering_port(address: &str) -> u16 {
        use std::io::Read;
        let server = TcpListener::bind(address).unwrap();
        let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        drop(server.accept().unwrap());
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let port = server.local_addr().unwrap().port();
        drop(server);
        drop(client);
        port
    }

    #[test]
    fn a_port_of_closed_connections_can_be_had_at_once() {
        let mut addresses = vec!["127.0.0.1:0"];
        addresses.extend(TcpListener::bind("[::1]:0").is_ok().then_some("[::1]:0"));
        for address in addresses {
            let port = lingering_port(address);
            assert_eq!(bind_port(port, false).unwrap_err(), Errno::EADDRINUSE);
            // The kernel may still be handing the last packets over, and a busy machine may miss the time for its lists.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
            let held = loop {
                match HeldPorts::bind([port]) {
                    Ok(held) => break held,
                    Err(taken) => assert!(std::time::Instant::now() < deadline, "{taken}"),
                }
                std::thread::yield_now();
            };
            // As exclusive as any other.
            assert!(TcpListener::bind(("0.0.0.0", port)).is_err(), "{address}");
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
            drop(held);
            drop(TcpListener::bind(("0.0.0.0", port)).unwrap());
            let server = TcpListener::bind(("127.0.0.1", port)).unwrap();
            assert!(HeldPorts::bind([port]).is_err(), "somebody listens beside the closed connections");
            drop(server);
        }
    }

    /// As of now.
    fn free_port() -> u16 {
        TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn every_port_in_use_is_told_and_none_is_kept() {
        let others: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let free = free_port();
        let mut ports: Vec<u16> = others.iter().map(|other| other.local_addr().unwrap().port()).collect();
        ports.insert(1, free);
        let error = HeldPorts::bind(ports.clone()).unwrap_err();
        ports.remove(1);
        assert_eq!(error.ports, ports);
        assert_eq!(busy_among(ports.iter().copied().chain([free])), ports);
        assert!(TcpListener::bind(("0.0.0.0", free)).is_ok(), "what could be had is not kept");
        assert_eq!(named(&[1]), "port 1");
        assert_eq!(named(&(1..=10).collect::<Vec<_>>()), "ports 1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }

    #[test]
    fn whoever_has_a_port_after_its_task_is_found_out() {
        use std::io::Read;
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        // Somebody else may be quicker.
        let hold = |port| Some((HeldPorts::bind([port]).ok()?, port));
        let (_bound, bound_port) = (0..50).find_map(|_| hold(free_port())).unwrap();
        let port = listening.local_addr().unwrap().port();
        assert_eq!(taken_by_others([port, bound_port]), [port, bound_port], "listening, and only bound");
        // A connection that its other end does not close: nobody's port, and yet it cannot be bound.
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        drop(listening.accept().unwrap());
        drop(listening);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert_eq!(taken_by_others([port]), [0; 0]);
        drop(client);
    }

    /// Between its fork and its exec a child has all that was open in its parent, close-on-exec or not.
    #[test]
    fn a_child_that_is_being_started_has_no_copy_of_them() {
        use std::io::{Read, Write};
        use std::os::unix::process::CommandExt;
        let port = free_port();
        let held = HeldPorts::bind([port]).unwrap();
        let (mut there, here) = std::io::pipe().unwrap();
        let (wait, mut go) = std::io::pipe().unwrap();
        let mut command = std::process::Command::new("true");
        // SAFETY: between fork and exec nothing is done but read and write.
        unsafe {
            command.pre_exec(move || {
                (&here).write_all(&[1])?;
                (&wait).read_exact(&mut [0])
            });
        }
        let starting = std::thread::spawn(move || command.status());
        there.read_exact(&mut [0]).unwrap();
        drop(held);
        let bound = TcpListener::bind(("0.0.0.0", port));
        go.write_all(&[1]).unwrap();
        assert!(starting.join().unwrap().unwrap().success());
        assert!(bound.is_ok(), "{bound:?}");
    }

    #[test]
    fn held_ports_refuse_others_and_connections_until_dropped() {
        let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let held = HeldPorts::bind([port]).unwrap();
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        drop(held);
        assert!(TcpListener::bind(("0.0.0.0", port)).is_ok());
    }
}
