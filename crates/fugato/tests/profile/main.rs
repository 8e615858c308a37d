//! `fugato profile` as a user meets it: the binary, real sessions, tiny models.

mod bench;
mod files;
mod legs;
mod stopped;

use bench::{Bench, adder, stderr, up_to_five};
use fugato_core::profile::{Beside, Changeover, GridPoint, ModelProfile, PointKey, Profile};
use fugato_onnx::DataType;
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use std::collections::BTreeSet;

/// The points that a survey of `batches` has on a device whose partitions are of `shares`.
fn keys(profile: &Profile, batches: &[u32]) -> Vec<PointKey> {
    let slices = profile.device.slices;
    // Halves, quarters and so on, which is all there is of two slices and of four.
    let mut shares: Vec<u16> = (1..=slices)
        .filter(|share| share.is_power_of_two())
        .collect();
    if !shares.contains(&slices) {
        shares.push(slices);
    }
    let mut keys = Vec::new();
    for &batch in batches {
        for &share in &shares {
            let others = slices - share;
            for neighbours in std::iter::once(0).chain((others > 0).then_some(others)) {
                keys.push(PointKey {
                    batch,
                    share,
                    neighbours,
                });
            }
        }
    }
    keys
}

fn places(model: &ModelProfile) -> Vec<PointKey> {
    model.grid.iter().map(GridPoint::key).collect()
}

/// The neighbour, and the slices beside it.
fn place_beside(beside: &Beside) -> (&str, &str, u16) {
    assert_eq!((beside.batch, beside.neighbour_batch), (1, 1));
    assert!([7, 9].contains(&beside.repeats), "{beside:?}");
    (&beside.model, &beside.hash, beside.share)
}

#[test]
fn every_model_is_measured_alone_and_beside_busy_slices() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    bench.put("two", &adder(2.0));
    let output = bench.run(&["--batches", "2,1,2", "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = std::fs::read(bench.out()).expect("a profile was written");
    assert_eq!(output.stdout, text, "what is printed is what is written");
    let profile = bench.profile();
    assert!(
        profile.runtime.starts_with("onnxruntime 1."),
        "{}",
        profile.runtime
    );
    assert_eq!(profile.device.kind, "cpu");
    let names: Vec<&str> = profile
        .models
        .iter()
        .map(|model| model.name.as_str())
        .collect();
    assert_eq!(names, ["one", "two"]);
    assert_ne!(profile.models[0].hash, profile.models[1].hash);
    for model in &profile.models {
        assert_eq!(model.version.as_deref(), Some("1"));
        if profile.device.slices.is_power_of_two() {
            assert_eq!(places(model), keys(&profile, &[1, 2]));
        }
        assert!(
            model
                .grid
                .iter()
                .all(|point| point.repeats >= 5 && point.failed.is_none())
        );
        assert!(model.knee.tolerance.is_some());
        let places = |changeover: &Changeover| (changeover.batch, changeover.share);
        let changeovers: BTreeSet<_> = model.changeovers.iter().map(places).collect();
        let shares = model.grid.iter().map(|point| (1, point.share));
        assert_eq!(changeovers, shares.collect());
        // Beside the other one wherever there is room for it.
        let other = profile.models.iter().find(|other| other.name != model.name);
        let other = other.expect("there are two");
        let beside: BTreeSet<_> = model.beside.iter().map(place_beside).collect();
        let busy = model.grid.iter().filter(|point| point.neighbours > 0);
        let busy: BTreeSet<_> = busy
            .map(|point| (other.name.as_str(), other.hash.as_str(), point.share))
            .collect();
        assert_eq!(beside, busy);
        assert_eq!(model.beside.len(), busy.len(), "each once");
        assert_eq!(model.interference.is_some(), !busy.is_empty());
    }
    assert!(profile.launch_s.is_some_and(|launch_s| launch_s > 0.0));
    let by_host = profile.models.iter().all(|model| model.host_s.is_none());
    assert!(by_host, "a CPU has no other clock");
    assert!(
        !stderr(&output).contains('\u{1b}'),
        "no bar where no terminal is"
    );
    let mut left: Vec<_> = std::fs::read_dir(bench.out().parent().expect("a folder"))
        .expect("it can be listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["profile.json", "profile.samples.json"]);
}

#[test]
fn a_batch_that_a_model_cannot_run_is_recorded_and_the_others_are_kept() {
    let bench = Bench::new();
    bench.put("five", &up_to_five());
    let output = bench.run(&["--batches", "1,4,8"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let profile = bench.profile();
    for point in &profile.models[0].grid {
        let reason = point.failed.as_deref();
        if point.batch == 8 {
            assert!(reason.expect("it fails").contains("Gather"), "{reason:?}");
            assert_eq!((point.repeats, point.median_s), (0, None));
        } else {
            assert_eq!(reason, None, "{}", point.key());
            assert!(point.repeats >= 5);
        }
    }
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        table.contains("failed at (batch 8, share 1, neighbours 0): "),
        "{table}"
    );
    if profile.device.slices == 2 {
        assert!(table.contains("none by chord (two shares)"), "{table}");
    }
}

#[test]
fn an_objective_that_no_point_meets_names_the_nearest_and_the_shortfall() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    let flags = ["--batches", "1", "--slo", "one=1ns", "--rate", "one=50"];
    let output = bench.run(&flags);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let profile = bench.profile();
    let model = &profile.models[0];
    assert_eq!((model.slo_s, model.arrival_rate), (Some(1e-9), Some(50.0)));
    for optimum in [&model.optima.efficacy, &model.optima.work] {
        let why = optimum
            .infeasible()
            .expect("no leg takes less than a nanosecond");
        assert_eq!(why.nearest.batch, 1);
        assert!(why.shortfall_s > 0.0);
    }
    // Kept with the profile, so a later run need not be told again.
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    assert_eq!(bench.profile().models[0].slo_s, Some(1e-9));
}

#[test]
fn a_model_that_cannot_be_loaded_does_not_keep_the_others_from_it() {
    let bench = Bench::new();
    bench.put("good", &adder(1.0));
    bench.put("broken", &adder(2.0));
    let broken = bench.0.path().join("models/broken/1/model.onnx");
    std::fs::write(broken, "no model").expect("written");
    let mut varying = adder(3.0);
    let graph = varying.graph.as_mut().expect("it has one");
    let dims = vec![Dimension::symbol("batch"), Dimension::symbol("length")];
    graph.input = vec![ValueInfoProto::tensor("x", DataType::Float, dims.clone())];
    graph.output = vec![ValueInfoProto::tensor("y", DataType::Float, dims)];
    bench.put("varying", &varying);
    let output = bench.run(&["--batches", "1"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("warning: model `broken` cannot be profiled"),
        "{message}"
    );
    assert!(
        message.contains("input `x` has a dimension of any size"),
        "{message}"
    );
    assert!(
        message.contains("hint: describe one in `model_warmup`"),
        "{message}"
    );
    let profile = bench.profile();
    assert_eq!(profile.models.len(), 1);
    assert_eq!(profile.models[0].name, "good");
}

#[test]
fn an_input_of_any_size_is_taken_from_the_models_own_sample() {
    let bench = Bench::new();
    let mut varying = adder(3.0);
    let graph = varying.graph.as_mut().expect("it has one");
    let dims = vec![Dimension::symbol("batch"), Dimension::symbol("length")];
    graph.input = vec![ValueInfoProto::tensor("x", DataType::Float, dims.clone())];
    graph.output = vec![ValueInfoProto::tensor("y", DataType::Float, dims)];
    bench.put("varying", &varying);
    let config = r#"max_batch_size: 4
        input [{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }]
        output [{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }]
        model_warmup [{ name: "typical" batch_size: 1
            inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 7 ] random_data: true } } }]"#;
    let path = bench.0.path().join("models/varying/config.pbtxt");
    std::fs::write(path, config).expect("written");
    let output = bench.run(&["--batches", "1,4,16"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let note = "note: model `varying` runs at most 4 items at once, so [16] is left out";
    assert!(stderr(&output).contains(note), "{}", stderr(&output));
    let profile = bench.profile();
    assert_eq!(profile.models[0].max_batch, 4);
    let batches = profile.models[0].grid.iter().map(|point| point.batch);
    assert_eq!(batches.max(), Some(4));
}

#[test]
fn wrong_flags_name_what_is_wrong() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    bench.put("two", &adder(2.0));
    let cases: [(&[&str], &str); 16] = [
        (&["--batches", "0"], "--batches"),
        (&["--batches", "1,x"], "such as `1,2,4`"),
        (&["--shares", "0"], "--shares"),
        (&["--shares", "999"], "no partition of 999 slices"),
        (&["--shares", "999"], "give `--shares` some of [1, "),
        (&["--budget", "0s"], "--budget"),
        (&["--budget", "5"], "a length of time with its unit"),
        (&["--slo", "one"], "--slo"),
        (&["--slo", "one=0ms"], "no time"),
        (&["--slo", "other=5ms"], "`--slo` names `other`"),
        (
            &["--model", "one", "--slo", "other=5ms"],
            "the models of the repository are: one, two",
        ),
        (
            &["--model", "one", "--slo", "two=5ms"],
            "`--slo` names `two`, which `--model` leaves out",
        ),
        (&["--rate", "one=-1"], "is no rate"),
        (
            &["--model", "other"],
            "`--model` names `other`, the models of the repository are: one, two",
        ),
        (&["--batches", "65537"], "up to 65536"),
        (&["--model", "one", "--config", "none.toml"], "none.toml"),
    ];
    for (flags, message) in cases {
        let output = bench.run(flags);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{flags:?}: {}",
            stderr(&output)
        );
        assert!(
            stderr(&output).contains(message),
            "{flags:?} said {}",
            stderr(&output)
        );
        assert_eq!(output.stdout, b"", "{flags:?}");
        assert!(!bench.out().exists(), "{flags:?}");
    }
}
