//! `wharf job explain`: why a job is where it is, and how it got there.
//!
//! Under the state's lock only what is needed is copied: the books, the queue up to the job, its records. What would
//! become of the job is then found by the scheduler itself, in a pass over the copies that nobody sees, so an answer
//! never differs from what the next pass does; and a cluster of thousands of nodes is not kept waiting for it. How it
//! got there is read from the history of events; what history has forgotten comes from the job's own records.

use super::core::{Controller, read};
use super::decisions::{self, Records};
use super::placing::Books;
use super::possible::Doubt;
use super::schedule::{self, quota_words};
use super::state::State;
use super::views;
use crate::domain::command::Error;
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState};
use crate::domain::run::{AvoidedGpus, Phase, Run, RunTask};
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use crate::domain::view::{ExplainedReason, ExplainedTask, Explanation, TaskView};
use crate::scheduler::{self, Decision, Waiting};

/// Reasons, tasks, and bytes of reasons in one answer.
const MAX_REASONS: usize = 5000;
const MAX_TASKS: usize = 1000;
const MAX_BYTES: usize = 1536 * 1024;
/// GPUs that a reason names.
const AVOIDED_NAMED: usize = 8;
/// Longest text of a reason.
const MAX_TEXT: usize = 1024;

/// Explains a job that exists.
pub(super) async fn explain(controller: &Controller, id: JobId) -> Result<Explanation, Error> {
    // Never closed, so this is a wait and no more.
    let _turn = controller.explaining.acquire().await;
    let now = controller.parts.clock.now();
    let (mut explanation, question, records) = {
        let state = read(&controller.shared);
        let Some(job) = state.jobs.get(&id) else {
            return Err(Error::not_found(format!("there is no job {id} any more")));
        };
        let question = Question::of(controller, &state, job, now);
        (head(&state, job), question, Records::of(&state, job))
    };
    if let Some(question) = question {
        let answering = tokio::task::spawn_blocking(move || {
            question.answer(&mut explanation);
            explanation
        });
        explanation = answering.await.map_err(|error| Error::internal(format!("explaining job {id}: {error}")))?;
    }
    bound(&mut explanation);
    decisions::tell(&controller.parts.history, records, &mut explanation).await;
    Ok(explanation)
}

/// What can be said without a look at the nodes.
fn head(state: &State, job: &Job) -> Explanation {
    let run = state.runs.get(&job.newest_run());
    let view = views::job(state, job, run);
    let spec = state.specs.get(&job.id);
    let mut explanation = Explanation {
        job_id: job.id.0,
        name: job.name.clone(),
        state: job.state.as_str().to_owned(),
        virtual_cluster: spec.map_or_else(String::new, |spec| spec.virtual_cluster.clone()),
        summary: view.reason.unwrap_or_else(|| "its tasks run".to_owned()),
        ..Explanation::default()
    };
    if let Some(run) = run.filter(|run| !matches!(run.phase, Phase::Waiting | Phase::Ended)) {
        explanation.summary = on_the_way(run).unwrap_or(explanation.summary);
        let tasks = view.tasks.unwrap_or_default();
        let still = run.tasks.iter().zip(&tasks).filter(|(_, task)| task.state != TaskState::Running.as_str());
        explanation.tasks_left_out =
            u32::try_from(still.clone().count().saturating_sub(MAX_TASKS)).unwrap_or(u32::MAX);
        explanation.tasks = still.take(MAX_TASKS).map(|(known, task)| task_line(state, run, known, task)).collect();
    }
    explanation
}

/// How far a placed run is.
fn on_the_way(run: &Run) -> Option<String> {
    let all = run.tasks.len();
    let count = |is: fn(TaskState) -> bool| run.tasks.iter().filter(|task| is(task.state)).count();
    match run.phase {
        Phase::Staging => {
            let staged = run.tasks.iter().filter(|task| task.staged).count();
            Some(format!(
                "its images and code are being fetched: {staged} of {all} tasks have theirs; nothing is held yet"
            ))
        }
        Phase::Preparing => {
            let ready = count(|state| state == TaskState::Ready);
            let by = run.prepare_by.map_or_else(String::new, |by| {
                format!("; unless all are by {}, the placement is given back", by.to_rfc3339())
            });
            Some(format!("its tasks are being prepared: {ready} of {all} are at their barrier{by}"))
        }
        Phase::Launching => {
            let running = count(|state| state == TaskState::Running);
            Some(format!("its tasks are being launched: {running} of {all} run"))
        }
        Phase::Running => {
            let ended = count(TaskState::is_terminal);
            let ended = if ended > 0 { format!(", {ended} have ended") } else { String::new() };
            Some(format!("{} of {all} tasks run{ended}", count(|state| state == TaskState::Running)))
        }
        Phase::Stopping => {
            let ended = count(TaskState::is_terminal);
            let why = run.outcome.as_ref().map_or("", |outcome| outcome.exit.reason.as_str());
            Some(format!("it is ending ({why}): {ended} of {all} tasks have ended"))
        }
        Phase::Waiting | Phase::Ended => None,
    }
}

fn task_line(state: &State, run: &Run, known: &RunTask, task: &TaskView) -> ExplainedTask {
    let node = task.node.clone().unwrap_or_default();
    let unreachable = state.nodes.get(&node.as_str().into()).is_none_or(|node| !node.reachable);
    let ended = task.exit.as_ref().map(|exit| exit.reason.clone());
    let silent = (unreachable && ended.is_none()).then(|| "its node has not been heard".to_owned());
    let waits = match run.phase {
        Phase::Staging if known.staged => Some("has its images and code, and waits for the others"),
        Phase::Preparing if known.state == TaskState::Ready => Some("is at its barrier, and waits for the others"),
        _ => None,
    };
    let waits = waits.map(str::to_owned);
    ExplainedTask {
        id: task.id.clone(),
        role: task.role.clone(),
        index: task.index,
        node,
        state: task.state.clone(),
        detail: cut(ended.or(silent).or(waits).or_else(|| task.progress.clone()).unwrap_or_default()),
    }
}

/// A waiting job, and all that decides about it.
struct Question {
    books: Books,
    /// Up to the job, which is the last.
    queue: Vec<Waiting>,
    now: Timestamp,
    position: u32,
    length: u32,
    /// Names of the jobs in `queue`, whatever stands before this one.
    names: Vec<(JobId, String)>,
    doubt: Option<Doubt>,
    not_before: Option<Timestamp>,
    avoid_gpus: AvoidedGpus,
    /// Why the last placement was given back.
    rolled_back: Option<String>,
    again: bool,
    /// Too far behind for one pass.
    beyond: bool,
}

impl Question {
    fn of(controller: &Controller, state: &State, job: &Job, now: Timestamp) -> Option<Self> {
        let policy = &controller.parts.policy;
        let run = state.runs.get(&job.newest_run()).filter(|run| run.phase == Phase::Waiting)?;
        let me = schedule::entry(state, policy, run).filter(|_| job.state == JobState::Waiting)?;
        let mut queue = schedule::waiting(state, policy, now);
        let doubt = state.placing.doubts.get(&job.id).cloned();
        let not_before = Some(run.not_before).filter(|_| schedule::backs_off(run, now));
        let at = queue.iter().position(|waiting| waiting.job == me.job);
        let beyond = at.is_none() && doubt.is_none() && not_before.is_none();
        match at {
            Some(at) => queue.truncate(at + 1),
            None => {
                queue.retain(|waiting| waiting.job != me.job && goes_before(waiting, &me));
                queue.push(me);
            }
        }
        let name = |waiting: &Waiting| Some((waiting.job, state.jobs.get(&waiting.job)?.name.clone()));
        let position = state.queue.iter().position(|(_, _, id)| *id == run.id).unwrap_or(0);
        Some(Self {
            books: state.placing.books.clone().unwrap_or_else(|| schedule::build(state, policy, state.looked_at)),
            now,
            position: u32::try_from(position + 1).unwrap_or(u32::MAX),
            length: u32::try_from(state.queue.len()).unwrap_or(u32::MAX),
            names: queue.iter().filter_map(name).collect(),
            queue,
            doubt,
            not_before,
            avoid_gpus: run.avoid_gpus.clone(),
            rolled_back: run.rolled_back.clone(),
            again: run.attempt > 1,
            beyond,
        })
    }

    fn answer(self, explanation: &mut Explanation) {
        explanation.queue_position = Some(self.position);
        explanation.queue_length = Some(self.length);
        let Some(me) = self.queue.last() else { return };
        let mut after = self.books.clone();
        let decisions = scheduler::schedule_within(&mut after.snapshot, &mut after.quotas, &self.queue, self.now);
        let Some((_, decision)) = decisions.into_iter().next_back() else { return };
        let lacking = scheduler::explain(&self.books.snapshot, &me.request);
        let reasons = &mut explanation.reasons;
        if let Some(until) = self.not_before {
            let to_go = format!("{} s to go", until.since(self.now).as_secs() + 1);
            reasons.push(whole("back_off", format!("not before {}", until.to_rfc3339()), to_go));
        }
        if !self.avoid_gpus.is_empty() {
            reasons.push(avoided(&self.avoid_gpus));
        }
        if let Some(doubt) = &self.doubt {
            let (word, need) = match doubt.never {
                true => ("never_possible", "other nodes or limits"),
                false => ("kept_for_gpus", "nodes whose GPUs are in use"),
            };
            reasons.push(whole(word, need.to_owned(), doubt.why.clone()));
        }
        let mut told = match &decision {
            Decision::OverQuota { over, behind } => {
                let (need, have) = quota_words(&me.request.virtual_cluster, over);
                reasons.push(whole("quota", need, have));
                explanation.behind = behind.map(|job| job.0);
                "its virtual cluster may not hold more now".to_owned()
            }
            Decision::Placed(_) if self.beyond => {
                reasons.push(self.turn("more than one pass looks at"));
                "many jobs are before it in the queue".to_owned()
            }
            Decision::Placed(_) | Decision::BackingOff { .. } => {
                reasons.push(self.turn("it fits, and is placed with the next pass"));
                "it fits, and is about to be placed".to_owned()
            }
            Decision::Blocked { reserved: true, .. } => {
                let have = "it is the first that waits for them, and they are kept for it".to_owned();
                reasons.push(whole("reservation", "the nodes where it will fit first".to_owned(), have));
                "not enough is free for all of its tasks at once; it is the first in line".to_owned()
            }
            Decision::Blocked { behind: Some(head), .. } if lacking.is_empty() => {
                explanation.behind = Some(head.0);
                let head = self.named(*head);
                let need = format!("room beside what is kept for {head}");
                let have = "what is free now is what that one is going to need".to_owned();
                reasons.push(whole("reservation", need.clone(), have));
                let kept = |node: crate::domain::ids::NodeName| ExplainedReason {
                    node: Some(node.0),
                    ..whole("reservation", need.clone(), "room that is going to be needed".to_owned())
                };
                reasons.extend(scheduler::explain::fitting(&self.books.snapshot, &me.request).into_iter().map(kept));
                format!("what is free now is kept for {head}, which was before it")
            }
            Decision::Blocked { behind, .. } => {
                explanation.behind = behind.map(|job| job.0);
                let behind = behind.map(|head| format!("; room is kept for {}", self.named(head)));
                reasons.push(self.turn(&format!("not enough is free{}", behind.unwrap_or_default())));
                "not enough is free for all of its tasks at once".to_owned()
            }
        };
        reasons.extend(lacking);
        explanation.earliest = self.not_before;
        explanation.earliest_note = match (&self.not_before, &self.doubt, &decision) {
            (_, Some(doubt), _) if doubt.never => "never, as long as nodes and limits stay what they are".to_owned(),
            (Some(_), ..) => "it backs off until then".to_owned(),
            (None, _, Decision::Placed(_)) if !self.beyond => "with the next pass of the scheduler".to_owned(),
            _ => "nobody knows how long the jobs will run that hold what it needs".to_owned(),
        };
        if let Some(doubt) = &self.doubt {
            explanation.never_possible = doubt.never;
            told.clone_from(&doubt.why);
        } else if self.not_before.is_some() {
            told = match (&self.rolled_back, self.again) {
                (Some(why), _) => {
                    format!("its last placement was given back ({why}); it is placed again after a pause")
                }
                (None, true) => "it is run again after a pause".to_owned(),
                (None, false) => told,
            };
        }
        explanation.summary = told;
    }

    fn turn(&self, have: &str) -> ExplainedReason {
        whole("queue", "its turn".to_owned(), format!("{} jobs before it; {have}", self.position - 1))
    }

    fn named(&self, job: JobId) -> String {
        let name = self.names.iter().find(|(id, _)| *id == job).map_or("", |(_, name)| name.as_str());
        format!("job {job} ({name})")
    }
}

fn goes_before(one: &Waiting, other: &Waiting) -> bool {
    let key = |waiting: &Waiting| (std::cmp::Reverse(waiting.priority), waiting.submitted_at, waiting.job);
    key(one) < key(other)
}

fn whole(reason: &str, need: String, have: String) -> ExplainedReason {
    ExplainedReason { node: None, reason: reason.to_owned(), need, have }
}

/// GPUs that the job rather waits than take again.
fn avoided(avoided: &AvoidedGpus) -> ExplainedReason {
    let named = avoided.gpus.iter().take(AVOIDED_NAMED).map(|gpu| gpu.0.as_str()).collect::<Vec<_>>().join(", ");
    let more = avoided.gpus.len().saturating_sub(AVOIDED_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let have = format!("{named}{more} did; from {} on used again if nothing else fits", avoided.until.to_rfc3339());
    whole("avoided_gpus", "GPUs whose faults ended no earlier run of it".to_owned(), have)
}

/// An answer that fits a message, whatever nodes and labels are called.
fn bound(explanation: &mut Explanation) {
    let (mut bytes, mut kept) = (0, 0);
    explanation.summary = cut(std::mem::take(&mut explanation.summary));
    for reason in explanation.reasons.iter_mut().take(MAX_REASONS) {
        reason.need = cut(std::mem::take(&mut reason.need));
        reason.have = cut(std::mem::take(&mut reason.have));
        bytes += reason.need.len() + reason.have.len() + reason.node.as_ref().map_or(0, String::len) + 32;
        if bytes > MAX_BYTES {
            break;
        }
        kept += 1;
    }
    explanation.nodes_left_out = u32::try_from(explanation.reasons.len() - kept).unwrap_or(u32::MAX);
    explanation.reasons.truncate(kept);
}

pub(super) fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push('…');
    }
    text
}
