//! The built-in mixes: sets of models that the papers' comparisons run together.

use crate::profile::{ModelProfile, Profile, built_in};
use crate::time::Nanos;
use crate::workload::{ArrivalProcess, ModelLoad, Workload, WorkloadError};

/// Models of a built-in profile set that run together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is, and which part of it is our choice.
    pub about: &'static str,
    /// The built-in profile set with its models.
    pub profile: &'static str,
    /// Its models.
    pub models: &'static [&'static str],
}

/// The built-in mixes.
///
/// # Source
/// D-STACK's multiplexing sets C-2 to C-7, of its table of models on a V100, its example of
/// three models, and its comparison with an ideal scheduler. The paper does not list the
/// members of C-7 as far as is known here.
pub const MIXES: [Mix; 6] = [
    Mix {
        name: "c-2",
        about: "MobileNet and AlexNet",
        profile: "v100-dstack",
        models: &["mobilenet", "alexnet"],
    },
    Mix {
        name: "c-3",
        about: "C-2 and ResNet-50",
        profile: "v100-dstack",
        models: &["mobilenet", "alexnet", "resnet50"],
    },
    Mix {
        name: "c-4",
        about: "C-3 and VGG-19",
        profile: "v100-dstack",
        models: &["mobilenet", "alexnet", "resnet50", "vgg19"],
    },
    Mix {
        name: "c-7",
        about: "all of the table but ResNeXt-50, which is our choice; it needs 113 % of the \
                device, so misses are expected",
        profile: "v100-dstack",
        models: &[
            "mobilenet",
            "alexnet",
            "bert",
            "resnet18",
            "resnet50",
            "inception",
            "vgg19",
        ],
    },
    Mix {
        name: "arv",
        about: "AlexNet, ResNet-50 and VGG-19",
        profile: "v100-dstack",
        models: &["alexnet", "resnet50", "vgg19"],
    },
    Mix {
        name: "convnet",
        about: "three LeNet-like networks of our making",
        profile: "convnet",
        models: &["convnet1", "convnet2", "convnet3"],
    },
];

/// How long a mix runs, and how long before that to settle.
const DURATION: Nanos = Nanos::from_millis(10_000);
const WARMUP: Nanos = Nanos::from_millis(1_000);

impl Mix {
    /// The mix of this name, in capitals or not.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        MIXES.iter().find(|mix| mix.name.eq_ignore_ascii_case(name))
    }

    /// The profile set with its models.
    ///
    /// # Panics
    /// Never: a test asks every mix for it.
    #[must_use]
    pub fn profiles(&self) -> Profile {
        built_in(self.profile).unwrap_or_else(|| panic!("no built-in set `{}`", self.profile))
    }

    /// The mix at its rated load: of each model, one published batch within each of its
    /// objectives, as independent requests of one item (Poisson). 10 s after a warm-up of 1 s.
    ///
    /// # Errors
    /// None for the built-in mixes; [`WorkloadError`] for one whose profile states no batch or SLO.
    pub fn rated(&self) -> Result<Workload, WorkloadError> {
        self.workload(|model, slo| ArrivalProcess::Poisson {
            rate: f64::from(batch(model)) / slo.as_secs_f64(),
        })
    }

    /// The mix with every queue full at all times.
    ///
    /// # Errors
    /// As [`rated`](Self::rated).
    pub fn saturated(&self) -> Result<Workload, WorkloadError> {
        self.workload(|_, _| ArrivalProcess::Saturated)
    }

    fn workload(
        &self,
        arrivals: impl Fn(&ModelProfile, Nanos) -> ArrivalProcess,
    ) -> Result<Workload, WorkloadError> {
        let profile = self.profiles();
        let members = profile.models.iter();
        let members = members.filter(|model| self.models.contains(&model.name.as_str()));
        let loads = members.map(|model| {
            let slo = Nanos::from_secs_f64(model.slo_s.unwrap_or(0.0));
            ModelLoad {
                max_batch_size: Some(crate::BatchSize(batch(model))),
                ..ModelLoad::new(&model.name, slo, arrivals(model, slo))
            }
        });
        Workload::new(DURATION, WARMUP, None, loads.collect())
    }
}

/// The published batch; the largest where nothing is published.
fn batch(model: &ModelProfile) -> u32 {
    let published = model.published.as_ref();
    published.map_or(model.max_batch, |published| published.batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_is_a_workload_of_its_models() {
        for mix in &MIXES {
            for workload in [mix.rated(), mix.saturated()] {
                let workload = workload.expect(mix.name);
                assert_eq!(workload.models().len(), mix.models.len(), "{}", mix.name);
            }
            assert_eq!(Mix::named(&mix.name.to_uppercase()), Some(mix));
        }
        assert_eq!(Mix::named("c-5"), None);
    }

    #[test]
    fn the_rated_load_of_c_7_is_a_batch_per_objective() {
        let mix = Mix::named("c-7").expect("built in");
        let workload = mix.rated().expect("valid");
        let rates = workload.models().iter().map(|load| {
            let rate = load.arrivals.mean_rate(workload.end());
            (load.name.as_str(), rate.round())
        });
        let expected = [
            ("mobilenet", 640.0),
            ("alexnet", 640.0),
            ("bert", 640.0),
            ("resnet18", 640.0),
            ("resnet50", 320.0),
            ("inception", 320.0),
            ("vgg19", 160.0),
        ];
        assert!(rates.eq(expected));
    }
}
