//! Legs: measured beside the whole model, gone on from, left out.

use crate::bench::{Bench, adder, read, slow, stderr};
use fugato_core::Nanos;
use fugato_core::profile::{GridPoint, ModelProfile, PointKey};

/// Few points, so that a busy machine is through with them in time.
const FEW: [&str; 4] = ["--batches", "1", "--budget", "5m"];

fn longest(model: &ModelProfile) -> Option<Nanos> {
    model.leg_plan.as_ref()?.longest
}

/// A profile of [`slow`] as it is, and what it takes on one slice: how long legs may be depends on
/// the machine.
fn measured_whole(bench: &Bench) -> Nanos {
    bench.put("slow", &slow());
    let output = bench.run(&FEW);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let profile = bench.profile();
    let model = profile.models.iter().find(|model| model.name == "slow");
    let point = model.expect("it was measured").point(PointKey {
        batch: 1,
        share: 1,
        neighbours: 0,
    });
    let median = point.and_then(|point| point.median_s).expect("measured");
    Nanos::from_secs_f64(median)
}

/// As `--legs` takes a part of a time.
fn part(whole: Nanos, parts: u64) -> String {
    format!("{}us", whole.as_nanos() / parts / 1_000)
}

fn parsed(text: &str) -> Nanos {
    let micros = text.strip_suffix("us").expect("microseconds");
    Nanos::from_micros(micros.parse().expect("a number"))
}

#[test]
fn legs_are_measured_at_the_points_of_their_model() {
    let bench = Bench::new();
    bench.put("one", &adder(1.0));
    let whole = measured_whole(&bench);
    let (short, long) = (part(whole, 10), part(whole, 4));
    let asked = [&FEW[..], &["--legs", &short]].concat();
    let output = bench.run(&asked);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("note: model `one` is too short for two legs"),
        "{}",
        stderr(&output)
    );
    let profile = bench.profile();
    let [one, slow] = &profile.models[..] else {
        panic!("two models were measured");
    };
    assert!(one.legs.is_empty() && one.leg_plan.is_none());
    assert!(slow.legs.len() > 1);
    assert_eq!(longest(slow), Some(parsed(&short)));
    let keys = |grid: &[GridPoint]| grid.iter().map(GridPoint::key).collect::<Vec<_>>();
    for leg in &slow.legs {
        assert_eq!(keys(&leg.grid), keys(&slow.grid));
        assert!(leg.grid.iter().all(|point| point.repeats >= 5));
        assert!(leg.knee.tolerance.is_some() && !leg.assumed);
    }
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let line = format!(
        "{} legs (cut at {}): the longest ",
        slow.legs.len(),
        parsed(&short)
    );
    assert!(table.contains(&line), "{table}");

    // Nothing is left to measure of them, whether they are asked for or not, and nothing is lost
    // where there is no time for what is.
    let more = ["--batches", "1,2", "--budget", "1ms"];
    let hurried = [&more[..], &["--legs", &short]].concat();
    for (flags, code) in [(&asked[..], 0), (&FEW, 0), (&hurried, 1), (&more, 1)] {
        let output = bench.run(flags);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let again = bench.profile();
        assert_eq!(again.models[1].legs, slow.legs, "{flags:?}");
        assert_eq!(again.models[1].leg_plan, slow.leg_plan, "{flags:?}");
        let times = std::fs::read_to_string(bench.out().with_extension("samples.json"));
        assert!(
            times.expect("it is there").contains("\"legs\""),
            "{flags:?}"
        );
    }
    let output = bench.run(&[&FEW[..], &["--legs", &long]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let again = &bench.profile().models[1];
    assert_eq!(longest(again), Some(parsed(&long)));
    assert!(again.legs.len() < slow.legs.len(), "cut anew");
}

#[test]
fn models_are_cut_as_they_are_configured_unless_flags_say_otherwise() {
    let bench = Bench::new();
    let long = part(measured_whole(&bench), 4);
    let path = bench.0.path().join("fugato.toml");
    let legs = format!("[model.slow]\nlegs = \"{long}\"\n");
    std::fs::write(&path, legs).expect("written");
    let config = ["--config", path.to_str().expect("UTF-8")];
    let output = bench.run(&[&FEW[..], &config, &["--legs", "0s"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(bench.profile().models[0].legs.is_empty());
    let output = bench.run(&[&FEW[..], &config].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let profile = bench.profile();
    assert_eq!(longest(&profile.models[0]), Some(parsed(&long)));

    // By the plan that it is served by, as far as that can be used.
    let legs = profile.models[0].leg_plan.as_ref();
    let plan = &legs.expect("there is one").plan;
    let place = bench.0.path().join("plan.json");
    let text = serde_json::to_string(plan).expect("it serialises");
    let other_out = bench.0.path().join("out/other.json");
    let other = |text: String| {
        std::fs::write(&place, text).expect("written");
        let flags = [&FEW[..], &config].concat();
        let output = bench.command_to(&other_out, &flags).output();
        output.expect("the binary runs")
    };
    std::fs::write(&path, format!("[model.slow]\nplan = {place:?}\n")).expect("written");
    let output = other(text.clone());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let planned = &read(&other_out).models[0];
    assert_eq!(longest(planned), None);
    assert_eq!(planned.legs.len(), plan.legs.len());
    let known = planned.leg_plan.as_ref().expect("it is there");
    assert!(known.plan.cuts_alike(plan));

    // What was measured of it stays, and why nothing more is measured is said.
    let wrong = text.replace(&plan.key.model, "0123456789abcdef");
    let elsewhere = text.replace("\"kind\":\"cpu\"", "\"kind\":\"cuda\"");
    for (text, code, expected) in [
        (
            wrong,
            1,
            "warning: legs of model `slow` are not measured: plan was made for",
        ),
        (
            elsewhere,
            0,
            "note: legs of model `slow` are not measured here: plan was made for",
        ),
    ] {
        let output = other(text);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.matches("plan was made for").count(), 1, "{said}");
        assert_eq!(read(&other_out).models[0].legs, planned.legs);
    }
}

#[test]
fn times_of_legs_of_another_model_are_refused() {
    let bench = Bench::new();
    let short = part(measured_whole(&bench), 10);
    let asked = [&FEW[..], &["--legs", &short]].concat();
    assert_eq!(bench.run(&asked).status.code(), Some(0));
    let path = bench.out().with_extension("samples.json");
    let text = std::fs::read_to_string(&path).expect("it is there");
    let mut samples: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    samples["models"][0]["legs"]["plan"]["plan"]["key"]["model"] = "0123".into();
    std::fs::write(&path, samples.to_string()).expect("written");
    let output = bench.run(&asked);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("does not belong to the profile beside it"),
        "{}",
        stderr(&output)
    );
}
