//! Gives waiting runs their places: keeps the scheduler's snapshot in step with the state, and asks it.

use super::placing::{Books, Found};
use super::state::{QueueKey, State};
use crate::domain::allocation::Claim;
use crate::domain::ids::{Generation, RunId};
use crate::domain::job::Job;
use crate::domain::promise::Promise;
use crate::domain::retry::LONGEST_BACK_OFF;
use crate::domain::run::{Run, Seat};
use crate::domain::spec::JobSpec;
use crate::domain::time::Timestamp;
use crate::scheduler::queue::LOOK_AHEAD;
use crate::scheduler::quota::{Amount, OverQuota};
use crate::scheduler::{self, Decision, NodeSnapshot, Placement, Policy, Quotas, Request, Snapshot, Waiting};
use std::collections::BTreeSet;

/// Of each virtual cluster at least.
const LOOK_AHEAD_EACH: usize = 20;
/// Nodes that an event names.
const NODES_NAMED: usize = 64;

/// Places every waiting run that fits, in the order of the queue.
pub(super) fn place_waiting(state: &mut State, policy: &Policy, now: Timestamp, touched: &mut BTreeSet<RunId>) {
    if !std::mem::take(&mut state.schedule_due) || state.queue.is_empty() {
        return;
    }
    let queue = waiting(state, policy, now);
    let mut books = books(state, policy, now);
    let decisions = scheduler::schedule_within(&mut books.snapshot, &mut books.quotas, &queue, now);
    state.placing.books = Some(books);
    let (mut gpus_taken, mut kept_off) = (false, false);
    for (waiting, (job, decision)) in queue.iter().zip(decisions) {
        let Some(run) = state.jobs.get(&job).map(Job::newest_run) else { continue };
        match decision {
            Decision::Placed(placements) => {
                gpus_taken |= waiting.request.gpu_count() > 0;
                seat(state, run, placements, now);
                touched.insert(run);
            }
            Decision::Blocked { reserved, behind, .. } => {
                state.placing.found.insert(job, Found::NoRoom { reserved, behind });
                kept_off |= waiting.request.keeps_for_gpus().is_some();
                forgive(state, run, now);
            }
            Decision::OverQuota { over, .. } => {
                state.placing.found.insert(job, Found::OverQuota(over));
            }
            Decision::BackingOff { .. } => {}
        }
    }
    // GPUs that are in use keep nothing any more from jobs without GPUs.
    state.schedule_due |= gpus_taken && kept_off;
}

/// Nodes that vetoed are left out once: if nobody else can take the gang, they are asked again. GPUs that have failed its
/// job are left out for longer.
fn forgive(state: &mut State, run: RunId, now: Timestamp) {
    let Some(run) = state.runs.get_mut(&run) else { return };
    let nodes = !std::mem::take(&mut run.avoid).is_empty();
    if nodes || run.forgive_gpus(now) {
        state.dirty.runs.insert(run.id);
        state.schedule_due = true;
    }
}

/// Who takes part in a pass.
pub(super) fn waiting(state: &State, policy: &Policy, now: Timestamp) -> Vec<Waiting> {
    let each = (LOOK_AHEAD / state.placing.queues.len().max(1)).max(LOOK_AHEAD_EACH);
    let entry = |(_, _, id): QueueKey| {
        let run = state.runs.get(&id).filter(|run| !backs_off(run, now))?;
        entry(state, policy, run)
    };
    // What backs off is no reason to look at fewer others.
    let mut queue: Vec<Waiting> = state.placing.in_order(2 * LOOK_AHEAD, each, entry);
    scheduler::queue::sort(&mut queue);
    queue
}

/// A run as the scheduler sees it.
pub(super) fn entry(state: &State, policy: &Policy, run: &Run) -> Option<Waiting> {
    let job = state.jobs.get(&run.job)?;
    let spec = state.specs.get(&run.job)?;
    Some(Waiting {
        job: job.id,
        priority: job.priority,
        submitted_at: job.submitted_at,
        not_before: None,
        request: request(policy, spec, run),
    })
}

/// Not to be placed yet. A clock that was set back keeps nobody out for longer than any back-off lasts.
pub(super) fn backs_off(run: &Run, now: Timestamp) -> bool {
    run.not_before > now && run.not_before.since(now) <= LONGEST_BACK_OFF
}

/// Back-offs run out without anything else happening.
pub(super) fn notice_back_offs(state: &mut State, now: Timestamp) {
    let before = std::mem::replace(&mut state.looked_at, now);
    let ran_out = |run: &Run| run.not_before <= now && (run.not_before > before || now < before);
    let forgiven =
        |run: &Run| !run.avoid_gpus.is_empty() && run.avoid_gpus.is_over(now) && !run.avoid_gpus.is_over(before);
    let wakes = |run: &Run| ran_out(run) || forgiven(run);
    let due = state.queue.iter().filter_map(|(_, _, id)| state.runs.get(id)).any(wakes);
    state.schedule_due |= due | state.busy_ports.tick(before, now);
}

pub(super) fn request(policy: &Policy, spec: &JobSpec, run: &Run) -> Request {
    let avoid_gpus = run.avoid_gpus.gpus.clone();
    Request { avoid: run.excluded_nodes(), avoid_gpus, ..Request::under(policy, spec) }
}

/// The books as they were left, or made anew when the nodes have changed. To be put back.
pub(super) fn books(state: &mut State, policy: &Policy, now: Timestamp) -> Books {
    let changes = state.busy_ports.changes(now);
    let Some(mut books) = state.placing.books.take() else { return build(state, policy, now) };
    for (host, ports) in changes {
        books.snapshot.set_busy_ports(&host, ports);
    }
    books
}

/// Nodes, and what is promised on them.
pub(super) fn build(state: &State, policy: &Policy, now: Timestamp) -> Books {
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
    let (snapshot, quotas) = (Snapshot::new(nodes.collect()), Quotas::new(&policy.clusters));
    let mut books = Books { snapshot, quotas };
    for (host, ports) in state.busy_ports.all(now) {
        books.snapshot.set_busy_ports(host, ports);
    }
    for run in state.unsettled.iter().filter_map(|id| state.runs.get(id)) {
        let Some(spec) = state.specs.get(&run.job) else { continue };
        let tasks = run.tasks.iter().filter(|task| !task.released);
        let seats = tasks.map(|task| promise(state, spec, task.role, run.generation, &task.seat));
        let left = run.leftovers.iter().map(|left| promise(state, spec, left.role, left.generation, &left.seat));
        for promise in seats.chain(left) {
            books.quotas.hold(&spec.virtual_cluster, &amount(&promise.claim));
            books.snapshot.promise(&promise);
        }
    }
    books
}

fn amount(claim: &Claim) -> Amount {
    Amount { gpus: claim.gpus.len() as u64, cpus: claim.cpus.into(), memory_mb: claim.memory_mb }
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
            ..Claim::default()
        },
        passed: seat.passed,
    }
}

/// Gives back what a released task had.
pub(super) fn give_back(state: &mut State, run: RunId, role: u32, generation: Generation, seat: &Seat) {
    state.schedule_due = true;
    let Some(mut books) = state.placing.books.take() else { return };
    if let Some(spec) = state.runs.get(&run).and_then(|run| state.specs.get(&run.job)) {
        let promise = promise(state, spec, role, generation, seat);
        books.quotas.give_back(&spec.virtual_cluster, &amount(&promise.claim));
        books.snapshot.give_back(&promise);
    }
    state.placing.books = Some(books);
}

/// Nodes have changed: the snapshot is made anew when it is needed.
pub(super) fn nodes_changed(state: &mut State) {
    state.placing.books = None;
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
    let message = placed(id, &seats);
    run.place(seats, now);
    let job = run.job;
    state.dirty.plans.insert(id);
    state.refresh_run(id);
    state.note(now, "run.placed", Some(job), None, None, message);
}

/// Which nodes a run got, and whom it went ahead of.
fn placed(id: RunId, seats: &[(u32, u32, Seat)]) -> String {
    let nodes: BTreeSet<&str> = seats.iter().map(|(_, _, seat)| seat.node.0.as_str()).collect();
    let more = nodes.len().saturating_sub(NODES_NAMED);
    let named = nodes.into_iter().take(NODES_NAMED).collect::<Vec<_>>().join(", ");
    let more = if more > 0 { format!(" and {more} more nodes") } else { String::new() };
    let passed = seats.first().and_then(|(_, _, seat)| seat.passed);
    let passed = passed.map_or_else(String::new, |head| format!(", beside the room that is kept for job {head}"));
    format!("run {id} on {named}{more}{passed}")
}

/// Why a run waits, in one sentence for a list.
pub(super) fn why_waiting(state: &State, run: &Run) -> String {
    if let Some(doubt) = state.placing.doubts.get(&run.job) {
        return doubt.why.clone();
    }
    if let Some(why) = &run.rolled_back {
        return format!("waiting to be placed again; the last placement was given back: {why}");
    }
    match state.placing.found.get(&run.job) {
        Some(Found::OverQuota(over)) => {
            let cluster = state.specs.get(&run.job).map_or("", |spec| spec.virtual_cluster.as_str());
            format!("waiting for its virtual cluster's quota: {}", quota_words(cluster, over).1)
        }
        Some(Found::NoRoom { behind: Some(head), .. }) => {
            format!("waiting for free resources, behind job {head} in the queue")
        }
        _ => "waiting for free resources".to_owned(),
    }
}

/// What is needed of a quota, and what there is.
pub(super) fn quota_words(cluster: &str, over: &OverQuota) -> (String, String) {
    let OverQuota { resource, need, used, kept, limit } = over;
    let unit = resource.unit();
    let kept = if *kept > 0 { format!(", {kept} kept for jobs ahead") } else { String::new() };
    (format!("{need} {unit}"), format!("{used} of {limit} {unit} of '{cluster}' in use{kept}"))
}
