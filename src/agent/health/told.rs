//! What the driver's library tells unasked, as observations. What is lost of it is never missed: counts of this source are
//! lower bounds, and what lasts is seen by the rounds.

use crate::domain::fault::{Action, FaultKind, Part, Subject, Verdict};
use crate::domain::ids::GpuUuid;
use crate::gpu::events::{EventKind, GpuEvent, Unwatched};
use crate::health::kernel_log::Xid;
use crate::health::table::Table;
use crate::health::verdict::{self, Judgement};
use crate::health::{Observation, Relation, SeenAt, Source};
use std::collections::BTreeMap;

/// The code of an Xid that the library does not know itself; the kernel's log has the real one.
const UNKNOWN_XID: u32 = 999;
/// Devices whose name is kept.
const MOST_DEVICES: usize = 256;

/// Remembers which device is which, for what is told by index alone.
#[derive(Debug, Default)]
pub struct Told {
    names: BTreeMap<u32, GpuUuid>,
}

impl Told {
    /// Nothing for what is no sign of a fault.
    pub fn hear(&mut self, event: &GpuEvent, table: &Table, seen: SeenAt) -> Option<Observation> {
        match event {
            GpuEvent::Watching { index, gpu, .. } => {
                if self.names.len() < MOST_DEVICES || self.names.contains_key(index) {
                    self.names.insert(*index, gpu.clone());
                }
                None
            }
            GpuEvent::Happened { index, gpu, kind, data, gpu_instance, compute_instance } => {
                let subject = Subject {
                    gpu_instance: *gpu_instance,
                    compute_instance: *compute_instance,
                    ..of_gpu(gpu.clone())
                };
                happened(*kind, *data, *index, subject, table, seen)
            }
            GpuEvent::Unwatched { gpu: Some(gpu), why: Unwatched::Lost, sentence, .. } => {
                let lost = Judgement::new(Verdict::Gpu, Action::Reboot, "The driver has lost the GPU from its bus.");
                let found = Observation::new(Source::Driver, FaultKind::GpuLost, of_gpu(gpu.clone()), lost, seen);
                Some(Observation { evidence: sentence.clone(), ..found })
            }
            GpuEvent::WorkerGivenUp { index, is_late, sentence } => {
                let gpu = index.and_then(|index| self.names.get(&index));
                Some(given_up(gpu, *is_late, sentence, seen))
            }
            GpuEvent::Unwatched { .. } | GpuEvent::Interrupted => None,
        }
    }
}

fn of_gpu(gpu: GpuUuid) -> Subject {
    Subject { part: Part::Gpu, gpu: Some(gpu), ..Subject::default() }
}

/// Once is no fault of the device: a process can be stopped by anybody, and another one asks again. A device that does
/// not answer that one either is found by the rounds.
fn given_up(gpu: Option<&GpuUuid>, is_late: bool, sentence: &str, seen: SeenAt) -> Observation {
    let what = if is_late { "did not answer in time" } else { "has fallen" };
    let reason = format!("A process that asked the driver {what}; another one asks again.");
    let subject = gpu.map_or_else(Subject::default, |gpu| of_gpu(gpu.clone()));
    let judgement = Judgement::new(Verdict::Unknown, Action::None, reason);
    let found = Observation::new(Source::Driver, FaultKind::GpuWorker, subject, judgement, seen);
    Observation { evidence: sentence.to_owned(), ..found }
}

fn happened(
    kind: EventKind,
    data: u64,
    index: u32,
    subject: Subject,
    table: &Table,
    seen: SeenAt,
) -> Option<Observation> {
    let observation = |kind, judgement| Observation::new(Source::Driver, kind, subject.clone(), judgement, seen);
    let judged = |kind, action, reason: &str| Some(observation(kind, Judgement::new(Verdict::Gpu, action, reason)));
    let found = match kind {
        EventKind::Xid => {
            let code = u32::try_from(data).ok()?;
            let found = Xid { code, gpu_instance: subject.gpu_instance, ..Xid::default() };
            let judgement = verdict::xid(&found, table, None);
            let relation = if code == UNKNOWN_XID { Relation::FollowUpOrOwn } else { Relation::ByCode };
            Some(Observation { code: Some(code), relation, ..observation(FaultKind::Xid, judgement) })
        }
        // One that was corrected has harmed nobody; how many there are is looked at.
        EventKind::SingleBitEcc | EventKind::Other(_) => None,
        EventKind::SingleBitEccStorm => {
            judged(FaultKind::Ecc, Action::None, "Memory of the GPU corrects errors in great numbers.")
        }
        // What has to be done then, Xids 48, 94 and 95 say.
        EventKind::DoubleBitEcc | EventKind::NonFatalPoison => judged(
            FaultKind::Ecc,
            Action::RestartApp,
            "Memory of the GPU had an error that cannot be corrected; the program that read it has to be run again.",
        ),
        EventKind::FatalPoison => judged(
            FaultKind::Ecc,
            Action::ResetGpu,
            "Memory of the GPU had an error that cannot be corrected, and that no program alone has met.",
        ),
        EventKind::DramRetirement => judged(
            FaultKind::RowRemap,
            Action::None,
            "A bad row of the GPU's memory was recorded, to be replaced at the next reset.",
        ),
        EventKind::DramRetirementFailure => judged(
            FaultKind::RowRemap,
            Action::Inspect,
            "A bad row of the GPU's memory could not be recorded: its spare rows are used up.",
        ),
        EventKind::GpuUnavailable => {
            judged(FaultKind::GpuLost, Action::Reboot, "The driver says that the GPU is not available.")
        }
        // To what, the next round and Xid 154 say.
        EventKind::RecoveryAction => {
            let nothing = Judgement::new(Verdict::Unknown, Action::None, "What the driver recommends has changed.");
            let found = observation(FaultKind::RecoveryAction, nothing);
            Some(Observation { relation: Relation::FollowUp, ..found })
        }
    };
    let what = match kind {
        EventKind::Xid => format!("Xid {data}"),
        other => format!("{other:?}"),
    };
    Some(Observation { evidence: format!("NVML event of GPU {index}: {what}"), ..found? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::takes_out_of_use;

    fn hear(kind: EventKind, data: u64) -> Option<Observation> {
        let event = GpuEvent::Happened {
            index: 3,
            gpu: "GPU-3".into(),
            kind,
            data,
            gpu_instance: None,
            compute_instance: None,
        };
        Told::default().hear(&event, Table::builtin(), SeenAt::default())
    }

    #[test]
    fn each_event_is_the_fitting_kind_of_fault() {
        use Action::{Inspect, None as Nothing, Reboot, ResetGpu, RestartApp};
        let judged = |kind, data| hear(kind, data).map(|found| (found.kind, found.code, found.judgement.action));
        assert_eq!(judged(EventKind::Xid, 79), Some((FaultKind::Xid, Some(79), Reboot)));
        assert_eq!(judged(EventKind::Xid, 13), Some((FaultKind::Xid, Some(13), RestartApp)));
        assert_eq!(judged(EventKind::Xid, u64::MAX), None);
        assert_eq!(judged(EventKind::DoubleBitEcc, 0), Some((FaultKind::Ecc, None, RestartApp)));
        assert_eq!(judged(EventKind::FatalPoison, 0), Some((FaultKind::Ecc, None, ResetGpu)));
        assert_eq!(judged(EventKind::DramRetirement, 0), Some((FaultKind::RowRemap, None, Nothing)));
        assert_eq!(judged(EventKind::DramRetirementFailure, 0), Some((FaultKind::RowRemap, None, Inspect)));
        assert_eq!(judged(EventKind::GpuUnavailable, 0), Some((FaultKind::GpuLost, None, Reboot)));
        assert_eq!((judged(EventKind::SingleBitEcc, 0), judged(EventKind::Other(1 << 20), 0)), (None, None));
        let every = EventKind::ALL.into_iter().filter_map(|(kind, _)| hear(kind, 45));
        assert!(
            every.into_iter().all(|found| found.subject.gpu == Some("GPU-3".into()) && !found.evidence.is_empty())
        );
        assert_eq!(hear(EventKind::Xid, 79).unwrap().evidence, "NVML event of GPU 3: Xid 79");
    }

    #[test]
    fn a_worker_that_was_given_up_is_told_of_its_device_and_condemns_none() {
        let mut told = Told::default();
        let mut hear = |event: &GpuEvent| told.hear(event, Table::builtin(), SeenAt::default());
        assert_eq!(hear(&GpuEvent::Watching { index: 1, gpu: "GPU-1".into(), types: 8 }), None);
        let late = |index| GpuEvent::WorkerGivenUp { index, is_late: true, sentence: "late".to_owned() };
        for (index, gpu) in [(Some(1), Some("GPU-1".into())), (Some(2), None), (None, None)] {
            let found = hear(&late(index)).unwrap();
            assert_eq!((found.kind, found.subject.gpu), (FaultKind::GpuWorker, gpu));
            assert!(!takes_out_of_use(found.judgement.verdict, found.judgement.action));
        }
        let lost = GpuEvent::Unwatched {
            index: 1,
            gpu: Some("GPU-1".into()),
            why: Unwatched::Lost,
            sentence: "lost".to_owned(),
        };
        assert_eq!(
            hear(&lost).map(|found| (found.kind, found.judgement.action)),
            Some((FaultKind::GpuLost, Action::Reboot))
        );
        assert_eq!(hear(&GpuEvent::Interrupted), None);
    }
}
