//! What `profile` answers about one model: what was measured of it, and how that stands.

use fugato_core::profile::{Profile, Source};
use fugato_core::sched::ProfileStatus;
use serde::Serialize;

/// A model's profile, and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileReport {
    /// The profile, of the model alone; without a model where nothing has been measured.
    #[serde(flatten)]
    pub profile: Profile,
    /// How it stands.
    pub serving: ProfileServing,
}

/// How a model's profile stands against what is observed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProfileServing {
    /// Who predicts its medians: `profile` or `online`.
    pub median_from: &'static str,
    /// Who predicts its high quantiles, which admission counts with.
    pub tail_from: &'static str,
    /// Median relative error of the profile over its last legs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile_error: Option<f64>,
    /// The same of the estimate made while serving.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub online_error: Option<f64>,
    /// Whether times have left the profile's band.
    pub drifted: bool,
    /// Whether it is being measured while serving.
    pub measuring: bool,
    /// Points measured while serving.
    pub points: u64,
    /// Device time spent on measuring it while serving, in seconds.
    pub device_seconds: f64,
}

impl From<ProfileStatus> for ProfileServing {
    fn from(status: ProfileStatus) -> Self {
        let standing = status.standing;
        let from = |source| match source {
            Some(Source::Profile) => "profile",
            Some(Source::Online) | None => "online",
        };
        Self {
            median_from: from(standing.map(|standing| standing.median)),
            tail_from: from(standing.map(|standing| standing.tail)),
            profile_error: standing.and_then(|standing| standing.profile_error),
            online_error: standing.and_then(|standing| standing.online_error),
            drifted: standing.is_some_and(|standing| standing.drifted),
            measuring: status.measuring,
            points: status.points,
            device_seconds: status.device_time.as_secs_f64(),
        }
    }
}
