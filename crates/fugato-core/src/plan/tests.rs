use super::*;
use crate::graph::{Graph, Operator, Segments, Tensor};
use crate::id::TensorIndex;

/// The groups of a stage, and its time in microseconds.
type Written<'a> = (&'a [&'a [u32]], u64);

/// What is changed, and the message that it leads to.
type Change<T> = (fn(&mut T), &'static str);

/// Segments of a graph whose operator `i` reads the results of those in `edges`.; none may be
/// a chain.
pub(super) fn segments_of(edges: &[&[usize]]) -> Segments {
    let count = edges.len();
    let tensor = |place: usize| Tensor {
        name: format!("t{place}"),
        ..Tensor::default()
    };
    let operator = |(place, inputs): (usize, &&[usize])| Operator {
        name: format!("o{place}"),
        inputs: inputs.iter().map(|&input| TensorIndex::at(input)).collect(),
        outputs: vec![TensorIndex::at(place)],
        ..Operator::default()
    };
    let operators = edges.iter().enumerate().map(operator).collect();
    let graph = Graph::new((0..count).map(tensor).collect(), operators, vec![], vec![]);
    let segments = graph.expect("it has no circle").segments();
    assert_eq!(segments.count(), count, "a chain in the graph of a test");
    segments
}

/// A fork of two and a join: four segments, 0 -> {1, 2} -> 3.
fn diamond() -> Segments {
    segments_of(&[&[], &[0], &[0], &[1, 2]])
}

fn key() -> PlanKey {
    PlanKey {
        model: "abc".to_owned(),
        device: DeviceKey {
            kind: "cpu".to_owned(),
            name: "test".to_owned(),
            slices: 2,
        },
        runtime: "onnxruntime 1".to_owned(),
        share: Share(2),
        batch: BatchSize(4),
    }
}

fn stages(of: &[Written<'_>]) -> Vec<Stage> {
    let group = |segments: &&[u32]| Group {
        segments: segments
            .iter()
            .map(|&segment| SegmentIndex(segment))
            .collect(),
    };
    let stage = |(groups, micros): &Written<'_>| Stage {
        groups: groups.iter().map(group).collect(),
        merged: false,
        predicted: Nanos::from_micros(*micros),
    };
    of.iter().map(stage).collect()
}

fn plan(of: &[Written<'_>]) -> Plan {
    let limits = LegLimits::default();
    Plan::new(key(), "sequential", CostBasis::Modelled, stages(of), limits)
}

#[test]
fn a_plan_survives_being_written_and_read() {
    let written = plan(&[(&[&[0]], 300), (&[&[1], &[2]], 400), (&[&[3]], 100)]);
    assert_eq!(written.check(&diamond()), Ok(()));
    assert_eq!(
        (written.width(), written.predicted),
        (2, Nanos::from_micros(800))
    );
    let text = serde_json::to_string(&written).unwrap();
    let head = r#"{"schema":"fugato.plan/1","key":{"model":"abc","device":{"kind":"cpu","name":"test","slices":2},"runtime":"onnxruntime 1","share":2,"batch":4},"planner":"sequential","costs":"modelled","predicted_ns":800000,"stages":[{"groups":[[0]],"predicted_ns":300000},"#;
    assert_eq!(&text[..head.len()], head);
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(read, written);

    let other = text.replace("fugato.plan/1", "fugato.plan/9");
    let refused = serde_json::from_str::<Plan>(&other)
        .unwrap_err()
        .to_string();
    assert!(refused.starts_with("plan has schema `fugato.plan/9`, expected `fugato.plan/1`"));
}

#[test]
fn a_plan_for_something_else_is_refused_with_both_names() {
    let made = plan(&[(&[&[0]], 300)]);
    assert_eq!(made.matches(&key()), Ok(()));
    let refused = |change: fn(&mut PlanKey)| {
        let mut expected = key();
        change(&mut expected);
        made.matches(&expected).unwrap_err().to_string()
    };
    let cases: [Change<PlanKey>; 5] = [
        (
            |key| key.model = "def".to_owned(),
            "plan was made for the model with hash `abc`, the model at hand has `def`",
        ),
        (
            |key| key.device.slices = 4,
            "plan was made for cpu `test` of 2 slices, this device is cpu `test` of 4 slices",
        ),
        (
            |key| key.runtime = "onnxruntime 2".to_owned(),
            "plan was made with runtime `onnxruntime 1`, this one is `onnxruntime 2`",
        ),
        (
            |key| key.share = Share(1),
            "plan was made for a share of 2, it would run in a share of 1",
        ),
        (
            |key| key.batch = BatchSize(8),
            "plan was made for a batch of 4, it would run a batch of 8",
        ),
    ];
    for (change, message) in cases {
        assert_eq!(refused(change), message);
    }
}

#[test]
fn stages_that_do_not_run_the_model_are_refused() {
    let refused = |of: &[Written<'_>]| plan(of).check(&diamond()).unwrap_err().to_string();
    let cases: [(&[Written<'_>], &str); 8] = [
        (
            &[(&[&[0]], 1), (&[&[1], &[2]], 1)],
            "plan lacks segment 3, expected each of the 4 segments once",
        ),
        (
            &[(&[&[0]], 1), (&[&[1, 2, 3]], 1), (&[&[1]], 1)],
            "plan has segment 1 in stage 1 and in stage 2, expected it once",
        ),
        (
            &[(&[&[0, 1, 2, 4]], 1)],
            "plan's stage 0 has segment 4, the model has 4 segments",
        ),
        // A join beside one of the two that it waits for, in a group of its own.
        (
            &[(&[&[0]], 1), (&[&[1], &[2, 3]], 1)],
            "plan has segment 3 in stage 1 and segment 1, which it waits for, in stage 1, \
             expected that in an earlier stage or earlier in the same group",
        ),
        (
            &[(&[&[0, 3, 1, 2]], 1)],
            "plan has segment 3 in stage 0 and segment 1, which it waits for, in stage 0, \
             expected that in an earlier stage or earlier in the same group",
        ),
        (
            &[(&[&[1]], 1), (&[&[0, 2, 3]], 1)],
            "plan has segment 1 in stage 0 and segment 0, which it waits for, in stage 1, \
             expected that in an earlier stage or earlier in the same group",
        ),
        (
            &[(&[], 1)],
            "plan's stage 0 is empty, expected at least one segment in each group of each stage",
        ),
        (
            &[(&[&[0], &[]], 1)],
            "plan's group 1 of stage 0 is empty, expected at least one segment in each group of \
             each stage",
        ),
    ];
    for (of, message) in cases {
        assert_eq!(refused(of), message);
    }
    assert_eq!(plan(&[(&[&[0, 2, 1, 3]], 1)]).check(&diamond()), Ok(()));
}

#[test]
fn legs_and_times_that_do_not_add_up_are_refused() {
    let of: [Written<'_>; 2] = [(&[&[0, 1]], 600), (&[&[2, 3]], 600)];
    let refused = |change: fn(&mut Plan)| {
        let mut plan = plan(&of);
        assert_eq!(plan.legs.len(), 2);
        change(&mut plan);
        plan.check(&diamond()).unwrap_err().to_string()
    };
    let cases: [Change<Plan>; 6] = [
        (
            |plan| plan.legs[1].stages.start = 0,
            "plan's leg 1 is stages 0..2, expected it to start at 1 and to end by 2",
        ),
        (
            |plan| plan.legs[1].stages.end = 3,
            "plan's leg 1 is stages 1..3, expected it to start at 1 and to end by 2",
        ),
        (
            |plan| plan.legs.truncate(1),
            "plan's legs end at stage 1, expected at 2",
        ),
        (
            |plan| plan.legs[0].sub_batches = 5,
            "plan's leg 0 runs in 5 parts, expected 1 to 4",
        ),
        (
            |plan| plan.legs[1].predicted = Nanos::from_micros(7),
            "plan's leg 1 takes 7.0 us, its stages 600.0 us",
        ),
        (
            |plan| plan.predicted = Nanos::from_millis(1),
            "plan's whole takes 1.00 ms, its stages 1.20 ms",
        ),
    ];
    for (change, message) in cases {
        assert_eq!(refused(change), message);
    }
}

#[test]
fn stages_are_joined_into_legs_of_a_length() {
    let legs = |micros: &[u64]| {
        let stage = |&micros: &u64| Stage {
            groups: vec![],
            merged: false,
            predicted: Nanos::from_micros(micros),
        };
        let stages: Vec<_> = micros.iter().map(stage).collect();
        let legs = LegLimits::default().legs(&stages, BatchSize(4));
        let leg = |leg: Leg| (leg.stages, leg.sub_batches);
        legs.into_iter().map(leg).collect::<Vec<_>>()
    };
    assert_eq!(legs(&[]), []);
    assert_eq!(legs(&[100]), [(0..1, 1)]);
    assert_eq!(legs(&[200, 300, 500, 499]), [(0..2, 1), (2..4, 1)]);
    // Longer than a leg may be: in parts, but in no more than the batch has items.
    assert_eq!(
        legs(&[600, 4_100, 90_000]),
        [(0..1, 1), (1..2, 3), (2..3, 4)]
    );
}

#[test]
fn a_merged_stage_is_one_group_of_several_segments() {
    let merged = |groups: &[&[u32]]| {
        let mut plan = plan(&[(&[&[0]], 1), (groups, 2), (&[&[3]], 3)]);
        plan.stages[1].merged = true;
        plan
    };
    let good = merged(&[&[1, 2]]);
    assert_eq!(good.check(&diamond()), Ok(()));
    let read: Plan = serde_json::from_str(&serde_json::to_string(&good).unwrap()).unwrap();
    assert_eq!(read, good);
    let refused = merged(&[&[1], &[2]]).check(&diamond()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "plan's merged stage 1 is not one group of several segments"
    );
}

#[test]
fn plans_are_alike_that_cut_alike() {
    let limits = LegLimits {
        min: Nanos::from_micros(5),
        max: Nanos::from_micros(20),
    };
    let of = |written: &[Written<'_>]| {
        Plan::new(
            key(),
            "by hand",
            CostBasis::Measured,
            stages(written),
            limits,
        )
    };
    let plan = of(&[(&[&[0]], 10), (&[&[1], &[2]], 10), (&[&[3]], 10)]);
    let slower = of(&[(&[&[0]], 11), (&[&[1], &[2]], 9), (&[&[3]], 12)]);
    assert!(plan.cuts_alike(&slower), "{plan:?} and {slower:?}");
    let apart = of(&[(&[&[0]], 10), (&[&[1]], 5), (&[&[2]], 5), (&[&[3]], 10)]);
    assert!(!plan.cuts_alike(&apart));
    let joined = of(&[(&[&[0]], 1), (&[&[1], &[2]], 1), (&[&[3]], 1)]);
    assert_eq!(joined.legs.len(), 1);
    assert!(!plan.cuts_alike(&joined), "the same stages in other legs");
    let changes: [fn(&mut Plan); 4] = [
        |plan| plan.key.model = "def".to_owned(),
        |plan| plan.segment_flops = Some(1),
        |plan| plan.stackable_apart = true,
        |plan| plan.stages[0].merged = true,
    ];
    for change in changes {
        let mut other = plan.clone();
        change(&mut other);
        assert!(!plan.cuts_alike(&other), "{other:?}");
    }
}
