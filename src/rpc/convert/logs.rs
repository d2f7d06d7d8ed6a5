//! Log records, log queries and interactive commands.

use super::{
    MAX_COMMAND_BYTES, MAX_LINE_BYTES, Parsed, each, maybe, nanos, optional, task_id, text, texts, time, wrong,
};
use crate::api::stream::{ExecOutput, ExecSpec, LogBatch, LogContent, LogQuery, LogRecord, LogStream, StreamFilter};
use crate::domain::command::Violation;
use crate::domain::ids::TaskId;
use crate::domain::principal::Principal;
use crate::domain::time::Timestamp;
use crate::rpc::generated as pb;

pub(in crate::rpc) fn logs_request(who: Principal, query: LogQuery) -> pb::LogsRequest {
    let LogQuery { task, cursor, stream, follow, since, tail } = query;
    let stream = match stream {
        StreamFilter::All => "all",
        StreamFilter::Stdout => "stdout",
        StreamFilter::Stderr => "stderr",
    };
    pb::LogsRequest {
        principal: Some(who.into()),
        task: task.to_string(),
        cursor: cursor.unwrap_or_default(),
        stream: stream.to_owned(),
        follow,
        since: nanos(since),
        tail,
    }
}

pub(in crate::rpc) fn log_query(wire: pb::LogsRequest) -> Parsed<LogQuery> {
    let stream = match wire.stream.as_str() {
        "" | "all" => StreamFilter::All,
        "stdout" => StreamFilter::Stdout,
        "stderr" => StreamFilter::Stderr,
        other => return Err(wrong("stream", "is not a stream", other, "stdout, stderr, all")),
    };
    Ok(LogQuery {
        task: task_id(&wire.task, "task")?,
        cursor: maybe(wire.cursor, "cursor", MAX_LINE_BYTES)?,
        stream,
        follow: wire.follow,
        since: time(wire.since),
        tail: wire.tail,
    })
}

impl From<LogRecord> for pb::LogRecord {
    fn from(LogRecord { sequence, time, content, cursor }: LogRecord) -> Self {
        let (stream, data, lost_bytes, lost_records) = match content {
            LogContent::Output { stream: LogStream::Stdout, bytes } => ("stdout", bytes, 0, 0),
            LogContent::Output { stream: LogStream::Stderr, bytes } => ("stderr", bytes, 0, 0),
            LogContent::Gap { lost_records, lost_bytes } => ("gap", Vec::new(), lost_bytes, lost_records),
        };
        Self { sequence, stream: stream.to_owned(), time: time.0, data, lost_bytes, lost_records, cursor }
    }
}

impl TryFrom<pb::LogRecord> for LogRecord {
    type Error = Violation;

    fn try_from(wire: pb::LogRecord) -> Parsed<Self> {
        let content = match wire.stream.as_str() {
            "stdout" => LogContent::Output { stream: LogStream::Stdout, bytes: wire.data },
            "stderr" => LogContent::Output { stream: LogStream::Stderr, bytes: wire.data },
            "gap" => LogContent::Gap { lost_records: wire.lost_records, lost_bytes: wire.lost_bytes },
            other => return Err(wrong("stream", "is not a stream", other, "stdout, stderr, gap")),
        };
        let cursor = text(wire.cursor, "cursor", MAX_LINE_BYTES)?;
        Ok(Self { sequence: wire.sequence, time: Timestamp(wire.time), content, cursor })
    }
}

impl TryFrom<pb::LogsReply> for LogBatch {
    type Error = Violation;

    fn try_from(wire: pb::LogsReply) -> Parsed<Self> {
        Ok(Self { records: each(wire.records, "records")?, exit: optional(wire.exit, "exit")? })
    }
}

pub(in crate::rpc) fn exec_start(who: Principal, task: TaskId, exec: ExecSpec) -> pb::ExecStart {
    let ExecSpec { argv, tty } = exec;
    let (rows, columns) = tty.unwrap_or_default();
    pb::ExecStart {
        principal: Some(who.into()),
        task: task.to_string(),
        argv,
        tty: tty.is_some(),
        rows: rows.into(),
        columns: columns.into(),
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
    Ok((task, ExecSpec { argv, tty: wire.tty.then_some(size) }))
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
