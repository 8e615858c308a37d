//! `fugato profile` as a user meets it: the binary, real sessions, tiny models.

use fugato::profiler::files::{Samples, samples_path};
use fugato_core::profile::{Changeover, GridPoint, ModelProfile, PointKey, Profile};
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::proto::{OperatorSetIdProto, ValueInfoProto};
use fugato_onnx::{
    DataType, ExternalPolicy, GraphProto, ModelProto, NodeProto, TensorProto, save_model,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What tests wait for takes seconds; this long only where something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A repository, a store and a place for profiles, gone at the end of the test.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch folder"))
    }

    fn put(&self, name: &str, model: &ModelProto) {
        self.put_version(name, "1", model);
    }

    fn put_version(&self, name: &str, version: &str, model: &ModelProto) {
        let folder = self.0.path().join("models").join(name).join(version);
        std::fs::create_dir_all(&folder).expect("folders");
        save_model(model, &folder.join("model.onnx"), ExternalPolicy::Never).expect("written");
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out/profile.json")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_to(&self.out(), arguments)
    }

    fn command_to(&self, out: &Path, arguments: &[&str]) -> Command {
        std::fs::create_dir_all(self.0.path().join("out")).expect("a folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
        command.arg("profile").arg("--model-repository");
        command.arg(self.0.path().join("models"));
        command
            .arg("--model-store")
            .arg(self.0.path().join("store"));
        command.arg("--out").arg(out).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    fn profile(&self) -> Profile {
        read(&self.out())
    }
}

fn read(path: &Path) -> Profile {
    let text = std::fs::read_to_string(path).expect("a profile was written");
    let profile: Profile = serde_json::from_str(&text).expect("in the schema");
    profile.check().expect("fit to be used");
    profile
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

fn model(nodes: Vec<NodeProto>, width: i64, initializer: Vec<TensorProto>) -> ModelProto {
    let value = |name: &str| {
        let dims = vec![Dimension::symbol("batch"), Dimension::size(width)];
        ValueInfoProto::tensor(name, DataType::Float, dims)
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("graph".to_owned()),
            node: nodes,
            initializer,
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

/// `y = x + k`, microseconds long.
fn adder(k: f32) -> ModelProto {
    let add = NodeProto::new("add", "Add", &["x", "k"], &["y"]);
    model(vec![add], 1, vec![TensorProto::from_f32s("k", &[1], &[k])])
}

/// `y = x + table[batch - 1]`: only batches up to the table's five rows can be run.
fn up_to_five() -> ModelProto {
    let ints = |name: &str, values: &[i64]| TensorProto::from_i64s(name, &[1], values);
    let node =
        |op: &str, inputs: &[&str], output: &str| NodeProto::new(output, op, inputs, &[output]);
    let nodes = vec![
        node("Shape", &["x"], "shape"),
        node("Gather", &["shape", "zero"], "batch"),
        node("Sub", &["batch", "one"], "row"),
        node("Gather", &["table", "row"], "addend"),
        node("Add", &["x", "addend"], "y"),
    ];
    let table = TensorProto::from_f32s("table", &[5], &[0.0; 5]);
    model(nodes, 1, vec![ints("zero", &[0]), ints("one", &[1]), table])
}

/// Fifty products with one matrix of 4 MB: milliseconds an item, on any machine.
fn slow() -> ModelProto {
    const WIDTH: i64 = 1024;
    const PRODUCTS: usize = 50;
    let value = |index: usize| match index {
        0 => "x".to_owned(),
        PRODUCTS => "y".to_owned(),
        index => format!("h{index}"),
    };
    let nodes = (0..PRODUCTS).map(|index| {
        let (from, to) = (value(index), value(index + 1));
        NodeProto::new(&format!("n{index}"), "MatMul", &[&from, "w"], &[&to])
    });
    let weights: Vec<f32> = (0..WIDTH * WIDTH).map(|i| (i % 7) as f32 * 1e-4).collect();
    let w = TensorProto::from_f32s("w", &[WIDTH, WIDTH], &weights);
    model(nodes.collect(), WIDTH, vec![w])
}

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
    }
    assert!(profile.launch_s.is_some_and(|launch_s| launch_s > 0.0));
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

/// Waits until what is at `--out` is no longer `before`.
fn wait_until_kept(bench: &Bench, before: Option<&[u8]>, child: &mut Child) {
    let patience = Instant::now() + PATIENCE;
    while std::fs::read(bench.out()).ok().as_deref() == before {
        let ended = child.try_wait().expect("the child can be asked");
        assert_eq!(ended, None, "it ended before it was interrupted");
        assert!(Instant::now() < patience, "nothing is kept");
        std::thread::yield_now();
    }
}

fn interrupt(child: Child, signal: &str) -> Output {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &id]).status();
    assert!(sent.expect("kill runs").success());
    child.wait_with_output().expect("it ends")
}

fn repeats(profile: &Profile) -> BTreeMap<PointKey, u32> {
    let points = profile.models.iter().flat_map(|model| &model.grid);
    points.map(|point| (point.key(), point.repeats)).collect()
}

#[test]
fn what_is_interrupted_is_kept_and_gone_on_from() {
    let bench = Bench::new();
    bench.put("slow", &slow());
    let arguments = ["--batches", "1,2,4,8,16", "--budget", "10min"];
    let mut known = BTreeMap::new();
    for (signal, code) in [("INT", 130), ("TERM", 143), ("INT", 130)] {
        let mut command = bench.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let before = std::fs::read(bench.out()).ok();
        let mut child = command.spawn().expect("the binary runs");
        wait_until_kept(&bench, before.as_deref(), &mut child);
        let output = interrupt(child, signal);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let message = stderr(&output);
        assert!(
            message.contains("interrupted; what was measured is in"),
            "{message}"
        );
        assert!(
            message.contains("run the same command again to go on"),
            "{message}"
        );
        let found = repeats(&bench.profile());
        let kept = |(key, legs): (&PointKey, &u32)| found.get(key).is_some_and(|now| now >= legs);
        assert!(known.iter().all(kept), "{known:?} then {found:?}");
        assert!(
            found.values().sum::<u32>() > known.values().sum(),
            "it went on"
        );
        known = found;
    }
}

#[test]
fn a_budget_that_is_too_small_says_so_and_how_to_go_on() {
    let bench = Bench::new();
    bench.put("slow", &slow());
    let output = bench.run(&["--budget", "1s"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(
        message.contains("the budget of 1s was spent before"),
        "{message}"
    );
    // On a busy machine loading may take as long.
    let expected = match bench.out().exists() {
        true => "run the same command again",
        false => "nothing was measured",
    };
    assert!(message.contains(expected), "{message}");
}

#[test]
fn where_nothing_was_measured_no_file_is_promised() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    let charts = bench.0.path().join("charts");
    let plots = charts.to_str().expect("UTF-8");
    let output = bench.run(&["--budget", "1ns", "--plots", plots]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let message = stderr(&output);
    assert!(message.ends_with("; nothing was measured\n"), "{message}");
    assert!(!bench.out().exists());
}

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
