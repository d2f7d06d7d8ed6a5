//! What a task leaves on this machine as a container: killed without dockerd, removed with it. Gone is a container that
//! dockerd does not know any more and of whose processes none lives.

use super::ContainerFacts;
use super::Containers;
use super::cgroup::ContainerGroups;
use super::creation::Creations;
use super::daemon::{ANSWER_DEADLINE, Daemon, DaemonError};
use super::identity::Found;
use super::request::{LABEL_NODE_UID, LABEL_TASK, SHIM_TARGET};
use crate::domain::ids::TaskId;
use crate::runtime::shimmed::layout::{Layout, TaskDir, TaskRecord, undamaged};
use crate::runtime::shimmed::{Kind, Remains};
use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::{Duration, Instant};

/// Removing waits for processes, mounts and the disk.
const REMOVE_DEADLINE: Duration = Duration::from_secs(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Where a node's containers are looked for.
#[derive(Debug, Clone)]
pub struct Place {
    pub daemon: Daemon,
    pub creations: Creations,
    pub node_uid: String,
    pub layout: Layout,
}

/// A task's container, as far as anything is known of it.
#[derive(Debug)]
pub struct Container {
    place: Place,
    id: TaskId,
    record: io::Result<Option<TaskRecord<ContainerFacts>>>,
}

impl Container {
    pub fn read(place: Place, id: TaskId, dir: &TaskDir) -> Self {
        Self { place, id, record: undamaged(dir.read_task(Containers::NAME)) }
    }

    fn record(&self) -> io::Result<Option<&TaskRecord<ContainerFacts>>> {
        match &self.record {
            Ok(record) => Ok(record.as_ref()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        }
    }

    /// Those of ours that dockerd has: the journalled one, and without a record whatever has all our signs.
    async fn ours(&self) -> Result<Vec<Found>, DaemonError> {
        let Ok(Some(record)) = &self.record else {
            let claimed = self.place.claimed(Some(self.id)).await?;
            return Ok(claimed.into_iter().map(|(_, found)| found).collect());
        };
        if record.facts.started.is_none() {
            self.place.creations.decided(&record.facts.name).await?;
        }
        // By its id: its name may have been changed.
        let name = record.facts.started.as_ref().map_or(&record.facts.name, |started| &started.container);
        let found = self.place.inspect(name).await?;
        Ok(found.into_iter().filter(|found| found.has_nonce(&record.nonce)).collect())
    }

    async fn remove_once(&self) -> Result<(), DaemonError> {
        for found in self.ours().await? {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let of = found.id.clone();
            let remove = |docker: bollard::Docker| async move { docker.remove_container(&of, Some(options)).await };
            match self.place.daemon.call("remove the container", &found.id, REMOVE_DEADLINE, remove).await {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Remains for Container {
    async fn kill(&self, deadline: Duration) -> io::Result<()> {
        let Some(record) = self.record()? else { return Ok(()) };
        match &record.facts.started {
            Some(started) => kill_until(&started.groups, deadline).await,
            // It may have been made and started before anybody took note: only dockerd knows.
            None => Ok(self.remove_once().await?),
        }
    }

    async fn remove(&self, deadline: Duration) -> io::Result<()> {
        let end = Instant::now() + deadline;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.remove_once().await {
                Ok(()) => break,
                // Nobody to wait for: whoever wants it asks again.
                Err(error) if error.is_no_answer() || Instant::now() >= end => return Err(error.into()),
                Err(error) => error,
            };
            tracing::debug!(task = %self.id, %error, "removing a container");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        // dockerd's word is not the kernel's.
        self.kill(end.saturating_duration_since(Instant::now())).await
    }

    /// Every attempt has a name of its own, so without a record nothing is in the way.
    async fn make_way(&self, deadline: Duration) -> io::Result<()> {
        if self.record()?.is_none() { Ok(()) } else { self.remove(deadline).await }
    }

    fn finds_shim(&self) -> bool {
        matches!(&self.record, Ok(Some(record)) if record.facts.started.is_some())
    }
}

/// Kills until nobody is left. `Err` names who is at the deadline.
async fn kill_until(groups: &ContainerGroups, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        let round = groups.clone();
        let left = tokio::task::spawn_blocking(move || round.kill_once()).await.map_err(io::Error::other)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            let pids: Vec<_> = left.iter().map(i32::to_string).collect();
            return Err(io::Error::other(format!("processes do not end: {}", pids.join(", "))));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

impl Place {
    /// Tasks with a container here that has all our signs. Others that claim to be ours are left alone, and told.
    pub async fn tasks(&self) -> io::Result<BTreeSet<TaskId>> {
        Ok(self.claimed(None).await?.into_iter().map(|(id, _)| id).collect())
    }

    async fn claimed(&self, task: Option<TaskId>) -> Result<Vec<(TaskId, Found)>, DaemonError> {
        let mut labels = vec![format!("{LABEL_NODE_UID}={}", self.node_uid)];
        labels.extend(task.map(|id| format!("{LABEL_TASK}={id}")));
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = |docker: bollard::Docker| async move { docker.list_containers(Some(options)).await };
        let listed = self.daemon.call("list the containers of", "this node", ANSWER_DEADLINE, list).await?;
        let mut ours = Vec::new();
        for found in listed.into_iter().map(of_summary) {
            let Some(id) = found.claims(&self.node_uid) else { continue };
            if found.is_ours(&self.node_uid, id, &self.layout.task(id).socket_dir) {
                ours.push((id, found));
            } else {
                let name = found.names.join(" ");
                tracing::warn!(container = found.id, name, task = %id, "it has our labels and is not ours: left alone");
            }
        }
        Ok(ours)
    }

    async fn inspect(&self, name: &str) -> Result<Option<Found>, DaemonError> {
        let of = name.to_owned();
        let inspect = |docker: bollard::Docker| async move { docker.inspect_container(&of, None).await };
        match self.daemon.call("inspect the container", name, ANSWER_DEADLINE, inspect).await {
            Ok(found) => Ok(Some(of_inspection(found))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn of_summary(found: ContainerSummary) -> Found {
    let mounts = found.mounts.unwrap_or_default().into_iter();
    let mounted =
        mounts.filter(|mount| mount.destination.as_deref() == Some(SHIM_TARGET)).find_map(|mount| mount.source);
    Found {
        id: found.id.unwrap_or_default(),
        names: found.names.unwrap_or_default(),
        labels: found.labels.unwrap_or_default(),
        mounted,
    }
}

fn of_inspection(found: ContainerInspectResponse) -> Found {
    let mounts = found.mounts.unwrap_or_default().into_iter();
    let mounted =
        mounts.filter(|mount| mount.destination.as_deref() == Some(SHIM_TARGET)).find_map(|mount| mount.source);
    Found {
        id: found.id.unwrap_or_default(),
        names: found.name.into_iter().collect(),
        labels: found.config.and_then(|config| config.labels).unwrap_or_default(),
        mounted,
    }
}
