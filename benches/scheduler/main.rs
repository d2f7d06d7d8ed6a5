//! How fast the scheduler is on large clusters: whole simulations, in one command, on one core.
//!
//! `cargo bench --bench scheduler` prints the table of the README. Each row is a process of its own, so that its memory is its
//! own. `-- --rounds N` repeats every row, `-- --only 5,000` runs the rows named so, `-- --part P` the first part (0 to 1) of its jobs.

use serde_json::Value;
use std::process::{Command, Stdio};

/// One row: its name, nodes with 8 GPUs each, jobs and load of the synthetic trace. A hundred jobs have 113 tasks.
const ROWS: [(&str, u32, u32, f64); 3] = [
    ("5,000 nodes, 1,000,000 tasks", 5_000, 883_000, 0.9),
    ("10,000 nodes, 80,000 GPUs", 10_000, 600_000, 0.9),
    ("500 nodes, overloaded", 500, 60_000, 1.2),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let rounds: u32 = value("--rounds").map_or(1, |text| text.parse().expect("--rounds takes a number"));
    let part: f64 = value("--part").map_or(1.0, |text| text.parse().expect("--part takes a number"));
    let only = value("--only");
    println!("| cluster | tasks | longest queue | placements/s | in the scheduler | placement p50 | p99 | memory |");
    println!("|---|---:|---:|---:|---:|---:|---:|---:|");
    for (name, nodes, jobs, load) in ROWS {
        if only.as_deref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        let jobs = (f64::from(jobs) * part).max(1.0) as u32;
        for _ in 0..rounds {
            println!("{}", row(name, &simulate(nodes, jobs, load)));
        }
    }
}

/// The outcome of `wharf sim`.
fn simulate(nodes: u32, jobs: u32, load: f64) -> Value {
    let (nodes, jobs, load) = (nodes.to_string(), jobs.to_string(), load.to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .args(["--json", "sim", "--gpus", "8", "--nodes", &nodes, "--jobs", &jobs, "--load", &load])
        .stderr(Stdio::inherit())
        .output()
        .expect("wharf starts");
    assert!(output.status.success(), "wharf sim ended with {}", output.status);
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

fn row(name: &str, outcome: &Value) -> String {
    let (counts, speed) = (&outcome["simulation"]["wharf"]["counts"], &outcome["speed"]["wharf"]);
    let number = |value: &Value| value.as_f64().expect("a number");
    let tasks = number(&counts["tasks_placed"]);
    format!(
        "| {name} | {tasks} | {} jobs | {:.0} | {:.0} | {:.3} ms | {:.1} ms | {:.0} MB |",
        counts["longest_queue"],
        tasks / number(&speed["wall_s"]),
        number(&speed["placements_per_s"]),
        number(&speed["placement_p50_ms"]),
        number(&speed["placement_p99_ms"]),
        number(&outcome["speed"]["peak_memory_mb"]),
    )
}
