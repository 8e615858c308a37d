//! How long a batch waits to be fuller: the dequeue interval.
//!
//! A batch of a model that is asked for `a` items per second grows by `a w` items while it waits
//! for `w`. Then it has `R` to run: what is left of its objective `S`, and no longer than until
//! its slot is needed again, which with `n` slots (slices, where these are fewer: no more run at
//! once) is when `n` more batches have come:
//!
//! ```text
//! R = min(S - w, n w)
//! ```
//!
//! It runs in the smallest share `s` in which `L(b, s) <= R`, so it costs `s L(b, s) / b`
//! slice-seconds per item. To wait for one more item pays only while that falls.
//!
//! **By slots**: `w = S / (n + 1)`. Where time is `L(b, s) = b p / s + t` (work that any number of
//! slices divides, and a serial part), the smallest share is `b p / (R - t)`, and an item costs
//! `p R / (R - t)`. The batch has gone out of it: what counts is the time to run. A fuller batch in
//! more slices is no cheaper, but slots are too few for emptier ones. So the best is the longest
//! `R` that there is, where both bounds meet, `S - w = n w`. The formula has neither the rate nor
//! the model in it.
//!
//! **By work** (`work_interval`, off): where shares are few, slices cost each other time or a
//! batch reads its weights once, `w` is found by trying: of the batches up to the model's largest,
//! `w = b / a`, the one of least work by what is known of latencies. That is looked for anew
//! when the rate has changed by a fifth (less is the noise of a second of Poisson arrivals) and
//! when what is known has changed.
//!
//! Under both the interval is zero where a batch that is full waits already, and where nothing that
//! comes makes an item cheaper; a batch begins before the latest start in its usual share,
//! whatever the interval; and where no rate is known nobody waits.

use super::Fugato;
use super::table::Basis;
use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, ModelId, Share};
use crate::policy::Verdict;
use crate::sched::{ReadyHead, View};
use crate::time::{Nanos, Timestamp};

/// Usual runs that a batch is waited for at most, however long the objective: a fuller batch
/// saves a part of one run, and a client whose objective is a minute is no reason to make it
/// wait for twenty seconds.
const WAIT_RUNS: u64 = 4;

/// The part of its usual run that a batch is begun ahead of its latest start: the slices may
/// not be free at that moment.
const HEADROOM: (u64, u64) = (5, 4);

/// A batch waits where an item of the batch that it would grow to takes no more than this much
/// of the median time of one now: on a device that gains little by batching, waiting only loses
/// time.
const GAIN: (u64, u64) = (9, 10);

/// The part of the objective that the interval of least work is planned for: the slices may not
/// be free when the batch begins.
const PLANNED: (u64, u64) = (9, 10);

/// A rate that has changed by this much is another one.
const CHANGED: f64 = 1.2;

/// Intervals of least work, by device and model.
#[derive(Debug, Default)]
pub(super) struct Paces {
    configuration: u64,
    known: FlatMap<(DeviceId, ModelId), Known>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    basis: Basis,
    /// Items per second; 0 of what was never looked for.
    rate: f64,
    pace: Option<Pace>,
}

/// An interval, and what fills in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    batch: BatchSize,
    interval: Nanos,
}

/// How many tasks of a model can run at once.
fn at_once(view: &View<'_>, device: DeviceId, model: ModelId) -> u64 {
    u64::from(view.slots(model).min(view.slices(device).0))
}

impl Fugato {
    /// A model whose batch waits until it is fuller.
    pub(super) fn waits(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        heads: &[ReadyHead],
    ) -> Option<Verdict> {
        if !self.parts.dequeue {
            return None;
        }
        heads.iter().find_map(|&head| {
            let full = u64::from(self.most(view, device, head.model).0);
            if view.waiting_items(head.model) >= full {
                return None;
            }
            let until = self.begins(view, device, head)?;
            (until > view.now()).then_some(Verdict::Park {
                model: head.model,
                until: Some(until),
            })
        })
    }

    /// When the batch of a head begins at the latest, if it is to wait at all.
    fn begins(&mut self, view: &View<'_>, device: DeviceId, head: ReadyHead) -> Option<Timestamp> {
        let request = head.key.request();
        let deadline = view.enforced_deadline(request)?;
        let received = view.received(request);
        let usual = self.sizes.get(device, head.model)?;
        let run = usual.run?;
        let (part, whole) = HEADROOM;
        let latest = deadline.before(run.scaled(part, whole));
        let longest = run.times(WAIT_RUNS);
        if self.parts.work_interval
            && let Some(pace) = self.pace(view, device, head.model, deadline - received)
        {
            let full = view.waiting_items(head.model) >= u64::from(pace.batch.0);
            return (!full).then(|| (received + pace.interval.min(longest)).min(latest));
        }
        let tasks = at_once(view, device, head.model);
        let interval = (deadline - received).scaled(1, tasks + 1).min(longest);
        let until = (received + interval).min(latest);
        if until <= view.now() {
            return None;
        }
        let comes = view.rate(head.model) * until.since(view.now()).as_secs_f64();
        let most = self.most(view, device, head.model);
        let here = view.batch_available(head.model, head.class, most);
        let later = BatchSize(here.0.saturating_add(floor(comes)).min(most.0));
        let share = usual.share;
        let place = (share, Share(view.slices(device).0.saturating_sub(share.0)));
        // In the median: a tail is mostly delays that a batch of any size meets, and legs add
        // theirs up, so that it makes the items of small batches look dear.
        let per_item = |batch: BatchSize| {
            let run = view.predict_at(head.model, batch, place, 0.5)?.time;
            Some(run.as_nanos() / u64::from(batch.0.max(1)))
        };
        let (gain, of) = GAIN;
        let gains = per_item(later)?.saturating_mul(of) <= per_item(here)?.saturating_mul(gain);
        gains.then_some(until)
    }

    /// The interval of least work of requests with an objective; `None` where no rate or no
    /// latency is known, or where no batch is in time.
    ///
    /// # Cost
    /// A look-up; for another rate, a table for each batch that is tried.
    fn pace(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        model: ModelId,
        objective: Nanos,
    ) -> Option<Pace> {
        if self.paces.configuration != view.configuration() {
            self.paces.configuration = view.configuration();
            self.paces.known = FlatMap::default();
        }
        let rate = view.rate(model);
        let basis = self.tables.basis(view, model);
        let known = self.paces.known.entry((device, model));
        let same = known.rate / CHANGED..=known.rate * CHANGED;
        if known.rate > 0.0 && same.contains(&rate) && known.basis == basis {
            return known.pace;
        }
        let pace = self.least_work(view, device, model, (rate, objective));
        self.paces
            .known
            .insert((device, model), Known { basis, rate, pace });
        pace
    }

    fn least_work(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        model: ModelId,
        (rate, objective): (f64, Nanos),
    ) -> Option<Pace> {
        if rate <= 0.0 {
            return None;
        }
        let slots = at_once(view, device, model);
        let (part, whole) = PLANNED;
        let most = self.most(view, device, model);
        let mut best: Option<(u128, Pace)> = None;
        for batch in batches(most) {
            let fills = |items: u32| Nanos::from_secs_f64(f64::from(items) / rate);
            // The first of them is there already.
            let interval = fills(batch.0 - 1);
            let left = objective.saturating_sub(interval).scaled(part, whole);
            let within = left.min(fills(batch.0).times(slots));
            let table = self.tables.of(view, device, model, batch);
            let Some(place) = table.enough(0, within) else {
                continue;
            };
            let (share, run) = (table.share(place), table.rest(place, 0));
            // Of an item, in common parts of it.
            let work = u128::from(share.0) * u128::from(run.as_nanos()) * u128::from(most.0)
                / u128::from(batch.0);
            if best.is_none_or(|(least, _)| work < least) {
                best = Some((work, Pace { batch, interval }));
            }
        }
        best.map(|(_, pace)| pace)
    }
}

/// One by one up to 16, then by eighths.
fn batches(most: BatchSize) -> impl Iterator<Item = BatchSize> {
    let step = |batch: &u32| Some(batch + (batch / 8).max(1));
    let sizes = std::iter::successors(Some(1), step);
    let below = sizes.take_while(move |&size| size < most.0);
    below.chain([most.0]).map(BatchSize)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and a rate is not negative"
)]
fn floor(items: f64) -> u32 {
    items as u32
}
