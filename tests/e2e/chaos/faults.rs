//! Does to the fleet what the plan says, and undoes it.

use super::disks::Disk;
use super::fleet::{Daemon, Fleet, PROCESS_NODES};
use super::net::Way;
use super::plan::{Aim, Kind, Step};
use super::records;
use super::workload::{End, Workload};
use crate::harness::wait::pause;
use crate::harness::{proc, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

/// One that happened.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    /// Since 1970.
    pub at_ns: i128,
    /// The node it hits; all of them if it is none's.
    pub node: Option<String>,
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Happened {
    pub faults: Vec<Fault>,
    /// Tasks whose shim was killed.
    pub shot: BTreeSet<String>,
}

/// Brings jobs to where the aim wants them, and strikes.
pub fn strike(fleet: &Fleet, workload: &Workload, step: Step, happened: &mut Happened) {
    // Before the aim is taken: asking takes its time.
    let leads = matches!(step.kind, Kind::KillController | Kind::FreezeController | Kind::CutEtcd);
    let leader = leads.then(|| fleet.leader()).flatten();
    match step.aim {
        Aim::Anything => {}
        Aim::Starting => drop(workload.submit(fleet, None)),
        Aim::Stopping => {
            let jobs = workload.endless();
            jobs.iter().take(2).for_each(|job| workload.stop(fleet, job));
            if jobs.is_empty() {
                workload.submit(fleet, Some(End::Stopped));
            }
        }
    }
    pause(step.delay);
    let nodes = fleet.agents.len() as u64;
    let victim = (step.victim % nodes) as usize;
    let at_ns = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_nanos() as i128;
    let node = match step.kind {
        Kind::KillDocker | Kind::FreezeDocker => Some(PROCESS_NODES),
        Kind::KillAgent | Kind::FreezeAgent | Kind::FillLogs | Kind::FillState => Some(victim),
        Kind::Cut | Kind::CutIncoming | Kind::CutOutgoing => Some(victim),
        _ => None,
    };
    let node = node.map(|node| format!("n{node}"));
    if inflict(fleet, step, (victim, leader), happened) {
        happened.faults.push(Fault { kind: step.kind, at_ns, node });
    }
    fleet.assert_daemons_live();
    pause(step.pause);
}

/// False if there was nobody to do it to.
fn inflict(fleet: &Fleet, step: Step, (victim, leader): (usize, Option<usize>), happened: &mut Happened) -> bool {
    let hold = || pause(step.hold);
    match step.kind {
        Kind::KillAgent => restart(&[&fleet.agents[victim]], hold),
        Kind::KillController => match leader {
            Some(leader) => restart(&[&fleet.controllers[leader]], hold),
            None => return false,
        },
        Kind::KillAll => {
            let all: Vec<&Daemon> = fleet.controllers.iter().chain(&fleet.agents).collect();
            restart(&all, hold);
        }
        Kind::KillShim => return kill_shim(fleet, step, happened),
        Kind::KillEtcd | Kind::FreezeEtcd => {
            let (etcd, member) = (fleet.etcd.as_ref().expect("it is planned for"), (step.victim % 3) as usize);
            if step.kind == Kind::KillEtcd {
                etcd.kill9(member);
                hold();
                etcd.start_member(member);
            } else {
                etcd.signal(member, Signal::SIGSTOP);
                hold();
                etcd.signal(member, Signal::SIGCONT);
            }
        }
        Kind::KillDocker | Kind::FreezeDocker => {
            let dockerd = fleet.dockerd.as_ref().expect("it is planned for");
            let pid = dockerd.pid().expect("it runs");
            let signal = |signal| kill(Pid::from_raw(pid), signal).expect("it is ours");
            if step.kind == Kind::KillDocker {
                signal(Signal::SIGKILL);
                hold();
                dockerd.start_again();
            } else {
                signal(Signal::SIGSTOP);
                hold();
                signal(Signal::SIGCONT);
            }
        }
        Kind::FreezeAgent => freeze(&fleet.agents[victim], hold),
        Kind::FreezeController => match leader {
            Some(leader) => freeze(&fleet.controllers[leader], hold),
            None => return false,
        },
        Kind::Cut => cut(fleet, &[victim], Way::Both, hold),
        Kind::CutIncoming => cut(fleet, &[victim], Way::In, hold),
        Kind::CutOutgoing => cut(fleet, &[victim], Way::Out, hold),
        Kind::CutAll => cut(fleet, &(0..fleet.agents.len()).collect::<Vec<_>>(), Way::Both, hold),
        Kind::CutEtcd => match leader {
            Some(leader) => {
                let cables = fleet.etcd.as_ref().expect("it is planned for").cables();
                let way = [Way::Both, Way::In, Way::Out][(step.victim % 3) as usize];
                cables.cut(leader, way);
                hold();
                cables.mend(leader, way);
            }
            None => return false,
        },
        Kind::FillLogs | Kind::FillState => {
            let disk = if step.kind == Kind::FillLogs { Disk::Logs } else { Disk::State };
            fleet.disks[victim].fill(disk);
            hold();
            fleet.disks[victim].empty(disk);
        }
    }
    true
}

fn restart(daemons: &[&Daemon], hold: impl Fn()) {
    daemons.iter().for_each(|daemon| daemon.kill9());
    hold();
    daemons.iter().for_each(|daemon| daemon.start());
}

fn freeze(daemon: &Daemon, hold: impl Fn()) {
    daemon.signal(Signal::SIGSTOP);
    hold();
    daemon.signal(Signal::SIGCONT);
}

fn cut(fleet: &Fleet, nodes: &[usize], way: Way, hold: impl Fn()) {
    let net = fleet.net.as_ref().expect("it is planned for");
    nodes.iter().for_each(|node| net.cut(*node, way));
    hold();
    nodes.iter().for_each(|node| net.mend(*node, way));
}

/// Of a task that runs as a process: in a container it has another number.
fn kill_shim(fleet: &Fleet, step: Step, happened: &mut Happened) -> bool {
    let all = records::read_all(&fleet.path("records"));
    let folder = fleet.folder().display().to_string();
    let running: Vec<(String, i32)> = all
        .into_iter()
        .filter(|(_, record)| record.end.is_none() && !record.begins.is_empty())
        .map(|(task, record)| (task, record.begins[0].shim))
        // Its command line names its socket: the number of one that is no more may have become another's.
        .filter(|(task, shim)| {
            let line = std::fs::read(format!("/proc/{shim}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&folder) && line.contains(&format!("/{task}/"))
        })
        .collect();
    if running.is_empty() {
        return false;
    }
    let (task, shim) = &running[(step.victim % running.len() as u64) as usize];
    happened.shot.insert(task.clone());
    proc::kill9(*shim);
    until("the shim is gone", || (!proc::is_alive(*shim)).then_some(()));
    true
}
