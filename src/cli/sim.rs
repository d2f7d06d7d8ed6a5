//! `wharf sim`: a cluster in this process, under scripted time.
//!
//! What comes out has two parts: the outcome, which is the same for the same arguments, and the speed of this machine.

mod arguments;
mod text;

use super::args::SimArgs;
use super::context::Context;
use super::exit_code::{INTERRUPTED, OK};
use super::fail::Failure;
use super::signals::interrupted;
use crate::domain::command::{Error, ErrorKind, Violation};
use crate::sim::trace::csv::CsvTrace;
use crate::sim::trace::synthetic::Synthetic;
use crate::sim::{Config, Ended, Policy, Progress, Report, Simulation, Speed, Stopwatch, TraceError, TraceJob};
use arguments::Setting;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Nobody wants to be told how far something is that takes no longer.
const QUIET: Duration = Duration::from_secs(1);
/// Between two words on how far it is.
const PACE: Duration = Duration::from_millis(200);

/// What one policy made of the trace.
struct Outcome {
    policy: Policy,
    complete: bool,
    report: Report,
    speed: Speed,
    wall: Duration,
}

type Trace = Box<dyn Iterator<Item = Result<TraceJob, TraceError>>>;

pub async fn sim(context: &Context, args: SimArgs) -> Result<u8, Failure> {
    let setting = Arc::new(Setting::of(args)?);
    let stop = Arc::new(AtomicBool::new(false));
    let work = {
        let (setting, stop) = (setting.clone(), stop.clone());
        tokio::task::spawn_blocking(move || simulate(&setting, &stop))
    };
    tokio::pin!(work);
    let (outcomes, code) = tokio::select! {
        done = &mut work => (done, OK),
        _ = interrupted() => {
            stop.store(true, Ordering::Relaxed);
            (work.await, INTERRUPTED)
        }
    };
    let outcomes = outcomes.map_err(|error| Error::internal(format!("the simulation: {error}")))??;
    if context.json {
        context.print_json(&object(&setting, &outcomes))?;
    } else {
        context.print(&text::text(&setting, &outcomes))?;
    }
    Ok(code)
}

fn simulate(setting: &Setting, stop: &AtomicBool) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    for policy in &setting.policies {
        // A second policy that was not begun has nothing to say.
        if stop.load(Ordering::Relaxed) && !outcomes.is_empty() {
            break;
        }
        let started = Instant::now();
        let mut simulation = Simulation::new(Config { policy: *policy, ..setting.config.clone() }, trace(setting)?);
        let mut teller = Teller::new(*policy);
        let ended = simulation.run(&mut Wall(started), &mut |progress| {
            teller.tell(progress);
            !stop.load(Ordering::Relaxed)
        });
        teller.done();
        match ended {
            Ended::Done | Ended::Interrupted => {}
            Ended::Trace(error) => return Err(wrong_trace(&setting.trace, &error)),
            Ended::Broken(why) => return Err(Error::internal(format!("a wrong decision: {why}")).into()),
        }
        let (report, speed) = simulation.report();
        let complete = ended == Ended::Done;
        outcomes.push(Outcome { policy: *policy, complete, report, speed, wall: started.elapsed() });
    }
    Ok(outcomes)
}

fn trace(setting: &Setting) -> Result<Trace, Failure> {
    if setting.trace == arguments::SYNTHETIC {
        let config = &setting.config;
        let jobs = usize::try_from(setting.jobs).unwrap_or(usize::MAX);
        return Ok(Box::new(Synthetic::new(&config.groups, setting.load, config.seed).take(jobs)));
    }
    let file = File::open(&setting.trace).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    });
    let file = file.map_err(|error| {
        let message = format!("{}: {error}; a CSV file or '{}' is expected", setting.trace, arguments::SYNTHETIC);
        Error::new(ErrorKind::Invalid, message)
    })?;
    Ok(Box::new(CsvTrace::new(BufReader::new(file))))
}

fn wrong_trace(file: &str, error: &TraceError) -> Failure {
    let column = error.column.as_ref().map(|column| format!(".{column}")).unwrap_or_default();
    let violation = Violation {
        field: format!("line {}{column}", error.line),
        message: "cannot be used".to_owned(),
        found: error.found.clone(),
        allowed: error.allowed.clone(),
    };
    let message = format!("{file}: {error}");
    Failure::Error(Error { violations: vec![violation], ..Error::new(ErrorKind::Invalid, message) })
}

/// The outcome and the speed, apart from each other.
fn object(setting: &Setting, outcomes: &[Outcome]) -> Value {
    let mut simulation = Map::from_iter([("configuration".to_owned(), setting.json())]);
    let mut speed = Map::new();
    for outcome in outcomes {
        let name = outcome.policy.as_str();
        let mut report = json!(outcome.report);
        report["complete"] = json!(outcome.complete);
        simulation.insert(name.to_owned(), report);
        let mut measured = json!(outcome.speed);
        measured["wall_s"] = json!(outcome.wall.as_secs_f64());
        speed.insert(name.to_owned(), measured);
    }
    if let [ours, theirs] = outcomes {
        let ratios = text::ratios(&ours.report, &theirs.report);
        let ratios = ratios.into_iter().map(|(name, _, ratio)| (name.to_owned(), json!(ratio)));
        simulation.insert("fifo_over_wharf".to_owned(), Value::Object(ratios.collect()));
    }
    speed.insert("peak_memory_mb".to_owned(), json!(peak_memory_mb()));
    json!({ "simulation": simulation, "speed": speed })
}

/// The most memory that this process has had, in MB of a million bytes; none where the kernel does not say.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes * 1024.0 / 1e6)
}

/// This machine's time.
struct Wall(Instant);

impl Stopwatch for Wall {
    fn nanos(&mut self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Says on a terminal how far it is.
struct Teller {
    policy: Policy,
    wanted: bool,
    started: Instant,
    told: Option<Instant>,
}

impl Teller {
    fn new(policy: Policy) -> Self {
        Self { policy, wanted: io::stderr().is_terminal(), started: Instant::now(), told: None }
    }

    fn tell(&mut self, progress: Progress) {
        let due = self.started.elapsed() > QUIET && self.told.is_none_or(|told| told.elapsed() > PACE);
        if !self.wanted || !due {
            return;
        }
        self.told = Some(Instant::now());
        let days = progress.now.0 as f64 / 86_400e9;
        let line = format!(
            "{}: day {days:.2}, {} jobs submitted, {} unfinished, {} wait",
            self.policy.as_str(),
            progress.submitted,
            progress.unfinished,
            progress.waiting
        );
        let _ = write!(io::stderr(), "\r\x1b[K{line}");
    }

    fn done(&self) {
        if self.told.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
