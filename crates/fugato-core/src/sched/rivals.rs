//! Which models ask for the device at present, and what share of it each may count on.

use super::config::ModelSpec;
use crate::id::ModelId;
use crate::time::{Nanos, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// How long after its last request a model counts as asking. Long enough that a model of
/// one request per second keeps its share between two of them, short enough that a model
/// that fell silent gives it up within one objective of the slowest usual models.
const ASKING_FOR: Nanos = Nanos::from_millis(1_000);

/// Models that were asked for in the last [`ASKING_FOR`], served or refused.
///
/// # Cost
/// A few logarithms of the number of models, amortised.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    by_time: BTreeSet<(Timestamp, ModelId)>,
    /// By objective, where a model has one.
    by_slo: BTreeSet<(Nanos, ModelId)>,
    asked: BTreeMap<ModelId, Asked>,
    /// Of all models in `asked`, in thousandths.
    weight: u64,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Timestamp,
    weight: u64,
    slo: Option<Nanos>,
}

impl Rivals {
    /// Notes a request for a model.
    pub(super) fn asked(&mut self, now: Timestamp, spec: &ModelSpec) {
        let (model, slo) = (spec.id, spec.slo);
        self.forget(model);
        let (at, weight) = (now, thousandths(spec.weight));
        self.by_time.insert((at, model));
        self.by_slo.extend(slo.map(|slo| (slo, model)));
        self.asked.insert(model, Asked { at, weight, slo });
        self.weight += weight;
        while let Some(&(at, model)) = self.by_time.first()
            && now.since(at) > ASKING_FOR
        {
            self.forget(model);
        }
    }

    pub(super) fn forget(&mut self, model: ModelId) {
        if let Some(Asked { at, weight, slo }) = self.asked.remove(&model) {
            self.by_time.remove(&(at, model));
            if let Some(slo) = slo {
                self.by_slo.remove(&(slo, model));
            }
            self.weight -= weight;
        }
    }

    /// Whether no other model asks.
    pub(super) fn is_alone(&self, model: ModelId) -> bool {
        self.asked.len() == usize::from(self.asked.contains_key(&model))
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
    /// counted as if they had the shortest.
    pub(super) fn overtaking(&self, model: ModelId, wait: Nanos, slack: Nanos) -> Nanos {
        let Some((asked, &(shortest, _))) = self.asked.get(&model).zip(self.by_slo.first()) else {
            return Nanos::ZERO;
        };
        let window = slack.saturating_sub(shortest);
        let others = self.weight - asked.weight;
        let most = window.scaled(others, self.weight);
        (self.stretched(model, wait).saturating_sub(wait)).min(most)
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
        rivals.asked(at(0), &light);
        assert_eq!(rivals.stretched(ModelId(0), work), work, "alone");
        rivals.asked(at(10), &heavy);
        rivals.asked(at(20), &heavy);
        assert_eq!(rivals.stretched(ModelId(0), work), Nanos::new(400));
        assert_eq!(rivals.stretched(ModelId(1), work), Nanos::new(133));
        rivals.asked(at(1_001), &heavy);
        let alone = rivals.stretched(ModelId(1), work);
        assert_eq!(alone, work, "the other lapsed");
        rivals.forget(ModelId(1));
        assert_eq!((rivals.weight, rivals.by_slo.len()), (0, 0));
    }

    #[test]
    fn only_shorter_objectives_overtake_and_only_while_they_can() {
        let mut rivals = Rivals::default();
        rivals.asked(at(0), &spec(0, 1.0, 100));
        rivals.asked(at(0), &spec(1, 1.0, 300));
        let overtaking = |model, wait, slack| {
            let ms = Nanos::from_millis;
            rivals.overtaking(ModelId(model), ms(wait), ms(slack))
        };
        assert_eq!(overtaking(0, 50, 100), Nanos::ZERO, "it has the shortest");
        assert_eq!(overtaking(1, 0, 300), Nanos::ZERO, "it need not wait");
        assert_eq!(overtaking(1, 50, 300), Nanos::from_millis(50));
        let most = overtaking(1, 200, 300);
        assert_eq!(most, Nanos::from_millis(100), "half of 300 - 100 ms");
    }
}
