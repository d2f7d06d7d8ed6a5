//! When faults are over: looked at again and again, by the rules of `health::clearing`.
//!
//! A kind that a check looks for ends by what that check sees, as long as it really looks; what is known from messages
//! alone ends by their staying away while somebody listens. What only a reset ends is found to be over by
//! `health::resets`, or by the driver's own word.

use super::super::actor::Actor;
use super::super::health::{Looked, LookedAt};
use super::super::journal;
use super::kept::KeptWorked;
use crate::domain::fault::{Action, Fault, FaultId, FaultKind, FaultState, Part};
use crate::domain::host::DeviceUser;
use crate::domain::ids::{GpuUuid, TaskId};
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::health::checks::{Check, Found, Worked};
use crate::health::clearing::{Ended, Since, ended, no_longer_checked};
use crate::health::history::escalated;
use crate::health::resets::Reset;
use crate::health::{Change, ENDED, Observation, verdict};
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::info;

/// What was only reported and is not looked at any more is forgotten after it.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// Nodes that every program with a GPU opens beside the GPU's own.
const SHARED_NODES: [&str; 2] = ["nvidiactl", "nvidia-uvm"];
/// Far more than the links and ports of a machine take; the journal's values have a limit.
const MOST_WORKED_BYTES: usize = 128 * 1024;
/// Exceptions of programs.
const EXCEPTIONS: [u32; 2] = [13, 31];

/// How long a check has found a fault's part in order. Rounds that could not look neither count nor begin it anew: a link
/// that is judged under load idles in between.
#[derive(Debug, Clone, Copy)]
pub struct Clean {
    /// The fault as it was then: seen since, it begins anew.
    last_seen: Option<Timestamp>,
    /// In all, by the clock that nobody sets.
    time: Duration,
    /// The last round, where that has found it in order.
    at: Option<Duration>,
}

/// What happened to the machine at once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Happened<'a> {
    pub rebooted: bool,
    pub resets: &'a [Reset],
}

impl Actor {
    /// What a round of looking is to know.
    pub(in crate::agent) fn looked_at(&mut self) -> LookedAt {
        let busy = self.ledger.held().flat_map(|(_, held)| held.claim.gpus.clone()).collect();
        let used =
            |(gpu, sample): (&GpuUuid, &crate::domain::gpu::GpuSample)| Some((gpu.clone(), sample.utilization?));
        LookedAt {
            known: self.inventory.gpus.clone(),
            busy,
            utilization: self.samples.iter().filter_map(used).collect(),
            device_users: self.device_users(),
            worked: self.fault_book.worked.clone(),
            said_over: std::mem::take(&mut self.fault_book.said_over),
        }
    }

    /// Tasks that run with GPUs, and the device nodes that they were promised.
    fn device_users(&self) -> Vec<DeviceUser> {
        let minor = |uuid: &GpuUuid| {
            let gpu = self.inventory.gpus.iter().find(|gpu| gpu.uuid == *uuid)?;
            let device = gpu.mig_parent.as_ref();
            let device = device.and_then(|of| self.inventory.gpus.iter().find(|gpu| gpu.uuid == *of));
            Some(device.unwrap_or(gpu).minor)
        };
        let user = |(id, entry): (&TaskId, &super::super::entry::Entry)| {
            let record = &entry.record;
            let gpus = record.spec.as_ref().filter(|_| record.state == TaskState::Running)?.gpus.as_slice();
            let pid = self.executor.runtime.process_of(*id).filter(|_| !gpus.is_empty())?;
            let own: BTreeSet<String> = gpus.iter().filter_map(minor).map(|minor| format!("nvidia{minor}")).collect();
            let nodes = own.into_iter().chain(SHARED_NODES.map(str::to_owned)).collect();
            Some(DeviceUser { task: *id, pid, nodes })
        };
        self.entries.iter().filter_map(user).collect()
    }

    /// Takes over what a round has found in order.
    pub(super) fn looked(&mut self, looked: &Looked) -> Vec<Change> {
        self.note_clean(&looked.found, looked.begun);
        let resets = self.fault_book.resets.look(&looked.gpus, looked.begun);
        for Reset { gpu, evidence, .. } in &resets {
            info!(node = %self.facts.name, %gpu, evidence, "a GPU was reset, or its driver loaded anew");
        }
        self.ended_faults(Happened { resets: &resets, ..Happened::default() })
    }

    /// Ends what is over by now.
    pub(in crate::agent) fn look_at_faults(&mut self) {
        let changes = self.ended_faults(Happened::default());
        self.changed(changes);
    }

    pub(super) fn ended_faults(&mut self, happened: Happened<'_>) -> Vec<Change> {
        let now = self.clock.now();
        let over = |fault: &Fault| {
            let since = Since {
                rebooted: happened.rebooted,
                reset: happened.resets.iter().any(|reset| is_of_before(fault, reset)),
                replaced: self.is_replaced(fault),
                clean: self.clean_for(fault, now),
                flaps: self.fault_book.past.flaps(fault, now),
            };
            Some((fault.id, ended(fault, &since)?))
        };
        let active = self.fault_book.faults.iter().filter(|fault| fault.state == FaultState::Active);
        let over: Vec<(FaultId, Ended)> = active.filter_map(over).collect();
        let mut changes = Vec::new();
        for (id, why) in over {
            info!(node = %self.facts.name, fault = id.0, why = why.as_str(), "a fault has ended");
            if let Some(fault) = self.fault_book.faults.get(id) {
                match why {
                    Ended::Reset | Ended::Rebooted => self.fault_book.past.recovered(fault, now),
                    Ended::Clean => self.fault_book.past.ended_clean(fault, now),
                    Ended::Replaced | Ended::NotLookedAt | Ended::NotEnforced => {}
                }
            }
            changes.extend(self.fault_book.faults.clear(id));
        }
        changes
    }

    /// At the start: settings may have been changed since. What no check enforces any more is found anew, where one
    /// still looks, and condemns nothing then.
    pub(super) fn end_what_is_off(&mut self) -> Vec<Change> {
        let modes = &self.self_checks.modes;
        let over = |fault: &Fault| {
            let checks = Check::ALL.iter().filter(|check| check.kind() == fault.kind);
            Some((fault.id, no_longer_checked(fault, checks.map(|check| modes.of(*check)))?))
        };
        let active = self.fault_book.faults.iter().filter(|fault| fault.state == FaultState::Active);
        let over: Vec<(FaultId, Ended)> = active.filter_map(over).collect();
        let mut changes = Vec::new();
        for (id, why) in over {
            info!(node = %self.facts.name, fault = id.0, why = why.as_str(), "a fault has ended");
            self.fault_book.faults.note(id, &format!("{ENDED}{}", why.as_str()));
            changes.extend(self.fault_book.faults.clear(id));
        }
        changes
    }

    /// What has happened before decides too.
    pub(super) fn weigh(&mut self, observation: &mut Observation) {
        let now = self.clock.now();
        if observation.kind == FaultKind::Aer && observation.subject.part == Part::Gpu {
            observation.judgement = verdict::aer_of_a_gpu(observation.judgement.clone());
        }
        let Some(gpu) = observation.subject.gpu.clone() else { return };
        let exception = observation.code.is_some_and(|code| EXCEPTIONS.contains(&code));
        if let Some(engine) = observation.engine.filter(|_| exception && observation.kind == FaultKind::Xid)
            && let Some(program) = self.program_of(observation)
            && let Some(suspicion) = self.fault_book.exceptions.note(&gpu.0, engine, &program, now)
        {
            observation.judgement = suspicion;
        }
        let recoveries = self.fault_book.past.recoveries_of(&gpu);
        let judgement = observation.judgement.clone();
        observation.judgement = escalated(judgement, observation.kind, observation.code, &recoveries, now);
    }

    /// All that one user runs counts as one program: nobody can tell a new program from an old one with another name.
    fn program_of(&self, observation: &Observation) -> Option<String> {
        Some(self.entries.get(&observation.task?)?.record.spec.as_ref()?.user.clone())
    }

    /// A round says nothing about what was seen after it had begun.
    fn note_clean(&mut self, found: &Found, begun: Timestamp) {
        let now = self.clock.boottime();
        let mut before = std::mem::take(&mut self.fault_book.clean);
        for fault in self.fault_book.faults.iter().filter(|fault| fault.state == FaultState::Active) {
            let since = fault.last_seen.is_some_and(|seen| seen > begun);
            let before = before.remove(&fault.id).filter(|before| before.last_seen == fault.last_seen);
            let is_clean = !since && found.is_clean(fault.kind, &fault.subject);
            let begins = is_clean.then_some(Clean { last_seen: fault.last_seen, time: Duration::ZERO, at: None });
            if let Some(Clean { time, at, .. }) = before.or(begins) {
                let more = at.filter(|_| is_clean).map_or(Duration::ZERO, |at| now.saturating_sub(at));
                let clean = Clean { last_seen: fault.last_seen, time: time + more, at: is_clean.then_some(now) };
                self.fault_book.clean.insert(fault.id, clean);
            }
        }
    }

    /// A restart of this process is to miss what has worked, too.
    pub(super) fn keep_worked(&mut self, worked: Worked) {
        let book = &mut self.fault_book;
        if book.worked == worked {
            return;
        }
        book.worked = worked.clone();
        let value = serde_json::to_vec(&KeptWorked { boot_id: book.boot_id.clone(), worked }).unwrap_or_default();
        if value.len() <= MOST_WORKED_BYTES {
            self.writer.put_key(journal::WORKED.to_owned(), value);
        }
    }

    /// The marks of GPUs that wait for a reset outlive this process: it may be ended for the reset. Their time alone is
    /// written where the journal's would take a fault for younger than them.
    pub(super) fn keep_marks(&mut self) {
        let book = &self.fault_book;
        let waits = |fault: &&Fault| fault.takes_out_of_use() && fault.action == Action::ResetGpu;
        let waiting =
            || book.faults.iter().filter(waits).filter_map(|fault| Some((fault.id, fault.subject.gpu.as_ref()?)));
        let kept = book.resets.of(waiting().map(|(_, gpu)| gpu));
        let too_old = |(id, gpu): (FaultId, &GpuUuid)| {
            let seen = book.written.get(&id).and_then(|written| written.last_seen);
            book.kept_resets.time_of(gpu) < seen && seen <= kept.time_of(gpu)
        };
        if !kept.is_like(&book.kept_resets) || waiting().any(too_old) {
            self.writer.put_key(journal::RESETS.to_owned(), serde_json::to_vec(&kept).unwrap_or_default());
            self.fault_book.kept_resets = kept;
        }
    }

    /// Another device is in its place.
    fn is_replaced(&self, fault: &Fault) -> bool {
        let (Some(pci), Some(was)) = (fault.subject.pci, &fault.subject.gpu) else { return false };
        let shown = &self.gpu_book.found.present;
        // Boards that were swapped, or numbers of the bus that moved, replace nothing.
        if shown.contains(was) {
            return false;
        }
        let mut here = self.inventory.gpus.iter().filter(|gpu| gpu.mig_parent.is_none() && shown.contains(&gpu.uuid));
        here.any(|gpu| gpu.pci.parse() == Ok(pci) && gpu.uuid != *was && !gpu.uuid.is_placeholder())
    }

    /// How long it was not seen while its check looked, or somebody listened; none where nobody can say.
    fn clean_for(&self, fault: &Fault, now: Timestamp) -> Option<Duration> {
        let checked = self.fault_book.clean.get(&fault.id).filter(|clean| clean.last_seen == fault.last_seen);
        let checked = checked.map(|clean| clean.time);
        let silent = || {
            let listening = self.fault_book.listening_since?;
            Some(fault.last_seen.map_or(Duration::ZERO, |seen| now.since(seen.max(listening))))
        };
        match (has_check(fault.kind), fault.takes_out_of_use()) {
            (false, _) => silent(),
            (true, true) => checked,
            // What takes nothing out of use may also be forgotten.
            (true, false) => checked.max(silent().filter(|silent| *silent >= FORGOTTEN)),
        }
    }
}

/// Somebody looks whether it is still true.
fn has_check(kind: FaultKind) -> bool {
    Check::ALL.iter().any(|check| check.kind() == kind && check.is_of_rounds())
}

/// The fault is one of before the reset: seen at the look before at the latest. Where it was seen since then, only the
/// driver's own word says that it needs nothing more.
fn is_of_before(fault: &Fault, reset: &Reset) -> bool {
    let earlier = fault.last_seen.zip(reset.after).is_some_and(|(seen, after)| seen <= after);
    fault.subject.gpu.as_ref() == Some(&reset.gpu) && (earlier || reset.is_content)
}
