//! What has happened before: the same GPU after two resets, or one part of a chip with several programs.

use super::observation::Engine;
use super::verdict::Judgement;
use crate::domain::fault::{Action, FaultKind, Verdict};
use crate::domain::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far back resets and reboots count.
pub const RECOVERY_MEMORY: Duration = Duration::from_secs(7 * 24 * 3600);
/// After so many resets or reboots for one thing, another one does not help.
pub const RECOVERIES: usize = 2;
/// How far back exceptions of programs count.
pub const EXCEPTION_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// So many programs that have nothing to do with each other, and one part of the chip.
pub const PROGRAMS: usize = 3;
/// Parts of chips that are remembered.
const MAX_ENGINES: usize = 256;

/// A reset or reboot that was made because of a fault of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    pub kind: FaultKind,
    pub code: Option<u32>,
    pub at: Timestamp,
}

/// Turns a reset or reboot into an inspection where it was tried for the same thing on the same GPU, and did not last.
/// `recoveries` are those of that GPU.
pub fn escalated(
    judgement: Judgement,
    kind: FaultKind,
    code: Option<u32>,
    recoveries: &[Recovery],
    now: Timestamp,
) -> Judgement {
    let same = |recovery: &&Recovery| {
        (recovery.kind, recovery.code) == (kind, code) && now.since(recovery.at) <= RECOVERY_MEMORY
    };
    let tried = recoveries.iter().filter(same).count();
    if tried < RECOVERIES || !matches!(judgement.action, Action::ResetGpu | Action::Reboot) {
        return judgement;
    }
    let reason = format!("{} It came back after {tried} resets or reboots.", judgement.reason);
    Judgement { action: Action::Inspect, reason, ..judgement }
}

/// Exceptions of programs by the part of the chip that met them. A program that is wrong meets them all over the chip;
/// a chip that is wrong meets them at one place, whatever runs.
#[derive(Debug, Default)]
pub struct Exceptions {
    /// Of a GPU, by its name.
    seen: BTreeMap<(String, Engine), Vec<(Timestamp, String)>>,
}

impl Exceptions {
    /// Notes an exception that `program` met; the same name for runs of one program, as its job's chain or its user's and
    /// its command's. Judges the GPU once enough programs have met one.
    pub fn note(&mut self, gpu: &str, engine: Engine, program: &str, now: Timestamp) -> Option<Judgement> {
        self.forget(now);
        if self.seen.len() >= MAX_ENGINES && !self.seen.contains_key(&(gpu.to_owned(), engine)) {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.last().map(|(at, _)| *at))?.0.clone();
            self.seen.remove(&oldest);
        }
        let programs = self.seen.entry((gpu.to_owned(), engine)).or_default();
        programs.retain(|(_, known)| known != program);
        programs.push((now, program.to_owned()));
        if programs.len() > PROGRAMS {
            programs.remove(0);
        }
        let Engine { gpc, tpc } = engine;
        let reason = || format!("{PROGRAMS} programs met exceptions on GPC {gpc}, TPC {tpc}: the chip is suspected.");
        (programs.len() >= PROGRAMS).then(|| Judgement::new(Verdict::Gpu, Action::Inspect, reason()))
    }

    fn forget(&mut self, now: Timestamp) {
        for programs in self.seen.values_mut() {
            programs.retain(|(at, _)| now.since(*at) <= EXCEPTION_MEMORY);
        }
        self.seen.retain(|_, programs| !programs.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn the_third_reset_for_one_thing_is_an_inspection() {
        let reset = || Judgement::new(Verdict::Gpu, Action::ResetGpu, "Bad.");
        let recovery =
            |code, hours: i64| Recovery { kind: FaultKind::Xid, code: Some(code), at: Timestamp(hours * HOUR) };
        let after = |recoveries: &[Recovery]| {
            escalated(reset(), FaultKind::Xid, Some(119), recoveries, Timestamp(200 * HOUR)).action
        };
        assert_eq!(after(&[recovery(119, 190)]), Action::ResetGpu);
        assert_eq!(after(&[recovery(119, 190), recovery(48, 195)]), Action::ResetGpu);
        assert_eq!(after(&[recovery(119, 10), recovery(119, 195)]), Action::ResetGpu);
        assert_eq!(after(&[recovery(119, 190), recovery(119, 195)]), Action::Inspect);
        let app = Judgement::new(Verdict::Gpu, Action::RestartApp, "Contained.");
        let many = [recovery(94, 190), recovery(94, 191), recovery(94, 192)];
        assert_eq!(escalated(app.clone(), FaultKind::Xid, Some(94), &many, Timestamp(200 * HOUR)), app);
    }

    #[test]
    fn one_place_and_several_programs_make_a_chip_suspicious() {
        let (engine, other) = (Engine { gpc: 8, tpc: 5 }, Engine { gpc: 9, tpc: 1 });
        let mut exceptions = Exceptions::default();
        let mut note = |engine, program: &str, hours: i64| {
            exceptions.note("GPU-1", engine, program, Timestamp(hours * HOUR)).map(|judgement| judgement.action)
        };
        assert_eq!((note(engine, "a", 0), note(engine, "a", 1), note(engine, "a", 2)), (None, None, None));
        assert_eq!((note(engine, "b", 3), note(other, "c", 3)), (None, None));
        assert_eq!(note(engine, "c", 4), Some(Action::Inspect));
        assert_eq!((note(engine, "d", 40), note(engine, "e", 41)), (None, None));
    }

    #[test]
    fn the_memory_of_exceptions_is_bounded() {
        let mut exceptions = Exceptions::default();
        for number in 0..5000 {
            let engine = Engine { gpc: number % 40, tpc: number };
            assert_eq!(exceptions.note("GPU-1", engine, &number.to_string(), Timestamp(i64::from(number))), None);
        }
        assert!(exceptions.seen.len() <= MAX_ENGINES);
    }
}
