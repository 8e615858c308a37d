//! Which models ask for the device at present, and what share of it each may count on.

use super::config::ModelSpec;
use super::dense::DenseMap;
use super::recent::Recent;
use crate::id::ModelId;
use crate::time::{Nanos, Timestamp};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// How long after its last request a model counts as asking. Long enough that a model of
/// one request per second keeps its share between two of them, short enough that a model
/// that fell silent gives it up within one objective of the slowest usual models.
const ASKING_FOR: Nanos = Nanos::from_millis(1_000);

/// Device time is counted over periods of 2^29 ns, about half a second.
const PERIOD: u32 = 29;

/// Arriving work is counted over periods of 2^30 ns, about a second.
const DEMAND_PERIOD: u32 = 30;

/// The arriving work at which the claims of rivals begin to count, and that at which they
/// count in full, in thousandths of what the devices can do.
///
/// Below, there is time for all, and what is kept free for rivals only turns requests away.
/// Above, a model that may book ahead keeps the others out. Between the two a straight line,
/// since demand is known roughly: as time at the planned batches, of the last second. On the
/// simulator with six models of two processor cores (three seeds) 0.9 and 1.3 keep 97 % of
/// the requests in time at a load of 0.6, where claims in full keep 95 % and no claims 98 %,
/// and cost nothing from a load of 1 on, where no claims take up to four fifths from the model
/// that is served least.
const CLAIMS: RangeInclusive<u64> = 900..=1_300;

/// How long a refused model counts as asking in vain.
const IN_VAIN_FOR: Nanos = Nanos::from_millis(500);

/// Of the models of the shortest objectives, how many are looked at: it bounds what a decision
/// costs where hundreds are asked for.
const TIGHTEST: usize = 8;

/// The most that is kept free for the others, in runs of the longest planned batch.
const RESERVE_MAX: u64 = 3;

/// Models that were asked for in the last [`ASKING_FOR`], served or refused.
///
/// # Cost
/// A few logarithms of the number of models, amortised.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    /// By when each was looked at last, or asked for: no later than it was.
    by_time: BTreeSet<(Timestamp, ModelId)>,
    /// By objective, where a model has one.
    by_slo: BTreeSet<(Nanos, ModelId)>,
    /// By the time of the batch that each is planned with.
    by_run: BTreeSet<(Nanos, ModelId)>,
    /// By when each was last refused while it had less than its share.
    in_vain: BTreeSet<(Timestamp, ModelId)>,
    asked: DenseMap<ModelId, Asked>,
    /// Of all models in `asked`, in thousandths.
    weight: u64,
    /// Device time of all models in `asked`.
    usage: Recent<PERIOD>,
    /// Device time that arrivals of all models asked for, served or refused.
    demand: Recent<DEMAND_PERIOD>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Timestamp,
    /// Its entry in `by_time`.
    filed: Timestamp,
    weight: u64,
    slo: Option<Nanos>,
    run: Option<Nanos>,
    in_vain: Option<Timestamp>,
    usage: Recent<PERIOD>,
}

impl Rivals {
    /// Notes a request for a model that would take `work`.
    pub(super) fn asked(&mut self, now: Timestamp, spec: &ModelSpec, work: Nanos) {
        self.demand.add(now, work.as_nanos());
        let (model, weight, slo) = (spec.id, thousandths(spec.weight), spec.slo);
        match self.asked.get_mut(&model) {
            Some(asked) if asked.weight == weight && asked.slo == slo => {
                asked.at = now;
            }
            _ => {
                let known = self.take(model);
                let asked = Asked {
                    at: now,
                    filed: now,
                    weight,
                    slo,
                    run: known.and_then(|known| known.run),
                    in_vain: known.and_then(|known| known.in_vain),
                    usage: known.map_or_else(Recent::default, |known| known.usage),
                };
                self.put(model, asked);
            }
        }
        while let Some(&(filed, model)) = self.by_time.first()
            && now.since(filed) > ASKING_FOR
        {
            match self.asked.get_mut(&model) {
                Some(asked) if now.since(asked.at) <= ASKING_FOR => {
                    asked.filed = asked.at;
                    self.by_time.remove(&(filed, model));
                    self.by_time.insert((asked.at, model));
                }
                _ => self.forget(model),
            }
        }
    }

    /// Notes that a leg of a model ran for `took`, and the time of its planned batch.
    pub(super) fn ran(&mut self, now: Timestamp, model: ModelId, took: Nanos, run: Option<Nanos>) {
        let Some(asked) = self.asked.get_mut(&model) else {
            return;
        };
        asked.usage.add(now, took.as_nanos());
        self.usage.add(now, took.as_nanos());
        let before = std::mem::replace(&mut asked.run, run);
        if before != run {
            if let Some(before) = before {
                self.by_run.remove(&(before, model));
            }
            self.by_run.extend(run.map(|run| (run, model)));
        }
    }

    /// Notes that a request for a model was refused for want of time.
    pub(super) fn refused(&mut self, now: Timestamp, model: ModelId) {
        if self.had(now, model) < 1_000
            && let Some(asked) = self.asked.get_mut(&model)
        {
            if let Some(before) = asked.in_vain.replace(now) {
                self.in_vain.remove(&(before, model));
            }
            self.in_vain.insert((now, model));
        }
    }

    pub(super) fn forget(&mut self, model: ModelId) {
        self.take(model);
    }

    /// Takes in what asks for devices that are one pool with these from here on.
    pub(super) fn join(&mut self, mut others: Self) {
        self.demand.join(others.demand);
        let models: Vec<ModelId> = others.asked.iter().map(|(model, _)| model).collect();
        for model in models {
            if let Some(asked) = others.take(model) {
                self.put(model, asked);
            }
        }
    }

    fn put(&mut self, model: ModelId, asked: Asked) {
        self.by_time.insert((asked.filed, model));
        self.by_slo.extend(asked.slo.map(|slo| (slo, model)));
        self.by_run.extend(asked.run.map(|run| (run, model)));
        self.in_vain.extend(asked.in_vain.map(|at| (at, model)));
        self.weight += asked.weight;
        self.usage.join(asked.usage);
        self.asked.insert(model, asked);
    }

    fn take(&mut self, model: ModelId) -> Option<Asked> {
        let asked = self.asked.remove(&model)?;
        self.by_time.remove(&(asked.filed, model));
        if let Some(slo) = asked.slo {
            self.by_slo.remove(&(slo, model));
        }
        if let Some(run) = asked.run {
            self.by_run.remove(&(run, model));
        }
        if let Some(at) = asked.in_vain {
            self.in_vain.remove(&(at, model));
        }
        self.weight -= asked.weight;
        self.usage.part(asked.usage);
        Some(asked)
    }

    /// Whether no other model asks.
    pub(super) fn is_alone(&self, model: ModelId) -> bool {
        self.asked.len() == usize::from(self.asked.contains_key(&model))
    }

    /// The shortest objective of another model that asks, or did when it was last looked.
    pub(super) fn shortest_beside(&self, model: ModelId) -> Option<Nanos> {
        let other = self.by_slo.iter().find(|&&(_, other)| other != model);
        other.map(|&(slo, _)| slo)
    }

    /// Other models that were asked for in the last [`ASKING_FOR`] and whose objectives are under
    /// `within`, the shortest first; only of the [`TIGHTEST`] ones.
    pub(super) fn tighter(
        &self,
        now: Timestamp,
        model: ModelId,
        within: Nanos,
    ) -> impl Iterator<Item = ModelId> {
        let tight = self.by_slo.range(..(within, ModelId(0))).take(TIGHTEST);
        tight.map(|&(_, other)| other).filter(move |&other| {
            let asked = self.asked.get(&other);
            other != model && asked.is_some_and(|asked| now.since(asked.at) <= ASKING_FOR)
        })
    }

    /// How long the planned batch of a model may run: half of its objective, as a request
    /// that just missed one batch waits for it and then runs in the next (D-STACK's rule).
    /// Where others ask too, a third of the shortest objective at most: a request may find
    /// one batch running, wait for one of a rival, and then run.
    pub(super) fn run_within(&self, model: ModelId, slo: Option<Nanos>) -> Nanos {
        let own = slo.map_or(Nanos::MAX, |slo| slo.scaled(1, 2));
        match self.by_slo.first() {
            Some(&(shortest, _)) if !self.is_alone(model) => own.min(shortest.scaled(1, 3)),
            _ => own,
        }
    }

    /// How far the claims of other models count on devices that do `width` runs at once, in
    /// thousandths: not at all where there is time for all that is asked, in full where
    /// there is not. See [`CLAIMS`].
    pub(super) fn claims(&self, now: Timestamp, width: u64) -> u64 {
        let time = u128::from(width.max(1)) << DEMAND_PERIOD;
        let load = u128::from(self.demand.recent(now)) * 1_000 / time;
        let load = u64::try_from(load).unwrap_or(u64::MAX);
        let over = load.clamp(*CLAIMS.start(), *CLAIMS.end()) - CLAIMS.start();
        over * 1_000 / (CLAIMS.end() - CLAIMS.start())
    }

    /// How long `work` of a model takes where every model that asks gets a share of the
    /// device by its weight.
    pub(super) fn stretched(&self, model: ModelId, work: Nanos) -> Nanos {
        match self.asked.get(&model) {
            Some(asked) => work.scaled(self.weight, asked.weight),
            None => work,
        }
    }

    /// What later requests of other models add to a wait of `wait` by going first, under
    /// an order by deadline: up to their share of the time in which a newcomer may have
    /// the earlier deadline. Rivals of every longer objective than the shortest are
    /// counted as if they had the shortest. It counts in full for a model that had its
    /// share of the device, and not at all for one that had two thirds of it: so it is
    /// corrected where it keeps a model out that is not overtaken so often.
    pub(super) fn overtaking(
        &self,
        now: Timestamp,
        model: ModelId,
        wait: Nanos,
        slack: Nanos,
    ) -> Nanos {
        let Some((asked, &(shortest, _))) = self.asked.get(&model).zip(self.by_slo.first()) else {
            return Nanos::ZERO;
        };
        let window = slack.saturating_sub(shortest);
        let others = self.weight - asked.weight;
        let most = window.scaled(others, self.weight);
        let added = self.stretched(model, wait).saturating_sub(wait).min(most);
        let had = self.had(now, model).min(1_000);
        added.scaled(had.saturating_mul(3).saturating_sub(2_000), 1_000)
    }

    /// How much time a newcomer of `model` must leave free before each deadline that was
    /// promised, so that a small error in the predictions breaks none of them: one and a
    /// half runs of the longest planned batch for a model that had its share of the
    /// device, less for one that had less, more for one that had more while another was
    /// refused its own.
    ///
    /// A run counts up to a third of the shortest objective, as [`run_within`](Self::run_within)
    /// plans it: where a single item takes longer, one and a half of its runs may be all that
    /// a short objective has, and nobody would be let in.
    ///
    /// One run is what a newcomer waits for at worst when it comes, since runs are not
    /// preempted. The half and the slope are the best of a search on the simulator
    /// (`tests/overload.rs`, twelve seeds): without a reserve goodput falls to 75 % of its
    /// peak, without the slope the shorter objective keeps under half of its share.
    pub(super) fn reserve(&self, now: Timestamp, model: ModelId) -> Nanos {
        let Some(&(longest, _)) = self.by_run.last() else {
            return Nanos::ZERO;
        };
        let shortest = self.by_slo.first().map(|&(slo, _)| slo.scaled(1, 3));
        let longest = shortest.map_or(longest, |most| longest.min(most));
        let had = self.had(now, model);
        let had = if self.another_in_vain(now, model) {
            had
        } else {
            had.min(1_000)
        };
        let runs = had.saturating_mul(2).saturating_sub(500);
        longest.scaled(runs.min(1_000 * RESERVE_MAX), 1_000)
    }

    /// The device time that a model had of late over its share by weight of what all had,
    /// in thousandths.
    fn had(&self, now: Timestamp, model: ModelId) -> u64 {
        let Some(asked) = self.asked.get(&model) else {
            return 0;
        };
        let all = u128::from(self.usage.recent(now)) * u128::from(asked.weight);
        let own = u128::from(asked.usage.recent(now)) * u128::from(self.weight);
        match (own * 1_000).checked_div(all) {
            Some(had) => u64::try_from(had).unwrap_or(u64::MAX),
            None => 1_000,
        }
    }

    fn another_in_vain(&self, now: Timestamp, model: ModelId) -> bool {
        let mut latest = self.in_vain.iter().rev();
        latest
            .find(|&&(_, other)| other != model)
            .is_some_and(|&(at, _)| now.since(at) <= IN_VAIN_FOR)
    }
}

/// At least one: a weight is above zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to integer casts saturate, and the range is cut besides"
)]
fn thousandths(weight: f64) -> u64 {
    ((weight * 1e3) as u64).clamp(1, 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BatchSize;
    use crate::sched::{DynamicBatching, QueueLimits};

    fn spec(id: u32, weight: f64, slo_ms: u64) -> ModelSpec {
        ModelSpec {
            id: ModelId(id),
            name: String::new(),
            slo: Some(Nanos::from_millis(slo_ms)),
            weight,
            max_batch: BatchSize(1),
            slots: 1,
            legs: 1,
            unsplit: false,
            devices: Vec::new(),
            limits: QueueLimits {
                requests: 1,
                bytes: 1,
            },
            batching: DynamicBatching::default(),
        }
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::ZERO + Nanos::from_millis(ms)
    }

    #[test]
    fn shares_follow_weights_and_lapse() {
        let (mut rivals, work) = (Rivals::default(), Nanos::new(100));
        let (light, heavy) = (spec(0, 1.0, 50), spec(1, 3.0, 50));
        rivals.asked(at(0), &light, Nanos::ZERO);
        assert_eq!(rivals.stretched(ModelId(0), work), work, "alone");
        rivals.asked(at(10), &heavy, Nanos::ZERO);
        rivals.asked(at(20), &heavy, Nanos::ZERO);
        assert_eq!(rivals.stretched(ModelId(0), work), Nanos::new(400));
        assert_eq!(rivals.stretched(ModelId(1), work), Nanos::new(133));
        rivals.asked(at(1_001), &heavy, Nanos::ZERO);
        let alone = rivals.stretched(ModelId(1), work);
        assert_eq!(alone, work, "the other lapsed");
        rivals.forget(ModelId(1));
        assert_eq!((rivals.weight, rivals.by_slo.len()), (0, 0));
    }

    #[test]
    fn more_is_left_free_by_who_had_more_while_another_was_refused() {
        let mut rivals = Rivals::default();
        let ms = Nanos::from_millis;
        for id in [0, 1] {
            rivals.asked(at(0), &spec(id, 1.0, 300), Nanos::ZERO);
        }
        assert_eq!(rivals.reserve(at(0), ModelId(0)), Nanos::ZERO, "no plan");
        rivals.ran(at(10), ModelId(0), ms(30), Some(ms(20)));
        rivals.ran(at(20), ModelId(1), ms(10), Some(ms(40)));
        let reserve = |rivals: &Rivals, model| rivals.reserve(at(30), ModelId(model));
        assert_eq!(reserve(&rivals, 0), ms(60), "as if it had its share");
        assert_eq!(reserve(&rivals, 1), ms(20), "it had half of its share");
        rivals.refused(at(25), ModelId(0));
        assert_eq!(
            reserve(&rivals, 0),
            ms(60),
            "who had its share asks for no more"
        );
        rivals.refused(at(25), ModelId(1));
        assert_eq!(
            reserve(&rivals, 0),
            ms(100),
            "1.5 shares: 2.5 runs of 40 ms"
        );
        let later = rivals.reserve(at(526), ModelId(0));
        assert_eq!(later, ms(60), "the refusal is long ago");
        for id in [0, 1] {
            rivals.forget(ModelId(id));
        }
        assert!(rivals.by_run.is_empty() && rivals.in_vain.is_empty());
        assert_eq!(rivals.usage.recent(at(30)), 0);
    }

    #[test]
    fn claims_count_where_there_is_not_time_for_all() {
        let mut rivals = Rivals::default();
        let mut ask = |start: u64, percent: u64| {
            for ms in 0..2_200 {
                let work = Nanos::from_micros(10 * percent);
                rivals.asked(at(start + ms), &spec(0, 1.0, 100), work);
            }
            [1, 2].map(|width| rivals.claims(at(start + 2_200), width))
        };
        assert_eq!(ask(0, 89), [0, 0]);
        let [alone, spread] = ask(10_000, 110);
        assert!((480..=510).contains(&alone), "half way: {alone}");
        assert_eq!(spread, 0, "two devices have time for it");
        assert_eq!(ask(20_000, 240)[0], 1_000);
        assert_eq!(rivals.claims(at(30_000), 1), 0, "long ago");
    }

    #[test]
    fn the_tighter_ones_are_others_of_shorter_objectives_that_are_asked_for() {
        let mut rivals = Rivals::default();
        for (id, slo) in [(0, 100), (1, 20), (2, 10), (3, 50)] {
            rivals.asked(at(0), &spec(id, 1.0, slo), Nanos::ZERO);
        }
        rivals.asked(at(900), &spec(1, 1.0, 20), Nanos::ZERO);
        let tighter = |now, model, within| {
            let found = rivals.tighter(at(now), ModelId(model), Nanos::from_millis(within));
            found.map(|model| model.0).collect::<Vec<_>>()
        };
        assert_eq!(tighter(1_000, 0, 50), [2, 1], "under 50 ms");
        assert_eq!(tighter(1_000, 2, 51), [1, 3]);
        assert!(tighter(1_000, 3, 10).is_empty());
        assert_eq!(
            tighter(1_001, 0, 200),
            [1],
            "nobody has asked since to tell it"
        );
        for id in 10..30 {
            rivals.asked(at(1_000), &spec(id, 1.0, 5), Nanos::ZERO);
        }
        let found = rivals.tighter(at(1_000), ModelId(0), Nanos::from_millis(200));
        assert_eq!(found.count(), TIGHTEST);
    }

    #[test]
    fn only_shorter_objectives_overtake_and_only_while_they_can() {
        let mut rivals = Rivals::default();
        rivals.asked(at(0), &spec(0, 1.0, 100), Nanos::ZERO);
        rivals.asked(at(0), &spec(1, 1.0, 300), Nanos::ZERO);
        let overtaking = |model, wait, slack| {
            let ms = Nanos::from_millis;
            rivals.overtaking(at(0), ModelId(model), ms(wait), ms(slack))
        };
        assert_eq!(overtaking(0, 50, 100), Nanos::ZERO, "it has the shortest");
        assert_eq!(overtaking(1, 0, 300), Nanos::ZERO, "it need not wait");
        assert_eq!(overtaking(1, 50, 300), Nanos::from_millis(50));
        let most = overtaking(1, 200, 300);
        assert_eq!(most, Nanos::from_millis(100), "half of 300 - 100 ms");
    }
}
