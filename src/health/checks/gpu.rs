//! All checks of one GPU.

use super::answers::{self, Answers};
use super::ecc::Ecc;
use super::far_end::{FarEnd, Standing};
use super::memory_held::MemoryHeld;
use super::modes::Check;
use super::nvlink::Link;
use super::pcie::Pcie;
use super::recovery::Recovery;
use super::round::Round;
use super::slowdown::Slowdown;
use super::{Look, fabric, memory_cells};
use crate::domain::fault::{FaultKind, Part, Subject};
use crate::domain::gpu::Gpu;
use crate::domain::gpu::health::{ClockEvents, DeviceHealth, HealthSnapshot, LinkEnd, NvLink};
use crate::domain::host::PciFunction;
use std::collections::BTreeMap;

/// Percent of time with a kernel running from which a GPU is under load.
const LOAD: u32 = 20;
/// Links of one GPU that are looked at; boards have at most 18.
const MOST_LINKS: usize = 64;

/// What is known of a GPU beside what it says of its health.
#[derive(Debug, Clone)]
pub(super) struct Place<'a> {
    pub subject: Subject,
    pub function: Option<&'a PciFunction>,
    /// A task holds it, or a slice of it.
    pub is_busy: bool,
    /// MIG is on.
    pub is_divided: bool,
    utilization: Option<u32>,
    /// What is around it.
    look: Look<'a>,
}

impl<'a> Place<'a> {
    pub fn of(device: &DeviceHealth, look: &Look<'a>) -> Self {
        let known = look.known.iter().find(|gpu| gpu.uuid == device.gpu);
        let pci = known.and_then(|gpu| gpu.pci.parse().ok());
        let at = |function: &&PciFunction| pci.is_some() && function.address.parse().ok() == pci;
        let holds = |gpu: &Gpu| gpu.mig_parent.as_ref() == Some(&device.gpu) && look.busy.contains(&gpu.uuid);
        Self {
            subject: Subject { part: Part::Gpu, gpu: Some(device.gpu.clone()), pci, ..Subject::default() },
            function: look.pci.and_then(|functions| functions.iter().find(at)),
            is_busy: look.busy.contains(&device.gpu) || look.known.iter().any(holds),
            is_divided: known.is_some_and(|gpu| gpu.mig_mode == Some(true)),
            utilization: look.utilization.get(&device.gpu).copied(),
            look: *look,
        }
    }

    /// It works right now, as far as can be told: what is held may idle, and what idles saves power.
    fn is_loaded(&self, health: &HealthSnapshot) -> bool {
        let idles = health.clock_events.known().map(|events| events.has(ClockEvents::IDLE));
        match self.utilization {
            Some(percent) => percent >= LOAD && idles != Some(true),
            None => self.is_busy && idles == Some(false),
        }
    }

    fn link(&self, number: u32) -> Subject {
        Subject { part: Part::Link, link: Some(number), ..self.subject.clone() }
    }
}

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct GpuMemory {
    answers: Answers,
    ecc: Ecc,
    recovery: Recovery,
    slowdown: Slowdown,
    links: BTreeMap<u32, Link>,
    pcie: Pcie,
    memory_held: MemoryHeld,
}

impl GpuMemory {
    /// None: it has none.
    pub fn links_that_worked(&self) -> Option<BTreeMap<u32, Option<LinkEnd>>> {
        let links = self.links.iter().filter_map(|(number, link)| Some((*number, link.worked()?)));
        Some(links.collect()).filter(|links: &BTreeMap<_, _>| !links.is_empty())
    }

    pub fn take_up_links(&mut self, links: &BTreeMap<u32, Option<LinkEnd>>) {
        let known = links.iter().take(MOST_LINKS).map(|(number, end)| (*number, Link::that_worked(*end)));
        self.links.extend(known);
    }

    pub fn forget(&mut self, kind: FaultKind, link: Option<u32>) {
        match kind {
            FaultKind::Thermal | FaultKind::PowerBrake | FaultKind::HwSlowdown => self.slowdown.forget(kind),
            FaultKind::PcieReplay => self.pcie.forget_replays(),
            FaultKind::Nvlink => {
                if let Some(link) = link.and_then(|link| self.links.get_mut(&link)) {
                    link.forget_errors();
                }
            }
            _ => {}
        }
    }

    pub fn look(&mut self, device: &DeviceHealth, place: &Place<'_>, round: &mut Round<'_>) {
        let subject = &place.subject;
        round.file(Check::GpuLost, subject, self.answers.lost(device));
        round.file(Check::GpuHung, subject, answers::hung(device));
        let Ok(health) = &device.answer else { return };
        self.look_at_recovery(health, subject, round);
        self.look_at_memory(health, place, round);
        self.look_at_clocks(health, subject, round);
        self.look_at_links(health, place, round);
        self.look_at_pcie(health, place, round);
        round.file(Check::Fabric, subject, fabric::look(&health.fabric));
    }

    /// First of all: what is over because of it may be found again by the others.
    fn look_at_recovery(&mut self, health: &HealthSnapshot, subject: &Subject, round: &mut Round<'_>) {
        let (finding, is_over) = self.recovery.look(&health.recovery_action);
        if is_over {
            round.recovered(subject, "field 230, recovery action: 0");
        }
        round.file(Check::RecoveryAction, subject, finding);
        round.file(Check::ResetRequired, subject, answers::reset_required(health));
    }

    fn look_at_memory(&mut self, health: &HealthSnapshot, place: &Place<'_>, round: &mut Round<'_>) {
        let subject = &place.subject;
        let (memory, sram) = self.ecc.uncorrected(health, round.seen());
        round.file(Check::EccUncorrected, subject, memory);
        round.file(Check::SramEcc, subject, sram);
        round.file(Check::EccCorrected, subject, self.ecc.corrected(health, round.seen()));
        round.file(Check::RowRemap, subject, memory_cells::rows(&health.remapped_rows));
        round.file(Check::RetiredPages, subject, memory_cells::pages(&health.retired_pages));
        let held = self.memory_held.look(health, place.is_busy, place.is_divided);
        round.file(Check::MemoryHeld, subject, held);
    }

    fn look_at_clocks(&mut self, health: &HealthSnapshot, subject: &Subject, round: &mut Round<'_>) {
        let found = self.slowdown.look(&health.clock_events, health.temperatures.gpu_c.known().copied());
        round.file(Check::Thermal, subject, found.thermal);
        round.file(Check::PowerBrake, subject, found.power_brake);
        round.file(Check::HwSlowdown, subject, found.other);
    }

    fn look_at_links(&mut self, health: &HealthSnapshot, place: &Place<'_>, round: &mut Round<'_>) {
        if place.is_divided {
            self.links.clear();
            return;
        }
        let Some(links) = health.nvlinks.known() else { return };
        let links: &[NvLink] = &links[..links.len().min(MOST_LINKS)];
        self.links.retain(|number, _| links.iter().any(|link| link.link == *number));
        for link in links {
            let (memory, subject) = (self.links.entry(link.link).or_default(), place.link(link.link));
            let far = FarEnd::of(memory.end(link), &place.look);
            let state = memory.state(link, &far);
            if far.standing == Standing::Away {
                round.file_of_others(Check::NvlinkState, &subject, state);
            } else {
                round.file(Check::NvlinkState, &subject, state);
            }
            round.file(Check::NvlinkErrors, &subject, memory.errors(link, &far, round.seen()));
        }
    }

    fn look_at_pcie(&mut self, health: &HealthSnapshot, place: &Place<'_>, round: &mut Round<'_>) {
        let (link, function, is_loaded) = (&health.pcie, place.function, place.is_loaded(health));
        let subject = &place.subject;
        round.file(Check::PcieWidth, subject, self.pcie.width(link, function, is_loaded));
        round.file(Check::PcieGeneration, subject, self.pcie.generation(link, function, is_loaded));
        round.file(Check::PcieReplay, subject, self.pcie.replays(link, function, round.seen()));
    }
}
