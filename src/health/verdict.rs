//! Who is to blame, and what should be done: by the driver's own word first, by the table second.

use super::kernel_log::{
    AerSeverity, DiskTrouble, Event, Lockup, MachineCheckSeverity, NicTrouble, Sxid, SxidSeverity, Xid, XidDetail,
};
use super::table::{Row, Rule, Table};
use crate::domain::fault::{Action, Verdict};

/// What a fault was judged to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    pub action: Action,
    /// One sentence for a person.
    pub reason: String,
    /// The driver itself asks for the action: it replaces what a table says, upwards and downwards.
    pub by_driver: bool,
}

impl Judgement {
    pub fn new(verdict: Verdict, action: Action, reason: impl Into<String>) -> Self {
        Self { verdict, action, reason: reason.into(), by_driver: false }
    }
}

/// What the driver recommends for a GPU: NVML's `nvmlDeviceGpuRecoveryAction`, field 230 and the numbers of Xid 154.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryAction {
    None,
    Reset,
    Reboot,
    /// Stop what reads and writes between GPUs, then reset.
    DrainP2p,
    /// Let end what runs, then reset.
    DrainAndReset,
}

impl RecoveryAction {
    /// None for a number that no driver so far has given.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Reset),
            2 => Some(Self::Reboot),
            3 => Some(Self::DrainP2p),
            4 => Some(Self::DrainAndReset),
            _ => None,
        }
    }

    /// How to judge a GPU for which the driver asks this; nothing where it asks for nothing.
    pub fn judgement(self) -> Option<Judgement> {
        let (action, reason) = match self {
            Self::None => return None,
            Self::Reset => (Action::ResetGpu, "The driver asks for a reset of the GPU."),
            Self::Reboot => (Action::Reboot, "The driver asks for a reboot of the machine."),
            Self::DrainP2p => {
                (Action::ResetGpu, "The driver asks that programs which use several GPUs end, and for a reset then.")
            }
            Self::DrainAndReset => {
                (Action::ResetGpu, "The driver asks for a reset once what runs on the GPU has ended.")
            }
        };
        Some(Judgement { by_driver: true, ..Judgement::new(Verdict::Gpu, action, reason) })
    }
}

/// What a code that is in no table is taken for: reported, and nothing taken out of use.
fn unknown(what: &str, code: u32) -> Judgement {
    Judgement::new(Verdict::Unknown, Action::Inspect, format!("{what} {code} is in no table: a newer driver's."))
}

fn of_row(row: &Row) -> Judgement {
    Judgement::new(row.verdict, row.action, row.means.clone())
}

/// Judges an Xid; `driver` is what the driver recommends for the GPU right now, where that is known.
///
/// A standing recommendation replaces the table's advice for the GPU and its links. A program's own mistake stays one:
/// what the driver asks for then has another cause. That it asks for nothing means little, because it is asked before it
/// has made up its mind; then the table decides.
pub fn xid(xid: &Xid, table: &Table, driver: Option<RecoveryAction>) -> Judgement {
    let Some(row) = table.xid(xid.code) else { return unknown("Xid", xid.code) };
    let mut judgement = of_row(row);
    match (row.rule, &xid.detail) {
        (Some(Rule::Recovery), XidDetail::Recovery { to, .. }) => {
            return match RecoveryAction::from_number(*to) {
                Some(action) => action.judgement().unwrap_or(judgement),
                None => Judgement {
                    action: Action::Inspect,
                    reason: format!("The driver asks for recovery action {to}, which is not known."),
                    ..judgement
                },
            };
        }
        (Some(Rule::Containment), XidDetail::Containment { reset, drain_and_reset }) => {
            judgement.by_driver = true;
            judgement.action = if *reset || *drain_and_reset { Action::ResetGpu } else { Action::RestartApp };
        }
        (Some(Rule::Nvlink5), XidDetail::Nvlink5 { fatal: Some(true), .. }) => judgement.action = Action::ResetGpu,
        _ => {}
    }
    let concerned = matches!(judgement.verdict, Verdict::Gpu | Verdict::Link | Verdict::Unknown);
    match driver.and_then(RecoveryAction::judgement) {
        Some(asked) if concerned && row.rule != Some(Rule::Consequence) => Judgement {
            verdict: if judgement.verdict == Verdict::Unknown { Verdict::Gpu } else { judgement.verdict },
            action: asked.action,
            by_driver: true,
            reason: judgement.reason,
        },
        _ => judgement,
    }
}

/// Judges an SXid: as grave as the line says, else as the table says.
pub fn sxid(sxid: &Sxid, table: &Table) -> Judgement {
    let row = table.sxid(sxid.code);
    let verdict = match (row, sxid.link) {
        (Some(row), _) => row.verdict,
        (None, Some(_)) => Verdict::Link,
        (None, None) => Verdict::Fabric,
    };
    let means = row.map(|row| row.means.as_str()).unwrap_or("An error of the NVSwitch.");
    let said = |action, more: &str| Judgement::new(verdict, action, format!("{means} {more}"));
    match (row, sxid.severity) {
        (Some(row), _) if row.rule != Some(Rule::Severity) => of_row(row),
        // A reset of one GPU is not enough: all that are on the switch have to be reset together.
        (_, SxidSeverity::Fatal) => {
            said(Action::Reboot, "Fatal: every GPU on the switch has to be reset, as a reboot does.")
        }
        (_, SxidSeverity::NonFatal) => said(Action::None, "Not fatal: it was corrected, or one program has ended."),
        (Some(row), _) => of_row(row),
        (None, _) => unknown("SXid", sxid.code),
    }
}

/// Judges everything else that a kernel message can say; none for what is no observation about hardware.
pub fn other(event: &Event) -> Option<Judgement> {
    use Action::{Inspect, None as Nothing, Reboot, ResetGpu};
    use Verdict::{Application, Gpu, Link, Node, Unknown};
    let (verdict, action, reason) = match event {
        Event::FallenOff { .. } => (Gpu, Reboot, "The GPU does not answer on the PCI bus any more."),
        Event::ResetRequired => (Gpu, ResetGpu, "The driver refuses a GPU until it is reset."),
        // A program brought its own library: whether the machine's is wrong too, the driver's library knows.
        Event::DriverMismatch { .. } => (Unknown, Inspect, "A program uses another version of the driver's library."),
        Event::Aer { severity, driver, .. } => return Some(aer(*severity, driver.as_deref())),
        Event::AerUnrecovered { driver, .. } => return Some(aer(AerSeverity::NonFatal, Some(driver))),
        Event::Nic { trouble, .. } => match trouble {
            NicTrouble::Unplugged => (Link, Nothing, "A port has no cable or module."),
            NicTrouble::Cable => (Link, Nothing, "A cable or module of a network adapter is bad."),
            NicTrouble::Temperature => (Link, Nothing, "A cable or module of a network adapter is too hot."),
            NicTrouble::QueueTimeout => (Node, Nothing, "A queue of a network adapter hung and was restarted."),
            NicTrouble::CommandTimeout => {
                (Node, Nothing, "The firmware of a network adapter did not answer in time.")
            }
            NicTrouble::Unhealthy => (Node, Inspect, "A network adapter says that it is not well."),
            NicTrouble::Power => (Node, Nothing, "A network adapter gets too little power from its slot."),
            NicTrouble::RegisterAccess => return None,
        },
        Event::MachineCheck { severity: MachineCheckSeverity::Corrected } => {
            (Node, Nothing, "The processor corrected an error.")
        }
        Event::MachineCheck { severity: MachineCheckSeverity::Uncorrected } => {
            (Node, Inspect, "The processor met an error that it could not correct.")
        }
        Event::Edac { corrected: true, .. } => (Node, Nothing, "The host's memory corrected errors."),
        Event::Edac { corrected: false, .. } => {
            (Node, Inspect, "The host's memory had an error that it could not correct.")
        }
        Event::OomKill { limited: Some(true), .. } => (
            Application,
            Nothing,
            "A program reached the memory limit of its control group, and the kernel ended it.",
        ),
        Event::OomKill { .. } => (Node, Nothing, "The machine had no memory left, and the kernel ended a program."),
        Event::HungTask { lockup: Lockup::Task, .. } => {
            (Unknown, Nothing, "A process waits and cannot be interrupted.")
        }
        Event::HungTask { lockup: Lockup::Processor, .. } => {
            (Node, Nothing, "A processor did not leave the kernel for long.")
        }
        Event::ReadOnly { .. } => (Node, Inspect, "A file system met an error and takes no more writes."),
        Event::Nvme { gone: true, .. } => (Node, Inspect, "An NVMe disk is gone or does not come back."),
        Event::Nvme { gone: false, .. } => (Node, Nothing, "An NVMe disk did not answer in time."),
        Event::BlockIo { trouble, .. } => match trouble {
            DiskTrouble::Failed => (Node, Nothing, "A disk could not read or write."),
            DiskTrouble::Medium => (Node, Nothing, "A disk has lost data."),
            DiskTrouble::Gone => (Node, Inspect, "A disk takes no more reads and writes."),
        },
        Event::Xid(_)
        | Event::Sxid(_)
        | Event::Identity { .. }
        | Event::RateLimited { .. }
        | Event::Suppressed { .. } => return None,
    };
    Some(Judgement::new(verdict, action, reason))
}

/// How to judge what is only noted when it is seen once, if it keeps coming back; none for what stays a note.
pub fn repeated(event: &Event) -> Option<Judgement> {
    let (verdict, reason) = match event {
        Event::Nic { trouble, .. } => match trouble {
            NicTrouble::Cable => (Verdict::Link, "A cable or module of a network adapter is bad again and again."),
            NicTrouble::Temperature => (Verdict::Link, "A cable or module of a network adapter stays too hot."),
            NicTrouble::CommandTimeout => (Verdict::Node, "The firmware of a network adapter does not answer."),
            NicTrouble::Power => (Verdict::Node, "A network adapter goes on to get too little power from its slot."),
            NicTrouble::Unplugged | NicTrouble::QueueTimeout | NicTrouble::Unhealthy | NicTrouble::RegisterAccess => {
                return None;
            }
        },
        Event::Nvme { gone: false, .. } => (Verdict::Node, "An NVMe disk does not answer in time again and again."),
        Event::BlockIo { trouble: DiskTrouble::Medium, .. } => (Verdict::Node, "A disk loses data again and again."),
        _ => return None,
    };
    Some(Judgement::new(verdict, Action::Inspect, reason))
}

/// What a bus error means of a device that turns out to be a GPU, whoever told of it.
pub fn aer_of_a_gpu(judgement: Judgement) -> Judgement {
    match (judgement.verdict, judgement.action) {
        (Verdict::Gpu, _) => judgement,
        (_, Action::Inspect) => aer(AerSeverity::Fatal, Some("nvidia")),
        _ => Judgement { verdict: Verdict::Gpu, ..judgement },
    }
}

/// The `nvidia` driver has no handlers for bus errors: after a fatal one the GPU is lost until a reboot. What was
/// corrected, or concerned one transfer, has an Xid as well if it did harm.
fn aer(severity: AerSeverity, driver: Option<&str>) -> Judgement {
    let gpu = driver == Some("nvidia");
    let verdict = if gpu { Verdict::Gpu } else { Verdict::Node };
    let (action, reason) = match severity {
        AerSeverity::Corrected => (Action::None, "The PCI bus corrected an error."),
        AerSeverity::NonFatal => (Action::None, "A transfer over the PCI bus failed."),
        AerSeverity::Fatal if gpu => (Action::Reboot, "The PCI link of a GPU failed."),
        AerSeverity::Fatal => (Action::Inspect, "The PCI link of a device failed."),
    };
    Judgement::new(verdict, action, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(code: u32, detail: XidDetail, driver: Option<RecoveryAction>) -> (Verdict, Action) {
        let judgement = xid(&Xid { code, detail, ..Xid::default() }, Table::builtin(), driver);
        (judgement.verdict, judgement.action)
    }

    #[test]
    fn lines_decide_where_codes_do_not() {
        use XidDetail::{Containment, Nvlink5, Recovery};
        let nvlink5 = |fatal| Nvlink5 { unit: "X".into(), fatal, link: None, status: vec![] };
        let flags = |reset, drain_and_reset| Containment { reset, drain_and_reset };
        let to = |to| Recovery { from: None, to };
        for (code, detail, expected) in [
            (94, XidDetail::None, (Verdict::Gpu, Action::RestartApp)),
            (94, flags(false, false), (Verdict::Gpu, Action::RestartApp)),
            (94, flags(false, true), (Verdict::Gpu, Action::ResetGpu)),
            (95, XidDetail::None, (Verdict::Gpu, Action::ResetGpu)),
            (95, flags(true, false), (Verdict::Gpu, Action::ResetGpu)),
            (95, flags(false, false), (Verdict::Gpu, Action::RestartApp)),
            (149, nvlink5(Some(true)), (Verdict::Link, Action::ResetGpu)),
            (149, nvlink5(Some(false)), (Verdict::Link, Action::None)),
            (149, nvlink5(None), (Verdict::Link, Action::None)),
            (154, to(0), (Verdict::Gpu, Action::None)),
            (154, to(1), (Verdict::Gpu, Action::ResetGpu)),
            (154, to(2), (Verdict::Gpu, Action::Reboot)),
            (154, to(4), (Verdict::Gpu, Action::ResetGpu)),
            (154, to(9), (Verdict::Gpu, Action::Inspect)),
            (13, XidDetail::None, (Verdict::Application, Action::RestartApp)),
            (45, XidDetail::None, (Verdict::Unknown, Action::None)),
            (999, XidDetail::None, (Verdict::Unknown, Action::Inspect)),
        ] {
            assert_eq!(judged(code, detail.clone(), None), expected, "{code} {detail:?}");
        }
    }

    #[test]
    fn the_drivers_word_comes_first_for_hardware_and_not_for_programs() {
        use RecoveryAction::{None as Nothing, Reboot, Reset};
        let none = || XidDetail::None;
        assert_eq!(judged(119, none(), Some(Reboot)), (Verdict::Gpu, Action::Reboot));
        assert_eq!(judged(79, none(), Some(Reset)), (Verdict::Gpu, Action::ResetGpu));
        assert_eq!(judged(51, none(), Some(Reset)), (Verdict::Gpu, Action::ResetGpu));
        assert_eq!(judged(119, none(), Some(Nothing)), (Verdict::Gpu, Action::ResetGpu));
        assert_eq!(judged(13, none(), Some(Reboot)), (Verdict::Application, Action::RestartApp));
        assert_eq!(judged(45, none(), Some(Reboot)), (Verdict::Unknown, Action::None));
    }

    #[test]
    fn a_bus_error_of_a_gpu_is_the_gpus_whoever_tells_of_it() {
        for severity in [AerSeverity::Corrected, AerSeverity::NonFatal, AerSeverity::Fatal] {
            let (by_port, by_driver) = (aer(severity, Some("pcieport")), aer(severity, Some("nvidia")));
            assert_eq!((by_port.verdict, aer_of_a_gpu(by_port)), (Verdict::Node, by_driver.clone()));
            assert_eq!(aer_of_a_gpu(by_driver.clone()), by_driver);
        }
    }

    #[test]
    fn switches_are_as_sick_as_their_lines_say() {
        let judged = |code, severity, link| {
            let judgement = sxid(&Sxid { switch: "s".into(), pci: None, code, link, severity }, Table::builtin());
            (judgement.verdict, judgement.action)
        };
        assert_eq!(judged(20034, SxidSeverity::Fatal, Some(30)), (Verdict::Link, Action::Reboot));
        assert_eq!(judged(22013, SxidSeverity::NonFatal, Some(60)), (Verdict::Link, Action::None));
        assert_eq!(judged(26008, SxidSeverity::Unsaid, None), (Verdict::Fabric, Action::Reboot));
        assert_eq!(judged(99998, SxidSeverity::Fatal, None), (Verdict::Fabric, Action::Reboot));
        let ours = Table::builtin().overridden("[sxid]\n20034 = { action = \"inspect\" }").unwrap();
        let line =
            Sxid { switch: "s".into(), pci: None, code: 20034, link: Some(1), severity: SxidSeverity::NonFatal };
        assert_eq!(sxid(&line, &ours).action, Action::Inspect);
        assert_eq!(judged(99998, SxidSeverity::Unsaid, None), (Verdict::Unknown, Action::Inspect));
    }
}
