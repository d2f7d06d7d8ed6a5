//! When a fault is over: one rule per kind, as a table. Nothing is unhealthy for ever, and nothing gets well by a restart
//! of the agent: what counts is what happened to the hardware, or how long it has been clean.
//!
//! Two more ends need no rule: a later Xid that cancels an earlier one (`cancels` in `xid.toml`), and an operator's word.

use super::checks::Mode;
use crate::domain::fault::{Action, Fault, FaultKind, takes_out_of_use};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Longest time that flapping makes anything wait.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The time doubles with each flap, so many times.
const DOUBLINGS: u32 = 6;

/// What may end a fault; any one of them is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rule {
    /// A reset of the GPU after it was last seen.
    pub reset: bool,
    /// A reboot of the machine.
    pub reboot: bool,
    /// Another GPU in the slot.
    pub replaced: bool,
    /// So long not seen, and what checks it found nothing.
    pub clean: Option<Duration>,
}

/// What is known of the time since a fault was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Since {
    pub reset: bool,
    pub rebooted: bool,
    pub replaced: bool,
    /// How long it has not been seen while its source was listening and its check, where it has one, was clean; none while
    /// nobody can say that it is.
    pub clean: Option<Duration>,
    /// How often the same fault ended by being clean within the last day, and came back.
    pub flaps: u32,
}

/// Why a fault is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Reset,
    Rebooted,
    Replaced,
    Clean,
    /// Its checks are off.
    NotLookedAt,
    /// Its checks observe at most, and it was condemned before they did.
    NotEnforced,
}

impl Ended {
    /// For a person.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "the GPU was reset, or its driver loaded anew",
            Self::Rebooted => "the machine was rebooted",
            Self::Replaced => "another GPU is in its place",
            Self::Clean => "it was not seen again for long enough",
            Self::NotLookedAt => "its check is off in [checks], so nobody looks whether it lasts",
            Self::NotEnforced => "its check only observes now, by [checks]",
        }
    }
}

/// What may end a fault of this kind, judged like this.
pub fn rule(kind: FaultKind, action: Action) -> Rule {
    let clean = |time| Rule { clean: Some(time), ..Rule::default() };
    let rebooted = Rule { reboot: true, replaced: true, ..Rule::default() };
    let reset = Rule { reset: true, ..rebooted };
    match kind {
        // Known from messages alone: nobody can ask whether they are still true.
        FaultKind::Xid | FaultKind::Sxid | FaultKind::Aer | FaultKind::SelfCheck => match action {
            Action::None | Action::RestartApp => clean(10 * MINUTE),
            Action::ResetGpu => reset,
            Action::Reboot => rebooted,
            // Not of a GPU: nothing can be seen to be replaced.
            Action::Inspect => {
                Rule { reboot: matches!(kind, FaultKind::Sxid | FaultKind::Aer), replaced: true, ..Rule::default() }
            }
        },
        // Lost again and again it is to be inspected, and then its coming back says nothing.
        FaultKind::GpuLost if action == Action::Inspect => Rule { replaced: true, ..Rule::default() },
        FaultKind::GpuLost => Rule { clean: Some(MINUTE), ..reset },
        FaultKind::ResetRequired | FaultKind::RecoveryAction => Rule { clean: Some(Duration::ZERO), ..reset },
        FaultKind::RowRemap | FaultKind::RetiredPages | FaultKind::Ecc | FaultKind::SramEcc => match action {
            Action::None | Action::RestartApp => clean(10 * MINUTE),
            Action::Inspect => Rule { replaced: true, ..Rule::default() },
            Action::ResetGpu | Action::Reboot => reset,
        },
        FaultKind::Nvlink => Rule { clean: Some(30 * MINUTE), ..reset },
        FaultKind::Thermal | FaultKind::HwSlowdown | FaultKind::PowerBrake => {
            Rule { replaced: true, ..clean(10 * MINUTE) }
        }
        // A link is judged under load, which a GPU without tasks never has again.
        FaultKind::PcieLink => Rule { clean: Some(10 * MINUTE), ..rebooted },
        FaultKind::PcieReplay => Rule { clean: Some(30 * MINUTE), ..rebooted },
        FaultKind::Fabric | FaultKind::GpuWorker => Rule { clean: Some(MINUTE), ..reset },
        FaultKind::GpuCount | FaultKind::DriverMismatch | FaultKind::MemoryHeld | FaultKind::DeviceAccess => {
            Rule { reboot: true, ..clean(Duration::ZERO) }
        }
        // A port is known to have been active since the boot alone: after it nobody would call it clean.
        FaultKind::Infiniband => Rule { reboot: true, ..clean(10 * MINUTE) },
        FaultKind::KernelLogGap => clean(10 * MINUTE),
        FaultKind::OomKill | FaultKind::HungTask | FaultKind::Nic => Rule { reboot: true, ..clean(HOUR) },
        FaultKind::MachineCheck | FaultKind::Edac | FaultKind::BlockIo | FaultKind::Nvme | FaultKind::ReadOnly => {
            match action {
                Action::None | Action::RestartApp => Rule { reboot: true, ..clean(HOUR) },
                Action::ResetGpu | Action::Reboot | Action::Inspect => Rule { reboot: true, ..Rule::default() },
            }
        }
    }
}

/// Whether the fault is over, and why. What takes nothing out of use is over after an hour at the latest.
pub fn ended(fault: &Fault, since: &Since) -> Option<Ended> {
    let mut rule = rule(fault.kind, fault.action);
    if !takes_out_of_use(fault.verdict, fault.action) {
        rule = Rule { reboot: true, clean: rule.clean.or(Some(HOUR)), ..rule };
    }
    let long_enough = |time: Duration| since.clean.is_some_and(|clean| clean >= damped(time, since.flaps));
    let clean = rule.clean.is_some_and(long_enough);
    match () {
        () if rule.replaced && since.replaced => Some(Ended::Replaced),
        () if rule.reboot && since.rebooted => Some(Ended::Rebooted),
        () if rule.reset && since.reset => Some(Ended::Reset),
        () if clean => Some(Ended::Clean),
        () => None,
    }
}

/// Whether the settings have ended a fault: `modes` are those of the checks of its kind. What the driver's events or the
/// kernel have told as well is theirs, and ends by its rule.
pub fn no_longer_checked(fault: &Fault, modes: impl Iterator<Item = Mode>) -> Option<Ended> {
    let by_others = |line: &String| line.starts_with("NVML event") || line.contains("NVRM");
    if fault.evidence.iter().any(by_others) {
        return None;
    }
    let condemned = takes_out_of_use(fault.verdict, fault.action);
    // None has no checks at all.
    match modes.map(rank).max()? {
        0 => Some(Ended::NotLookedAt),
        1 if condemned => Some(Ended::NotEnforced),
        _ => None,
    }
}

const fn rank(mode: Mode) -> u8 {
    match mode {
        Mode::Off => 0,
        Mode::Observe => 1,
        Mode::Enforce => 2,
    }
}

/// The time that has to be clean after so many flaps: what comes and goes has to stay away longer each time, and at
/// least a minute once it has come back.
pub fn damped(time: Duration, flaps: u32) -> Duration {
    if flaps == 0 {
        return time;
    }
    (time.max(MINUTE) * 2_u32.pow(flaps.min(DOUBLINGS))).min(LONGEST.max(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::{FaultId, FaultState, Subject, Verdict};

    fn fault(kind: FaultKind, action: Action) -> Fault {
        Fault {
            id: FaultId(1),
            kind,
            code: None,
            node: None,
            subject: Subject::default(),
            pid: None,
            process: None,
            verdict: Verdict::Gpu,
            action,
            by_driver: false,
            reason: String::new(),
            count: 1,
            related: 0,
            first_seen: None,
            last_seen: None,
            first_seen_boot_us: None,
            last_seen_boot_us: None,
            state: FaultState::Active,
            evidence: Vec::new(),
            task: None,
            job: None,
        }
    }

    #[test]
    fn what_was_asked_for_ends_it_and_waiting_does_not() {
        let day = Since { clean: Some(24 * HOUR), ..Since::default() };
        let (reset, rebooted) =
            (Since { reset: true, ..Since::default() }, Since { rebooted: true, ..Since::default() });
        let replaced = Since { replaced: true, ..Since::default() };
        let xid = |action, since: &Since| ended(&fault(FaultKind::Xid, action), since);
        assert_eq!(xid(Action::ResetGpu, &day), None);
        assert_eq!(xid(Action::ResetGpu, &reset), Some(Ended::Reset));
        assert_eq!(xid(Action::ResetGpu, &rebooted), Some(Ended::Rebooted));
        assert_eq!((xid(Action::Reboot, &reset), xid(Action::Reboot, &rebooted)), (None, Some(Ended::Rebooted)));
        assert_eq!((xid(Action::Inspect, &rebooted), xid(Action::Inspect, &replaced)), (None, Some(Ended::Replaced)));
        assert_eq!(xid(Action::RestartApp, &day), Some(Ended::Clean));
        let state = fault(FaultKind::ResetRequired, Action::ResetGpu);
        let looked = Since { clean: Some(Duration::ZERO), ..Since::default() };
        assert_eq!((ended(&state, &Since::default()), ended(&state, &looked)), (None, Some(Ended::Clean)));
    }

    #[test]
    fn settings_end_what_only_checks_have_found() {
        use Mode::{Enforce, Observe, Off};
        let found = fault(FaultKind::RowRemap, Action::ResetGpu);
        let over = |fault: &Fault, modes: &[Mode]| no_longer_checked(fault, modes.iter().copied());
        assert_eq!(over(&found, &[Off, Off]), Some(Ended::NotLookedAt));
        assert_eq!(over(&found, &[Off, Observe]), Some(Ended::NotEnforced));
        assert_eq!((over(&found, &[Off, Enforce]), over(&found, &[])), (None, None));
        let noted = fault(FaultKind::Ecc, Action::RestartApp);
        assert_eq!((over(&noted, &[Observe]), over(&noted, &[Off])), (None, Some(Ended::NotLookedAt)));
        for line in
            ["NVML event of GPU 3: DramRetirementFailure", "NVRM: GPU 0000:9b:00.0: GPU has fallen off the bus."]
        {
            let told = Fault { evidence: vec![line.to_owned()], ..found.clone() };
            assert_eq!(over(&told, &[Off]), None);
        }
    }

    #[test]
    fn what_nobody_understands_is_over_after_an_hour() {
        let unknown = Fault { verdict: Verdict::Unknown, ..fault(FaultKind::Xid, Action::Inspect) };
        let clean = |time| ended(&unknown, &Since { clean: Some(time), ..Since::default() });
        assert_eq!((clean(59 * MINUTE), clean(HOUR)), (None, Some(Ended::Clean)));
        let rebooted = Since { rebooted: true, ..Since::default() };
        assert_eq!(ended(&unknown, &rebooted), Some(Ended::Rebooted));
        assert_eq!(ended(&fault(FaultKind::Aer, Action::Inspect), &rebooted), Some(Ended::Rebooted));
    }

    #[test]
    fn every_kind_ends_by_something_that_happens() {
        for kind in FaultKind::ALL {
            for action in Action::ALL {
                let rule = rule(*kind, *action);
                assert!(rule.reset || rule.reboot || rule.replaced || rule.clean.is_some(), "{kind} {action}");
                // What is used on meanwhile ends by itself.
                if *action <= Action::RestartApp && !matches!(kind, FaultKind::GpuLost) {
                    assert!(rule.clean.is_some(), "{kind} {action}");
                }
            }
        }
    }

    #[test]
    fn what_comes_and_goes_has_to_stay_away_longer() {
        let after = |clean, flaps| {
            ended(
                &fault(FaultKind::Thermal, Action::Inspect),
                &Since { clean: Some(clean), flaps, ..Since::default() },
            )
        };
        assert_eq!((after(10 * MINUTE, 0), after(9 * MINUTE, 0)), (Some(Ended::Clean), None));
        assert_eq!((after(20 * MINUTE, 1), after(19 * MINUTE, 1)), (Some(Ended::Clean), None));
        assert_eq!(damped(10 * MINUTE, 6), 640 * MINUTE);
        assert_eq!((damped(10 * MINUTE, 60), damped(HOUR, 60)), (640 * MINUTE, 24 * HOUR));
        assert_eq!((damped(Duration::ZERO, 0), damped(Duration::ZERO, 1)), (Duration::ZERO, 2 * MINUTE));
    }
}
