//! What a device does right now.

use super::super::wire::Failure;
use super::Worker;
use super::device::memory;
use super::errors::{Asked, Questions};
use crate::domain::gpu::GpuSample;
use crate::domain::ids::GpuUuid;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{Clock, EccCounter, MemoryError, TemperatureSensor};

/// Milliwatts as watts, to the nearest.
const fn watts(milliwatts: u32) -> u32 {
    milliwatts.saturating_add(500) / 1000
}

impl Worker {
    /// The device, then its slices.
    pub(super) fn sample(&self, index: u32) -> Result<Vec<(GpuUuid, GpuSample)>, Failure> {
        let device = self.handle(index)?;
        let uuid = GpuUuid(device.uuid().asked(index, "for its UUID")?);
        let whole = sample(&device, index);
        let mut samples = Vec::new();
        if Self::is_divided(&device).asked(index, "for its MIG mode")? {
            for (_, slice) in self.slice_handles(&device, index)? {
                let uuid = GpuUuid(slice.uuid().asked(index, "for the UUID of a MIG slice")?);
                samples.push((uuid, sample_of_slice(&slice, index, &whole)));
            }
        }
        samples.insert(0, (uuid, whole));
        Ok(samples)
    }
}

fn sample(device: &Device<'_>, index: u32) -> GpuSample {
    let mut of = Questions::new(index);
    let used = of.ask("its memory", memory(device)).flatten();
    let fans = of.ask("its fans", device.num_fans()).unwrap_or(0);
    let ecc_errors = device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile);
    let mut sample = GpuSample {
        memory_used_mb: used.map(|memory| memory.used_mb),
        utilization: of.ask("its utilisation", device.utilization_rates()).map(|rates| rates.gpu),
        temperature_c: of.ask("its temperature", device.temperature(TemperatureSensor::Gpu)),
        power_w: of.ask("its power", device.power_usage()).map(watts),
        power_limit_w: of.ask("its power limit", device.enforced_power_limit()).map(watts),
        sm_clock_mhz: of.ask("its SM clock", device.clock_info(Clock::SM)),
        memory_clock_mhz: of.ask("its memory clock", device.clock_info(Clock::Memory)),
        ecc_errors: of.ask("its ECC errors", ecc_errors),
        // 32 is the driver's word for not known.
        pstate: of
            .ask("its performance state", device.performance_state())
            .map(|state| state.as_c())
            .filter(|p| *p < 16),
        fan_percent: if fans == 0 { None } else { of.ask("its fan", device.fan_speed(0)) },
        ..GpuSample::default()
    };
    sample.health = of.health;
    sample
}

/// A slice has memory of its own; heat, power and clocks are its device's.
fn sample_of_slice(slice: &Device<'_>, index: u32, whole: &GpuSample) -> GpuSample {
    let mut of = Questions::new(index);
    let used = of.ask("the memory of a MIG slice", memory(slice)).flatten();
    GpuSample {
        memory_used_mb: used.map(|memory| memory.used_mb),
        utilization: None,
        temperature_c: whole.temperature_c,
        sm_clock_mhz: whole.sm_clock_mhz,
        memory_clock_mhz: whole.memory_clock_mhz,
        health: of.health,
        ..GpuSample::default()
    }
}
