//! `fugato plan` of a small model: its check, where answers depend on how it is cut, and what
//! its report says of a planner's limits.

use crate::onnx::{fixed, model, node};
use crate::{on, said};
use fugato_onnx::ModelProto;
use fugato_onnx::proto::AttributeProto;
use serde_json::{Value, json};

/// Enough numbers that dispatching a leg costs little beside drawing them.
const NUMBERS: i64 = 200_000;

/// A fork and a join, one side of which draws at random or not. ONNX Runtime draws other
/// numbers where the operator stands at another place of its graph, as it does in a part.
fn forked(draws: bool) -> ModelProto {
    let side = match draws {
        true => node("RandomNormalLike", &["a"], &["r"]).with([AttributeProto::int("dtype", 1)]),
        false => node("Tanh", &["a"], &["r"]),
    };
    model(
        vec![
            node("Sigmoid", &["x"], &["a"]),
            node("Exp", &["a"], &["e"]),
            side,
            node("Add", &["e", "r"], &["y"]),
        ],
        vec![fixed("x", &[1, NUMBERS])],
        vec![fixed("y", &[1, NUMBERS])],
        vec![],
    )
}

/// The exit code, what was said, and the report on the plan, which has several legs.
fn checked(draws: bool, flags: &[&str]) -> (Option<i32>, String, Value) {
    // A busy machine must not decide whether there are legs.
    let arguments = [
        "plan",
        "--device",
        "cpu",
        "--rounds",
        "2",
        "--leg-min",
        "1us",
    ];
    let more = ["--cost-max", "1000%", "--format", "json"];
    let output = on(&forked(draws), &[&arguments[..], &more, flags].concat());
    let error = said(&output);
    let report: Value = serde_json::from_slice(&output.stdout).expect(&error);
    let planned = report["plans"][0].clone();
    let legs = planned["plan"]["legs"].as_array().map_or(0, Vec::len);
    assert!(legs > 1, "{legs} legs: {error}");
    (output.status.code(), error, planned)
}

#[test]
fn a_plan_that_answers_otherwise_than_its_model_fails_the_check() {
    let (code, error, planned) = checked(true, &["--check"]);
    assert_eq!(code, Some(1), "{error}");
    let told = "sequential: output `y` differs by ";
    assert!(error.starts_with(told), "{error}");
    let expected = " of its largest value, expected at most 1e-5\n";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(planned["farthest_output"], "y");
    assert!(planned["difference"].as_f64() > Some(0.01), "{planned}");

    let (code, error, planned) = checked(true, &[]);
    assert_eq!(code, Some(0), "not asked to compare: {error}");
    assert_eq!(planned["difference"], Value::Null);
}

#[test]
fn a_plan_that_answers_as_its_model_passes_the_check() {
    let (code, error, planned) = checked(false, &["--check"]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let difference = planned["difference"].as_f64();
    assert!(difference.is_some_and(|found| found <= 1e-5), "{planned}");
}

#[test]
fn a_report_says_within_which_limits_ios_planned() {
    let plan = [
        "plan", "--device", "cpu", "--rounds", "2", "--costs", "modelled",
    ];
    let planners = ["--planner", "list,ios", "--ios-r", "1"];
    let asked: [&[&str]; 2] = [&[], &["--in-flight", "2"]];
    for more in asked {
        let written = ["--format", "json"];
        let output = on(
            &forked(false),
            &[&plan[..], &planners, &written, more].concat(),
        );
        let error = said(&output);
        let report: Value = serde_json::from_slice(&output.stdout).expect(&error);
        assert_eq!(
            report.pointer("/plans/1/prunings"),
            Some(&json!({"r": 1, "s": 8}))
        );
        assert_eq!(report.pointer("/plans/0/prunings"), None, "of `list`");
        let table = on(&forked(false), &[&plan[..], &planners, more].concat());
        let table = String::from_utf8_lossy(&table.stdout).into_owned();
        let line = "\nios: groups of up to 1 segments (r), stages of up to 8 groups (s)\n";
        assert!(table.contains(line), "{table}");
    }
    let refused = on(&forked(false), &[&plan[..], &["--ios-s", "2"]].concat());
    assert_eq!(refused.status.code(), Some(2));
    let error = said(&refused);
    assert!(
        error.contains("`--ios-s` limits") && error.contains("hint: add one"),
        "{error}"
    );
}
