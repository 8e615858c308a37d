//! Planners against each other, against brute force, and against bad luck.

mod brute;
mod graphs;
mod in_flight;
mod ios_paper;
mod models;

use fugato_core::graph::Segments;
use fugato_core::plan::{
    AnyPlanner, CostBasis, Greedy, Group, Ios, LegLimits, List, Memo, Plan, PlanKey, Planner,
    Progress, Remembered, Sequential, Stage, StageCost,
};
use fugato_core::profile::DeviceKey;
use fugato_core::{BatchSize, Nanos, SegmentIndex, Share};
use graphs::{BATCH, DEVICE, SHARE, graph, graph_of, nodes, total};
use proptest::prelude::*;

fn key() -> PlanKey {
    PlanKey {
        model: "abc".to_owned(),
        device: DeviceKey {
            kind: "sim".to_owned(),
            name: "test".to_owned(),
            slices: 8,
        },
        runtime: "none".to_owned(),
        share: SHARE,
        batch: BATCH,
    }
}

/// The stages by a planner, which must be a plan.
fn plan<C: StageCost>(planner: &impl Planner, segments: &Segments, costs: &mut C) -> Vec<Stage> {
    let mut last = Progress::default();
    let stages = planner.stages(segments, costs, &mut |progress| {
        assert!(progress.planned >= last.planned && progress.priced >= last.priced);
        last = progress;
    });
    let Ok(stages) = stages else {
        panic!("the costs of this test never fail");
    };
    assert_eq!(last.planned, segments.count(), "{}", planner.name());
    let limits = LegLimits::default();
    let plan = Plan::new(key(), planner.name(), costs.basis(), stages, limits);
    assert_eq!(plan.check(segments), Ok(()), "{}", planner.name());
    for stage in &plan.stages {
        let price = match stage.merged {
            true => costs.merged(&stage.groups[0].segments),
            false => costs.stage(&stage.groups).map(Some),
        };
        let Ok(price) = price else {
            panic!("the costs of this test never fail");
        };
        assert_eq!(
            Some(stage.predicted),
            price,
            "{}: {stage:?}",
            planner.name()
        );
    }
    plan.stages
}

proptest! {
    #[test]
    fn every_planner_makes_plans_that_run_the_model(nodes in nodes(60, 3)) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        let mut costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
        let small = Ios { ways_max: 3_000, ..Ios::default() };
        let sequential = total(&plan(&Sequential, &segments, &mut costs));
        plan(&Greedy { groups_max: 3 }, &segments, &mut costs);
        let list = plan(&List { groups_max: 4 }, &segments, &mut costs);
        let ios = plan(&small, &segments, &mut costs);
        prop_assert!(total(&list) <= sequential);
        prop_assert!(total(&ios) <= sequential);
        for name in AnyPlanner::NAMES {
            let planner: AnyPlanner = name.parse().unwrap();
            prop_assert_eq!(planner.name(), name);
        }
        // The same again is the same.
        prop_assert_eq!(plan(&List { groups_max: 4 }, &segments, &mut costs), list);
        prop_assert_eq!(plan(&small, &segments, &mut costs), ios);
    }

    #[test]
    fn limits_of_groups_hold(nodes in nodes(24, 2), r in 1_usize..4, s in 1_usize..4) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        let mut costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
        let ios = Ios { group_segments_max: r, groups_max: s, ways_max: 20_000, ..Ios::default() };
        for stage in plan(&ios, &segments, &mut costs) {
            prop_assert!(stage.groups.len() <= s);
            prop_assert!(stage.groups.iter().all(|group| group.segments.len() <= r));
        }
        for groups_max in [1, s] {
            for stage in plan(&Greedy { groups_max }, &segments, &mut costs) {
                prop_assert!(stage.groups.len() <= groups_max);
            }
            for stage in plan(&List { groups_max }, &segments, &mut costs) {
                prop_assert!(stage.groups.len() <= groups_max);
            }
        }
    }
}

#[test]
fn a_planner_is_chosen_by_its_name() {
    let refused = "heft".parse::<AnyPlanner>().unwrap_err().to_string();
    assert_eq!(
        refused,
        "unknown planner `heft`, expected one of sequential, greedy, list, ios, ios-merge"
    );
}

#[test]
fn a_model_without_operators_has_a_plan_without_stages() {
    let none = fugato_core::graph::Graph::new(vec![], vec![], vec![], vec![]).unwrap();
    let segments = none.segments();
    let mut costs = DEVICE.costs(&none, &segments, BATCH, SHARE);
    for name in AnyPlanner::NAMES {
        let planner: AnyPlanner = name.parse().unwrap();
        assert_eq!(plan(&planner, &segments, &mut costs), []);
    }
}

/// Costs that fail after so many stages, and count.
struct Failing<C> {
    costs: C,
    left: usize,
    asked: usize,
}

impl<C: StageCost> StageCost for Failing<C> {
    type Error = &'static str;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, &'static str> {
        self.asked += 1;
        self.left = self.left.checked_sub(1).ok_or("stopped")?;
        self.costs.stage(groups).map_err(|_| "unreached")
    }

    fn basis(&self) -> CostBasis {
        self.costs.basis()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_stopped_search_goes_on_from_its_memo(nodes in nodes(20, 2), stop in 0_usize..200) {
        let graph = graph(&nodes);
        let segments = graph.segments();
        let costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
        let ios = Ios { ways_max: 20_000, ..Ios::default() };
        let expected = plan(&ios, &segments, &mut costs.clone());

        let mut memo = Memo::new(key(), CostBasis::Modelled);
        let failing = |left| Failing { costs: costs.clone(), left, asked: 0 };
        let mut first = Remembered::new(&mut memo, failing(stop));
        let stopped = ios.stages(&segments, &mut first, &mut |_| ());
        prop_assert!(stopped == Err("stopped") || stopped.as_ref() == Ok(&expected));
        let known = memo.count();
        prop_assert!(known <= stop);

        // Written, read and gone on with: only what was not known is asked for.
        let written = serde_json::to_string(&memo).unwrap();
        let mut memo: Memo = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(memo.matches(&key()), Ok(()));
        let mut rest = failing(usize::MAX);
        rest.asked = known;
        let mut second = Remembered::new(&mut memo, rest);
        let found = ios.stages(&segments, &mut second, &mut |_| ());
        prop_assert_eq!(found, Ok(expected.clone()));
        let asked = memo.count();
        let mut third = Remembered::new(&mut memo, failing(0));
        prop_assert_eq!(ios.stages(&segments, &mut third, &mut |_| ()), Ok(expected));
        prop_assert_eq!(memo.count(), asked);
    }
}

#[test]
fn prices_of_another_share_are_refused() {
    let memo = Memo::new(key(), CostBasis::Measured);
    let other = PlanKey {
        share: Share(2),
        batch: BatchSize(8),
        ..key()
    };
    let refused = memo.matches(&other).unwrap_err().to_string();
    assert_eq!(
        refused,
        "plan was made for a share of 8, it would run in a share of 2"
    );
}

#[test]
fn thousands_of_operators_side_by_side_are_no_trouble() {
    // All ready at once: nothing may try their pairs.
    let graph = graph_of(&vec![(Vec::new(), 100, 1_000); 20_000]);
    let segments = graph.segments();
    let mut costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
    let stages = plan(&List::default(), &segments, &mut costs);
    // More groups than lanes would only wait.
    let lanes = usize::from(DEVICE.lanes);
    assert!(stages.iter().all(|stage| stage.groups.len() == lanes));
    assert_eq!(plan(&Greedy::default(), &segments, &mut costs).len(), 2_000);
    // A search within a small budget cuts until it fits.
    let ios = Ios {
        ways_max: 500,
        ..Ios::default()
    };
    let first = plan(&ios, &segments, &mut costs)[0].groups[0].segments[0];
    assert_eq!(first, SegmentIndex(0));
}

#[test]
fn thousands_of_operators_beside_a_long_one_are_no_trouble() {
    // Each of the short ones waits for the two before it, so that it could follow them.
    let short = |place: usize| ((place.max(3) - 2..place).collect(), 100, 20_000);
    let mut nodes = vec![(Vec::new(), 100, 1_000_000_000)];
    nodes.extend((1..20_000).map(short));
    let graph = graph_of(&nodes);
    let segments = graph.segments();
    assert!(segments.count() > 19_000);
    let mut costs = DEVICE.costs(&graph, &segments, BATCH, SHARE);
    let stages = plan(&List::default(), &segments, &mut costs);
    assert_eq!(stages[0].groups.len(), 2);
}
