//! How an NVIDIA device runs a model.

use crate::config::{CudnnSearch, DeviceConfig, ModelConfig};
use fugato_device::{ConvolutionSearch, GpuTuning, Urgency};

/// How an NVIDIA device runs a model of these settings.
pub(super) fn tuning(config: &ModelConfig) -> GpuTuning {
    GpuTuning {
        tf32: config.tf32,
        nhwc: config.nhwc,
        convolutions: match config.cudnn_search {
            CudnnSearch::Heuristic => ConvolutionSearch::Heuristic,
            CudnnSearch::Exhaustive => ConvolutionSearch::Exhaustive,
            CudnnSearch::Fallback => ConvolutionSearch::Fallback,
        },
        graphs: config.cuda_graphs,
        // As far as the device does so: `device.plan_lanes`.
        side_by_side: true,
        urgency: Urgency::of_slo(config.slo.map(|slo| slo.nanos())),
    }
}

/// The same on a device that may have all streams alike.
pub(super) fn with_streams_of(config: &DeviceConfig, tuning: GpuTuning) -> GpuTuning {
    let urgency = match config.stream_priorities {
        true => tuning.urgency,
        false => Urgency::LEAST,
    };
    GpuTuning { urgency, ..tuning }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::tests::file;
    use fugato_core::Nanos;

    fn config(text: &str) -> Config {
        Config::resolve(&file(text)).expect("a configuration")
    }

    #[test]
    fn an_nvidia_device_runs_each_model_as_it_is_configured() {
        let text = "[model.fast]\ntf32 = true\nnhwc = true\ncudnn_search = \"exhaustive\"\n\
                    [model.careful]\ncuda_graphs = false\ncudnn_search = \"fallback\"\n";
        let config = config(text);
        let of = |name: &str| tuning(&config.models[name]);
        let fast = GpuTuning {
            tf32: true,
            nhwc: true,
            convolutions: ConvolutionSearch::Exhaustive,
            ..GpuTuning::default()
        };
        let careful = GpuTuning {
            graphs: false,
            convolutions: ConvolutionSearch::Fallback,
            ..GpuTuning::default()
        };
        assert_eq!((of("fast"), of("careful")), (fast, careful));
        assert_eq!(tuning(&config.defaults), GpuTuning::default());
    }

    #[test]
    fn the_objective_of_a_model_says_the_priority_of_its_streams() {
        let models = "[model.fast]\nslo = \"5ms\"\n[model.slow]\nslo = \"1s\"\n[model.any]\n";
        let on = config(models);
        let of = |config: &Config, name: &str| {
            let tuning = tuning(&config.models[name]);
            with_streams_of(&config.device, tuning).urgency
        };
        let slo = |millis| Urgency::of_slo(Some(Nanos::from_millis(millis)));
        assert_eq!(of(&on, "fast"), slo(5));
        assert_eq!(of(&on, "slow"), slo(1_000));
        assert_eq!(of(&on, "any"), Urgency::LEAST);
        let off = config(&format!("[device]\nstream_priorities = false\n{models}"));
        assert_eq!(of(&off, "fast"), Urgency::LEAST);
    }
}
