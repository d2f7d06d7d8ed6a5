//! Tasks as agents are told to run them, and as they report them.

use super::{
    MAX_COMMAND_BYTES, MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, each, filled, nanos, optional,
    optional_text, port, task_id, text, texts, time, wrong,
};
use crate::domain::command::{SequencedStatus, Violation};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::ids::{Generation, GpuUuid};
use crate::domain::spec::CommandStyle;
use crate::domain::task::{AssignedPorts, TaskSpec, TaskState, TaskStatus};
use crate::rpc::generated as pb;

impl From<Exit> for pb::Exit {
    fn from(Exit { code, signal, oom, class, reason, faults, busy_ports, faulty_gpus }: Exit) -> Self {
        let busy_ports = busy_ports.into_iter().map(u32::from).collect();
        let faulty_gpus = faulty_gpus.into_iter().map(|gpu| gpu.0).collect();
        Self { code, signal, oom, class: class.as_str().to_owned(), reason, faults, busy_ports, faulty_gpus }
    }
}

impl TryFrom<pb::Exit> for Exit {
    type Error = Violation;

    fn try_from(wire: pb::Exit) -> Parsed<Self> {
        let class = ExitClass::parse(&wire.class)
            .ok_or_else(|| wrong("class", "is not an exit class", &wire.class, words(ExitClass::ALL)))?;
        let reason = text(wire.reason, "reason", MAX_SENTENCE_BYTES)?;
        let busy_ports: Parsed<Vec<u16>> = wire
            .busy_ports
            .into_iter()
            .enumerate()
            .map(|(i, value)| port(value, &format!("busy_ports[{i}]")))
            .collect();
        let (busy_ports, faults) = (busy_ports?, wire.faults);
        let faulty_gpus = wire.faulty_gpus.into_iter().map(GpuUuid).collect();
        Ok(Self {
            code: wire.code,
            signal: wire.signal,
            oom: wire.oom,
            class,
            reason,
            faults,
            busy_ports,
            faulty_gpus,
        })
    }
}

fn words<T: std::fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

impl From<AssignedPorts> for pb::AssignedPorts {
    fn from(AssignedPorts { label, ports }: AssignedPorts) -> Self {
        Self { label, ports: ports.into_iter().map(u32::from).collect() }
    }
}

impl TryFrom<pb::AssignedPorts> for AssignedPorts {
    type Error = Violation;

    fn try_from(wire: pb::AssignedPorts) -> Parsed<Self> {
        let ports: Parsed<Vec<u16>> =
            wire.ports.into_iter().enumerate().map(|(i, value)| port(value, &format!("ports[{i}]"))).collect();
        Ok(Self { label: filled(wire.label, "label", MAX_WORD_BYTES)?, ports: ports? })
    }
}

const fn style_word(style: CommandStyle) -> &'static str {
    match style {
        CommandStyle::Shell => "shell",
    }
}

fn style(word: &str) -> Parsed<CommandStyle> {
    match word {
        "shell" => Ok(CommandStyle::Shell),
        other => Err(wrong("command_style", "is not a command style", other, "shell")),
    }
}

impl From<TaskSpec> for pb::TaskSpec {
    fn from(spec: TaskSpec) -> Self {
        let TaskSpec {
            id,
            job_name,
            user,
            role_name,
            image,
            command,
            command_style,
            cpus,
            memory_mb,
            shm_mb,
            gpus,
            ports,
            lease_s,
            debug_hold_s,
            files,
            container,
        } = spec;
        Self {
            id: id.to_string(),
            job_name,
            user,
            role_name,
            image,
            command,
            command_style: style_word(command_style).to_owned(),
            cpus,
            memory_mb,
            shm_mb,
            gpus: gpus.into_iter().map(|uuid| uuid.0).collect(),
            ports: ports.into_iter().map(Into::into).collect(),
            lease_s,
            files: Some(files.into()),
            container: Some(container.into()),
            debug_hold_s,
        }
    }
}

impl TryFrom<pb::TaskSpec> for TaskSpec {
    type Error = Violation;

    fn try_from(wire: pb::TaskSpec) -> Parsed<Self> {
        let gpu = |(i, uuid)| filled(uuid, &format!("gpus[{i}]"), MAX_WORD_BYTES).map(GpuUuid);
        Ok(Self {
            id: task_id(&wire.id, "id")?,
            job_name: filled(wire.job_name, "job_name", MAX_WORD_BYTES)?,
            user: filled(wire.user, "user", MAX_WORD_BYTES)?,
            role_name: filled(wire.role_name, "role_name", MAX_WORD_BYTES)?,
            image: text(wire.image, "image", MAX_LINE_BYTES)?,
            command: text(wire.command, "command", MAX_COMMAND_BYTES)?,
            command_style: style(&wire.command_style)?,
            cpus: wire.cpus,
            memory_mb: wire.memory_mb,
            shm_mb: wire.shm_mb,
            gpus: wire.gpus.into_iter().enumerate().map(gpu).collect::<Parsed<_>>()?,
            ports: each(wire.ports, "ports")?,
            lease_s: wire.lease_s,
            debug_hold_s: wire.debug_hold_s,
            files: optional(wire.files, "files")?.unwrap_or_default(),
            container: optional(wire.container, "container")?.unwrap_or_default(),
        })
    }
}

impl From<TaskStatus> for pb::TaskStatus {
    fn from(status: TaskStatus) -> Self {
        let TaskStatus { id, generation, state, started_at, ended_at, exit, holding, notices, progress, held_until } =
            status;
        Self {
            id: id.to_string(),
            generation: generation.0,
            state: state.as_str().to_owned(),
            started_at: nanos(started_at),
            ended_at: nanos(ended_at),
            exit: exit.map(Into::into),
            holding,
            notices,
            progress,
            held_until: nanos(held_until),
        }
    }
}

impl TryFrom<pb::TaskStatus> for TaskStatus {
    type Error = Violation;

    fn try_from(wire: pb::TaskStatus) -> Parsed<Self> {
        let state = TaskState::parse(&wire.state)
            .ok_or_else(|| wrong("state", "is not a task state", &wire.state, words(TaskState::ALL)))?;
        Ok(Self {
            id: task_id(&wire.id, "id")?,
            generation: Generation(wire.generation),
            state,
            started_at: time(wire.started_at),
            ended_at: time(wire.ended_at),
            exit: optional(wire.exit, "exit")?,
            holding: wire.holding,
            notices: texts(wire.notices, "notices", MAX_SENTENCE_BYTES)?,
            progress: optional_text(wire.progress, "progress", MAX_SENTENCE_BYTES)?,
            held_until: time(wire.held_until),
        })
    }
}

impl From<SequencedStatus> for pb::SequencedStatus {
    fn from(SequencedStatus { sequence, status }: SequencedStatus) -> Self {
        Self { sequence, status: Some(status.into()) }
    }
}

impl TryFrom<pb::SequencedStatus> for SequencedStatus {
    type Error = Violation;

    fn try_from(wire: pb::SequencedStatus) -> Parsed<Self> {
        Ok(Self { sequence: wire.sequence, status: super::inner(wire.status, "status")? })
    }
}
