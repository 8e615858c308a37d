//! What is said of loads that are not held, and why they cannot be.

use super::{Plan, overload};
use fugato_core::mix::Mix;
use fugato_core::sim::PolicyReport;
use serde::Serialize;

/// The smallest load or the most devices that were tried and did not suffice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missed {
    /// The seed.
    pub seed: u64,
    /// The multiple of the workload.
    pub multiple: f64,
    /// Devices.
    pub devices: u32,
    /// The part of all requests that was in time; none where nothing came.
    pub attainment: Option<f64>,
    /// The model of which the smallest part was.
    pub worst: Option<Worst>,
}

/// A model and how it fared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Worst {
    /// Its name.
    pub name: String,
    /// The part of its requests that was in time.
    pub attainment: f64,
}

impl Missed {
    pub(super) fn new(report: &PolicyReport, seed: u64, multiple: f64, devices: u32) -> Self {
        let models = report.models.iter().filter_map(|model| {
            Some(Worst {
                name: model.name.clone(),
                attainment: model.attainment?,
            })
        });
        Self {
            seed,
            multiple,
            devices,
            attainment: report.attainment,
            worst: models.min_by(|one, other| one.attainment.total_cmp(&other.attainment)),
        }
    }

    /// Of what several seeds missed, that of which the smallest part was in time.
    pub(super) fn least<'a>(missed: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let attained = |missed: &Self| missed.attainment.unwrap_or(0.0);
        let missed = missed.into_iter();
        let least = missed.min_by(|one, other| attained(one).total_cmp(&attained(other)));
        least.cloned()
    }

    /// By how much, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let percent = |part: f64| format!("{:.2} %", part * 100.0);
        let Some(attainment) = self.attainment else {
            return format!("no request came with seed {}", self.seed);
        };
        let worst = self.worst.as_ref().map_or(String::new(), |worst| {
            format!("; least `{}` {}", worst.name, percent(worst.attainment))
        });
        format!(
            "{} of all requests in time with seed {}{worst}",
            percent(attainment),
            self.seed
        )
    }
}

/// What is to be known of a plan: what of a built-in mix is our choice, and which models cannot
/// be in time, alone on the device in their best share.
#[must_use]
pub fn notes(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(mix) = Mix::named(&plan.workload) {
        notes.push(format!("mix {}: {}", mix.name, mix.about));
    }
    let loads = plan.scenario.workload().models().iter();
    for (load, fastest) in loads.zip(plan.scenario.fastest()) {
        if fastest > load.slo {
            notes.push(format!(
                "`{}` cannot be in time: its fastest run on the device takes {:.3} ms (median), \
                 its SLO is {:.3} ms",
                load.name,
                fastest.as_millis_f64(),
                load.slo.as_millis_f64()
            ));
        }
    }
    notes
}

/// That the models need more than the devices that there are, where they do.
#[must_use]
pub fn overload_note(plan: &Plan) -> Option<String> {
    overload(plan).map(|(asked, have)| {
        format!(
            "at their knees the models need {asked:.2} devices for this load, {:.2} more than the \
             {have} there are; misses are expected",
            asked - have
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(seed: u64, attainment: Option<f64>) -> Missed {
        Missed {
            seed,
            multiple: 1.0,
            devices: 1,
            attainment,
            worst: attainment.map(|part| Worst {
                name: "m".to_owned(),
                attainment: part / 2.0,
            }),
        }
    }

    #[test]
    fn the_seed_that_missed_by_most_is_told() {
        let seeds = [
            missed(1, Some(0.9)),
            missed(2, Some(0.75)),
            missed(3, Some(0.8)),
        ];
        let least = Missed::least(&seeds).expect("some");
        assert_eq!(
            least.words(),
            "75.00 % of all requests in time with seed 2; least `m` 37.50 %"
        );
        let silent = missed(4, None);
        assert_eq!(silent.words(), "no request came with seed 4");
        assert_eq!(Missed::least([]), None);
    }
}
