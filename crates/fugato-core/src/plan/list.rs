//! List scheduling by the remaining critical path, with barriers.
//!
//! A segment's rank is the longest way from its start to the end of the model, each segment
//! at its price alone. A stage starts with the ready segment of the highest rank; others
//! join it in the order of their ranks where that is cheaper than running them afterwards;
//! then groups that would wait for the longest one are filled with what follows them.

use super::planner::{Pricing, Waits, lone};
use super::{Group, Planner, Progress, Stage, StageCost};
use crate::graph::Segments;
use crate::id::SegmentIndex;
use crate::time::Nanos;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Most segments that are tried to fill a group up. Each try prices all of the stage, so
/// that thousands of short segments beside a long one would take seconds.
const FILL_TRIES_MAX: usize = 16;

/// The cheap planner: a price for each segment, and a few for each stage.
///
/// It is never worse than [`Sequential`](super::Sequential) at the prices it is given.
///
/// # Source
/// The ranks are those of HEFT (Topcuoglu et al., 2002), the use for operators that of LIOS.
/// Both place an operator where it ends first, on lanes that do not slow each other; a
/// stage's price knows contention, and what ends first is then not best. So here a segment
/// joins a stage by what it adds to the price.
///
/// # Cost
/// O((segments + edges) log segments), a price for each segment alone, and at most
/// `18 groups_max` for each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// Most groups of a stage; at least 1.
    pub groups_max: usize,
}

impl Default for List {
    /// 8 groups, as IOS's pruning has.
    fn default() -> Self {
        Self { groups_max: 8 }
    }
}

impl Planner for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error> {
        let mut pricing = Pricing::new(segments, costs, progress);
        let alone = pricing.alone(segments)?;
        let waits = Waits::new(segments);
        let ranks = ranks(segments, &alone);
        let keyed = |segment: SegmentIndex| (Reverse(ranks[segment.place()]), segment);
        let mut search = Search {
            segments,
            groups_max: self.groups_max.max(1),
            ready: waits.ready().into_iter().map(keyed).collect(),
            group_of: vec![None; segments.count()],
            ranks,
            alone,
            waits,
        };
        let mut stages = Vec::new();
        while let Some(stage) = search.next_stage(&mut pricing)? {
            pricing.planned(stage.segments().count());
            stages.push(stage);
        }
        let sum = |times: &mut dyn Iterator<Item = Nanos>| times.fold(Nanos::ZERO, |a, b| a + b);
        let sequential = sum(&mut search.alone.iter().copied());
        if sum(&mut stages.iter().map(|stage| stage.predicted)) > sequential {
            let each = segments.indices().zip(&search.alone);
            return Ok(each.map(|(index, &price)| lone(index, price)).collect());
        }
        Ok(stages)
    }
}

/// By segment: the longest way to the end, the segment itself included.
fn ranks(segments: &Segments, alone: &[Nanos]) -> Vec<Nanos> {
    let mut ranks = alone.to_vec();
    for index in segments.indices().rev() {
        let after = segments.successors(index).iter();
        let longest = after.map(|next| ranks[next.place()]).max();
        ranks[index.place()] += longest.unwrap_or(Nanos::ZERO);
    }
    ranks
}

struct Search<'a> {
    segments: &'a Segments,
    groups_max: usize,
    ranks: Vec<Nanos>,
    alone: Vec<Nanos>,
    waits: Waits,
    /// What may start, the longest way first.
    ready: BTreeSet<(Reverse<Nanos>, SegmentIndex)>,
    /// By segment: its group in the stage that is being made.
    group_of: Vec<Option<usize>>,
}

/// A stage that is being made.
#[derive(Clone)]
struct Draft {
    groups: Vec<Group>,
    price: Nanos,
}

impl Search<'_> {
    /// The next stage; `None` where nothing is left.
    fn next_stage<C: StageCost>(
        &mut self,
        pricing: &mut Pricing<'_, C>,
    ) -> Result<Option<Stage>, C::Error> {
        let Some((_, lead)) = self.ready.pop_first() else {
            return Ok(None);
        };
        let mut draft = Draft {
            groups: vec![Group::from(vec![lead])],
            price: self.alone[lead.place()],
        };
        self.widen(&mut draft, pricing)?;
        if draft.groups.len() > 1 {
            self.fill(&mut draft, pricing)?;
        }
        for segment in draft.groups.iter().flat_map(|group| &group.segments) {
            let freed: Vec<_> = self.waits.done(*segment, self.segments).collect();
            for next in freed {
                // What is in this stage already is not to start again.
                if self.group_of[next.place()].is_none() {
                    self.ready.insert((Reverse(self.ranks[next.place()]), next));
                }
            }
        }
        for segment in draft.groups.iter().flat_map(|group| &group.segments) {
            self.group_of[segment.place()] = None;
        }
        Ok(Some(Stage {
            groups: draft.groups,
            merged: false,
            predicted: draft.price,
        }))
    }

    /// Adds ready segments as groups of their own, where that beats running them later.
    ///
    /// The second group alone has a fork and a join to pay for, so it is taken on trial: if
    /// with the others it does not pay in the end, the first stays alone.
    fn widen<C: StageCost>(
        &mut self,
        draft: &mut Draft,
        pricing: &mut Pricing<'_, C>,
    ) -> Result<(), C::Error> {
        let mut trial = draft.clone();
        let mut later = draft.price;
        let mut taken = Vec::new();
        let mut refused = 0;
        for &(rank, candidate) in &self.ready {
            if trial.groups.len() >= self.groups_max || refused == self.groups_max {
                break;
            }
            let mut groups = trial.groups.clone();
            groups.push(Group::from(vec![candidate]));
            let price = pricing.price(&mut groups)?;
            let alone = self.alone[candidate.place()];
            if taken.is_empty() || price < trial.price + alone {
                trial = Draft { groups, price };
                later += alone;
                taken.push((rank, candidate));
            } else {
                refused += 1;
            }
        }
        if trial.price < later {
            *draft = trial;
            for entry in taken {
                self.ready.remove(&entry);
            }
        }
        Ok(())
    }

    /// Adds to the groups that end before the longest what can follow in them.
    fn fill<C: StageCost>(
        &mut self,
        draft: &mut Draft,
        pricing: &mut Pricing<'_, C>,
    ) -> Result<(), C::Error> {
        let mut lengths = Vec::new();
        for (number, group) in draft.groups.iter().enumerate() {
            let members = group.segments.iter();
            let length = members.map(|segment| self.alone[segment.place()]);
            lengths.push(length.fold(Nanos::ZERO, |sum, time| sum + time));
            for segment in &group.segments {
                self.group_of[segment.place()] = Some(number);
            }
        }
        let longest = lengths.iter().copied().max().unwrap_or(Nanos::ZERO);
        for (number, mut length) in lengths.into_iter().enumerate() {
            let mut followers = BTreeSet::new();
            for &member in &draft.groups[number].segments {
                followers.extend(self.followers(member, number));
            }
            let mut tries = 0;
            while tries < FILL_TRIES_MAX
                && let Some((_, next)) = followers.pop_first()
            {
                let grown = length + self.alone[next.place()];
                if grown > longest {
                    continue;
                }
                tries += 1;
                let mut groups = draft.groups.clone();
                groups[number].segments.push(next);
                let price = pricing.price(&mut groups)?;
                if price < draft.price + self.alone[next.place()] {
                    *draft = Draft { groups, price };
                    length = grown;
                    self.group_of[next.place()] = Some(number);
                    followers.extend(self.followers(next, number));
                }
            }
        }
        Ok(())
    }

    /// What waits for a member of a group, and else for nothing outside of that group.
    fn followers(
        &self,
        member: SegmentIndex,
        group: usize,
    ) -> impl Iterator<Item = (Reverse<Nanos>, SegmentIndex)> {
        let nexts = self.segments.successors(member).iter();
        let free = nexts.filter(move |next| {
            let before = self.segments.predecessors(**next).iter();
            let within = before.filter(|other| self.group_of[other.place()] == Some(group));
            self.waits.of(**next) == within.count()
        });
        free.map(|&next| (Reverse(self.ranks[next.place()]), next))
    }
}
