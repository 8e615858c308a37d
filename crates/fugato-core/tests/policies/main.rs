//! Scenarios: what each policy does, event by event, on the simulator.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks at the outcomes it is about"
)]

mod changes;
#[path = "../common/mod.rs"]
mod common;
mod legs;
mod order;
mod over;
mod refusals;
mod room;

use common::{MS, US, device, outcomes, world};
use fugato_core::sched::{Input, ModelSpec, Outcome, SchedulerConfig};
use fugato_core::sim::World;
use fugato_core::{Nanos, Timestamp};

/// One device, these models, every leg 1 ms + 0.1 ms per item.
fn affine(config: SchedulerConfig, models: &[ModelSpec]) -> World {
    let mut world = world(config, vec![device(0, 2, 4)], |start| {
        Nanos::new(MS + u64::from(start.batch.0) * 100 * US)
    });
    for model in models {
        world.push(Timestamp::ZERO, Input::ModelAdded(model.clone()));
    }
    world
}

/// The requests, in the order in which they ended.
fn ended(world: &mut World) -> Vec<u64> {
    let outcomes = outcomes(world).into_iter();
    outcomes.map(|(request, _)| request).collect()
}

/// Those of them that were completed.
fn completed(world: &mut World) -> Vec<u64> {
    let outcomes = outcomes(world).into_iter();
    let completed = outcomes.filter(|(_, outcome)| *outcome == Outcome::Completed);
    completed.map(|(request, _)| request).collect()
}
