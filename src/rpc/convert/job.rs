//! Jobs as callers are shown them, events, and how they are asked for. A word that the domain keeps as text is
//! only bounded here, so that a client understands a newer controller.

use super::{
    MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, each, filled, maybe, nanos, optional, optional_text,
    text, texts, time,
};
use crate::api::controller::{EventFilter, JobFilter};
use crate::domain::command::Violation;
use crate::domain::event::Event;
use crate::domain::task::AssignedPorts;
use crate::domain::time::Timestamp;
use crate::domain::view::{
    ExplainedDecision, ExplainedReason, ExplainedTask, Explanation, JobView, RetriesView, RunView, Submitted,
    TaskView,
};
use crate::rpc::generated as pb;

impl From<Submitted> for pb::SubmitReply {
    fn from(Submitted { job_id, run_id, name, warnings }: Submitted) -> Self {
        Self { job_id, run_id, name, warnings }
    }
}

impl TryFrom<pb::SubmitReply> for Submitted {
    type Error = Violation;

    fn try_from(wire: pb::SubmitReply) -> Parsed<Self> {
        let warnings = texts(wire.warnings, "warnings", MAX_SENTENCE_BYTES)?;
        Ok(Self {
            job_id: wire.job_id,
            run_id: wire.run_id,
            name: text(wire.name, "name", MAX_WORD_BYTES)?,
            warnings,
        })
    }
}

impl From<RunView> for pb::Run {
    fn from(RunView { run_id, attempt, state, node_count, started_at, ended_at, exit }: RunView) -> Self {
        let (started_at, ended_at) = (nanos(started_at), nanos(ended_at));
        Self { run_id, attempt, state, node_count, started_at, ended_at, exit: exit.map(Into::into) }
    }
}

impl TryFrom<pb::Run> for RunView {
    type Error = Violation;

    fn try_from(wire: pb::Run) -> Parsed<Self> {
        Ok(Self {
            run_id: wire.run_id,
            attempt: wire.attempt,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            node_count: wire.node_count,
            started_at: time(wire.started_at),
            ended_at: time(wire.ended_at),
            exit: optional(wire.exit, "exit")?,
        })
    }
}

impl From<TaskView> for pb::Task {
    fn from(view: TaskView) -> Self {
        let TaskView {
            id,
            role,
            index,
            state,
            node,
            ip,
            ports,
            gpus,
            started_at,
            ended_at,
            exit,
            notices,
            progress,
            held_until,
        } = view;
        Self {
            id,
            role,
            index,
            state,
            node,
            ip,
            ports: ports.into_iter().map(|(label, ports)| AssignedPorts { label, ports }.into()).collect(),
            gpus,
            started_at: nanos(started_at),
            ended_at: nanos(ended_at),
            exit: exit.map(Into::into),
            notices,
            progress,
            held_until: nanos(held_until),
        }
    }
}

impl TryFrom<pb::Task> for TaskView {
    type Error = Violation;

    fn try_from(wire: pb::Task) -> Parsed<Self> {
        let ports: Vec<AssignedPorts> = each(wire.ports, "ports")?;
        Ok(Self {
            id: filled(wire.id, "id", MAX_WORD_BYTES)?,
            role: text(wire.role, "role", MAX_WORD_BYTES)?,
            index: wire.index,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            node: optional_text(wire.node, "node", MAX_WORD_BYTES)?,
            ip: optional_text(wire.ip, "ip", MAX_WORD_BYTES)?,
            ports: ports.into_iter().map(|ports| (ports.label, ports.ports)).collect(),
            gpus: texts(wire.gpus, "gpus", MAX_WORD_BYTES)?,
            started_at: time(wire.started_at),
            ended_at: time(wire.ended_at),
            exit: optional(wire.exit, "exit")?,
            notices: texts(wire.notices, "notices", MAX_SENTENCE_BYTES)?,
            progress: optional_text(wire.progress, "progress", MAX_SENTENCE_BYTES)?,
            held_until: time(wire.held_until),
        })
    }
}

impl From<JobView> for pb::Job {
    fn from(view: JobView) -> Self {
        let JobView {
            job_id,
            name,
            user,
            state,
            priority,
            chain_id,
            run_id,
            submitted_at,
            exit,
            reason,
            runs,
            tasks,
            tasks_running,
            tasks_total,
            gpus_total,
            retries,
            next_run_at,
        } = view;
        Self {
            job_id,
            name,
            user,
            state,
            priority,
            chain_id,
            run_id,
            submitted_at: submitted_at.0,
            exit: exit.map(Into::into),
            reason,
            runs: runs.into_iter().map(Into::into).collect(),
            has_tasks: tasks.is_some(),
            tasks: tasks.into_iter().flatten().map(Into::into).collect(),
            tasks_running,
            tasks_total,
            gpus_total,
            retries: Some(retries.into()),
            next_run_at: nanos(next_run_at),
        }
    }
}

impl From<RetriesView> for pb::Retries {
    fn from(RetriesView { user, platform, hardware, asked }: RetriesView) -> Self {
        Self { user, platform, hardware, asked }
    }
}

impl From<pb::Retries> for RetriesView {
    fn from(pb::Retries { user, platform, hardware, asked }: pb::Retries) -> Self {
        Self { user, platform, hardware, asked }
    }
}

impl TryFrom<pb::Job> for JobView {
    type Error = Violation;

    fn try_from(wire: pb::Job) -> Parsed<Self> {
        let tasks: Vec<TaskView> = each(wire.tasks, "tasks")?;
        Ok(Self {
            job_id: wire.job_id,
            name: text(wire.name, "name", MAX_WORD_BYTES)?,
            user: text(wire.user, "user", MAX_WORD_BYTES)?,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            priority: wire.priority,
            chain_id: text(wire.chain_id, "chain_id", MAX_WORD_BYTES)?,
            run_id: wire.run_id,
            submitted_at: Timestamp(wire.submitted_at),
            exit: optional(wire.exit, "exit")?,
            reason: optional_text(wire.reason, "reason", MAX_SENTENCE_BYTES)?,
            runs: each(wire.runs, "runs")?,
            tasks: (wire.has_tasks || !tasks.is_empty()).then_some(tasks),
            tasks_running: wire.tasks_running,
            tasks_total: wire.tasks_total,
            gpus_total: wire.gpus_total,
            retries: wire.retries.map_or_else(RetriesView::default, Into::into),
            next_run_at: time(wire.next_run_at),
        })
    }
}

impl From<ExplainedReason> for pb::ExplainedReason {
    fn from(ExplainedReason { node, reason, need, have }: ExplainedReason) -> Self {
        Self { node, reason, need, have }
    }
}

impl TryFrom<pb::ExplainedReason> for ExplainedReason {
    type Error = Violation;

    fn try_from(wire: pb::ExplainedReason) -> Parsed<Self> {
        Ok(Self {
            node: optional_text(wire.node, "node", MAX_WORD_BYTES)?,
            reason: text(wire.reason, "reason", MAX_WORD_BYTES)?,
            need: text(wire.need, "need", MAX_SENTENCE_BYTES)?,
            have: text(wire.have, "have", MAX_SENTENCE_BYTES)?,
        })
    }
}

impl From<ExplainedTask> for pb::ExplainedTask {
    fn from(ExplainedTask { id, role, index, node, state, detail }: ExplainedTask) -> Self {
        Self { id, role, index, node, state, detail }
    }
}

impl TryFrom<pb::ExplainedTask> for ExplainedTask {
    type Error = Violation;

    fn try_from(wire: pb::ExplainedTask) -> Parsed<Self> {
        Ok(Self {
            id: filled(wire.id, "id", MAX_WORD_BYTES)?,
            role: text(wire.role, "role", MAX_WORD_BYTES)?,
            index: wire.index,
            node: text(wire.node, "node", MAX_WORD_BYTES)?,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            detail: text(wire.detail, "detail", MAX_SENTENCE_BYTES)?,
        })
    }
}

impl From<ExplainedDecision> for pb::ExplainedDecision {
    fn from(ExplainedDecision { time, event, task, node, detail }: ExplainedDecision) -> Self {
        Self { time: time.0, event, task, node, detail }
    }
}

impl TryFrom<pb::ExplainedDecision> for ExplainedDecision {
    type Error = Violation;

    fn try_from(wire: pb::ExplainedDecision) -> Parsed<Self> {
        Ok(Self {
            time: Timestamp(wire.time),
            event: filled(wire.event, "event", MAX_WORD_BYTES)?,
            task: optional_text(wire.task, "task", MAX_WORD_BYTES)?,
            node: optional_text(wire.node, "node", MAX_WORD_BYTES)?,
            detail: text(wire.detail, "detail", MAX_SENTENCE_BYTES)?,
        })
    }
}

impl From<Explanation> for pb::ExplainJobReply {
    fn from(view: Explanation) -> Self {
        Self {
            job_id: view.job_id,
            name: view.name,
            state: view.state,
            summary: view.summary,
            queue_position: view.queue_position,
            reasons: view.reasons.into_iter().map(Into::into).collect(),
            queue_length: view.queue_length,
            virtual_cluster: view.virtual_cluster,
            behind: view.behind,
            never_possible: view.never_possible,
            earliest: view.earliest.map(|time| time.0),
            earliest_note: view.earliest_note,
            nodes_left_out: view.nodes_left_out,
            tasks: view.tasks.into_iter().map(Into::into).collect(),
            tasks_left_out: view.tasks_left_out,
            decisions: view.decisions.into_iter().map(Into::into).collect(),
            decisions_left_out: view.decisions_left_out,
        }
    }
}

impl TryFrom<pb::ExplainJobReply> for Explanation {
    type Error = Violation;

    fn try_from(wire: pb::ExplainJobReply) -> Parsed<Self> {
        Ok(Self {
            job_id: wire.job_id,
            name: text(wire.name, "name", MAX_WORD_BYTES)?,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            summary: text(wire.summary, "summary", MAX_SENTENCE_BYTES)?,
            queue_position: wire.queue_position,
            reasons: each(wire.reasons, "reasons")?,
            queue_length: wire.queue_length,
            virtual_cluster: text(wire.virtual_cluster, "virtual_cluster", MAX_WORD_BYTES)?,
            behind: wire.behind,
            never_possible: wire.never_possible,
            earliest: wire.earliest.map(Timestamp),
            earliest_note: text(wire.earliest_note, "earliest_note", MAX_SENTENCE_BYTES)?,
            nodes_left_out: wire.nodes_left_out,
            tasks: each(wire.tasks, "tasks")?,
            tasks_left_out: wire.tasks_left_out,
            decisions: each(wire.decisions, "decisions")?,
            decisions_left_out: wire.decisions_left_out,
        })
    }
}

impl From<Event> for pb::WatchReply {
    fn from(Event { sequence, time, kind, job, task, node, message }: Event) -> Self {
        Self { sequence, time: time.0, kind, job, task, node, message }
    }
}

impl TryFrom<pb::WatchReply> for Event {
    type Error = Violation;

    fn try_from(wire: pb::WatchReply) -> Parsed<Self> {
        Ok(Self {
            sequence: wire.sequence,
            time: Timestamp(wire.time),
            kind: filled(wire.kind, "kind", MAX_WORD_BYTES)?,
            job: wire.job,
            task: optional_text(wire.task, "task", MAX_WORD_BYTES)?,
            node: optional_text(wire.node, "node", MAX_WORD_BYTES)?,
            message: text(wire.message, "message", MAX_SENTENCE_BYTES)?,
        })
    }
}

pub(in crate::rpc) fn job_filter(all: bool, user: String) -> Parsed<JobFilter> {
    Ok(JobFilter { all, user: maybe(user, "user", MAX_WORD_BYTES)? })
}

pub(in crate::rpc) fn event_filter(wire: pb::WatchRequest) -> Parsed<EventFilter> {
    Ok(EventFilter {
        after: wire.after,
        follow: wire.follow,
        job: maybe(wire.job, "job", MAX_LINE_BYTES)?,
        node: maybe(wire.node, "node", MAX_WORD_BYTES)?,
    })
}
