//! Whether all GPUs are there: those on the PCI bus, those that were, those that the operator says there are.
//!
//! A GPU is there when the driver shows it, also one that does not answer: that is another check's.

use super::Look;
use super::modes::Check;
use super::round::{Finding, Round};
use crate::domain::fault::{Action, Subject, Verdict};
use crate::domain::gpu::health::DeviceHealth;
use crate::domain::gpu::{DriverState, Gpu};
use crate::domain::host::{PciFunction, PciKind};
use crate::domain::pci::PciAddress;
use crate::health::verdict::Judgement;
use std::collections::{BTreeMap, BTreeSet};

/// Rounds in a row: a driver that is loaded shows one GPU after the other.
const ROUNDS: u8 = 2;
/// Places that are remembered.
const MOST_SLOTS: usize = 256;

/// What is remembered of the node.
#[derive(Debug, Default)]
pub(super) struct GpuCount {
    /// Where the kernel has shown a GPU since this began.
    seen_on_bus: BTreeSet<PciAddress>,
    /// For how many rounds each has been missing.
    missing: BTreeMap<PciAddress, u8>,
    too_few_rounds: u8,
}

/// What is there, by the driver and by the kernel.
struct There<'a> {
    shown: &'a [DeviceHealth],
    /// The places of those that the driver shows; none where one of them is not known.
    places: Option<BTreeSet<PciAddress>>,
    /// GPUs on the bus and whether the driver has them; those of other drivers belong to somebody else.
    on_bus: Option<BTreeMap<PciAddress, bool>>,
}

impl GpuCount {
    pub fn look(&mut self, look: &Look<'_>, round: &mut Round<'_>) {
        let Some(there) = There::of(look) else {
            round.file(Check::GpuCount, &Subject::default(), Finding::Unseen);
            return;
        };
        let missing = self.look_at_places(&there, look.known, round);
        self.look_at_number(&there, missing, look, round);
    }

    /// Each place that should have a GPU; how many have none.
    fn look_at_places(&mut self, there: &There<'_>, known: &[Gpu], round: &mut Round<'_>) -> usize {
        let (Some(places), Some(on_bus)) = (&there.places, &there.on_bus) else { return 0 };
        let room = MOST_SLOTS.saturating_sub(self.seen_on_bus.len());
        let new: Vec<_> = on_bus.keys().filter(|slot| !self.seen_on_bus.contains(slot)).take(room).copied().collect();
        self.seen_on_bus.extend(new);
        let whole = known.iter().filter(|gpu| gpu.mig_parent.is_none());
        let of: BTreeMap<PciAddress, &Gpu> = whole.filter_map(|gpu| Some((gpu.pci.parse().ok()?, gpu))).collect();
        // Where the kernel shows no GPU and never did, it says nothing about them.
        let says = |slot: &PciAddress| !on_bus.is_empty() || self.seen_on_bus.contains(slot);
        let slots: BTreeSet<PciAddress> =
            on_bus.keys().chain(of.keys().filter(|slot| says(slot))).take(MOST_SLOTS).copied().collect();
        self.missing.retain(|slot, _| slots.contains(slot) && !places.contains(slot));
        let mut missing = 0;
        for slot in slots {
            let gpu = of.get(&slot).copied();
            let subject = Subject { gpu: gpu.map(|gpu| gpu.uuid.clone()), ..Subject::gpu_at(slot) };
            if places.contains(&slot) {
                round.file(Check::GpuCount, &subject, Finding::InOrder);
                continue;
            }
            missing += 1;
            let rounds = self.missing.entry(slot).or_default();
            *rounds = rounds.saturating_add(1);
            let finding = if *rounds < ROUNDS { Finding::Unseen } else { absent(slot, gpu, on_bus.get(&slot)) };
            round.file(Check::GpuCount, &subject, finding);
        }
        missing
    }

    /// Their number against what the operator says. `missing`: those that have a fault of their own.
    fn look_at_number(&mut self, there: &There<'_>, missing: usize, look: &Look<'_>, round: &mut Round<'_>) {
        let Some(expected) = look.expected_gpus else {
            round.file(Check::GpuCount, &Subject::default(), Finding::InOrder);
            return;
        };
        let shown = there.shown.len();
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        let finding = if shown.saturating_add(missing) >= expected {
            self.too_few_rounds = 0;
            Finding::InOrder
        } else {
            self.too_few_rounds = self.too_few_rounds.saturating_add(1);
            match self.too_few_rounds < ROUNDS {
                true => Finding::Unseen,
                false => too_few(expected, there),
            }
        };
        round.file(Check::GpuCount, &Subject::default(), finding);
    }
}

impl<'a> There<'a> {
    /// None: it cannot be said what is there.
    fn of(look: &Look<'a>) -> Option<Self> {
        let shown = match look.driver.state {
            DriverState::Ok => look.gpus?,
            // The driver is not there, which is where GPUs go missing as well.
            DriverState::None | DriverState::NoLibrary | DriverState::DriverNotLoaded | DriverState::Failed => &[],
            DriverState::VersionMismatch | DriverState::Hung | DriverState::Stopped => return None,
        };
        let place = |device: &DeviceHealth| look.known.iter().find(|gpu| gpu.uuid == device.gpu)?.pci.parse().ok();
        let is_ours = |function: &&PciFunction| {
            function.kind() == PciKind::Gpu && function.driver.as_deref().is_none_or(|driver| driver == "nvidia")
        };
        let on_bus = |functions: &[PciFunction]| {
            let ours = functions.iter().filter(is_ours);
            ours.filter_map(|function| Some((function.address.parse().ok()?, function.driver.is_some()))).collect()
        };
        // Without a driver nobody is missed at a place: that is one fault, not eight.
        let places = (look.driver.state == DriverState::Ok).then(|| shown.iter().map(place).collect()).flatten();
        Some(Self { shown, places, on_bus: look.pci.map(on_bus) })
    }
}

/// `has_driver`: none where the kernel does not show it either.
fn absent(slot: PciAddress, gpu: Option<&Gpu>, has_driver: Option<&bool>) -> Finding {
    let name = gpu.map_or_else(|| "a GPU".to_owned(), |gpu| gpu.uuid.to_string());
    let (verdict, action, reason, what) = match has_driver {
        None => (
            Verdict::Gpu,
            Action::Reboot,
            "The GPU is not on its bus any more, which takes a reboot.",
            "was there, and is not on the PCI bus",
        ),
        Some(true) => (
            Verdict::Gpu,
            Action::Reboot,
            "The GPU is on its bus and the driver does not show it: it could not be started, which a reboot may do.",
            "is on the PCI bus, and the driver does not show it",
        ),
        // It may be one that the driver is too new or too old for.
        Some(false) => (
            Verdict::Unknown,
            Action::Inspect,
            "A GPU is on the bus and no driver has it: it could not be started, or the driver does not know it.",
            "is on the PCI bus, and no driver has it",
        ),
    };
    Finding::fault(Judgement::new(verdict, action, reason), format!("{name} at {slot} {what}"))
}

/// Which one is missing is not known, so that nothing can be taken out of use.
fn too_few(expected: usize, there: &There<'_>) -> Finding {
    let names = |slots: Vec<&PciAddress>| slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let places = there.places.as_ref().map(|places| names(places.iter().collect())).unwrap_or_default();
    let on_bus = there.on_bus.as_ref().map_or_else(
        || "the PCI bus could not be looked at".to_owned(),
        |on_bus| format!("{} on the PCI bus: {}", on_bus.len(), names(on_bus.keys().collect())),
    );
    let evidence = format!("{expected} expected, {} shown by the driver: {places}; {on_bus}", there.shown.len());
    let reason =
        "There are fewer GPUs than the operator says: a reboot may bring them back, else one is to be looked for.";
    Finding::fault(Judgement::new(Verdict::Unknown, Action::Reboot, reason), evidence)
}

#[cfg(test)]
#[path = "gpu_count_tests.rs"]
mod tests;
