//! Simulated GPUs: a shipped part for machines without any, for demonstrations and for tests.
//!
//! The same specification and seed give the same devices at every start; two nodes with different seeds never share
//! a UUID. Nothing here runs: what a sample says is what [`SimGpus::set_busy`] was told.

mod layout;
mod models;

use super::{GpuError, GpuSource};
use crate::domain::gpu::occupancy::GpuProcesses;
use crate::domain::gpu::{DriverState, Gpu, GpuDriver, GpuHealth, GpuSample, Topology, type_of_model};
use crate::domain::ids::GpuUuid;
use async_trait::async_trait;
use models::{MODELS, Model};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Most GPUs in one simulated node: as in the largest NVSwitch machines.
pub const MAX_GPUS: u32 = 16;

/// Which GPUs to simulate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimSpec {
    count: u32,
    model: &'static Model,
}

/// A text that names no simulated GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "simulated GPUs '{found}': {problem}; allowed: COUNTxMODEL, COUNT 1 to {MAX_GPUS}, MODEL one of {}",
    model_names()
)]
pub struct InvalidSimSpec {
    pub found: String,
    pub problem: &'static str,
}

fn model_names() -> String {
    MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(" ")
}

/// The GPUs of one simulated node.
#[derive(Debug)]
pub struct SimGpus {
    model: &'static Model,
    devices: Vec<Gpu>,
    topology: Topology,
    driver: GpuDriver,
    busy: Mutex<BTreeSet<GpuUuid>>,
}

impl SimGpus {
    /// Reads `COUNTxMODEL` or `MODEL` (one), e.g. `8xH100`: what follows `sim:` on the command line.
    pub fn parse(text: &str) -> Result<SimSpec, InvalidSimSpec> {
        let invalid = |problem| InvalidSimSpec { found: text.chars().take(80).collect(), problem };
        let text = text.trim();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, name) = match text.split_at(digits) {
            ("", name) => (1, name),
            (count, rest) => {
                let name =
                    rest.strip_prefix(['x', 'X']).ok_or_else(|| invalid("an 'x' is missing after the count"))?;
                (count.parse().map_err(|_| invalid("the count is too large"))?, name)
            }
        };
        if count == 0 {
            return Err(invalid("the count is 0"));
        }
        if count > MAX_GPUS {
            return Err(invalid("the count is too large"));
        }
        let model = MODELS.iter().find(|model| model.name.eq_ignore_ascii_case(name));
        Ok(SimSpec { count, model: model.ok_or_else(|| invalid("the model is unknown"))? })
    }

    /// The devices of the node that `seed` (its `node_uid`) names.
    pub fn new(spec: SimSpec, seed: &str) -> Self {
        let devices: Vec<Gpu> = (0..spec.count).map(|index| device(spec, seed, index)).collect();
        let topology = layout::topology(spec.model.layout, &devices);
        let driver = GpuDriver {
            state: DriverState::Ok,
            driver_version: Some("580.95.05".to_owned()),
            cuda_version: Some("13.0".to_owned()),
            nvml_version: None,
            sentence: Some("these GPUs are simulated".to_owned()),
        };
        Self { model: spec.model, devices, topology, driver, busy: Mutex::new(BTreeSet::new()) }
    }

    /// Makes a GPU look busy, or idle again, in the samples that follow.
    pub fn set_busy(&self, gpu: &GpuUuid, busy: bool) {
        let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if busy {
            all.insert(gpu.clone());
        } else {
            all.remove(gpu);
        }
    }

    fn sample(&self, gpu: &Gpu, busy: bool) -> GpuSample {
        let (used_mb, utilization, warmer, power_w) = match busy {
            true => (gpu.memory_mb / 10 * 7, 97, 35, self.model.board_w / 10 * 9),
            false => (1, 0, 0, self.model.board_w / 10),
        };
        GpuSample {
            memory_used_mb: Some(used_mb),
            utilization: Some(utilization),
            // Not all the same, as in any rack.
            temperature_c: Some(30 + gpu.index % 4 + warmer),
            power_w: Some(power_w),
            power_limit_w: Some(self.model.board_w),
            sm_clock_mhz: Some(if busy { 1755 } else { 345 }),
            memory_clock_mhz: Some(if busy { 2619 } else { 405 }),
            ecc_errors: gpu.ecc.filter(|on| *on).map(|_| 0),
            pstate: Some(if busy { 0 } else { 8 }),
            // Boards of servers are cooled by the machine.
            fan_percent: None,
            health: GpuHealth::Ok,
        }
    }
}

fn device(spec: SimSpec, seed: &str, index: u32) -> Gpu {
    // The count is left out: a node that grows keeps the GPUs it had.
    let uuid = stable_uuid(&format!("{seed}/{}/{index}", spec.model.name));
    Gpu {
        uuid: GpuUuid(format!("GPU-{uuid}")),
        index,
        minor: index,
        model: spec.model.product.to_owned(),
        gpu_type: type_of_model(spec.model.product),
        memory_mb: spec.model.memory_mb,
        pci: format!("{:08X}:{:02X}:00.0", domain(seed), 0x0A + index * 0x0D),
        numa_node: Some(layout::numa_node(index, spec.count)),
        mig_parent: None,
        ecc: Some(spec.model.name != "TITANX"),
        ..Gpu::default()
    }
}

/// A PCI domain of the node's own, of four digits: what is said of one node's device is said of no other's.
fn domain(seed: &str) -> u16 {
    let [low, high, ..] = *stable_uuid(seed).as_bytes();
    u16::from_be_bytes([high, low]).max(1)
}

/// A UUID from a text: two differently started runs of FNV-1a, 64 bits each.
fn stable_uuid(text: &str) -> uuid::Uuid {
    let hash = |start: u64| {
        let folded =
            text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3));
        // FNV leaves texts that differ in the last letter close together.
        let mixed = (folded ^ (folded >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        mixed ^ (mixed >> 33)
    };
    let (high, low) = (hash(0xCBF2_9CE4_8422_2325), hash(0x8422_2325_CBF2_9CE4));
    let bits = (u128::from(high) << 64) | u128::from(low);
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

#[async_trait]
impl GpuSource for SimGpus {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn setting(&self) -> String {
        format!("sim:{}x{}", self.devices.len(), self.model.name)
    }

    async fn devices(&self) -> Result<(Vec<Gpu>, Topology), GpuError> {
        Ok((self.devices.clone(), self.topology.clone()))
    }

    async fn samples(&self) -> Result<Vec<(GpuUuid, GpuSample)>, GpuError> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sample = |gpu: &Gpu| (gpu.uuid.clone(), self.sample(gpu, busy.contains(&gpu.uuid)));
        Ok(self.devices.iter().map(sample).collect())
    }

    async fn processes(&self, _: &[GpuUuid]) -> Result<GpuProcesses, GpuError> {
        Ok(GpuProcesses::default())
    }

    fn driver(&self) -> GpuDriver {
        self.driver.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gpu::LinkKind;

    fn node(text: &str, seed: &str) -> SimGpus {
        SimGpus::new(SimGpus::parse(text).unwrap(), seed)
    }

    fn uuids(gpus: &SimGpus) -> Vec<GpuUuid> {
        gpus.devices.iter().map(|gpu| gpu.uuid.clone()).collect()
    }

    #[test]
    fn counts_and_models_are_read() {
        for (text, count, model) in [("8xH100", 8, "H100"), ("H100", 1, "H100"), ("2Xtitanx", 2, "TITANX")] {
            let gpus = node(text, "seed");
            assert_eq!((gpus.devices.len(), gpus.model.name), (count, model), "{text}");
            assert_eq!(gpus.devices[0].gpu_type, model);
        }
    }

    #[test]
    fn other_texts_say_what_is_allowed() {
        for text in ["", "0xH100", "17xH100", "8x", "8xH9000", "8H100", "99999999999xH100", "-1xH100"] {
            let error = SimGpus::parse(text).unwrap_err().to_string();
            assert!(error.contains("COUNT 1 to 16") && error.contains("TITANX"), "{error}");
        }
    }

    #[test]
    fn every_model_has_the_type_that_its_product_name_says() {
        for model in MODELS {
            let gpus = node(model.name, "seed");
            assert!(
                model.name.starts_with(&gpus.devices[0].gpu_type),
                "{}: {}",
                model.name,
                gpus.devices[0].gpu_type
            );
        }
    }

    #[test]
    fn uuids_stay_with_their_node() {
        assert_eq!(uuids(&node("8xH100", "a")), uuids(&node("8xH100", "a")));
        assert_eq!(uuids(&node("8xH100", "a"))[..4], uuids(&node("4xH100", "a"))[..]);
        let all: BTreeSet<GpuUuid> =
            ["a", "b", "node-1", "node-2"].iter().flat_map(|seed| uuids(&node("16xA100", seed))).collect();
        assert_eq!(all.len(), 64);
        let first = all.first().unwrap();
        assert_eq!((first.0.len(), &first.0[..4]), (40, "GPU-"));
        let places = |seed| node("16xA100", seed).devices.into_iter().map(|gpu| gpu.pci).collect::<BTreeSet<_>>();
        assert_eq!((places("a").len(), places("a")), (16, places("a")));
        assert!(places("a").is_disjoint(&places("b")));
    }

    #[test]
    fn layouts_are_those_of_the_real_machines() {
        use LinkKind::{NumaNode, NvLink, PcieSwitch, System};
        for (text, a, b, kind) in [
            ("8xH100", 0, 7, NvLink { lanes: 18 }),
            ("8xA100", 3, 4, NvLink { lanes: 12 }),
            ("8xV100", 0, 3, NvLink { lanes: 2 }),
            ("8xV100", 0, 1, NvLink { lanes: 1 }),
            ("8xV100", 0, 5, System),
            ("8xTITANX", 0, 1, PcieSwitch),
            ("8xTITANX", 1, 2, NumaNode),
            ("8xTITANX", 3, 4, System),
            ("4xT4", 1, 2, System),
            ("2xL4", 0, 1, PcieSwitch),
        ] {
            let gpus = node(text, "seed");
            assert_eq!(gpus.topology.between(&uuids(&gpus)[a], &uuids(&gpus)[b]), kind, "{text} {a} {b}");
        }
        let numa: Vec<_> = node("8xH100", "seed").devices.iter().filter_map(|gpu| gpu.numa_node).collect();
        assert_eq!(numa, [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn samples_show_what_is_busy() {
        let gpus = node("2xH100", "seed");
        let first = uuids(&gpus)[0].clone();
        gpus.set_busy(&first, true);
        let samples = gpus.samples().await.unwrap();
        assert_eq!(samples[0].1.utilization, Some(97));
        assert_eq!(samples[1].1.utilization, Some(0));
        gpus.set_busy(&first, false);
        assert_eq!(gpus.samples().await.unwrap()[0].1.utilization, Some(0));
    }
}
