//! The profile's wire schema, and what a bad profile is told.

mod beside;
mod legs;

use fugato_core::profile::{
    AnalysisOptions, Candidate, Changeover, Constraint, DeviceKey, Fit, GridPoint, Infeasible,
    Kernel, KernelList, ModelKey, ModelProfile, Optimum, OptimumPoint, PointKey, Precision,
    Profile, SCHEMA, analyse, check_samples,
};

fn point(batch: u32, share: u16) -> GridPoint {
    let median = 0.004 * f64::from(batch) / f64::from(share);
    GridPoint {
        batch,
        share,
        neighbours: 0,
        median_s: Some(median),
        p95_s: Some(median * 1.1),
        low_s: Some(median * 0.99),
        high_s: Some(median * 1.01),
        repeats: 20,
        failed: None,
    }
}

fn profile() -> Profile {
    let mut model = ModelProfile::new("resnet50", "abc", 2);
    model.version = Some("1".to_owned());
    model.grid = vec![point(1, 1), point(1, 2), point(2, 1), point(2, 2)];
    Profile {
        schema: SCHEMA.to_owned(),
        device: DeviceKey {
            kind: "cpu".to_owned(),
            name: "Some CPU".to_owned(),
            slices: 2,
        },
        runtime: "onnxruntime 1.31.0".to_owned(),
        synthetic: false,
        launch_s: None,
        models: vec![model],
    }
}

fn changeover(batch: u32, share: u16, extra_s: f64, repeats: u32) -> Changeover {
    Changeover {
        batch,
        share,
        extra_s,
        repeats,
    }
}

type Change = fn(&mut Profile);

#[test]
fn bad_profiles_are_refused_by_name() {
    let here = "profile of model `resnet50`: point (batch 2, share 1, neighbours 0)";
    let cases: [(Change, String); 24] = [
        (
            |profile| profile.models[0].grid[2].high_s = Some(86_401.0),
            format!(
                "{here} has high_s 86401, expected a positive number of seconds, at most a day"
            ),
        ),
        (
            |profile| profile.launch_s = Some(0.0),
            "profile's launch_s is 0, expected a positive number of seconds, at most a day"
                .to_owned(),
        ),
        (
            |profile| profile.models[0].host_s = Some(-1.0),
            "profile's host_s of model `resnet50` is -1, expected a positive number of seconds, \
             at most a day"
                .to_owned(),
        ),
        (
            |profile| profile.models[0].changeovers = vec![changeover(0, 1, 0.0, 7)],
            "profile's changeovers.batch of model `resnet50` is 0, expected at least 1".to_owned(),
        ),
        (
            |profile| profile.models[0].changeovers = vec![changeover(1, 3, 0.0, 7)],
            "profile's changeovers.share of model `resnet50` is 3, expected 1 to 2 slices"
                .to_owned(),
        ),
        (
            |profile| profile.models[0].changeovers = vec![changeover(1, 1, -0.001, 7)],
            "profile's changeovers.extra_s of model `resnet50` is -0.001, expected 0 or a positive \
             number of seconds, at most a day"
                .to_owned(),
        ),
        (
            |profile| profile.models[0].changeovers = vec![changeover(1, 1, 0.0, 0)],
            "profile's changeovers.repeats of model `resnet50` is 0, expected at least 1".to_owned(),
        ),
        (
            |profile| profile.schema = "fugato.profile/9".to_owned(),
            "profile has schema `fugato.profile/9`, expected `fugato.profile/1`".to_owned(),
        ),
        (
            |profile| profile.device.slices = 0,
            "profile's device.slices is 0, expected at least 1".to_owned(),
        ),
        (
            |profile| profile.models[0].slo_s = Some(f64::NAN),
            "profile's slo_s of model `resnet50` is NaN, expected a positive number".to_owned(),
        ),
        (
            |profile| profile.models[0].arrival_rate = Some(0.0),
            "profile's arrival_rate of model `resnet50` is 0, expected a positive number"
                .to_owned(),
        ),
        (
            |profile| profile.models[0].max_batch = 0,
            "profile's max_batch of model `resnet50` is 0, expected at least 1".to_owned(),
        ),
        (
            |profile| profile.models[0].hash.clear(),
            "profile's hash of model `resnet50` is empty, expected a content hash".to_owned(),
        ),
        (
            |profile| profile.models.push(profile.models[0].clone()),
            "profile has model `resnet50` version 1 twice".to_owned(),
        ),
        (
            |profile| profile.models[0].grid[2].median_s = Some(f64::NAN),
            format!(
                "{here} has median_s NaN, expected a positive number of seconds, at most a day"
            ),
        ),
        (
            |profile| profile.models[0].grid[2].p95_s = Some(0.0),
            format!("{here} has p95_s 0, expected a positive number of seconds, at most a day"),
        ),
        (
            |profile| profile.models[0].grid[2].low_s = Some(-1.0),
            format!("{here} has low_s -1, expected a positive number of seconds, at most a day"),
        ),
        (
            |profile| profile.models[0].grid[2].high_s = Some(0.001),
            format!("{here} has high_s 0.001, expected at least median_s"),
        ),
        (
            |profile| profile.models[0].grid[2].median_s = None,
            format!("{here} has median_s missing, expected a time, or why it failed"),
        ),
        (
            |profile| profile.models[0].grid[2].failed = Some("out of memory".to_owned()),
            format!("{here} has median_s 0.008, expected no time, because the point failed"),
        ),
        (
            |profile| profile.models[0].grid[2].repeats = 0,
            format!("{here} has repeats 0, expected at least 1 where there is a time"),
        ),
        (
            |profile| profile.models[0].grid.push(point(2, 1)),
            "profile of model `resnet50`: point (batch 2, share 1, neighbours 0) is there twice"
                .to_owned(),
        ),
        (
            |profile| drop(profile.models[0].grid.remove(2)),
            format!("{here} is missing\nhint: mark the model `sparse` where points were left out"),
        ),
        (
            |profile| profile.models[0].grid.push(point(2, 3)),
            "profile of model `resnet50`: point (batch 2, share 3, neighbours 0) has share 3, \
             expected 1 to 2 slices"
                .to_owned(),
        ),
    ];
    assert_eq!(profile().check(), Ok(()));
    for (change, expected) in cases {
        let mut bad = profile();
        change(&mut bad);
        let error = bad.check().expect_err(&expected);
        assert_eq!(error.to_string(), expected);
    }
}

/// A profile with a fit, knees and optima.
fn concluded() -> Profile {
    let mut concluded = profile();
    let model = &mut concluded.models[0];
    analyse(model, &AnalysisOptions::new(2));
    model.optima.efficacy = Optimum::At(best(1, 2));
    concluded
}

fn best(batch: u32, share: u16) -> OptimumPoint {
    OptimumPoint {
        batch,
        share,
        granted: share,
        latency_s: 0.002,
        measured: true,
        rivals: vec![],
    }
}

fn fit_of(profile: &mut Profile) -> &mut Fit {
    profile.models[0]
        .fit
        .as_mut()
        .expect("four points are enough")
}

#[test]
fn conclusions_beyond_the_grid_or_the_device_are_refused_by_name() {
    let cases: [(Change, &str, &str); 17] = [
        (
            |profile| fit_of(profile).model.kernels[0].launch_s = -1.0,
            "fit.model.kernels[0].launch_s",
            "-1, expected a number of at least 0",
        ),
        (
            |profile| fit_of(profile).model.sync_s = f64::INFINITY,
            "fit.model.sync_s",
            "inf, expected a number of at least 0",
        ),
        (
            |profile| fit_of(profile).model = KernelList::default(),
            "fit at (batch 1, share 1)",
            "0 seconds, expected a positive number of seconds, at most a day",
        ),
        (
            |profile| {
                fit_of(profile).model.kernels = vec![Kernel {
                    repeats: 1.0,
                    launch_s: 1e6,
                    ..Kernel::default()
                }];
            },
            "fit at (batch 1, share 1)",
            "1000000 seconds, expected a positive number of seconds, at most a day",
        ),
        (
            |profile| fit_of(profile).contention = Some(-1.0),
            "fit.contention",
            "-1, expected a number above -1",
        ),
        (
            |profile| fit_of(profile).range.batch_max = 4_000_000_000,
            "fit.range.batch_max",
            "4000000000, expected 1 to 2 items, as the grid has",
        ),
        (
            |profile| fit_of(profile).range.share_min = 0,
            "fit.range.share_min",
            "0, expected 1 to 2 slices, as the grid has",
        ),
        (
            |profile| {
                fit_of(profile).range.batch_min = 2;
                fit_of(profile).range.batch_max = 1;
            },
            "fit.range.batch_min",
            "2, expected at most batch_max",
        ),
        (
            |profile| fit_of(profile).points[1].error = f64::NAN,
            "fit.points[1].error",
            "NaN, expected a number of at least 0",
        ),
        (
            |profile| profile.models[0].knee.chord = Some(999),
            "knee.chord",
            "999, expected 1 to 2 slices",
        ),
        (
            |profile| profile.models[0].knees[1].batch = 0,
            "knees[1].batch",
            "0, expected 1 to 2 items, as the grid has",
        ),
        (
            |profile| profile.models[0].optima.efficacy = Optimum::At(best(1, 999)),
            "optima.efficacy.share",
            "999, expected 1 to 2 slices",
        ),
        (
            |profile| profile.models[0].optima.efficacy = Optimum::At(best(0, 1)),
            "optima.efficacy.batch",
            "0, expected 1 to 2 items, as the grid has",
        ),
        (
            |profile| {
                profile.models[0].optima.work = Optimum::At(OptimumPoint {
                    latency_s: -0.1,
                    ..best(1, 1)
                });
            },
            "optima.work.latency_s",
            "-0.1, expected a positive number of seconds, at most a day",
        ),
        (
            |profile| {
                profile.models[0].optima.work = Optimum::Infeasible(Infeasible {
                    constraint: Constraint::HalfSlo,
                    shortfall_s: 0.001,
                    nearest: Candidate { batch: 3, share: 1 },
                });
            },
            "optima.work.infeasible.nearest.batch",
            "3, expected 1 to 2 items, as the grid has",
        ),
        (
            |profile| profile.models[0].grid.clear(),
            "fit",
            "there, expected none, as the grid is empty",
        ),
        (
            |profile| {
                profile.models[0].grid.clear();
                profile.models[0].fit = None;
            },
            "knee",
            "there, expected none, as the grid is empty",
        ),
    ];
    assert_eq!(concluded().check(), Ok(()));
    for (change, field, rest) in cases {
        let mut bad = concluded();
        change(&mut bad);
        let expected = format!("profile's {field} of model `resnet50` is {rest}");
        let error = bad.check().expect_err(&expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn times_that_were_not_measured_here_are_refused_by_name() {
    let point = |share| PointKey {
        batch: 1,
        share,
        neighbours: 0,
    };
    let good = vec![vec![1, 2], vec![86_400_000_000_000]];
    let here = "profile of model `resnet50`: point (batch 1, share";
    let nanos = "expected 1 to 86400000000000 ns";
    let cases = [
        (
            vec![(point(1), vec![vec![5, 0]])],
            format!("{here} 1, neighbours 0) has visits_ns 0, {nanos}"),
        ),
        (
            vec![(point(2), vec![vec![5], vec![u64::MAX]])],
            format!("{here} 2, neighbours 0) has visits_ns 18446744073709551615, {nanos}"),
        ),
        (
            vec![(point(1), good.clone()), (point(1), good.clone())],
            format!("{here} 1, neighbours 0) is there twice"),
        ),
        (
            vec![(point(3), good.clone())],
            format!("{here} 3, neighbours 0) has share 3, expected 1 to 2 slices"),
        ),
    ];
    let check = |points: &[(PointKey, Vec<Vec<u64>>)]| {
        let points = points
            .iter()
            .map(|(point, visits)| (*point, visits.as_slice()));
        check_samples("resnet50", points, 2)
    };
    assert_eq!(check(&[(point(1), good.clone()), (point(2), good)]), Ok(()));
    for (points, expected) in cases {
        let error = check(&points).expect_err(&expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn what_is_no_number_is_refused_by_its_point() {
    let text = serde_json::to_string(&profile()).expect("JSON");
    for (written, found) in [
        ("\"NaN\"", "NaN"),
        ("\"Infinity\"", "inf"),
        ("\"-inf\"", "-inf"),
    ] {
        let bad = text.replacen("\"median_s\":0.004", &format!("\"median_s\":{written}"), 1);
        let bad: Profile = serde_json::from_str(&bad).expect("it can be read");
        let error = bad.check().expect_err(written);
        let expected = format!(
            "profile of model `resnet50`: point (batch 1, share 1, neighbours 0) has median_s \
             {found}, expected a positive number of seconds, at most a day"
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_sparse_model_and_a_failed_point_are_good() {
    let mut sparse = profile();
    sparse.models[0].grid.remove(2);
    sparse.models[0].sparse = true;
    assert_eq!(sparse.check(), Ok(()));
    let mut failed = profile();
    failed.models[0].grid[2] = GridPoint {
        median_s: None,
        p95_s: None,
        low_s: None,
        high_s: None,
        repeats: 0,
        failed: Some("out of memory".to_owned()),
        ..point(2, 1)
    };
    assert_eq!(failed.check(), Ok(()));
}

#[test]
fn a_profile_of_something_else_is_refused_with_both_names() {
    let profile = profile();
    let other = DeviceKey {
        kind: "cuda".to_owned(),
        name: "H200".to_owned(),
        slices: 132,
    };
    let cases = [
        (
            profile.matches(&other, "onnxruntime 1.31.0"),
            "profile was measured on cpu `Some CPU` of 2 slices, this device is cuda `H200` of \
             132 slices",
        ),
        (
            profile.matches(&profile.device, "onnxruntime 1.32.0"),
            "profile was measured with runtime `onnxruntime 1.31.0`, this one is `onnxruntime \
             1.32.0`",
        ),
        (
            profile.models[0].matches("def"),
            "profile of model `resnet50` was measured on version 1, hash `abc`, the model at \
             hand is hash `def`",
        ),
        (
            profile
                .model("resnet50", &key("2", "def", Precision::Fp32))
                .map(drop),
            "profile of model `resnet50` was measured on version 1, hash `abc`, the model at \
             hand is version 2, hash `def`",
        ),
        (
            profile
                .model("resnet50", &key("1", "def", Precision::Fp16))
                .map(drop),
            "profile of model `resnet50` was measured in fp32, the model at hand is in fp16",
        ),
    ];
    for (result, expected) in cases {
        assert_eq!(result.expect_err(expected).to_string(), expected);
    }
    assert_eq!(
        profile.matches(&profile.device, "onnxruntime 1.31.0"),
        Ok(())
    );
    let of = |name, version| profile.model(name, &key(version, "abc", Precision::Fp32));
    assert!(matches!(of("resnet50", "2"), Ok(Some(_))));
    assert_eq!(of("vgg19", "1"), Ok(None));
}

fn key(version: &str, hash: &str, precision: Precision) -> ModelKey {
    ModelKey {
        version: Some(version.to_owned()),
        hash: hash.to_owned(),
        precision,
    }
}

#[test]
fn of_versions_in_two_precisions_the_one_alike_is_named() {
    let mut profile = profile();
    let mut half = profile.models[0].clone();
    (half.hash, half.precision) = ("cde".to_owned(), Precision::Fp16);
    half.version = Some("2".to_owned());
    profile.models.push(half);
    let found = profile.model("resnet50", &key("2", "cde", Precision::Fp16));
    assert_eq!(
        found.map(|found| found.map(|one| &*one.hash)),
        Ok(Some("cde"))
    );
    for (precision, version, hash) in [(Precision::Fp32, 1, "abc"), (Precision::Fp16, 2, "cde")] {
        let refused = profile.model("resnet50", &key("3", "new", precision));
        let refused = refused.map(drop).expect_err("no such file").to_string();
        let named = format!("version {version}, hash `{hash}`");
        assert!(refused.contains(&named), "{refused}");
    }
}

#[test]
fn a_precision_is_written_where_it_is_not_the_files_own() {
    let mut profile = profile();
    let written = |profile: &Profile| serde_json::to_value(profile).expect("JSON");
    assert_eq!(written(&profile)["models"][0].get("precision"), None);
    profile.models[0].precision = Precision::Fp16;
    let half = written(&profile);
    assert_eq!(half["models"][0]["precision"], "fp16");
    assert_eq!(serde_json::from_value::<Profile>(half).ok(), Some(profile));
}

#[test]
fn the_wire_schema_is_as_documented() {
    let mut written = profile();
    written.models[0].optima.efficacy = Optimum::At(OptimumPoint {
        batch: 2,
        share: 1,
        granted: 1,
        latency_s: 0.008,
        measured: true,
        rivals: vec![],
    });
    written.models[0].optima.work = Optimum::Infeasible(Infeasible {
        constraint: Constraint::HalfSlo,
        shortfall_s: 0.001,
        nearest: Candidate { batch: 1, share: 2 },
    });
    let wire = serde_json::to_value(&written).unwrap();
    let model = &wire["models"][0];
    assert_eq!(
        model["optima"],
        serde_json::json!({
            "efficacy": {
                "batch": 2, "share": 1, "granted": 1, "latency_s": 0.008, "measured": true
            },
            "work": {
                "batch": null,
                "share": null,
                "infeasible": {
                    "constraint": "half_slo",
                    "shortfall_s": 0.001,
                    "nearest": {"batch": 1, "share": 2},
                },
            },
        })
    );
    assert_eq!(
        model["knee"],
        serde_json::json!({"tolerance": null, "efficacy": null, "chord": null})
    );
    assert_eq!(
        model["grid"][0],
        serde_json::json!({
            "batch": 1, "share": 1, "neighbours": 0, "median_s": 0.004, "p95_s": 0.0044,
            "low_s": 0.00396, "high_s": 0.00404, "repeats": 20, "failed": null,
        })
    );
    let text = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), written);
    let newer = text.replace(SCHEMA, "fugato.profile/2");
    let error = serde_json::from_str::<Profile>(&newer).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("profile has schema `fugato.profile/2`, expected `fugato.profile/1`"),
        "{error}"
    );
}
