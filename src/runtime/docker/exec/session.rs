//! Carries input and output of one command until it or its task has ended, or nobody wants to know.

use super::super::daemon::{ANSWER_DEADLINE, Daemon, DaemonError};
use super::upgrade::{Input, Output};
use crate::api::stream::ExecOutput;
use crate::domain::command::Error;
use crate::domain::ids::TaskId;
use crate::runtime::shimmed::process_id::{PidFd, ProcessEnd, ProcessId};
use crate::runtime::shimmed::supervisor::State;
use bollard::models::ExecInspectResponse;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How long children of the command may hold its output after its end. A reader that is slow costs nothing of it.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// What may be on its way when the command ends; what comes after it is not the command's.
const DRAIN_BYTES: usize = 1024 * 1024;
/// dockerd takes note of an end a moment after the kernel.
const CODE_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Control-D: how a terminal says end of input.
const END_OF_TRANSMISSION: u8 = 4;

type Answer = Result<ExecOutput, Error>;

/// A command that dockerd has started.
pub struct Running {
    pub daemon: Daemon,
    /// dockerd's id of it.
    pub exec: String,
    pub output: Output,
    pub input: Input,
    pub tty: bool,
}

pub async fn inspect(daemon: &Daemon, exec: &str) -> Result<ExecInspectResponse, DaemonError> {
    let of = exec.to_owned();
    let inspect = |docker: bollard::Docker| async move { docker.inspect_exec(&of).await };
    daemon.call("inspect the command", exec, ANSWER_DEADLINE, inspect).await
}

pub struct Session {
    pub running: Running,
    pub process: Option<(ProcessId, PidFd)>,
    pub input: mpsc::Receiver<Vec<u8>>,
    pub output: mpsc::Sender<Answer>,
    pub cancel: CancellationToken,
    pub state: watch::Receiver<State>,
    pub id: TaskId,
}

impl Session {
    pub async fn run(self) {
        let Self { running, process, input, output, cancel, mut state, id } = self;
        let Running { daemon, exec, output: stream, input: stdin, tty } = running;
        let (leader, end) = match process.map(|(leader, pidfd)| (leader, pidfd.watch())) {
            Some((leader, Ok(end))) => (Some(leader), Some(end)),
            _ => (None, None),
        };
        let feed = feed(stdin, input, tty);
        let copy = copy(stream, &output, end.as_ref());
        tokio::pin!(feed, copy);
        let mut feeding = true;
        let whole = loop {
            tokio::select! {
                biased;
                () = &mut copy => break true,
                () = cancel.cancelled() => break false,
                () = output.closed() => break false,
                // Without its task it does not run any more.
                _ = state.wait_for(|now| matches!(now, State::Ended { .. })) => break false,
                () = &mut feed, if feeding => feeding = false,
            }
        };
        if !whole {
            if let (Some(leader), Some(end)) = (&leader, &end) {
                kill(leader, end);
            }
            return;
        }
        let told = async {
            let answer = match code(&daemon, &exec).await {
                Ok(code) => Ok(ExecOutput::Exited(code)),
                Err(error) => Err(Error::unavailable(format!("exec in task {id}: {error}"))),
            };
            output.send(answer).await.ok();
        };
        tokio::select! {
            () = told => {}
            () = cancel.cancelled() => {}
        }
    }
}

/// The command leads a session and a process group of its own.
fn kill(leader: &ProcessId, end: &ProcessEnd) {
    let pid = nix::unistd::Pid::from_raw(leader.pid);
    let leads = nix::unistd::getpgid(Some(pid)).is_ok_and(|group| group == pid);
    if leads && leader.is_alive().unwrap_or(false) {
        nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGKILL).ok();
    }
    end.kill().ok();
}

async fn feed(mut stdin: Input, mut input: mpsc::Receiver<Vec<u8>>, tty: bool) {
    while let Some(bytes) = input.recv().await {
        if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
            // The command reads no more; what is sent from now on is dropped.
            input.close();
        }
    }
    if tty {
        // Closing our half would end a terminal's output as well.
        stdin.write_all(&[END_OF_TRANSMISSION]).await.ok();
        stdin.flush().await.ok();
        return std::future::pending().await;
    }
    stdin.shutdown().await.ok();
    std::future::pending().await
}

/// Copies to the end; once the command has ended, for so long and so much as its children may go on.
async fn copy(mut from: Output, output: &mpsc::Sender<Answer>, end: Option<&ProcessEnd>) {
    let (mut time_left, mut bytes_left, mut ended) = (DRAIN_DEADLINE, DRAIN_BYTES, false);
    loop {
        let read = from.next();
        tokio::pin!(read);
        let read = if ended {
            let begun = Instant::now();
            let Ok(read) = tokio::time::timeout(time_left, read).await else { return };
            time_left = time_left.saturating_sub(begun.elapsed());
            read
        } else {
            tokio::select! {
                biased;
                read = &mut read => read,
                () = ended_of(end) => {
                    ended = true;
                    continue;
                }
            }
        };
        let Some(Ok(message)) = read else { return };
        if ended {
            let (ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) = &message else { continue };
            let Some(left) = bytes_left.checked_sub(bytes.len()) else { return };
            bytes_left = left;
        }
        if output.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

async fn ended_of(end: Option<&ProcessEnd>) {
    match end {
        Some(end) => drop(end.ended().await),
        None => std::future::pending().await,
    }
}

/// The exit code, 128 and the signal's number for one that was killed.
async fn code(daemon: &Daemon, exec: &str) -> Result<i32, DaemonError> {
    let give_up = Instant::now() + CODE_DEADLINE;
    loop {
        let found = inspect(daemon, exec).await?;
        let code = found.exit_code.and_then(|code| i32::try_from(code).ok());
        if let (Some(code), false) = (code, found.running.unwrap_or(false)) {
            return Ok(code);
        }
        if Instant::now() >= give_up {
            return Ok(255);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
