//! The search for capacity: the largest multiple of a workload that a system holds, and the
//! fewest devices that hold a workload.
//!
//! The searches only decide what to try next and when to stop; who owns the system tries
//! it. `bench` does so with a live server, `simulate` with the simulator:
//!
//! ```
//! use fugato_core::capacity::{Largest, LargestSettings};
//!
//! let mut search = Largest::new(LargestSettings::default())?;
//! while let Some(factor) = search.next_probe() {
//!     let holds = factor <= 3.7; // A run at `factor` times the workload's rates.
//!     search.record(holds);
//! }
//! let found = search.found().holds.expect("a small factor holds");
//! assert!((3.7 / 1.02..=3.7).contains(&found));
//! # Ok::<(), fugato_core::capacity::SettingsError>(())
//! ```
//!
//! **Invariant:** a search ends after a number of probes that its settings bound, whatever
//! the answers; a live system answers the same question differently at times.

use serde::Serialize;

/// The attainment that every single model must reach for a load to count as held, where
/// less is not asked for of all requests together.
pub const MODEL_FLOOR: f64 = 0.95;

/// Whether a load was held: attainment is at least `wanted` over all requests, and at
/// least the smaller of `wanted` and [`MODEL_FLOOR`] for each model. `None` stands for no
/// requests and does not hold.
pub fn holds(
    wanted: f64,
    total: Option<f64>,
    models: impl IntoIterator<Item = Option<f64>>,
) -> bool {
    let reaches = |found: Option<f64>, wanted| found.is_some_and(|found| found >= wanted);
    let floor = wanted.min(MODEL_FLOOR);
    reaches(total, wanted) && models.into_iter().all(|model| reaches(model, floor))
}

/// How [`Largest`] searches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LargestSettings {
    /// The factor tried first.
    pub start: f64,
    /// The factor between the first two probes, above 1; the ratio then grows up to 2 from
    /// probe to probe until both a factor that holds and one that fails are known.
    pub step: f64,
    /// The search ends when the factor that fails is at most this part above the one that
    /// holds.
    pub tolerance: f64,
    /// The smallest factor tried.
    pub least: f64,
    /// The largest factor tried.
    pub most: f64,
}

impl Default for LargestSettings {
    fn default() -> Self {
        Self {
            start: 1.0,
            step: 2.0,
            tolerance: 0.02,
            least: 1.0 / 1024.0,
            most: 1024.0,
        }
    }
}

impl LargestSettings {
    /// The settings for another seed's search where one seed's answer is known: it begins
    /// there, with steps of four tolerances.
    #[must_use]
    pub fn near(self, known: f64) -> Self {
        Self {
            start: known.clamp(self.least, self.most),
            step: (1.0 + 4.0 * self.tolerance).min(2.0),
            ..self
        }
    }
}

/// Why a search cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value is outside its range.
    #[error("{setting} of a search for capacity is {found}, expected {expected}")]
    Range {
        /// Which one.
        setting: &'static str,
        /// Its value.
        found: f64,
        /// The range.
        expected: &'static str,
    },
}

/// What a search for the largest factor found. A factor at or below `holds` was held, one
/// at or above `fails` was not; both were tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Capacity {
    /// The largest factor that was held; absent where even the smallest one tried was not.
    pub holds: Option<f64>,
    /// The smallest factor that was not held; absent where even the largest one tried was.
    pub fails: Option<f64>,
}

/// Searches the largest factor that a system holds: by ratios until the answer is
/// bracketed, then halving the bracket's ratio.
#[derive(Clone, Debug)]
pub struct Largest {
    settings: LargestSettings,
    /// The logarithm of the ratio to the next probe while bracketing.
    stride: f64,
    probe: Option<f64>,
    found: Capacity,
}

impl Largest {
    /// A search that has tried nothing.
    ///
    /// # Errors
    /// [`SettingsError`] where a factor is not finite and above 0, the bounds do not hold
    /// `start`, `step` is not in (1, 2], or `tolerance` is not in [0.0001, 1].
    pub fn new(settings: LargestSettings) -> Result<Self, SettingsError> {
        let LargestSettings {
            start,
            step,
            tolerance,
            least,
            most,
        } = settings;
        let checks = [
            ("least", least, least > 0.0 && least.is_finite(), "above 0"),
            (
                "most",
                most,
                most >= least && most.is_finite(),
                "at least `least`",
            ),
            (
                "start",
                start,
                (least..=most).contains(&start),
                "between `least` and `most`",
            ),
            (
                "step",
                step,
                step > 1.0 && step <= 2.0,
                "above 1, at most 2",
            ),
            (
                "tolerance",
                tolerance,
                (1e-4..=1.0).contains(&tolerance),
                "0.0001 to 1",
            ),
        ];
        for (setting, found, fits, expected) in checks {
            if !fits {
                return Err(SettingsError::Range {
                    setting,
                    found,
                    expected,
                });
            }
        }
        Ok(Self {
            settings,
            stride: step.ln(),
            probe: Some(start),
            found: Capacity::default(),
        })
    }

    /// The factor to try; `None` once the search has ended.
    pub fn next_probe(&self) -> Option<f64> {
        self.probe
    }

    /// Takes the answer to [`Largest::next_probe`].
    ///
    /// # Panics
    /// Where the search has ended.
    pub fn record(&mut self, holds: bool) {
        let Some(probe) = self.probe else {
            panic!("a search that has ended was given another answer");
        };
        if holds {
            self.found.holds = Some(probe);
        } else {
            self.found.fails = Some(probe);
        }
        self.probe = self.next();
    }

    fn next(&mut self) -> Option<f64> {
        let LargestSettings {
            least,
            most,
            tolerance,
            ..
        } = self.settings;
        match (self.found.holds, self.found.fails) {
            (Some(holds), Some(fails)) => {
                (fails > holds * (1.0 + tolerance)).then(|| (holds * fails).sqrt())
            }
            (Some(holds), None) => (holds < most).then(|| (holds * self.stride()).min(most)),
            (None, Some(fails)) => (fails > least).then(|| (fails / self.stride()).max(least)),
            (None, None) => self.probe,
        }
    }

    /// The ratio to the next probe; the one after it is larger.
    fn stride(&mut self) -> f64 {
        let ratio = self.stride.exp();
        self.stride = (self.stride * 2.0).min(std::f64::consts::LN_2);
        ratio
    }

    /// What is known so far; at the end, the answer.
    pub fn found(&self) -> Capacity {
        self.found
    }
}

/// Searches the smallest whole number (of devices) that holds a load: doubling until one
/// does, then bisecting.
#[derive(Clone, Debug)]
pub struct Fewest {
    most: u32,
    /// The largest number known not to hold; 0 at the beginning.
    fails: u32,
    holds: Option<u32>,
}

impl Fewest {
    /// A search from 1 to `most`.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            fails: 0,
            holds: None,
        }
    }

    /// The number to try; `None` once the search has ended.
    pub fn next_probe(&self) -> Option<u32> {
        match self.holds {
            Some(holds) => (holds - self.fails > 1).then(|| self.fails + (holds - self.fails) / 2),
            None if self.fails >= self.most => None,
            None => Some(self.fails.saturating_mul(2).clamp(1, self.most)),
        }
    }

    /// Takes the answer to [`Fewest::next_probe`].
    ///
    /// # Panics
    /// Where the search has ended.
    pub fn record(&mut self, holds: bool) {
        let Some(probe) = self.next_probe() else {
            panic!("a search that has ended was given another answer");
        };
        if holds {
            self.holds = Some(probe);
        } else {
            self.fails = probe;
        }
    }

    /// The smallest number that holds; `None` where none that was tried does.
    pub fn found(&self) -> Option<u32> {
        self.holds
    }
}

/// One figure over several seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The number of values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// The half width of the 95 % confidence interval of the mean by Student's
    /// distribution; absent for one value.
    pub interval: Option<f64>,
}

/// 97.5th percentiles of Student's distribution for 1 to 30 degrees of freedom.
const STUDENT: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

impl Spread {
    /// The spread of `values`; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let first = *values.first()?;
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let freedom = count - 1;
        let interval = (freedom > 0).then(|| {
            // Past the table the normal distribution's is within 2 %.
            let student = STUDENT.get(freedom - 1).copied().unwrap_or(2.0);
            student * (squares / freedom as f64 / count as f64).sqrt()
        });
        Some(Self {
            count,
            mean,
            low: values.iter().copied().fold(first, f64::min),
            high: values.iter().copied().fold(first, f64::max),
            interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search against a system of this capacity; gives the probes.
    fn run(settings: LargestSettings, mut holds: impl FnMut(f64) -> bool) -> (Vec<f64>, Capacity) {
        let mut search = Largest::new(settings).expect("valid");
        let mut probes = Vec::new();
        while let Some(factor) = search.next_probe() {
            probes.push(factor);
            search.record(holds(factor));
            assert!(probes.len() < 100, "no end: {probes:?}");
        }
        (probes, search.found())
    }

    #[test]
    fn the_answer_is_bracketed_within_the_tolerance() {
        for tolerance in [0.1, 0.02, 0.001] {
            let settings = LargestSettings {
                tolerance,
                ..LargestSettings::default()
            };
            for tenth in 1..400_u32 {
                let capacity = 0.02 * 1.025_f64.powi(i32::try_from(tenth).expect("small"));
                let (probes, found) = run(settings, |factor| factor <= capacity);
                let (holds, fails) = found.holds.zip(found.fails).expect("bracketed");
                assert!(holds <= capacity && capacity < fails);
                assert!(fails <= holds * (1.0 + tolerance) * (1.0 + 1e-12));
                // Doublings to the answer, then halvings of a ratio of two.
                let doublings = capacity.log2().abs().ceil() + 2.0;
                let halvings = (2.0_f64.ln() / (1.0 + tolerance).ln()).log2().ceil();
                let most = doublings + halvings.max(0.0);
                assert!(probes.len() as f64 <= most, "{capacity}: {probes:?}");
            }
        }
    }

    #[test]
    fn a_known_neighbourhood_saves_probes_and_does_not_bind() {
        let settings = LargestSettings::default();
        let (first, _) = run(settings, |factor| factor <= 37.0);
        let (near, found) = run(settings.near(36.0), |factor| factor <= 37.0);
        assert!(near.len() <= 6 && near.len() < first.len(), "{near:?}");
        assert!(found.holds.is_some_and(|holds| holds <= 37.0));
        let (_, far) = run(settings.near(36.0), |factor| factor <= 2.0);
        assert!(far.holds.is_some_and(|holds| holds > 1.9), "{far:?}");
    }

    #[test]
    fn the_bounds_end_the_search() {
        let settings = LargestSettings {
            least: 0.3,
            most: 5.0,
            ..LargestSettings::default()
        };
        let (probes, all) = run(settings, |_| true);
        assert_eq!((probes.last(), all.fails), (Some(&5.0), None));
        assert_eq!(all.holds, Some(5.0));
        let (probes, none) = run(settings, |_| false);
        assert_eq!((probes.last(), none.holds), (Some(&0.3), None));
    }

    #[test]
    fn contradicting_answers_end_too() {
        // Every answer the opposite of the one before, and answers at random.
        let mut last = false;
        run(LargestSettings::default(), |_| {
            last = !last;
            last
        });
        let mut state = 7_u64;
        for _ in 0..200 {
            run(LargestSettings::default(), |_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state >> 63 == 1
            });
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused_by_name() {
        let good = LargestSettings::default();
        let cases = [
            (LargestSettings { least: 0.0, ..good }, "least"),
            (
                LargestSettings {
                    most: f64::INFINITY,
                    ..good
                },
                "most",
            ),
            (
                LargestSettings {
                    start: f64::NAN,
                    ..good
                },
                "start",
            ),
            (
                LargestSettings {
                    start: 2000.0,
                    ..good
                },
                "start",
            ),
            (LargestSettings { step: 1.0, ..good }, "step"),
            (
                LargestSettings {
                    tolerance: 0.0,
                    ..good
                },
                "tolerance",
            ),
        ];
        for (settings, name) in cases {
            let error = Largest::new(settings).expect_err(name);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }

    #[test]
    fn the_fewest_devices_are_found() {
        for most in [1, 2, 3, 100, 1_000] {
            for needed in 1..=most + 1 {
                let mut search = Fewest::new(most);
                let mut probes = 0;
                while let Some(devices) = search.next_probe() {
                    assert!((1..=most).contains(&devices));
                    search.record(devices >= needed);
                    probes += 1;
                }
                assert_eq!(search.found(), (needed <= most).then_some(needed));
                assert!(probes <= 22, "{needed} of {most}: {probes}");
            }
        }
        assert_eq!(Fewest::new(0).next_probe(), None);
    }

    #[test]
    fn a_load_is_held_over_all_requests_and_by_each_model() {
        assert!(holds(0.99, Some(0.99), [Some(0.95), Some(1.0)]));
        assert!(!holds(0.99, Some(0.989), [Some(1.0)]));
        assert!(!holds(0.99, Some(0.995), [Some(0.94), Some(1.0)]));
        assert!(
            holds(0.9, Some(0.92), [Some(0.9)]),
            "less than the floor was asked for"
        );
        assert!(!holds(0.9, None, []) && !holds(0.9, Some(1.0), [None]));
    }

    #[test]
    fn the_spread_over_seeds() {
        assert_eq!(Spread::of(&[]), None);
        let one = Spread::of(&[2.0]).expect("a value");
        assert_eq!((one.count, one.interval), (1, None));
        let three = Spread::of(&[1.0, 2.0, 3.0]).expect("values");
        assert_eq!((three.mean, three.low, three.high), (2.0, 1.0, 3.0));
        // 4.303 * 1 / sqrt(3).
        let half = three.interval.expect("of three");
        assert!((half - 2.4843).abs() < 1e-3, "{half}");
    }
}
