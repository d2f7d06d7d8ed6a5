//! From a kernel message to what is counted.

use super::kernel_log::{Event, Record, Seen, Sxid, SxidSeverity, Xid, XidDetail};
use super::observation::{Clears, Engine, Observation, Relation, SeenAt, Source};
use super::table::{Rule, Table};
use super::verdict::{self, Judgement, RecoveryAction};
use crate::domain::fault::{FaultKind, Part, Subject};
use crate::domain::ids::{GpuUuid, NodeName};
use crate::domain::pci::PciAddress;

/// What a kernel message was good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Observation(Box<Observation>),
    /// Which GPU is where.
    Identity {
        pci: PciAddress,
        uuid: GpuUuid,
    },
    /// Lines were left out: counts are lower bounds.
    Suppressed {
        count: Option<u64>,
    },
    /// Understood, and of no concern.
    Nothing,
}

/// Judges what was seen. `order` grows with every record; `driver` says what the driver recommends for the GPU at an
/// address, where somebody has asked it.
pub fn heard(
    seen: Seen,
    record: &Record<'_>,
    order: u64,
    table: &Table,
    driver: &dyn Fn(PciAddress) -> Option<RecoveryAction>,
) -> Heard {
    let at = SeenAt { time: record.time, boot_us: record.boot_us, order };
    let found = match seen.event {
        Event::Identity { pci, uuid } => return Heard::Identity { pci, uuid },
        Event::Suppressed { count } => return Heard::Suppressed { count },
        Event::Xid(found) => Some(of_xid(found, table, driver, at)),
        Event::Sxid(found) => Some(of_sxid(found, table, at)),
        Event::RateLimited { pci } => Some(rate_limited(pci, at)),
        other => of_other(other, at),
    };
    let Some(mut observation) = found else { return Heard::Nothing };
    observation.node = record.host.map(NodeName::from).filter(NodeName::is_well_formed);
    observation.evidence = seen.line;
    Heard::Observation(Box::new(observation))
}

fn new(kind: FaultKind, subject: Subject, judgement: Judgement, at: SeenAt) -> Observation {
    Observation::new(Source::KernelLog, kind, subject, judgement, at)
}

fn of_xid(
    found: Xid,
    table: &Table,
    driver: &dyn Fn(PciAddress) -> Option<RecoveryAction>,
    at: SeenAt,
) -> Observation {
    let judgement = verdict::xid(&found, table, found.pci.and_then(driver));
    let row = table.xid(found.code);
    let mut subject = Subject {
        part: Part::Gpu,
        pci: found.pci,
        gpu_instance: found.gpu_instance,
        compute_instance: found.compute_instance,
        ..Subject::default()
    };
    subject.link = match &found.detail {
        XidDetail::NvLink { link, .. } => Some(*link),
        XidDetail::Nvlink5 { link, .. } => *link,
        _ => None,
    };
    if subject.link.is_some() {
        subject.part = Part::Link;
    }
    let mut observation = new(FaultKind::Xid, subject, judgement, at);
    observation.code = Some(found.code);
    observation.pid = found.pid.filter(|pid| *pid != 0);
    observation.process = found.process;
    match found.detail {
        XidDetail::Memory { address } => observation.address = Some(address),
        XidDetail::Engine { gpc, tpc } => observation.engine = Some(Engine { gpc, tpc }),
        XidDetail::Recovery { to: 0, .. } if row.is_some_and(|row| row.rule == Some(Rule::Recovery)) => {
            observation.relation = Relation::FollowUp;
            observation.clears = Clears::Recovered;
        }
        _ => {}
    }
    if let Some(cause) = found.caused_by {
        observation.relation = Relation::CausedBy(cause);
    }
    if let Some(row) = row.filter(|row| !row.cancels.is_empty()) {
        observation.clears = Clears::Codes(row.cancels.clone());
    }
    observation
}

fn of_sxid(found: Sxid, table: &Table, at: SeenAt) -> Observation {
    let judgement = verdict::sxid(&found, table);
    let part = if found.link.is_some() { Part::Link } else { Part::Fabric };
    let subject =
        Subject { part, pci: found.pci, link: found.link, device: Some(found.switch), ..Subject::default() };
    let mut observation = new(FaultKind::Sxid, subject, judgement, at);
    observation.code = Some(found.code);
    if found.severity == SxidSeverity::FollowUp {
        observation.relation = Relation::FollowUp;
    }
    observation
}

fn rate_limited(pci: Option<PciAddress>, at: SeenAt) -> Observation {
    let nothing = Judgement::new(crate::domain::fault::Verdict::Unknown, crate::domain::fault::Action::None, "");
    let subject = Subject { part: Part::Gpu, pci, ..Subject::default() };
    Observation { relation: Relation::FollowUp, ..new(FaultKind::KernelLogGap, subject, nothing, at) }
}

fn of_other(event: Event, at: SeenAt) -> Option<Observation> {
    let judgement = verdict::other(&event)?;
    let if_repeated = verdict::repeated(&event);
    let gpu = |pci| Subject { part: Part::Gpu, pci, ..Subject::default() };
    let node = |device| Subject { part: Part::Node, device, ..Subject::default() };
    let observation = match event {
        Event::FallenOff { pci } => new(FaultKind::GpuLost, gpu(Some(pci)), judgement, at),
        Event::ResetRequired => {
            let found = new(FaultKind::ResetRequired, gpu(None), judgement, at);
            Observation { relation: Relation::FollowUpOrOwn, ..found }
        }
        Event::DriverMismatch { .. } => new(FaultKind::DriverMismatch, node(None), judgement, at),
        Event::Aer { device, driver, announcement, .. } => {
            let found = new(FaultKind::Aer, on_bus(device, driver), judgement, at);
            let relation = if announcement { Relation::ByCode } else { Relation::FollowUpOrOwn };
            Observation { relation, ..found }
        }
        Event::AerUnrecovered { device, driver } => {
            let found = new(FaultKind::Aer, on_bus(Some(device), Some(driver)), judgement, at);
            Observation { relation: Relation::FollowUpOrOwn, ..found }
        }
        Event::Nic { device, port, .. } => {
            let subject = Subject { part: Part::Device, pci: device, device: port, ..Subject::default() };
            new(FaultKind::Nic, subject, judgement, at)
        }
        Event::MachineCheck { .. } => new(FaultKind::MachineCheck, node(None), judgement, at),
        Event::Edac { controller, count, .. } => {
            Observation { count, ..new(FaultKind::Edac, Subject::device(controller), judgement, at) }
        }
        Event::OomKill { pid, process, cgroup, .. } => {
            let found = new(FaultKind::OomKill, node(cgroup), judgement, at);
            Observation { pid: Some(pid), process, relation: Relation::FollowUpOrOwn, ..found }
        }
        Event::HungTask { pid, process, .. } => {
            Observation { pid, process, ..new(FaultKind::HungTask, node(None), judgement, at) }
        }
        Event::ReadOnly { device } => new(FaultKind::ReadOnly, Subject::device(device), judgement, at),
        Event::Nvme { device, .. } => new(FaultKind::Nvme, Subject::device(device), judgement, at),
        Event::BlockIo { device, .. } => new(FaultKind::BlockIo, Subject::device(device), judgement, at),
        Event::Xid(_)
        | Event::Sxid(_)
        | Event::Identity { .. }
        | Event::RateLimited { .. }
        | Event::Suppressed { .. } => return None,
    };
    Some(Observation { if_repeated, ..observation })
}

/// A GPU where the GPUs' driver speaks, else some device; [`super::Faults`] knows more addresses.
fn on_bus(pci: Option<PciAddress>, driver: Option<String>) -> Subject {
    let part = if driver.as_deref() == Some("nvidia") { Part::Gpu } else { Part::Device };
    Subject { part, pci, ..Subject::default() }
}
