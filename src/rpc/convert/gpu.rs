//! GPUs, what they do right now, and what a node has.

use super::{
    MAX_SENTENCE_BYTES, MAX_WORD_BYTES, Parsed, each, filled, inner, nanos, optional, optional_text, port, text,
    texts, time, wrong,
};
use crate::domain::command::Violation;
use crate::domain::gpu::condition::GpuCondition;
use crate::domain::gpu::{
    DriverState, Gpu, GpuDriver, GpuHealth, GpuSample, GpuState, Link, LinkKind, MigSlice, Topology,
};
use crate::domain::ids::GpuUuid;
use crate::domain::task::Inventory;
use crate::domain::view::GpuView;
use crate::rpc::generated as pb;

impl From<Gpu> for pb::Gpu {
    fn from(gpu: Gpu) -> Self {
        let Gpu { uuid, index, minor, model, gpu_type, memory_mb, pci, numa_node, mig_parent, ecc, mig_mode, mig } =
            gpu;
        let mig_parent = mig_parent.map(|uuid| uuid.0);
        Self {
            uuid: uuid.0,
            index,
            minor,
            model,
            gpu_type,
            memory_mb,
            pci,
            numa_node,
            mig_parent,
            ecc,
            mig_mode,
            mig: mig.map(Into::into),
        }
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
            ecc: wire.ecc,
            mig_mode: wire.mig_mode,
            mig: optional(wire.mig, "mig")?,
        })
    }
}

impl From<MigSlice> for pb::MigSlice {
    fn from(slice: MigSlice) -> Self {
        let MigSlice { index, gpu_instance, compute_instance, profile, gpu_instance_minor, compute_instance_minor } =
            slice;
        Self { index, gpu_instance, compute_instance, profile, gpu_instance_minor, compute_instance_minor }
    }
}

impl TryFrom<pb::MigSlice> for MigSlice {
    type Error = Violation;

    fn try_from(wire: pb::MigSlice) -> Parsed<Self> {
        Ok(Self {
            index: wire.index,
            gpu_instance: wire.gpu_instance,
            compute_instance: wire.compute_instance,
            profile: text(wire.profile, "profile", MAX_WORD_BYTES)?,
            gpu_instance_minor: wire.gpu_instance_minor,
            compute_instance_minor: wire.compute_instance_minor,
        })
    }
}

impl From<(GpuUuid, GpuSample)> for pb::GpuSample {
    fn from((uuid, sample): (GpuUuid, GpuSample)) -> Self {
        let GpuSample {
            memory_used_mb,
            utilization,
            temperature_c,
            power_w,
            power_limit_w,
            sm_clock_mhz,
            memory_clock_mhz,
            ecc_errors,
            pstate,
            fan_percent,
            health,
        } = sample;
        let (trouble, lost) = match health {
            GpuHealth::Ok => (String::new(), false),
            GpuHealth::Faulty(why) => (why, false),
            GpuHealth::Lost(why) => (why, true),
        };
        Self {
            uuid: uuid.0,
            memory_used_mb,
            utilization,
            temperature_c,
            power_w,
            power_limit_w,
            sm_clock_mhz,
            memory_clock_mhz,
            ecc_errors,
            pstate,
            fan_percent,
            trouble,
            lost,
        }
    }
}

pub(super) fn sample(wire: pb::GpuSample) -> GpuSample {
    let health = match (wire.trouble.is_empty(), wire.lost) {
        (true, false) => GpuHealth::Ok,
        (_, true) => GpuHealth::Lost(wire.trouble),
        (false, false) => GpuHealth::Faulty(wire.trouble),
    };
    GpuSample {
        memory_used_mb: wire.memory_used_mb,
        utilization: wire.utilization,
        temperature_c: wire.temperature_c,
        power_w: wire.power_w,
        power_limit_w: wire.power_limit_w,
        sm_clock_mhz: wire.sm_clock_mhz,
        memory_clock_mhz: wire.memory_clock_mhz,
        ecc_errors: wire.ecc_errors,
        pstate: wire.pstate,
        fan_percent: wire.fan_percent,
        health,
    }
}

impl From<GpuDriver> for pb::GpuDriver {
    fn from(GpuDriver { state, driver_version, cuda_version, nvml_version, sentence }: GpuDriver) -> Self {
        Self { state: state.as_str().to_owned(), driver_version, cuda_version, nvml_version, sentence }
    }
}

impl TryFrom<pb::GpuDriver> for GpuDriver {
    type Error = Violation;

    fn try_from(wire: pb::GpuDriver) -> Parsed<Self> {
        let known = DriverState::ALL.into_iter().find(|state| state.as_str() == wire.state);
        Ok(Self {
            // A word of a newer version still says that something is wrong.
            state: if wire.state.is_empty() { DriverState::None } else { known.unwrap_or(DriverState::Failed) },
            driver_version: optional_text(wire.driver_version, "driver_version", MAX_WORD_BYTES)?,
            cuda_version: optional_text(wire.cuda_version, "cuda_version", MAX_WORD_BYTES)?,
            nvml_version: optional_text(wire.nvml_version, "nvml_version", MAX_WORD_BYTES)?,
            sentence: optional_text(wire.sentence, "sentence", MAX_SENTENCE_BYTES)?,
        })
    }
}

impl From<GpuCondition> for pb::GpuCondition {
    fn from(GpuCondition { gpu, state, reason }: GpuCondition) -> Self {
        Self { uuid: gpu.0, state: state_word(state).to_owned(), reason }
    }
}

impl TryFrom<pb::GpuCondition> for GpuCondition {
    type Error = Violation;

    fn try_from(wire: pb::GpuCondition) -> Parsed<Self> {
        Ok(Self {
            gpu: GpuUuid(filled(wire.uuid, "uuid", MAX_WORD_BYTES)?),
            state: state(&wire.state)?,
            reason: text(wire.reason, "reason", MAX_SENTENCE_BYTES)?,
        })
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
        let Inventory {
            cpus,
            memory_mb,
            gpus,
            topology,
            ports,
            labels,
            runtime,
            gpu_driver,
            gpu_conditions,
            features,
        } = inventory;
        Self {
            cpus,
            memory_mb,
            gpus: gpus.into_iter().map(Into::into).collect(),
            links: topology.links.into_iter().map(Into::into).collect(),
            first_port: ports.0.into(),
            last_port: ports.1.into(),
            labels: labels.into_iter().collect(),
            runtime,
            gpu_driver: Some(gpu_driver.into()),
            gpu_conditions: gpu_conditions.into_iter().map(Into::into).collect(),
            features,
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
            gpu_driver: optional(wire.gpu_driver, "gpu_driver")?.unwrap_or_default(),
            gpu_conditions: each(wire.gpu_conditions, "gpu_conditions")?,
            features: texts(wire.features, "features", MAX_WORD_BYTES)?,
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

fn state(word: &str) -> Parsed<GpuState> {
    let state = STATES.into_iter().find(|state| state_word(*state) == word);
    state.ok_or_else(|| wrong("state", "is not a state of a GPU", word, "FREE, HELD, WITHHELD, FAULTY, LOST"))
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
            reason,
            user,
            job,
            since,
            minor,
            pci,
            gpu_type,
            numa_node,
            power_limit_w,
            sm_clock_mhz,
            memory_clock_mhz,
            fan_percent,
            pstate,
            ecc,
            ecc_errors,
            mig_mode,
            mig,
        } = view;
        let sample = GpuSample {
            memory_used_mb,
            utilization,
            temperature_c,
            power_w,
            power_limit_w,
            sm_clock_mhz,
            memory_clock_mhz,
            ecc_errors,
            pstate,
            fan_percent,
            health: GpuHealth::Ok,
        };
        let uuid = GpuUuid(uuid);
        let sample = (uuid.clone(), sample).into();
        let mig_parent = mig_parent.map(GpuUuid);
        let gpu =
            Gpu { uuid, index, minor, model, gpu_type, memory_mb, pci, numa_node, mig_parent, ecc, mig_mode, mig };
        Self {
            node,
            gpu: Some(gpu.into()),
            sample: Some(sample),
            state: state_word(state).to_owned(),
            task,
            faults,
            reason,
            user,
            job,
            since: nanos(since),
        }
    }
}

impl TryFrom<pb::GpuView> for GpuView {
    type Error = Violation;

    fn try_from(wire: pb::GpuView) -> Parsed<Self> {
        let gpu: Gpu = inner(wire.gpu, "gpu")?;
        let sample = wire.sample.map(sample).unwrap_or_default();
        Ok(Self {
            state: state(&wire.state)?,
            task: optional_text(wire.task, "task", MAX_WORD_BYTES)?,
            faults: wire.faults,
            reason: optional_text(wire.reason, "reason", MAX_SENTENCE_BYTES)?,
            user: optional_text(wire.user, "user", MAX_WORD_BYTES)?,
            job: optional_text(wire.job, "job", MAX_WORD_BYTES)?,
            since: time(wire.since),
            ..Self::of(&text(wire.node, "node", MAX_WORD_BYTES)?, &gpu, &sample, None, None)
        })
    }
}
