//! Prices that are remembered, in memory and on disk.

use super::{CostBasis, Group, PlanError, PlanKey, StageCost};
use crate::id::SegmentIndex;
use crate::time::Nanos;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// The prices of stages, for one model, device, runtime, share and batch.
///
/// Written down, it is what a search needs to go on where it was stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memo {
    /// What the prices are for.
    pub key: PlanKey,
    /// Where the prices are from.
    pub costs: CostBasis,
    /// By the groups of a stage: its price.
    #[serde(serialize_with = "as_list", deserialize_with = "from_list")]
    stages: BTreeMap<Vec<Group>, Nanos>,
    /// By the segments of a merged stage: its price, if it has one.
    #[serde(default, serialize_with = "as_list", deserialize_with = "from_list")]
    merged: BTreeMap<Vec<SegmentIndex>, Option<Nanos>>,
}

impl Memo {
    /// A memo without prices.
    #[must_use]
    pub fn new(key: PlanKey, costs: CostBasis) -> Self {
        Self {
            key,
            costs,
            stages: BTreeMap::new(),
            merged: BTreeMap::new(),
        }
    }

    /// How many stages have a price.
    #[must_use]
    pub fn count(&self) -> usize {
        self.stages.len()
    }

    /// Whether the prices are for this.
    ///
    /// # Errors
    /// The first part of the key that differs, with both sides.
    pub fn matches(&self, expected: &PlanKey) -> Result<(), PlanError> {
        self.key.matches(expected)
    }
}

/// Costs that are asked for once, then remembered.
#[derive(Debug)]
pub struct Remembered<'a, C> {
    memo: &'a mut Memo,
    costs: C,
}

impl<'a, C: StageCost> Remembered<'a, C> {
    /// Costs that are looked up in a memo, and asked of `costs` where it has none.
    ///
    /// # Panics
    /// Where the memo's prices are measured and those of `costs` computed, or the other way
    /// round: a plan could not say what it rests on.
    pub fn new(memo: &'a mut Memo, costs: C) -> Self {
        assert_eq!(memo.costs, costs.basis(), "prices of two kinds in one memo");
        Self { memo, costs }
    }
}

impl<C: StageCost> StageCost for Remembered<'_, C> {
    type Error = C::Error;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, C::Error> {
        if let Some(&price) = self.memo.stages.get(groups) {
            return Ok(price);
        }
        let price = self.costs.stage(groups)?;
        self.memo.stages.insert(groups.to_vec(), price);
        Ok(price)
    }

    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, C::Error> {
        if let Some(&price) = self.memo.merged.get(segments) {
            return Ok(price);
        }
        let price = self.costs.merged(segments)?;
        self.memo.merged.insert(segments.to_vec(), price);
        Ok(price)
    }

    fn basis(&self) -> CostBasis {
        self.costs.basis()
    }
}

/// An entry as it is written: JSON has no maps by lists.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<G, P> {
    groups: G,
    #[serde(rename = "ns")]
    price: P,
}

fn as_list<G: Serialize, P: Copy + Serialize, S: Serializer>(
    stages: &BTreeMap<Vec<G>, P>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let entries = stages.iter();
    serializer.collect_seq(entries.map(|(groups, &price)| Entry { groups, price }))
}

fn from_list<'de, G, P, D>(deserializer: D) -> Result<BTreeMap<Vec<G>, P>, D::Error>
where
    G: Deserialize<'de> + Ord,
    P: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let entries = Vec::<Entry<Vec<G>, P>>::deserialize(deserializer)?;
    let pairs = entries.into_iter().map(|entry| (entry.groups, entry.price));
    Ok(pairs.collect())
}
