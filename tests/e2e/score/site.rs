//! A controller and a node of eight GPUs, and everything that the controller tells while it happens.

use super::log::Log;
use super::mock::Mock;
use crate::harness::job::{quoted, with};
use crate::harness::{Cluster, Node, job, role, skip, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub(super) const GPUS: usize = 8;

/// Dropping it ends everything; the stream of events first, so that it does not wait for its controller.
#[derive(Debug)]
pub(super) struct Site {
    events: Events,
    pub(super) cluster: Cluster,
    pub(super) log: Log,
    pub(super) mock: Option<Mock>,
}

impl Site {
    pub(super) fn with_log_file() -> Self {
        Self::new(Log::file(), None)
    }

    /// If this user may write there.
    pub(super) fn with_kernels_log() -> Option<Self> {
        let log = Log::kernels().map_err(|why| skip("latency through the kernel's own log", &why)).ok()?;
        Some(Self::new(log, None))
    }

    /// With the mock of the driver's library, if it was built.
    pub(super) fn with_driver() -> Self {
        Self::new(Log::file(), Mock::new())
    }

    fn new(log: Log, mock: Option<Mock>) -> Self {
        let more = format!("kernel_log = {}\n", quoted(log.path()));
        let node = Node { more, ..Node::new("n0", &format!("sim:{GPUS}xH100")) };
        let node = mock.as_ref().map_or_else(|| node.clone(), |mock| mock.node(node.clone()));
        let cluster = Cluster::with(vec![node], "");
        until("all GPUs are there", || (cluster.json(&["gpus"]).as_array()?.len() == GPUS).then_some(()));
        let events = Events::follow(&cluster);
        Self { events, cluster, log, mock }
    }

    pub(super) fn gpus(&self) -> Vec<Value> {
        self.cluster.json(&["gpus"]).as_array().expect("a list").clone()
    }

    /// A job of tasks with one GPU each that run until [`Self::let_go`].
    pub(super) fn hold(&self, name: &str, tasks: u32) -> String {
        let go = quoted(self.cluster.path(&format!("go-{name}")));
        let command = format!("until [ -e {go} ]; do sleep 0.2; done");
        self.cluster.submit(&job(name, &[with(role("main", tasks, &command), &json!({ "gpuNumber": 1 }))]))
    }

    pub(super) fn let_go(&self, name: &str) {
        self.cluster.touch(&format!("go-{name}"));
    }

    /// Says lines of one fault, and waits for what the controller says of it: that, and how long it took from the writing.
    pub(super) fn inject(&self, lines: &[String]) -> Option<(Value, Duration)> {
        self.events.forget();
        let said = Instant::now();
        self.log.say(lines);
        self.events.opened(said)
    }

    /// The same as of an earlier moment.
    pub(super) fn inject_at(&self, lines: &[String], at_boot_us: u64) -> Option<(Value, Duration)> {
        self.events.forget();
        let said = Instant::now();
        self.log.say_at(lines, at_boot_us);
        self.events.opened(said)
    }

    /// An operator's word on everything that is wrong.
    pub(super) fn clear(&self) {
        for fault in self.cluster.json(&["faults"]).as_array().expect("a list") {
            let id = fault["id"].as_u64().expect("an integer").to_string();
            self.cluster.cli(&["fault", "clear", &id]).expect(0);
        }
        until("no fault is active", || self.cluster.json(&["faults"]).as_array()?.is_empty().then_some(()));
    }
}

/// How the driver names a GPU's place: `0000:1b:00`.
pub(super) fn place(gpu: &Value) -> String {
    address(gpu).trim_end_matches(".0").to_owned()
}

/// `0000:1b:00.0`.
pub(super) fn address(gpu: &Value) -> String {
    let pci = gpu["pci"].as_str().expect("a GPU has a place").to_lowercase();
    let (domain, rest) = pci.split_once(':').expect("a place has a domain");
    format!("{}:{rest}", &domain[domain.len().saturating_sub(4)..])
}

/// A line of the data, of one GPU; `n` is for what differs from line to line.
pub(super) fn filled(line: &str, gpu: &Value, n: usize) -> String {
    line.replace("{gpu}", &place(gpu)).replace("{pci}", &address(gpu)).replace("{n}", &(1000 + n).to_string())
}

#[derive(Debug)]
struct Events {
    child: Child,
    told: Receiver<(Instant, Value)>,
}

/// For one fault to be told of, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

impl Events {
    fn follow(cluster: &Cluster) -> Self {
        let mut command = cluster.command(&["--json", "events", "--follow"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, told) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let at = Instant::now();
                let Ok(event) = serde_json::from_str(&line) else { continue };
                if tell.send((at, event)).is_err() {
                    break;
                }
            }
        });
        let events = Self { child, told };
        // It is connected once it has told what was before.
        events.told.recv_timeout(PATIENCE).expect("a node has joined, which is an event");
        events
    }

    fn forget(&self) {
        self.told.try_iter().for_each(drop);
    }

    fn opened(&self, said: Instant) -> Option<(Value, Duration)> {
        let end = said + PATIENCE;
        loop {
            match self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((at, event)) if event["kind"] == "fault.opened" => return Some((event, at - said)),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
