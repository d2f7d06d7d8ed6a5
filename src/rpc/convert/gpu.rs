//! GPUs, what they do right now, and what a node has.

use super::{MAX_WORD_BYTES, Parsed, each, filled, inner, optional_text, port, text, wrong};
use crate::domain::command::Violation;
use crate::domain::gpu::{Gpu, GpuSample, GpuState, Link, LinkKind, Topology};
use crate::domain::ids::GpuUuid;
use crate::domain::task::Inventory;
use crate::domain::view::GpuView;
use crate::rpc::generated as pb;

impl From<Gpu> for pb::Gpu {
    fn from(gpu: Gpu) -> Self {
        let Gpu { uuid, index, minor, model, gpu_type, memory_mb, pci, numa_node, mig_parent } = gpu;
        let mig_parent = mig_parent.map(|uuid| uuid.0);
        Self { uuid: uuid.0, index, minor, model, gpu_type, memory_mb, pci, numa_node, mig_parent }
    }
}

impl TryFrom<pb::Gpu> for Gpu {
    type Error = Violation;

    fn try_from(wire: pb::Gpu) -> Parsed<Self> {
        Ok(Self {
            uuid: GpuUuid(filled(wire.uuid, "uuid", MAX_WORD_BYTES)?),
            index: wire.index,
            minor: wire.minor,
            model: text(wire.model, "model", MAX_WORD_BYTES)?,
            gpu_type: text(wire.gpu_type, "gpu_type", MAX_WORD_BYTES)?,
            memory_mb: wire.memory_mb,
            pci: text(wire.pci, "pci", MAX_WORD_BYTES)?,
            numa_node: wire.numa_node,
            mig_parent: optional_text(wire.mig_parent, "mig_parent", MAX_WORD_BYTES)?.map(GpuUuid),
        })
    }
}

impl From<(GpuUuid, GpuSample)> for pb::GpuSample {
    fn from((uuid, sample): (GpuUuid, GpuSample)) -> Self {
        let GpuSample { memory_used_mb, utilization, temperature_c, power_w } = sample;
        Self { uuid: uuid.0, memory_used_mb, utilization, temperature_c, power_w }
    }
}

pub(super) fn sample(wire: pb::GpuSample) -> GpuSample {
    GpuSample {
        memory_used_mb: wire.memory_used_mb,
        utilization: wire.utilization,
        temperature_c: wire.temperature_c,
        power_w: wire.power_w,
    }
}

impl From<Link> for pb::GpuLink {
    fn from(Link { a, b, kind }: Link) -> Self {
        let (kind, lanes) = match kind {
            LinkKind::System => ("system", 0),
            LinkKind::NumaNode => ("numa_node", 0),
            LinkKind::PcieSwitch => ("pcie_switch", 0),
            LinkKind::NvLink { lanes } => ("nvlink", u32::from(lanes)),
        };
        Self { a: a.0, b: b.0, kind: kind.to_owned(), lanes }
    }
}

impl TryFrom<pb::GpuLink> for Link {
    type Error = Violation;

    fn try_from(wire: pb::GpuLink) -> Parsed<Self> {
        let lanes = u8::try_from(wire.lanes).map_err(|_| wrong("lanes", "is too many", wire.lanes, "0 to 255"))?;
        let kind = match wire.kind.as_str() {
            "system" => LinkKind::System,
            "numa_node" => LinkKind::NumaNode,
            "pcie_switch" => LinkKind::PcieSwitch,
            "nvlink" => LinkKind::NvLink { lanes },
            other => {
                return Err(wrong("kind", "is not a kind of link", other, "system, numa_node, pcie_switch, nvlink"));
            }
        };
        let uuid = |value, field| filled(value, field, MAX_WORD_BYTES).map(GpuUuid);
        Ok(Self { a: uuid(wire.a, "a")?, b: uuid(wire.b, "b")?, kind })
    }
}

impl From<Inventory> for pb::Inventory {
    fn from(inventory: Inventory) -> Self {
        let Inventory { cpus, memory_mb, gpus, topology, ports, labels, runtime } = inventory;
        Self {
            cpus,
            memory_mb,
            gpus: gpus.into_iter().map(Into::into).collect(),
            links: topology.links.into_iter().map(Into::into).collect(),
            first_port: ports.0.into(),
            last_port: ports.1.into(),
            labels: labels.into_iter().collect(),
            runtime,
        }
    }
}

impl TryFrom<pb::Inventory> for Inventory {
    type Error = Violation;

    fn try_from(wire: pb::Inventory) -> Parsed<Self> {
        let label = |(name, value): (String, String)| {
            let field = format!("labels[{}]", name.chars().take(80).collect::<String>());
            Ok((filled(name, "labels", MAX_WORD_BYTES)?, text(value, &field, MAX_WORD_BYTES)?))
        };
        Ok(Self {
            cpus: wire.cpus,
            memory_mb: wire.memory_mb,
            gpus: each(wire.gpus, "gpus")?,
            topology: Topology { links: each(wire.links, "links")? },
            ports: (port(wire.first_port, "first_port")?, port(wire.last_port, "last_port")?),
            labels: wire.labels.into_iter().map(label).collect::<Parsed<_>>()?,
            runtime: text(wire.runtime, "runtime", MAX_WORD_BYTES)?,
        })
    }
}

const STATES: [GpuState; 5] = [GpuState::Free, GpuState::Held, GpuState::Withheld, GpuState::Faulty, GpuState::Lost];

const fn state_word(state: GpuState) -> &'static str {
    match state {
        GpuState::Free => "FREE",
        GpuState::Held => "HELD",
        GpuState::Withheld => "WITHHELD",
        GpuState::Faulty => "FAULTY",
        GpuState::Lost => "LOST",
    }
}

impl From<GpuView> for pb::GpuView {
    fn from(view: GpuView) -> Self {
        let GpuView {
            node,
            uuid,
            index,
            model,
            memory_mb,
            memory_used_mb,
            utilization,
            temperature_c,
            power_w,
            state,
            task,
            mig_parent,
            faults,
        } = view;
        let sample = pb::GpuSample { uuid: uuid.clone(), memory_used_mb, utilization, temperature_c, power_w };
        let gpu = pb::Gpu { uuid, index, model, memory_mb, mig_parent, ..Default::default() };
        Self { node, gpu: Some(gpu), sample: Some(sample), state: state_word(state).to_owned(), task, faults }
    }
}

impl TryFrom<pb::GpuView> for GpuView {
    type Error = Violation;

    fn try_from(wire: pb::GpuView) -> Parsed<Self> {
        let gpu: Gpu = inner(wire.gpu, "gpu")?;
        let sample = wire.sample.map(sample).unwrap_or_default();
        let state = STATES.into_iter().find(|state| state_word(*state) == wire.state);
        let allowed = "FREE, HELD, WITHHELD, FAULTY, LOST";
        Ok(Self {
            node: text(wire.node, "node", MAX_WORD_BYTES)?,
            uuid: gpu.uuid.0,
            index: gpu.index,
            model: gpu.model,
            memory_mb: gpu.memory_mb,
            memory_used_mb: sample.memory_used_mb,
            utilization: sample.utilization,
            temperature_c: sample.temperature_c,
            power_w: sample.power_w,
            state: state.ok_or_else(|| wrong("state", "is not a state of a GPU", &wire.state, allowed))?,
            task: optional_text(wire.task, "task", MAX_WORD_BYTES)?,
            mig_parent: gpu.mig_parent.map(|uuid| uuid.0),
            faults: wire.faults,
        })
    }
}
