//! What values hold, and how they are read back.

use super::keys::corrupt;
use crate::domain::command::{Error, Registration};
use crate::domain::exit::Exit;
use crate::domain::ids::{NodeName, Term};
use crate::domain::level::{self, Level};
use crate::domain::run::{RunTask, Seat};
use crate::domain::spec::JobSpec;
use crate::domain::task::TaskState;
use crate::domain::time::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A seat as stored: position, then where.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredSeat {
    pub(super) role: u32,
    pub(super) index: u32,
    pub(super) seat: Seat,
}

/// A task as stored beside its seat.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredTask {
    pub(super) state: TaskState,
    pub(super) staged: bool,
    /// The agent has let go of it: its seat is free.
    pub(super) released: bool,
    pub(super) started_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) exit: Option<Exit>,
    pub(super) notices: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) held_until: Option<Timestamp>,
}

pub(super) fn loaded_task(role: u32, index: u32, seat: Seat, record: Option<StoredTask>, settled: bool) -> RunTask {
    let record =
        record.unwrap_or_else(|| StoredTask { state: TaskState::Waiting, released: false, ..StoredTask::freed() });
    RunTask {
        role,
        index,
        seat,
        state: record.state,
        staged: record.staged,
        released: record.released || settled,
        started_at: record.started_at,
        ended_at: record.ended_at,
        exit: record.exit,
        notices: record.notices,
        held_until: record.held_until,
    }
}

impl StoredTask {
    /// Of a generation that was rolled back, and has nothing left.
    pub(super) fn freed() -> Self {
        Self {
            state: TaskState::Stopped,
            staged: false,
            released: true,
            started_at: None,
            ended_at: None,
            exit: None,
            notices: Vec::new(),
            held_until: None,
        }
    }
}

pub(super) fn stored_task(task: &RunTask) -> StoredTask {
    StoredTask {
        state: task.state,
        staged: task.staged,
        released: task.released,
        started_at: task.started_at,
        ended_at: task.ended_at,
        exit: task.exit.clone(),
        notices: task.notices.clone(),
        held_until: task.held_until,
    }
}

/// A registration as stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredNode {
    pub(super) name: NodeName,
    pub(super) node_uid: String,
    pub(super) journal_id: String,
    pub(super) address: String,
    pub(super) task_ip: String,
    pub(super) version: String,
    pub(super) inventory: crate::domain::task::Inventory,
}

impl StoredNode {
    pub(super) fn of(registration: &Registration) -> Self {
        Self {
            name: registration.name.clone(),
            node_uid: registration.node_uid.0.clone(),
            journal_id: registration.journal_id.0.clone(),
            address: registration.address.clone(),
            task_ip: registration.task_ip.clone(),
            version: registration.version.clone(),
            inventory: registration.inventory.clone(),
        }
    }

    pub(super) fn registration(self) -> Registration {
        Registration {
            name: self.name,
            node_uid: self.node_uid.as_str().into(),
            journal_id: self.journal_id.as_str().into(),
            address: self.address,
            task_ip: self.task_ip,
            version: self.version,
            inventory: self.inventory,
            cluster_id: String::new(),
            term: Term(0),
            level: Level::FIRST,
        }
    }
}

/// How many bytes a specification takes in the store.
pub(in crate::controller) fn spec_bytes(spec: &JobSpec) -> usize {
    json(spec).len()
}

/// Bytes that a registration takes in the store.
pub(in crate::controller) fn registration_bytes(registration: &Registration) -> usize {
    json(&StoredNode::of(registration)).len()
}

pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    let json = serde_json::to_vec(value);
    level::grown(json.expect("our own records have text keys and finite numbers, which JSON can hold"))
}

pub(super) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| corrupt(key, &error.to_string()))
}
