//! Interactive commands: how they start, what goes in, what comes out; and what lets `ssh` in.

use super::{MAX_COMMAND_BYTES, MAX_LINE_BYTES, Parsed, filled, maybe, task_id, text, texts, wrong};
use crate::api::stream::{ExecInput, ExecOutput, ExecSignal, ExecSpec};
use crate::domain::command::{CommandHeader, Violation};
use crate::domain::ids::TaskId;
use crate::domain::principal::Principal;
use crate::domain::secret::{Secret, TaskSecrets};
use crate::domain::ssh::{SshAccess, SshSeed};
use crate::rpc::generated as pb;
use std::collections::BTreeSet;

pub(in crate::rpc) fn exec_start(who: Principal, task: TaskId, exec: ExecSpec) -> pb::ExecStart {
    let ExecSpec { argv, tty, env, cwd } = exec;
    let (rows, columns) = tty.unwrap_or_default();
    pb::ExecStart {
        principal: Some(who.into()),
        task: task.to_string(),
        argv,
        tty: tty.is_some(),
        rows: rows.into(),
        columns: columns.into(),
        env: env.into_iter().map(|(name, value)| pb::EnvVar { name, value }).collect(),
        cwd: cwd.unwrap_or_default(),
    }
}

pub(in crate::rpc) fn exec_spec(wire: pb::ExecStart) -> Parsed<(TaskId, ExecSpec)> {
    let task = task_id(&wire.task, "task")?;
    let argv = texts(wire.argv, "argv", MAX_COMMAND_BYTES)?;
    if argv.first().is_none_or(String::is_empty) {
        return Err(wrong("argv", "names no command", "", "a program and its arguments"));
    }
    if let Some(i) = argv.iter().position(|argument| argument.contains('\0')) {
        return Err(wrong(&format!("argv[{i}]"), "holds a zero byte", argv[i].escape_default(), "no zero bytes"));
    }
    let side = |value: u32, field| u16::try_from(value).map_err(|_| wrong(field, "is too many", value, "0 to 65535"));
    let size = (side(wire.rows, "rows")?, side(wire.columns, "columns")?);
    let cwd = maybe(wire.cwd, "cwd", MAX_LINE_BYTES)?;
    if let Some(cwd) = cwd.as_ref().filter(|cwd| !cwd.starts_with('/') || cwd.contains('\0')) {
        return Err(wrong("cwd", "is no absolute path", cwd.escape_default(), "/FOLDER"));
    }
    let env = variables(wire.env)?;
    Ok((task, ExecSpec { argv, tty: wire.tty.then_some(size), env, cwd }))
}

/// What a job's keys come from; empty: nothing. What was there instead is not shown, for it may be a secret.
pub(in crate::rpc) fn ssh_seed(text: &str) -> Parsed<Option<SshSeed>> {
    if text.is_empty() {
        return Ok(None);
    }
    let seed = SshSeed::parse(text);
    seed.map(Some).ok_or_else(|| wrong("ssh_seed", "is not a seed", "(not shown)", "128 hexadecimal digits"))
}

/// What a task is told at its launch. Agents from before there were secret names take all variables alike.
pub(in crate::rpc) fn launch_request(
    header: CommandHeader,
    id: TaskId,
    env: Vec<(String, String)>,
    secrets: TaskSecrets,
) -> pb::LaunchRequest {
    let secret_names: BTreeSet<String> = secrets.env.iter().map(|(name, _)| name.clone()).collect();
    // Of one name the secret holds.
    let open = env.into_iter().filter(|(name, _)| !secret_names.contains(name));
    let open: Vec<_> = open.collect();
    let secret = secrets.env.into_iter().map(|(name, value)| (name, value.reveal().to_owned()));
    pb::LaunchRequest {
        header: Some(header.into()),
        task: id.to_string(),
        env: open.into_iter().chain(secret).map(|(name, value)| pb::EnvVar { name, value }).collect(),
        ssh_seed: secrets.ssh_seed.map_or_else(String::new, |seed| seed.reveal()),
        secret_names: secret_names.into_iter().collect(),
    }
}

/// The variables that anybody may see, and the others.
pub(in crate::rpc) fn launch_variables(env: Vec<pb::EnvVar>, secret_names: &[String]) -> Parsed<LaunchVariables> {
    let names: BTreeSet<&String> = secret_names.iter().collect();
    let (secret, open): (Vec<_>, Vec<_>) = env.into_iter().partition(|entry| names.contains(&entry.name));
    let secret = variables(secret)?.into_iter().map(|(name, value)| (name, Secret::new(value)));
    Ok((variables(open)?, secret.collect()))
}

type LaunchVariables = (Vec<(String, String)>, Vec<(String, Secret)>);

/// Variables of an environment.
pub(in crate::rpc) fn variables(variables: Vec<pb::EnvVar>) -> Parsed<Vec<(String, String)>> {
    let one = |(i, variable): (usize, pb::EnvVar)| {
        let field = format!("env[{i}].name");
        let name = filled(variable.name, &field, MAX_LINE_BYTES)?;
        if name.contains(['=', '\0']) {
            return Err(wrong(
                &field,
                "is not the name of a variable",
                name.escape_default(),
                "no '=', no zero byte",
            ));
        }
        let field = format!("env[{i}].value");
        let value = text(variable.value, &field, MAX_COMMAND_BYTES)?;
        if value.contains('\0') {
            return Err(wrong(&field, "holds a zero byte", "", "no zero bytes"));
        }
        Ok((name, value))
    };
    variables.into_iter().enumerate().map(one).collect()
}

/// What one message holds for the command. What this version does not know says nothing to it.
pub(in crate::rpc) fn exec_inputs(wire: pb::ExecRequest) -> impl Iterator<Item = ExecInput> {
    let size = wire.resize.and_then(|size| Some((size.rows.try_into().ok()?, size.columns.try_into().ok()?)));
    let stdin = Some(wire.stdin).filter(|bytes| !bytes.is_empty()).map(ExecInput::Stdin);
    let resize = size.map(|(rows, columns)| ExecInput::Resize(rows, columns));
    let signal = ExecSignal::parse(&wire.signal).map(ExecInput::Signal);
    let end = wire.stdin_closed.then_some(ExecInput::Eof);
    stdin.into_iter().chain(end).chain(resize).chain(signal)
}

/// A message for anything but bytes, which may need several.
pub(in crate::rpc) fn exec_request(input: ExecInput) -> pb::ExecRequest {
    let empty = pb::ExecRequest::default();
    match input {
        ExecInput::Stdin(stdin) => pb::ExecRequest { stdin, ..empty },
        ExecInput::Eof => pb::ExecRequest { stdin_closed: true, ..empty },
        ExecInput::Resize(rows, columns) => {
            let size = pb::TerminalSize { rows: rows.into(), columns: columns.into() };
            pb::ExecRequest { resize: Some(size), ..empty }
        }
        ExecInput::Signal(signal) => pb::ExecRequest { signal: signal.as_str().to_owned(), ..empty },
    }
}

impl TryFrom<pb::ExecReply> for ExecOutput {
    type Error = Violation;

    fn try_from(wire: pb::ExecReply) -> Parsed<Self> {
        match (wire.exit_code, wire.stderr.is_empty()) {
            (Some(code), _) => Ok(Self::Exited(code)),
            (None, true) => Ok(Self::Stdout(wire.stdout)),
            (None, false) if wire.stdout.is_empty() => Ok(Self::Stderr(wire.stderr)),
            (None, false) => Err(wrong("stderr", "comes with stdout in one message", "both", "one of them")),
        }
    }
}

impl From<SshAccess> for pb::SshAccess {
    fn from(SshAccess { job_id, private_key, public_key, host_key }: SshAccess) -> Self {
        Self { job_id, private_key, public_key, host_key }
    }
}

impl TryFrom<pb::SshAccess> for SshAccess {
    type Error = Violation;

    fn try_from(wire: pb::SshAccess) -> Parsed<Self> {
        Ok(Self {
            job_id: wire.job_id,
            private_key: filled(wire.private_key, "private_key", MAX_LINE_BYTES)?,
            public_key: filled(wire.public_key, "public_key", MAX_LINE_BYTES)?,
            host_key: filled(wire.host_key, "host_key", MAX_LINE_BYTES)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_survives_the_wire() {
        let signals = ExecSignal::ALL.map(ExecInput::Signal);
        let others = [ExecInput::Stdin(vec![0, 255]), ExecInput::Eof, ExecInput::Resize(40, 132)];
        for input in signals.into_iter().chain(others) {
            assert_eq!(exec_inputs(exec_request(input.clone())).collect::<Vec<_>>(), [input]);
        }
        let unknown = pb::ExecRequest {
            signal: "WINCH".to_owned(),
            resize: Some(pb::TerminalSize { rows: 70_000, columns: 1 }),
            ..pb::ExecRequest::default()
        };
        assert_eq!(exec_inputs(unknown).count(), 0);
        // As clients before signals sent it.
        let last = pb::ExecRequest { stdin: b"x".to_vec(), stdin_closed: true, ..pb::ExecRequest::default() };
        assert_eq!(exec_inputs(last).collect::<Vec<_>>(), [ExecInput::Stdin(b"x".to_vec()), ExecInput::Eof]);
    }

    #[test]
    fn environment_and_folder_survive_the_wire() {
        let exec = ExecSpec {
            argv: vec!["env".to_owned()],
            env: vec![("A".to_owned(), "=b\n".to_owned())],
            cwd: Some("/tmp".to_owned()),
            ..ExecSpec::default()
        };
        let who = Principal { user: "alice".to_owned(), uid: None, roles: Vec::new() };
        let task = "1.1.0.0".parse().unwrap();
        let wire = exec_start(who, task, exec.clone());
        assert_eq!(exec_spec(wire.clone()).unwrap(), (task, exec));
        let relative = pb::ExecStart { cwd: "tmp".to_owned(), ..wire };
        assert_eq!(exec_spec(relative).unwrap_err().field, "cwd");
    }
}
