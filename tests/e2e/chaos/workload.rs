//! Jobs whose tasks write down themselves when they ran, what they held and how they ended, beside numbered output.

use super::fleet::{Fleet, PROCESS_NODES};
use super::plan::Settings;
use crate::harness::job::{ended, with};
use crate::harness::random::Random;
use crate::harness::wait::pause;
use crate::harness::{Output, job, role};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Unfinished jobs that are kept up.
const JOBS: usize = 7;
/// Of them, jobs that run until they are stopped.
const ENDLESS: usize = 4;
/// Until a command has succeeded, whatever happens meanwhile.
const PATIENCE: Duration = Duration::from_secs(180);
/// Lines on stdout per tick; on stderr it is one.
pub const LINES: u64 = 3;

/// How a job is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Each of its tasks by itself.
    Code(i64),
    /// Because it is stopped; its tasks take their time for that.
    Stopped,
}

/// A job as it was decided on.
#[derive(Debug, Clone)]
pub struct JobPlan {
    pub name: String,
    pub tasks: u64,
    pub gpus: u64,
    pub ports: u64,
    pub containers: bool,
    pub end: End,
    /// Tenths of a second until the end, or from the stop to the end.
    pub ticks: u64,
}

impl JobPlan {
    pub fn new(number: usize, end: Option<End>, containers: bool, random: &mut Random) -> Self {
        let code = match random.below(3) {
            0 => 0,
            // 193 asks for another run.
            _ => Some(1 + random.below(120) as i64).filter(|code| *code != 193).unwrap_or(1),
        };
        let end = end.unwrap_or(End::Code(code));
        let containers = containers && random.chance(33);
        Self {
            name: format!("chaos-{number}"),
            tasks: 1 + random.below(3),
            // There is one node for containers, with four GPUs.
            gpus: random.below(if containers { 2 } else { 3 }),
            ports: random.below(3),
            containers,
            end,
            ticks: if end == End::Stopped { 3 + random.below(15) } else { 1 + random.below(40) },
        }
    }

    /// For bash and busybox. Times are those of the boot clock, which containers share. What shells themselves remark on
    /// signals is no output.
    fn command(&self, records: &Path) -> String {
        let (until, code) = match self.end {
            End::Code(code) => (format!("[ $t -ge {} ]", self.ticks), code),
            End::Stopped => (format!("[ $stop = 1 ] && {{ last=$((last+1)); [ $last -gt {} ]; }}", self.ticks), 143),
        };
        let trap = if self.end == End::Stopped { "trap 'stop=1' TERM; " } else { "" };
        format!(
            "exec 3>&2 2>/dev/null; R='{}'/$WHARF_TASK_ID; i=0; t=0; stop=0; last=0\n\
             say() {{ read -r u rest < /proc/uptime; echo \"$1 $u $2\" >> \"$R\"; }}\n\
             tick() {{ for k in 1 2 3; do i=$((i+1)); printf 'out %09d\\n' $i; done; printf 'err %09d\\n' $i >&3; \
             t=$((t+1)); say TICK $i; }}\n\
             {trap}say BEGIN \"$$ $PPID ${{NVIDIA_VISIBLE_DEVICES:-void}} ${{PAI_CONTAINER_HOST_IP:-none}} \
             ${{PAI_CONTAINER_HOST_PORT_LIST:-none}}\"\n\
             until {until}; do tick; sleep 0.1; done\n\
             say END $i; exit {code}",
            records.display()
        )
    }

    pub fn file(&self, records: &Path) -> Value {
        // Every task of a job ends in its own way: no failure ends the others.
        let mut rules = json!({
            "gpuNumber": self.gpus, "minFailedTaskCount": self.tasks, "minSucceededTaskCount": null,
        });
        if self.ports > 0 {
            rules["portList"] = json!([{ "label": "p", "beginAt": 0, "portNumber": self.ports }]);
        }
        let main = with(role("main", self.tasks as u32, &self.command(records)), &rules);
        let kind = if self.containers { "containers" } else { "processes" };
        let nodes = json!({ "nodes": { "labels": { "kind": kind } } });
        let mut more = json!({ "extras": { "wharf": nodes } });
        if self.containers {
            more["image"] = json!("wharf-test/busybox:1");
            more["outputDir"] = json!(records);
        }
        with(job(&self.name, &[main]), &more)
    }
}

/// A job that was handed in, or is about to be.
#[derive(Debug)]
pub struct Job {
    pub plan: JobPlan,
    pub id: OnceLock<String>,
    stopped: AtomicBool,
}

/// All jobs.
#[derive(Debug)]
pub struct Workload {
    random: Mutex<Random>,
    containers: bool,
    pub jobs: Mutex<Vec<Arc<Job>>>,
    /// Answers that no fault explains.
    pub odd: Mutex<BTreeSet<String>>,
}

impl Workload {
    pub fn new(settings: &Settings, fleet: &Fleet) -> Self {
        Self {
            random: Mutex::new(Random::new(settings.seed ^ 0x6a6f_6273)),
            containers: fleet.agents.len() > PROCESS_NODES,
            jobs: Mutex::default(),
            odd: Mutex::default(),
        }
    }

    fn add(&self, end: Option<End>) -> Arc<Job> {
        let mut jobs = self.jobs.lock().expect("no test panics with it");
        let mut random = self.random.lock().expect("no test panics with it");
        let plan = JobPlan::new(jobs.len(), end, self.containers, &mut random);
        let job = Arc::new(Job { plan, id: OnceLock::new(), stopped: AtomicBool::new(false) });
        jobs.push(job.clone());
        job
    }

    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().expect("no test panics with it").clone()
    }

    /// Tries until it succeeds: the same request each time.
    fn insist(&self, fleet: &Fleet, args: &[&str], input: &[u8]) -> Option<Output> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = fleet.cli(args, input);
            match output.code {
                0 => return Some(output),
                3 => {}
                code => {
                    let said = format!("{args:?}: exit {code}: {}", output.errors().trim());
                    self.odd.lock().expect("no test panics with it").insert(said);
                    // Bad usage, or a job that is not known: it will not get better.
                    if code == 2 {
                        return None;
                    }
                }
            }
            assert!(Instant::now() < deadline, "{args:?}: {}", output.errors());
            pause(Duration::from_millis(50));
        }
    }

    pub fn submit(&self, fleet: &Fleet, end: Option<End>) -> Arc<Job> {
        let job = self.add(end);
        let file = job.plan.file(&fleet.path("records")).to_string();
        let args = ["--json", "submit", "--request-id", &job.plan.name, "-"];
        if let Some(answer) = self.insist(fleet, &args, file.as_bytes()) {
            job.id.set(answer.json()["job_id"].to_string()).expect("it is submitted once");
        }
        job
    }

    /// Once per job, whoever comes first.
    pub fn stop(&self, fleet: &Fleet, job: &Job) {
        let Some(id) = job.id.get() else { return };
        if job.plan.end == End::Stopped && !job.stopped.swap(true, Ordering::SeqCst) {
            self.insist(fleet, &["stop", id, "--grace", "60"], b"");
        }
    }

    /// Endless ones that nobody has stopped, oldest first.
    pub fn endless(&self) -> Vec<Arc<Job>> {
        let waits = |job: &Arc<Job>| {
            job.plan.end == End::Stopped && job.id.get().is_some() && !job.stopped.load(Ordering::SeqCst)
        };
        self.jobs().into_iter().filter(waits).collect()
    }

    /// Keeps jobs up until told to end.
    pub fn feed(&self, fleet: &Fleet, enough: &AtomicBool) {
        while !enough.load(Ordering::SeqCst) {
            let unfinished = fleet.cli(&["--json", "jobs"], b"");
            let count = serde_json::from_slice::<Value>(&unfinished.stdout).ok();
            let count = count.filter(|_| unfinished.code == 0).and_then(|jobs| Some(jobs.as_array()?.len()));
            let endless = self.endless();
            if endless.len() > ENDLESS {
                self.stop(fleet, &endless[0]);
            } else if endless.len() < ENDLESS {
                self.submit(fleet, Some(End::Stopped));
            } else if count.is_some_and(|count| count < JOBS) {
                self.submit(fleet, None);
            } else {
                pause(Duration::from_millis(250));
            }
        }
    }

    /// Those that have not ended, as they are shown.
    pub fn unfinished(&self, fleet: &Fleet) -> Vec<Value> {
        let listed = fleet.json(&["jobs"]);
        listed.as_array().into_iter().flatten().filter(|job| !ended(&job["state"])).cloned().collect()
    }
}
