use super::mixes::objective;
use super::*;
use crate::gpu_check::report::Verdict;
use crate::gpu_check::served::stage::named;
use fugato_core::device::{DeviceSpec, LaneClass};
use fugato_core::profile::{DeviceKey, GridPoint, Knee, ModelProfile, SCHEMA};
use fugato_core::{DeviceId, Share};

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
        legs: None,
        first: 2,
        aims: vec![Aim::AsBaseline],
        search: LargestSettings::default(),
        duration: Nanos::from_millis(100),
    }
}

fn held(policy: &str, holds: Option<f64>, is_settled: bool) -> Held {
    Held {
        policy: policy.to_owned(),
        way: Way::Whole,
        measured: Capacity {
            holds,
            fails: holds.filter(|_| is_settled).map(|holds| 1.05 * holds),
        },
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
        ..MixFound::default()
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
fn every_policy_is_tried_and_those_with_an_aim_of_their_own_come_first() {
    let order = order();
    assert_eq!(order[..4], ["temporal", "dstack", BASELINE, OURS]);
    let mut all = order;
    all.sort_unstable();
    let mut names = PolicySpec::NAMES.map(str::to_owned);
    names.sort_unstable();
    assert_eq!(all, names);
}

#[test]
fn every_aim_has_its_answer_and_what_was_not_reached_is_named() {
    let mut mix = found(vec![
        held("temporal", Some(0.2), true),
        held("dstack", Some(0.5), true),
        held(BASELINE, Some(0.4), true),
        held(OURS, Some(0.8), true),
    ]);
    mix.simulated.insert("ideal".to_owned(), Some(0.85));
    let plan = |first: usize| {
        let mut plan = plan(2);
        plan.policies = order();
        plan.policies.truncate(first);
        plan.aims = Aim::ALL.to_vec();
        plan
    };
    let told = |mix: MixFound, plan: &Plan| answer(&[mix], &[], plan, &device());
    let Answer {
        verdict,
        words,
        facts,
    } = told(mix, &plan(5));
    assert_eq!(verdict, Verdict::Unknown);
    let aims = facts["mixes"][0]["aims"].as_array().expect("aims");
    let answers: Vec<_> = aims.iter().map(|aim| &aim["answer"]).collect();
    assert_eq!(answers, ["holds", "holds", "open", "holds"], "{words}");
    assert!(words.contains("c-4: not reached fifo"), "{words}");
    assert!(words.ends_with("not reached: mix-1"), "{words}");

    let mut one = plan(4);
    one.mixes.truncate(1);
    let all = |ideal, dstack| {
        let mut mix = found(vec![
            held("temporal", Some(0.2), true),
            held("dstack", Some(dstack), true),
            held(BASELINE, Some(0.4), true),
            held(OURS, Some(0.8), true),
        ]);
        mix.simulated.insert("ideal".to_owned(), ideal);
        told(mix, &one).verdict
    };
    assert_eq!(all(Some(0.85), 0.5), Verdict::Holds);
    assert_eq!(all(Some(0.95), 0.5), Verdict::Fails, "too far from ideal");
    assert_eq!(all(Some(0.85), 0.3), Verdict::Fails, "less than twice");
    assert_eq!(all(Some(0.85), 0.9), Verdict::Fails, "not the best");
    assert_eq!(all(None, 0.5), Verdict::Unknown, "`ideal` is not known");
}

#[test]
fn ideal_is_simulated_once_and_of_models_as_they_are() {
    let mut mix = found(Vec::new());
    assert!(mix.wants_ideal(Way::Whole) && !mix.wants_ideal(Way::InLegs));
    mix.simulated.insert("ideal".to_owned(), None);
    assert!(!mix.wants_ideal(Way::Whole), "it holds no load");
    let mut mix = found(Vec::new());
    mix.ideal_error = Some("no fitted kernels".to_owned());
    assert!(!mix.wants_ideal(Way::Whole), "it would fail once more");
}

#[test]
fn nothing_is_simulated_after_its_time() {
    let lanes = [LaneClass::Normal];
    let device = DeviceSpec::nested(DeviceId(0), "a device", Share(8), &lanes, &lanes);
    let mut plan = plan(1);
    plan.profile = fugato_core::profile::convnet_mix();
    let name = plan.profile.models[0].name.clone();
    let slo = Nanos::from_millis(100);
    let arrivals = fugato_core::workload::ArrivalProcess::Poisson { rate: 10.0 };
    let load = fugato_core::workload::ModelLoad::new(&name, slo, arrivals);
    let workload = Workload::new(plan.duration, Nanos::ZERO, None, vec![load]);
    let mix = Ready {
        place: 0,
        way: Way::Whole,
        served: Vec::new(),
        workload: workload.expect("a workload"),
    };
    let names = [OURS, BASELINE].map(str::to_owned);
    let wanted = Wanted {
        policies: &names,
        ideal: true,
        until: Instant::now(),
    };
    let late = simulate(&plan, (&mix, &wanted), &device).expect("nothing that could fail");
    assert!(
        late.held.is_empty() && late.ideal_error.is_none(),
        "{late:?}"
    );
    assert_eq!(late.not_reached, names);
}

#[test]
fn a_model_that_fell_back_to_one_piece_is_not_reported_in_legs() {
    let mut mix = found(vec![held(OURS, Some(0.8), true)]);
    mix.has_legs = true;
    assert!(mix.is_due(OURS, Way::InLegs));
    let models = [("vgg19", 4, 4), ("resnet50", 3, 1)];
    assert!(mix.note_pieces(models.into_iter()));
    let Answer { words, facts, .. } = answer(&[mix], &[], &plan(1), &device());
    assert!(
        words.contains("in one piece though it has legs: resnet50"),
        "{words}"
    );
    assert_eq!(facts["mixes"][0]["in_one_piece"][0], "resnet50");
    // Where none is cut nothing was tried in legs, and nothing waits for that.
    let mut mix = found(vec![held(OURS, Some(0.8), true)]);
    mix.has_legs = true;
    assert!(!mix.note_pieces(models[1..].iter().copied()));
    assert!(!mix.is_due(OURS, Way::InLegs));
    let Answer { words, facts, .. } = answer(&[mix], &[], &plan(1), &device());
    assert!(
        words.contains("not in legs: a part of resnet50 did not work by itself"),
        "{words}"
    );
    assert_eq!(facts["mixes"][0]["in_one_piece"], serde_json::json!([]));
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
