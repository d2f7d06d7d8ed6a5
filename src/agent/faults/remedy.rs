//! What this node does by itself about a fault, where that is configured: once per fault, never while a task holds the
//! GPU, and written down before it begins, so that a restart of the agent does not do it again. What takes the whole node
//! out waits for a permit: see [`super::permit`].

use super::super::actor::Actor;
use super::super::journal;
use super::super::message::Inside;
use super::permit::Permits;
use crate::domain::fault::{Action, Fault, FaultId, FaultState};
use crate::domain::ids::GpuUuid;
use crate::domain::remediation::Remediation;
use crate::domain::time::Timestamp;
use crate::gpu::{GpuError, GpuSource};
use crate::health::{NOT_REMEDIED, REMEDIATION};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tracing::{info, warn};

/// For a reset or a command; a fabric of GPUs takes minutes to come back.
const DEADLINE: Duration = Duration::from_secs(600);
/// Of what a command prints, the end is kept.
const KEPT_BYTES: usize = 300;
/// Between two tries to ask the GPUs again.
const TAKE_UP_AGAIN: Duration = Duration::from_secs(2);
/// Why the GPU is given to nobody meanwhile.
const UNDER_REMEDY: &str = "a fault of it is being remedied";
/// Before that is given up.
const MOST_TRIES: u32 = 30;

/// What was done about a fault, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedied {
    pub at: Timestamp,
    /// None: it had begun when this was written.
    pub outcome: Option<String>,
    /// It was to take the node out and may have seen to that: when its part in it was over.
    #[serde(default)]
    pub out_since: Option<Timestamp>,
}

/// Why nothing, or not all, was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No program has run.
    NotBegun(String),
    /// What it has done before nobody knows.
    Failed(String),
}

/// The value of `meta/remedies`.
pub type Done = BTreeMap<FaultId, Remedied>;

/// What is done, and what was.
#[derive(Debug, Default)]
pub struct Remedies {
    policy: Remediation,
    pub(super) done: Done,
    /// One at a time.
    pub(super) current: Option<Current>,
    pub(super) permit: Permits,
}

#[derive(Debug, Clone)]
pub(super) struct Current {
    pub fault: FaultId,
    /// None: the node's own.
    gpu: Option<GpuUuid>,
    /// The whole machine.
    pub takes_node: bool,
    begun: bool,
}

impl Remedies {
    /// Something is being done right now.
    pub const fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    pub fn new(policy: Remediation, done: Done) -> Self {
        Self { policy, done, current: None, permit: Permits::default() }
    }
}

impl Actor {
    /// Begins with the first fault that something is to be done about, once the journal has that.
    pub(in crate::agent) fn consider_remedies(&mut self) {
        if self.remedies.policy == Remediation::None || self.remedies.is_busy() || self.self_checks.for_operator {
            return;
        }
        let may = |fault: &&Fault| !self.needs_permit(fault) || self.remedies.permit.is_for(fault.id);
        let Some(fault) = self.due_remedies().find(may) else { return };
        let (id, gpu, takes_node) = (fault.id, fault.subject.gpu.clone(), takes_node(fault));
        let known = |id: &FaultId| self.fault_book.faults.get(*id).is_some();
        self.remedies.done.retain(|id, _| known(id));
        self.remedies.done.insert(id, Remedied { at: self.clock.now(), outcome: None, out_since: None });
        self.remedies.current = Some(Current { fault: id, gpu, takes_node, begun: false });
        self.hold_for_remedy();
        self.keep_remedies();
    }

    /// Faults that something may be done about right now, the oldest first.
    fn due_remedies(&self) -> impl Iterator<Item = &Fault> {
        self.wanted_remedies().filter(|fault| self.is_let_be(fault))
    }

    /// The same with those that tasks are in the way of.
    pub(super) fn wanted_remedies(&self) -> impl Iterator<Item = &Fault> {
        let wanted = |fault: &&Fault| {
            let new = !self.remedies.done.contains_key(&fault.id);
            let whose = fault.subject.gpu.is_some() || fault.withdraws_node() && self.remedies.policy.is_for_nodes();
            new && whose && fault.takes_out_of_use() && self.remedies.policy.is_for(fault.action)
        };
        self.fault_book.faults.iter().filter(wanted)
    }

    /// What a remedy works on is given to nobody, whatever becomes of its conditions meanwhile.
    pub(in crate::agent) fn hold_for_remedy(&mut self) {
        for device in self.under_remedy() {
            self.ledger.mark_unavailable(&device, UNDER_REMEDY.to_owned());
        }
    }

    /// A GPU and its slices; of a machine that is about to be booted, all.
    fn under_remedy(&self) -> Vec<GpuUuid> {
        match &self.remedies.current {
            None => Vec::new(),
            Some(Current { gpu: Some(gpu), takes_node: false, .. }) => self.with_slices(std::slice::from_ref(gpu)),
            Some(_) => self.inventory.gpus.iter().map(|gpu| gpu.uuid.clone()).collect(),
        }
    }

    /// Nothing of a task's is in the way: not on the GPU, and for a reboot not on the node.
    fn is_let_be(&self, fault: &Fault) -> bool {
        match &fault.subject.gpu {
            Some(gpu) if !takes_node(fault) => self.holders(gpu, None, None).is_empty(),
            _ => self.ledger.held().next().is_none(),
        }
    }

    fn keep_remedies(&mut self) {
        let value = serde_json::to_vec(&self.remedies.done).unwrap_or_default();
        self.writer.put_key(journal::REMEDIES.to_owned(), value);
    }

    /// A write is durable: what waited for it begins.
    pub(in crate::agent) fn remedies_written(&mut self) {
        let waits = |current: &&mut Current| !current.begun;
        let Some(current) = self.remedies.current.as_mut().filter(waits) else { return };
        if self.writer.waits_for_key(journal::REMEDIES) {
            return;
        }
        current.begun = true;
        let Current { fault: id, gpu, .. } = current.clone();
        let lasts = |fault: &&Fault| fault.state == FaultState::Active;
        let Some(fault) = self.fault_book.faults.get(id).filter(lasts).cloned() else {
            return self.remedied(id, Err(Failure::NotBegun("the fault was over before it began".to_owned())));
        };
        let (executor, policy) = (self.executor.clone(), self.remedies.policy.clone());
        let of = gpu.as_ref().map(ToString::to_string);
        warn!(node = %self.facts.name, fault = id.0, gpu = of, remediation = policy.name(), "remedying a fault");
        self.executor.tracker.spawn(async move {
            let remedy = apply(&executor.gate.source, &policy, &fault, gpu.as_ref());
            let Some(outcome) = executor.cancel.run_until_cancelled(remedy).await else { return };
            let _ = executor.inside.send(Inside::Remedied { fault: id, outcome }).await;
        });
    }

    /// What came of it. The fault ends by its own rules: when a reset is seen, or an operator says so.
    pub(in crate::agent) fn remedied(&mut self, id: FaultId, outcome: Result<String, Failure>) {
        let held = self.under_remedy();
        let Some(current) = self.remedies.current.take_if(|current| current.fault == id) else { return };
        // A program may have seen to the boot before it failed, or was killed by it.
        if current.takes_node && !matches!(outcome, Err(Failure::NotBegun(_))) {
            self.goes_out(id);
        }
        let (node, remediation) = (&self.facts.name, self.remedies.policy.name().to_owned());
        let sentence = match outcome {
            Ok(said) => {
                info!(%node, fault = id.0, remediation, said, "a fault was remedied");
                format!("{REMEDIATION}{remediation}: done{said}")
            }
            Err(Failure::NotBegun(why) | Failure::Failed(why)) => {
                warn!(%node, fault = id.0, remediation, why, "a fault could not be remedied; it is not tried again");
                format!("{REMEDIATION}{remediation}: failed: {why}")
            }
        };
        self.tell_remedied(id, sentence);
        for device in &held {
            self.ledger.mark_available(device);
        }
        self.judge_gpus();
        self.look_at_gpus_now();
        self.consider_remedies();
        // Others may wait for its permit.
        self.hint.send_modify(|hint| hint.faults += 1);
    }

    fn tell_remedied(&mut self, id: FaultId, sentence: String) {
        let change = self.fault_book.faults.note_instead(id, NOT_REMEDIED, &sentence);
        if let Some(done) = self.remedies.done.get_mut(&id) {
            done.outcome = Some(sentence);
        }
        self.keep_remedies();
        self.changed(change.into_iter().collect());
    }

    /// At the start: what was going on when the agent ended is not done again.
    pub(in crate::agent) fn take_up_remedies(&mut self) {
        let cut_off = |(id, done): (&FaultId, &Remedied)| done.outcome.is_none().then_some(*id);
        let cut_off: Vec<FaultId> = self.remedies.done.iter().filter_map(cut_off).collect();
        for id in cut_off {
            warn!(node = %self.facts.name, fault = id.0, "the agent ended while a fault was being remedied; it is not tried again");
            if self.fault_book.faults.get(id).is_some_and(takes_node) {
                self.goes_out(id);
            }
            self.tell_remedied(id, format!("{REMEDIATION}cut off: the agent ended meanwhile; it is not tried again"));
        }
    }
}

/// What is done about it takes the node out: a boot, or whatever an operator's command does about the node's own fault.
pub(super) fn takes_node(fault: &Fault) -> bool {
    fault.action == Action::Reboot || fault.subject.gpu.is_none()
}

async fn apply(
    source: &Arc<dyn GpuSource>,
    policy: &Remediation,
    fault: &Fault,
    gpu: Option<&GpuUuid>,
) -> Result<String, Failure> {
    let resets = fault.action == Action::ResetGpu && gpu.is_some();
    let not_begun = |why: String| Err(Failure::NotBegun(why));
    // A handle that is open stands in the way of a reset.
    let let_go = if resets { source.let_go().await } else { Ok(()) };
    let done = match policy {
        _ if let_go.is_err() => not_begun(let_go.err().map_or_else(String::new, |error| error.to_string())),
        Remediation::None => Ok(String::new()),
        Remediation::ResetGpu => match gpu {
            Some(gpu) => run(&["nvidia-smi", "--gpu-reset", "-i", &gpu.0], None).await,
            None => not_begun("it is no GPU's".to_owned()),
        },
        Remediation::Command(words) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let mut line = serde_json::to_vec(fault).unwrap_or_default();
            line.push(b'\n');
            run(&words, Some(line)).await
        }
    };
    // However it ended: a node that asks no more has no GPUs.
    let asked = if resets { take_up(source).await } else { Ok(()) };
    match (done, asked) {
        (done, Ok(())) => done,
        (Ok(said), Err(error)) => {
            Err(Failure::Failed(format!("done{said}, but the GPUs are asked no more: {error}")))
        }
        (Err(Failure::NotBegun(why)), Err(error)) => {
            not_begun(format!("{why}; and the GPUs are asked no more: {error}"))
        }
        (Err(Failure::Failed(why)), Err(error)) => {
            Err(Failure::Failed(format!("{why}; and the GPUs are asked no more: {error}")))
        }
    }
}

/// Tries again for a while: who has to answer may be busy.
async fn take_up(source: &Arc<dyn GpuSource>) -> Result<(), GpuError> {
    let mut tries = 1;
    loop {
        match source.take_up().await {
            Err(error) if tries < MOST_TRIES => warn!(%error, tries, "asking the GPUs again"),
            end => return end,
        }
        tries += 1;
        tokio::time::sleep(TAKE_UP_AGAIN).await;
    }
}

/// Runs a program to its end or deadline; what it printed last.
async fn run(words: &[&str], input: Option<Vec<u8>>) -> Result<String, Failure> {
    let not_begun = |why: String| Failure::NotBegun(why);
    let Some((program, arguments)) = words.split_first() else {
        return Err(not_begun("there is no program".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(arguments).process_group(0).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| not_begun(format!("starting {program}: {error}")))?;
    let group = child.id();
    match tokio::time::timeout(DEADLINE, talk(&mut child, input)).await {
        Ok((ended, said)) => {
            let said = if said.is_empty() { said } else { format!(": {said}") };
            match ended {
                Ok(status) if status.success() => Ok(said),
                Ok(status) => Err(Failure::Failed(format!("{status}{said}"))),
                Err(error) => Err(Failure::Failed(format!("waiting for {program}: {error}"))),
            }
        }
        Err(_) => {
            end_group(group);
            Err(Failure::Failed(format!("not done after {} s, and ended", DEADLINE.as_secs())))
        }
    }
}

/// A program that takes no input, or prints without end, holds nothing up.
async fn talk(child: &mut Child, input: Option<Vec<u8>>) -> (std::io::Result<std::process::ExitStatus>, String) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // It may not want to know.
            let _ = stdin.write_all(&input).await;
        }
    };
    let ((), out, err, ended) = tokio::join!(tell, last_words(stdout), last_words(stderr), child.wait());
    let said = [out, err].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    (ended, said)
}

/// The end of what comes, on one line.
async fn last_words(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..length]);
        let before = kept.len().saturating_sub(KEPT_BYTES);
        kept.drain(..before);
    }
    String::from_utf8_lossy(&kept).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn end_group(group: Option<u32>) {
    let group = group.and_then(|group| i32::try_from(group).ok());
    if let Some(group) = group.map(nix::unistd::Pid::from_raw) {
        // What is gone already needs no end.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_the_line_and_its_last_words_are_kept() {
        let said = run(&["/bin/sh", "-c", "read line; echo \"got $line\""], Some(b"{\"id\":7}\n".to_vec())).await;
        assert_eq!(said, Ok(": got {\"id\":7}".to_owned()));
        let long = run(&["/bin/sh", "-c", "yes | head -c 1000000; echo end; echo why >&2; exit 3"], None).await;
        let Err(Failure::Failed(why)) = long else { panic!("{long:?}") };
        assert!(why.contains("status: 3") && why.contains("y end; why") && why.len() < 2 * KEPT_BYTES, "{why}");
        let Err(Failure::NotBegun(why)) = run(&["/nowhere/at/all"], None).await else { panic!("it is not there") };
        assert!(why.contains("starting /nowhere/at/all"), "{why}");
        assert!(matches!(run(&[], None).await, Err(Failure::NotBegun(_))));
    }
}
