//! Where a contract is tried out, and looking at what a task did.

use crate::domain::exit::Exit;
use crate::domain::ids::{JobId, RunId, TaskId};
use crate::domain::spec::CommandStyle;
use crate::domain::task::TaskSpec;
use crate::runtime::{Launch, Runtime, RuntimeEvent, RuntimeEventKind};
use crate::shim::record::{self, Body, Decoded, Kind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Long enough for a loaded machine; nothing waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A place with state that outlives a runtime.
pub trait Site: Send + Sync {
    /// A new runtime on this place's state, as after a restart of the agent.
    fn start(&self) -> Subject;

    /// A task that this runtime can run, of this command.
    fn task(&self, command: &str) -> TaskSpec {
        task(command)
    }
}

/// A runtime and its events.
#[derive(Debug)]
pub struct Subject {
    pub runtime: Arc<dyn Runtime>,
    pub events: mpsc::Receiver<RuntimeEvent>,
}

impl Subject {
    pub async fn next(&mut self) -> RuntimeEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event comes in time").expect("the channel is open")
    }

    pub async fn started(&mut self) {
        let event = self.next().await;
        assert!(matches!(event.kind, RuntimeEventKind::Started { .. }), "{event:?}");
    }

    pub async fn exited(&mut self) -> Exit {
        match self.next().await.kind {
            RuntimeEventKind::Exited { exit, .. } => exit,
            other => panic!("an exit was expected: {other:?}"),
        }
    }

    pub async fn run(&mut self, task: &TaskSpec) -> Exit {
        self.runtime.prepare(task, &[]).await.unwrap();
        self.runtime.launch(task.id, &Launch::default()).await.unwrap();
        self.started().await;
        self.exited().await
    }

    pub async fn launch(&mut self, task: &TaskSpec) {
        self.runtime.prepare(task, &[]).await.unwrap();
        self.runtime.launch(task.id, &Launch::default()).await.unwrap();
        self.started().await;
    }

    /// Removes the task and checks that no further event of it came.
    pub async fn finish(mut self, id: TaskId) {
        self.runtime.remove(id).await.unwrap();
        self.quiet();
    }

    pub fn quiet(&mut self) {
        let event = self.events.try_recv();
        assert!(event.is_err(), "no event was due: {event:?}");
    }

    pub async fn wait_for_output(&self, id: TaskId, wanted: &str) {
        let dir = self.runtime.log_dir(id);
        let has = || String::from_utf8_lossy(&output(&dir).0).contains(wanted);
        wait_until(&format!("output '{wanted}'"), has).await;
    }
}

/// Waits for a condition of the outside world.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn task(command: &str) -> TaskSpec {
    TaskSpec {
        id: TaskId { job: JobId(7), run: RunId(9), role: 0, index: 3 },
        job_name: "job".into(),
        user: "ada".into(),
        role_name: "main".into(),
        image: String::new(),
        command: command.into(),
        command_style: CommandStyle::Shell,
        cpus: 1,
        memory_mb: 512,
        shm_mb: 64,
        gpus: vec![],
        ports: vec![],
        lease_s: None,
        debug_hold_s: None,
        files: Default::default(),
        container: Default::default(),
    }
}

/// Both streams of a log, read from its files.
pub fn output(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("log.") {
            let bytes = std::fs::read(entry.path()).unwrap();
            if let Ok(header) = record::decode_segment_header(&bytes) {
                segments.push((header.ordinal, header.salt, bytes));
            }
        }
    }
    segments.sort_by_key(|(ordinal, ..)| *ordinal);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for (_, salt, bytes) in &segments {
        let mut rest = &bytes[record::SEGMENT_HEADER_BYTES..];
        while let Decoded::Complete { header, body } = record::decode_record(rest, *salt) {
            match (header.kind, body) {
                (Kind::Stdout, Body::Output(bytes)) => stdout.extend_from_slice(bytes),
                (Kind::Stderr, Body::Output(bytes)) => stderr.extend_from_slice(bytes),
                (_, body) => panic!("no gap was due: {body:?}"),
            }
            rest = &rest[header.total_bytes()..];
        }
    }
    (stdout, stderr)
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes `sleep MARKER` of this machine.
pub fn sleepers(marker: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| text(&line).replace('\0', " "));
    lines.filter(|line| line.trim() == format!("sleep {marker}")).collect()
}
