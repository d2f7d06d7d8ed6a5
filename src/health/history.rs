//! What has happened before: the same GPU after two resets, what comes and goes, one part of a chip with several programs.

use super::observation::Engine;
use super::verdict::Judgement;
use crate::domain::fault::{Action, Fault, FaultKind, Subject, Verdict};
use crate::domain::ids::GpuUuid;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
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
/// How far back ends count, to see what comes and goes.
pub const FLAP_MEMORY: Duration = Duration::from_secs(24 * 3600);
/// Ends and recoveries that are remembered, each.
const MAX_PAST: usize = 64;
/// Several faults of one thing that end within it are ended by one reset.
const ONE_RECOVERY: Duration = Duration::from_secs(60);

/// A reset or reboot that was made because of a fault of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub kind: FaultKind,
    pub code: Option<u32>,
    pub at: Timestamp,
}

/// How faults of a node have ended so far. Small, and kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Past {
    recoveries: Vec<(GpuUuid, Recovery)>,
    /// By being clean.
    ends: Vec<End>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    kind: FaultKind,
    code: Option<u32>,
    on: Subject,
    at: Timestamp,
}

impl Past {
    /// The fault ended because its GPU was reset, or its machine rebooted.
    pub fn recovered(&mut self, fault: &Fault, at: Timestamp) {
        let waited = matches!(fault.action, Action::ResetGpu | Action::Reboot);
        let Some(gpu) = fault.subject.gpu.clone().filter(|_| waited) else { return };
        let recovery = Recovery { kind: fault.kind, code: fault.code, at };
        let same = |(of, earlier): &(GpuUuid, Recovery)| {
            let alike = (earlier.kind, earlier.code) == (recovery.kind, recovery.code);
            *of == gpu && alike && at.since(earlier.at) < ONE_RECOVERY
        };
        if self.recoveries.iter().any(same) {
            return;
        }
        self.recoveries.retain(|(_, earlier)| at.since(earlier.at) <= RECOVERY_MEMORY);
        if self.recoveries.len() == MAX_PAST {
            self.recoveries.remove(0);
        }
        self.recoveries.push((gpu, recovery));
    }

    /// The fault ended because it was not seen for long enough.
    pub fn ended_clean(&mut self, fault: &Fault, at: Timestamp) {
        self.ends.retain(|end| at.since(end.at) <= FLAP_MEMORY);
        if self.ends.len() == MAX_PAST {
            self.ends.remove(0);
        }
        self.ends.push(End { kind: fault.kind, code: fault.code, on: part_of(&fault.subject), at });
    }

    pub fn recoveries_of(&self, gpu: &GpuUuid) -> Vec<Recovery> {
        self.recoveries.iter().filter(|(of, _)| of == gpu).map(|(_, recovery)| *recovery).collect()
    }

    /// How often the same fault ended by being clean within the last day, and came back.
    pub fn flaps(&self, fault: &Fault, now: Timestamp) -> u32 {
        let on = part_of(&fault.subject);
        let same = |end: &&End| {
            (end.kind, end.code, &end.on) == (fault.kind, fault.code, &on) && now.since(end.at) <= FLAP_MEMORY
        };
        u32::try_from(self.ends.iter().filter(same).count()).unwrap_or(u32::MAX)
    }
}

/// By its place where that is known, as a GPU's name may be learnt later.
fn part_of(subject: &Subject) -> Subject {
    let gpu = if subject.pci.is_some() { None } else { subject.gpu.clone() };
    Subject { gpu, ..subject.clone() }
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
    /// Programs that met exceptions at several places of a GPU: they say nothing of one place.
    wide: BTreeMap<(String, String), Timestamp>,
}

impl Exceptions {
    /// Notes an exception that `program` met; the same name for runs of one program, as its job's chain or its user's and
    /// its command's. Judges the GPU once enough programs have met one.
    pub fn note(&mut self, gpu: &str, engine: Engine, program: &str, now: Timestamp) -> Option<Judgement> {
        self.forget(now);
        if self.is_wide(gpu, engine, program, now) {
            return None;
        }
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

    /// Whether the program is wrong all over the chip; what it met is then no evidence anywhere.
    fn is_wide(&mut self, gpu: &str, engine: Engine, program: &str, now: Timestamp) -> bool {
        let key = (gpu.to_owned(), program.to_owned());
        let elsewhere = |((on, at), seen): (&(String, Engine), &Vec<(Timestamp, String)>)| {
            on == gpu && *at != engine && seen.iter().any(|(_, known)| known == program)
        };
        if !self.wide.contains_key(&key) && !self.seen.iter().any(elsewhere) {
            return false;
        }
        for (_, programs) in self.seen.iter_mut().filter(|((on, _), _)| on == gpu) {
            programs.retain(|(_, known)| known != program);
        }
        if self.wide.len() >= MAX_ENGINES {
            self.wide.pop_first();
        }
        self.wide.insert(key, now);
        true
    }

    fn forget(&mut self, now: Timestamp) {
        self.wide.retain(|_, at| now.since(*at) <= EXCEPTION_MEMORY);
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

    fn fault(kind: FaultKind, action: Action) -> Fault {
        let subject = Subject { gpu: Some("A".into()), ..Subject::gpu_at("0000:9b:00".parse().unwrap()) };
        let seen = crate::health::SeenAt::default();
        let judgement = Judgement::new(Verdict::Gpu, action, "Bad.");
        let mut faults = crate::health::Faults::new(crate::domain::fault::FaultId(1), Default::default());
        let source = crate::health::Source::Driver;
        faults.observe(crate::health::Observation::new(source, kind, subject, judgement, seen));
        faults.iter().next().unwrap().clone()
    }

    #[test]
    fn recoveries_are_counted_once_each_and_forgotten() {
        let (mut past, hour) = (Past::default(), |hours: i64| Timestamp(hours * HOUR));
        let of = |past: &Past| past.recoveries_of(&"A".into()).len();
        past.recovered(&fault(FaultKind::Ecc, Action::RestartApp), hour(1));
        assert_eq!(of(&past), 0, "nothing was to be reset");
        for at in [hour(1), hour(1), hour(2)] {
            past.recovered(&fault(FaultKind::Ecc, Action::ResetGpu), at);
        }
        assert_eq!((of(&past), past.recoveries_of(&"B".into()).len()), (2, 0));
        past.recovered(&fault(FaultKind::Nvlink, Action::ResetGpu), hour(400));
        assert_eq!(of(&past), 1);
        (0..1000).for_each(|i| {
            past.recovered(&fault(FaultKind::Ecc, Action::Reboot), Timestamp(hour(400).0 + i * HOUR / 10))
        });
        assert_eq!(of(&past), MAX_PAST);
        assert_eq!(serde_json::from_str::<Past>(&serde_json::to_string(&past).unwrap()).unwrap(), past);
    }

    #[test]
    fn what_comes_and_goes_is_counted_for_a_day() {
        let (mut past, hour) = (Past::default(), |hours: i64| Timestamp(hours * HOUR));
        let (thermal, slow) =
            (fault(FaultKind::Thermal, Action::Inspect), fault(FaultKind::HwSlowdown, Action::Inspect));
        past.ended_clean(&thermal, hour(0));
        past.ended_clean(&thermal, hour(10));
        let nameless = Fault { subject: Subject { gpu: None, ..thermal.subject.clone() }, ..thermal.clone() };
        assert_eq!((past.flaps(&thermal, hour(12)), past.flaps(&nameless, hour(12))), (2, 2));
        assert_eq!((past.flaps(&thermal, hour(30)), past.flaps(&slow, hour(12))), (1, 0));
        (0..1000).for_each(|_| past.ended_clean(&thermal, hour(31)));
        assert_eq!(past.flaps(&thermal, hour(31)) as usize, MAX_PAST);
    }

    #[test]
    fn one_place_and_several_programs_make_a_chip_suspicious() {
        let (engine, other) = (Engine { gpc: 8, tpc: 5 }, Engine { gpc: 9, tpc: 1 });
        let mut exceptions = Exceptions::default();
        let mut note = |engine, program: &str, hours: i64| {
            exceptions.note("GPU-1", engine, program, Timestamp(hours * HOUR)).map(|judgement| judgement.action)
        };
        assert_eq!((note(engine, "a", 0), note(engine, "a", 1), note(engine, "a", 2)), (None, None, None));
        // One that is wrong everywhere says nothing of one place, also where it was first.
        assert_eq!((note(engine, "w", 3), note(other, "w", 3), note(engine, "w", 3)), (None, None, None));
        assert_eq!((note(engine, "b", 3), note(other, "x", 3)), (None, None));
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
