//! The exact planner against all schedules there are.

use crate::graphs::{BATCH, DEVICE, SHARE, graph, nodes, total, waits};
use crate::plan;
use fugato_core::graph::Segments;
use fugato_core::plan::{CostBasis, Group, Ios, StageCost};
use fugato_core::{Nanos, SegmentIndex};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::convert::Infallible;

/// The price of each set of segments as a stage whose groups are its connected parts, or
/// which is merged where that is cheaper.
fn prices(segments: &Segments, costs: &mut impl StageCost<Error = Infallible>) -> Vec<Nanos> {
    let waits = waits(segments);
    let price = |set: u32| {
        let mut parts: Vec<u32> = Vec::new();
        for member in (0..segments.count()).filter(|member| set >> member & 1 == 1) {
            let near = |part: &u32| {
                let mut others = (0..segments.count()).filter(|other| part >> other & 1 == 1);
                others.any(|other| waits[member] >> other & 1 == 1)
            };
            let joined = parts
                .iter()
                .filter(|part| near(part))
                .fold(1 << member, |a, b| a | b);
            parts.retain(|part| !near(part));
            parts.push(joined);
        }
        let group = |part: &u32| {
            let members = segments.indices().filter(|index| part >> index.0 & 1 == 1);
            Group::from(members.collect::<Vec<_>>())
        };
        let mut groups: Vec<Group> = parts.iter().map(group).collect();
        groups.sort();
        let Ok(price) = costs.stage(&groups);
        let are_single = groups.len() == set.count_ones() as usize;
        if set.count_ones() < 2 || !(are_single || groups.len() == 1) {
            return price;
        }
        let members = segments.indices().filter(|index| set >> index.0 & 1 == 1);
        let members: Vec<SegmentIndex> = members.collect();
        let Ok(merged) = costs.merged(&members);
        merged.map_or(price, |merged| merged.min(price))
    };
    (0..1 << segments.count()).map(price).collect()
}

/// The cheapest of all schedules: every set that may come next is tried, and every rest of
/// it. Nothing is remembered, so nothing can be remembered wrongly.
fn cheapest(done: u32, all: u32, waits: &[u32], prices: &[Nanos]) -> Nanos {
    let left = all & !done;
    let mut best = if left == 0 { Nanos::ZERO } else { Nanos::MAX };
    let mut stage = left;
    while stage != 0 {
        let mut members = (0..waits.len()).filter(|member| stage >> member & 1 == 1);
        if members.all(|member| waits[member] & !(done | stage) == 0) {
            let rest = cheapest(done | stage, all, waits, prices);
            best = best.min(prices[stage as usize] + rest);
        }
        stage = (stage - 1) & left;
    }
    best
}

/// Any price at all for stages of several groups; those of one add up.
#[derive(Clone)]
struct Arbitrary {
    seed: u64,
    /// By segment: those that it waits for, where some sets can be merged: of segments that do not
    /// wait for each other, and of these with one that waits for them.
    merges: Option<Vec<u32>>,
}

impl StageCost for Arbitrary {
    type Error = Infallible;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        let one = |segment: SegmentIndex| mix(self.seed, u64::from(segment.0)) % 1_000;
        let segments = || groups.iter().flat_map(|group| &group.segments);
        let sum: u64 = segments().map(|&segment| one(segment)).sum();
        if groups.len() <= 1 {
            return Ok(Nanos::new(sum));
        }
        let set = segments().fold(0, |set, segment| set | 1_u64 << segment.0);
        Ok(Nanos::new(mix(self.seed, set << 8) % (sum + 2)))
    }

    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, Infallible> {
        let set = segments
            .iter()
            .fold(0, |set, segment| set | 1_u64 << segment.0);
        let Some(waits) = &self.merges else {
            return Ok(None);
        };
        let (last, first) = segments.split_last().expect("nothing is not merged");
        let set_of_first = set & !(1 << last.0);
        let waits = |index: &SegmentIndex| u64::from(waits[index.place()]);
        let are_apart = first.iter().all(|index| waits(index) & set == 0);
        let is_join = first.len() > 1 && waits(last) & set == set_of_first;
        let found = mix(!self.seed, set);
        let is_one = are_apart && (waits(last) & set == 0 || is_join);
        Ok((is_one && found.is_multiple_of(2)).then(|| Nanos::new(found % 1_000)))
    }

    fn basis(&self) -> CostBasis {
        CostBasis::Modelled
    }
}

/// Steele and Vigna's SplitMix64, of two numbers.
fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed ^ value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_is_cheaper_under_the_cost_model(nodes in nodes(9, 2)) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        prop_assume!(segments.count() <= 8);
        let mut costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
        let found = total(&plan(&Ios::EXACT, &segments, &mut costs));
        let all = (1 << segments.count()) - 1;
        let prices = prices(&segments, &mut costs);
        let best = cheapest(0, all, &waits(&segments), &prices);
        // Stages are rounded to a nanosecond, each.
        let slack = segments.count() as u64;
        prop_assert!(found <= best + Nanos::new(slack), "{} is not {}", found, best);
        prop_assert!(found >= best);
    }

    #[test]
    fn nothing_is_cheaper_at_any_prices(nodes in nodes(10, 3), seed in any::<u64>()) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        prop_assume!(segments.count() <= 8);
        let mut costs = Arbitrary { seed, merges: None };
        let found = total(&plan(&Ios::EXACT, &segments, &mut costs));
        let all = (1 << segments.count()) - 1;
        let prices = prices(&segments, &mut costs);
        prop_assert_eq!(found, cheapest(0, all, &waits(&segments), &prices));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_is_cheaper_where_stages_may_be_merged(nodes in nodes(8, 2), seed in any::<u64>()) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        prop_assume!(segments.count() <= 7);
        let merges = Some(waits(&segments));
        let mut costs = Arbitrary { seed, merges };
        let stages = plan(&Ios { merge: true, ..Ios::EXACT }, &segments, &mut costs);
        let all = (1 << segments.count()) - 1;
        let prices = prices(&segments, &mut costs);
        prop_assert_eq!(total(&stages), cheapest(0, all, &waits(&segments), &prices));
        for stage in stages.iter().filter(|stage| stage.merged) {
            prop_assert!(stage.groups.len() == 1 && stage.groups[0].segments.len() > 1);
            let Ok(price) = costs.merged(&stage.groups[0].segments);
            prop_assert_eq!(price, Some(stage.predicted));
        }
    }
}

/// Ten segments side by side would have 102 million schedules: a fixed graph of ten.
#[test]
fn nothing_is_cheaper_for_ten_segments() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut checked = 0;
    while checked < 3 {
        let tree = nodes(14, 3).new_tree(&mut runner).expect("a graph");
        let graph = graph(&tree.current());
        let segments = graph.segments();
        let roots = segments
            .indices()
            .filter(|&index| segments.predecessors(index).is_empty());
        if segments.count() != 10 || roots.count() > 3 {
            continue;
        }
        checked += 1;
        let mut costs = Arbitrary {
            seed: checked,
            merges: None,
        };
        let found = total(&plan(&Ios::EXACT, &segments, &mut costs));
        let prices = prices(&segments, &mut costs);
        assert_eq!(found, cheapest(0, 1023, &waits(&segments), &prices));
    }
}
