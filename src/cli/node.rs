//! `wharf node show`: one node, its GPUs, and what runs there.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::{nodes, table};
use crate::domain::gpu::{DriverState, GpuDriver};
use crate::domain::view::{NodeDetail, NodeTask, NodeView};

pub async fn show(context: &Context, node: &str) -> Result<u8, Failure> {
    let detail = context.controller()?.describe_node(&context.who, node).await?;
    if context.json {
        context.print_json(&detail)?;
    } else {
        context.print(&table::paint(text(&detail), context.color))?;
    }
    Ok(OK)
}

fn text(detail: &NodeDetail) -> String {
    let node = &detail.node;
    let heard = node.last_heartbeat.map_or_else(|| "never".to_owned(), |at| format!("{} ago", table::ago(at)));
    let mut text = format!("{}  {}  at {}, heard {heard}\n", node.name, node.state, node.address);
    if let Some(reason) = &node.reason {
        text.push_str(&table::paragraph("  why:     ", reason));
    }
    if let Some(line) = closed(node) {
        text.push_str(&table::paragraph("  closed:  ", &line));
    }
    text.push_str(&format!(
        "  free:    {} of {} CPUs, {} of {} MB, {} of {} GPUs\n",
        detail.cpus_free, node.cpus, detail.memory_free_mb, node.memory_mb, node.gpus_free, node.gpus_total
    ));
    text.push_str(&format!("  version: {}, node_uid {}\n", node.version, node.node_uid));
    if !node.labels.is_empty() {
        let labels: Vec<String> = node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text.push_str(&table::paragraph("  labels:  ", &labels.join(" ")));
    }
    if let Some(line) = driver(&node.gpu_driver) {
        text.push_str(&table::paragraph("  driver:  ", &line));
    }
    if !detail.gpus.is_empty() {
        text.push('\n');
        text.push_str(&nodes::gpus_table(&detail.gpus));
        text.push('\n');
        text.push_str(&nodes::hardware_table(&detail.gpus));
    }
    text.push('\n');
    if detail.tasks.is_empty() {
        text.push_str("no task is on this node\n");
    } else {
        text.push_str(&tasks_table(&detail.tasks));
    }
    text
}

/// What operators want of the node, where that is anything.
fn closed(node: &NodeView) -> Option<String> {
    let by = node.by.as_ref()?;
    let mut line = format!("{} by {by}", node.standing);
    if let Some(since) = node.since {
        line.push_str(&format!(", since {} ago", table::ago(since)));
    }
    if let Some(deadline) = node.deadline {
        line.push_str(&format!(", tasks are moved at {}", deadline.to_rfc3339()));
    }
    Some(line)
}

/// Nothing where the node has no GPUs.
fn driver(driver: &GpuDriver) -> Option<String> {
    if driver.state == DriverState::None {
        return driver.sentence.clone();
    }
    let mut words = vec![driver.state.as_str().to_owned()];
    words.extend(driver.driver_version.as_ref().map(|version| format!("version {version}")));
    words.extend(driver.cuda_version.as_ref().map(|version| format!("CUDA {version}")));
    words.extend(driver.sentence.clone());
    Some(words.join(", "))
}

fn tasks_table(tasks: &[NodeTask]) -> String {
    let mut rows = table::table(["TASK", "JOB", "USER", "ROLE", "STATE", "GPUS", "CPUS", "MEMORY_MB", "RAN"]);
    table::right(&mut rows, &[5, 6, 7, 8]);
    for task in tasks {
        table::row(
            &mut rows,
            [
                table::short(&task.id, 20),
                table::short(&task.job, 24),
                table::short(&task.user, 12),
                table::short(&task.role, 16),
                task.state.clone(),
                task.gpus.len().to_string(),
                task.cpus.to_string(),
                task.memory_mb.to_string(),
                table::ran(task.started_at, None),
            ],
        );
    }
    table::text(&rows)
}
