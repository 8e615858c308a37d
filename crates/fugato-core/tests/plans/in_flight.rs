//! Plans of tasks in flight, merged into one graph.

use crate::graphs::{DEVICE, Node, SHARE, graph, graph_of, nodes, total};
use crate::{key, models, plan};
use fugato_core::graph::{Graph, InFlight, Merged, Segments};
use fugato_core::plan::{
    AnyPlanner, CostBasis, CostModel, Greedy, Group, Ios, LegLimits, List, ModelledCost, Plan,
    Planner, Sequential, Stage, StageCost, Together,
};
use fugato_core::{BatchSize, Nanos, OperatorIndex, SegmentIndex, Share, TaskId};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write;

/// What a merged graph is priced at: the tasks' batches are in it.
const MERGED: BatchSize = BatchSize(1);

/// A task of a random model that has come some way through the stages of `list`.
#[derive(Clone, Debug)]
struct Random {
    nodes: Vec<Node>,
    batch: u32,
    way: prop::sample::Index,
}

#[derive(Debug)]
struct Task {
    graph: Graph,
    segments: Segments,
    batch: BatchSize,
    done: Vec<SegmentIndex>,
}

/// From 1 to `tasks` tasks of models of up to `operators`.
fn tasks(tasks: usize, operators: usize) -> impl Strategy<Value = Vec<Task>> {
    let parts = (nodes(operators, 2), 1..4_u32, any::<prop::sample::Index>());
    let one = parts.prop_map(|(nodes, batch, way)| Random { nodes, batch, way });
    prop::collection::vec(one, 1..=tasks).prop_map(|all| all.iter().map(Task::new).collect())
}

impl Task {
    fn new(random: &Random) -> Self {
        let graph = graph(&random.nodes);
        let segments = graph.segments();
        let batch = BatchSize(random.batch);
        let mut costs = DEVICE.costs(&graph, &segments, batch, SHARE);
        let stages = plan(&List::default(), &segments, &mut costs);
        let way = random.way.index(stages.len() + 1);
        let done = stages[..way].iter().flat_map(Stage::segments).collect();
        Self {
            graph,
            segments,
            batch,
            done,
        }
    }

    fn left(&self) -> impl Iterator<Item = SegmentIndex> {
        let left = self.segments.indices();
        left.filter(|segment| !self.done.contains(segment))
    }
}

fn in_flight(tasks: &[Task]) -> Vec<InFlight<'_>> {
    let all = (0..).zip(tasks);
    let all = all.map(|(number, task)| InFlight {
        task: TaskId(number),
        graph: &task.graph,
        segments: &task.segments,
        batch: task.batch,
        done: &task.done,
    });
    all.collect()
}

/// The place of a task among those of [`in_flight`].
fn number_of(task: TaskId) -> usize {
    usize::try_from(task.0).expect("a handful of tasks")
}

fn merged(tasks: &[Task]) -> Merged {
    Merged::of(&in_flight(tasks)).expect("stages of a plan have run in their order")
}

fn costs(merged: &Merged) -> ModelledCost {
    DEVICE.costs(merged.graph(), merged.segments(), MERGED, SHARE)
}

fn together(planner: &impl Planner, tasks: &[InFlight<'_>]) -> Together {
    let planned = Together::plan(planner, tasks, costs, &mut |_| ());
    planned.expect("these tasks merge, and computed costs never fail")
}

/// Whether stages of the merged graph run what is left of each task, once and in its order;
/// by the tasks' own graphs, not by the merged one.
fn check_order(tasks: &[Task], merged: &Merged, stages: &[Stage]) {
    let mut places = BTreeMap::new();
    for (number, stage) in stages.iter().enumerate() {
        for (lane, group) in stage.groups.iter().enumerate() {
            for (step, &segment) in group.segments.iter().enumerate() {
                let origin = merged.origin(segment);
                let place = (number_of(origin.task), origin.segment);
                let twice = places.insert(place, (number, lane, step));
                assert_eq!(twice, None, "{origin:?} runs twice");
            }
        }
    }
    let mut left = 0;
    for (number, task) in tasks.iter().enumerate() {
        for segment in task.left() {
            left += 1;
            let (stage, lane, step) = places[&(number, segment)];
            for &before in task.segments.predecessors(segment) {
                if task.done.contains(&before) {
                    continue;
                }
                let (earlier, own_lane, own_step) = places[&(number, before)];
                let in_order =
                    earlier < stage || (earlier, own_lane) == (stage, lane) && own_step < step;
                assert!(in_order, "task {number}: {segment} before {before}");
            }
        }
    }
    assert_eq!(places.len(), left, "what has run does not run again");
}

/// Planners, one of them with limits so small that it cuts where it can.
fn planners() -> [AnyPlanner; 5] {
    let narrow = Ios {
        block_segments_max: 3,
        ..Ios::default()
    };
    [
        AnyPlanner::Sequential(Sequential),
        AnyPlanner::Greedy(Greedy::default()),
        AnyPlanner::List(List::default()),
        AnyPlanner::Ios(Ios::default()),
        AnyPlanner::Ios(narrow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn operators_lead_back_to_tasks_and_segments(tasks in tasks(4, 8)) {
        let merged = merged(&tasks);
        let left: usize = tasks.iter().map(|task| task.left().count()).sum();
        prop_assert_eq!(merged.segments().count(), left);
        for (segment, found) in (0..).map(SegmentIndex).zip(merged.segments().all()) {
            let origin = merged.origin(segment);
            let task = &tasks[number_of(origin.task)];
            let original = task.segments.segment(origin.segment);
            let back = found.operators.iter().map(|&index| merged.origin_of_operator(index));
            let back: Vec<_> = back.collect();
            let expected = original.operators.iter().map(|&index| (origin, index));
            prop_assert_eq!(&back, &expected.collect::<Vec<_>>());
            prop_assert_eq!(found.flops, original.flops * u64::from(task.batch.0));
            prop_assert_eq!(found.bytes, original.bytes * u64::from(task.batch.0));
            // By what it writes it is that operator, and no other of that kind.
            for (&copy, &(_, index)) in found.operators.iter().zip(&back) {
                let name = |graph: &Graph, index: OperatorIndex| {
                    graph.tensor(graph.operator(index).outputs[0]).name.clone()
                };
                let expected = format!("{}/{}", origin.task, name(&task.graph, index));
                prop_assert_eq!(name(merged.graph(), copy), expected);
            }
            let waits = merged.segments().predecessors(segment).iter();
            let mut waits: Vec<_> = waits.map(|&before| merged.origin(before).segment).collect();
            waits.sort_unstable();
            let own = task.segments.predecessors(origin.segment).iter().copied();
            let own = own.filter(|before| !task.done.contains(before));
            prop_assert_eq!(waits, own.collect::<Vec<_>>());
        }
    }

    #[test]
    fn plans_keep_the_order_of_each_task(tasks in tasks(3, 6)) {
        let merged = merged(&tasks);
        for planner in planners() {
            let stages = plan(&planner, merged.segments(), &mut costs(&merged));
            check_order(&tasks, &merged, &stages);
            let whole = Plan::new(
                key(),
                planner.name(),
                CostBasis::Modelled,
                stages,
                LegLimits::default(),
            );
            prop_assert_eq!(whole.check(merged.segments()), Ok(()));
            let chosen = together(&planner, &in_flight(&tasks));
            check_order(&tasks, &chosen.merged, &chosen.stages);
        }
    }

    #[test]
    fn one_after_the_other_is_the_sum_of_the_parts(tasks in tasks(4, 8)) {
        let merged = merged(&tasks);
        let found = total(&plan(&Sequential, merged.segments(), &mut costs(&merged)));
        let mut sum = Nanos::ZERO;
        for task in &tasks {
            let mut costs = DEVICE.costs(&task.graph, &task.segments, task.batch, SHARE);
            for segment in task.left() {
                let Ok(time) = costs.stage(&[Group::from(vec![segment])]);
                sum += time;
            }
        }
        prop_assert_eq!(found, sum);
        let both = together(&Sequential, &in_flight(&tasks));
        prop_assert_eq!((both.predicted(), both.one_by_one()), (sum, sum));
        prop_assert_eq!(both.shared_stages(), 0);
    }

    /// Nine segments at most, so that the search of the merged graph is one block, and exact
    /// within its limits: what it gives is compared, not the cheaper of two.
    #[test]
    fn ios_is_no_worse_than_each_task_alone_in_turn(tasks in tasks(3, 3)) {
        let merged = merged(&tasks);
        let found = total(&plan(&Ios::default(), merged.segments(), &mut costs(&merged)));
        let mut in_turn = Nanos::ZERO;
        for task in in_flight(&tasks) {
            let only = Merged::of(&[task]).expect("it merged with others");
            in_turn += total(&plan(&Ios::default(), only.segments(), &mut costs(&only)));
        }
        prop_assert!(found <= in_turn, "{} against {}", found, in_turn);
        prop_assert_eq!(together(&Ios::default(), &in_flight(&tasks)).predicted(), found);
    }

    #[test]
    fn no_planner_is_worse_than_one_task_after_the_other(tasks in tasks(4, 6)) {
        for planner in planners() {
            let both = together(&planner, &in_flight(&tasks));
            prop_assert!(both.predicted() <= both.one_by_one());
            prop_assert_eq!(total(&both.stages), both.predicted());
        }
    }
}

/// What tasks have run that are evenly apart: the first nothing, of two the second half of
/// its segments.
fn evenly(segments: &Segments, count: usize) -> Vec<Vec<SegmentIndex>> {
    let all = segments.count();
    let done = |number: usize| segments.indices().take(all * number / count).collect();
    (0..count).map(done).collect()
}

fn gain(planner: &impl Planner, device: &CostModel, graph: &Graph, count: usize) -> f64 {
    let segments = graph.apart();
    let done = evenly(&segments, count);
    let tasks = (0..).zip(&done).map(|(number, done)| InFlight {
        task: TaskId(number),
        graph,
        segments: &segments,
        batch: BatchSize(1),
        done,
    });
    let tasks: Vec<_> = tasks.collect();
    let share = if device.lane_slices == Share(80) {
        Share(80)
    } else {
        SHARE
    };
    let costs = |merged: &Merged| device.costs(merged.graph(), merged.segments(), MERGED, share);
    let both = Together::plan(planner, &tasks, costs, &mut |_| ()).expect("they merge");
    both.one_by_one().as_secs_f64() / both.predicted().as_secs_f64()
}

#[test]
fn a_chain_gains_from_tasks_in_flight_as_many_as_fit() {
    // Each operator fills one slice of eight, and waits for the one before it: alone there is
    // nothing to run beside it, and four tasks fill half of the device and all lanes.
    let place = |place: usize| (place.checked_sub(1).into_iter().collect(), 1_000, 1_000_000);
    let chain = graph_of(&(0..12).map(place).collect::<Vec<_>>());
    let alone = gain(&List::default(), &DEVICE, &chain, 1);
    let two = gain(&List::default(), &DEVICE, &chain, 2);
    let four = gain(&List::default(), &DEVICE, &chain, 4);
    assert!((alone - 1.0).abs() < 1e-9, "{alone}");
    assert!(two > 1.3 && four > 1.1 * two, "{two}, {four}");
}

/// Self-acceleration as TOP has it, at the costs of a V100 that [`crate::ios_paper`] fits:
/// the figures of `docs/concepts/plans.md`.
#[test]
fn inception_gains_from_tasks_in_flight_also_over_ios() {
    let graph = models::inception_v3();
    let mut last = (1.0, 1.0);
    for count in [2, 4] {
        let list = gain(&List::default(), &CostModel::IOS_V100, &graph, count);
        let ios = gain(&Ios::default(), &CostModel::IOS_V100, &graph, count);
        let line = format!("{count} tasks of Inception-v3: list {list:.3}, ios {ios:.3}");
        writeln!(std::io::stdout(), "{line}").expect("stdout");
        assert!(list > last.0 && ios >= 1.0, "{count}: {list}, {ios}");
        last = (list, ios);
    }
}
