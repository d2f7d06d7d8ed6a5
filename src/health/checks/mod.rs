//! What devices and the kernel show, judged: round after round, by one check for each thing that may be wrong.
//!
//! ```text
//!  snapshots of GPUs, PCI, InfiniBand ── Look ──> Checks::look ──> Found ── observations ──> Faults
//!                                                                    └───── clean ────────> clearing
//! ```
//!
//! A check goes by what is there now. As long as it finds something wrong, every round has the observation again; once
//! it finds it in order, the round says so, and only then may a fault end by being clean. What could not be looked at
//! is neither. Numbers that only grow are compared with those of earlier rounds; one that went back was reset, and is
//! compared from there on. So the first round after a start finds states, and no growth.

mod answers;
mod at_once;
mod device_access;
mod driver;
mod ecc;
mod fabric;
mod far_end;
mod gpu;
mod gpu_count;
mod growth;
mod infiniband;
mod memory_cells;
mod memory_held;
mod modes;
mod nvlink;
mod pcie;
mod recovery;
mod round;
mod slowdown;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod worked;

pub use at_once::{as_far_as, at_once};
pub use modes::{Check, Mode, Modes};
pub use round::Finding;
pub use worked::Worked;

use super::{Observation, SeenAt};

use crate::domain::fault::{FaultKind, Part, Subject};
use crate::domain::gpu::health::DeviceHealth;
use crate::domain::gpu::{Gpu, GpuDriver};
use crate::domain::host::{DevicesSeen, InfinibandDevice, PciFunction};
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::pci::PciAddress;
use device_access::DeviceAccess;
use driver::Driver;
use gpu::{GpuMemory, Place};
use gpu_count::GpuCount;
use infiniband::Infiniband;
use round::Round;
use std::collections::{BTreeMap, BTreeSet};

/// GPUs of one node that are looked at.
const MOST_GPUS: usize = 256;

/// What one round of looking saw. None: it could not be looked at, which is neither good nor bad.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// When; `order` is not used.
    pub seen: SeenAt,
    /// What the driver's devices say of themselves. None also where the GPUs are of a source that says nothing.
    pub gpus: Option<&'a [DeviceHealth]>,
    pub driver: &'a GpuDriver,
    /// How many GPUs the operator says there are, without slices.
    pub expected_gpus: Option<u32>,
    /// The node's inventory, with slices: also GPUs that do not answer any more.
    pub known: &'a [Gpu],
    /// GPUs and slices that a task holds.
    pub busy: &'a BTreeSet<GpuUuid>,
    /// Percent of time with a kernel running, by the last sample; those that cannot say are left out.
    pub utilization: &'a BTreeMap<GpuUuid, u32>,
    pub pci: Option<&'a [PciFunction]>,
    pub infiniband: Option<&'a [InfinibandDevice]>,
    /// Tasks that hold devices ...
    pub device_users: &'a BTreeSet<TaskId>,
    /// ... and how these look to them.
    pub devices: Option<&'a [DevicesSeen]>,
}

/// What the checks found in one round.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Everything that is wrong, also what was wrong in the round before.
    pub observations: Vec<Observation>,
    /// Looked at by every check of that kind that is on, and in order.
    pub clean: BTreeSet<(FaultKind, CheckedPart)>,
}

impl Found {
    /// A fault of this kind on this part was looked for, and is not there.
    pub fn is_clean(&self, kind: FaultKind, subject: &Subject) -> bool {
        CheckedPart::of(subject).is_some_and(|part| self.clean.contains(&(kind, part)))
    }
}

/// A part that checks look at, by the name that says most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckedPart {
    Node,
    Gpu(GpuUuid),
    /// A GPU by its place, for faults that know no more. A GPU with a known place is clean under both.
    Slot(PciAddress),
    /// An NVLink of this GPU.
    Link(GpuUuid, u32),
    /// E.g. port 1 of an InfiniBand device, `mlx5_0:1`.
    Device(String),
}

impl CheckedPart {
    /// The part that a fault is on; none where it is not said well enough, or nobody checks such parts.
    pub fn of(subject: &Subject) -> Option<Self> {
        Self::all_of(subject).into_iter().next()
    }

    /// The same with its other names.
    fn all_of(subject: &Subject) -> Vec<Self> {
        let gpu = subject.gpu.clone();
        match subject.part {
            Part::Node => vec![Self::Node],
            Part::Gpu => gpu.map(Self::Gpu).into_iter().chain(subject.pci.map(Self::Slot)).collect(),
            Part::Link => gpu.zip(subject.link).map(|(gpu, link)| Self::Link(gpu, link)).into_iter().collect(),
            Part::Device => subject.device.clone().map(Self::Device).into_iter().collect(),
            Part::Fabric => Vec::new(),
        }
    }
}

/// All checks of one node, with what they remember of earlier rounds: bounded, and nothing of parts that are gone.
#[derive(Debug, Default)]
pub struct Checks {
    modes: Modes,
    driver: Driver,
    gpus: BTreeMap<GpuUuid, GpuMemory>,
    count: GpuCount,
    infiniband: Infiniband,
    device_access: DeviceAccess,
}

impl Checks {
    pub fn new(modes: Modes) -> Self {
        Self { modes, ..Self::default() }
    }

    /// What a later process of the agent is to know, in the same boot.
    pub fn worked(&self) -> Worked {
        let links = |(gpu, memory): (&GpuUuid, &GpuMemory)| Some((gpu.clone(), memory.links_that_worked()?));
        Worked { links: self.gpus.iter().filter_map(links).collect(), ports: self.infiniband.worked() }
    }

    /// Takes up what an earlier process knew, before the first round.
    pub fn take_up(&mut self, worked: &Worked) {
        for (gpu, links) in worked.links.iter().take(MOST_GPUS) {
            self.gpus.entry(gpu.clone()).or_default().take_up_links(links);
        }
        self.infiniband.take_up(&worked.ports);
    }

    /// An operator has said that such a fault is over: what was seen of it in past rounds counts no more. What is still
    /// wrong is found again; a port is not missed before it has worked anew, for who unplugs it says so like this.
    pub fn forget(&mut self, kind: FaultKind, subject: &Subject) {
        if let Some(memory) = subject.gpu.as_ref().and_then(|gpu| self.gpus.get_mut(gpu)) {
            memory.forget(kind, subject.link);
        }
        if let Some(port) = subject.device.as_deref().filter(|_| kind == FaultKind::Infiniband) {
            self.infiniband.forget(port);
        }
    }

    /// Judges what one round saw. Rounds come in the order of their time.
    pub fn look(&mut self, look: &Look<'_>) -> Found {
        let mut round = Round::new(&self.modes, look.seen);
        self.driver.look(look, &mut round);
        self.count.look(look, &mut round);
        let devices = look.gpus.unwrap_or_default().iter().take(MOST_GPUS);
        let known = look.known.iter().take(MOST_GPUS).map(|gpu| &gpu.uuid);
        let there: BTreeSet<&GpuUuid> = known.chain(devices.clone().map(|device| &device.gpu)).collect();
        self.gpus.retain(|gpu, _| there.contains(gpu));
        for device in devices {
            let place = Place::of(device, look);
            self.gpus.entry(device.gpu.clone()).or_default().look(device, &place, &mut round);
        }
        self.infiniband.look(look, &mut round);
        self.device_access.look(look, &mut round);
        round.end()
    }
}
