//! How many tasks of a model in flight, of how many items each, hold the most load.
//!
//! With `n` tasks in flight, each in an `n`-th of the device, of `b` items that take `L(b, n)`
//! there, a model alone is served at `n b / L(b, n)`. The best pair is the one of the most, of
//! those whose task alone is within the objective.
//!
//! Of the pair the policy needs one thing, the largest batch that is worth it. The number in
//! flight follows from the shares: a task gets the smallest in which it is in time, so that as
//! many run at once as the device has slices and the model slots for, and one that has neither
//! would have to wait whatever was planned. Larger batches than the pair's are as good on a
//! device where an item of a larger batch costs less, and more of what waits is in time. They are
//! worse where an item costs more (a CPU whose caches hold the activations of few items): there
//! what waits is taken in several batches, each of those that are worth it.
//!
//! It rests on what is known of latencies, so it is corrected as they are learned, and looked for
//! anew as [tables](super::table) are. To grow to a batch takes less than to be cut to a smaller
//! one, so that it does not go back and forth. A batch that was never measured is tried.

use super::Fugato;
use super::table::Basis;
use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::sched::View;
use crate::time::Nanos;

/// The part of the best pair's rate that a batch must reach to be grown to: items that cost a
/// ninth more are dear, as for the [dequeue interval](super::pace).
const WORTH: f64 = 0.9;

/// The part below which a batch in use is cut to a smaller one.
const STAYS: f64 = 0.85;

/// The largest batches of models that are worth it.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    configuration: u64,
    known: FlatMap<DeviceId, FlatMap<ModelId, Option<(Basis, BatchSize)>>>,
}

/// A batch, and the items per second that it is served at in the best number in flight; `None`
/// where that was not measured.
type Rate = (BatchSize, Option<f64>);

impl Fugato {
    /// The most items of a model that are worth taking into one batch.
    ///
    /// # Cost
    /// A look-up; once in 64 tasks of the model, its slots times its legs times the doublings up
    /// to its largest batch of predictions.
    pub(super) fn most(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> BatchSize {
        let max = view.max_batch(model);
        if max.0 <= 1 {
            return max;
        }
        let pairs = &mut self.pairs;
        if pairs.configuration != view.configuration() {
            pairs.configuration = view.configuration();
            pairs.known = FlatMap::default();
        }
        let basis = self.tables.basis(view, model);
        let known = pairs.known.entry(device).entry(model);
        let kept = known.map_or(max, |(_, most)| most);
        match *known {
            Some((rests_on, most)) if rests_on == basis => most,
            _ => {
                let found = largest_worth(&rates(view, device, model), kept);
                let most = found.unwrap_or(max);
                *known = Some((basis, most));
                most
            }
        }
    }
}

/// Of each doubling up to the largest batch, rising, what the best number in flight gives.
fn rates(view: &View<'_>, device: DeviceId, model: ModelId) -> Vec<Rate> {
    let max = view.max_batch(model);
    let doublings = (0..32).map(|power| BatchSize(1 << power));
    let batches = doublings.take_while(|&batch| batch < max).chain([max]);
    let slices = view.slices(device);
    let bound = view.slo(model).unwrap_or(Nanos::MAX);
    let shares: Vec<(u16, Share)> = (1..=view.slots(model).min(slices.0))
        .filter_map(|tasks| {
            let fits = |share: &Share| share.0 <= slices.0 / tasks;
            Some((tasks, view.shares(device).take_while(fits).last()?))
        })
        .collect();
    let rate = |batch: BatchSize| {
        let (mut best, mut shortest) = (None, Nanos::MAX);
        // From the smallest share up, as more slices may cost time.
        for &(tasks, share) in shares.iter().rev() {
            // Alone, which is measured of every batch where anything is; neighbours add to all.
            let run = view.predict_at(model, batch, (share, Share(0)), 0.5);
            let Some(run) = run.and_then(|run| run.measured()) else {
                continue;
            };
            shortest = shortest.min(run);
            let rate = match shortest <= bound {
                true => f64::from(tasks) * f64::from(batch.0) / shortest.as_secs_f64(),
                false => 0.0,
            };
            best = Some(best.unwrap_or(0.0_f64).max(rate));
        }
        (batch, best)
    };
    batches.map(rate).collect()
}

/// The largest batch that is worth it, or that nothing is known of, where the one in use is
/// `kept`; `None` without any.
fn largest_worth(rates: &[Rate], kept: BatchSize) -> Option<BatchSize> {
    let best = rates.iter().filter_map(|&(_, rate)| rate);
    let best = best.fold(0.0, f64::max);
    let mut falling = rates.iter().rev();
    let worth = falling.find(|&&(batch, rate)| {
        let part = if batch <= kept { STAYS } else { WORTH };
        rate.is_none_or(|rate| rate >= part * best)
    });
    worth.map(|&(batch, _)| batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rates: [Option<f64>; 5]) -> Vec<Rate> {
        let batches = [1, 2, 4, 8, 12].map(BatchSize);
        batches.into_iter().zip(rates).collect()
    }

    #[test]
    fn the_largest_batch_that_is_worth_it_stays_until_it_is_clearly_dear() {
        let rising = rates([10.0, 18.0, 30.0, 40.0, 41.0].map(Some));
        let all = BatchSize(12);
        assert_eq!(largest_worth(&rising, BatchSize(1)), Some(all));
        let falling = rates([95.0, 100.0, 92.0, 87.0, 60.0].map(Some));
        assert_eq!(largest_worth(&falling, BatchSize(1)), Some(BatchSize(4)));
        assert_eq!(largest_worth(&falling, BatchSize(8)), Some(BatchSize(8)));
        assert_eq!(largest_worth(&falling, all), Some(BatchSize(8)));
        assert_eq!(largest_worth(&[], all), None);
    }

    #[test]
    fn what_was_never_measured_is_tried() {
        let seen = rates([Some(100.0), Some(50.0), None, Some(10.0), Some(10.0)]);
        assert_eq!(largest_worth(&seen, BatchSize(1)), Some(BatchSize(4)));
        assert_eq!(
            largest_worth(&rates([None; 5]), BatchSize(1)),
            Some(BatchSize(12))
        );
    }
}
