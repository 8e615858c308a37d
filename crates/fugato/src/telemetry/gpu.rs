//! Metrics of an NVIDIA device, as its management library tells them: none without it.

use super::metrics::{DeviceLabels, FloatGauge};
use fugato_core::DeviceId;
use fugato_device::GpuHealth;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is shown of an NVIDIA device.
#[derive(Debug, Default)]
pub(super) struct GpuMetrics {
    memory_used: Family<DeviceLabels, Gauge>,
    memory_total: Family<DeviceLabels, Gauge>,
    power: Family<DeviceLabels, FloatGauge>,
    energy: Family<DeviceLabels, Counter<f64, AtomicU64>>,
    busy: Family<DeviceLabels, FloatGauge>,
    celsius: Family<DeviceLabels, Gauge>,
}

impl GpuMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "gpu_memory_used_bytes",
            "Bytes of the NVIDIA device's memory that are taken, by whomever",
            self.memory_used.clone(),
        );
        registry.register(
            "gpu_memory_total_bytes",
            "Bytes of the NVIDIA device's memory",
            self.memory_total.clone(),
        );
        registry.register(
            "gpu_power_watts",
            "Power that the NVIDIA device draws",
            self.power.clone(),
        );
        registry.register_with_unit(
            "gpu_energy",
            "Energy that the NVIDIA device has drawn since its driver was loaded",
            Unit::Joules,
            self.energy.clone(),
        );
        registry.register(
            "gpu_busy_ratio",
            "Part of the last moments in which any kernel ran, as the NVIDIA device's driver samples it: one busy \
             multiprocessor is 1",
            self.busy.clone(),
        );
        registry.register(
            "gpu_temperature_celsius",
            "Temperature of the NVIDIA device",
            self.celsius.clone(),
        );
    }

    /// Shows what a device said; what it did not say stays as it was.
    pub(super) fn show(&self, DeviceId(device): DeviceId, health: &GpuHealth) {
        let labels = DeviceLabels { device };
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (gauge, value) in [
            (&self.memory_used, health.memory_used),
            (&self.memory_total, health.memory_total),
            (&self.celsius, health.celsius.map(u64::from)),
        ] {
            if let Some(value) = value {
                gauge.get_or_create(&labels).set(wide(value));
            }
        }
        if let Some(milliwatts) = health.power_milliwatts {
            self.power
                .get_or_create(&labels)
                .set(f64::from(milliwatts) / 1e3);
        }
        if let Some(percent) = health.busy_percent {
            self.busy
                .get_or_create(&labels)
                .set(f64::from(percent) / 1e2);
        }
        if let Some(millijoules) = health.energy_millijoules {
            let joules = millijoules as f64 / 1e3;
            let counter = self.energy.get_or_create(&labels);
            counter.inner().store(joules.to_bits(), Ordering::Relaxed);
        }
    }
}
