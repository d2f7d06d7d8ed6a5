//! What monitoring reads of a controller and of an agent: every name once, with its meaning and its labels. PURE.
//!
//! Values of labels come from lists that are fixed, or are names of nodes: never of jobs, tasks or users.

use super::fault::{Fault, FaultState};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What a metric's number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Grows, and begins anew with the process.
    Counter,
    Gauge,
    /// How many values are at most so high, for a fixed list of bounds; their sum and number. All grow, as a counter does.
    Histogram,
}

/// One name.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub static $constant: Metric =
            Metric { name: $name, kind: Kind::$kind, help: $help, labels: &[$($label),*] };)*
        /// In the order in which they are told.
        pub static ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    BUILD = Gauge "wharf_build_info" ["version", "role"] "1; its labels say which program this is.";
    LEADS = Gauge "wharf_controller_leads" [] "1 while this controller decides, 0 while another one does.";
    JOBS = Gauge "wharf_jobs" ["state"] "Jobs that the controller knows, ended ones that are still kept too.";
    QUEUE = Gauge "wharf_queue_length" [] "Runs that wait for a place.";
    NODES = Gauge "wharf_nodes" ["state"] "Nodes that have registered.";
    HEARTBEAT_AGE = Gauge "wharf_node_heartbeat_age_seconds" ["node"] "Since the controller heard the node's agent.";
    TASKS = Gauge "wharf_tasks" ["state"] "Of a controller, tasks of runs that have not ended; of an agent, tasks that it keeps.";
    GPUS = Gauge "wharf_gpus" ["state"] "GPUs, and slices of divided ones.";
    LAUNCH = Histogram "wharf_run_launch_seconds" [] "From a run's being queued, which for a job's first run is its submission, until every task of it runs.";
    FAULTS = Gauge "wharf_faults_active" ["kind", "verdict", "action"] "Hardware faults that are not over.";
    RECORDS = Counter "wharf_kernel_log_records_total" [] "Records of the kernel's log that were read.";
    LOST_RECORDS = Counter "wharf_kernel_log_lost_records_total" [] "Records of the kernel's log that were overwritten before they were read.";
    HEARTBEATS = Counter "wharf_heartbeats_answered_total" [] "Heartbeats of this agent that its controller has answered.";
}

/// Which of its metric's numbers a sample is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Series {
    /// The only one.
    Value,
    /// Of a histogram: how many values are at most this; infinity is all of them.
    AtMost(f64),
    Sum,
    Count,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub metric: &'static Metric,
    pub series: Series,
    /// Values of the metric's labels, in their order.
    pub labels: Vec<String>,
    pub value: f64,
}

impl Sample {
    pub fn new(metric: &'static Metric, value: f64) -> Self {
        Self::of(metric, Series::Value, value)
    }

    pub fn with(metric: &'static Metric, labels: &[&str], value: f64) -> Self {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        Self { labels, ..Self::new(metric, value) }
    }

    const fn of(metric: &'static Metric, series: Series, value: f64) -> Self {
        Self { metric, series, labels: Vec::new(), value }
    }
}

/// In seconds: from what an idle node takes to the days that a full queue takes.
const BOUNDS_S: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// How long things took.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Durations {
    /// Up to each bound and above the one before; the last are above all bounds.
    counts: [u64; BOUNDS_S.len() + 1],
    sum_s: f64,
}

impl Durations {
    pub fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        self.counts[BOUNDS_S.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_s += seconds;
    }

    /// All numbers of a histogram.
    pub fn samples(&self, metric: &'static Metric) -> Vec<Sample> {
        let bounds = BOUNDS_S.into_iter().chain([f64::INFINITY]);
        let mut so_far = 0;
        let mut samples: Vec<Sample> = bounds
            .zip(self.counts)
            .map(|(bound, count)| {
                so_far += count;
                Sample::of(metric, Series::AtMost(bound), so_far as f64)
            })
            .collect();
        samples.push(Sample::of(metric, Series::Sum, self.sum_s));
        samples.push(Sample::of(metric, Series::Count, so_far as f64));
        samples
    }
}

/// Which program tells: `controller` or `agent`.
pub fn build(role: &str) -> Sample {
    Sample::with(&BUILD, &[env!("CARGO_PKG_VERSION"), role], 1.0)
}

/// One sample for each word; words that are not there count 0, so that a series does not vanish.
pub fn counted<'a>(
    metric: &'static Metric,
    words: impl IntoIterator<Item = &'a str>,
    found: impl IntoIterator<Item = &'a str>,
) -> Vec<Sample> {
    let mut counts: BTreeMap<&str, u64> = words.into_iter().map(|word| (word, 0)).collect();
    for word in found {
        *counts.entry(word).or_default() += 1;
    }
    counts.into_iter().map(|(word, count)| Sample::with(metric, &[word], count as f64)).collect()
}

/// Of active faults; a combination that there is none of is left out.
pub fn of_faults<'a>(faults: impl IntoIterator<Item = &'a Fault>) -> Vec<Sample> {
    let mut counts: BTreeMap<[&str; 3], u64> = BTreeMap::new();
    for fault in faults.into_iter().filter(|fault| fault.state == FaultState::Active) {
        *counts.entry([fault.kind.as_str(), fault.verdict.as_str(), fault.action.as_str()]).or_default() += 1;
    }
    counts.into_iter().map(|(labels, count)| Sample::with(&FAULTS, &labels, count as f64)).collect()
}

/// Prometheus' text format 0.0.4: metrics in the order of [`ALL`], each with its help and type before its samples.
pub fn text(samples: &[Sample]) -> String {
    let mut text = String::new();
    for metric in ALL {
        let mut of = samples.iter().filter(|sample| std::ptr::eq(sample.metric, *metric)).peekable();
        if of.peek().is_some() {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let Metric { name, help, .. } = metric;
            // Writing to a text cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            of.for_each(|sample| line(&mut text, sample));
        }
    }
    text
}

fn line(text: &mut String, sample: &Sample) {
    let labels = sample.metric.labels.iter().zip(&sample.labels);
    let mut labels: Vec<(&str, Cow<'_, str>)> =
        labels.map(|(label, value)| (*label, Cow::Borrowed(value.as_str()))).collect();
    let suffix = match sample.series {
        Series::Value => "",
        Series::AtMost(bound) => {
            let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
            labels.push(("le", Cow::Owned(bound)));
            "_bucket"
        }
        Series::Sum => "_sum",
        Series::Count => "_count",
    };
    let _ = write!(text, "{}{suffix}", sample.metric.name);
    for (number, (label, value)) in labels.iter().enumerate() {
        let before = if number == 0 { '{' } else { ',' };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{before}{label}=\"{value}\"");
    }
    let close = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{close} {}", sample.value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_the_format_says() {
        let samples = [
            Sample::new(&RECORDS, 1_234_567_890.0),
            Sample::with(&HEARTBEAT_AGE, &["a\"b\\c\nd"], 0.25),
            build("agent"),
        ];
        let expected = format!(
            "# HELP wharf_build_info 1; its labels say which program this is.\n# TYPE wharf_build_info gauge\n\
             wharf_build_info{{version=\"{}\",role=\"agent\"}} 1\n\
             # HELP wharf_node_heartbeat_age_seconds Since the controller heard the node's agent.\n\
             # TYPE wharf_node_heartbeat_age_seconds gauge\n\
             wharf_node_heartbeat_age_seconds{{node=\"a\\\"b\\\\c\\nd\"}} 0.25\n\
             # HELP wharf_kernel_log_records_total Records of the kernel's log that were read.\n\
             # TYPE wharf_kernel_log_records_total counter\nwharf_kernel_log_records_total 1234567890\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text(&samples), expected);
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound_and_ends_with_sum_and_number() {
        let mut times = Durations::default();
        for ms in [0, 100, 101, 40_000, 90_000_000] {
            times.add(Duration::from_millis(ms));
        }
        let text = text(&times.samples(&LAUNCH));
        let (head, series) = text.split_once("# TYPE wharf_run_launch_seconds histogram\n").unwrap();
        assert!(head.starts_with("# HELP wharf_run_launch_seconds From "), "{head}");
        let expected: Vec<String> = [
            ("0.1", 2),
            ("0.25", 3),
            ("0.5", 3),
            ("1", 3),
            ("2.5", 3),
            ("5", 3),
            ("10", 3),
            ("30", 3),
            ("60", 4),
            ("300", 4),
            ("900", 4),
            ("3600", 4),
            ("14400", 4),
            ("86400", 4),
            ("+Inf", 5),
        ]
        .map(|(bound, count)| format!("wharf_run_launch_seconds_bucket{{le=\"{bound}\"}} {count}"))
        .into();
        let lines: Vec<&str> = series.lines().collect();
        assert_eq!(lines[..15], expected);
        assert_eq!(lines[15..], ["wharf_run_launch_seconds_sum 90040.201", "wharf_run_launch_seconds_count 5"]);
    }

    #[test]
    fn names_are_those_that_prometheus_allows_and_each_is_there_once() {
        let mut names: Vec<&str> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let words = std::iter::once(&metric.name).chain(metric.labels);
            let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(words.into_iter().all(|word| plain(word)), "{metric:?}");
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{metric:?}");
            assert!(metric.help.ends_with('.') && !metric.help.contains(['\\', '\n']), "{metric:?}");
        }
    }

    #[test]
    fn what_there_is_none_of_counts_nothing() {
        let samples = counted(&TASKS, ["RUNNING", "FAILED"], ["FAILED", "FAILED"]);
        let told: Vec<_> = samples.iter().map(|sample| (sample.labels[0].as_str(), sample.value)).collect();
        assert_eq!(told, [("FAILED", 2.0), ("RUNNING", 0.0)]);
    }
}
