//! `wharf ssh`: a session beside a task, by the local ssh where the image has an ssh server, else by exec.
//!
//! ```text
//! wharf ssh JOB       asks for the job's keys, and the task (by exec) as whom one logs in
//!   > ssh -F FOLDER/config ROLE-INDEX        FOLDER holds the key, belongs to us alone, and goes with us
//!       > ProxyCommand: wharf ssh --stdio    exec of `sshd -i` in the container: no open port, no way to the node needed
//! wharf ssh --config  the same configuration, with the key where it stays, for scp, rsync, editors and port forwarding
//! ```

mod files;
mod local;

use super::args::{SshArgs, TaskArgs};
use super::context::Context;
use super::exec;
use super::exit_code::OK;
use super::fail::{Failure, bad_usage};
use super::logs::select_one;
use super::signals::interrupted;
use super::terminal::terminal_size;
use crate::api::ControllerApi;
use crate::api::stream::{ExecOutput, ExecSession, ExecSpec};
use crate::domain::command::{Error, ErrorKind};
use crate::domain::ids::TaskId;
use crate::domain::ssh::SshAccess;
use crate::domain::view::JobView;
use crate::shim::ssh::{NO_SERVER, PROGRAM, SERVER, USER};
use files::{Entry, Keys};
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

/// For a task to say as whom one logs in.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Of what it says.
const MAX_ANSWER_BYTES: usize = 4096;

pub async fn ssh(context: &Context, args: SshArgs) -> Result<u8, Failure> {
    if context.json {
        return Err(bad_usage("--json: a session has no JSON; use 'wharf exec --json'"));
    }
    let begin = async {
        let controller = context.controller()?;
        let job = controller.get_job(&context.who, &args.job, args.run).await;
        let job = job.map_err(|error| exec::unreached(context, error))?;
        Ok::<_, Failure>((controller, job))
    };
    let (controller, job) = tokio::select! {
        begun = begin => begun?,
        failure = interrupted() => return Err(failure),
    };
    if args.config {
        return config(context, &*controller, &job, &args.task).await;
    }
    let task = select_one(&job, &args.task)?;
    if args.stdio {
        return stdio(context, &*controller, task).await;
    }
    let way = tokio::select! {
        way = way(context, &*controller, &job, task) => way?,
        failure = interrupted() => return Err(failure),
    };
    let why = match way {
        Ok((access, user)) => match local::client() {
            Some(client) => {
                let keys = Keys::temporary(&access).map_err(Failure::Output)?;
                let entry = entry(context, &job, task)?;
                return local::run(&client, &keys, &access, &user, &entry, &args).await;
            }
            None => "there is no 'ssh' in PATH here".to_owned(),
        },
        Err(why) => why,
    };
    context.remark(&format!("{why}: this session goes through 'wharf exec'"));
    through_exec(context, controller, task, &args).await
}

/// As whom one logs in with which keys; or the reason why one cannot.
async fn way(
    context: &Context,
    controller: &dyn ControllerApi,
    job: &JobView,
    task: TaskId,
) -> Result<Result<(SshAccess, String), String>, Failure> {
    let access = match controller.ssh_access(&context.who, &job.job_id.to_string()).await {
        Ok(access) => access,
        Err(error) if matches!(error.kind, ErrorKind::NotAllowed) => return Err(error.into()),
        Err(error) => return Ok(Err(error.message)),
    };
    let argv = vec![PROGRAM.to_owned(), USER.to_owned()];
    let session = controller.exec(&context.who, task, ExecSpec { argv, ..ExecSpec::default() }).await;
    match session {
        Ok(session) => {
            let answered = tokio::time::timeout(ANSWER_DEADLINE, answer(session)).await;
            let late = |_| Err(format!("the container does not answer within {} s", ANSWER_DEADLINE.as_secs()));
            Ok(answered.unwrap_or_else(late).map(|user| (access, user)))
        }
        // The program is in every container, and in nothing else.
        Err(error) if error.kind == ErrorKind::Invalid => {
            Ok(Err("the task is no container, or from before they had an ssh server".to_owned()))
        }
        Err(error) => Err(exec::unreached(context, error)),
    }
}

/// The user's name that a task answers with, or its reason against.
async fn answer(session: ExecSession) -> Result<String, String> {
    let ExecSession { input, mut output } = session;
    drop(input);
    let (mut said, mut errors, mut code) = (Vec::new(), Vec::new(), None);
    while let Some(piece) = output.recv().await {
        match piece.map_err(|error| error.message)? {
            ExecOutput::Stdout(bytes) if said.len() < MAX_ANSWER_BYTES => said.extend(bytes),
            ExecOutput::Stderr(bytes) if errors.len() < MAX_ANSWER_BYTES => errors.extend(bytes),
            ExecOutput::Stdout(_) | ExecOutput::Stderr(_) => {}
            ExecOutput::Exited(status) => code = Some(status),
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let user = text(&said);
    // It goes into a configuration: the container's word is not trusted to be one word.
    let is_name = !user.is_empty() && user.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    match code {
        Some(0) if is_name => Ok(user),
        Some(NO_SERVER) => {
            let why = text(&errors).chars().filter(|c| !c.is_control()).take(400).collect::<String>();
            Err(if why.is_empty() { "the image has no ssh server".to_owned() } else { why })
        }
        _ => Err("the container does not say as whom one logs in".to_owned()),
    }
}

fn entry(context: &Context, job: &JobView, task: TaskId) -> Result<Entry, Failure> {
    let tasks = job.tasks.as_deref().unwrap_or_default();
    let view = tasks.iter().find(|view| view.id == task.to_string());
    let view = view.ok_or_else(|| Error::internal(format!("job {} has no task {task}", job.job_id)))?;
    Ok(Entry::of(context, job.job_id, &view.role, view.index)?)
}

/// Prints what `ssh -F` reads.
async fn config(
    context: &Context,
    controller: &dyn ControllerApi,
    job: &JobView,
    wanted: &TaskArgs,
) -> Result<u8, Failure> {
    let tasks = job.tasks.as_deref().unwrap_or_default();
    let wanted: Vec<_> = tasks
        .iter()
        .filter(|task| wanted.role.as_ref().is_none_or(|role| *role == task.role))
        .filter(|task| wanted.index.is_none_or(|index| index == task.index))
        .collect();
    // All tasks of a job have one image.
    let running = wanted.iter().find(|task| task.state == "RUNNING");
    let none = || Error::refused(format!("job {}: no such task runs", job.job_id));
    let running: TaskId = running.ok_or_else(none)?.id.parse().map_err(|_| none())?;
    let (access, user) = way(context, controller, job, running).await?.map_err(|why| {
        let message = format!("job {}: {why}; 'wharf ssh' and 'wharf exec' work without", job.job_id);
        Failure::Error(Error::refused(message))
    })?;
    let keys = Keys::kept(&access).map_err(Failure::Output)?;
    let mut text = format!(
        "# Tasks of job {}. The key is in {}, for you alone: remove it with the job.\n",
        job.job_id,
        keys.folder().display()
    );
    for task in wanted {
        text.push_str(&Entry::of(context, job.job_id, &task.role, task.index)?.text(&access, &user, &keys));
    }
    context.print(&text)?;
    Ok(OK)
}

/// The other end of the local ssh: an sshd in the container, on our input and output.
async fn stdio(context: &Context, controller: &dyn ControllerApi, task: TaskId) -> Result<u8, Failure> {
    let argv = vec![PROGRAM.to_owned(), SERVER.to_owned()];
    let session = controller.exec(&context.who, task, ExecSpec { argv, ..ExecSpec::default() }).await;
    exec::converse(context, session.map_err(|error| exec::unreached(context, error))?, false).await
}

/// The same without ssh: a shell, or a command as a shell reads it.
async fn through_exec(
    context: &Context,
    controller: Arc<dyn ControllerApi>,
    task: TaskId,
    args: &SshArgs,
) -> Result<u8, Failure> {
    // Whether the image has a better shell is known in there.
    let script = if args.command.is_empty() {
        "if [ -x /bin/bash ]; then exec /bin/bash; fi; exec /bin/sh".to_owned()
    } else {
        args.command.join(" ")
    };
    let tty = io::stdin().is_terminal() && (args.tty || args.command.is_empty());
    let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let spec = ExecSpec { argv, tty: tty.then(terminal_size), ..ExecSpec::default() };
    let begin = async {
        let session = controller.exec(&context.who, task, spec).await;
        session.map_err(|error| exec::unreached(context, error))
    };
    let session = tokio::select! {
        begun = begin => begun?,
        failure = interrupted() => return Err(failure),
    };
    exec::converse(context, session, tty).await
}
