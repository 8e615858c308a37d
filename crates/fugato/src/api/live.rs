//! What operators read and change of the scheduler and of models while requests are served.

use crate::config::Span;
use fugato_core::sched::DeadlineMode;
use serde::Serialize;
use serde_json::{Map, Value};

/// How the scheduler decides at present.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SchedulerSettings {
    /// The policy in force.
    pub policy: &'static str,
    /// Its settings; empty where it has none.
    pub settings: Map<String, Value>,
    /// What deadlines do.
    pub deadlines: DeadlineMode,
    /// The policies there are.
    pub policies: &'static [&'static str],
}

/// A change of how the scheduler decides; what it does not name stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SchedulerUpdate {
    /// The policy that takes over, with the settings of the configuration.
    pub policy: Option<String>,
    /// Settings of that policy (of the one in force where none takes over) that differ.
    pub settings: Map<String, Value>,
    /// What deadlines do.
    pub deadlines: Option<DeadlineMode>,
}

/// The settings of a model that may change while it is served; every version has the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSettings {
    /// The model.
    pub model_name: String,
    /// The number of the device that its version of the highest number runs on, as the timeline
    /// and explanations have it. Not a setting that may be changed here.
    pub device: u16,
    /// What that device is called.
    pub device_name: String,
    /// Those in force.
    #[serde(flatten)]
    pub in_force: Objective,
    /// Names of those that were changed since the model was first loaded.
    pub live: Vec<&'static str>,
    /// Those of the configuration.
    pub configured: Objective,
}

/// What a model is to reach, and what that is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// Its latency objective; `None` for none.
    pub slo: Option<Span>,
    /// Its worth against other models.
    pub weight: f64,
}

/// A change of a model's settings; what it does not name stays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelUpdate {
    /// The latency objective.
    pub slo: Change<Option<Span>>,
    /// The worth.
    pub weight: Change<f64>,
}

/// What becomes of one setting.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Change<T> {
    /// It stays as it is.
    #[default]
    Keep,
    /// The configuration's value counts again.
    TakeBack,
    /// This value counts.
    Set(T),
}
