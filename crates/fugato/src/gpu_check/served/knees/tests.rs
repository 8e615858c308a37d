use super::*;
use fugato_core::profile::{BatchKnee, Beside, DeviceKey, GridPoint, Interference, Knee, SCHEMA};

fn plan() -> Plan {
    let models = ["resnet18", "bert-tiny"].map(|name| fugato_zoo::find(name).expect("one"));
    Plan {
        models: models.to_vec(),
        first: 2,
        batches: vec![1, 8],
        shares: vec![4, 8],
        runtime: "onnxruntime 1".to_owned(),
        out: PathBuf::from("profile.json"),
        legs: None,
    }
}

fn profile(knees: &[(&str, u16)]) -> Profile {
    let model = |&(name, knee): &(&str, u16)| {
        let mut model = ModelProfile::new(name, name, 8);
        let knee = Knee {
            tolerance: Some(knee),
            ..Knee::default()
        };
        model.knees.push(BatchKnee {
            batch: 1,
            knee,
            undecided_by: Vec::new(),
        });
        model
    };
    Profile {
        schema: SCHEMA.to_owned(),
        device: DeviceKey {
            kind: "cuda".to_owned(),
            name: "a device".to_owned(),
            slices: 8,
        },
        runtime: "onnxruntime 1".to_owned(),
        synthetic: false,
        launch_s: None,
        models: knees.iter().map(model).collect(),
    }
}

/// A point that could not be measured.
fn failed(why: &str) -> GridPoint {
    GridPoint {
        batch: 8,
        share: 4,
        neighbours: 0,
        median_s: None,
        p95_s: None,
        low_s: None,
        high_s: None,
        repeats: 0,
        failed: Some(why.to_owned()),
    }
}

#[test]
fn a_knee_below_the_whole_of_any_model_is_enough_once_all_were_measured() {
    let verdict = |knees: &[(&str, u16)], faults: &[String]| {
        answer(Some(&profile(knees)), &plan(), 2, faults).verdict
    };
    assert_eq!(
        verdict(&[("resnet18", 8), ("bert-tiny", 4)], &[]),
        Verdict::Holds
    );
    assert_eq!(
        verdict(&[("resnet18", 8), ("bert-tiny", 8)], &[]),
        Verdict::Fails
    );
    assert_eq!(verdict(&[("bert-tiny", 4)], &[]), Verdict::Unknown);
    let fault = ["resnet18: no memory".to_owned()];
    assert_eq!(verdict(&[("bert-tiny", 4)], &fault), Verdict::Fails);
    assert_eq!(answer(None, &plan(), 0, &[]).verdict, Verdict::Unknown);
}

#[test]
fn models_beyond_the_first_are_named_where_the_time_did_not_suffice() {
    let plan = Plan { first: 1, ..plan() };
    let found = answer(Some(&profile(&[("resnet18", 4)])), &plan, 1, &[]);
    assert_eq!(found.verdict, Verdict::Holds);
    assert!(
        found.words.ends_with("; not reached: bert-tiny"),
        "{}",
        found.words
    );
    assert_eq!(found.facts["not_reached"], json!(["bert-tiny"]));
    let other = answer(Some(&profile(&[("bert-tiny", 4)])), &plan, 1, &[]);
    assert_eq!(
        other.verdict,
        Verdict::Unknown,
        "the first was not measured"
    );
}

#[test]
fn a_fault_of_a_model_that_no_mix_holds_is_told_and_fails_nothing() {
    let plan = Plan { first: 1, ..plan() };
    let verdict = |fault: &str, measured: &[(&str, u16)]| {
        let faults = [fault.to_owned()];
        answer(Some(&profile(measured)), &plan, 2, &faults)
    };
    let found = verdict("bert-tiny: no memory", &[("resnet18", 4)]);
    assert_eq!(found.verdict, Verdict::Holds, "{}", found.words);
    assert!(
        found
            .words
            .ends_with("; beyond the mixes: bert-tiny: no memory"),
        "{}",
        found.words
    );
    assert_eq!(found.facts["not_reached"], json!([]));
    let of_mix = verdict("resnet18: no memory", &[("bert-tiny", 4)]);
    assert_eq!(of_mix.verdict, Verdict::Fails, "{}", of_mix.words);
    // The same of a point of its grid.
    let mut found = profile(&[("resnet18", 4), ("bert-tiny", 4)]);
    let failed = failed("no kernel");
    found.models[1].grid.push(failed.clone());
    assert_eq!(answer(Some(&found), &plan, 2, &[]).verdict, Verdict::Holds);
    found.models[0].grid.push(failed);
    assert_eq!(answer(Some(&found), &plan, 2, &[]).verdict, Verdict::Fails);
}

#[test]
fn what_neighbours_cost_is_in_the_report() {
    let mut found = profile(&[("resnet18", 4), ("bert-tiny", 4)]);
    found.models[0].beside.push(Beside {
        model: "bert-tiny".to_owned(),
        hash: "bert-tiny".to_owned(),
        batch: 1,
        share: 4,
        neighbour_batch: 1,
        neighbours: 4,
        alone_s: 0.002,
        beside_s: 0.003,
        repeats: 9,
    });
    found.models[0].interference = Some(Interference {
        sensitivity: 0.5,
        demand: 1.0,
    });
    let found = answer(Some(&found), &plan(), 2, &[]);
    assert!(
        found
            .words
            .ends_with("; beside others at most 1.50 times as long"),
        "{}",
        found.words
    );
    let model = &found.facts["models"][0];
    assert_eq!(model["beside"][0]["model"], "bert-tiny");
    assert_eq!(model["interference"]["sensitivity"], 0.5);
}

#[test]
fn runs_are_told_by_the_devices_clock_and_by_the_hosts() {
    let clocks = |on_device: Option<u64>| Clocks {
        model: "resnet18",
        batch: 1,
        on_device: on_device.map(Nanos::from_micros),
        by_host: Nanos::from_micros(450),
    };
    let told = |on_device| {
        let found = answer(Some(&profile(&[("resnet18", 4)])), &plan(), 1, &[]);
        by_both_clocks(found, &[clocks(on_device)])
    };
    let found = told(Some(400));
    assert!(
        found.words.ends_with("; the host adds 50 us to a run"),
        "{}",
        found.words
    );
    let facts = &found.facts["clocks"][0];
    assert_eq!(facts["on_device_us"], 400.0);
    assert_eq!(facts["by_host_us"], 450.0);
    // A device without events of its own.
    let found = told(None);
    assert!(!found.words.contains("the host adds"), "{}", found.words);
    assert!(found.facts["clocks"][0]["on_device_us"].is_null());
}

#[test]
fn the_first_models_have_most_of_the_time_and_leave_some_to_the_others() {
    let seconds = |first, left, index| {
        let zoo = fugato_zoo::find("identity").expect("one");
        let plan = Plan {
            models: vec![zoo; 12],
            first,
            ..plan()
        };
        let of = Duration::from_secs;
        plan.part((of(100), of(left)), index).as_secs_f64()
    };
    let is = |found: f64, expected: f64| {
        assert!(
            (found - expected).abs() < 1e-6,
            "{found}, expected {expected}"
        );
    };
    // Four of twelve have 80 of 100 s, of which each has a part of what is left.
    is(seconds(4, 100, 0), 20.0);
    is(seconds(4, 50, 2), 15.0);
    // Those before it took too long: the others wait.
    is(seconds(4, 18, 3), 2.0);
    // What they left, and what is kept for them, is the others'.
    is(seconds(4, 24, 4), 3.0);
    is(seconds(4, 60, 11), 60.0);
    // Where all are first, all share all of it.
    is(seconds(12, 60, 0), 5.0);
}

#[test]
fn a_point_that_failed_is_named() {
    let mut found = profile(&[("resnet18", 4), ("bert-tiny", 4)]);
    found.models[1].grid.push(failed("no memory"));
    let Answer { verdict, words, .. } = answer(Some(&found), &plan(), 2, &[]);
    assert_eq!(verdict, Verdict::Fails);
    assert!(
        words.contains("bert-tiny") && words.contains("no memory"),
        "{words}"
    );
}

#[test]
fn shares_are_quarters_as_far_as_there_are_such() {
    use fugato_core::device::LaneClass;
    use fugato_core::{DeviceId, Share};
    let of = |slices| {
        let lanes = [LaneClass::Normal];
        shares(&DeviceSpec::nested(
            DeviceId(0),
            "a device",
            Share(slices),
            &lanes,
            &lanes,
        ))
    };
    assert_eq!(of(1), [1]);
    assert_eq!(of(2), [1, 2]);
    assert_eq!(of(16), [4, 8, 16]);
}
