//! A started program: its output is collected while it runs, it cannot hang a test, and it does not outlive one.

use super::wait::{PATIENCE, pause};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 + N for signal N.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails unless the code is this one.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", shortened(&self.stdout), shortened(&self.stderr));
        self
    }

    /// The one JSON value on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let parsed = serde_json::from_slice(&self.stdout);
        parsed.unwrap_or_else(|error| {
            panic!("{error} in: {}\nstderr: {}", shortened(&self.stdout), shortened(&self.stderr))
        })
    }

    /// One JSON value per line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let lines = self.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| {
                serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error} in: {}", shortened(line)))
            })
            .collect()
    }
}

/// The beginning of what may be megabytes.
pub fn shortened(bytes: &[u8]) -> String {
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(4000)]).into_owned();
    if bytes.len() > 4000 { format!("{beginning}... ({} bytes)", bytes.len()) } else { beginning }
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    what: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {what}: {error}"));
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().expect("it is piped"), &stdout),
            collect(child.stderr.take().expect("it is piped"), &stderr),
        ];
        let stdin = child.stdin.take();
        Self { child, stdin, stdout, stderr, readers, what }
    }

    pub fn id(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are small")
    }

    /// Gives it input and the end of it. Whether it reads that is its own matter.
    pub fn feed(&mut self, input: &[u8]) {
        if let Some(mut stdin) = self.stdin.take() {
            let _ = stdin.write_all(input);
        }
    }

    /// Gives it input, with more to come. Returns once it has read all but what a pipe holds.
    pub fn feed_more(&mut self, input: &[u8]) {
        if let Some(stdin) = self.stdin.as_mut() {
            let _ = stdin.write_all(input);
        }
    }

    pub fn stdout_so_far(&self) -> Vec<u8> {
        self.stdout.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.id()), signal);
    }

    /// Closes its input and waits for its end.
    #[track_caller]
    pub fn finish(self) -> Output {
        self.finish_within(PATIENCE)
    }

    #[track_caller]
    pub fn finish_within(mut self, patience: Duration) -> Output {
        drop(self.stdin.take());
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() > deadline {
                let (out, err) =
                    (self.stdout_so_far(), self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone());
                panic!(
                    "{}: still runs after {patience:?}\nstdout: {}\nstderr: {}",
                    self.what,
                    shortened(&out),
                    shortened(&err)
                );
            }
            pause(Duration::from_millis(3));
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader does not panic");
        }
        let take =
            |buffer: &Mutex<Vec<u8>>| std::mem::take(&mut *buffer.lock().unwrap_or_else(PoisonError::into_inner));
        Output { code: code_of(status), stdout: take(&self.stdout), stderr: take(&self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    let to = to.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                return;
            }
            to.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
    })
}

fn code_of(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}
