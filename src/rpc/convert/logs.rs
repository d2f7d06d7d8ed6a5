//! Log records and log queries.

use super::{MAX_LINE_BYTES, Parsed, each, maybe, nanos, optional, task_id, text, time, wrong};
use crate::api::stream::{LogBatch, LogContent, LogQuery, LogRecord, LogStream, StreamFilter};
use crate::domain::command::Violation;
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
