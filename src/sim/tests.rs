//! Small traces worked out by hand, and what must hold of any.

use super::trace::csv::CsvTrace;
use super::trace::synthetic::Synthetic;
use super::*;
use proptest::prelude::*;

mod by_hand;
mod properties;

/// Every reading of the time is a microsecond later.
struct Ticking(u64);

impl Stopwatch for Ticking {
    fn nanos(&mut self) -> u64 {
        self.0 += 1000;
        self.0
    }
}

const AT_ONCE: Latencies = Latencies {
    stage: Duration::ZERO,
    prepare: Duration::ZERO,
    launch: Duration::ZERO,
    stop: Duration::ZERO,
    release: Duration::ZERO,
};

fn config(nodes: u32, gpus: u32, policy: Policy) -> Config {
    Config {
        groups: vec![NodeGroup::of(nodes, gpus, "H100")],
        policy,
        seed: 1,
        faults: 0.0,
        latencies: AT_ONCE,
        checks: true,
    }
}

fn run(config: Config, trace: impl Iterator<Item = Result<TraceJob, TraceError>>) -> (Ended, Report, Speed) {
    let mut simulation = Simulation::new(config, trace);
    let ended = simulation.run(&mut Ticking(0), &mut |_| true);
    let (report, speed) = simulation.report();
    (ended, report, speed)
}

/// Lines of a trace without its header: `submit_s,duration_s,tasks,gpus,priority`.
fn lines(lines: &[&str]) -> impl Iterator<Item = Result<TraceJob, TraceError>> {
    let header = "submit_s,duration_s,tasks,gpus,priority,cpus,memory_mb".to_owned();
    let lines = lines.iter().map(|line| format!("{line},1,1000"));
    let text: Vec<String> = std::iter::once(header).chain(lines).collect();
    CsvTrace::new(std::io::Cursor::new(text.join("\n")))
}

fn waits<'a>(report: &'a Report, gpus: &str) -> &'a report::WaitReport {
    report.waits.iter().find(|wait| wait.gpus == gpus).expect("a class of sizes")
}
