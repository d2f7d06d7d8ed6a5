//! The worker as the supervisor has it: a process and a socket. Blocks, never longer than a deadline.

use super::options::NvmlOptions;
use super::wire::{self, Answer, Question};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often a wait for the end of a worker looks.
const LOOK: Duration = Duration::from_millis(5);
/// A worker whose socket is closed ends at once, unless it hangs.
const END: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    stream: UnixStream,
    /// What it hears of the devices comes here; none if nobody listens.
    events: Option<UnixStream>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// The deadline passed.
    Late(Duration),
    /// It ended, or cannot be spoken to.
    Broken(String),
}

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

impl Worker {
    /// `listens`: its standard output is a second socket, for events.
    pub(super) fn start(options: &NvmlOptions, listens: bool) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        let (events, output) = match listens.then(UnixStream::pair).transpose()? {
            Some((events, theirs)) => (Some(events), Stdio::from(OwnedFd::from(theirs))),
            None => (None, Stdio::null()),
        };
        let child = Command::new(&options.worker)
            .arg0("wharf")
            .arg("gpu-worker")
            .envs(options.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(output)
            // Ctrl-C is the agent's: the worker ends with it.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, stream, events })
    }

    /// The socket that events come from.
    pub(super) fn events(&self) -> io::Result<Option<UnixStream>> {
        self.events.as_ref().map(UnixStream::try_clone).transpose()
    }

    /// It is not there any more. Never waits.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ask(&mut self, question: &Question, limit: Duration) -> Result<Answer, Silence> {
        let end = Instant::now() + limit;
        let answer = self.stream.set_write_timeout(Some(limit)).and_then(|()| {
            wire::write(&mut self.stream, question)?;
            wire::read::<Answer>(&mut Until { stream: &self.stream, end })
        });
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Silence::Broken(self.how_it_ended())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Silence::Late(limit))
            }
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                Err(Silence::Broken(self.how_it_ended()))
            }
            Err(error) => Err(Silence::Broken(format!("speaking to the GPU worker: {error}"))),
        }
    }

    fn how_it_ended(&mut self) -> String {
        match wait(&mut self.child, END) {
            Some(status) => match (status.signal(), status.code()) {
                (Some(signal), _) => format!("the GPU worker was ended by signal {signal}"),
                (None, code) => format!("the GPU worker ended with code {}", code.unwrap_or_default()),
            },
            None => "the GPU worker closed its socket".to_owned(),
        }
    }

    /// Closes the socket, waits a little, then kills. Whatever is left then has to be reaped later.
    pub(super) fn end(self) -> Option<Child> {
        let Self { mut child, stream, events } = self;
        drop(stream);
        let has_ended = wait(&mut child, END).is_some();
        shut(events);
        if has_ended {
            return None;
        }
        let _ = child.kill();
        if wait(&mut child, END).is_some() { None } else { Some(child) }
    }

    /// Kills without waiting; the kernel may hold it for ever.
    pub(super) fn abandon(self) -> Child {
        let Self { mut child, stream, events } = self;
        drop(stream);
        let _ = child.kill();
        shut(events);
        child
    }
}

/// Whoever reads the events finds an end behind those that came, also while the worker hangs and holds its own.
fn shut(events: Option<UnixStream>) {
    if let Some(events) = events {
        let _ = events.shutdown(std::net::Shutdown::Both);
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            // Nothing is known of it any more, so nothing is left to wait for.
            Err(_) => return Some(std::process::ExitStatus::default()),
            Ok(None) if Instant::now() >= end => return None,
            // The supervisor's own thread: nothing else runs on it.
            Ok(None) => std::thread::park_timeout(LOOK),
        }
    }
}

/// Reads until a moment, however many pieces come.
struct Until<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer)
    }
}
