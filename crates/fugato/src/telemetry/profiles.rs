//! Metrics of profiles: how well each source predicts, which one is asked, what measuring
//! takes.

use super::metrics::{FloatGauge, ModelLabels};
use fugato_core::profile::{Knee, Source};
use fugato_core::sched::ProfileStatus;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    model: String,
    version: String,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QuantileLabels {
    model: String,
    version: String,
    quantile: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KneeLabels {
    model: String,
    version: String,
    definition: &'static str,
}

/// What is shown of profiles.
#[derive(Debug, Default)]
pub(super) struct ProfileMetrics {
    errors: Family<SourceLabels, FloatGauge>,
    in_use: Family<QuantileLabels, Gauge>,
    knees: Family<KneeLabels, Gauge>,
    points: Family<ModelLabels, Gauge>,
    measuring: Family<ModelLabels, Gauge>,
    seconds: Family<ModelLabels, Counter<f64, AtomicU64>>,
    drifted: Family<ModelLabels, Gauge>,
}

impl ProfileMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "profile_error_ratio",
            "Median of |predicted - measured| / measured over the model's last 64 legs that both sources could \
             predict, by source",
            self.errors.clone(),
        );
        registry.register(
            "profile_in_use",
            "1 where the model's profile is asked for that quantile of its latency, 0 where the online estimate is",
            self.in_use.clone(),
        );
        registry.register(
            "profile_knee_slices",
            "Slices that the model can use at its largest measured batch, by definition of the knee",
            self.knees.clone(),
        );
        registry.register(
            "profile_points",
            "Points of the model's profile that have a time",
            self.points.clone(),
        );
        registry.register(
            "profile_measuring",
            "1 while the model is measured in idle gaps",
            self.measuring.clone(),
        );
        registry.register_with_unit(
            "profile_device",
            "Device time spent on measuring the model while serving, each run by the part of the device it held",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register(
            "profile_drifted",
            "1 while most of the model's last 64 legs that ran alone were outside the band of its profile",
            self.drifted.clone(),
        );
    }

    /// Shows what is known of a model's profile now: of `points` points, with its knees.
    pub(super) fn show(
        &self,
        labels: &ModelLabels,
        status: &ProfileStatus,
        known: Option<(Knee, u64)>,
    ) {
        let (model, version) = (&labels.model, &labels.version);
        let standing = status.standing;
        for (source, error) in [
            ("profile", standing.and_then(|known| known.profile_error)),
            ("online", standing.and_then(|known| known.online_error)),
        ] {
            if let Some(error) = error {
                let labels = SourceLabels {
                    model: model.clone(),
                    version: version.clone(),
                    source,
                };
                self.errors.get_or_create(&labels).set(error);
            }
        }
        for (quantile, source) in [
            ("median", standing.map(|known| known.median)),
            ("tail", standing.map(|known| known.tail)),
        ] {
            let labels = QuantileLabels {
                model: model.clone(),
                version: version.clone(),
                quantile,
            };
            let in_use = i64::from(source == Some(Source::Profile));
            self.in_use.get_or_create(&labels).set(in_use);
        }
        let (knee, points) = known.unwrap_or_default();
        for (definition, slices) in [
            ("tolerance", knee.tolerance),
            ("efficacy", knee.efficacy),
            ("chord", knee.chord),
        ] {
            if let Some(slices) = slices {
                let labels = KneeLabels {
                    model: model.clone(),
                    version: version.clone(),
                    definition,
                };
                self.knees.get_or_create(&labels).set(slices.into());
            }
        }
        let points = i64::try_from(points).unwrap_or(i64::MAX);
        self.points.get_or_create(labels).set(points);
        let measuring = i64::from(status.measuring);
        self.measuring.get_or_create(labels).set(measuring);
        let drifted = standing.is_some_and(|known| known.drifted);
        self.drifted.get_or_create(labels).set(drifted.into());
        let seconds = status.device_time.as_secs_f64().to_bits();
        let counter = self.seconds.get_or_create(labels);
        counter.inner().store(seconds, Ordering::Relaxed);
    }

    /// Lets go of what was shown of a version that is not served any more.
    pub(super) fn forget(&self, labels: &ModelLabels) {
        let (model, version) = (&labels.model, &labels.version);
        for source in ["profile", "online"] {
            self.errors.remove(&SourceLabels {
                model: model.clone(),
                version: version.clone(),
                source,
            });
        }
        for quantile in ["median", "tail"] {
            self.in_use.remove(&QuantileLabels {
                model: model.clone(),
                version: version.clone(),
                quantile,
            });
        }
        for definition in ["tolerance", "efficacy", "chord"] {
            self.knees.remove(&KneeLabels {
                model: model.clone(),
                version: version.clone(),
                definition,
            });
        }
        for family in [&self.points, &self.measuring, &self.drifted] {
            family.remove(labels);
        }
        self.seconds.remove(labels);
    }
}
