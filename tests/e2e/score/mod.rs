//! How well hardware faults are seen, as a scored table: `tests/faults`, and a small form of it with every test run.
//!
//! Signals, noise and the lines of the corpus are data of their own, written from the words of drivers and not from our
//! parser: `tests/data/faults` and `tests/data/kernel-log`. Everything but the last row goes through a real controller and
//! a real agent.
//!
//! | row | what is counted |
//! |---|---|
//! | coverage | causes of Llama 3's 419 interruptions whose signals lead to a fault of the right class on the right part, weighted; what no signal shows counts as missed |
//! | precision | GPUs and jobs that suffer from noise among real faults: none may |
//! | attribution | faults that name the task which had the GPU at that moment, or none where it was idle |
//! | latency | from the line's being written to the event that names the job |
//! | parser | lines of the corpus that are understood |

mod attribution;
mod coverage;
mod latency;
mod log;
mod mock;
mod parser;
mod precision;
mod site;
mod table;

use crate::harness::skip;
use latency::Latencies;
use serde_json::json;
use site::Site;

/// `tests/faults` fails below this part of 419.
const COVERAGE_FLOOR: f64 = 0.70;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
struct Amount {
    /// Signals of a cause; those of NVML only where the mock of it was built.
    signals: usize,
    /// Of each kind of noise, this part: 1 is all of it.
    noise: usize,
    injections: usize,
    /// Tasks that have just exited.
    exits: usize,
    /// Also the driver's library and the kernel's own log.
    everything: bool,
}

/// What came out of it.
#[derive(Debug)]
struct Score {
    coverage: coverage::Coverage,
    precision: precision::Precision,
    attribution: attribution::Attribution,
    latency: Latencies,
    /// Through the kernel's own log, where this user may write to it.
    kernels: Option<(attribution::Attribution, Latencies)>,
    parser: parser::Parsed,
}

impl Score {
    fn is_good(&self) -> bool {
        let kernels = self.kernels.as_ref().is_none_or(|(attribution, _)| attribution.is_perfect());
        let understood = self.parser.missed.len() == parser::NOT_ABOUT_HARDWARE;
        let named = self.attribution.is_perfect() && kernels;
        self.precision.is_perfect() && named && understood && self.coverage.part() >= COVERAGE_FLOOR
    }
}

fn score(amount: Amount) -> Score {
    let site = Site::with_log_file();
    let (attribution, latency) = attribution::score(&site, amount.injections, amount.exits);
    let precision = precision::score(&site, amount.noise);
    drop(site);
    let kernels = amount.everything.then(Site::with_kernels_log).flatten();
    let kernels = kernels.map(|site| attribution::score(&site, amount.injections, 0));
    Score {
        attribution,
        latency,
        precision,
        kernels,
        coverage: coverage::score(amount.signals, amount.everything),
        parser: parser::score(),
    }
}

#[test]
fn a_few_injected_faults_are_seen_named_and_told_and_noise_is_borne() {
    let amount = Amount { signals: 1, noise: 20, injections: 24, exits: 2, everything: false };
    let score = score(amount);
    let shown = table::text(&score);
    assert!(score.precision.is_perfect(), "{shown}");
    assert!(score.attribution.is_perfect(), "{shown}");
    assert_eq!(score.latency.count(), 24, "{shown}");
    // What the first signal of each cause says in the kernel's log.
    assert_eq!(score.coverage.missed_lines(), Vec::<String>::new(), "{shown}");
    assert_eq!(score.parser.missed.len(), parser::NOT_ABOUT_HARDWARE, "{shown}");
}

/// For `tests/faults`.
#[test]
fn as_many_as_asked_for() {
    let Ok(to) = std::env::var("WHARF_FAULTS_TABLE") else {
        return skip("the scored table of hardware faults", "tests/faults makes it");
    };
    let score = score(Amount { signals: usize::MAX, noise: 1, injections: 500, exits: 10, everything: true });
    let json = std::env::var_os("WHARF_FAULTS_JSON").is_some();
    let shown = if json { format!("{}\n", json!(table::json(&score))) } else { table::text(&score) };
    std::fs::write(&to, shown).unwrap_or_else(|error| panic!("{to}: {error}"));
    assert!(score.is_good(), "{}", table::text(&score));
}
