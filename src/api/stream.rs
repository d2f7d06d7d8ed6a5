//! Streams that cross both services: log records and interactive commands.

use crate::domain::command::Error;
use crate::domain::exit::Exit;
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;
use tokio::sync::mpsc;

/// A stream of answers: bounded; dropping the receiver ends the work behind it.
pub type Answers<T> = mpsc::Receiver<Result<T, Error>>;

/// Which output of one task, from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    pub task: TaskId,
    /// Resume after this; `None` is from the start.
    pub cursor: Option<String>,
    pub stream: StreamFilter,
    /// Go on until the task has ended and its output is drained.
    pub follow: bool,
    /// Only records at or after this time.
    pub since: Option<Timestamp>,
    /// Only the last N lines of what is there now (and what follows).
    pub tail: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamFilter {
    #[default]
    All,
    Stdout,
    Stderr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A piece of output exactly as it was read from the task: any bytes, cut anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub sequence: u64,
    pub time: Timestamp,
    pub content: LogContent,
    /// Resumes after this record: `TASK:SEQUENCE.OFFSET`.
    pub cursor: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogContent {
    Output {
        stream: LogStream,
        bytes: Vec<u8>,
    },
    /// Output that is gone for good, counted exactly.
    Gap {
        lost_records: u64,
        lost_bytes: u64,
    },
}

/// Records in order; with `exit` it is the last one and the output is complete.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogBatch {
    pub records: Vec<LogRecord>,
    pub exit: Option<Exit>,
}

/// A command to run beside a task, in its environment and limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Allocate a terminal of this many rows and columns.
    pub tty: Option<(u16, u16)>,
}

/// A running command. Dropping it kills the command.
#[derive(Debug)]
pub struct ExecSession {
    /// Bytes for the command's input; closing it is end of file.
    pub stdin: mpsc::Sender<Vec<u8>>,
    pub output: Answers<ExecOutput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The last message. 128 + N for signal N.
    Exited(i32),
}
