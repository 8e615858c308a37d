use super::*;
use crate::gpu_check::report::Verdict;
use fugato_core::Share;
use fugato_core::device::LaneClass;
use fugato_core::profile::{DeviceKey, GridPoint, Knee, SCHEMA};

fn device() -> DeviceSpec {
    let lanes = [LaneClass::Normal];
    DeviceSpec::nested(DeviceId(0), "a device", Share(8), &lanes, &lanes)
}

fn plan(mixes: usize) -> Plan {
    let mix = |index: usize| MixPlan {
        name: format!("mix-{index}"),
        models: Vec::new(),
    };
    Plan {
        profile: Profile {
            schema: SCHEMA.to_owned(),
            device: DeviceKey {
                kind: "cuda".to_owned(),
                name: "a device".to_owned(),
                slices: 8,
            },
            runtime: "onnxruntime 1".to_owned(),
            synthetic: false,
            launch_s: None,
            models: Vec::new(),
        },
        mixes: (0..mixes).map(mix).collect(),
        policies: [OURS, BASELINE].map(str::to_owned).to_vec(),
        search: LargestSettings::default(),
        duration: Nanos::from_millis(100),
    }
}

fn held(policy: &str, holds: Option<f64>, is_settled: bool) -> Held {
    Held {
        policy: policy.to_owned(),
        measured: Capacity { holds, fails: None },
        probes: Vec::new(),
        is_settled,
        error: None,
    }
}

fn found(held: Vec<Held>) -> MixFound {
    MixFound {
        name: "c-4".to_owned(),
        workload: Value::Null,
        rate: 100.0,
        held,
        simulated: [(OURS.to_owned(), Some(1.25))].into(),
        simulation_error: None,
    }
}

fn verdict(mixes: &[MixFound], planned: usize) -> Verdict {
    answer(mixes, &[], &plan(planned), &device()).verdict
}

#[test]
fn ours_has_to_hold_as_much_as_the_baseline_on_every_mix() {
    let mix = |ours, theirs| {
        found(vec![
            held(OURS, ours, true),
            held(BASELINE, theirs, true),
            held("fifo", Some(9.0), true),
        ])
    };
    let even = || mix(Some(0.5), Some(0.5));
    assert_eq!(verdict(&[even(), mix(Some(0.7), None)], 2), Verdict::Holds);
    assert_eq!(
        verdict(&[even(), mix(Some(0.4), Some(0.5))], 2),
        Verdict::Fails
    );
    assert_eq!(verdict(&[mix(None, Some(0.5))], 2), Verdict::Fails);
    assert_eq!(
        verdict(&[mix(None, None)], 1),
        Verdict::Fails,
        "nothing was"
    );
    let near = mix(Some(0.5), Some(0.5 * 1.02));
    assert_eq!(verdict(&[near], 1), Verdict::Holds, "the search ends there");
    assert_eq!(
        verdict(&[even()], 2),
        Verdict::Unknown,
        "a mix was not reached"
    );
    let left_out = |is_fault| {
        let why = "c-7: why".to_owned();
        let left_out = [LeftOut { why, is_fault }];
        answer(&[even()], &left_out, &plan(2), &device()).verdict
    };
    assert_eq!(left_out(false), Verdict::Unknown, "not in the profile");
    assert_eq!(left_out(true), Verdict::Fails);
    let open = found(vec![
        held(OURS, Some(0.5), true),
        held(BASELINE, Some(0.2), false),
    ]);
    assert_eq!(verdict(&[open], 1), Verdict::Unknown, "a search is open");
}

#[test]
fn a_policy_that_cannot_be_tried_fails_and_says_why() {
    let mut broken = held("gslice", None, false);
    broken.error = Some("the driver panicked".to_owned());
    let mix = found(vec![
        held(OURS, Some(0.5), true),
        held(BASELINE, Some(0.5), true),
        broken,
    ]);
    let Answer { verdict, words, .. } = answer(&[mix], &[], &plan(1), &device());
    assert_eq!(verdict, Verdict::Fails);
    assert!(words.contains("fugato 0.50 (simulated 1.25)"), "{words}");
    assert!(
        words.contains("gslice on c-4: the driver panicked"),
        "{words}"
    );
}

#[test]
fn a_mix_that_takes_too_long_to_be_ready_is_left_out_by_name() {
    let mix = MixPlan {
        name: "c-4".to_owned(),
        models: Vec::new(),
    };
    let Answer { verdict, words, .. } = answer(&[], &[unready(&mix)], &plan(1), &device());
    assert_eq!(verdict, Verdict::Unknown);
    assert!(words.contains("c-4: its models were not ready"), "{words}");
    assert!(words.contains("`--time`"), "{words}");
}

#[test]
fn mixes_are_those_that_the_zoo_has_models_for() {
    let found = mixes(&["c-2", "c-3", "c-4", "c-7", "arv", "convnet"]);
    let sizes: Vec<_> = found
        .iter()
        .map(|mix| (mix.name.as_str(), mix.models.len()))
        .collect();
    assert_eq!(
        sizes,
        [("c-2", 2), ("c-3", 3), ("c-4", 4), ("c-7", 7), ("arv", 3)]
    );
    for name in found.iter().flat_map(|mix| &mix.models) {
        named(name).expect("a model of the zoo");
    }
}

#[test]
fn objectives_and_rates_come_from_the_profile() {
    let mut model = ModelProfile::new("resnet50", "hash", 16);
    model.knee_batch = Some(16);
    model.knee = Knee {
        tolerance: Some(4),
        ..Knee::default()
    };
    objective(&model).expect_err("a point without times");
    model.grid.push(GridPoint {
        batch: 16,
        share: 4,
        neighbours: 0,
        median_s: Some(0.004),
        p95_s: None,
        low_s: None,
        high_s: None,
        repeats: 3,
        failed: None,
    });
    assert_eq!(
        objective(&model).expect("a knee"),
        Nanos::from_millis(12),
        "three times what it takes alone"
    );
    let lanes = policy(BASELINE, 4).expect("a policy");
    assert_eq!(
        lanes,
        PolicySpec::Uncontrolled {
            lanes: 4,
            share: None
        }
    );
    policy("none such", 4).expect_err("no policy");
}
