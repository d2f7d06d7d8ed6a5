//! Gives waiting runs their places: keeps the scheduler's snapshot in step with the state, and asks it.

use super::state::State;
use crate::domain::allocation::Claim;
use crate::domain::ids::{Generation, RunId};
use crate::domain::job::{Job, JobState};
use crate::domain::promise::Promise;
use crate::domain::run::{Phase, Run, Seat};
use crate::domain::spec::JobSpec;
use crate::domain::time::Timestamp;
use crate::domain::view::{ExplainedReason, Explanation};
use crate::scheduler::{self, Decision, NodeSnapshot, Placement, Request, Snapshot, Waiting};
use std::collections::BTreeSet;
use std::time::Duration;

/// Runs looked at in one pass; those behind get their turn as these are placed.
const LOOK_AHEAD: usize = 2000;
/// More than `domain::retry::back_off` gives.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(600);

/// Places every waiting run that fits, in the order of the queue.
pub(super) fn place_waiting(state: &mut State, now: Timestamp, touched: &mut BTreeSet<RunId>) {
    if !std::mem::take(&mut state.schedule_due) || state.queue.is_empty() {
        return;
    }
    let queue = waiting(state, now);
    let mut snapshot = current(state);
    let decisions = scheduler::schedule(&mut snapshot, &queue, now);
    state.snapshot = Some(snapshot);
    for (job, decision) in decisions {
        let Some(run) = state.jobs.get(&job).map(Job::newest_run) else { continue };
        match decision {
            Decision::Placed(placements) => {
                seat(state, run, placements, now);
                touched.insert(run);
            }
            // Left out once: if nobody else can take the gang, the nodes that vetoed are asked again.
            Decision::Blocked { .. } => {
                if let Some(run) = state.runs.get_mut(&run)
                    && !run.avoid.is_empty()
                {
                    run.avoid.clear();
                    state.dirty.runs.insert(run.id);
                    state.schedule_due = true;
                }
            }
            Decision::BackingOff { .. } => {}
        }
    }
}

fn waiting(state: &State, now: Timestamp) -> Vec<Waiting> {
    let entry = |id: &RunId| {
        let run = state.runs.get(id).filter(|run| !backs_off(run, now))?;
        let job = state.jobs.get(&run.job)?;
        let spec = state.specs.get(&run.job)?;
        Some(Waiting {
            job: job.id,
            priority: job.priority,
            submitted_at: job.submitted_at,
            not_before: None,
            request: request(spec, run),
        })
    };
    let mut queue: Vec<Waiting> = state.queue.iter().filter_map(|(_, _, id)| entry(id)).take(LOOK_AHEAD).collect();
    scheduler::queue::sort(&mut queue);
    queue
}

/// Not to be placed yet. A clock that was set back keeps nobody out for longer than any back-off lasts.
fn backs_off(run: &Run, now: Timestamp) -> bool {
    run.not_before > now && run.not_before.since(now) <= LONGEST_BACK_OFF
}

/// Back-offs run out without anything else happening.
pub(super) fn notice_back_offs(state: &mut State, now: Timestamp) {
    let before = std::mem::replace(&mut state.looked_at, now);
    let ran_out = |run: &Run| run.not_before <= now && (run.not_before > before || now < before);
    let due = state.queue.iter().filter_map(|(_, _, id)| state.runs.get(id)).any(ran_out);
    state.schedule_due |= due;
}

fn request(spec: &JobSpec, run: &Run) -> Request {
    Request { avoid: run.excluded_nodes(), ..Request::of(spec) }
}

/// The snapshot as it was left, or made anew when the nodes have changed.
fn current(state: &mut State) -> Snapshot {
    if let Some(snapshot) = state.snapshot.take() {
        return snapshot;
    }
    build(state)
}

/// Nodes, and what is promised on them.
fn build(state: &State) -> Snapshot {
    let nodes = state.nodes.values().map(|node| {
        let condition = super::drain::state_of(node);
        let name = node.registration.name.clone();
        let inventory = &node.registration.inventory;
        let mut snapshot = NodeSnapshot::new(name, node.host(), condition, inventory);
        for trouble in &inventory.gpu_conditions {
            snapshot.withhold(&trouble.gpu, trouble.reason.clone());
        }
        snapshot
    });
    let mut snapshot = Snapshot::new(nodes.collect());
    for run in state.unsettled.iter().filter_map(|id| state.runs.get(id)) {
        let Some(spec) = state.specs.get(&run.job) else { continue };
        for task in run.tasks.iter().filter(|task| !task.released) {
            snapshot.promise(&promise(state, spec, task.role, run.generation, &task.seat));
        }
        for left in &run.leftovers {
            snapshot.promise(&promise(state, spec, left.role, left.generation, &left.seat));
        }
    }
    snapshot
}

/// What a seat takes from its node.
fn promise(state: &State, spec: &JobSpec, role: u32, generation: Generation, seat: &Seat) -> Promise {
    let (cpus, memory_mb) = spec.roles.get(role as usize).map_or((0, 0), |role| (role.cpus, role.memory_mb));
    Promise {
        generation,
        node: seat.node.clone(),
        host: state.nodes.get(&seat.node).map_or_else(|| seat.ip.clone(), |node| node.host().to_owned()),
        claim: Claim {
            gpus: seat.gpus.clone(),
            ports: seat.ports.iter().flat_map(|ports| ports.ports.iter().copied()).collect(),
            cpus,
            memory_mb,
        },
        passed: seat.passed,
    }
}

/// Gives back what a released task had.
pub(super) fn give_back(state: &mut State, run: RunId, role: u32, generation: Generation, seat: &Seat) {
    state.schedule_due = true;
    let Some(mut snapshot) = state.snapshot.take() else { return };
    if let Some(spec) = state.runs.get(&run).and_then(|run| state.specs.get(&run.job)) {
        snapshot.give_back(&promise(state, spec, role, generation, seat));
    }
    state.snapshot = Some(snapshot);
}

/// Nodes have changed: the snapshot is made anew when it is needed.
pub(super) fn nodes_changed(state: &mut State) {
    state.snapshot = None;
    state.schedule_due = true;
}

fn seat(state: &mut State, id: RunId, placements: Vec<Placement>, now: Timestamp) {
    let seats = placements
        .into_iter()
        .map(|placement| {
            let ip = state.nodes.get(&placement.node).map_or_else(String::new, |node| node.host().to_owned());
            let (gpus, ports, passed) = (placement.gpus, placement.ports, placement.passed);
            let seat = Seat { node: placement.node, ip, gpus, ports, passed };
            (placement.role, placement.index, seat)
        })
        .collect::<Vec<_>>();
    let Some(run) = state.runs.get_mut(&id) else { return };
    let nodes: BTreeSet<&str> = seats.iter().map(|(_, _, seat)| seat.node.0.as_str()).collect();
    let message = format!("run {id} on {}", nodes.into_iter().collect::<Vec<_>>().join(", "));
    run.place(seats, now);
    let job = run.job;
    state.dirty.plans.insert(id);
    state.refresh_run(id);
    state.note(now, "run.placed", Some(job), None, None, message);
}

/// A warning for a job that the nodes known now could never hold.
pub(super) fn never_possible(state: &State, spec: &JobSpec) -> Vec<String> {
    let snapshot = build(state);
    match scheduler::ever_possible(&snapshot, &Request::of(spec)) {
        Ok(()) => Vec::new(),
        Err(reasons) => {
            let why = reasons
                .first()
                .map_or_else(String::new, |reason| format!(": needs {}; have {}", reason.need, reason.have));
            vec![format!("no node or set of nodes known now could ever hold this job{why}; it will wait")]
        }
    }
}

/// Why a job is where it is.
pub(super) fn explain(state: &State, job: &Job, now: Timestamp) -> Explanation {
    let mut explanation = Explanation {
        job_id: job.id.0,
        name: job.name.clone(),
        state: job.state.as_str().to_owned(),
        summary: super::views::job(state, job, None).reason.unwrap_or_else(|| "its tasks run".to_owned()),
        queue_position: None,
        reasons: Vec::new(),
    };
    let run = state.runs.get(&job.newest_run()).filter(|run| run.phase == Phase::Waiting);
    let Some((run, spec)) = run.zip(state.specs.get(&job.id)).filter(|_| job.state == JobState::Waiting) else {
        return explanation;
    };
    let position = state.queue.iter().position(|(_, _, id)| *id == run.id);
    explanation.queue_position = position.and_then(|position| u32::try_from(position + 1).ok());
    if run.not_before > now {
        explanation.reasons.push(ExplainedReason {
            node: None,
            reason: "back_off".to_owned(),
            need: format!("not before {}", run.not_before.to_rfc3339()),
            have: format!("{} s to go", run.not_before.since(now).as_secs() + 1),
        });
    }
    let (snapshot, request) = (build(state), request(spec, run));
    let lacking = scheduler::explain(&snapshot, &request);
    explanation.summary = match (&run.rolled_back, lacking.is_empty(), run.not_before > now) {
        (Some(why), _, true) => {
            format!("its last placement was given back ({why}); it is placed again after a pause")
        }
        (None, _, true) => "it is run again after a pause".to_owned(),
        (_, true, false) => "it fits, and waits for jobs before it in the queue".to_owned(),
        (_, false, false) if scheduler::ever_possible(&snapshot, &request).is_err() => {
            "no node or set of nodes known now could ever hold it".to_owned()
        }
        (_, false, false) => "not enough is free for all of its tasks at once".to_owned(),
    };
    if lacking.is_empty() && run.not_before <= now {
        explanation.reasons.push(ExplainedReason {
            node: None,
            reason: "queue".to_owned(),
            need: "its turn".to_owned(),
            have: format!("{} jobs before it", explanation.queue_position.unwrap_or(1).saturating_sub(1)),
        });
    }
    explanation.reasons.extend(lacking);
    explanation
}
