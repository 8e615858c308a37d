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

    /// Shows what a device said. What it does not say is no longer shown: a figure of before would
    /// be taken for one of now.
    pub(super) fn show(&self, DeviceId(device): DeviceId, health: &GpuHealth) {
        let labels = DeviceLabels { device };
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (gauge, value) in [
            (&self.memory_used, health.memory_used),
            (&self.memory_total, health.memory_total),
            (&self.celsius, health.celsius.map(u64::from)),
        ] {
            match value {
                Some(value) => {
                    gauge.get_or_create(&labels).set(wide(value));
                }
                None => {
                    gauge.remove(&labels);
                }
            }
        }
        for (gauge, value) in [
            (
                &self.power,
                health.power_milliwatts.map(|of| f64::from(of) / 1e3),
            ),
            (
                &self.busy,
                health.busy_percent.map(|of| f64::from(of) / 1e2),
            ),
            (&self.sm_active, health.sm_active_percent.map(|of| of / 1e2)),
            (
                &self.sm_occupied,
                health.sm_occupied_percent.map(|of| of / 1e2),
            ),
        ] {
            match value {
                Some(value) => {
                    gauge.get_or_create(&labels).set(value);
                }
                None => {
                    gauge.remove(&labels);
                }
            }
        }
        match health.energy_millijoules {
            Some(millijoules) => {
                let joules = millijoules as f64 / 1e3;
                let counter = self.energy.get_or_create(&labels);
                counter.inner().store(joules.to_bits(), Ordering::Relaxed);
            }
            None => {
                self.energy.remove(&labels);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    fn shown(health: &GpuHealth) -> String {
        shown_after(&[health])
    }

    /// What is shown after the last of them.
    fn shown_after(healths: &[&GpuHealth]) -> String {
        let (metrics, mut registry) = (GpuMetrics::default(), Registry::default());
        metrics.register(&mut registry);
        for health in healths {
            metrics.show(DeviceId(0), health);
        }
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

    #[test]
    fn what_a_device_no_longer_tells_is_no_longer_shown() {
        let all = GpuHealth {
            memory_used: Some(1),
            memory_total: Some(2),
            power_milliwatts: Some(3),
            energy_millijoules: Some(4),
            busy_percent: Some(5),
            sm_active_percent: Some(6.0),
            sm_occupied_percent: Some(7.0),
            celsius: Some(8),
        };
        assert_eq!(shown(&all).matches("device=\"0\"").count(), 8);
        let temperature = GpuHealth {
            celsius: Some(9),
            ..GpuHealth::default()
        };
        let text = shown_after(&[&all, &temperature]);
        assert_eq!(text.matches("device=\"0\"").count(), 1, "{text}");
        assert!(text.contains("celsius{device=\"0\"} 9"), "{text}");
    }
}
