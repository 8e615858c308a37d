//! How far above some throughputs the device's limit is, whatever the schedule.
//!
//! Two limits hold for every schedule of full batches on whole slices, of runs or of
//! kernels, preemptive or not, however it looks ahead:
//!
//! - a model has at most so many tasks in flight, each of which takes at least its time on
//!   the fastest shares;
//! - what its kernels hold adds up to no more than the device. A run that may take `T` holds
//!   at least `A(T) = max over m of (D(m) - m T)` slice-seconds, where `D(m)` sums over the
//!   kernels the least of `time(s) x (s + m)` over the shares `s`: the Lagrangian bound of
//!   "least slice-seconds within `T`", valid for each price `m` and for shares that change
//!   within a kernel.
//!
//! What it leaves out is *when* the kernels run, so a schedule may not reach it.

use super::{IdealModel, IdealOptions};
use crate::profile::Kernel;

/// The factor by which no schedule can raise all of `throughputs` (items per second, one of
/// each model) at once, with [`IdealOptions::in_flight`] full batches of a model in flight.
/// At most 1 only where the throughputs are at the device's limit; infinite where all are 0.
///
/// It judges figures of any policy of full batches, `ideal`'s among them.
///
/// # Cost
/// O(kernels x slices) for each of some hundred prices.
///
/// # Panics
/// Where there is not one throughput of each model.
#[must_use]
pub fn headroom(models: &[IdealModel], options: IdealOptions, throughputs: &[f64]) -> f64 {
    assert_eq!(
        models.len(),
        throughputs.len(),
        "a throughput of each model"
    );
    let slices = options.slices.0;
    let in_flight = f64::from(options.in_flight);
    let runs: Vec<Runs> = models
        .iter()
        .zip(throughputs)
        .filter(|(_, throughput)| **throughput > 0.0)
        .map(|(model, throughput)| Runs::new(model, slices, throughput / f64::from(model.batch)))
        .collect();
    let held = |factor: f64| -> f64 {
        let of = |runs: &Runs| {
            let rate = factor * runs.rate;
            rate * runs.least_held(in_flight / rate)
        };
        runs.iter().map(of).sum()
    };
    let most = runs
        .iter()
        .map(|runs| in_flight / (runs.rate * runs.fastest_s));
    let most = most.fold(f64::INFINITY, f64::min);
    if most.is_infinite() || held(most) <= f64::from(slices) {
        return most;
    }
    // What is held rises with the factor. Doubles have no more digits than 60 halvings.
    let (mut low, mut high) = (0.0, most);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if held(middle) <= f64::from(slices) {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The runs of one model.
struct Runs {
    /// Per second.
    rate: f64,
    /// The least time of one.
    fastest_s: f64,
    /// `(m, D(m))`: prices of time, in slices, and the least of slice-seconds and priced
    /// time together.
    prices: Vec<(f64, f64)>,
}

impl Runs {
    fn new(model: &IdealModel, slices: u16, rate: f64) -> Self {
        let batch = f64::from(model.batch);
        let of_kernel = |kernel: &Kernel| -> Vec<(f64, f64)> {
            let time_s = |share| kernel.latency_s(batch, share, model.kernels.sync_s);
            let shares = (1..=slices).map(f64::from);
            shares.map(|share| (share, time_s(share))).collect()
        };
        let tables: Vec<_> = model.kernels.kernels.iter().map(of_kernel).collect();
        let least = |cost: &dyn Fn(f64, f64) -> f64| -> f64 {
            let of_table = |table: &Vec<(f64, f64)>| {
                let costs = table.iter().map(|(share, time_s)| cost(*share, *time_s));
                costs.fold(f64::INFINITY, f64::min)
            };
            tables.iter().map(of_table).sum()
        };
        // From far below one slice to far above any device, in steps of 5 %: a coarser or
        // shorter row of prices gives a weaker bound and never a wrong one.
        let steps = (0..400).map(|step| 0.01 * 1.05_f64.powi(step));
        let prices = std::iter::once(0.0).chain(steps);
        Self {
            rate,
            fastest_s: least(&|_, time_s| time_s),
            prices: prices
                .map(|price| (price, least(&|share, time_s| time_s * (share + price))))
                .collect(),
        }
    }

    /// The least slice-seconds of a run that may take `time_s`.
    fn least_held(&self, time_s: f64) -> f64 {
        let bounds = self.prices.iter().map(|(price, sum)| sum - price * time_s);
        bounds.fold(0.0, f64::max)
    }
}
