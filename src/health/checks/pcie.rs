//! The GPU's link to the host: its width, its speed, and how often packets are sent again.
//!
//! A board that idles saves power: its link goes to a lower generation, on some boards to fewer lanes as well. So what
//! the link is like counts while the GPU works, for several rounds in a row.

use super::growth::Rate;
use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{PcieLink, Reading};
use crate::domain::host::PciFunction;
use crate::health::SeenAt;
use crate::health::verdict::Judgement;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Rounds with load in a row.
const ROUNDS: u8 = 4;
/// Packets that are sent again, a minute and lane, which the bit errors that the standard allows explain: for
/// generations 1 to 6. DCGM's numbers.
const REPLAYS: [f64; 6] = [0.15, 0.3, 0.48, 0.96, 1.92, 3.84];

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct Pcie {
    narrow_rounds: u8,
    slow_rounds: u8,
    replays: Rate,
}

impl Pcie {
    /// Of the past.
    pub fn forget_replays(&mut self) {
        self.replays = Rate::default();
    }

    /// Whether all lanes are used that the device and its slot both have.
    pub fn width(&mut self, link: &PcieLink, function: Option<&PciFunction>, is_loaded: bool) -> Finding {
        let device = function.and_then(|function| function.max_link).map(|link| link.width);
        let most = [link.max_width.known().copied(), device].into_iter().flatten().min();
        let reason = "The GPU's link to the host has lost lanes: the board is to be seated anew, or replaced.";
        let evidence = |found, most| format!("{found} lanes in use under load, of {most}");
        below(&mut self.narrow_rounds, &link.width, most, is_loaded, reason, evidence)
    }

    /// Whether it is as fast as device and slot both can be.
    pub fn generation(&mut self, link: &PcieLink, function: Option<&PciFunction>, is_loaded: bool) -> Finding {
        let reason = "The GPU's link to the host is slower than it can be although the GPU works.";
        let evidence = |found, most| format!("generation {found} under load, of {most}");
        below(&mut self.slow_rounds, &link.generation, best(link, function), is_loaded, reason, evidence)
    }

    /// Whether packets are sent again more often than such a link does.
    pub fn replays(&mut self, link: &PcieLink, function: Option<&PciFunction>, seen: SeenAt) -> Finding {
        let value = match &link.replays {
            Reading::Known(value) => *value,
            Reading::NotSupported => return Finding::NotThere,
            Reading::Failed { .. } => return Finding::Unseen,
        };
        let grown = self.replays.over(MINUTE, value, seen);
        // By the best that it can be: what it was all the time since nobody knows, and more is allowed to a better one.
        let generation = best(link, function).or(link.generation.known().copied());
        let lanes = link.max_width.known().or(link.width.known()).copied();
        let (Some(growth), Some(generation), Some(lanes)) = (grown, generation, lanes) else {
            return Finding::Unseen;
        };
        let most = allowed_replays(generation, lanes);
        if !growth.is_above(most, MINUTE) {
            return Finding::InOrder;
        }
        let reason = "Packets between the GPU and the host are sent again more often than such a link explains.";
        let evidence =
            format!("PCIe replays: {growth}; allowed: {most} a minute for generation {generation} x{lanes}");
        Finding::fault(Judgement::new(Verdict::Link, Action::Inspect, reason), evidence)
    }
}

/// The generation that device and slot both can do.
fn best(link: &PcieLink, function: Option<&PciFunction>) -> Option<u32> {
    let device = function.and_then(|function| function.max_link).and_then(|link| link.generation());
    let said = [link.max_generation.known().copied(), link.device_max_generation.known().copied(), device];
    said.into_iter().flatten().min()
}

/// Replays a minute.
fn allowed_replays(generation: u32, lanes: u32) -> f64 {
    let last = REPLAYS.len() - 1;
    let index = usize::try_from(generation.saturating_sub(1)).unwrap_or(last).min(last);
    (REPLAYS[index] * f64::from(lanes)).ceil()
}

/// A round without load neither counts nor forgives.
fn below(
    rounds: &mut u8,
    reading: &Reading<u32>,
    most: Option<u32>,
    is_loaded: bool,
    reason: &str,
    evidence: impl FnOnce(u32, u32) -> String,
) -> Finding {
    let (found, most) = match (reading, most) {
        (Reading::NotSupported, _) | (_, None) => return Finding::NotThere,
        // A lane or generation of 0 is no link that one could judge.
        (Reading::Known(found), Some(most)) if is_loaded && *found > 0 => (*found, most),
        _ => return Finding::Unseen,
    };
    if found >= most {
        *rounds = 0;
        return Finding::InOrder;
    }
    *rounds = rounds.saturating_add(1);
    if *rounds < ROUNDS {
        return Finding::Unseen;
    }
    Finding::fault(Judgement::new(Verdict::Link, Action::Inspect, reason), evidence(found, most))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, at, told};
    use super::*;
    use crate::domain::host::PciLink as Speed;

    const FAULT: Told = Told::Fault(Verdict::Link, Action::Inspect);

    fn link(generation: u32, width: u32) -> PcieLink {
        let known = Reading::Known;
        PcieLink {
            generation: known(generation),
            width: known(width),
            max_generation: known(5),
            max_width: known(16),
            ..PcieLink::default()
        }
    }

    fn function(speed_mts: u32, width: u32) -> PciFunction {
        PciFunction {
            address: "0000:9b:00.0".to_owned(),
            vendor: 0x10de,
            device: 1,
            class: 0x03_0200,
            driver: Some("nvidia".to_owned()),
            link: None,
            max_link: Some(Speed { speed_mts, width }),
        }
    }

    /// Width and generation after rounds of these links, each with or without load.
    fn after(rounds: &[(PcieLink, bool)], function: Option<&PciFunction>) -> (Told, Told) {
        let mut pcie = Pcie::default();
        let mut last = (Told::NotThere, Told::NotThere);
        for (link, load) in rounds {
            last = (told(&pcie.width(link, function, *load)), told(&pcie.generation(link, function, *load)));
        }
        last
    }

    #[test]
    fn a_link_below_its_best_under_load_is_a_fault_after_some_rounds() {
        assert_eq!(after(&vec![(link(5, 8), true); 3], None), (Told::Unseen, Told::InOrder));
        assert_eq!(after(&vec![(link(5, 8), true); 4], None), (FAULT, Told::InOrder));
        assert_eq!(after(&vec![(link(3, 16), true); 4], None), (Told::InOrder, FAULT));
        // Rounds without load in between count neither way, a good one does.
        let idle = vec![(link(1, 8), false); 50];
        let narrow = || vec![(link(5, 8), true); 2];
        assert_eq!(after(&[narrow(), idle.clone(), narrow()].concat(), None).0, FAULT);
        assert_eq!(after(&[narrow(), vec![(link(5, 16), true)], narrow()].concat(), None).0, Told::Unseen);
        assert_eq!(after(&idle, None), (Told::Unseen, Told::Unseen));
    }

    #[test]
    fn a_link_can_be_no_better_than_device_and_slot() {
        // A slot with 8 lanes, or a device with less than its slot.
        let slot = PcieLink { max_width: Reading::Known(8), max_generation: Reading::Known(3), ..link(3, 8) };
        assert_eq!(after(&vec![(slot, true); 9], Some(&function(32_000, 16))), (Told::InOrder, Told::InOrder));
        assert_eq!(after(&vec![(link(4, 8), true); 9], Some(&function(16_000, 8))), (Told::InOrder, Told::InOrder));
        let device = PcieLink { device_max_generation: Reading::Known(4), ..link(4, 16) };
        assert_eq!(after(&vec![(device, true); 9], None), (Told::InOrder, Told::InOrder));
        assert_eq!(after(&vec![(PcieLink::default(), true); 9], None), (Told::NotThere, Told::NotThere));
    }

    #[test]
    fn replays_are_measured_by_generation_and_lanes() {
        for (generation, lanes, allowed) in [
            (1, 16, 3.0),
            (2, 16, 5.0),
            (3, 16, 8.0),
            (4, 16, 16.0),
            (5, 16, 31.0),
            (6, 16, 62.0),
            (4, 8, 8.0),
            (9, 1, 4.0),
        ] {
            assert!((allowed_replays(generation, lanes) - allowed).abs() < 1e-9, "{generation} x{lanes}");
        }
        let rate = |a_minute: u64| {
            let mut pcie = Pcie::default();
            let mut last = Told::NotThere;
            for round in 0..9_u64 {
                let link = PcieLink { replays: Reading::Known(1000 + a_minute * round / 4), ..link(1, 16) };
                last = told(&pcie.replays(&link, None, at(usize::try_from(round).unwrap())));
            }
            last
        };
        assert_eq!((rate(0), rate(31), rate(32)), (Told::InOrder, Told::InOrder, FAULT));
    }

    #[test]
    fn the_first_minute_and_a_reset_tell_nothing() {
        let mut pcie = Pcie::default();
        let mut look = |round, count| {
            told(&pcie.replays(&PcieLink { replays: Reading::Known(count), ..link(5, 16) }, None, at(round)))
        };
        assert_eq!((look(0, 0), look(3, 5000), look(4, 5000)), (Told::Unseen, Told::Unseen, FAULT));
        assert_eq!((look(5, 10), look(9, 20)), (Told::Unseen, Told::InOrder));
    }
}
