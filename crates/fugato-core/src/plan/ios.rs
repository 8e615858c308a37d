//! The cheapest stages, by dynamic programming over what has run.
//!
//! A **state** is the set of segments that have run; nothing in it waits for what is not. A
//! stage leads from one state to another, and is priced once: the cheapest way from nothing
//! to everything is the plan.
//!
//! | paper (IOS) | here |
//! |---|---|
//! | operator | segment |
//! | `S`, operators left | the complement of the state |
//! | ending `S'` of `S` | [`Block::groups`], any number of disjoint ones |
//! | `r`, most operators of a group | [`Ios::group_segments_max`] |
//! | `s`, most groups of a stage | [`Ios::groups_max`] |
//! | `max_part_size` | [`Ios::block_segments_max`] |
//! | `cost[S]` | [`Reached::price`] |
//! | merge stage | [`Stage::merged`] |

mod block;
mod split;

use super::planner::Pricing;
use super::{Group, Planner, Progress, Stage, StageCost};
use crate::graph::Segments;
use crate::id::SegmentIndex;
use crate::time::Nanos;
use block::{BLOCK_MAX, Block, Set};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The exact planner: cheapest among all stages whose groups are the connected parts of
/// their segments, within its limits.
///
/// Without limits, and where a stage of one group costs what its segments cost one by one,
/// no plan of that kind is cheaper. `r` and `s` leave out stages; a block that is larger
/// than the limit, or has more ways through it than are looked at, is cut where the fewest
/// tensors pass, and a barrier stands there.
///
/// # Source
/// IOS (Ding et al., MLSys 2021). It works from the end, this from the start, which is the
/// same. It takes a cut point on each chain of a decomposition and rejects what is no
/// ending; here groups are grown from what is ready, and disjoint ones cannot depend on each
/// other, so that only valid stages are visited. Its blocks are given by hand; here the model
/// is cut at each segment that all others wait for, or are waited for by, which loses nothing.
/// Its merge stages pad convolutions to the largest kernel, and so do those here where operators
/// have a window; each such segment is one operator. What joins them can be part of the stage, if
/// the group is within `r`; IOS lets operators read parts of what a merged one gives.
///
/// # Cost
/// O(states x stages from each): `(n/d + 1)^(2d)` for n segments of width d in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ios {
    /// `r`: most segments of a group; at least 1.
    pub group_segments_max: usize,
    /// `s`: most groups of a stage; at least 1.
    pub groups_max: usize,
    /// Most segments of a block, from 1 to 128.
    pub block_segments_max: usize,
    /// Most ways on, from all states of a block together; a block with more is cut. It
    /// bounds time and memory: each way takes up to about a microsecond.
    pub ways_max: u64,
    /// Whether a stage of segments that can be one operator may be that one, where it is
    /// cheaper than groups at once.
    pub merge: bool,
}

impl Default for Ios {
    /// IOS's limits, and two million ways.
    fn default() -> Self {
        Self {
            group_segments_max: 3,
            groups_max: 8,
            block_segments_max: 100,
            ways_max: 2_000_000,
            merge: false,
        }
    }
}

impl Ios {
    /// Without limits: exact, for graphs of a few segments between waists.
    pub const EXACT: Self = Self {
        group_segments_max: usize::MAX,
        groups_max: usize::MAX,
        block_segments_max: BLOCK_MAX,
        ways_max: u64::MAX,
        merge: false,
    };
}

impl Planner for Ios {
    fn name(&self) -> &'static str {
        match self.merge {
            false => "ios",
            true => "ios-merge",
        }
    }

    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error> {
        let mut pricing = Pricing::new(segments, costs, progress);
        let cuts = split::Cuts::new(segments);
        let mut stages = Vec::new();
        // The next block last, so that a cut puts its two parts where the whole was.
        let mut blocks: Vec<Range<usize>> = split::blocks(segments, self.merge);
        blocks.reverse();
        let size_max = self.block_segments_max.clamp(1, BLOCK_MAX);
        while let Some(range) = blocks.pop() {
            let block = (range.len() <= size_max).then(|| Block::new(segments, range.clone()));
            // What a single segment needs is within any limit.
            let block = block.filter(|block| range.len() == 1 || self.within(block));
            let Some(block) = block else {
                let middle = cuts.narrowest(range.clone());
                blocks.extend([middle..range.end, range.start..middle]);
                continue;
            };
            stages.extend(self.cheapest(&block, &mut pricing)?);
            pricing.planned(range.len());
        }
        Ok(stages)
    }
}

/// The cheapest way to a state that is known.
#[derive(Clone, Copy)]
struct Reached {
    price: Nanos,
    /// How many stages lead to it; of equal prices the way with more is taken, because a
    /// scheduler may change its mind between any two.
    stages: u32,
    before: Set,
}

/// What a stage takes.
#[derive(Clone, Copy)]
struct Price {
    time: Nanos,
    /// Whether that is as one operator.
    merged: bool,
}

impl Ios {
    /// Whether the ways through a block are few enough; asks for no price.
    fn within(&self, block: &Block) -> bool {
        let mut levels: Vec<BTreeSet<Set>> = vec![BTreeSet::new(); block.count() + 1];
        levels[0].insert(0);
        let mut ways = 0;
        for level in 0..block.count() {
            for state in std::mem::take(&mut levels[level]) {
                let fits = self.each_stage(block, state, |stage| {
                    let next = state | stage;
                    levels[next.count_ones() as usize].insert(next);
                    ways += 1;
                    if ways > self.ways_max {
                        Err(())
                    } else {
                        Ok(())
                    }
                });
                if fits.is_err() {
                    return false;
                }
            }
        }
        true
    }

    /// The cheapest stages of a block.
    fn cheapest<C: StageCost>(
        &self,
        block: &Block,
        pricing: &mut Pricing<'_, C>,
    ) -> Result<Vec<Stage>, C::Error> {
        let mut prices: BTreeMap<Set, Price> = BTreeMap::new();
        let mut levels: Vec<BTreeMap<Set, Reached>> = vec![BTreeMap::new(); block.count() + 1];
        let nothing = Reached {
            price: Nanos::ZERO,
            stages: 0,
            before: 0,
        };
        levels[0].insert(0, nothing);
        for level in 0..block.count() {
            let states = std::mem::take(&mut levels[level]);
            for (&state, reached) in &states {
                self.each_stage(block, state, |stage| {
                    let price = match prices.get(&stage) {
                        Some(&price) => price,
                        None => {
                            let price = self.price(block, stage, pricing)?;
                            prices.insert(stage, price);
                            price
                        }
                    };
                    let way = Reached {
                        price: reached.price + price.time,
                        stages: reached.stages + 1,
                        before: state,
                    };
                    let next = state | stage;
                    let known = levels[next.count_ones() as usize]
                        .entry(next)
                        .or_insert(way);
                    if (way.price, known.stages) < (known.price, way.stages) {
                        *known = way;
                    }
                    Ok(())
                })?;
            }
            levels[level] = states;
            pricing.tell();
        }
        Ok(way_back(block, &levels, &prices))
    }

    /// The price of a stage: of its groups at once, or merged where that is cheaper.
    fn price<C: StageCost>(
        &self,
        block: &Block,
        stage: Set,
        pricing: &mut Pricing<'_, C>,
    ) -> Result<Price, C::Error> {
        let mut groups = groups(block, stage);
        let time = pricing.price(&mut groups)?;
        let mut price = Price {
            time,
            merged: false,
        };
        let are_single = groups.iter().all(|group| group.segments.len() == 1);
        let Group { segments } = all(block, stage);
        // Several that are alike, or these and what joins them.
        if self.merge
            && segments.len() > 1
            && (are_single || groups.len() == 1)
            && let Some(time) = pricing.merged(&segments)?.filter(|&merged| merged < time)
        {
            price = Price { time, merged: true };
        }
        Ok(price)
    }

    /// Calls `found` with each stage that may follow a state, each once.
    fn each_stage<E>(
        &self,
        block: &Block,
        state: Set,
        mut found: impl FnMut(Set) -> Result<(), E>,
    ) -> Result<(), E> {
        let groups = block.groups(state, self.group_segments_max.max(1));
        // By chosen group: its place among `groups`, and the stage with it.
        let mut chosen: Vec<(usize, Set)> = Vec::new();
        let mut place = 0;
        loop {
            let stage = chosen.last().map_or(0, |&(_, stage)| stage);
            let full = chosen.len() >= self.groups_max.max(1);
            match groups.get(place) {
                Some(_) if full => place = groups.len(),
                Some(group) => {
                    if group & stage == 0 {
                        found(stage | group)?;
                        chosen.push((place, stage | group));
                    }
                    place += 1;
                }
                None => match chosen.pop() {
                    Some((last, _)) => place = last + 1,
                    None => return Ok(()),
                },
            }
        }
    }
}

/// The stages that lead from nothing to everything.
fn way_back(
    block: &Block,
    levels: &[BTreeMap<Set, Reached>],
    prices: &BTreeMap<Set, Price>,
) -> Vec<Stage> {
    let mut stages = Vec::new();
    let mut state = block.all();
    while state != 0 {
        let Reached { before, .. } = levels[state.count_ones() as usize][&state];
        let stage = state & !before;
        let price = prices[&stage];
        stages.push(Stage {
            groups: match price.merged {
                false => groups(block, stage),
                true => vec![all(block, stage)],
            },
            merged: price.merged,
            predicted: price.time,
        });
        state = before;
    }
    stages.reverse();
    stages
}

/// The segments of a stage as one group.
fn all(block: &Block, stage: Set) -> Group {
    let members = block::members(stage).map(|member| SegmentIndex::at(block.first + member));
    Group::from(members.collect::<Vec<_>>())
}

/// The groups of a stage: its connected parts, in the order of their first segments.
fn groups(block: &Block, stage: Set) -> Vec<Group> {
    let mut left = stage;
    let mut groups = Vec::new();
    while left != 0 {
        let part = block.connected(left);
        left &= !part;
        let members = block::members(part).map(|member| SegmentIndex::at(block.first + member));
        groups.push(Group::from(members.collect::<Vec<_>>()));
    }
    groups
}
