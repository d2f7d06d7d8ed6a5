//! What commands beside a task share, whichever way they are run: they start on their own, and end for certain.
//!
//! ```text
//! caller asks > started by a tracked task > caller gets the session      (it may have left: then nobody holds it)
//! nobody holds the session > SIGHUP to the command's group > up to 2 s > SIGKILL to the rest of its session
//! task or agent ends       > SIGKILL to the command's session at once
//! agent is killed          > the next one finds the command noted, and kills its session
//! ```
//!
//! What has made a session of its own (`setsid`) is not the command's any more: it ends with the task.

use super::layout::TaskDir;
use super::platform;
use super::process_id::{ProcessId, in_session, kill_if, session_members};
use crate::api::stream::{ExecSession, ExecSignal};
use crate::domain::ids::TaskId;
use crate::runtime::RuntimeError;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// For a command that is hung up to end by itself.
const HANG_UP_GRACE: Duration = Duration::from_secs(2);
/// Looks for processes of a session: those that are forked while others are killed need another one.
const KILL_ROUNDS: u32 = 20;

/// Runs `begin`, which starts a command, and then the command, whatever becomes of the caller: a session that nobody
/// takes is dropped, which hangs its command up.
pub async fn on_its_own<R: Future<Output = ()> + Send>(
    tracker: &TaskTracker,
    id: TaskId,
    begin: impl Future<Output = Result<(ExecSession, R), RuntimeError>> + Send + 'static,
) -> Result<ExecSession, RuntimeError> {
    let (answer, told) = oneshot::channel();
    tracker.spawn(async move {
        match begin.await {
            Ok((session, running)) => {
                drop(answer.send(Ok(session)));
                running.await;
            }
            Err(error) => drop(answer.send(Err(error))),
        }
    });
    told.await.unwrap_or_else(|_| Err(platform("exec", id, "starting the command was given up")))
}

pub const fn signal_of(signal: ExecSignal) -> Signal {
    match signal {
        ExecSignal::Hangup => Signal::SIGHUP,
        ExecSignal::Interrupt => Signal::SIGINT,
        ExecSignal::Quit => Signal::SIGQUIT,
        ExecSignal::Terminate => Signal::SIGTERM,
        ExecSignal::User1 => Signal::SIGUSR1,
        ExecSignal::User2 => Signal::SIGUSR2,
    }
}

/// Signals a command and its children. One that has ended gets nothing.
pub fn signal_group(leader: &ProcessId, signal: Signal) {
    let pid = Pid::from_raw(leader.pid);
    let Ok(Some(pidfd)) = leader.open() else { return };
    if getpgid(Some(pid)).is_ok_and(|group| group == pid) {
        killpg(pid, signal).ok();
    } else {
        pidfd.signal(signal as i32).ok();
    }
}

/// Ends a command that nobody listens to any more; `ended` is when it has.
pub async fn hang_up(leader: &ProcessId, uid: u32, ended: impl Future<Output = ()>) {
    signal_group(leader, Signal::SIGHUP);
    // One that was stopped would not notice.
    signal_group(leader, Signal::SIGCONT);
    tokio::time::timeout(HANG_UP_GRACE, ended).await.ok();
    end_session(leader, uid).await;
}

/// A note of a command that runs, gone with this: what it still names when an agent starts has lost its caller.
#[derive(Debug)]
pub struct Noted(Option<PathBuf>);

impl Noted {
    /// Blocking, but brief. Without a note only an agent's violent end leaves the command behind.
    pub fn of(dir: &TaskDir, leader: &ProcessId) -> Self {
        let noted = dir.note_exec(leader);
        Self(noted.inspect_err(|error| tracing::warn!(%error, "a command beside a task is not noted")).ok())
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Ends the commands whose callers have gone with an earlier agent process.
pub async fn end_left(left: Vec<ProcessId>, uid: u32) {
    for leader in left {
        end_session(&leader, uid).await;
    }
}

/// Kills every process of the session that a command leads, or led.
pub async fn end_session(leader: &ProcessId, uid: u32) {
    for _ in 0..KILL_ROUNDS {
        let leader = leader.clone();
        let kill = move || {
            let members = session_members(&leader, uid);
            members.iter().for_each(|pid| kill_if(*pid, |pid| in_session(pid, &leader, uid)));
            members.is_empty()
        };
        if tokio::task::spawn_blocking(kill).await.unwrap_or(true) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
