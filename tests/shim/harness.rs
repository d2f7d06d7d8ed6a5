//! Plays the agent: starts the real static program, speaks its protocol over a real socket, reads its files.

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use wharf::shim::exit::{ExitRecord, Why};
use wharf::shim::protocol::{AgentFrame, Frame, FrameBuffer, Phase, ShimFrame, Slot};
use wharf::shim::record::{self, Body, Decoded, Kind};
use wharf::shim::spec::{Command, ShimSpec};

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(40);

/// Tries `find` until it gives something.
pub fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < end, "in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn send_signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

pub fn shell(script: &str) -> Command {
    run(&["/bin/sh", "-c", script])
}

pub fn run(arguments: &[&str]) -> Command {
    let arguments = arguments.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    let env = vec![(b"PATH".to_vec(), b"/usr/bin:/bin".to_vec())];
    Command { alternatives: vec![arguments], env, cwd: None }
}

/// What the segments hold.
#[derive(Debug, Default)]
pub struct Log {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Lost records and bytes.
    pub gaps: Vec<(u64, u64)>,
    pub records: u64,
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Appends one segment; everything in it must be whole.
    pub fn read_segment(&mut self, bytes: &[u8]) {
        let salt = record::decode_segment_header(bytes).unwrap().salt;
        let mut rest = &bytes[record::SEGMENT_HEADER_BYTES..];
        while !rest.is_empty() {
            let Decoded::Complete { header, body } = record::decode_record(rest, salt) else {
                panic!("a damaged record {} bytes before the end", rest.len())
            };
            match (header.kind, body) {
                (Kind::Stdout, Body::Output(bytes)) => self.stdout.extend_from_slice(bytes),
                (_, Body::Output(bytes)) => self.stderr.extend_from_slice(bytes),
                (_, Body::Gap { lost_records, lost_bytes }) => self.gaps.push((lost_records, lost_bytes)),
            }
            self.records += u64::from(header.kind != Kind::Gap);
            rest = &rest[header.total_bytes()..];
        }
    }
}

/// One shim and its agent.
pub struct Agent {
    pub folder: tempfile::TempDir,
    listener: Option<UnixListener>,
    connection: Option<UnixStream>,
    buffer: FrameBuffer,
    pub shim: Child,
    pub segments: Vec<PathBuf>,
}

impl Agent {
    /// A shim that has said hello.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let program = concat!(env!("OUT_DIR"), "/wharf-shim");
        // Relative to its working folder, as for processes with long state paths.
        let mut command = std::process::Command::new(program);
        command.arg("s").current_dir(folder.path()).stdin(Stdio::null());
        let shim = command.spawn().unwrap();
        let segments = (0..4).map(|n| folder.path().join(format!("log.{n}"))).collect();
        let mut agent = Self {
            folder,
            listener: Some(listener),
            connection: None,
            buffer: FrameBuffer::default(),
            shim,
            segments,
        };
        assert_eq!(agent.accept(), Phase::NeedSpec);
        agent
    }

    /// A shim that has said ready.
    pub fn prepare(spec: &ShimSpec) -> Self {
        let mut agent = Self::start();
        agent.send_spec(spec, Vec::new());
        agent.expect_ready();
        agent
    }

    /// A shim that has been told to run this.
    pub fn launch(spec: &ShimSpec, command: &Command) -> Self {
        let mut agent = Self::prepare(spec);
        agent.go(command);
        agent
    }

    /// Runs a command to its end.
    pub fn complete(spec: &ShimSpec, command: &Command) -> (ExitRecord, Log) {
        let mut agent = Self::launch(spec, command);
        let exit = agent.expect_end();
        agent.bye();
        let log = agent.log();
        (exit, log)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn expect_ready(&mut self) {
        match self.next() {
            ShimFrame::Ready { checks } => assert!(checks.iter().all(|check| check.passed()), "{checks:?}"),
            other => panic!("{other:?} instead of ready"),
        }
    }

    /// Takes the connection that the shim makes, and its hello.
    pub fn accept(&mut self) -> Phase {
        let listener = self.listener.as_ref().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (connection, _) = until("the shim connects", || listener.accept().ok());
        connection.set_nonblocking(false).unwrap();
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        (self.connection, self.buffer) = (Some(connection), FrameBuffer::default());
        match self.next() {
            ShimFrame::Hello { version: 1, phase, .. } => phase,
            other => panic!("{other:?} instead of hello"),
        }
    }

    /// The agent dies.
    pub fn hang_up(&mut self) {
        (self.connection, self.listener) = (None, None);
        std::fs::remove_file(self.path("s")).unwrap();
    }

    pub fn listen_again(&mut self) {
        self.listener = Some(UnixListener::bind(self.path("s")).unwrap());
    }

    pub fn next(&mut self) -> ShimFrame {
        loop {
            if let Some(frame) = self.buffer.next_frame().unwrap() {
                return frame;
            }
            let mut bytes = [0; 4096];
            let length = self.connection.as_mut().unwrap().read(&mut bytes).unwrap();
            assert!(length > 0, "the shim is there");
            self.buffer.push(&bytes[..length]);
        }
    }

    pub fn send(&mut self, frame: &AgentFrame) {
        self.connection.as_mut().unwrap().write_all(&frame.encode().unwrap()).unwrap();
    }

    pub fn send_with(&mut self, frame: &AgentFrame, descriptors: &[OwnedFd]) {
        let bytes = frame.encode().unwrap();
        let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let connection = self.connection.as_ref().unwrap();
        let rights = [ControlMessage::ScmRights(&raw)];
        let sent = sendmsg::<()>(connection.as_raw_fd(), &[IoSlice::new(&bytes)], &rights, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(bytes.len()));
    }

    /// Sends what every task gets, and `more`.
    pub fn send_spec(&mut self, spec: &ShimSpec, more: Vec<(Slot, OwnedFd)>) {
        std::fs::write(self.path("spec"), spec.encode()).unwrap();
        let open = |path: &PathBuf| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut all = vec![
            (Slot::Spec, File::open(self.path("spec")).unwrap().into()),
            (Slot::Exit, open(&self.path("exit")).unwrap().into()),
            (Slot::Proc, File::open("/proc").unwrap().into()),
            (Slot::Stdin, File::open("/dev/null").unwrap().into()),
        ];
        all.extend(self.segments.iter().map(|path| (Slot::Segment, open(path).unwrap().into())));
        all.extend(more);
        let (slots, descriptors): (Vec<Slot>, Vec<OwnedFd>) = all.into_iter().unzip();
        self.send_with(&AgentFrame::Spec { descriptors: slots }, &descriptors);
    }

    pub fn go(&mut self, command: &Command) {
        std::fs::write(self.path("command"), command.encode()).unwrap();
        let file = File::open(self.path("command")).unwrap();
        self.send_with(&AgentFrame::Go, &[file.into()]);
    }

    /// Waits for the command to run: its pid and the program's path.
    pub fn expect_start(&mut self) -> (i32, String) {
        match self.next() {
            ShimFrame::Started { child_pid, program, .. } => (child_pid as i32, program),
            other => panic!("{other:?} instead of started"),
        }
    }

    /// Waits for the end; the file says the same as the frame.
    pub fn expect_end(&mut self) -> ExitRecord {
        let exit = loop {
            match self.next() {
                ShimFrame::Started { .. } | ShimFrame::StopAck => {}
                ShimFrame::Ended { exit } => break exit,
                other => panic!("{other:?} instead of the end"),
            }
        };
        assert_eq!(self.exit_file(), Some(exit.clone()));
        exit
    }

    pub fn exit_file(&self) -> Option<ExitRecord> {
        ExitRecord::decode_file(&std::fs::read(self.path("exit")).unwrap_or_default()).unwrap()
    }

    /// Segments in the order they were begun.
    pub fn log(&self) -> Log {
        let mut segments: Vec<Vec<u8>> = self.segments.iter().map(|path| std::fs::read(path).unwrap()).collect();
        segments.retain(|bytes| !bytes.is_empty());
        segments.sort_by_key(|bytes| record::decode_segment_header(bytes).unwrap().ordinal);
        let mut log = Log::default();
        segments.iter().for_each(|bytes| log.read_segment(bytes));
        log
    }

    /// What the log holds by now.
    pub fn log_contains(&self, text: &str) -> bool {
        let all: Vec<u8> = self.segments.iter().flat_map(|path| std::fs::read(path).unwrap_or_default()).collect();
        all.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// The agent has taken note; gives the shim's exit code.
    pub fn bye(&mut self) -> Option<i32> {
        self.send(&AgentFrame::Bye);
        self.wait()
    }

    /// Waits for the shim to leave.
    pub fn wait(&mut self) -> Option<i32> {
        let shim = &mut self.shim;
        until("the shim leaves", || shim.try_wait().unwrap()).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // After a failed test its command dies with it.
        let _ = self.shim.kill();
        let _ = self.shim.wait();
    }
}

pub fn spec() -> ShimSpec {
    ShimSpec { segment_bytes: 64 << 20, ..ShimSpec::default() }
}

pub fn is_exec_failure(why: &Why, step_wanted: &str, errno_wanted: i32, word: &str) -> bool {
    match why {
        Why::ExecFailed { step, errno, message } => {
            step == step_wanted && *errno == errno_wanted && message.contains(word)
        }
        _ => false,
    }
}
