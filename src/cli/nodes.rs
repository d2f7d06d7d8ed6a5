//! `wharf nodes` and `wharf gpus`.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::table;
use crate::domain::view::{GpuView, NodeView};

pub async fn nodes(context: &Context) -> Result<u8, Failure> {
    let nodes = context.controller()?.list_nodes(&context.who).await?;
    if context.json {
        context.print_json(&nodes)?;
    } else if nodes.is_empty() {
        context.remark("no agent has registered yet");
    } else {
        context.print(&table::paint(nodes_table(&nodes), context.color))?;
    }
    Ok(OK)
}

pub fn nodes_table(nodes: &[NodeView]) -> String {
    let mut rows =
        table::table(["NODE", "STATE", "FREE", "GPUS", "CPUS", "MEMORY_MB", "ADDRESS", "VERSION", "REASON"]);
    table::right(&mut rows, &[2, 3, 4, 5]);
    for node in nodes {
        table::row(
            &mut rows,
            [
                table::short(&node.name, 24),
                node.state.clone(),
                node.gpus_free.to_string(),
                node.gpus_total.to_string(),
                node.cpus.to_string(),
                node.memory_mb.to_string(),
                table::short(&node.address, 24),
                node.version.clone(),
                node.reason.clone().unwrap_or_default(),
            ],
        );
    }
    table::text(&rows)
}

pub async fn gpus(context: &Context, node: Option<String>, agent: Option<String>) -> Result<u8, Failure> {
    let gpus = match agent {
        Some(address) => context.agent(&address)?.get_node(&context.who).await?.gpus,
        None => context.controller()?.list_gpus(&context.who, node.as_deref()).await?,
    };
    if context.json {
        context.print_json(&gpus)?;
    } else if gpus.is_empty() {
        context.remark("there are no GPUs");
    } else {
        context.print(&table::paint(gpus_table(&gpus), context.color))?;
    }
    Ok(OK)
}

pub fn gpus_table(gpus: &[GpuView]) -> String {
    let mut rows = table::table(["NODE", "GPU", "MODEL", "STATE", "MEMORY_MB", "UTIL", "TEMP", "POWER", "TASK"]);
    table::right(&mut rows, &[1, 4, 5, 6, 7]);
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for gpu in gpus {
        let used = gpu.memory_used_mb.map_or_else(|| "-".to_owned(), |used| used.to_string());
        table::row(
            &mut rows,
            [
                table::short(&gpu.node, 20),
                gpu.index.to_string(),
                table::short(&gpu.model, 24),
                serde_json::to_value(gpu.state)
                    .ok()
                    .and_then(|state| state.as_str().map(str::to_owned))
                    .unwrap_or_default(),
                format!("{used}/{}", gpu.memory_mb),
                or_dash(gpu.utilization.map(|percent| format!("{percent}%"))),
                or_dash(gpu.temperature_c.map(|celsius| format!("{celsius}C"))),
                or_dash(gpu.power_w.map(|watts| format!("{watts}W"))),
                or_dash(gpu.task.clone()),
            ],
        );
    }
    table::text(&rows)
}
