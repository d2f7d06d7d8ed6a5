//! Which observation is no fault of its own, but belongs to one that is open.

use crate::domain::fault::{Action, Fault, FaultKind, Part, Verdict};
use crate::health::observation::{Observation, Relation};

/// Of a GPU that is gone; nothing that it does afterwards is news.
const FALLEN_OFF: u32 = 79;
/// The driver says what has to be done.
const RECOVERY_ACTION: u32 = 154;
/// Causes whose consequences have codes of their own, on the same GPU. 48: the row is recorded (63) or not (64), programs
/// are stopped (94, 95), the kind of memory is told (171, 172). GSP: without its processor every call times out.
const CONSEQUENCES: [(u32, &[u32]); 8] = [
    (48, &[63, 64, 94, 95, 171, 172]),
    (94, &[63]),
    (95, &[63]),
    (171, &[48, 63, 64, 94, 95]),
    (172, &[48, 63, 64, 94, 95]),
    (119, &[120]),
    (120, &[119]),
    (31, &[43]),
];
/// Memory that could not be corrected, in whichever of the driver's words.
const LOST_DATA: [u32; 7] = [48, 63, 64, 94, 95, 171, 172];
/// What programs meet when anything else has gone wrong on their GPU.
const AFTERMATH: [u32; 2] = [43, 45];

/// Whether `later` belongs to `fault`, if it came soon enough.
pub fn belongs(fault: &Fault, address: Option<u64>, later: &Observation) -> bool {
    if fault.node != later.node {
        return false;
    }
    match later.relation {
        Relation::CausedBy(cause) => is_xid(fault, cause) && on_one_gpu(fault, later) && in_one_slice(fault, later),
        Relation::FollowUp | Relation::FollowUpOrOwn => continues(fault, later),
        Relation::ByCode => match (later.kind, later.code) {
            (FaultKind::Xid, Some(code)) => follows(fault, address, code, later),
            // The counters tell what the driver's message has told, some rounds later.
            (FaultKind::Ecc | FaultKind::SramEcc, _) if later.judgement.action <= Action::RestartApp => {
                is_of_lost_data(fault) && on_one_gpu(fault, later)
            }
            (FaultKind::GpuLost, _) => is_xid(fault, FALLEN_OFF) && on_one_gpu(fault, later),
            (FaultKind::RecoveryAction | FaultKind::ResetRequired, _) => waits(fault) && on_one_gpu(fault, later),
            _ => false,
        },
    }
}

/// What the driver says to belong to an Xid does so however late it comes.
pub fn for_ever(fault: &Fault, later: &Observation) -> bool {
    matches!(later.relation, Relation::CausedBy(cause) if is_xid(fault, cause))
}

/// The Xid of what was first seen without one.
pub fn takes_over(fault: &Fault, later: &Observation) -> bool {
    let code = later.code.filter(|_| later.kind == FaultKind::Xid);
    match fault.kind {
        FaultKind::GpuLost => code == Some(FALLEN_OFF),
        FaultKind::Ecc | FaultKind::SramEcc => code.is_some_and(|code| LOST_DATA.contains(&code)),
        _ => false,
    }
}

/// An Xid about data that was lost, or the same by the driver's other words.
fn is_of_lost_data(fault: &Fault) -> bool {
    match fault.kind {
        FaultKind::Xid => fault.code.is_some_and(|code| LOST_DATA.contains(&code)),
        _ => false,
    }
}

/// What was first heard of by its address alone turns out to be a GPU, whose errors mean something else.
pub fn is_now_a_gpu(fault: &Fault, later: &Observation) -> bool {
    let graver = later.judgement.action > Action::None || fault.action == Action::None;
    fault.kind == FaultKind::Aer && fault.subject.part == Part::Device && later.subject.part == Part::Gpu && graver
}

/// Lines that say more about something: of the same kind and code on the same part, of the same process, or of a GPU.
fn continues(fault: &Fault, later: &Observation) -> bool {
    match later.kind {
        FaultKind::Sxid => {
            fault.kind == FaultKind::Sxid && fault.code == later.code && fault.subject.device == later.subject.device
        }
        FaultKind::OomKill => fault.kind == FaultKind::OomKill && fault.pid == later.pid,
        FaultKind::Aer => fault.kind == FaultKind::Aer && fault.subject.is_on_same_device(&later.subject),
        // The driver names the GPU by a number that nobody else knows: it has just said what is wrong with it.
        FaultKind::ResetRequired if later.subject.pci.is_none() => waits(fault) && fault.takes_out_of_use(),
        _ => on_one_gpu(fault, later),
    }
}

fn follows(fault: &Fault, address: Option<u64>, code: u32, later: &Observation) -> bool {
    let lost = fault.kind == FaultKind::GpuLost || is_xid(fault, FALLEN_OFF);
    if takes_over(fault, later) && fault.action <= Action::RestartApp {
        return on_one_gpu(fault, later) && in_one_slice(fault, later);
    }
    if fault.kind != FaultKind::Xid && !lost || fault.code == Some(code) || !on_one_gpu(fault, later) {
        return false;
    }
    let other_row = matches!((address, later.address), (Some(ours), Some(theirs)) if ours != theirs);
    let consequence =
        || CONSEQUENCES.iter().any(|(cause, codes)| fault.code == Some(*cause) && codes.contains(&code));
    match code {
        _ if lost => true,
        RECOVERY_ACTION => waits(fault),
        _ if AFTERMATH.contains(&code) => !is_aftermath(fault) && in_one_slice(fault, later),
        _ => !other_row && consequence() && in_one_slice(fault, later),
    }
}

/// Whether the driver may have this fault in mind when it says what has to be done with the GPU: no program's mistake,
/// and not its own earlier word.
fn waits(fault: &Fault) -> bool {
    let of_gpu = matches!(fault.kind, FaultKind::Xid | FaultKind::GpuLost);
    of_gpu && fault.verdict != Verdict::Application && !is_aftermath(fault) && fault.code != Some(RECOVERY_ACTION)
}

fn is_aftermath(fault: &Fault) -> bool {
    fault.kind == FaultKind::Xid && fault.code.is_some_and(|code| AFTERMATH.contains(&code))
}

fn is_xid(fault: &Fault, code: u32) -> bool {
    fault.kind == FaultKind::Xid && fault.code == Some(code)
}

fn on_one_gpu(fault: &Fault, later: &Observation) -> bool {
    fault.kind != FaultKind::Sxid && fault.subject.is_on_same_device(&later.subject)
}

/// A program of one slice is not concerned by what another slice's did.
fn in_one_slice(fault: &Fault, later: &Observation) -> bool {
    let alike = |ours: Option<u32>, theirs: Option<u32>| ours.zip(theirs).is_none_or(|(ours, theirs)| ours == theirs);
    let (ours, theirs) = (&fault.subject, &later.subject);
    alike(ours.gpu_instance, theirs.gpu_instance) && alike(ours.compute_instance, theirs.compute_instance)
}
