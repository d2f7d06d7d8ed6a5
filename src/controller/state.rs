//! Everything the controller knows, in memory. A copy of what the store holds, plus what agents keep telling.

use super::access::Access;
use super::busy_ports::BusyPorts;
use super::deaf::Unanswered;
use super::placing::Placing;
use crate::domain::command::Registration;
use crate::domain::event::Event;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::gpu::GpuSample;
use crate::domain::ids::{Generation, GpuUuid, JobId, NodeName, NodeUid, RunId, TaskId, Term};
use crate::domain::job::{Job, JobState};
use crate::domain::metrics::Durations;
use crate::domain::node::Standing;
use crate::domain::node_lost::Suspicion;
use crate::domain::run::{Phase, Run};
use crate::domain::spec::JobSpec;
use crate::domain::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Place in the queue: higher priority first, then the longer waiting.
pub(super) type QueueKey = (Reverse<i32>, Timestamp, RunId);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) cluster_id: String,
    pub(super) term: Term,
    pub(super) next_id: u64,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) specs: HashMap<JobId, Arc<JobSpec>>,
    pub(super) runs: BTreeMap<RunId, Run>,
    pub(super) nodes: BTreeMap<NodeName, Node>,
    /// Who may call.
    pub(super) access: Access,
    /// Names of unfinished jobs, by user.
    pub(super) names: HashMap<(String, String), JobId>,
    /// Answers to repeated submits, by user and request id.
    pub(super) requests: HashMap<(String, String), JobId>,
    pub(super) queue: BTreeSet<QueueKey>,
    /// Runs with anything left to do for agents.
    pub(super) unsettled: BTreeSet<RunId>,
    /// What has to be written with the next batch.
    pub(super) dirty: Dirty,
    /// Ended jobs in the order of their ends, and before there was one by their time; the oldest are forgotten.
    pub(super) ended: BTreeSet<(u64, Timestamp, JobId)>,
    /// Keys that nothing refers to any more, to be deleted in this order; with a `/` at the end, all below it.
    pub(super) garbage: Vec<String>,
    /// What the scheduler needs and found out. Derived: lost with the state, and made anew.
    pub(super) placing: Placing,
    /// Not stored.
    pub(super) busy_ports: BusyPorts,
    /// How long runs took from the queue until all of their tasks ran. For monitoring alone: not stored, and begun anew
    /// with the state.
    pub(super) launches: Durations,
    /// Something was freed, or waits anew: worth a pass of the scheduler.
    pub(super) schedule_due: bool,
    /// Why the controller doubts that silent nodes are lost.
    pub(super) suspicion: Option<Suspicion>,
    /// As configured: how often hardware faults may restart a job.
    pub(super) hardware_restarts: u64,
    /// As configured: of all nodes, how many may be closed for faults at once.
    pub(super) max_nodes_out_percent: u8,
    /// When back-offs were last looked at.
    pub(super) looked_at: Timestamp,
}

/// What changed since the last batch.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) next_id: bool,
    pub(super) jobs: BTreeSet<JobId>,
    /// Specifications of new jobs.
    pub(super) specs: BTreeSet<JobId>,
    /// New jobs whose secrets have to be written.
    pub(super) secrets: BTreeSet<JobId>,
    /// Files of new jobs as they were submitted: kept in the store alone.
    pub(super) files: BTreeMap<JobId, Vec<u8>>,
    pub(super) runs: BTreeSet<RunId>,
    /// Runs of which every task may want another command: their phase has changed, or how they end.
    pub(super) whole: BTreeSet<RunId>,
    /// Runs with new seats.
    pub(super) plans: BTreeSet<RunId>,
    pub(super) tasks: BTreeSet<TaskId>,
    /// Tasks of rolled back generations that were let go of.
    pub(super) freed: BTreeSet<(TaskId, Generation)>,
    /// Those that are no more are deleted.
    pub(super) nodes: BTreeSet<NodeName>,
    /// Nodes whose standing has changed.
    pub(super) standings: BTreeSet<NodeName>,
    /// Nodes of whose faults one was opened, has become graver or is over.
    pub(super) faults: BTreeSet<NodeName>,
    /// On their way to history, which gives them their sequence numbers: see [`super::telling`].
    pub(super) events: Vec<Event>,
}

/// One node. Only registration, standing and faults are stored; the rest is heard again after a restart.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) registration: Registration,
    pub(super) standing: Standing,
    /// When its agent last said anything, which may have renewed leases, on the clock of leases
    /// ([`Context::running_for`](super::apply::Context)); `None`: not since this start.
    pub(super) renewed: Option<Duration>,
    /// When its agent was last heard, on the controller's monotonic clock; `None`: not since this start.
    pub(super) heard: Option<tokio::time::Instant>,
    pub(super) last_heartbeat: Option<Timestamp>,
    pub(super) reachable: bool,
    /// Its agent does not answer, though it may be heard.
    pub(super) unanswered: Option<Unanswered>,
    pub(super) samples: HashMap<GpuUuid, GpuSample>,
    /// How far tasks are, as of the last heartbeat; gone with a task's next status.
    pub(super) progress: HashMap<TaskId, String>,
    /// As its agent told them last.
    pub(super) faults: Vec<Fault>,
    /// Those that it has left out of its list since. Not stored.
    pub(super) unlisted_faults: Vec<Fault>,
    /// It has left out none but these.
    pub(super) knows_all_faults: bool,
    /// Their version; 0: to be told anew.
    pub(super) faults_version: u64,
    pub(super) withdrawn: Withdrawn,
    /// It may take itself out because of this fault, or is out.
    pub(super) permit: Option<FaultId>,
    /// It takes no new tasks, so as to be empty for the remedy of this fault.
    pub(super) empties: Option<FaultId>,
}

/// Whether a fault keeps new tasks from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Withdrawn {
    /// None asks for it, or nobody has looked yet: then it is closed.
    #[default]
    No,
    Yes,
    /// One asks for it, but too many nodes are out already.
    Spared,
}

impl Node {
    pub(super) fn uid(&self) -> &NodeUid {
        &self.registration.node_uid
    }

    /// It is heard, and what it is asked is answered or may yet be.
    pub(super) fn answers(&self) -> bool {
        self.reachable && !self.unanswered.as_ref().is_some_and(|unanswered| unanswered.told)
    }

    /// The host part of the advertised address: nodes that share it share their ports.
    pub(super) fn host(&self) -> &str {
        &self.registration.task_ip
    }
}

impl State {
    /// The next id of the sequence that jobs and runs share.
    pub(super) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.dirty.next_id = true;
        id
    }

    pub(super) fn node_by_uid(&self, uid: &NodeUid) -> Option<(&NodeName, &Node)> {
        self.nodes.iter().find(|(_, node)| node.uid() == uid)
    }

    /// Brings what is derived from a run up to date: the queue, the unsettled runs, the job's state.
    pub(super) fn refresh_run(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        self.dirty.runs.insert(id);
        let job = self.jobs.get(&run.job);
        // A job that is run again keeps its place: it has waited since it was submitted.
        let (priority, since) = job.map_or((0, run.queued_at), |job| (job.priority, job.submitted_at));
        let key = (Reverse(priority), since, id);
        let cluster = self.specs.get(&run.job).map_or("", |spec| spec.virtual_cluster.as_str());
        if run.phase == Phase::Waiting {
            self.queue.insert(key);
            self.placing.waits(cluster, key, run.job);
            self.schedule_due = true;
        } else if self.queue.remove(&key) {
            self.placing.waits_no_more(cluster, key, run.job);
        }
        if run.settled {
            self.unsettled.remove(&id);
        } else {
            self.unsettled.insert(id);
        }
        let state = JobState::of_run(run);
        if let Some(job) = self.jobs.get_mut(&run.job)
            && job.newest_run() == id
            && !job.state.is_terminal()
            && !state.is_terminal()
            && job.state != state
        {
            job.state = state;
            self.dirty.jobs.insert(job.id);
        }
    }

    /// Notes something for history.
    pub(super) fn note(
        &mut self,
        now: Timestamp,
        kind: &str,
        job: Option<JobId>,
        task: Option<TaskId>,
        node: Option<&NodeName>,
        message: impl Into<String>,
    ) {
        self.dirty.events.push(Event {
            sequence: 0,
            time: now,
            kind: kind.to_owned(),
            job: job.map(|id| id.0),
            task: task.map(|id| id.to_string()),
            node: node.map(|name| name.0.clone()),
            message: message.into(),
        });
    }
}
