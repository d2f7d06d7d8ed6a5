//! Errors of the GPU's memory: what was lost, and what could be corrected too often.

use super::growth::{Counter, Growth, Rate};
use super::round::Finding;
use crate::domain::fault::{Action, Verdict};
use crate::domain::gpu::health::{HealthSnapshot, Reading};
use crate::health::SeenAt;
use crate::health::verdict::Judgement;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Corrected errors a minute that a healthy board does not have for long; our choice, far above single events.
const CORRECTED_A_MINUTE: f64 = 600.0;

/// What is remembered of one GPU.
#[derive(Debug, Default)]
pub(super) struct Ecc {
    volatile: Counter,
    aggregate: Counter,
    sram_volatile: Counter,
    sram_aggregate: Counter,
    corrected: Rate,
}

impl Ecc {
    /// Errors beyond correction, in all memories and in SRAM alone: (memory, SRAM).
    ///
    /// The counters of all memories count those of SRAM as well; what is SRAM's is told as its own.
    pub fn uncorrected(&mut self, health: &HealthSnapshot, seen: SeenAt) -> (Finding, Finding) {
        let sram = health.sram.known();
        let volatile =
            sram.map(|sram| sram.volatile_uncorrected_parity.saturating_add(sram.volatile_uncorrected_sec_ded));
        let aggregate =
            sram.map(|sram| sram.aggregate_uncorrected_parity.saturating_add(sram.aggregate_uncorrected_sec_ded));
        let in_sram =
            most(step(&mut self.sram_volatile, volatile, seen), step(&mut self.sram_aggregate, aggregate, seen));
        let volatile = step(&mut self.volatile, health.ecc.volatile_uncorrected.known().copied(), seen);
        let aggregate = step(&mut self.aggregate, health.ecc.aggregate_uncorrected.known().copied(), seen);
        let of_sram = in_sram.map_or(0, |growth| growth.by());
        let rest = most(volatile, aggregate).filter(|growth| growth.by() > of_sram);
        let memory = match rest {
            Some(growth) => lost("the GPU's memory", &growth, growth.by() - of_sram),
            None => quiet(&[&health.ecc.volatile_uncorrected, &health.ecc.aggregate_uncorrected]),
        };
        (memory, self::sram(health, in_sram))
    }

    /// Errors that were corrected, by their rate.
    pub fn corrected(&mut self, health: &HealthSnapshot, seen: SeenAt) -> Finding {
        let Some(value) = health.ecc.volatile_corrected.known() else {
            return quiet(&[&health.ecc.volatile_corrected]);
        };
        match self.corrected.over(MINUTE, *value, seen) {
            None => Finding::Unseen,
            Some(growth) if growth.is_above(CORRECTED_A_MINUTE, MINUTE) => {
                let reason = "The GPU's memory corrects errors all the time: nothing is lost yet, and it is slower.";
                let evidence = format!("corrected memory errors: {growth}; allowed: {CORRECTED_A_MINUTE} a minute");
                Finding::fault(Judgement::new(Verdict::Gpu, Action::None, reason), evidence)
            }
            Some(_) => Finding::InOrder,
        }
    }
}

fn step(counter: &mut Counter, value: Option<u64>, seen: SeenAt) -> Option<Growth> {
    counter.step(value?, seen)
}

/// Two counters of the same errors, of which one may have been reset meanwhile.
fn most(one: Option<Growth>, other: Option<Growth>) -> Option<Growth> {
    [other, one].into_iter().flatten().max_by_key(Growth::by)
}

/// What to do beyond running again is said by the rows, the pages and the driver's own recommendation.
fn lost(place: &str, growth: &Growth, count: u64) -> Finding {
    let reason =
        format!("Data in {place} was lost: it could not be corrected, and what used it has to be run again.");
    let evidence = format!("errors in {place} that could not be corrected: {growth}");
    let judgement = Judgement::new(Verdict::Gpu, Action::RestartApp, reason);
    Finding::Fault { judgement, evidence, count }
}

fn sram(health: &HealthSnapshot, grown: Option<Growth>) -> Finding {
    let exceeded = health.sram.known().filter(|sram| sram.threshold_exceeded);
    match (exceeded, grown) {
        (Some(sram), _) => {
            let count = sram.aggregate_uncorrected_parity.saturating_add(sram.aggregate_uncorrected_sec_ded);
            let reason = "The GPU's SRAM has had more errors than the driver allows: it has no spare rows, and the \
                          board is to be replaced.";
            let evidence = format!("SRAM errors over the driver's threshold: {count} since the board was made");
            Finding::fault(Judgement::new(Verdict::Gpu, Action::Inspect, reason), evidence)
        }
        (None, Some(growth)) => lost("the GPU's SRAM", &growth, growth.by()),
        (None, None) => quiet(&[&health.sram]),
    }
}

/// Nothing happened, as far as it can be said.
fn quiet<T>(readings: &[&Reading<T>]) -> Finding {
    if readings.iter().any(|reading| matches!(reading, Reading::Failed { .. })) {
        return Finding::Unseen;
    }
    if readings.iter().any(|reading| reading.known().is_some()) { Finding::InOrder } else { Finding::NotThere }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Told, at, told};
    use super::*;
    use crate::domain::gpu::health::{EccErrors, SramEcc};

    fn of(volatile: u64, aggregate: u64, sram: u64) -> HealthSnapshot {
        let known = Reading::Known;
        let (sram, ecc) = (
            SramEcc { volatile_uncorrected_parity: sram, ..SramEcc::default() },
            EccErrors {
                volatile_uncorrected: known(volatile),
                aggregate_uncorrected: known(aggregate),
                ..EccErrors::default()
            },
        );
        HealthSnapshot { ecc, sram: Reading::Known(sram), ..HealthSnapshot::default() }
    }

    #[test]
    fn what_is_lost_is_told_when_it_happens() {
        const LOST: Told = Told::Fault(Verdict::Gpu, Action::RestartApp);
        let mut ecc = Ecc::default();
        for (round, (counts, memory, sram)) in [
            ((3, 90, 0), Told::InOrder, Told::InOrder),
            ((3, 90, 0), Told::InOrder, Told::InOrder),
            ((5, 92, 0), LOST, Told::InOrder),
            ((5, 92, 0), Told::InOrder, Told::InOrder),
            // The driver was loaded anew: what was volatile began anew, too.
            ((0, 92, 0), Told::InOrder, Told::InOrder),
            ((0, 93, 0), LOST, Told::InOrder),
            // In SRAM alone, then in both.
            ((1, 94, 1), Told::InOrder, LOST),
            ((3, 96, 2), LOST, LOST),
        ]
        .into_iter()
        .enumerate()
        {
            let (volatile, aggregate, of_sram) = counts;
            let (found, in_sram) = ecc.uncorrected(&of(volatile, aggregate, of_sram), at(round));
            assert_eq!((told(&found), told(&in_sram)), (memory, sram), "round {round}");
        }
        let (found, _) = ecc.uncorrected(&of(8, 101, 2), at(9));
        let Finding::Fault { evidence, count, .. } = found else { panic!("{found:?}") };
        assert_eq!((count, evidence.contains("3 before, 8 now, within 30 s")), (5, true), "{evidence}");
    }

    #[test]
    fn boards_without_and_readings_that_fail_are_told_apart() {
        let (memory, sram) = Ecc::default().uncorrected(&HealthSnapshot::default(), at(0));
        assert_eq!((told(&memory), told(&sram)), (Told::NotThere, Told::NotThere));
        let mut failing = of(0, 0, 0);
        failing.ecc.aggregate_uncorrected = Reading::Failed { code: 999, message: String::new() };
        assert_eq!(told(&Ecc::default().uncorrected(&failing, at(0)).0), Told::Unseen);
    }

    #[test]
    fn the_drivers_threshold_of_sram_stands() {
        let exceeded = SramEcc { threshold_exceeded: true, aggregate_uncorrected_sec_ded: 4, ..SramEcc::default() };
        let health = HealthSnapshot { sram: Reading::Known(exceeded), ..HealthSnapshot::default() };
        let mut ecc = Ecc::default();
        for round in 0..3 {
            let (_, sram) = ecc.uncorrected(&health, at(round));
            assert_eq!(told(&sram), Told::Fault(Verdict::Gpu, Action::Inspect));
        }
    }

    #[test]
    fn corrections_are_told_by_their_rate() {
        let mut ecc = Ecc::default();
        let mut look = |round: usize, count| {
            let counts = EccErrors { volatile_corrected: Reading::Known(count), ..EccErrors::default() };
            told(&ecc.corrected(&HealthSnapshot { ecc: counts, ..HealthSnapshot::default() }, at(round)))
        };
        assert_eq!((look(0, 1_000_000), look(3, 1_000_599)), (Told::Unseen, Told::Unseen));
        assert_eq!(look(4, 1_000_600), Told::InOrder);
        assert_eq!(look(8, 1_100_000), Told::Fault(Verdict::Gpu, Action::None));
        assert_eq!(
            (look(9, 1_100_001), look(12, 1_100_010)),
            (Told::Fault(Verdict::Gpu, Action::None), Told::InOrder)
        );
    }
}
