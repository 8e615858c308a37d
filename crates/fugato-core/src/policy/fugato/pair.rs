//! How many tasks of a model in flight, of how many items each, hold the most load.
//!
//! With `n` tasks in flight, each in an `n`-th of the device, of `b` items that take `L(b, n)`
//! there, a model alone is served at `n b / L(b, n)`. What arrives finds all `n` at work, and the
//! first of them ends after `L / (n + 1)` on average (the least of `n` even draws). That part of
//! the objective is lost to waiting, and it is what large batches cost where an item of them is no
//! cheaper: under earliest deadline first a device holds `1 - blocking / objective` of its rate
//! where nothing is preempted (George, Rivierre and Spuri, INRIA 2966, 1996, whose blocking is the
//! longest; ours is the mean, as one request in a hundred may be late). So a pair's score is
//!
//! `n b / L(b, n) * (1 - L(b, n) / ((n + 1) objective))`
//!
//! and the best pair is the one of the highest, of those whose task alone is within the objective.
//!
//! Of the pair the policy needs one thing, the batch. The number in flight follows from the
//! shares: a task gets the smallest in which it is in time, so that as many run at once as the
//! device has slices and the model slots for, and one that has neither would have to wait whatever
//! was planned. On a GPU, where an item of a larger batch costs much less, the best is the largest
//! in time; on cores, where it costs the same or, with caches that hold the activations of few
//! items, more, it is often one.
//!
//! Of batches whose scores are as good, the largest is taken while the model is asked for alone, and
//! the smallest while others are asked for too, whom a long run costs time that no score holds.
//!
//! It rests on what is known of latencies, so it is corrected as they are learned, and looked for
//! anew as [tables](super::table) are. The batch in use stays until another is clearly better, so
//! that it does not go back and forth. A batch that was never measured is tried.

use super::Fugato;
use super::table::Basis;
use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::sched::View;
use crate::time::Nanos;

/// The part of the best score that is as good.
const NEAR: f64 = 0.97;

/// The part down to which the batch in use stays.
const STAYS: f64 = 0.95;

/// The batches of models that hold the most.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    configuration: u64,
    /// Alone and beside others.
    known: FlatMap<DeviceId, FlatMap<ModelId, [Option<Known>; 2]>>,
}

/// What was found, and what it rests on.
#[derive(Clone, Copy, Debug)]
struct Known {
    basis: Basis,
    most: BatchSize,
}

/// Which of batches that are as good as the best is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    /// Each task costs the device its launch, which latencies do not hold.
    Largest,
    /// A long run costs others time, which its own score does not hold.
    Smallest,
}

/// A batch, and its score in the best number in flight; `None` where that was not measured.
type Scored = (BatchSize, Option<f64>);

impl Fugato {
    /// The most items of a model that are taken into one batch.
    ///
    /// # Cost
    /// A look-up; once in 64 tasks of the model, its slots times its legs times the doublings up
    /// to its largest batch of predictions.
    pub(super) fn most(&mut self, view: &View<'_>, device: DeviceId, model: ModelId) -> BatchSize {
        let max = view.max_batch(model);
        if max.0 <= 1 || !self.parts.best_batch {
            return max;
        }
        let pairs = &mut self.pairs;
        if pairs.configuration != view.configuration() {
            pairs.configuration = view.configuration();
            pairs.known = FlatMap::default();
        }
        let basis = self.tables.basis(view, model);
        let near = match view.is_alone(model) {
            true => Near::Largest,
            false => Near::Smallest,
        };
        let known = pairs.known.entry(device).entry(model);
        let known = &mut known[usize::from(near == Near::Smallest)];
        match *known {
            Some(known) if known.basis == basis => known.most,
            _ => {
                let kept = known.map(|known| known.most);
                let found = best(&scores(view, device, model), near, kept);
                let most = found.unwrap_or(max);
                *known = Some(Known { basis, most });
                most
            }
        }
    }
}

/// Of each doubling up to the largest batch, rising, the score in the best number in flight.
fn scores(view: &View<'_>, device: DeviceId, model: ModelId) -> Vec<Scored> {
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
    let score = |batch: BatchSize| {
        let (mut best, mut shortest) = (None, Nanos::MAX);
        // From the smallest share up, as more slices may cost time.
        for &(tasks, share) in shares.iter().rev() {
            // Alone, which is measured of every batch where anything is; neighbours add to all.
            let run = view.predict_at(model, batch, (share, Share(0)), 0.5);
            let Some(run) = run.and_then(|run| run.measured()) else {
                continue;
            };
            shortest = shortest.min(run);
            let (takes, within) = (shortest.as_secs_f64(), bound.as_secs_f64());
            let score = match shortest <= bound {
                true => {
                    let rate = f64::from(tasks) * f64::from(batch.0) / takes;
                    rate * (1.0 - takes / (f64::from(tasks + 1) * within))
                }
                false => 0.0,
            };
            best = Some(best.unwrap_or(0.0_f64).max(score));
        }
        (batch, best)
    };
    batches.map(score).collect()
}

/// The largest or smallest batch that is as good as the best; one that nothing is known of counts as
/// good, and goes first where the smallest is asked for. `None` without any. The one in use, `kept`,
/// stays until it is clearly worse.
fn best(scores: &[Scored], near: Near, kept: Option<BatchSize>) -> Option<BatchSize> {
    let highest = scores.iter().filter_map(|&(_, score)| score);
    let highest = highest.fold(0.0, f64::max);
    let reaches = |score: Option<f64>, part: f64| score.is_none_or(|score| score >= part * highest);
    let unknown = scores.iter().rev().find(|(_, score)| score.is_none());
    let stays = |&&(batch, score): &&Scored| Some(batch) == kept && reaches(score, STAYS);
    let stays = scores.iter().find(stays).filter(|_| unknown.is_none());
    let chosen = stays.or_else(|| {
        let mut good = scores.iter().filter(|(_, score)| reaches(*score, NEAR));
        match near {
            Near::Largest => good.next_back(),
            Near::Smallest => unknown.or_else(|| good.next()),
        }
    });
    chosen.map(|&(batch, _)| batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(scores: [Option<f64>; 5]) -> Vec<Scored> {
        let batches = [1, 2, 4, 8, 12].map(BatchSize);
        batches.into_iter().zip(scores).collect()
    }

    #[test]
    fn the_batch_in_use_stays_until_another_is_clearly_better() {
        let rising = scores([10.0, 18.0, 30.0, 40.0, 41.0].map(Some));
        let all = BatchSize(12);
        let best = |scores: &[Scored], kept| best(scores, Near::Largest, Some(kept));
        assert_eq!(best(&rising, BatchSize(1)), Some(all));
        assert_eq!(best(&rising, BatchSize(8)), Some(BatchSize(8)));
        let falling = scores([96.0, 100.0, 98.0, 87.0, 60.0].map(Some));
        assert_eq!(best(&falling, all), Some(BatchSize(4)));
        assert_eq!(best(&falling, BatchSize(1)), Some(BatchSize(1)));
        let even = scores([50.0; 5].map(Some));
        assert_eq!(best(&even, BatchSize(2)), Some(BatchSize(2)));
        assert_eq!(best(&[], all), None);
    }

    #[test]
    fn of_equal_ones_the_smallest_is_taken_where_others_are_asked_for() {
        let even = scores([98.0, 100.0, 99.0, 98.0, 90.0].map(Some));
        assert_eq!(best(&even, Near::Smallest, None), Some(BatchSize(1)));
        assert_eq!(best(&even, Near::Largest, None), Some(BatchSize(8)));
        let rising = scores([10.0, 18.0, 30.0, 40.0, 41.0].map(Some));
        assert_eq!(best(&rising, Near::Smallest, None), Some(BatchSize(8)));
    }

    #[test]
    fn what_was_never_measured_is_tried() {
        let seen = scores([Some(100.0), Some(50.0), None, Some(10.0), Some(10.0)]);
        for near in [Near::Largest, Near::Smallest] {
            let best = |scores: &[Scored]| best(scores, near, Some(BatchSize(1)));
            assert_eq!(best(&seen), Some(BatchSize(4)));
            assert_eq!(best(&scores([None; 5])), Some(BatchSize(12)));
        }
    }
}
