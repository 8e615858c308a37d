//! The best (batch, share) of a model, by two measures, within its constraints.
//!
//! | paper (D-STACK) | here |
//! |---|---|
//! | `eta = b / (f_L^2 p)` | efficacy; the largest is the optimum of that name |
//! | `f_L(p, b)` | latency of [`Surface::under`] |
//! | `p`, GPU % | share over slices; its scale does not move the optimum |
//! | `C`, time to assemble a batch | `batch / arrival_rate` |
//! | `1 <= b <= MaxBatch` | [`Limits::max_batch`] |
//! | `f_L + C <= SLO` | [`Constraint::Assembly`] |
//! | `f_L <= SLO / 2` | [`Constraint::HalfSlo`]; ours adds the longest leg that may block |
//! | (none) | work, `share x latency / batch`: slice-seconds per request |
//!
//! The paper solves for a continuous optimum; here every whole (batch, share) within the
//! range is tried. A point that was not measured counts at the slow end of the fit's
//! expected error, in constraints as in the measure: so it wins only where it is better
//! than the measured ones by more than the fit can be wrong.
//!
//! Efficacy is found over latency alone on the device, as the paper measures it. Work is
//! found over latency with the other slices busy where that was measured, because it
//! answers how much a full device does.

use super::file::{Candidate, Constraint, Infeasible, Optima, Optimum, OptimumPoint};
use super::surface::{Estimate, Load, Surface};

/// What an optimum must satisfy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The latency objective, in seconds; none lifts both constraints on latency.
    pub slo_s: Option<f64>,
    /// Items that arrive per second; none counts the assembly of a batch as no time.
    pub arrival_rate: Option<f64>,
    /// The largest batch, in items.
    pub max_batch: u32,
    /// The longest leg of another model that may block this one, in seconds.
    pub blocking_s: f64,
}

/// A constraint that a point breaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Violation {
    /// The one broken by most.
    pub constraint: Constraint,
    /// By how much, in seconds.
    pub shortfall_s: f64,
}

impl Limits {
    /// The constraint that a latency breaks by most at a batch, if it breaks any.
    #[must_use]
    pub fn violation(&self, batch: u32, latency_s: f64) -> Option<Violation> {
        let slo_s = self.slo_s?;
        let assembly_s = self
            .arrival_rate
            .map_or(0.0, |rate| f64::from(batch) / rate);
        let half = latency_s + self.blocking_s - slo_s / 2.0;
        let assembly = latency_s + assembly_s - slo_s;
        let (constraint, shortfall_s) = if assembly > half {
            (Constraint::Assembly, assembly)
        } else {
            (Constraint::HalfSlo, half)
        };
        (shortfall_s > 0.0).then_some(Violation {
            constraint,
            shortfall_s,
        })
    }
}

/// The two optima over everything that the surface answers, with `margin` slices on top of
/// the share, at most `slices` together.
///
/// # Cost
/// (batches x shares) evaluations of the surface, twice.
#[must_use]
pub fn optima(surface: &Surface, limits: &Limits, slices: u16, margin: u16) -> Optima {
    let best = |measure| {
        let mut optimum = search(surface, limits, measure);
        if let Optimum::At(point) = &mut optimum {
            point.granted = point.share.saturating_add(margin).min(slices);
        }
        optimum
    };
    Optima {
        efficacy: best(Measure::Efficacy),
        work: best(Measure::Work),
    }
}

#[derive(Clone, Copy)]
enum Measure {
    Efficacy,
    Work,
}

impl Measure {
    const fn load(self) -> Load {
        match self {
            Self::Efficacy => Load::Alone,
            Self::Work => Load::Busy,
        }
    }

    /// What is to be least.
    fn cost(self, place: Candidate, latency_s: f64) -> f64 {
        let (batch, share) = (f64::from(place.batch), f64::from(place.share));
        match self {
            Self::Efficacy => latency_s * latency_s * share / batch,
            Self::Work => latency_s * share / batch,
        }
    }
}

struct Judged {
    place: Candidate,
    estimate: Estimate,
    /// The latency it is judged by, in seconds.
    latency_s: f64,
    cost: f64,
}

fn search(surface: &Surface, limits: &Limits, measure: Measure) -> Optimum {
    let mut feasible: Vec<Judged> = Vec::new();
    let mut nearest: Option<Infeasible> = None;
    for (batch, share) in surface.places(limits.max_batch) {
        let Some(estimate) = surface.under(batch, share, measure.load()) else {
            continue;
        };
        let place = Candidate { batch, share };
        let latency_s = if estimate.measured {
            estimate.median_s
        } else {
            estimate.high_s
        };
        match limits.violation(batch, latency_s) {
            None => feasible.push(Judged {
                place,
                estimate,
                latency_s,
                cost: measure.cost(place, latency_s),
            }),
            Some(broken) => {
                if nearest.is_none_or(|known| broken.shortfall_s < known.shortfall_s) {
                    nearest = Some(Infeasible {
                        constraint: broken.constraint,
                        shortfall_s: broken.shortfall_s,
                        nearest: place,
                    });
                }
            }
        }
    }
    // Of equal ones the smaller share: it leaves more to others.
    let order = |judged: &Judged| (judged.place.share, judged.place.batch);
    let best = feasible
        .iter()
        .min_by(|a, b| a.cost.total_cmp(&b.cost).then(order(a).cmp(&order(b))));
    match (best, nearest) {
        (Some(best), _) => Optimum::At(OptimumPoint {
            batch: best.place.batch,
            share: best.place.share,
            granted: best.place.share,
            latency_s: best.estimate.median_s,
            measured: best.estimate.measured,
            rivals: rivals(&feasible, best, measure),
        }),
        (None, Some(why)) => Optimum::Infeasible(why),
        (None, None) => Optimum::Unknown,
    }
}

/// The measured points whose intervals let them be better than the best.
fn rivals(feasible: &[Judged], best: &Judged, measure: Measure) -> Vec<Candidate> {
    let bar = measure.cost(best.place, best.estimate.high_s.max(best.latency_s));
    feasible
        .iter()
        .filter(|judged| judged.estimate.measured && judged.place != best.place)
        .filter(|judged| measure.cost(judged.place, judged.estimate.low_s) < bar)
        .map(|judged| judged.place)
        .collect()
}
