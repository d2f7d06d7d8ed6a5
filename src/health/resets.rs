//! Whether a GPU was reset, seen by what it has forgotten. No driver tells of a reset by itself, and an operator may reset
//! a GPU while nobody listens; so what each GPU remembered at the last look is kept, also over restarts.
//!
//! Taken for a reset is, from one look to the next:
//!
//! | what | why |
//! |---|---|
//! | a count of this load of the driver is lower than before | volatile ECC, volatile SRAM ECC and PCIe replays begin anew |
//! | the driver asked for a reset, and asks for nothing now | recovery action (field 230), reset status (226), drain (227) |
//! | rows or pages waited for a reset, and wait no more | nothing else replaces them |
//! | the GPU was lost, and answers | nothing else brings it back |
//!
//! A driver that was loaded anew has made its GPUs begin anew too. Somebody who sets the counts back by hand is taken at
//! this word. NVLink's counts do not matter: programs may set them back.

use crate::domain::gpu::health::{DeviceHealth, HealthSnapshot, NoAnswer, Reading, RecoveryAction};
use crate::domain::ids::GpuUuid;
use crate::domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// GPUs that are remembered.
const MOST: usize = 64;

/// What a GPU remembered when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    /// When it last answered, or was last known to be lost.
    pub at: Option<Timestamp>,
    /// By name, of those that it has.
    counts: BTreeMap<String, u64>,
    asks: bool,
    waits: bool,
    lost: bool,
}

/// A reset that has happened since a GPU last answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub gpu: GpuUuid,
    /// What was seen before is over. Between this and the look that found the reset, nobody knows what came first.
    pub after: Option<Timestamp>,
    /// The driver itself says that nothing more has to be done.
    pub is_content: bool,
    /// What says so.
    pub evidence: String,
}

/// The marks of all GPUs of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Resets {
    marks: BTreeMap<GpuUuid, Mark>,
}

impl Resets {
    /// Compares with the look before, and remembers this one.
    pub fn look(&mut self, gpus: &[DeviceHealth], now: Timestamp) -> Vec<Reset> {
        gpus.iter().filter_map(|device| self.look_at(device, now)).collect()
    }

    /// Another source says that the GPU is lost.
    pub fn lost(&mut self, gpu: &GpuUuid, at: Option<Timestamp>) {
        let mark = self.mark(gpu);
        (mark.lost, mark.at) = (true, mark.at.max(at));
    }

    /// The marks of these GPUs alone, as they are kept over a restart.
    pub fn of<'a>(&self, gpus: impl IntoIterator<Item = &'a GpuUuid>) -> Self {
        let kept = gpus.into_iter().filter_map(|gpu| Some((gpu.clone(), self.marks.get(gpu)?.clone())));
        Self { marks: kept.collect() }
    }

    /// The same but for its times.
    pub fn is_like(&self, other: &Self) -> bool {
        let timeless = |mark: &Mark| Mark { at: None, ..mark.clone() };
        let alike = |((gpu, mark), (of, theirs)): ((&GpuUuid, &Mark), (&GpuUuid, &Mark))| {
            gpu == of && timeless(mark) == timeless(theirs)
        };
        self.marks.len() == other.marks.len() && self.marks.iter().zip(&other.marks).all(alike)
    }

    /// When the GPU last answered, or was last known to be lost.
    pub fn time_of(&self, gpu: &GpuUuid) -> Option<Timestamp> {
        self.marks.get(gpu)?.at
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    fn look_at(&mut self, device: &DeviceHealth, now: Timestamp) -> Option<Reset> {
        if device.gpu.is_placeholder() {
            return None;
        }
        let snapshot = match &device.answer {
            Ok(snapshot) => snapshot,
            Err(failure) => {
                if failure.why == NoAnswer::Lost {
                    self.lost(&device.gpu, Some(now));
                }
                return None;
            }
        };
        let mark = self.mark(&device.gpu);
        // What was seen after the look had begun, it does not know.
        if mark.at.is_some_and(|at| at > now) {
            return None;
        }
        let evidence = forgotten(mark, snapshot);
        let after = mark.at;
        mark.take(snapshot, now);
        let is_content = known_none(snapshot);
        Some(Reset { gpu: device.gpu.clone(), after, is_content, evidence: evidence? })
    }

    fn mark(&mut self, gpu: &GpuUuid) -> &mut Mark {
        if self.marks.len() >= MOST && !self.marks.contains_key(gpu) {
            let oldest = self.marks.iter().min_by_key(|(_, mark)| mark.at).map(|(gpu, _)| gpu.clone());
            oldest.and_then(|gpu| self.marks.remove(&gpu));
        }
        self.marks.entry(gpu.clone()).or_default()
    }
}

impl Mark {
    fn take(&mut self, snapshot: &HealthSnapshot, now: Timestamp) {
        self.at = Some(now);
        self.lost = false;
        self.counts.extend(counts(snapshot).map(|(name, count)| (name.to_owned(), count)));
        // What cannot be asked right now is as it was.
        self.asks = asks(snapshot).unwrap_or(self.asks);
        self.waits = waits(snapshot).unwrap_or(self.waits);
    }
}

/// What shows that the GPU began anew.
fn forgotten(mark: &Mark, now: &HealthSnapshot) -> Option<String> {
    if mark.lost {
        return Some("it was lost and answers again".to_owned());
    }
    for (name, count) in counts(now) {
        if let Some(before) = mark.counts.get(name).filter(|before| **before > count) {
            return Some(format!("its count of {name} was {before} and is {count}"));
        }
    }
    if mark.asks && asks(now) == Some(false) {
        return Some("the driver asked for a reset and asks for none now".to_owned());
    }
    let done = mark.waits && waits(now) == Some(false);
    done.then(|| "memory that waited for a reset to be replaced waits no more".to_owned())
}

fn counts(of: &HealthSnapshot) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    let sram = of.sram.known();
    [
        ("volatile corrected errors", of.ecc.volatile_corrected.known().copied()),
        ("volatile uncorrected errors", of.ecc.volatile_uncorrected.known().copied()),
        ("volatile corrected SRAM errors", sram.map(|sram| sram.volatile_corrected)),
        ("volatile SRAM parity errors", sram.map(|sram| sram.volatile_uncorrected_parity)),
        ("volatile SRAM double errors", sram.map(|sram| sram.volatile_uncorrected_sec_ded)),
        ("PCIe replays", of.pcie.replays.known().copied()),
    ]
    .into_iter()
    .filter_map(|(name, count)| Some((name, count?)))
}

/// Whether the driver asks for a reset; none where it does not say.
fn asks(of: &HealthSnapshot) -> Option<bool> {
    let action = of.recovery_action.known().map(|action| *action != RecoveryAction::None);
    any([action, of.needs_reset.known().copied(), of.needs_drain.known().copied()])
}

fn waits(of: &HealthSnapshot) -> Option<bool> {
    let rows = of.remapped_rows.known().map(|rows| rows.is_pending);
    any([rows, of.retired_pages.is_pending.known().copied()])
}

fn any<const N: usize>(said: [Option<bool>; N]) -> Option<bool> {
    said.into_iter().flatten().reduce(|one, other| one || other)
}

fn known_none(of: &HealthSnapshot) -> bool {
    of.recovery_action == Reading::Known(RecoveryAction::None) && asks(of) == Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::health::{NoSnapshot, RemappedRows};

    fn device(change: impl FnOnce(&mut HealthSnapshot)) -> DeviceHealth {
        let mut snapshot = HealthSnapshot { gpu: "A".into(), ..HealthSnapshot::default() };
        change(&mut snapshot);
        DeviceHealth { gpu: "A".into(), index: 0, answer: Ok(Box::new(snapshot)) }
    }

    fn replays(count: u64) -> DeviceHealth {
        device(|of| of.pcie.replays = Reading::Known(count))
    }

    fn action(action: RecoveryAction) -> DeviceHealth {
        device(|of| of.recovery_action = Reading::Known(action))
    }

    fn pending(is_pending: bool) -> DeviceHealth {
        device(|of| of.remapped_rows = Reading::Known(RemappedRows { is_pending, ..RemappedRows::default() }))
    }

    fn fails(why: NoAnswer) -> DeviceHealth {
        let answer = Err(NoSnapshot { why, sentence: "no".to_owned() });
        DeviceHealth { gpu: "A".into(), index: 0, answer }
    }

    /// Whether each look but the first finds a reset.
    fn found(looks: &[DeviceHealth]) -> Vec<bool> {
        let mut resets = Resets::default();
        let mut at = 0;
        let look = |device: &DeviceHealth| {
            at += 1;
            !resets.look(std::slice::from_ref(device), Timestamp(at)).is_empty()
        };
        looks.iter().map(look).skip(1).collect()
    }

    #[test]
    fn what_a_reset_forgets_tells_of_it() {
        use RecoveryAction::{None as Nothing, ResetGpu};
        assert_eq!(found(&[replays(5), replays(5), replays(7), replays(2), replays(2)]), [false, false, true, false]);
        assert_eq!(
            found(&[action(Nothing), action(ResetGpu), action(ResetGpu), action(Nothing)]),
            [false, false, true]
        );
        assert_eq!(found(&[pending(true), pending(true), pending(false)]), [false, true]);
        assert_eq!(
            found(&[replays(1), fails(NoAnswer::Lost), fails(NoAnswer::Lost), replays(1)]),
            [false, false, true]
        );
    }

    #[test]
    fn a_gpu_that_anybody_called_lost_and_that_answers_was_brought_back() {
        let mut resets = Resets::default();
        resets.look(&[replays(1)], Timestamp(1));
        resets.lost(&"A".into(), Some(Timestamp(5)));
        let found = resets.look(&[replays(1)], Timestamp(6));
        assert_eq!(found.iter().map(|reset| reset.after).collect::<Vec<_>>(), [Some(Timestamp(5))]);
        assert_eq!(resets.look(&[replays(1)], Timestamp(7)), []);
    }

    #[test]
    fn what_cannot_be_asked_is_no_reset() {
        let mute = || device(|_| ());
        assert_eq!(found(&[replays(5), mute(), replays(6)]), [false, false]);
        assert_eq!(
            found(&[action(RecoveryAction::ResetGpu), mute(), action(RecoveryAction::ResetGpu)]),
            [false, false]
        );
        assert_eq!(found(&[replays(5), fails(NoAnswer::Hung), fails(NoAnswer::Failed), replays(5)]), [false; 3]);
    }

    #[test]
    fn a_reset_while_nobody_looked_is_found_by_what_was_kept() {
        let mut resets = Resets::default();
        resets.look(&[replays(9)], Timestamp(5));
        let text = serde_json::to_string(&resets.of([&"A".into(), &"B".into()])).unwrap();
        let mut kept: Resets = serde_json::from_str(&text).unwrap();
        assert_eq!(kept, resets);
        let found = kept.look(&[replays(0)], Timestamp(90));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].after, found[0].is_content), (Some(Timestamp(5)), false));
        assert_eq!(found[0].evidence, "its count of PCIe replays was 9 and is 0");
    }

    #[test]
    fn the_driver_says_whether_more_has_to_be_done() {
        let mut resets = Resets::default();
        let look = |asked| {
            let mut device = replays(0);
            device.answer.as_mut().unwrap().recovery_action = Reading::Known(asked);
            device
        };
        resets.look(&[replays(3)], Timestamp(1));
        assert!(!resets.clone().look(&[look(RecoveryAction::RebootNode)], Timestamp(2))[0].is_content);
        assert!(resets.look(&[look(RecoveryAction::None)], Timestamp(2))[0].is_content);
    }

    #[test]
    fn marks_are_bounded() {
        let mut resets = Resets::default();
        for number in 0..1000 {
            let mut device = replays(1);
            device.gpu = format!("GPU-{number}").as_str().into();
            resets.look(&[device], Timestamp(number));
        }
        assert_eq!(resets.marks.len(), MOST);
    }
}
