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
    sm_active: Family<DeviceLabels, FloatGauge>,
    sm_occupied: Family<DeviceLabels, FloatGauge>,
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
            "gpu_sm_active_ratio",
            "Part of the NVIDIA device's multiprocessors that had work, on average since the metrics were read before",
            self.sm_active.clone(),
        );
        registry.register(
            "gpu_sm_occupancy_ratio",
            "Part of the warps that the NVIDIA device's multiprocessors can hold that were there, on average since \
             the metrics were read before",
            self.sm_occupied.clone(),
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
        for (gauge, percent) in [
            (&self.busy, health.busy_percent.map(f64::from)),
            (&self.sm_active, health.sm_active_percent),
            (&self.sm_occupied, health.sm_occupied_percent),
        ] {
            if let Some(percent) = percent {
                gauge.get_or_create(&labels).set(percent / 1e2);
            }
        }
        if let Some(millijoules) = health.energy_millijoules {
            let joules = millijoules as f64 / 1e3;
            let counter = self.energy.get_or_create(&labels);
            counter.inner().store(joules.to_bits(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn shown(health: &GpuHealth) -> String {
        let (metrics, mut registry) = (GpuMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.show(DeviceId(0), health);
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes all that is written");
        text
    }

    #[test]
    fn a_device_that_counts_its_multiprocessors_shows_them_beside_its_use() {
        let text = shown(&GpuHealth {
            busy_percent: Some(100),
            sm_active_percent: Some(12.5),
            sm_occupied_percent: Some(3.0),
            ..GpuHealth::default()
        });
        for line in [
            "gpu_busy_ratio{device=\"0\"} 1.0",
            "gpu_sm_active_ratio{device=\"0\"} 0.125",
            "gpu_sm_occupancy_ratio{device=\"0\"} 0.03",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn what_a_device_does_not_tell_is_absent() {
        let text = shown(&GpuHealth {
            busy_percent: Some(50),
            ..GpuHealth::default()
        });
        assert!(text.contains("gpu_busy_ratio{"), "{text}");
        assert!(!text.contains("_ratio{device=\"0\"} 0.0"), "{text}");
        assert!(!text.contains("gpu_sm_active_ratio{"), "{text}");
        assert!(!text.contains("gpu_sm_occupancy_ratio{"), "{text}");
    }
}
