//! What share of the device legs of models can use, beside that of the whole models: the measuring
//! of `fugato profile --legs`.

use super::knees::Plan;
use crate::gpu_check::report::{Answer, Verdict};
use fugato_core::profile::{GridPoint, LegProfile, ModelProfile, PointKey};
use serde_json::{Value, json};

/// What the models of the plan say in a profile.
pub(super) fn answer(models: &[ModelProfile], plan: &Plan, faults: &[String]) -> Answer {
    let is_of_plan = |model: &&ModelProfile| plan.models.iter().any(|zoo| zoo.name == model.name);
    let cut: Vec<&ModelProfile> = models
        .iter()
        .filter(is_of_plan)
        .filter(|model| !model.legs.is_empty())
        .collect();
    let is_whole = !cut.is_empty() && cut.len() == plan.models.len();
    let below = cut.iter().any(|model| {
        let mut knees = model.legs.iter().filter_map(|leg| leg.knee.tolerance);
        knees.any(|knee| model.knee.tolerance.is_some_and(|whole| knee < whole))
    });
    let words: Vec<String> = match faults {
        [] => cut.iter().copied().map(words).collect(),
        faults => faults.to_vec(),
    };
    Answer {
        verdict: match (faults.is_empty(), is_whole, below) {
            (false, ..) | (_, true, false) => Verdict::Fails,
            (_, true, true) => Verdict::Holds,
            (_, false, _) => Verdict::Unknown,
        },
        words: format!(
            "legs of {} of {} models: {}",
            cut.len(),
            plan.models.len(),
            words.join("; ")
        ),
        facts: json!({
            "profile": plan.out.file_name().map(|name| name.to_string_lossy()),
            "longest_us": plan.legs.as_ref().map(|legs| legs.longest.as_secs_f64() * 1e6),
            "models": cut.iter().copied().map(facts).collect::<Vec<_>>(),
        }),
    }
}

fn words(model: &ModelProfile) -> String {
    let share = |knee: Option<u16>| knee.map_or_else(|| "?".to_owned(), |knee| knee.to_string());
    let knees = || model.legs.iter().map(|leg| leg.knee.tolerance);
    let together = at_most(model).and_then(|(point, whole)| Some(sum(model, point)? / whole));
    format!(
        "{} {}, knees {} to {} where the model's is {}, together {} times as long",
        model.name,
        model.legs.len(),
        share(knees().flatten().min()),
        share(knees().flatten().max()),
        share(model.knee.tolerance),
        together.map_or_else(|| "?".to_owned(), |ratio| format!("{ratio:.3}")),
    )
}

fn facts(model: &ModelProfile) -> Value {
    let alone = model.grid.iter().filter(|point| point.neighbours == 0);
    let points = alone.filter_map(|point| {
        let (whole, legs) = (point.times()?.median_s, sum(model, point.key())?);
        Some(json!({
            "batch": point.batch,
            "share": point.share,
            "whole_us": whole * 1e6,
            "legs_us": legs * 1e6,
        }))
    });
    json!({
        "model": model.name,
        "knee": model.knee,
        "knees_of_legs": model.legs.iter().map(|leg| leg.knee).collect::<Vec<_>>(),
        "points": points.collect::<Vec<_>>(),
    })
}

/// The largest batch on the largest share, and what the whole model takes there in seconds.
fn at_most(model: &ModelProfile) -> Option<(PointKey, f64)> {
    let alone = model.grid.iter().filter(|point| point.neighbours == 0);
    let timed = alone.filter_map(|point| Some((point.key(), point.times()?.median_s)));
    timed.max_by_key(|(key, _)| (key.share, key.batch))
}

/// What all legs take at a point, in seconds.
fn sum(model: &ModelProfile, at: PointKey) -> Option<f64> {
    let time = |leg: &LegProfile| {
        let point = leg.grid.iter().find(|point| point.key() == at);
        point.and_then(GridPoint::times).map(|times| times.median_s)
    };
    model.legs.iter().map(time).sum()
}

#[cfg(test)]
mod tests {
    use super::super::knees::Legs;
    use super::*;
    use fugato_core::Nanos;
    use fugato_core::profile::Knee;
    use std::path::PathBuf;

    fn plan() -> Plan {
        let models = ["resnet18", "bert-tiny"].map(|name| fugato_zoo::find(name).expect("one"));
        Plan {
            models: models.to_vec(),
            first: 2,
            batches: vec![1],
            shares: vec![4, 8],
            runtime: "onnxruntime 1".to_owned(),
            out: PathBuf::from("profile-legs.json"),
            legs: Some(Legs {
                longest: Nanos::from_micros(500),
                from: PathBuf::from("profile.json"),
            }),
        }
    }

    fn knee(slices: u16) -> Knee {
        Knee {
            tolerance: Some(slices),
            ..Knee::default()
        }
    }

    /// 8 ms at one point, in legs of these knees that take a millisecond each.
    fn model(name: &str, legs: &[u16]) -> ModelProfile {
        let point = |median_s| GridPoint {
            batch: 1,
            share: 8,
            neighbours: 0,
            median_s: Some(median_s),
            p95_s: None,
            low_s: None,
            high_s: None,
            repeats: 1,
            failed: None,
        };
        let leg = |&share: &u16| LegProfile {
            assumed: false,
            knee: knee(share),
            fit: None,
            grid: vec![point(1e-3)],
        };
        let mut model = ModelProfile::new(name, name, 8);
        model.knee = knee(8);
        model.grid = vec![point(8e-3)];
        model.legs = legs.iter().map(leg).collect();
        model
    }

    #[test]
    fn a_leg_of_a_smaller_knee_is_enough_once_all_models_are_cut() {
        let verdict =
            |models: &[ModelProfile], faults: &[String]| answer(models, &plan(), faults).verdict;
        let (narrow, wide) = (model("resnet18", &[4, 8]), model("bert-tiny", &[8, 8]));
        let other = model("vgg19", &[4, 4]);
        assert_eq!(
            verdict(&[narrow.clone(), wide.clone()], &[]),
            Verdict::Holds
        );
        assert_eq!(
            verdict(
                &[model("resnet18", &[8, 8]), wide.clone(), other.clone()],
                &[]
            ),
            Verdict::Fails,
            "a model that was not asked for does not count"
        );
        assert_eq!(verdict(&[narrow.clone(), other], &[]), Verdict::Unknown);
        assert_eq!(verdict(&[], &[]), Verdict::Unknown);
        let fault = ["legs of resnet18: no memory".to_owned()];
        assert_eq!(verdict(&[narrow, wide], &fault), Verdict::Fails);
    }

    #[test]
    fn what_cutting_costs_is_said() {
        let found = answer(&[model("resnet18", &[4, 8])], &plan(), &[]);
        let expected = "resnet18 2, knees 4 to 8 where the model's is 8, together 0.250 times";
        assert!(found.words.contains(expected), "{}", found.words);
        let point = &found.facts["models"][0]["points"][0];
        assert_eq!(point["legs_us"].as_f64(), Some(2000.0));
    }
}
