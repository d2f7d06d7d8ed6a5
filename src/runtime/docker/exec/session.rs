//! Carries input and output of one command until it or its task has ended, or nobody wants to know.

use super::super::daemon::{ANSWER_DEADLINE, Daemon, DaemonError};
use super::upgrade::{Input, Output};
use crate::api::stream::{ExecInput, ExecOutput};
use crate::domain::command::Error;
use crate::domain::ids::TaskId;
use crate::runtime::shimmed::exec::{end_session, hang_up, signal_group, signal_of};
use crate::runtime::shimmed::process_id::{PidFd, ProcessEnd, ProcessId};
use crate::runtime::shimmed::supervisor::State;
use bollard::Docker;
use bollard::exec::ResizeExecOptions;
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
/// Whether dockerd still knows a command that runs on without output.
const ASK_PAUSE: Duration = Duration::from_secs(2);
/// Meanwhile nothing that is typed arrives.
const RESIZE_DEADLINE: Duration = Duration::from_secs(2);
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
    let inspect = |docker: Docker| async move { docker.inspect_exec(&of).await };
    daemon.call("inspect the command", exec, ANSWER_DEADLINE, inspect).await
}

pub struct Session {
    pub running: Running,
    pub process: Option<(ProcessId, PidFd)>,
    pub uid: u32,
    pub input: mpsc::Receiver<ExecInput>,
    pub output: mpsc::Sender<Answer>,
    pub cancel: CancellationToken,
    pub state: watch::Receiver<State>,
    pub id: TaskId,
}

impl Session {
    pub async fn run(self) {
        let Self { running, process, uid, input, output, cancel, mut state, id } = self;
        let Running { daemon, exec, output: stream, input: stdin, tty } = running;
        let (leader, end) = match process.map(|(leader, pidfd)| (leader, pidfd.watch())) {
            Some((leader, Ok(end))) => (Some(leader), Some(end)),
            _ => (None, None),
        };
        let to = Controls { daemon: daemon.clone(), exec: exec.clone(), leader: leader.clone(), tty };
        let mut feed = Box::pin(feed(stdin, input, to));
        let mut copy = Box::pin(copy(stream, &output, end.as_ref()));
        let (mut feeding, mut listened_to) = (true, true);
        let whole = loop {
            tokio::select! {
                biased;
                () = &mut copy => break true,
                () = cancel.cancelled() => break false,
                () = output.closed() => {
                    listened_to = false;
                    break false;
                }
                // Without its task it does not run any more.
                _ = state.wait_for(|now| matches!(now, State::Ended { .. })) => break false,
                () = &mut feed, if feeding => feeding = false,
            }
        };
        if whole {
            // Its output may be closed while it runs on: then what goes in still does.
            let code = async {
                tokio::select! {
                    code = code(&daemon, &exec, end.as_ref()) => Some(code),
                    () = output.closed() => None,
                }
            };
            tokio::pin!(code);
            let code = loop {
                tokio::select! {
                    code = &mut code => break code,
                    () = cancel.cancelled() => break None,
                    () = &mut feed, if feeding => feeding = false,
                }
            };
            listened_to = code.is_some() || cancel.is_cancelled();
            let told = matches!(code, Some(Ok(_)));
            if let Some(code) = code {
                let unknown = |error| Error::unavailable(format!("exec in task {id}: {error}"));
                let answer = code.map(ExecOutput::Exited).map_err(unknown);
                tokio::select! {
                    _ = output.send(answer) => {}
                    () = cancel.cancelled() => {}
                }
            }
            if told {
                return;
            }
        }
        drop(feed);
        // Nobody knows of it any more: it must not go on.
        let (Some(leader), Some(end)) = (&leader, &end) else { return };
        if !listened_to {
            // Its output is read on, for what it says at its end.
            let read_on = async {
                if !whole {
                    copy.await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = hang_up(leader, uid, async { end.seen().await.unwrap_or(()) }) => {}
                () = cancel.cancelled() => {}
                () = read_on => {}
            }
        }
        end_session(leader, uid).await;
        end.kill().ok();
    }
}

/// What of a command can be reached beside its input.
struct Controls {
    daemon: Daemon,
    exec: String,
    leader: Option<ProcessId>,
    tty: bool,
}

impl Controls {
    async fn resize(&self, height: u16, width: u16) {
        if self.tty {
            let (of, options) = (self.exec.clone(), ResizeExecOptions { height, width });
            let resize = |docker: Docker| async move { docker.resize_exec(&of, options).await };
            // It may have ended since.
            self.daemon.call("size the terminal of", &self.exec, RESIZE_DEADLINE, resize).await.ok();
        }
    }
}

/// Passes on what the caller sends. What comes for a command that reads no more is dropped.
async fn feed(stdin: Input, mut input: mpsc::Receiver<ExecInput>, to: Controls) {
    let (mut stdin, mut open) = (stdin, true);
    while let Some(piece) = input.recv().await {
        match piece {
            ExecInput::Stdin(bytes) if open => {
                open = stdin.write_all(&bytes).await.is_ok() && stdin.flush().await.is_ok();
            }
            ExecInput::Eof if open => {
                open = false;
                close(&mut stdin, to.tty).await;
            }
            ExecInput::Stdin(_) | ExecInput::Eof => {}
            ExecInput::Resize(rows, columns) => to.resize(rows, columns).await,
            ExecInput::Signal(signal) => {
                if let Some(leader) = &to.leader {
                    signal_group(leader, signal_of(signal));
                }
            }
        }
    }
    if open {
        close(&mut stdin, to.tty).await;
    }
    std::future::pending().await
}

async fn close(stdin: &mut Input, tty: bool) {
    if tty {
        // Closing our half would end a terminal's output as well.
        stdin.write_all(&[END_OF_TRANSMISSION]).await.ok();
        stdin.flush().await.ok();
    } else {
        stdin.shutdown().await.ok();
    }
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
        // What nobody reads is read all the same: writing it must not fail while the command is being hung up.
        output.send(Ok(message)).await.ok();
    }
}

async fn ended_of(end: Option<&ProcessEnd>) {
    match end {
        Some(end) => drop(end.ended().await),
        None => std::future::pending().await,
    }
}

/// The exit code, 128 and the signal's number for one that was killed. The command may have closed its output and run
/// on; dockerd may have gone away, which closes it too.
async fn code(daemon: &Daemon, exec: &str, end: Option<&ProcessEnd>) -> Result<i32, DaemonError> {
    let mut give_up = None;
    loop {
        let found = inspect(daemon, exec).await?;
        let code = found.exit_code.and_then(|code| i32::try_from(code).ok());
        if let (Some(code), false) = (code, found.running.unwrap_or(false)) {
            return Ok(code);
        }
        if give_up.is_none() {
            let ended = async {
                if let Some(end) = end {
                    end.seen().await.ok();
                }
            };
            if tokio::time::timeout(ASK_PAUSE, ended).await.is_err() {
                continue;
            }
        }
        let give_up = *give_up.get_or_insert_with(|| Instant::now() + CODE_DEADLINE);
        if Instant::now() >= give_up {
            return Ok(255);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
