//! `wharf nodes` and `wharf gpus`.

use super::context::Context;
use super::exit_code::OK;
use super::fail::Failure;
use super::table;
use crate::domain::gpu::GpuState;
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

/// One line for each GPU; below it, in full, why those are out of use that are.
pub fn gpus_table(gpus: &[GpuView]) -> String {
    let mut rows =
        table::table(["NODE", "GPU", "TYPE", "STATE", "MEMORY_MB", "UTIL", "TEMP", "POWER", "HELD BY", "SINCE"]);
    table::right(&mut rows, &[1, 4, 5, 6, 7, 9]);
    for gpu in gpus {
        let used = dash(gpu.memory_used_mb);
        let power = match (gpu.power_w, gpu.power_limit_w) {
            (Some(watts), Some(limit)) => format!("{watts}/{limit}W"),
            (watts, _) => watts.map_or_else(|| "-".to_owned(), |watts| format!("{watts}W")),
        };
        table::row(
            &mut rows,
            [
                table::short(&gpu.node, 16),
                number(gpu),
                table::short(&kind(gpu), 16),
                state_word(gpu.state).to_owned(),
                format!("{used}/{}", gpu.memory_mb),
                gpu.utilization.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
                gpu.temperature_c.map_or_else(|| "-".to_owned(), |celsius| format!("{celsius}C")),
                power,
                table::short(&holder(gpu), 34),
                gpu.since.map_or_else(|| "-".to_owned(), table::ago),
            ],
        );
    }
    let mut text = table::text(&rows);
    for gpu in gpus {
        if let Some(reason) = &gpu.reason {
            let head = format!("{} GPU {} {}: ", table::one_line(&gpu.node), number(gpu), state_word(gpu.state));
            text.push_str(&table::paragraph(&head, reason));
        }
    }
    text
}

/// What `nvidia-smi` shows besides: one line for each GPU.
pub fn hardware_table(gpus: &[GpuView]) -> String {
    let mut rows = table::table(["GPU", "MODEL", "PCI", "NUMA", "SM", "MEM", "PSTATE", "FAN", "ECC", "MIG", "UUID"]);
    table::right(&mut rows, &[0, 3, 4, 5, 6, 7]);
    for gpu in gpus {
        let clock = |clock: Option<u32>| clock.map_or_else(|| "-".to_owned(), |mhz| format!("{mhz}MHz"));
        let ecc = match (gpu.ecc, gpu.ecc_errors) {
            (Some(true), Some(errors)) => format!("on, {errors}"),
            (mode, _) => on_off(mode),
        };
        table::row(
            &mut rows,
            [
                number(gpu),
                table::short(&gpu.model, 22),
                gpu.pci.clone(),
                dash(gpu.numa_node),
                clock(gpu.sm_clock_mhz),
                clock(gpu.memory_clock_mhz),
                gpu.pstate.map_or_else(|| "-".to_owned(), |state| format!("P{state}")),
                gpu.fan_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
                ecc,
                on_off(gpu.mig_mode),
                // Enough to tell devices apart; all of it is in --json.
                table::short(&gpu.uuid, 13),
            ],
        );
    }
    table::text(&rows)
}

/// `3`, or `3:1` for the second slice of GPU 3.
fn number(gpu: &GpuView) -> String {
    gpu.mig.as_ref().map_or_else(|| gpu.index.to_string(), |slice| format!("{}:{}", gpu.index, slice.index))
}

/// The type that jobs ask for, with the profile of a slice.
fn kind(gpu: &GpuView) -> String {
    let kind = if gpu.gpu_type.is_empty() { &gpu.model } else { &gpu.gpu_type };
    gpu.mig.as_ref().map_or_else(|| kind.clone(), |slice| format!("{kind} {}", slice.profile))
}

/// User, job and task that hold the GPU, or a dash.
pub fn holder(gpu: &GpuView) -> String {
    match (&gpu.user, &gpu.job, &gpu.task) {
        (Some(user), Some(job), Some(task)) => format!("{user} {job} ({task})"),
        (_, _, Some(task)) => task.clone(),
        _ => "-".to_owned(),
    }
}

/// The state as `--json` spells it.
pub const fn state_word(state: GpuState) -> &'static str {
    state.as_str()
}

fn dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn on_off(mode: Option<bool>) -> String {
    mode.map_or("-", |on| if on { "on" } else { "off" }).to_owned()
}
