//! Why the hardware slows a GPU down: heat, the machine's power supply, or another reason of its own.
//!
//! What software does is how boards work: a limit of power that is reached, clocks that are lowered a little because it
//! is warm, an idle board. Hardware does it for moments as well, so that it takes most of some minutes to be a fault.

use super::round::Finding;
use crate::domain::fault::{Action, FaultKind, Verdict};
use crate::domain::gpu::health::{ClockEvents, Reading};
use crate::health::verdict::Judgement;

/// So many of so many samples.
const BAD: u32 = 6;
const SAMPLES: u32 = 10;

/// The last samples, a bit each; one that was not taken was not bad.
#[derive(Debug, Clone, Copy, Default)]
struct Window(u32);

impl Window {
    fn push(&mut self, is_bad: bool) -> u32 {
        self.0 = (self.0 << 1 | u32::from(is_bad)) & ((1 << SAMPLES) - 1);
        self.0.count_ones()
    }
}

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct Slowdown {
    thermal: Window,
    power_brake: Window,
    other: Window,
}

/// What is found of the three reasons.
#[derive(Debug)]
pub(super) struct Slowed {
    pub thermal: Finding,
    pub power_brake: Finding,
    pub other: Finding,
}

impl Slowdown {
    /// The samples of one reason.
    pub fn forget(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Thermal => self.thermal = Window::default(),
            FaultKind::PowerBrake => self.power_brake = Window::default(),
            FaultKind::HwSlowdown => self.other = Window::default(),
            _ => {}
        }
    }

    pub fn look(&mut self, reading: &Reading<ClockEvents>, temperature_c: Option<u32>) -> Slowed {
        let is = |bit| reading.known().map(|events| events.has(bit));
        let (thermal, brake) = (is(ClockEvents::HW_THERMAL), is(ClockEvents::HW_POWER_BRAKE));
        // The bit for the slowdown comes with those for its reasons.
        let unexplained =
            is(ClockEvents::HW_SLOWDOWN).map(|slow| slow && thermal != Some(true) && brake != Some(true));
        let degrees = temperature_c.map_or_else(String::new, |degrees| format!(", at {degrees} C now"));
        let finding = |window: &mut Window, is_bad: Option<bool>, what: &str, judgement: Judgement| {
            let bad = window.push(is_bad == Some(true));
            match is_bad {
                None if matches!(reading, Reading::NotSupported) => Finding::NotThere,
                _ if bad >= BAD => {
                    let evidence =
                        format!("{what} in {bad} of the last {SAMPLES} samples{degrees}; allowed: {}", BAD - 1);
                    Finding::fault(judgement, evidence)
                }
                Some(false) => Finding::InOrder,
                _ => Finding::Unseen,
            }
        };
        let inspect = |verdict, reason: &str| Judgement::new(verdict, Action::Inspect, reason);
        Slowed {
            thermal: finding(
                &mut self.thermal,
                thermal,
                "slowed down by heat",
                inspect(
                    Verdict::Gpu,
                    "The GPU is so hot that the hardware halves its clocks at least: its cooling is to be looked at.",
                ),
            ),
            power_brake: finding(
                &mut self.power_brake,
                brake,
                "slowed down by the power brake",
                inspect(
                    Verdict::Node,
                    "The machine's power supply makes the hardware halve the GPU's clocks at least.",
                ),
            ),
            other: finding(
                &mut self.other,
                unexplained,
                "slowed down by the hardware",
                inspect(
                    Verdict::Gpu,
                    "The hardware halves the GPU's clocks at least, and does not say why: power or heat.",
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, told};
    use super::*;

    fn told_after(samples: &[Reading<ClockEvents>]) -> [Told; 3] {
        let mut slowdown = Slowdown::default();
        let mut last = [Told::NotThere; 3];
        for sample in samples {
            let Slowed { thermal, power_brake, other } = slowdown.look(sample, Some(88));
            last = [&thermal, &power_brake, &other].map(told);
        }
        last
    }

    fn times(count: usize, bits: u64) -> Vec<Reading<ClockEvents>> {
        vec![Reading::Known(ClockEvents(bits)); count]
    }

    const FINE: [Told; 3] = [Told::InOrder; 3];
    const GPU: Told = Told::Fault(Verdict::Gpu, Action::Inspect);
    const NODE: Told = Told::Fault(Verdict::Node, Action::Inspect);

    #[test]
    fn what_the_hardware_does_for_long_is_a_fault() {
        use ClockEvents as Bits;
        let slow = Bits::HW_SLOWDOWN;
        assert_eq!(told_after(&times(6, slow | Bits::HW_THERMAL)), [GPU, Told::InOrder, Told::InOrder]);
        assert_eq!(told_after(&times(6, slow | Bits::HW_POWER_BRAKE)), [Told::InOrder, NODE, Told::InOrder]);
        assert_eq!(told_after(&times(6, slow)), [Told::InOrder, Told::InOrder, GPU]);
        assert_eq!(told_after(&times(5, slow | Bits::HW_THERMAL))[0], Told::Unseen);
        // Also with others in between, and until there are fewer.
        let mixed = [times(6, Bits::HW_THERMAL), times(4, 0)].concat();
        assert_eq!(told_after(&mixed)[0], GPU);
        assert_eq!(told_after(&[mixed, times(1, 0)].concat())[0], Told::InOrder);
    }

    #[test]
    fn samples_of_one_reason_are_forgotten_alone() {
        use ClockEvents as Bits;
        let mut slowdown = Slowdown::default();
        let look = |slowdown: &mut Slowdown, bits| {
            let Slowed { thermal, power_brake, .. } = slowdown.look(&Reading::Known(ClockEvents(bits)), None);
            (told(&thermal), told(&power_brake))
        };
        let both = Bits::HW_THERMAL | Bits::HW_POWER_BRAKE;
        let last = (0..6).map(|_| look(&mut slowdown, both)).last();
        assert_eq!(last, Some((GPU, NODE)));
        slowdown.forget(FaultKind::Thermal);
        assert_eq!(look(&mut slowdown, 0), (Told::InOrder, NODE));
        // Still hot, it takes as long again.
        let again: Vec<_> = (0..6).map(|_| look(&mut slowdown, Bits::HW_THERMAL).0).collect();
        assert_eq!(again, [[Told::Unseen; 5].as_slice(), &[GPU]].concat());
    }

    #[test]
    fn what_software_does_and_what_is_short_is_none() {
        use ClockEvents as Bits;
        for bits in
            [Bits::SW_POWER_CAP, Bits::SW_THERMAL, Bits::IDLE, Bits::SW_POWER_CAP | Bits::SW_THERMAL, 0x2, 0x10]
        {
            assert_eq!(told_after(&times(100, bits)), FINE, "{bits:#x}");
        }
        let moments: Vec<_> = (0..100).flat_map(|_| [times(1, Bits::HW_THERMAL), times(1, 0)].concat()).collect();
        assert_eq!(told_after(&moments), FINE);
    }

    #[test]
    fn what_cannot_be_read_is_neither() {
        let failed = Reading::Failed { code: 999, message: String::new() };
        assert_eq!(told_after(&vec![failed.clone(); 20]), [Told::Unseen; 3]);
        assert_eq!(told_after(&[Reading::NotSupported]), [Told::NotThere; 3]);
        // A fault does not end because nobody can look, but it does not grow old either.
        let hot = times(6, ClockEvents::HW_THERMAL);
        assert_eq!(told_after(&[hot.clone(), vec![failed.clone(); 4]].concat())[0], GPU);
        assert_eq!(told_after(&[hot, vec![failed; 5]].concat())[0], Told::Unseen);
    }
}
