//! Runs a command beside a task: in its environment, directory, user, groups and IPC namespace.
//! It belongs to the task's payload group, so it ends with the task; dropping the session hangs it up earlier.

mod joining;
mod pty;

use super::{Core, OpenFiles, Processes, Task};
use crate::api::stream::{ExecInput, ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::Error;
use crate::runtime::RuntimeError;
use crate::runtime::shimmed::exec::{Noted, end_session, hang_up, on_its_own, signal_group, signal_of};
use crate::runtime::shimmed::process_id::{PidFd, ProcessEnd, ProcessId};
use crate::runtime::shimmed::supervisor::State;
use crate::runtime::shimmed::{MAX_EXEC_SESSIONS, blocking, platform, secrets, user_error};
use crate::shim::spec::Command as TaskCommand;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Messages in flight in either direction.
const QUEUE: usize = 16;
const READ_BYTES: usize = 32 * 1024;
/// How long children of the command may hold its output after its end. A reader that is slow costs nothing of it.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// What may stand in a pipe when the command ends; what comes after it is not the command's.
const DRAIN_BYTES: usize = 1024 * 1024;
/// Control-D: how a terminal says end of input.
const END_OF_TRANSMISSION: u8 = 4;

type Answer = Result<ExecOutput, Error>;

/// A started command with its ends of the pipes or the terminal.
struct Started {
    child: Child,
    /// Leads a session and a process group of its own.
    leader: ProcessId,
    end: ProcessEnd,
    uid: u32,
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    terminal: Option<OwnedFd>,
}

pub(super) async fn start(
    core: &Arc<Core<Processes>>,
    task: &Arc<Task<Processes>>,
    exec: ExecSpec,
) -> Result<ExecSession, RuntimeError> {
    let child_pid = match &*task.state.borrow() {
        State::Running { child_pid, .. } => *child_pid,
        _ => return Err(platform("exec", task.id, "the task's command does not run")),
    };
    let Ok(permit) = task.execs.clone().try_acquire_owned() else {
        let message = format!("{MAX_EXEC_SESSIONS} commands run beside the task already: end one of them first");
        return Err(platform("exec", task.id, message));
    };
    let (task, open_files) = (task.clone(), core.kind.config.open_files);
    on_its_own(&core.tracker, task.id, async move {
        let (started, noted) = spawn_beside(&task, child_pid, exec, open_files).await?;
        let (sends, input) = mpsc::channel(QUEUE);
        let (sender, output) = mpsc::channel(QUEUE);
        let running = async move {
            converse(started, input, sender, task.cancel.clone(), task.state.clone()).await;
            drop((noted, permit));
        };
        Ok((ExecSession { input: sends, output }, running))
    })
    .await
}

async fn spawn_beside(
    task: &Arc<Task<Processes>>,
    child_pid: u32,
    exec: ExecSpec,
    open_files: Option<OpenFiles>,
) -> Result<(Started, Noted), RuntimeError> {
    let (wanted, program) = (task.clone(), exec.argv[0].clone());
    let folder = exec.cwd.clone();
    let spawned = blocking("exec", task.id, move || {
        let mut command = wanted.dir.read_command()?.unwrap_or_default();
        command.env.extend(secrets::of(&wanted)?);
        Ok(spawn(&wanted, child_pid, &command, &exec, open_files).map(|started| {
            let noted = Noted::of(&wanted.dir, &started.leader);
            (started, noted)
        }))
    });
    spawned.await?.map_err(|error| {
        let folder = folder.map_or_else(String::new, |folder| format!(" in '{folder}'"));
        let message = format!("argv: running '{program}'{folder}: {error}");
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory => {
                user_error("exec", task.id, message)
            }
            _ => platform("exec", task.id, message),
        }
    })
}

fn spawn(
    task: &Task<Processes>,
    child_pid: u32,
    of_task: &TaskCommand,
    exec: &ExecSpec,
    open_files: Option<OpenFiles>,
) -> io::Result<Started> {
    use std::os::unix::ffi::OsStringExt;
    let text = |bytes: &Vec<u8>| std::ffi::OsString::from_vec(bytes.clone());
    let mut command = Command::new(&exec.argv[0]);
    command.args(&exec.argv[1..]).env_clear().kill_on_drop(true);
    if exec.tty.is_some() {
        command.env("TERM", "xterm-256color");
    }
    command.envs(of_task.env.iter().map(|(name, value)| (text(name), text(value))));
    // By these a task's processes are known.
    let given = exec.env.iter().filter(|(name, _)| !name.starts_with("WHARF_"));
    command.envs(given.map(|(name, value)| (name, value)));
    let folder = exec.cwd.as_deref().map_or(task.record.facts.cwd.as_path(), Path::new);
    joining::join_task(&mut command, task, child_pid, exec.tty.is_some(), open_files, folder)?;
    match exec.tty {
        Some(size) => spawn_on_terminal(command, size, task),
        None => spawn_on_pipes(command, task.record.facts.account.uid),
    }
}

fn spawn_on_pipes(mut command: Command, uid: u32) -> io::Result<Started> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let (leader, end) = leader(&child)?;
    let missing = || io::Error::other("a pipe is missing");
    let stdin = Box::new(child.stdin.take().ok_or_else(missing)?);
    let stdout = Box::new(child.stdout.take().ok_or_else(missing)?);
    let stderr: Box<dyn AsyncRead + Send + Unpin> = Box::new(child.stderr.take().ok_or_else(missing)?);
    Ok(Started { child, leader, end, uid, stdin, stdout, stderr: Some(stderr), terminal: None })
}

fn spawn_on_terminal(mut command: Command, size: (u16, u16), task: &Task<Processes>) -> io::Result<Started> {
    let uid = task.record.facts.account.uid;
    let terminal = pty::open(size, uid)?;
    let user = || terminal.user.try_clone();
    command.stdin(user()?).stdout(user()?).stderr(user()?);
    let child = command.spawn()?;
    // Ours must close, or the terminal never ends; the command's copies of it go with the command.
    drop(command);
    drop(terminal.user);
    let (leader, end) = leader(&child)?;
    Ok(Started {
        child,
        leader,
        end,
        uid,
        stdin: Box::new(terminal.writer),
        stdout: Box::new(terminal.reader),
        stderr: None,
        terminal: Some(terminal.control),
    })
}

fn leader(child: &Child) -> io::Result<(ProcessId, ProcessEnd)> {
    let pid = child.id().ok_or_else(|| io::Error::other("the command has no pid"))?;
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    Ok((ProcessId::of(pid)?, PidFd::open(pid)?.watch()?))
}

/// Carries input and output until the command or the task has ended, or nobody wants to know.
async fn converse(
    started: Started,
    input: mpsc::Receiver<ExecInput>,
    output: mpsc::Sender<Answer>,
    cancel: CancellationToken,
    mut state: watch::Receiver<State>,
) {
    let Started { mut child, leader, end, uid, stdin, stdout, stderr, terminal } = started;
    let tty = terminal.is_some();
    let mut feed = Box::pin(feed(stdin, input, terminal, leader.clone()));
    let ended = CancellationToken::new();
    let mut copy = Box::pin(async {
        let errors = async {
            if let Some(stderr) = stderr {
                copy_out(stderr, ExecOutput::Stderr, &output, &ended).await;
            }
        };
        tokio::join!(copy_out(stdout, ExecOutput::Stdout, &output, &ended), errors);
    });
    let (mut feeding, mut copying, mut listened_to) = (true, true, true);
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.ok(),
            () = cancel.cancelled() => break None,
            () = output.closed() => {
                listened_to = false;
                break None;
            }
            // Without its supervisor nobody would tell.
            _ = state.wait_for(|now| matches!(now, State::Ended { .. })) => break None,
            () = &mut feed, if feeding => feeding = false,
            () = &mut copy, if copying => copying = false,
        }
    };
    let Some(status) = status else {
        drop(feed);
        if listened_to {
            end_session(&leader, uid).await;
        } else {
            // A terminal hangs up when our end of it closes. Pipes are read on, for what it says at its end.
            let mut copy = Some(copy).filter(|_| !tty);
            let read_on = async {
                match &mut copy {
                    Some(copy) if copying => copy.await,
                    _ => {}
                }
                std::future::pending::<()>().await;
            };
            // Not reaped before, so its group and its session are still its own.
            tokio::select! {
                () = hang_up(&leader, uid, async { end.seen().await.unwrap_or(()) }) => {}
                () = cancel.cancelled() => end_session(&leader, uid).await,
                () = read_on => {}
            }
        }
        end.kill().ok();
        child.wait().await.ok();
        return;
    };
    ended.cancel();
    if copying {
        tokio::select! {
            () = copy => {}
            () = cancel.cancelled() => return,
        }
    }
    tokio::select! {
        _ = output.send(Ok(ExecOutput::Exited(code_of(status)))) => {}
        () = cancel.cancelled() => {}
    }
}

/// Passes on what the caller sends. What comes for a command that reads no more is dropped.
async fn feed(
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    mut input: mpsc::Receiver<ExecInput>,
    terminal: Option<OwnedFd>,
    leader: ProcessId,
) {
    let mut stdin = Some(stdin);
    while let Some(piece) = input.recv().await {
        match piece {
            ExecInput::Stdin(bytes) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            ExecInput::Eof => close(stdin.take(), terminal.is_some()).await,
            ExecInput::Resize(rows, columns) => {
                if let Some(terminal) = &terminal {
                    pty::resize(terminal, (rows, columns)).ok();
                }
            }
            ExecInput::Signal(signal) => signal_group(&leader, signal_of(signal)),
        }
    }
    close(stdin, terminal.is_some()).await;
}

async fn close(stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>, tty: bool) {
    if let (Some(mut stdin), true) = (stdin, tty) {
        stdin.write_all(&[END_OF_TRANSMISSION]).await.ok();
    }
}

/// Copies to the end; once the command has `ended`, for so long and so much as its children may go on.
async fn copy_out(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    wrap: fn(Vec<u8>) -> ExecOutput,
    output: &mpsc::Sender<Answer>,
    ended: &CancellationToken,
) {
    let mut bytes = vec![0; READ_BYTES];
    let (mut time_left, mut bytes_left) = (DRAIN_DEADLINE, DRAIN_BYTES);
    loop {
        let read = from.read(&mut bytes);
        tokio::pin!(read);
        let read = tokio::select! {
            biased;
            read = &mut read => read,
            () = ended.cancelled() => {
                let begun = Instant::now();
                let Ok(read) = tokio::time::timeout(time_left, read).await else { return };
                time_left = time_left.saturating_sub(begun.elapsed());
                read
            }
        };
        // A terminal whose other end has closed says EIO, which is its end of file.
        let Ok(count @ 1..) = read else { return };
        if ended.is_cancelled() {
            let Some(left) = bytes_left.checked_sub(count) else { return };
            bytes_left = left;
        }
        // What nobody reads is read all the same: writing it must not fail while the command is being hung up.
        output.send(Ok(wrap(bytes[..count].to_vec()))).await.ok();
    }
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}
