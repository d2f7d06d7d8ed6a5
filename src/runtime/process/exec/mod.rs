//! Runs a command beside a task: in its environment, directory, user, groups and IPC namespace.
//! It belongs to the task's payload group, so it ends with the task; dropping the session ends it earlier.

mod joining;
mod pty;

use super::{Core, OpenFiles, Processes, Task};
use crate::api::stream::{ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::Error;
use crate::runtime::RuntimeError;
use crate::runtime::shimmed::supervisor::State;
use crate::runtime::shimmed::{MAX_EXEC_SESSIONS, blocking, platform, user_error};
use crate::shim::spec::Command as TaskCommand;
use std::io;
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
    pid: i32,
    stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: Box<dyn AsyncRead + Send + Unpin>,
    stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    tty: bool,
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
    let wanted = task.clone();
    let open_files = core.kind.config.open_files;
    let program = exec.argv[0].clone();
    let spawned = blocking("exec", task.id, move || {
        let command = wanted.dir.read_command()?.unwrap_or_default();
        Ok(spawn(&wanted, child_pid, &command, &exec, open_files))
    });
    let started = spawned.await?.map_err(|error| {
        let message = format!("argv: running '{program}': {error}");
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => user_error("exec", task.id, message),
            _ => platform("exec", task.id, message),
        }
    })?;
    let (stdin, input) = mpsc::channel(QUEUE);
    let (sender, output) = mpsc::channel(QUEUE);
    let (cancel, state) = (task.cancel.clone(), task.state.clone());
    core.tracker.spawn(async move {
        converse(started, input, sender, cancel, state).await;
        drop(permit);
    });
    Ok(ExecSession { stdin, output })
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
    command.current_dir(&task.record.facts.cwd);
    joining::join_task(&mut command, task, child_pid, exec.tty.is_some(), open_files)?;
    match exec.tty {
        Some(size) => spawn_on_terminal(command, size, task),
        None => spawn_on_pipes(command),
    }
}

fn spawn_on_pipes(mut command: Command) -> io::Result<Started> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = pid_of(&child)?;
    let missing = || io::Error::other("a pipe is missing");
    let stdin = Box::new(child.stdin.take().ok_or_else(missing)?);
    let stdout = Box::new(child.stdout.take().ok_or_else(missing)?);
    let stderr: Box<dyn AsyncRead + Send + Unpin> = Box::new(child.stderr.take().ok_or_else(missing)?);
    Ok(Started { child, pid, stdin, stdout, stderr: Some(stderr), tty: false })
}

fn spawn_on_terminal(mut command: Command, size: (u16, u16), task: &Task<Processes>) -> io::Result<Started> {
    let terminal = pty::open(size, task.record.facts.account.uid)?;
    let user = || terminal.user.try_clone();
    command.stdin(user()?).stdout(user()?).stderr(user()?);
    let child = command.spawn()?;
    // Ours must close, or the terminal never ends; the command's copies of it go with the command.
    drop(command);
    drop(terminal.user);
    let (stdout, stdin) = (terminal.reader, terminal.writer);
    Ok(Started {
        pid: pid_of(&child)?,
        child,
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: None,
        tty: true,
    })
}

fn pid_of(child: &Child) -> io::Result<i32> {
    let pid = child.id().ok_or_else(|| io::Error::other("the command has no pid"))?;
    i32::try_from(pid).map_err(io::Error::other)
}

/// Carries input and output until the command or the task has ended, or nobody wants to know.
async fn converse(
    started: Started,
    input: mpsc::Receiver<Vec<u8>>,
    output: mpsc::Sender<Answer>,
    cancel: CancellationToken,
    mut state: watch::Receiver<State>,
) {
    let Started { mut child, pid, stdin, stdout, stderr, tty } = started;
    let feed = feed(stdin, input, tty);
    let ended = CancellationToken::new();
    let copy = async {
        let errors = async {
            if let Some(stderr) = stderr {
                copy_out(stderr, ExecOutput::Stderr, &output, &ended).await;
            }
        };
        tokio::join!(copy_out(stdout, ExecOutput::Stdout, &output, &ended), errors);
    };
    tokio::pin!(feed, copy);
    let (mut feeding, mut copying) = (true, true);
    let status = loop {
        tokio::select! {
            biased;
            status = child.wait() => break status.ok(),
            () = cancel.cancelled() => break None,
            () = output.closed() => break None,
            // Without its supervisor nobody would tell.
            _ = state.wait_for(|now| matches!(now, State::Ended { .. })) => break None,
            () = &mut feed, if feeding => feeding = false,
            () = &mut copy, if copying => copying = false,
        }
    };
    let Some(status) = status else {
        // Not reaped yet, so the group is still its own.
        nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).ok();
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

async fn feed(mut stdin: Box<dyn AsyncWrite + Send + Unpin>, mut input: mpsc::Receiver<Vec<u8>>, tty: bool) {
    while let Some(bytes) = input.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            // The command reads no more; what is sent from now on is dropped.
            input.close();
        }
    }
    if tty {
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
        if output.send(Ok(wrap(bytes[..count].to_vec()))).await.is_err() {
            return;
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255)
}
