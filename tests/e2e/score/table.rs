//! The score for people and for programs.

use super::latency::Latencies;
use super::{COVERAGE_FLOOR, Score};
use serde_json::{Value, json};
use std::fmt::Write;

pub(super) fn text(score: &Score) -> String {
    let mut text = String::new();
    let mut line = |what: &str, found: String| {
        writeln!(text, "{what:<34} {found}").expect("text takes text");
    };
    let Score { coverage, precision, attribution, latency, kernels, parser } = score;
    let (seen, all) = (coverage.seen(), coverage.interruptions());
    let floor = COVERAGE_FLOOR * 100.0;
    line(
        "coverage",
        format!("{seen:.1} of {all} interruptions = {:.1} % (at least {floor:.0} %)", coverage.part() * 100.0),
    );
    for found in &coverage.causes {
        let missed: Vec<&str> = found.missed.iter().map(|(name, _)| name.as_str()).collect();
        let missed = if missed.is_empty() { String::new() } else { format!("; missed: {}", missed.join(", ")) };
        let counted = format!("{:>4}  {}/{} signals{missed}", found.interruptions, found.seen, found.tried);
        line(&format!("  {}", found.cause), counted);
    }
    let (real, of) = precision.real;
    let wrong = precision.wrong.len();
    line(
        "precision",
        format!("{wrong} wrong actions in {} lines of noise; {real} of {of} real faults acted on", precision.lines),
    );
    let right = attribution.injected - attribution.wrong.len();
    line("attribution", format!("{right} of {} faults name the right task, or rightly none", attribution.injected));
    line("latency, a file", times(latency));
    if let Some((_, kernels)) = kernels {
        line("latency, /dev/kmsg", times(kernels));
    }
    line("parser", format!("{} of {} lines understood", parser.lines - parser.missed.len(), parser.lines));
    for wrong in precision.wrong.iter().chain(&attribution.wrong) {
        writeln!(text, "WRONG: {wrong}").expect("text takes text");
    }
    for missed in &parser.missed {
        writeln!(text, "not understood: {missed}").expect("text takes text");
    }
    text
}

fn times(times: &Latencies) -> String {
    let (half, most) = (times.percentile_ms(50), times.percentile_ms(99));
    format!("p50 {half} ms, p99 {most} ms over {} from the line to the job's event", times.count())
}

pub(super) fn json(score: &Score) -> Value {
    let Score { coverage, precision, attribution, latency, kernels, parser } = score;
    let times = |times: &Latencies| json!({ "count": times.count(), "p50_ms": times.percentile_ms(50) as u64, "p99_ms": times.percentile_ms(99) as u64 });
    let causes: Vec<Value> = coverage
        .causes
        .iter()
        .map(|found| {
            let missed: Vec<Value> =
                found.missed.iter().map(|(name, why)| json!({ "signal": name, "why": why })).collect();
            json!({ "cause": found.cause, "interruptions": found.interruptions, "seen": found.seen, "signals": found.tried, "missed": missed })
        })
        .collect();
    json!({
        "passed": score.is_good(),
        "coverage": { "seen": coverage.seen(), "interruptions": coverage.interruptions(), "part": coverage.part(), "floor": COVERAGE_FLOOR, "causes": causes },
        "precision": { "lines": precision.lines, "wrong": precision.wrong, "real": precision.real.1, "real_acted_on": precision.real.0 },
        "attribution": { "injected": attribution.injected, "wrong": attribution.wrong },
        "latency": { "file": times(latency), "kernel": kernels.as_ref().map(|(_, latencies)| times(latencies)) },
        "parser": { "lines": parser.lines, "missed": parser.missed },
    })
}
