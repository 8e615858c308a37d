//! The legs of a profile, and the plan that they are of.

use super::{Change, profile};
use fugato_core::plan::{CostBasis, Group, LegLimits, Plan, PlanKey, Stage};
use fugato_core::profile::{
    AnalysisOptions, GridPoint, LegPlan, LegProfile, ModelProfile, Profile,
};
use fugato_core::{BatchSize, Nanos, SegmentIndex, Share};

/// A leg of the model, half of its time.
fn leg(model: &ModelProfile) -> LegProfile {
    let half = |point: &GridPoint| GridPoint {
        median_s: point.median_s.map(|median| median / 2.0),
        p95_s: None,
        low_s: None,
        high_s: None,
        ..point.clone()
    };
    let grid = model.grid.iter().map(half).collect();
    LegProfile::measured(grid, model.max_batch, &AnalysisOptions::new(2))
}

/// The profile with two measured legs, cut as a plan of two segments says.
fn cut() -> Profile {
    let mut profile = profile();
    let key = PlanKey {
        model: "abc".to_owned(),
        device: profile.device.clone(),
        runtime: profile.runtime.clone(),
        share: Share(1),
        batch: BatchSize(1),
    };
    let stage = |segment| Stage {
        groups: vec![Group::from(vec![SegmentIndex(segment)])],
        merged: false,
        predicted: Nanos::from_millis(2),
    };
    let limits = LegLimits {
        min: Nanos::from_millis(1),
        max: Nanos::from_millis(2),
    };
    let stages = vec![stage(0), stage(1)];
    let plan = Plan::new(key, "sequential", CostBasis::Measured, stages, limits);
    let model = &mut profile.models[0];
    model.legs = vec![leg(model), leg(model)];
    model.leg_plan = Some(Box::new(LegPlan {
        longest: Some(Nanos::from_millis(2)),
        plan,
    }));
    profile
}

#[test]
fn measured_legs_are_written_with_the_plan_that_they_are_of() {
    let cut = cut();
    cut.check().expect("a sound profile");
    let text = serde_json::to_string(&cut).expect("it serialises");
    assert!(text.contains("\"longest_ns\":2000000"), "{text}");
    let read: Profile = serde_json::from_str(&text).expect("it parses");
    assert_eq!(read, cut);
    let model = &read.models[0];
    assert_eq!(
        model.legs[0].knee.tolerance,
        Some(2),
        "what follows is there"
    );
    assert!(
        model
            .legs
            .iter()
            .all(|leg| !leg.assumed && leg.fit.is_some())
    );
    let whole = model.whole();
    assert!(whole.legs.is_empty() && whole.leg_plan.is_none());
    let resized = cut.resized(4);
    resized.check().expect("a sound profile");
    assert!(
        resized.models[0].leg_plan.is_none(),
        "it is of another device"
    );
    assert_eq!(resized.models[0].legs.len(), 2);
}

#[test]
fn a_plan_that_is_not_of_the_legs_is_refused_by_name() {
    let cases: [(Change, &str); 6] = [
        (
            |profile| plan(profile).longest = Some(Nanos::ZERO),
            "profile's leg_plan.longest_ns of model `resnet50` is 0, expected at least 1",
        ),
        (
            |profile| plan(profile).plan.key.model = "def".to_owned(),
            "profile's leg_plan.plan.key.model of model `resnet50` is def, expected `abc`",
        ),
        (
            |profile| profile.models[0].legs.truncate(1),
            "profile's leg_plan.plan.legs of model `resnet50` is 2, expected 1, as the model has legs",
        ),
        (
            |profile| profile.models[0].legs[1].assumed = true,
            "profile's legs[1].assumed of model `resnet50` is true, expected false, as there is a \
             plan of them",
        ),
        (
            |profile| plan(profile).plan.key.device.slices = 4,
            "profile's leg_plan.plan.key.device of model `resnet50` is ",
        ),
        (
            |profile| plan(profile).plan.key.runtime = "onnxruntime 1.30.0".to_owned(),
            "profile's leg_plan.plan.key.runtime of model `resnet50` is onnxruntime 1.30.0, expected \
             `onnxruntime 1.31.0`",
        ),
    ];
    for (change, expected) in cases {
        let mut profile = cut();
        change(&mut profile);
        let error = profile.check().expect_err("it is refused").to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

fn plan(profile: &mut Profile) -> &mut LegPlan {
    profile.models[0]
        .leg_plan
        .as_deref_mut()
        .expect("it is there")
}
