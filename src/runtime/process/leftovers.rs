//! Ends what a shim left behind: by control group where there is one, elsewhere by session and by environment.

use super::cgroup::TaskGroups;
use super::{ProcessFacts, Processes};
use crate::runtime::shimmed::layout::{TaskDir, undamaged};
use crate::runtime::shimmed::process_id::{self, ProcessId};
use crate::runtime::shimmed::{Kind, Remains};
use async_trait::async_trait;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The variable by which a task's processes are known where there are no groups. Its value is the task's nonce: ids
/// of tasks come again with another controller, and two of those may share a machine.
pub const MARK: &str = "WHARF_TASK_NONCE";

/// Where a task's processes are looked for.
#[derive(Debug)]
pub struct Leftovers {
    pub dir: TaskDir,
    pub groups: TaskGroups,
}

#[async_trait]
impl Remains for Leftovers {
    async fn kill(&self, deadline: Duration) -> io::Result<()> {
        let (dir, groups) = (self.dir.clone(), self.groups.clone());
        let traces = tokio::task::spawn_blocking(move || Traces::read(&dir, groups)).await;
        kill_until(traces.map_err(io::Error::other)??, deadline).await
    }

    async fn remove(&self, deadline: Duration) -> io::Result<()> {
        self.groups.remove(deadline).await
    }

    /// The groups know everybody.
    fn finds_shim(&self) -> bool {
        !self.groups.is_empty()
    }
}

/// By what the processes of one task are known.
#[derive(Debug, Clone)]
struct Traces {
    groups: TaskGroups,
    /// Who led a session of it.
    leaders: Vec<ProcessId>,
    /// Its user, and the entry of its environment; unknown where its record is lost.
    owner: Option<(u32, Vec<u8>)>,
}

impl Traces {
    /// Reads what is on disk about the task; blocking. Without groups, which know everybody, it must be readable.
    fn read(dir: &TaskDir, groups: TaskGroups) -> io::Result<Self> {
        let read = || -> io::Result<_> {
            Ok((undamaged(dir.read_task::<ProcessFacts>(Processes::NAME))?, dir.session_leaders()?))
        };
        let (record, leaders) = match read() {
            Ok(read) => read,
            Err(error) if groups.is_empty() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "ending a task by its control groups alone");
                (None, Vec::new())
            }
        };
        let owner = record.map(|record| (record.facts.account.uid, format!("{MARK}={}", record.nonce).into_bytes()));
        Ok(Self { groups, leaders, owner })
    }

    /// One round of killing; the processes that it found.
    fn kill_once(&self) -> Vec<i32> {
        let mut left: Vec<i32> = self.groups.members().into_iter().collect();
        if !left.is_empty() {
            self.groups.kill();
        }
        // With groups the kernel has counted everybody; the rest is the second best.
        let Some((uid, mark)) = self.owner.as_ref().filter(|_| self.groups.is_empty()) else { return left };
        for leader in &self.leaders {
            for pid in process_id::session_members(leader, *uid) {
                process_id::kill_if(pid, |pid| process_id::in_session(pid, leader, *uid));
                left.push(pid);
            }
        }
        for pid in process_id::marked(mark, *uid) {
            process_id::kill_if(pid, |pid| process_id::is_marked(pid, mark, *uid));
            left.push(pid);
        }
        left.sort_unstable();
        left.dedup();
        left
    }
}

/// Kills until nothing is left. `Err` names what is left at the deadline.
async fn kill_until(traces: Traces, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(2);
    let traces = Arc::new(traces);
    loop {
        let round = traces.clone();
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
