//! Stage plans: made and checked by `fugato plan`, served, refused.

use crate::fixtures::fixtures;
use crate::requests::images;
use crate::server::Server;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const MODEL: &str = "squeezenet1_1";

/// The count of legs that the device ended.
const LEGS: &str = "fugato_device_legs_total{device=\"0\"}";

fn plan(arguments: &[&str]) -> Output {
    plan_of(MODEL, arguments)
}

fn plan_of(model: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
    command.arg("plan").args(["--rounds", "2"]);
    command
        .arg("--model")
        .arg(fixtures().join("models").join(model));
    command.arg("--model-store").arg(fixtures().join("store"));
    command.args(arguments).output().expect("the binary runs")
}

/// A configuration in `folder` that serves the model by the plan beside it.
fn config(folder: &Path) -> String {
    config_of(MODEL, folder)
}

fn config_of(model: &str, folder: &Path) -> String {
    let path = folder.join("fugato.toml");
    let plan = folder.join("plan.json");
    // In legs, though nobody else asks.
    let text = format!("[model.{model}]\nplan = {plan:?}\nunsplit = false\n");
    std::fs::write(&path, text).expect("a file can be written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_plan_gives_the_models_answers_and_its_legs_are_served() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let place = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (out, dot, gantt) = (place("plan.json"), place("plan.dot"), place("plan.svg"));
    let made = plan(&[
        "--planner",
        "sequential,list",
        "--check",
        // A busy machine must not decide what is tested here.
        "--cost-max",
        "1000%",
        "--format",
        "json",
        "--out",
        &out,
        "--dot",
        &dot,
        "--gantt",
        &gantt,
    ]);
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(report["schema"], "fugato.plan-report/2");
    let plans = report["plans"].as_array().expect("a list");
    assert_eq!(plans.len(), 2);
    for planned in plans {
        assert!(
            planned["difference"]
                .as_f64()
                .is_some_and(|found| found <= 1e-5)
        );
        let stages = planned["plan"]["stages"].as_array().map(Vec::len);
        let measured = planned["stages_measured_ns"].as_array().map(Vec::len);
        assert_eq!(stages, measured);
        assert_eq!(planned["fell_back"], false);
        assert_eq!(planned["plan"]["costs"], "measured");
        assert!(planned["planned_in_ns"].as_u64() > Some(0));
        let timed = &planned["plan"]["timed"];
        assert_eq!(timed["legs_ns"], planned["measured_ns"]);
        assert_eq!(timed["unsplit_ns"], report["unsplit_ns"]);
    }
    let read = |path: &str| std::fs::read_to_string(path).expect("it was written");
    let written: Value = serde_json::from_str(&read(&out)).expect("JSON");
    assert_eq!(written, plans[0]["plan"]);
    assert!(read(&dot).starts_with("digraph plan {") && read(&gantt).contains("</svg>"));
    let legs = written["legs"].as_array().expect("a list").len();
    assert!(legs > 1, "{legs} legs");

    let control = ["--model-control-mode", "explicit", "--load-model", MODEL];
    let config = config(folder.path());
    let server = Server::start(&[&control[..], &["--config", &config]].concat());
    let before = server.metric(LEGS);
    let (length, body) = images(1);
    let mut connection = server.connect();
    let headers = [("inference-header-content-length", length.as_str())];
    connection.send(&format!("/v2/models/{MODEL}/infer"), &headers, &body);
    let (status, reply) = connection.receive();
    assert_eq!(status, 200, "{reply}");
    let ran = server.metric(LEGS) - before;
    assert!(ran >= legs as f64, "{ran} legs ran of {legs}");
    walks_through_its_legs(&server, legs);
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
}

/// The trace shows the last task leg by leg, each after the one before it, whatever slices it had.
fn walks_through_its_legs(server: &Server, legs: usize) {
    let mut connection = server.connect();
    connection.get("/v2/timeline");
    let (status, trace) = connection.receive();
    assert_eq!(status, 200, "{trace}");
    let trace: Value = serde_json::from_str(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list of events");
    let spans = events.iter().filter(|event| event["ph"] == "X");
    let of = |event: &Value, key: &str| event["args"][key].as_u64().expect("a number");
    let last = spans.clone().map(|event| of(event, "task")).max();
    let mut walk: Vec<(u64, f64, f64)> = spans
        .filter(|event| Some(of(event, "task")) == last)
        .map(|event| {
            let time = |key: &str| event[key].as_f64().expect("a time");
            (of(event, "leg"), time("ts"), time("ts") + time("dur"))
        })
        .collect();
    // A leg is there once for each slice that it had.
    walk.dedup_by_key(|&mut (leg, ..)| leg);
    let order: Vec<u64> = walk.iter().map(|&(leg, ..)| leg).collect();
    assert_eq!(order, (0..legs as u64).collect::<Vec<_>>(), "{trace}");
    for pair in walk.windows(2) {
        // Microseconds as decimals: the last digit may be off.
        assert!(pair[1].1 >= pair[0].2 - 0.002, "{pair:?}");
    }
}

#[test]
fn a_plan_of_another_model_device_share_or_batch_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let out = folder.path().join("plan.json");
    let out_flags = ["--out", out.to_str().expect("UTF-8"), "--cost-max", "1000%"];
    let made = plan(&out_flags);
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let good = std::fs::read_to_string(&out).expect("it was written");
    let good: Value = serde_json::from_str(&good).expect("JSON");
    let cases = [
        (
            "/key/model",
            json!("00ff"),
            "made for the model with hash `00ff`",
        ),
        ("/key/share", json!(77), "made for a share of 77"),
        (
            "/key/batch",
            json!(4_000),
            "made for a batch of 4000, the model runs at most a batch of ",
        ),
        (
            "/key/device/name",
            json!("another processor"),
            "made for cpu `another processor` of ",
        ),
        (
            "/key/device/slices",
            json!(9_999),
            "` of 9999 slices, this device is cpu `",
        ),
        (
            "/key/runtime",
            json!("other 1"),
            "made with runtime `other 1`",
        ),
        ("/schema", json!("fugato.plan/9"), "schema `fugato.plan/9`"),
        ("/stages/0/groups/0/0", json!(4_000), "segment 4000"),
    ];
    let config = config(folder.path());
    let control = ["--model-control-mode", "explicit", "--load-model", MODEL];
    let control = [
        &control[..],
        &["--load-model", "identity", "--config", &config],
    ]
    .concat();
    for (place, value, named) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(place).expect("a place of the plan") = value;
        std::fs::write(&out, bad.to_string()).expect("a file can be written");
        let server = Server::start(&control);
        let (status, index) = server.post("/v2/repository/index", "");
        assert_eq!(status, 200, "{index}");
        assert!(index.contains(named), "{place}: {index}");
        let root = folder.path().to_str().expect("UTF-8");
        assert!(!index.contains(root), "no path of the server's: {index}");
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0), "{place}");
    }
    let share = plan(&["--share", "77"]);
    let said = String::from_utf8_lossy(&share.stderr).into_owned();
    assert_eq!(share.status.code(), Some(2), "{said}");
    assert!(said.contains("no partition of share of 77"), "{said}");
}

/// Requests of one image to the model, each answered.
fn ask(server: &Server, times: usize) {
    let (length, body) = images(1);
    let mut connection = server.connect();
    let headers = [("inference-header-content-length", length.as_str())];
    for _ in 0..times {
        connection.send(&format!("/v2/models/{MODEL}/infer"), &headers, &body);
        let (status, reply) = connection.receive();
        assert_eq!(status, 200, "{reply}");
    }
}

#[test]
fn legs_need_no_plan() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("fugato.toml");
    let control = ["--model-control-mode", "explicit", "--load-model", MODEL];
    let path_text = path.to_str().expect("UTF-8");
    let arguments = [&control[..], &["--config", path_text]].concat();
    // By default for every model, by its own section, and not at all.
    let all = "[defaults]\nlegs = \"200us\"\nunsplit = false\n".to_owned();
    let own = format!("[model.{MODEL}]\nlegs = \"200us\"\nunsplit = false\n");
    let none = format!("{all}[model.{MODEL}]\nlegs = \"0s\"\n");
    // Nobody else asks, so a task runs in one go.
    let alone = "[defaults]\nlegs = \"200us\"\n".to_owned();
    // A model without legs is measured while nobody asks, which runs legs of its own.
    let quiet = "[profile]\nonline_share = 0.0\n";
    for (text, is_cut) in [(all, true), (own, true), (none, false), (alone, false)] {
        let text = text + quiet;
        std::fs::write(&path, &text).expect("a file can be written");
        let server = Server::start(&arguments);
        let before = server.metric(LEGS);
        ask(&server, 2);
        let ran = server.metric(LEGS) - before;
        assert_eq!(ran > 2.0, is_cut, "{ran} legs of 2 tasks: {text}");
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
    }
    let times = std::fs::read_dir(fixtures().join("store")).expect("the store is there");
    let times = times
        .flatten()
        .filter_map(|entry| std::fs::read_dir(entry.path()).ok());
    let mut times = times.flat_map(Iterator::flatten);
    let kept = times.any(|file| {
        let name = file.file_name().into_string().unwrap_or_default();
        name.starts_with("times-1-1-")
    });
    assert!(kept, "times of segments are kept");
}

/// The profile's legs of a model joined into two, so that nobody would cut it so by chance.
fn in_two(profile: &mut Value) {
    let model = &mut profile["models"][0];
    model["legs"].as_array_mut().expect("legs").truncate(2);
    let plan = &mut model["leg_plan"]["plan"];
    let stages = plan["stages"].as_array().expect("stages").clone();
    assert!(stages.len() > 2, "{} stages", stages.len());
    let leg = |from: usize, to: usize| {
        let times = stages[from..to]
            .iter()
            .map(|stage| stage["predicted_ns"].as_u64());
        let predicted: Option<u64> = times.sum();
        json!({
            "stages": { "start": from, "end": to },
            "sub_batches": 1,
            "predicted_ns": predicted,
        })
    };
    plan["legs"] = json!([leg(0, 1), leg(1, stages.len())]);
}

#[test]
fn a_profile_with_legs_says_how_the_model_is_cut() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let (config, out) = (path("fugato.toml"), path("profile.json"));
    let mut profiled = Command::new(env!("CARGO_BIN_EXE_fugato"));
    profiled.args([
        "profile",
        "--model",
        MODEL,
        "--batches",
        "1",
        "--legs",
        "200us",
    ]);
    profiled.args(["--shares", "1", "--budget", "5m", "--out", &out]);
    profiled
        .arg("--model-repository")
        .arg(fixtures().join("models"));
    profiled.arg("--model-store").arg(fixtures().join("store"));
    let output = profiled.output().expect("the binary runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read = std::fs::read_to_string(&out).expect("it was written");
    let mut profile: Value = serde_json::from_str(&read).expect("JSON");
    in_two(&mut profile);
    std::fs::write(&out, profile.to_string()).expect("a file can be written");

    let control = ["--model-control-mode", "explicit", "--load-model", MODEL];
    let given = ["--config", &config, "--profile", &out];
    let arguments = [&control[..], &given].concat();
    // As its profile has it, anew where other legs are asked for, and as it is where none are.
    let many = 3.0..1_000.0;
    for (legs, expected) in [("200us", 2.0..2.5), ("100us", many), ("0s", 1.0..1.5)] {
        let settings = format!(
            "[model.{MODEL}]\nlegs = \"{legs}\"\nunsplit = false\n[profile]\nonline_share = 0.0\n"
        );
        std::fs::write(&config, settings).expect("a file can be written");
        let server = Server::start(&arguments);
        let before = server.metric(LEGS);
        ask(&server, 2);
        let ran = (server.metric(LEGS) - before) / 2.0;
        assert!(
            expected.contains(&ran),
            "{ran} legs of a task, cut at {legs}"
        );
        server.signal("TERM");
        assert_eq!(server.wait(), Some(0));
    }
}

#[test]
fn a_plan_that_costs_too_much_is_the_model_as_it_is() {
    let made = plan(&["--cost-max", "0%", "--leg-min", "10s", "--format", "json"]);
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let planned = &report["plans"][0];
    assert_eq!(planned["unsplit"], true);
    assert_eq!(planned["plan"]["legs"].as_array().map(Vec::len), Some(1));
}

#[test]
fn computed_costs_are_never_called_measured() {
    let made = plan(&[
        "--costs",
        "modelled",
        "--planner",
        "list",
        "--format",
        "json",
    ]);
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let planned = &report["plans"][0];
    // Where the plan gave way to the model as it is, in one stage, that one was measured. Stages
    // that were only joined into one leg have the times that were computed.
    let stages = planned["plan"]["stages"].as_array().map(Vec::len);
    let expected = if stages == Some(1) {
        "measured"
    } else {
        "modelled"
    };
    assert_eq!(planned["plan"]["costs"], expected, "{planned}");
}

#[test]
fn inspection_says_where_a_model_can_be_cut() {
    for (flag, is_measured) in [("--legs", false), ("--time", true)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fugato"));
        command.args(["model", "inspect", flag, "--format", "json", "--model"]);
        command.arg(fixtures().join("models").join(MODEL));
        command.arg("--model-store").arg(fixtures().join("store"));
        let output = command.output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let legs = &report["legs"];
        assert!(legs["segments"].as_u64() > Some(8), "eight forks: {legs}");
        assert!(legs["operators"].as_u64() > legs["segments"].as_u64());
        assert_eq!(legs["measured"], is_measured);
        assert_eq!(legs["indivisible"], Value::Null);
        assert_eq!(legs["held_together"], json!([]));
    }
}

#[test]
fn tasks_in_flight_are_planned_as_one_graph() {
    for costs in ["modelled", "measured"] {
        let made = plan(&[
            "--in-flight",
            "3",
            "--costs",
            costs,
            "--planner",
            "list,sequential",
            "--format",
            "json",
        ]);
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        let report: Value = serde_json::from_slice(&made.stdout).expect("JSON");
        assert_eq!(report["schema"], "fugato.plan-in-flight/1");
        assert_eq!(report["costs"], costs);
        let segments = report["segments"].as_u64().expect("a number");
        let plans = report["plans"].as_array().expect("a list");
        assert_eq!(plans.len(), 2);
        for planned in plans {
            are_whole(planned, segments);
            assert!(planned["gain"].as_f64() >= Some(1.0), "{planned}");
        }
        assert_eq!(plans[1]["planner"], "sequential");
        assert_eq!(plans[1]["gain"], 1.0);
        assert_eq!(plans[1]["shared_stages"], 0);
    }
    let table = plan(&["--in-flight", "2", "--costs", "modelled"]);
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(
        table.status.success() && text.contains("2 tasks in flight"),
        "{text}"
    );
    assert!(text.contains("COMPUTED from operations"), "{text}");
    for wrong in [&["--in-flight", "1"][..], &["--in-flight", "2", "--check"]] {
        assert_eq!(plan(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// The stages have what is left of each task, once; the times add up.
fn are_whole(planned: &Value, segments: u64) {
    let number = |value: &Value| value.as_u64().expect("a number");
    let positions = planned["positions"].as_array().expect("a list");
    let done: Vec<u64> = positions
        .iter()
        .map(|at| number(&at["legs_done"]))
        .collect();
    assert_eq!(done[0], 0, "the first has just begun");
    assert!(done.is_sorted(), "{done:?}");
    let stages = planned["stages"].as_array().expect("a list");
    let time = stages.iter().map(|stage| number(&stage["predicted_ns"]));
    assert_eq!(time.sum::<u64>(), number(&planned["together_ns"]));
    let groups = stages
        .iter()
        .flat_map(|stage| stage["groups"].as_array().expect("a list"));
    let placed = groups.flat_map(|group| group.as_array().expect("a list"));
    let placed = placed.map(|placed| (number(&placed["task"]), number(&placed["segment"])));
    let mut placed: Vec<(u64, u64)> = placed.collect();
    placed.sort_unstable();
    let count = placed.len();
    placed.dedup();
    assert_eq!(placed.len(), count, "no segment of a task is twice there");
    for (task, position) in (0..).zip(positions) {
        let own = placed.iter().filter(|placed| placed.0 == task).count() as u64;
        assert_eq!(own, number(&position["segments_left"]), "task {task}");
        assert!(own <= segments);
    }
}

/// What a server that starts with these arguments answers for the forked model.
fn forked_output(arguments: &[&str]) -> Vec<f64> {
    let server = Server::start(arguments);
    let data: Vec<f64> = (0..512).map(|at| f64::from(at % 17) / 17.0).collect();
    let input = json!({"name": "input", "shape": [1, 32, 4, 4], "datatype": "FP32", "data": data});
    let body = json!({ "inputs": [input] }).to_string();
    let (status, reply) = server.post("/v2/models/forked/infer", &body);
    assert_eq!(status, 200, "{reply}");
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let reply: Value = serde_json::from_str(&reply).expect("JSON");
    let data = reply["outputs"][0]["data"].as_array().expect("a list");
    let numbers = data.iter().map(|number| number.as_f64().expect("a number"));
    numbers.collect()
}

#[test]
fn like_convolutions_run_as_one_where_a_plan_says_so() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let out = folder.path().join("plan.json");
    let dot = folder.path().join("plan.dot");
    let made = plan_of(
        "forked",
        &[
            "--planner",
            "sequential,ios-merge",
            "--check",
            "--cost-max",
            "1000%",
            "--format",
            "json",
            "--out",
            out.to_str().expect("UTF-8"),
            "--dot",
            dot.to_str().expect("UTF-8"),
        ],
    );
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let merging = &report["plans"][1];
    assert_eq!(merging["plan"]["planner"], "ios-merge");
    assert!(merging["difference"].as_f64() <= Some(1e-5), "{merging}");
    assert!(merging["merged"].as_u64() <= merging["merged_planned"].as_u64());

    // Whether merging is faster is up to the machine: the convolutions, which the two plans
    // have as segments of their own, are merged by hand.
    let mut plan = report["plans"][0]["plan"].clone();
    assert_eq!(plan["stackable_apart"], true);
    let stages = plan["stages"].as_array().expect("a list").clone();
    let count = stages.len();
    let sum: u64 = stages
        .iter()
        .filter_map(|stage| stage["predicted_ns"].as_u64())
        .sum();
    assert!(count >= 3, "{plan}");
    let stage = |segments: &[usize], merged: bool| {
        let time = if merged { sum } else { 0 };
        json!({"groups": [segments], "merged": merged, "predicted_ns": time})
    };
    let drawn = std::fs::read_to_string(&dot).expect("it was written");
    let forks = (0..count).filter(|place| {
        let start = format!("    s{place} [");
        let mut lines = drawn.lines();
        lines.any(|line| line.starts_with(&start) && line.ends_with("\\nConv\"];"))
    });
    let forks: Vec<usize> = forks.collect();
    assert_eq!(forks.len(), 2, "{drawn}");
    let mut merged = Vec::new();
    for place in 0..count {
        if place == forks[0] {
            merged.push(stage(&forks, true));
        } else if !forks.contains(&place) {
            merged.push(stage(&[place], false));
        }
    }
    let leg = json!({
        "stages": {"start": 0, "end": merged.len()}, "sub_batches": 1, "predicted_ns": sum
    });
    plan["predicted_ns"] = json!(sum);
    plan["legs"] = json!([leg]);
    plan["stages"] = json!(merged);
    std::fs::write(&out, plan.to_string()).expect("a file can be written");
    let control = ["--model-control-mode", "explicit", "--load-model", "forked"];
    let config = config_of("forked", folder.path());
    let found = forked_output(&[&control[..], &["--config", &config]].concat());
    let expected = forked_output(&control);
    assert_eq!(found.len(), 64 * 16);
    let largest = expected
        .iter()
        .fold(0.0_f64, |most, value| most.max(value.abs()));
    assert!(largest > 1.0);
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * largest,
            "{found}, {expected}"
        );
    }
    let store = std::fs::read_dir(fixtures().join("store")).expect("the store is there");
    let parts = store
        .flatten()
        .filter_map(|entry| std::fs::read_dir(entry.path()).ok());
    let is_stacked = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.expect("a file of the store");
        let content = std::fs::read(file.path()).unwrap_or_default();
        let is_part = file.file_name().to_string_lossy().starts_with("part-");
        is_part
            && content
                .windows(21)
                .any(|part| part == b"fugato:stacked:filter")
    };
    assert!(
        parts.flatten().any(is_stacked),
        "a part was written whose filters are stacked"
    );
}
