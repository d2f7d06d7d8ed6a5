//! Which ports an agent gives to tasks, so that agents of one machine give each port once without being told of each
//! other.
//!
//! 1. An agent binds an abstract Unix socket that is named after its range. Such names belong to a network namespace,
//!    as ports do, and live exactly as long as the process: there is no file to go stale, and no lock to break.
//! 2. Then it reads who else has such a name (`/proc/net/unix`). Of two that start at once at least one sees the other.
//! 3. Without a configured range it takes a slice of 15000-29999: the one it had before, else the first free one.
//!    The first five are large; behind them are smaller ones for machines with dozens of agents, such as a tester's.
//! 4. A configured range is taken as it is, or refused with both names. It is tried for a while: an agent that is being
//!    replaced may still be on its way out.
//! 5. Only names of root and of the agent's own user count. Anybody may bind a name; it keeps no agent from starting.
//!
//! Tasks outlive their agent and its claim. Should another agent be given their ports meanwhile, it finds them in use.

use crate::domain::command::{Error, ErrorKind};
use crate::domain::quantity::DEFAULT_PORTS;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt};
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

type Ports = RangeInclusive<u16>;

const PREFIX: &str = "wharf-ports/";
/// Where the kernel lists the names, those of abstract sockets with an `@`.
const NAMES: &str = "/proc/net/unix";
/// Of [`DEFAULT_PORTS`]. First port, ports of each slice, how many slices: 15000-22499, 22500-27899, 27900-29999.
const SLICES: [(u16, u16, u16); 3] = [(15_000, 1500, 5), (22_500, 300, 18), (27_900, 60, 35)];
/// Holds the slice of the last start, `FIRST-LAST`.
const FILE: &str = "ports";
/// How long an agent that is on its way out is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Ports of this agent alone, as long as it is kept.
#[derive(Debug)]
pub struct PortClaim {
    range: Ports,
    /// Takes and drops the connections of those who ask whose it is; they need no more than the kernel tells them.
    asked: Option<JoinHandle<()>>,
}

impl Drop for PortClaim {
    fn drop(&mut self) {
        self.asked.iter().for_each(JoinHandle::abort);
    }
}

/// Why a range cannot be had: somebody's range that overlaps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Other {
    range: Ports,
    pid: i32,
}

enum Attempt {
    Had(StdListener),
    Taken(Other),
    /// Somebody who does not count has the very name, or the machine has no such sockets.
    Unclaimable(String),
}

impl PortClaim {
    /// Claims `configured`, or a slice. `data_dir` remembers the slice.
    pub async fn take(configured: Option<Ports>, data_dir: &Path) -> Result<Self, Error> {
        match configured {
            Some(range) => Self::exactly(range).await,
            None => Self::slice(data_dir).await,
        }
    }

    pub fn range(&self) -> &Ports {
        &self.range
    }

    async fn exactly(range: Ports) -> Result<Self, Error> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            match attempt(&range) {
                Attempt::Had(listener) => return Self::held(range, listener),
                Attempt::Unclaimable(why) => {
                    tracing::warn!(ports = text(&range), why, "other agents of this machine do not see its ports");
                    return Ok(Self { range, asked: None });
                }
                Attempt::Taken(other) if Instant::now() >= give_up => return Err(overlap(&range, &other)),
                Attempt::Taken(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn slice(data_dir: &Path) -> Result<Self, Error> {
        let before = remembered(data_dir);
        if let Some(range) = &before {
            let give_up = Instant::now() + PATIENCE;
            while let Attempt::Taken(other) = attempt(range) {
                // Only somebody with the very same slice can be the agent that was here before.
                if other.range != *range || Instant::now() >= give_up {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        let mut unclaimable = None;
        for range in before.into_iter().chain(slices()) {
            match attempt(&range) {
                Attempt::Had(listener) => {
                    if let Err(error) = remember(data_dir, &range) {
                        let dir = data_dir.display();
                        tracing::warn!(%dir, %error, "its ports may be others after a restart");
                    }
                    return Self::held(range, listener);
                }
                Attempt::Unclaimable(why) => unclaimable = unclaimable.or(Some((range, why))),
                Attempt::Taken(_) => {}
            }
        }
        if let Some((range, why)) = unclaimable {
            tracing::warn!(ports = text(&range), why, "other agents of this machine do not see its ports");
            return Ok(Self { range, asked: None });
        }
        let message = format!(
            "ports: every slice of {} belongs to another agent of this machine already; give this one ports of its own",
            text(&DEFAULT_PORTS)
        );
        Err(Error::new(ErrorKind::Exhausted, message))
    }

    fn held(range: Ports, listener: StdListener) -> Result<Self, Error> {
        let listening = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        let listener =
            listening.map_err(|error| Error::internal(format!("claiming ports {}: {error}", text(&range))))?;
        let asked = tokio::spawn(async move {
            loop {
                if listener.accept().await.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        });
        Ok(Self { range, asked: Some(asked) })
    }
}

fn text(range: &Ports) -> String {
    format!("{}-{}", range.start(), range.end())
}

fn parse(text: &str) -> Option<Ports> {
    let (first, last) = text.split_once('-')?;
    let range = first.parse().ok()?..=last.parse().ok()?;
    (range.start() <= range.end()).then_some(range)
}

fn overlaps(a: &Ports, b: &Ports) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

fn slices() -> impl Iterator<Item = Ports> {
    SLICES.into_iter().flat_map(|(first, ports, count)| {
        (0..count).map(move |nth| {
            let begin = first + nth * ports;
            begin..=begin + (ports - 1)
        })
    })
}

/// Only a slice: whoever writes into the file gets no other ports by it.
fn remembered(data_dir: &Path) -> Option<Ports> {
    let range = parse(fs::read_to_string(data_dir.join(FILE)).ok()?.trim())?;
    slices().find(|slice| *slice == range)
}

/// Whole or not at all.
fn remember(data_dir: &Path, range: &Ports) -> io::Result<()> {
    if remembered(data_dir).as_ref() == Some(range) {
        return Ok(());
    }
    let next = data_dir.join(format!("{FILE}.next"));
    fs::write(&next, text(range))?;
    fs::rename(next, data_dir.join(FILE))
}

/// Binds the name, then looks whether that was right.
fn attempt(range: &Ports) -> Attempt {
    let name = format!("{PREFIX}{}", text(range));
    let bound = SocketAddr::from_abstract_name(&name).and_then(|address| StdListener::bind_addr(&address));
    match bound {
        Ok(listener) => match others(range) {
            Ok(others) => match others.into_iter().next() {
                None => Attempt::Had(listener),
                Some(other) => Attempt::Taken(other),
            },
            Err(error) => Attempt::Unclaimable(format!("{NAMES}: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match holder(&name) {
            Some(pid) => Attempt::Taken(Other { range: range.clone(), pid }),
            None => Attempt::Unclaimable(format!("the name {name} is held by somebody who is no agent of this user")),
        },
        Err(error) => Attempt::Unclaimable(format!("binding the name {name}: {error}")),
    }
}

/// Claims beside `range` itself that overlap it and count.
fn others(range: &Ports) -> io::Result<Vec<Other>> {
    let names = fs::read(NAMES)?;
    let mut found: Vec<Ports> = claims(&String::from_utf8_lossy(&names));
    found.retain(|other| other != range && overlaps(other, range));
    Ok(found
        .into_iter()
        .filter_map(|range| Some(Other { pid: holder(&format!("{PREFIX}{}", text(&range)))?, range }))
        .collect())
}

/// The ranges among the names of sockets, each once.
fn claims(names: &str) -> Vec<Ports> {
    let of_line = |line: &str| parse(line.rsplit(' ').next()?.strip_prefix('@')?.strip_prefix(PREFIX)?);
    let mut found: Vec<Ports> = Vec::new();
    for range in names.lines().filter_map(of_line) {
        if !found.contains(&range) {
            found.push(range);
        }
    }
    found
}

/// The process that has a name, if it is root's or our own user's. One that listens and does not answer at once counts
/// too: only its pid is not known.
fn holder(name: &str) -> Option<i32> {
    let fd =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None).ok()?;
    let address = UnixAddr::new_abstract(name.as_bytes()).ok()?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => {
            let peer = getsockopt(&fd, sockopt::PeerCredentials).ok()?;
            let processes = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
            // Root of a container on this network is not the node's: a task must not keep its agent from starting.
            let here = processes(&peer.pid().to_string()).is_some_and(|found| Some(found) == processes("self"));
            let counts = peer.uid() == 0 || peer.uid() == nix::unistd::Uid::effective().as_raw();
            (here && counts).then(|| peer.pid())
        }
        Err(_) => None,
    }
}

fn overlap(range: &Ports, other: &Other) -> Error {
    let program = fs::read(format!("/proc/{}/cmdline", other.pid)).unwrap_or_default();
    let program: String = String::from_utf8_lossy(&program).replace('\0', " ").trim().chars().take(120).collect();
    let program = if program.is_empty() { String::new() } else { format!(", {program}") };
    let message = format!(
        "ports: {} overlaps {} of another agent on this machine (pid {}{program}); each needs ports of its own",
        text(range),
        text(&other.range),
        other.pid
    );
    Error::new(ErrorKind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_disjoint_and_fill_the_whole_range() {
        let all: Vec<Ports> = slices().collect();
        assert_eq!((all.first(), all.last()), (Some(&(15_000..=16_499)), Some(&(29_940..=29_999))));
        assert_eq!(*all[0].start()..=*all[all.len() - 1].end(), DEFAULT_PORTS);
        assert!(all.windows(2).all(|pair| *pair[0].end() + 1 == *pair[1].start()), "{all:?}");
    }

    #[test]
    fn names_of_sockets_are_read_whatever_else_is_among_them() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24600 @wharf-ports/15000-16499\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 24601 @wharf-ports/15000-16499\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24602 /run/wharf-ports/1-2\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24603 @wharf-ports/20-10\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24604 @wharf-ports/1-99999\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24605\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 24606 @wharf-ports/40000-40001\n";
        assert_eq!(claims(list), [15_000..=16_499, 40_000..=40_001]);
    }

    /// Ranges that no agent and no other test of this machine claims.
    fn strange(offset: u16) -> Ports {
        let first = 60_000 + (std::process::id() % 200) as u16 * 20 + offset;
        first..=first + 3
    }

    #[tokio::test]
    async fn overlapping_ranges_are_refused_with_both_and_free_again_with_the_claim() {
        let (first, inside) = (strange(0), *strange(0).start() + 2..=*strange(0).start() + 9);
        let dir = tempfile::tempdir().unwrap();
        let claim = PortClaim::take(Some(first.clone()), dir.path()).await.unwrap();
        assert_eq!(claim.range(), &first);
        for overlapping in [first.clone(), inside.clone()] {
            let Attempt::Taken(other) = attempt(&overlapping) else { panic!("{overlapping:?} was had") };
            assert_eq!((other.range.clone(), other.pid as u32), (first.clone(), std::process::id()));
            let said = overlap(&overlapping, &other).to_string();
            assert!(said.contains(&text(&overlapping)) && said.contains(&text(&first)), "{said}");
        }
        let beside = PortClaim::take(Some(strange(10)), dir.path()).await.unwrap();
        let waiting = tokio::spawn({
            let (inside, dir) = (inside.clone(), dir.path().to_owned());
            async move { PortClaim::take(Some(inside), &dir).await }
        });
        drop(claim);
        assert_eq!(waiting.await.unwrap().unwrap().range(), &inside, "who waits for one on its way out gets it");
        drop(beside);
    }

    #[tokio::test]
    async fn agents_without_a_range_get_different_slices_and_the_same_again() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let first = PortClaim::take(None, dirs[0].path()).await.unwrap();
        let second = PortClaim::take(None, dirs[1].path()).await.unwrap();
        assert!(!overlaps(first.range(), second.range()), "{first:?} {second:?}");
        let had = second.range().clone();
        assert_eq!(remembered(dirs[1].path()), Some(had));
        fs::write(dirs[1].path().join(FILE), "1-65535").unwrap();
        assert_eq!(remembered(dirs[1].path()), None);
    }
}
