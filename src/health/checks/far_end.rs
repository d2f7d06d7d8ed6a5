//! What is at the other end of an NVLink right now: a link has two, and either may be why it is down.

use super::Look;
use super::answers::is_away;
use crate::domain::gpu::health::LinkEnd;
use crate::domain::pci::PciAddress;

/// How it stands with the device there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    /// As far as anybody can say: switches and other machines' devices are not asked.
    #[default]
    There,
    /// It is lost, hangs, or is not shown any more.
    Away,
    /// Its driver has taken its links down, because it is divided.
    Divided,
}

/// The other end of one link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FarEnd {
    pub standing: Standing,
    /// For evidence, behind the link's number: ` to GPU-1 at 0000:0f:00.0`; nothing where it is not known.
    pub name: String,
}

impl FarEnd {
    pub fn of(end: Option<LinkEnd>, look: &Look<'_>) -> Self {
        match end {
            None => Self::default(),
            Some(LinkEnd::Gpu(pci)) => Self::of_gpu(pci, look),
            Some(other) => Self { name: format!(" to {other}"), ..Self::default() },
        }
    }

    /// The inventory has the GPUs that do not answer any more, too.
    fn of_gpu(pci: PciAddress, look: &Look<'_>) -> Self {
        let at = |gpu: &&crate::domain::gpu::Gpu| gpu.mig_parent.is_none() && gpu.pci.parse() == Ok(pci);
        let Some(gpu) = look.known.iter().find(at) else {
            return Self { name: format!(" to {}", LinkEnd::Gpu(pci)), ..Self::default() };
        };
        let answer = look.gpus.map(|devices| devices.iter().find(|device| device.gpu == gpu.uuid));
        let (standing, state) = match answer {
            Some(None) => (Standing::Away, ", which the driver does not show any more"),
            Some(Some(device)) if is_away(device) => (Standing::Away, ", which does not answer"),
            _ if gpu.mig_mode == Some(true) => (Standing::Divided, ", which is divided"),
            _ => (Standing::There, ""),
        };
        Self { standing, name: format!(" to {} at {pci}{state}", gpu.uuid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::{Action, FaultId, FaultKind, Verdict};
    use crate::domain::gpu::health::{DeviceHealth, HealthSnapshot, NoAnswer, NoSnapshot, NvLink, Reading};
    use crate::domain::gpu::{Gpu, GpuDriver};
    use crate::domain::ids::GpuUuid;
    use crate::health::checks::testing::at;
    use crate::health::checks::{Checks, Found};
    use crate::health::{Faults, Limits};
    use std::collections::{BTreeMap, BTreeSet};

    fn uuid(number: u32) -> GpuUuid {
        GpuUuid(format!("GPU-{number}"))
    }

    fn place(number: u32) -> PciAddress {
        format!("0000:{number:02x}:00.0").parse().unwrap()
    }

    /// Two GPUs with a link between them.
    struct Pair {
        checks: Checks,
        round: usize,
        known: Vec<Gpu>,
        faults: Faults,
    }

    /// What a GPU says: its link is so, or it says nothing for this reason, or the driver does not show it.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Says {
        Up,
        Down,
        Nothing(NoAnswer),
        NotShown,
    }

    impl Pair {
        fn new() -> Self {
            let gpu = |number| Gpu { uuid: uuid(number), pci: place(number).to_string(), ..Gpu::default() };
            let faults = Faults::new(FaultId(1), Limits::default());
            Self { checks: Checks::default(), round: 0, known: vec![gpu(0), gpu(1)], faults }
        }

        fn look(&mut self, says: [Says; 2]) -> Found {
            let device = |(number, says): (u32, Says)| {
                let answer = match says {
                    Says::NotShown => return None,
                    Says::Nothing(why) => Err(NoSnapshot { why, sentence: "asking it: no answer".to_owned() }),
                    Says::Up | Says::Down => {
                        let up = says == Says::Up;
                        let far_end = up.then(|| LinkEnd::Gpu(place(1 - number)));
                        let link = NvLink { link: 3, is_active: Reading::Known(up), far_end, ..NvLink::default() };
                        let nvlinks = Reading::Known(vec![link]);
                        Ok(Box::new(HealthSnapshot { nvlinks, ..HealthSnapshot::default() }))
                    }
                };
                Some(DeviceHealth { gpu: uuid(number), index: number, answer })
            };
            let gpus: Vec<DeviceHealth> = (0..).zip(says).filter_map(device).collect();
            let (driver, busy, utilization) = (GpuDriver::default(), BTreeSet::new(), BTreeMap::new());
            self.round += 1;
            let found = self.checks.look(&Look {
                seen: at(self.round),
                gpus: Some(&gpus),
                driver: &driver,
                expected_gpus: None,
                known: &self.known,
                busy: &busy,
                utilization: &utilization,
                pci: None,
                infiniband: None,
                device_users: &Default::default(),
                devices: None,
            });
            for observation in &found.observations {
                self.faults.observe(observation.clone());
            }
            found
        }

        /// The GPUs that are condemned for a link.
        fn condemned(&self) -> Vec<GpuUuid> {
            let link = self.faults.iter().filter(|fault| fault.kind == FaultKind::Nvlink && fault.takes_out_of_use());
            link.filter_map(|fault| fault.subject.gpu.clone()).collect()
        }
    }

    #[test]
    fn both_ends_are_named_and_both_may_be_why() {
        let mut pair = Pair::new();
        pair.look([Says::Up; 2]);
        (0..2).for_each(|_| drop(pair.look([Says::Down; 2])));
        assert_eq!(pair.condemned(), [uuid(0), uuid(1)]);
        let evidence: Vec<&str> = pair.faults.iter().map(|fault| fault.evidence[0].as_str()).collect();
        assert_eq!(evidence[0], "link 3 to GPU-1 at 0000:01:00.0: inactive, was active");
        assert_eq!(evidence[1], "link 3 to GPU-0 at 0000:00:00.0: inactive, was active");
    }

    #[test]
    fn who_is_well_is_not_condemned_for_a_neighbour_that_went() {
        for gone in [Says::Nothing(NoAnswer::Lost), Says::Nothing(NoAnswer::Hung), Says::NotShown] {
            let mut pair = Pair::new();
            pair.look([Says::Up; 2]);
            let last = (0..4).map(|_| pair.look([Says::Down, gone])).last().unwrap();
            let told = last.observations.iter().find(|seen| seen.kind == FaultKind::Nvlink).expect("it is told");
            assert_eq!((told.judgement.verdict, told.judgement.action), (Verdict::Link, Action::None), "{gone:?}");
            assert!(told.evidence.contains("link 3 to GPU-1 at 0000:01:00.0, which"), "{}", told.evidence);
            assert_eq!(pair.condemned(), [], "{gone:?}");
            // It came back, and the link did not.
            (0..2).for_each(|_| drop(pair.look([Says::Down; 2])));
            assert_eq!(pair.condemned(), [uuid(0), uuid(1)], "{gone:?}");
        }
    }

    #[test]
    fn who_was_condemned_before_its_neighbour_went_is_free_again() {
        let mut pair = Pair::new();
        pair.look([Says::Up; 2]);
        (0..2).for_each(|_| drop(pair.look([Says::Down; 2])));
        assert_eq!(pair.condemned(), [uuid(0), uuid(1)]);
        pair.look([Says::Down, Says::Nothing(NoAnswer::Lost)]);
        assert_eq!(pair.condemned(), [uuid(1)]);
        let told = pair.faults.iter().filter(|fault| fault.kind == FaultKind::Nvlink).count();
        (0..9).for_each(|_| drop(pair.look([Says::Down, Says::Nothing(NoAnswer::Lost)])));
        assert_eq!(pair.faults.iter().filter(|fault| fault.kind == FaultKind::Nvlink).count(), told, "told once");
    }

    #[test]
    fn links_to_a_board_that_is_divided_are_down_as_they_should_be() {
        let mut pair = Pair::new();
        pair.look([Says::Up; 2]);
        pair.known[1].mig_mode = Some(true);
        let last = (0..9).map(|_| pair.look([Says::Down; 2])).last().unwrap();
        assert!(last.observations.iter().all(|seen| seen.kind != FaultKind::Nvlink), "{last:?}");
        // It is one whole again, and its links were not trained.
        pair.known[1].mig_mode = Some(false);
        (0..2).for_each(|_| drop(pair.look([Says::Down; 2])));
        assert_eq!(pair.condemned(), [uuid(0)]);
    }

    #[test]
    fn what_worked_is_missed_after_a_restart_too() {
        let mut pair = Pair::new();
        pair.look([Says::Up; 2]);
        let kept = serde_json::to_string(&pair.checks.worked()).unwrap();
        let mut later = Pair::new();
        later.checks.take_up(&serde_json::from_str(&kept).unwrap());
        assert_eq!(later.checks.worked(), pair.checks.worked());
        (0..2).for_each(|_| drop(later.look([Says::Down; 2])));
        assert_eq!(later.condemned(), [uuid(0), uuid(1)]);
        let evidence = &later.faults.iter().next().expect("there are two").evidence[0];
        assert_eq!(evidence, "link 3 to GPU-1 at 0000:01:00.0: inactive, was active");
        // Without it nobody knows that they ever were up.
        let mut ignorant = Pair::new();
        (0..9).for_each(|_| drop(ignorant.look([Says::Down; 2])));
        assert_eq!((ignorant.condemned(), ignorant.checks.worked()), (vec![], Default::default()));
    }
}
