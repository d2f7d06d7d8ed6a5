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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecSpec {
    pub argv: Vec<String>,
    /// Allocate a terminal of this many rows and columns.
    pub tty: Option<(u16, u16)>,
    /// Set after the task's own variables; of one name the last wins.
    pub env: Vec<(String, String)>,
    /// Where it starts; `None` is where the task's command started.
    pub cwd: Option<String>,
}

/// A running command. Dropping the output hangs it up: SIGHUP, and soon after SIGKILL.
#[derive(Debug)]
pub struct ExecSession {
    /// What goes to the command, in order; closing it is end of file as well.
    pub input: mpsc::Sender<ExecInput>,
    pub output: Answers<ExecOutput>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    Stdin(Vec<u8>),
    /// End of file. What is not for its input may still follow.
    Eof,
    /// The terminal has this many rows and columns now; nothing without one.
    Resize(u16, u16),
    /// For the command's process group.
    Signal(ExecSignal),
}

/// Signals that a caller may pass on. Numbers differ between machines, so they travel by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecSignal {
    Hangup,
    Interrupt,
    Quit,
    Terminate,
    User1,
    User2,
}

impl ExecSignal {
    pub const ALL: [Self; 6] = [Self::Hangup, Self::Interrupt, Self::Quit, Self::Terminate, Self::User1, Self::User2];

    /// Without `SIG`, as RFC 4254 names them.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hangup => "HUP",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
            Self::Terminate => "TERM",
            Self::User1 => "USR1",
            Self::User2 => "USR2",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The last message. 128 + N for signal N.
    Exited(i32),
}
