//! Which waiting jobs could never run, kept up to date as nodes come and change.
//!
//! A job is judged when it is submitted. When what the nodes have changes, all that wait are judged again, some with
//! every tick: like requests share a verdict, and one empty cluster serves them all, so neither ten thousand nodes nor
//! a hundred thousand jobs make anybody wait. Jobs without hope take no part in passes: they would only be in the way of
//! those that can run.

use super::explain::cut;
use super::schedule;
use super::state::{QueueKey, State};
use crate::domain::spec::JobSpec;
use crate::domain::view::ExplainedReason;
use crate::scheduler::{EmptyCluster, Feasibility, Policy, Request};
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

/// Verdicts that are kept.
const REMEMBERED: usize = 1024;
/// Waiting runs looked at with one tick.
const AT_ONCE: usize = 512;
/// Nodes looked at with one tick, about: what a verdict costs grows with them.
const NODES_AT_ONCE: usize = 50_000;

/// Why a job may wait for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubt {
    /// One sentence.
    pub(super) why: String,
    /// Without hope until nodes or limits change.
    pub(super) never: bool,
}

impl Doubt {
    pub(super) fn warning(&self) -> String {
        format!("{}; it will wait", self.why)
    }
}

#[derive(Debug, Default)]
pub(super) struct Possible {
    /// None when the nodes have changed.
    empty: Option<EmptyCluster>,
    verdicts: HashMap<Request, Option<Doubt>>,
    /// Not all that wait have been judged since: where to go on.
    sweeping: Option<Bound<QueueKey>>,
    /// Nodes have changed on the way: once this is through, all over again. Nodes that change all the time must not keep
    /// the end of a long queue from its turn.
    again: bool,
    /// Newly in the queue: just loaded, or to be run again on nodes that may have changed meanwhile.
    fresh: BTreeSet<QueueKey>,
}

impl Possible {
    /// What the nodes have is another.
    pub(super) fn forget(&mut self) {
        self.empty = None;
        self.verdicts.clear();
        self.again = self.sweeping.is_some();
        self.sweeping.get_or_insert(Bound::Unbounded);
    }

    pub(super) fn judge_soon(&mut self, key: QueueKey) {
        self.fresh.insert(key);
    }

    pub(super) fn judged(&mut self, key: &QueueKey) {
        self.fresh.remove(key);
    }
}

/// Whether there is any doubt that the job is going to run.
pub(super) fn doubt(state: &mut State, policy: &Policy, spec: &JobSpec) -> Option<Doubt> {
    judge(state, policy, &Request::under(policy, spec))
}

fn judge(state: &mut State, policy: &Policy, request: &Request) -> Option<Doubt> {
    if let Some(known) = state.placing.possible.verdicts.get(request) {
        return known.clone();
    }
    // Which ports are busy is brought up to date by whoever places: it is told of each change once.
    let books = state.placing.books.take().unwrap_or_else(|| schedule::build(state, policy, state.looked_at));
    let empty = state.placing.possible.empty.get_or_insert_with(|| EmptyCluster::of(&books.snapshot));
    let doubt = doubt_of(request, empty.judge(request, &books.quotas));
    // It stands in lists, whatever roles, labels and nodes are called.
    let doubt = doubt.map(|doubt| Doubt { why: cut(doubt.why), ..doubt });
    state.placing.books = Some(books);
    let verdicts = &mut state.placing.possible.verdicts;
    if verdicts.len() >= REMEMBERED {
        verdicts.clear();
    }
    verdicts.insert(request.clone(), doubt.clone());
    doubt
}

fn doubt_of(request: &Request, feasibility: Feasibility) -> Option<Doubt> {
    let cluster = &request.virtual_cluster;
    match feasibility {
        Feasibility::Possible => None,
        Feasibility::BesideGpuJobs => Some(Doubt {
            why:
                "only nodes with GPUs could hold it, and not beside what their free GPUs keep from jobs without GPUs \
                  (kept_for_gpus_percent): it can begin only while other jobs use these GPUs"
                    .to_owned(),
            never: false,
        }),
        Feasibility::OverQuota(over) => {
            let (need, limit, unit) = (over.need, over.limit, over.resource.unit());
            let why =
                format!("it needs {need} {unit}, and virtual cluster '{cluster}' may never hold more than {limit}");
            Some(Doubt { why, never: true })
        }
        Feasibility::NoNodes(reasons) => {
            let mut why = "no node or set of nodes known now could ever hold this job".to_owned();
            let mut reasons = reasons.iter();
            if let Some(whole) = reasons.next() {
                why += &format!(": needs {}; have {}", whole.need, whole.have);
            }
            if let Some(node) = reasons.next() {
                why += &words(node);
            }
            Some(Doubt { why, never: true })
        }
    }
}

/// ` (n0: gpus: needs 9, has 8 free of 8)`.
fn words(reason: &ExplainedReason) -> String {
    let ExplainedReason { node, reason, need, have } = reason;
    node.as_ref().map_or_else(String::new, |node| format!(" ({node}: {reason}: needs {need}, has {have})"))
}

/// Judges some of those that wait and are new, or were judged before the nodes changed.
pub(super) fn sweep(state: &mut State, policy: &Policy) {
    let mut verdicts_left = (NODES_AT_ONCE / state.nodes.len().max(1)).clamp(1, AT_ONCE);
    let fresh: Vec<QueueKey> = state.placing.possible.fresh.iter().take(AT_ONCE).copied().collect();
    judge_all(state, policy, &fresh, &mut verdicts_left);
    let Some(from) = state.placing.possible.sweeping.take() else { return };
    let keys: Vec<QueueKey> = state.queue.range((from, Bound::Unbounded)).take(AT_ONCE).copied().collect();
    let looked_at = judge_all(state, policy, &keys, &mut verdicts_left);
    let possible = &mut state.placing.possible;
    if looked_at < keys.len() || keys.len() == AT_ONCE {
        let at = keys[..looked_at].last();
        possible.sweeping = Some(at.map_or(from, |key| Bound::Excluded(*key)));
    } else if std::mem::take(&mut possible.again) {
        possible.sweeping = Some(Bound::Unbounded);
    }
}

/// How many of them it came to judge.
fn judge_all(state: &mut State, policy: &Policy, keys: &[QueueKey], verdicts_left: &mut usize) -> usize {
    for (at, key) in keys.iter().enumerate() {
        let found = state.runs.get(&key.2).and_then(|run| Some((run.job, state.specs.get(&run.job).cloned()?)));
        let Some((job, spec)) = found else {
            state.placing.possible.judged(key);
            continue;
        };
        let request = Request::under(policy, &spec);
        if !state.placing.possible.verdicts.contains_key(&request) {
            if *verdicts_left == 0 {
                return at;
            }
            *verdicts_left -= 1;
        }
        let doubt = judge(state, policy, &request);
        state.schedule_due |= doubt.is_none() && state.placing.doubts.contains_key(&job);
        state.placing.judged(&spec.virtual_cluster, *key, job, doubt);
    }
    keys.len()
}
