//! The outcome of a simulation as tables for people.

use super::arguments::Setting;
use super::{Outcome, peak_memory_mb};
use crate::cli::table;
use crate::sim::Report;

/// Both values, and the second over the first; none where the first is nothing.
pub(super) type Ratio = (&'static str, [String; 2], Option<f64>);

pub(super) fn text(setting: &Setting, outcomes: &[Outcome]) -> String {
    let mut text = heading(setting);
    if let [ours, theirs] = outcomes {
        text.push('\n');
        text.push_str(&comparison(&ours.report, &theirs.report));
    }
    for outcome in outcomes {
        text.push('\n');
        text.push_str(&one(outcome));
    }
    text.push('\n');
    for outcome in outcomes {
        text.push_str(&speed(outcome));
    }
    if let Some(peak) = peak_memory_mb() {
        text.push_str(&format!("speed: {peak:.0} MB of memory at most\n"));
    }
    text
}

fn heading(setting: &Setting) -> String {
    let trace = match setting.is_synthetic() {
        true => format!("{} jobs of the synthetic trace, load {}", setting.jobs, setting.load),
        false => table::short(&setting.trace, 60),
    };
    let (nodes, gpus, config) = (setting.nodes(), setting.gpus(), &setting.config);
    let faults = if config.faults > 0.0 { format!(", faults {}", config.faults) } else { String::new() };
    table::paragraph("", &format!("{nodes} nodes with {gpus} GPUs; {trace}; seed {}{faults}", config.seed))
}

fn one(outcome: &Outcome) -> String {
    let (report, counts) = (&outcome.report, &outcome.report.counts);
    let so_far = if outcome.complete { "" } else { " (so far: it was interrupted)" };
    let mut text = format!(
        "{}{so_far}: {} jobs with {} tasks; {} succeeded, {} failed",
        outcome.policy.as_str().to_uppercase(),
        counts.jobs,
        counts.tasks,
        counts.succeeded,
        counts.failed,
    );
    for (count, what) in [
        (counts.impossible, "more than the cluster has"),
        (counts.unfinished(), "unfinished"),
        (counts.retries, "run again"),
        (counts.roll_backs, "placements rolled back"),
        (counts.vetoes, "vetoes"),
        (counts.node_losses, "nodes lost"),
        (counts.lost_tasks, "tasks lost with them"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    let mut text = table::paragraph("", &text);
    let gpus = format!(
        "GPUs in use {} ({} while jobs were submitted), promised {}; makespan {}; longest queue {}",
        percent(report.gpu_utilisation),
        percent(report.gpu_utilisation_while_submitting),
        percent(report.gpu_allocation),
        time(report.makespan_s),
        counts.longest_queue,
    );
    text.push_str(&table::paragraph("", &gpus));
    text.push_str(&waits(report));
    text
}

fn waits(report: &Report) -> String {
    let mut rows = table::table(["GPUS OF THE JOB", "JOBS", "WAIT MEAN", "P50", "P90", "P99", "MAX"]);
    table::right(&mut rows, &[0, 1, 2, 3, 4, 5, 6]);
    for wait in report.waits.iter().filter(|wait| wait.jobs > 0 || wait.gpus == "all") {
        table::row(
            &mut rows,
            [
                wait.gpus.clone(),
                wait.jobs.to_string(),
                time(wait.mean_s),
                time(wait.p50_s),
                time(wait.p90_s),
                time(wait.p99_s),
                time(wait.max_s),
            ],
        );
    }
    table::text(&rows)
}

fn comparison(ours: &Report, theirs: &Report) -> String {
    let mut rows = table::table(["", "WHARF", "FIFO", "FIFO / WHARF"]);
    table::right(&mut rows, &[1, 2, 3]);
    for (name, [ours, theirs], ratio) in ratios(ours, theirs) {
        let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        table::row(&mut rows, [name.replace('_', " "), ours, theirs, ratio]);
    }
    table::text(&rows)
}

/// What the policies made of it, side by side.
pub(super) fn ratios(ours: &Report, theirs: &Report) -> Vec<Ratio> {
    let over = |a: f64, b: f64| (a > 0.0).then(|| b / a);
    let part = |name, a: Option<f64>, b: Option<f64>| {
        (name, [percent(a), percent(b)], a.zip(b).and_then(|(a, b)| over(a, b)))
    };
    let spent = |name, a: f64, b: f64| (name, [time(a), time(b)], over(a, b));
    let (a, b) = (&ours.waits[0], &theirs.waits[0]);
    vec![
        part("gpu_utilisation", ours.gpu_utilisation, theirs.gpu_utilisation),
        part(
            "gpu_utilisation_while_submitting",
            ours.gpu_utilisation_while_submitting,
            theirs.gpu_utilisation_while_submitting,
        ),
        spent("makespan", ours.makespan_s, theirs.makespan_s),
        spent("wait_mean", a.mean_s, b.mean_s),
        spent("wait_p50", a.p50_s, b.p50_s),
        spent("wait_p90", a.p90_s, b.p90_s),
        spent("wait_p99", a.p99_s, b.p99_s),
        spent("wait_max", a.max_s, b.max_s),
    ]
}

fn speed(outcome: &Outcome) -> String {
    let speed = &outcome.speed;
    table::paragraph(
        "speed: ",
        &format!(
            "{}: {:.1} s in all, {:.1} s of it in the scheduler: {:.0} placements/s, {:.0} decisions/s; placement p50 {:.3} ms, \
             p99 {:.3} ms, max {:.3} ms",
            outcome.policy.as_str(),
            outcome.wall.as_secs_f64(),
            speed.scheduler_s,
            speed.placements_per_s,
            speed.decisions_per_s,
            speed.placement_p50_ms,
            speed.placement_p99_ms,
            speed.placement_max_ms,
        ),
    )
}

fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

/// `12.5 s`, `3:05:12`, `2 d 03:05:12`.
fn time(seconds: f64) -> String {
    if seconds < 100.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match days {
        0 => format!("{hours}:{minutes:02}:{rest:02}"),
        days => format!("{days} d {hours:02}:{minutes:02}:{rest:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_exact() {
        for (seconds, shown) in [(0.0, "0.0 s"), (99.94, "99.9 s"), (100.0, "0:01:40"), (183_905.2, "2 d 03:05:05")] {
            assert_eq!(time(seconds), shown);
        }
    }
}
