//! Runs a command beside a task, by `docker exec`: in its container, environment, folder and as its user. It ends with
//! the container; dropping the session hangs it up earlier, without dockerd.

mod session;
mod upgrade;

use super::daemon::{ANSWER_DEADLINE, Daemon, DaemonError};
use super::rootfs::RootFs;
use super::{Containers, Core, StartedFacts, Task};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::ids::TaskId;
use crate::runtime::RuntimeError;
use crate::runtime::shimmed::exec::{Noted, end_session, on_its_own};
use crate::runtime::shimmed::process_id::{PidFd, ProcessId};
use crate::runtime::shimmed::supervisor::State;
use crate::runtime::shimmed::{MAX_EXEC_SESSIONS, blocking, platform, secrets, user_error};
use crate::shim::spec::Command;
use bollard::Docker;
use bollard::exec::ResizeExecOptions;
use bollard::models::{ExecConfig, ExecInspectResponse};
use session::{Running, Session};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Messages in flight in either direction.
const QUEUE: usize = 16;
/// From dockerd's answer until the command has a process.
const PROCESS_DEADLINE: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a command that dockerd would not start in time is looked for.
const LATE_DEADLINE: Duration = Duration::from_secs(600);
const LATE_PAUSE: Duration = Duration::from_secs(1);
/// From here on a terminal has its size from the beginning.
const CONSOLE_SIZE_SINCE: (usize, usize) = (1, 42);

pub async fn start(
    core: &Arc<Core<Containers>>,
    task: &Arc<Task<Containers>>,
    exec: ExecSpec,
) -> Result<ExecSession, RuntimeError> {
    let id = task.id;
    let started = match (&*task.state.borrow(), &task.record.facts.started) {
        (State::Running { .. }, Some(started)) => started.clone(),
        _ => return Err(platform("exec", id, "the task's command does not run")),
    };
    let Ok(permit) = task.execs.clone().try_acquire_owned() else {
        let message = format!("{MAX_EXEC_SESSIONS} commands run beside the task already: end one of them first");
        return Err(platform("exec", id, message));
    };
    let (tracker, core, task) = (core.tracker.clone(), core.clone(), task.clone());
    on_its_own(&tracker, id, async move {
        let (running, process) = begin(&core, &task, &started, &exec).await?;
        let (sends, input) = mpsc::channel(QUEUE);
        let (output, session_output) = mpsc::channel(QUEUE);
        let (cancel, state) = (task.cancel.clone(), task.state.clone());
        let noted = match &process {
            Some((leader, _)) => {
                let (dir, leader) = (task.dir.clone(), leader.clone());
                tokio::task::spawn_blocking(move || Noted::of(&dir, &leader)).await.ok()
            }
            None => None,
        };
        let session = Session { running, process, uid: started.uid, input, output, cancel, state, id };
        let running = async move {
            session.run().await;
            drop((noted, permit));
        };
        Ok((ExecSession { input: sends, output: session_output }, running))
    })
    .await
}

/// A command with its process; without one it has ended already.
type Begun = (Running, Option<(ProcessId, PidFd)>);

async fn begin(
    core: &Arc<Core<Containers>>,
    task: &Arc<Task<Containers>>,
    started: &StartedFacts,
    exec: &ExecSpec,
) -> Result<Begun, RuntimeError> {
    let id = task.id;
    let env = environment(task, started, exec).await?;
    let daemon = &core.kind.daemon;
    let fail = |error: DaemonError| platform("exec", id, error);
    let docker = daemon.client().await.map_err(fail)?;
    let config = config(&docker, started, exec, env);
    let of = started.container.clone();
    let create = |docker: Docker| async move { docker.create_exec(&of, config).await };
    let made = daemon.call("make a command in", &started.container, ANSWER_DEADLINE, create).await.map_err(fail)?;
    let (of, tty) = (made.id.clone(), exec.tty.is_some());
    let begin = |docker: Docker| async move { upgrade::start(daemon.socket(), version(&docker), &of, tty).await };
    let begun = daemon.call("start a command in", &started.container, ANSWER_DEADLINE, begin).await;
    let (output, input) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            // It may start it all the same.
            if error.is_no_answer() {
                core.tracker.spawn(end_late(core.clone(), made.id, started.clone()));
            }
            return Err(fail(error));
        }
    };
    let running = Running { daemon: daemon.clone(), exec: made.id.clone(), output, input, tty };
    match find_process(daemon, &running.exec, started, exec.tty).await {
        Ok(process) => Ok((running, process)),
        Err(error) => {
            core.tracker.spawn(end_late(core.clone(), made.id, started.clone()));
            Err(fail(error))
        }
    }
}

/// Ends a command that dockerd may start, or has started, after it was given up.
async fn end_late(core: Arc<Core<Containers>>, exec: String, started: StartedFacts) {
    let end = Instant::now() + LATE_DEADLINE;
    while Instant::now() < end {
        let found = tokio::select! {
            found = session::inspect(&core.kind.daemon, &exec) => found,
            () = core.cancel.cancelled() => return,
        };
        match found {
            Ok(found) => {
                let seen = Seen::of(&found);
                if let Seen::Process(pid) = seen
                    && let Some((leader, _)) = open(pid, &started)
                {
                    return end_session(&leader, started.uid).await;
                }
                if seen == Seen::Ended || found.exit_code.is_some() {
                    return;
                }
            }
            // Gone with its container, or with the dockerd that knew it.
            Err(error) if error.is_not_found() => return,
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(LATE_PAUSE) => {}
            () = core.cancel.cancelled() => return,
        }
    }
}

/// The task's own, from what its shim was told. Refuses a program that is not there, which dockerd tells in its output.
async fn environment(
    task: &Arc<Task<Containers>>,
    started: &StartedFacts,
    exec: &ExecSpec,
) -> Result<Vec<String>, RuntimeError> {
    let (of, pid, program) = (task.clone(), task.shim.pid, exec.argv[0].clone());
    let (cwd, more) = (exec.cwd.clone().unwrap_or_else(|| started.cwd.clone()), exec.env.clone());
    let look = move || {
        let mut command: Command = of.dir.read_command()?.unwrap_or_default();
        command.env.extend(secrets::of(&of)?);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let env = command.env.iter().map(|(name, value)| (text(name), text(value)));
        let env: Vec<(String, String)> = env.chain(more).collect();
        let path = env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
        Ok((RootFs::of(pid)?.finds(&program, path, &cwd), env))
    };
    let (found, env) = blocking("exec", task.id, look).await?;
    if found == Some(false) {
        return Err(not_found(task.id, &exec.argv[0], &task.record.spec.image));
    }
    let term = exec.tty.map(|_| "TERM=xterm-256color".to_owned());
    Ok(term.into_iter().chain(env.into_iter().map(|(name, value)| format!("{name}={value}"))).collect())
}

fn not_found(id: TaskId, program: &str, image: &str) -> RuntimeError {
    user_error("exec", id, format!("argv: '{program}' is no program in the task's container (image '{image}')"))
}

/// What was agreed on with dockerd.
fn version(docker: &Docker) -> (usize, usize) {
    let version = docker.client_version();
    (version.major_version, version.minor_version)
}

fn config(docker: &Docker, started: &StartedFacts, exec: &ExecSpec, env: Vec<String>) -> ExecConfig {
    let sized = version(docker) >= CONSOLE_SIZE_SINCE;
    let size = exec.tty.map(|(rows, columns)| vec![usize::from(rows), usize::from(columns)]);
    ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(exec.tty.is_some()),
        console_size: size.filter(|_| sized),
        env: Some(env),
        cmd: Some(exec.argv.clone()),
        user: Some(started.user()),
        working_dir: Some(exec.cwd.clone().unwrap_or_else(|| started.cwd.clone())),
        ..ExecConfig::default()
    }
}

/// Which process the command is, so that it can be ended and its end be seen without dockerd. `None`: it has ended.
async fn find_process(
    daemon: &Daemon,
    exec: &str,
    started: &StartedFacts,
    tty: Option<(u16, u16)>,
) -> Result<Option<(ProcessId, PidFd)>, DaemonError> {
    let end = Instant::now() + PROCESS_DEADLINE;
    loop {
        let found = session::inspect(daemon, exec).await?;
        let seen = Seen::of(&found);
        if let Seen::Process(pid) = seen {
            if let Some((height, width)) = tty {
                let (of, options) = (exec.to_owned(), ResizeExecOptions { height, width });
                let resize = |docker: Docker| async move { docker.resize_exec(&of, options).await };
                // It may have ended since.
                daemon.call("size the terminal of", exec, ANSWER_DEADLINE, resize).await.ok();
            }
            return Ok(open(pid, started));
        }
        if seen == Seen::Ended {
            return Ok(None);
        }
        if Instant::now() >= end {
            return Err(late(exec));
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// What dockerd says of a command that it was told to start.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Neither running nor with a code.
    OnItsWay,
    Process(i32),
    Ended,
}

impl Seen {
    fn of(found: &ExecInspectResponse) -> Self {
        let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
        match (pid, found.exit_code) {
            (Some(pid), _) => Self::Process(pid),
            (None, Some(_)) => Self::Ended,
            (None, None) => Self::OnItsWay,
        }
    }
}

/// It may begin yet: taken for ended, nobody would end it.
fn late(exec: &str) -> DaemonError {
    let message = format!("the command has no process after {} s", PROCESS_DEADLINE.as_secs());
    DaemonError::NoAnswer { operation: "start the command", object: exec.to_owned(), message }
}

/// The process, if it is one of the container's.
fn open(pid: i32, started: &StartedFacts) -> Option<(ProcessId, PidFd)> {
    let process = ProcessId::of(pid).ok()?;
    let pidfd = process.open().ok()??;
    started.groups.holds(pid).then_some((process, pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_process_yet_has_not_ended() {
        let seen = |pid, exit_code| Seen::of(&ExecInspectResponse { pid, exit_code, ..Default::default() });
        assert_eq!((seen(None, None), seen(Some(0), None)), (Seen::OnItsWay, Seen::OnItsWay));
        assert_eq!((seen(Some(7), None), seen(Some(7), Some(0))), (Seen::Process(7), Seen::Process(7)));
        assert_eq!((seen(Some(0), Some(0)), seen(None, Some(3))), (Seen::Ended, Seen::Ended));
        // So it is looked for, and ended, when it begins after all.
        assert!(late("x").is_no_answer());
    }
}
