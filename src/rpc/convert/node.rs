//! Nodes: as they introduce themselves, as they report, as operators see them.

use super::{
    MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, each, fault, filled, inner, nanos, optional,
    optional_text, task_id, text, texts, time,
};
use crate::api::agent::{NodeInfo, WatchedStatus};
use crate::domain::command::{Heartbeat, HeartbeatReply, Registered, Registration, Violation};
use crate::domain::fault::FaultId;
use crate::domain::ids::{GpuUuid, JournalId, NodeName, NodeUid, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::principal::Principal;
use crate::domain::remediation::{GoingOut, Permit};
use crate::domain::view::{NodeDetail, NodeTask, NodeView};
use crate::rpc::generated as pb;

fn node_name(value: String) -> Parsed<NodeName> {
    filled(value, "name", MAX_WORD_BYTES).map(NodeName)
}

fn node_uid(value: String) -> Parsed<NodeUid> {
    filled(value, "node_uid", MAX_WORD_BYTES).map(NodeUid)
}

fn journal_id(value: String) -> Parsed<JournalId> {
    filled(value, "journal_id", MAX_WORD_BYTES).map(JournalId)
}

/// Whose journal a report is from.
pub(in crate::rpc) fn journal(uid: String, journal: String) -> Parsed<(NodeUid, JournalId)> {
    Ok((node_uid(uid)?, journal_id(journal)?))
}

impl From<NodeInfo> for pb::GetNodeReply {
    fn from(NodeInfo { name, node_uid, journal_id, version, inventory, gpus, term }: NodeInfo) -> Self {
        Self {
            name: name.0,
            node_uid: node_uid.0,
            journal_id: journal_id.0,
            version,
            inventory: Some(inventory.into()),
            gpus: gpus.into_iter().map(Into::into).collect(),
            term: term.0,
        }
    }
}

impl TryFrom<pb::GetNodeReply> for NodeInfo {
    type Error = Violation;

    fn try_from(wire: pb::GetNodeReply) -> Parsed<Self> {
        Ok(Self {
            name: node_name(wire.name)?,
            node_uid: node_uid(wire.node_uid)?,
            journal_id: journal_id(wire.journal_id)?,
            version: text(wire.version, "version", MAX_WORD_BYTES)?,
            inventory: inner(wire.inventory, "inventory")?,
            gpus: each(wire.gpus, "gpus")?,
            term: Term(wire.term),
        })
    }
}

impl From<WatchedStatus> for pb::WatchTasksReply {
    fn from(WatchedStatus { status, cursor }: WatchedStatus) -> Self {
        Self { status: Some(status.into()), cursor }
    }
}

impl TryFrom<pb::WatchTasksReply> for WatchedStatus {
    type Error = Violation;

    fn try_from(wire: pb::WatchTasksReply) -> Parsed<Self> {
        Ok(Self { status: inner(wire.status, "status")?, cursor: text(wire.cursor, "cursor", MAX_LINE_BYTES)? })
    }
}

impl From<NodeView> for pb::Node {
    fn from(view: NodeView) -> Self {
        let NodeView {
            name,
            address,
            state,
            reason,
            gpus_total,
            gpus_free,
            cpus,
            memory_mb,
            labels,
            version,
            node_uid,
            last_heartbeat,
            gpu_driver,
            standing,
            by,
            since,
            deadline,
            tasks_held,
        } = view;
        Self {
            name,
            address,
            state,
            reason,
            gpus_total,
            gpus_free,
            cpus,
            memory_mb,
            labels: labels.into_iter().collect(),
            version,
            node_uid,
            last_heartbeat: nanos(last_heartbeat),
            gpu_driver: Some(gpu_driver.into()),
            standing,
            by,
            since: nanos(since),
            deadline: nanos(deadline),
            tasks_held,
        }
    }
}

impl TryFrom<pb::Node> for NodeView {
    type Error = Violation;

    fn try_from(wire: pb::Node) -> Parsed<Self> {
        Ok(Self {
            name: filled(wire.name, "name", MAX_WORD_BYTES)?,
            address: text(wire.address, "address", MAX_LINE_BYTES)?,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            reason: optional_text(wire.reason, "reason", MAX_SENTENCE_BYTES)?,
            gpus_total: wire.gpus_total,
            gpus_free: wire.gpus_free,
            cpus: wire.cpus,
            memory_mb: wire.memory_mb,
            labels: wire.labels.into_iter().collect(),
            version: text(wire.version, "version", MAX_WORD_BYTES)?,
            node_uid: text(wire.node_uid, "node_uid", MAX_WORD_BYTES)?,
            last_heartbeat: time(wire.last_heartbeat),
            gpu_driver: optional(wire.gpu_driver, "gpu_driver")?.unwrap_or_default(),
            standing: text(wire.standing, "standing", MAX_WORD_BYTES)?,
            by: optional_text(wire.by, "by", MAX_WORD_BYTES)?,
            since: time(wire.since),
            deadline: time(wire.deadline),
            tasks_held: wire.tasks_held,
        })
    }
}

impl From<NodeDetail> for pb::NodeDetail {
    fn from(NodeDetail { node, cpus_free, memory_free_mb, gpus, tasks }: NodeDetail) -> Self {
        Self {
            node: Some(node.into()),
            cpus_free,
            memory_free_mb,
            gpus: gpus.into_iter().map(Into::into).collect(),
            tasks: tasks.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::NodeDetail> for NodeDetail {
    type Error = Violation;

    fn try_from(wire: pb::NodeDetail) -> Parsed<Self> {
        Ok(Self {
            node: inner(wire.node, "node")?,
            cpus_free: wire.cpus_free,
            memory_free_mb: wire.memory_free_mb,
            gpus: each(wire.gpus, "gpus")?,
            tasks: each(wire.tasks, "tasks")?,
        })
    }
}

impl From<NodeTask> for pb::NodeTask {
    fn from(task: NodeTask) -> Self {
        let NodeTask { id, job_id, job, user, role, index, state, gpus, cpus, memory_mb, started_at } = task;
        let started_at = nanos(started_at);
        Self { id, job_id, job, user, role, index, state, gpus, cpus, memory_mb, started_at }
    }
}

impl TryFrom<pb::NodeTask> for NodeTask {
    type Error = Violation;

    fn try_from(wire: pb::NodeTask) -> Parsed<Self> {
        Ok(Self {
            id: filled(wire.id, "id", MAX_WORD_BYTES)?,
            job_id: wire.job_id,
            job: text(wire.job, "job", MAX_WORD_BYTES)?,
            user: text(wire.user, "user", MAX_WORD_BYTES)?,
            role: text(wire.role, "role", MAX_WORD_BYTES)?,
            index: wire.index,
            state: filled(wire.state, "state", MAX_WORD_BYTES)?,
            gpus: texts(wire.gpus, "gpus", MAX_WORD_BYTES)?,
            cpus: wire.cpus,
            memory_mb: wire.memory_mb,
            started_at: time(wire.started_at),
        })
    }
}

/// The request that introduces a node.
pub(in crate::rpc) fn register_request(who: Principal, registration: Registration) -> pb::RegisterRequest {
    let Registration { name, node_uid, journal_id, address, task_ip, version, inventory, cluster_id, term, level } =
        registration;
    pb::RegisterRequest {
        principal: Some(who.into()),
        name: name.0,
        node_uid: node_uid.0,
        journal_id: journal_id.0,
        address,
        task_ip,
        version,
        inventory: Some(inventory.into()),
        cluster_id,
        term: term.0,
        level: level.0,
    }
}

impl TryFrom<pb::RegisterRequest> for Registration {
    type Error = Violation;

    fn try_from(wire: pb::RegisterRequest) -> Parsed<Self> {
        Ok(Self {
            name: node_name(wire.name)?,
            node_uid: node_uid(wire.node_uid)?,
            journal_id: journal_id(wire.journal_id)?,
            address: filled(wire.address, "address", MAX_LINE_BYTES)?,
            task_ip: text(wire.task_ip, "task_ip", MAX_WORD_BYTES)?,
            version: text(wire.version, "version", MAX_WORD_BYTES)?,
            inventory: inner(wire.inventory, "inventory")?,
            cluster_id: text(wire.cluster_id, "cluster_id", MAX_WORD_BYTES)?,
            term: Term(wire.term),
            level: Level::of_wire(wire.level),
        })
    }
}

impl From<Registered> for pb::RegisterReply {
    fn from(Registered { cluster_id, term, heartbeat_ms, level }: Registered) -> Self {
        Self { cluster_id, term: term.0, heartbeat_ms, level: level.0 }
    }
}

impl TryFrom<pb::RegisterReply> for Registered {
    type Error = Violation;

    fn try_from(wire: pb::RegisterReply) -> Parsed<Self> {
        let cluster_id = filled(wire.cluster_id, "cluster_id", MAX_WORD_BYTES)?;
        let level = Level::of_wire(wire.level);
        Ok(Self { cluster_id, term: Term(wire.term), heartbeat_ms: wire.heartbeat_ms, level })
    }
}

/// The request that keeps a node alive.
pub(in crate::rpc) fn heartbeat_request(who: Principal, heartbeat: Heartbeat) -> pb::HeartbeatRequest {
    let Heartbeat { node_uid, journal_id, samples, progress, faults_version, faults, going_out } = heartbeat;
    let told = |(task, text): (TaskId, String)| pb::TaskProgress { task: task.to_string(), text };
    pb::HeartbeatRequest {
        principal: Some(who.into()),
        node_uid: node_uid.0,
        journal_id: journal_id.0,
        samples: samples.into_iter().map(Into::into).collect(),
        progress: progress.into_iter().map(told).collect(),
        faults_version,
        faults: faults.map(fault::list),
        going_out: going_out.map(|out| pb::GoingOut { fault: out.fault.0, begun: out.begun }),
    }
}

impl TryFrom<pb::HeartbeatRequest> for Heartbeat {
    type Error = Violation;

    fn try_from(mut wire: pb::HeartbeatRequest) -> Parsed<Self> {
        let one = |(i, mut wire): (usize, pb::GpuSample)| {
            let uuid = filled(std::mem::take(&mut wire.uuid), &format!("samples[{i}].uuid"), MAX_WORD_BYTES)?;
            Ok((GpuUuid(uuid), super::gpu::sample(wire)))
        };
        let samples = std::mem::take(&mut wire.samples).into_iter().enumerate().map(one).collect::<Parsed<_>>()?;
        let told = |(i, wire): (usize, pb::TaskProgress)| {
            let task = task_id(&wire.task, &format!("progress[{i}].task"))?;
            Ok((task, text(wire.text, &format!("progress[{i}].text"), MAX_SENTENCE_BYTES)?))
        };
        let progress = std::mem::take(&mut wire.progress).into_iter().enumerate().map(told).collect::<Parsed<_>>()?;
        let (node_uid, journal_id) = journal(wire.node_uid, wire.journal_id)?;
        let faults = wire.faults.map(fault::parsed);
        let going_out = wire.going_out.map(|out| GoingOut { fault: FaultId(out.fault), begun: out.begun });
        Ok(Self { node_uid, journal_id, samples, progress, faults_version: wire.faults_version, faults, going_out })
    }
}

impl From<HeartbeatReply> for pb::HeartbeatReply {
    fn from(HeartbeatReply { term, register_again, faults_version, permit }: HeartbeatReply) -> Self {
        let permit = permit.map(|Permit { fault, refusal }| pb::Permit {
            fault: fault.0,
            granted: refusal.is_none(),
            reason: refusal.unwrap_or_default(),
        });
        Self { term: term.0, register_again, faults_version, permit }
    }
}

impl TryFrom<pb::HeartbeatReply> for HeartbeatReply {
    type Error = Violation;

    fn try_from(wire: pb::HeartbeatReply) -> Parsed<Self> {
        let faults_version = wire.faults_version;
        let permit = wire.permit.map(|permit| {
            let reason = text(permit.reason, "permit.reason", MAX_SENTENCE_BYTES)?;
            Ok(Permit { fault: FaultId(permit.fault), refusal: (!permit.granted).then_some(reason) })
        });
        let permit = permit.transpose()?;
        Ok(Self { term: Term(wire.term), register_again: wire.register_again, faults_version, permit })
    }
}
