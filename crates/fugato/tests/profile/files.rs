//! The files of a profile: what in them is kept, what is replaced, and what is refused.

use crate::bench::{Bench, adder, read, stderr};
use fugato::profiler::files::{Samples, samples_path};
use fugato_core::profile::{Precision, Profile};

#[test]
fn places_that_cannot_be_written_are_refused_before_anything_is_measured() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    let missing = bench.0.path().join("missing/profile.json");
    let file = bench.0.path().join("file");
    std::fs::write(&file, "").expect("written");
    let charts = file.join("charts");
    let plots = charts.to_str().expect("UTF-8");
    let cases = [
        ("--out", &missing, bench.command_to(&missing, &[])),
        ("--plots", &charts, bench.command(&["--plots", plots])),
    ];
    for (flag, path, mut command) in cases {
        let output = command.output().expect("the binary runs");
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let path = path.to_str().expect("UTF-8");
        for part in [flag, path] {
            assert!(stderr(&output).contains(part), "{}", stderr(&output));
        }
        assert_eq!(output.stdout, b"", "{flag}");
        let store = bench.0.path().join("store");
        assert!(!store.exists(), "a model was loaded");
    }
    let left = std::fs::read_dir(bench.out().parent().expect("a folder"));
    assert_eq!(left.expect("it can be listed").count(), 0);
}

#[test]
fn points_without_their_times_count_as_measured() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    assert_eq!(bench.run(&["--batches", "1,2"]).status.code(), Some(0));
    let first = bench.profile();
    std::fs::remove_file(samples_path(&bench.out())).expect("it was written");
    let output = bench.run(&["--batches", "1,2,4"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let second = bench.profile();
    for point in &first.models[0].grid {
        assert_eq!(second.models[0].point(point.key()), Some(point));
    }
    assert_eq!(
        second.models[0].grid.len(),
        first.models[0].grid.len() / 2 * 3
    );
}

#[test]
fn times_that_cannot_have_been_measured_are_refused_by_file_and_point() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    let beside = samples_path(&bench.out());
    let read = || std::fs::read_to_string(&beside).expect("they were written");
    let mut samples: Samples = serde_json::from_str(&read()).expect("in the schema");
    samples.models[0].points[0].visits_ns[0][0] = 0;
    let text = serde_json::to_string(&samples).expect("JSON");
    std::fs::write(&beside, &text).expect("written");
    let output = bench.run(&["--batches", "1"]);
    assert_eq!(output.status.code(), Some(2));
    for part in [
        "profile.samples.json",
        "model `one`: point (batch 1, share 1, neighbours 0) has visits_ns 0",
        "hint: delete it",
    ] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert_eq!(read(), text, "as it was");
}

#[test]
fn what_neighbours_cost_is_measured_once() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    bench.put("two", &adder(2.0));
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    let first = bench.profile();
    bench.put("three", &adder(3.0));
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    let second = bench.profile();
    let [one, two] = &first.models[..] else {
        panic!("there are two: {first:?}");
    };
    let others = |profile: &Profile, name: &str| {
        let mut models = profile.models.iter();
        let model = models.find(|model| model.name == name);
        model.expect("it is there").beside.clone()
    };
    for (known, other) in [(one, "two"), (two, "one")] {
        let beside = others(&second, &known.name);
        assert_eq!(beside[..known.beside.len()], known.beside, "as it was");
        let new = beside[known.beside.len()..].iter();
        let new: Vec<&str> = new.map(|beside| beside.model.as_str()).collect();
        assert_eq!(new, vec!["three"; known.beside.len()], "and not {other}");
    }
    assert_eq!(others(&second, "three").len(), 2 * one.beside.len());
}

#[test]
fn models_that_a_run_leaves_out_stay_in_the_file() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    bench.put("two", &adder(2.0));
    let first = bench.run(&["--batches", "1", "--model", "one"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let one = bench.profile().models[0].clone();
    let second = bench.run(&["--batches", "1", "--model", "two"]);
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert_eq!(bench.profile().models[0], one);
    assert_eq!(bench.profile().models[1].name, "two");
    let samples = std::fs::read(samples_path(&bench.out())).expect("written");
    let samples: Samples = serde_json::from_slice(&samples).expect("in the schema");
    let mut names: Vec<String> = samples.models.into_iter().map(|model| model.name).collect();
    names.sort();
    assert_eq!(names, ["one", "two"]);
}

#[test]
fn a_version_with_other_content_takes_the_place_of_the_earlier_one() {
    let bench = Bench::new();
    bench.put_version("sq", "1", &adder(1.0));
    bench.put_version("sq", "2", &adder(2.0));
    let config = bench.0.path().join("models/sq/config.pbtxt");
    std::fs::write(config, "version_policy: { all { } }").expect("written");
    let versions = |profile: &Profile| -> Vec<(Option<String>, String)> {
        let models = profile.models.iter();
        let pairs = models.map(|model| (model.version.clone(), model.hash.clone()));
        pairs.collect()
    };
    let output = bench.run(&["--batches", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let first = versions(&bench.profile());
    assert_eq!(first.len(), 2);
    assert_ne!(first[0].1, first[1].1);

    bench.put_version("sq", "1", &adder(2.0));
    for _ in 0..2 {
        let output = bench.run(&["--batches", "1"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let hash = &first[1].1;
        let expected = ["1", "2"].map(|version| (Some(version.to_owned()), hash.clone()));
        assert_eq!(versions(&bench.profile()), expected);
        let samples = std::fs::read(samples_path(&bench.out())).expect("written");
        let samples: Samples = serde_json::from_slice(&samples).expect("in the schema");
        assert!(samples.models.iter().all(|model| model.hash == *hash));
    }
}

#[test]
fn a_profile_of_something_else_is_refused_by_name() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    let good = bench.profile();
    let refused = |profile: &Profile, expected: &[&str]| {
        let text = serde_json::to_string(profile).expect("JSON");
        std::fs::write(bench.out(), text).expect("written");
        let output = bench.run(&["--batches", "1"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for part in expected {
            assert!(
                stderr(&output).contains(part),
                "{} lacks {part}",
                stderr(&output)
            );
        }
        let left = std::fs::read_to_string(bench.out()).expect("it is still there");
        assert_eq!(
            left,
            serde_json::to_string(profile).expect("JSON"),
            "as it was"
        );
    };
    std::fs::remove_file(samples_path(&bench.out())).expect("it was written");

    let mut other = good.clone();
    other.device.name = "Abacus".to_owned();
    refused(
        &other,
        &["cpu `Abacus`", &format!("`{}`", good.device.name), "--out"],
    );

    let mut other = good.clone();
    other.runtime = "onnxruntime 0.1".to_owned();
    refused(
        &other,
        &["`onnxruntime 0.1`", &format!("`{}`", good.runtime)],
    );

    let mut other = good.clone();
    other.models[0].hash = "feed".to_owned();
    refused(
        &other,
        &["model `one`", "hash `feed`", &good.models[0].hash],
    );

    let mut other = good;
    let twice = other.models[0].grid[0].clone();
    other.models[0].grid.push(twice);
    refused(
        &other,
        &["point (batch 1, share 1, neighbours 0) is there twice"],
    );

    std::fs::write(bench.out(), "{").expect("written");
    let output = bench.run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--out"), "{}", stderr(&output));
}

#[test]
fn a_model_in_half_precision_has_a_profile_of_its_own() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    assert_eq!(bench.run(&["--batches", "1"]).status.code(), Some(0));
    let single = bench.profile();
    let written = std::fs::read_to_string(bench.out()).expect("it was written");
    assert!(!written.contains("precision"), "{written}");

    // Not into the file of the other one.
    let half = ["--batches", "1", "--precision", "fp16"];
    let output = bench.run(&half);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    for part in ["measured in fp32", "is in fp16", "--out"] {
        assert!(stderr(&output).contains(part), "{}", stderr(&output));
    }
    assert_eq!(bench.profile(), single);

    let out = bench.out().with_file_name("half.json");
    let output = bench.command_to(&out, &half).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("one (version 1, fp16)"), "{table}");
    let found = read(&out);
    assert_eq!(found.models[0].precision, Precision::Fp16);
    assert_ne!(found.models[0].hash, single.models[0].hash);

    // As it is configured; a flag goes before that.
    let config = bench.0.path().join("fugato.toml");
    std::fs::write(&config, "[model.one]\nprecision = \"fp16\"\n").expect("written");
    let config = [
        "--config",
        config.to_str().expect("UTF-8"),
        "--batches",
        "1",
    ];
    let configured = bench.command_to(&out, &config).output().expect("it runs");
    assert_eq!(configured.status.code(), Some(0), "{}", stderr(&configured));
    let config = [&config[..], &["--precision", "fp32"]].concat();
    let flagged = bench.run(&config);
    assert_eq!(flagged.status.code(), Some(0), "{}", stderr(&flagged));
}
