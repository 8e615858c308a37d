//! What a profile must satisfy, and the errors that name what does not.

mod beside;
mod concluded;

use super::{Changeover, DeviceKey, GridPoint, LegPlan, ModelProfile, Precision, Profile, SCHEMA};
use crate::time::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// The longest time that a profile may have, in seconds: a day. What it bounds is mistakes
/// of units and of typing; no run that is scheduled lasts as long.
const TIME_MAX_S: f64 = 86_400.0;

/// [`TIME_MAX_S`] in nanoseconds.
const TIME_MAX_NS: u64 = 86_400_000_000_000;

/// A time in seconds, as an error says it.
const TIME_EXPECTED: &str = "a positive number of seconds, at most a day";

/// The place of a point in a model's grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointKey {
    /// Items in the batch.
    pub batch: u32,
    /// Slices it runs in.
    pub share: u16,
    /// Slices that are busy with other work; 0 is alone.
    pub neighbours: u16,
}

impl fmt::Display for PointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            batch,
            share,
            neighbours,
        } = self;
        write!(f, "(batch {batch}, share {share}, neighbours {neighbours})")
    }
}

/// Why a profile cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file is of another schema.
    #[error("profile has schema `{found}`, expected `{SCHEMA}`")]
    Schema {
        /// The schema it names.
        found: String,
    },
    /// It was measured on another device.
    #[error("profile was measured on {found}, this device is {expected}")]
    Device {
        /// The profile's device.
        found: DeviceKey,
        /// The device at hand.
        expected: DeviceKey,
    },
    /// It was measured with another runtime.
    #[error("profile was measured with runtime `{found}`, this one is `{expected}`")]
    Runtime {
        /// The profile's runtime.
        found: String,
        /// The runtime at hand.
        expected: String,
    },
    /// It was measured on another model file.
    #[error("profile of model `{model}` was measured on {found}, the model at hand is {expected}")]
    Model {
        /// The model's name.
        model: String,
        /// The profiled version and hash.
        found: Box<ModelKey>,
        /// The version and hash at hand.
        expected: Box<ModelKey>,
    },
    /// It was measured in another precision.
    #[error(
        "profile of model `{model}` was measured in {found}, the model at hand is in {expected}"
    )]
    Precision {
        /// The model's name.
        model: String,
        /// The profile's precision.
        found: Precision,
        /// That of the model at hand.
        expected: Precision,
    },
    /// A number outside the points makes no sense.
    #[error("profile's {field} is {found}, expected {expected}")]
    Field {
        /// The field, with the model it belongs to.
        field: String,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The same model version is there twice.
    #[error("profile has model `{model}` version {version} twice")]
    DuplicateModel {
        /// The model's name.
        model: String,
        /// Its version.
        version: String,
    },
    /// A point is not within the device, or a number of it makes no sense.
    #[error("profile of model `{model}`: point {point} has {field} {found}, expected {expected}")]
    Point {
        /// The model's name.
        model: String,
        /// The point.
        point: PointKey,
        /// The field of the point.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The same point is there twice.
    #[error("profile of model `{model}`: point {point} is there twice")]
    DuplicatePoint {
        /// The model's name.
        model: String,
        /// The point.
        point: PointKey,
    },
    /// A point of the grid is not there.
    #[error(
        "profile of model `{model}`: point {point} is missing\n\
         hint: mark the model `sparse` where points were left out"
    )]
    MissingPoint {
        /// The model's name.
        model: String,
        /// The point.
        point: PointKey,
    },
}

/// A model version and its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelKey {
    /// The version in the repository, if there is one.
    pub version: Option<String>,
    /// The content hash of the model file.
    pub hash: String,
    /// The precision it computes in.
    pub precision: Precision,
}

impl fmt::Display for ModelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(version) = &self.version {
            write!(f, "version {version}, ")?;
        }
        write!(f, "hash `{}`", self.hash)
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, slices } = self;
        write!(f, "{kind} `{name}` of {slices} slices")
    }
}

impl Profile {
    /// Checks every number that later computations rest on.
    ///
    /// # Errors
    /// The first thing found wrong: the schema, the device's slices, a model twice, a
    /// model's objective, rate, batch limit or hash, then point by point a time that is
    /// missing, NaN, zero, negative, longer than a day, or out of order, a place outside
    /// the device, a point twice, and a point that the others imply and that is not there;
    /// at last conclusions that are beyond the grid or the device, and a fit that answers
    /// what is no time.
    pub fn check(&self) -> Result<(), ProfileError> {
        schema(&self.schema)?;
        if self.device.slices == 0 {
            return Err(ProfileError::Field {
                field: "device.slices".to_owned(),
                found: "0".to_owned(),
                expected: "at least 1".to_owned(),
            });
        }
        if let Some(found) = self.launch_s.filter(|&launch_s| !is_time(launch_s)) {
            return Err(ProfileError::Field {
                field: "launch_s".to_owned(),
                found: found.to_string(),
                expected: TIME_EXPECTED.to_owned(),
            });
        }
        let mut seen = BTreeSet::new();
        for model in &self.models {
            if !seen.insert((&model.name, &model.version)) {
                return Err(ProfileError::DuplicateModel {
                    model: model.name.clone(),
                    version: model.version.clone().unwrap_or_else(|| "none".to_owned()),
                });
            }
            model.check(self.device.slices)?;
            self.check_made_here(model)?;
        }
        Ok(())
    }

    /// Whether a model's legs are of a plan for this profile's device and runtime.
    fn check_made_here(&self, model: &ModelProfile) -> Result<(), ProfileError> {
        let Some(key) = model.leg_plan.as_ref().map(|legs| &legs.plan.key) else {
            return Ok(());
        };
        if key.device != self.device {
            let (found, expected) = (&key.device, self.device.to_string());
            return Err(model.wrong("leg_plan.plan.key.device", found, &expected));
        }
        if key.runtime != self.runtime {
            let expected = format!("`{}`", self.runtime);
            return Err(model.wrong("leg_plan.plan.key.runtime", &key.runtime, &expected));
        }
        Ok(())
    }

    /// Whether the profile was measured on this device with this runtime.
    ///
    /// # Errors
    /// [`ProfileError::Device`] or [`ProfileError::Runtime`], with both.
    pub fn matches(&self, device: &DeviceKey, runtime: &str) -> Result<(), ProfileError> {
        if self.device != *device {
            return Err(ProfileError::Device {
                found: self.device.clone(),
                expected: device.clone(),
            });
        }
        if self.runtime != runtime {
            return Err(ProfileError::Runtime {
                found: self.runtime.clone(),
                expected: runtime.to_owned(),
            });
        }
        Ok(())
    }

    /// The profile of a model file; `None` where the profile has no model of that name.
    ///
    /// The file decides, not the version's number: a copy of the file under another
    /// number is the same model.
    ///
    /// # Errors
    /// Where the profile knows the name, but with other files: [`ProfileError::Precision`], with
    /// both, where they are all of another precision, else [`ProfileError::Model`], with both
    /// versions and hashes.
    pub fn model(
        &self,
        name: &str,
        expected: &ModelKey,
    ) -> Result<Option<&ModelProfile>, ProfileError> {
        let mut named = self.models.iter().filter(|model| model.name == name);
        let Some(first) = named.clone().next() else {
            return Ok(None);
        };
        if let Some(found) = named.clone().find(|model| model.hash == expected.hash) {
            return Ok(Some(found));
        }
        let alike = named.find(|model| model.precision == expected.precision);
        Err(alike.unwrap_or(first).differs(expected.clone()))
    }
}

impl ModelProfile {
    /// Whether the profile was measured on this model file.
    ///
    /// # Errors
    /// [`ProfileError::Model`], with both hashes.
    pub fn matches(&self, hash: &str) -> Result<(), ProfileError> {
        if self.hash == hash {
            return Ok(());
        }
        Err(self.differs(ModelKey {
            version: None,
            hash: hash.to_owned(),
            precision: self.precision,
        }))
    }

    /// The version and the file that the profile is of.
    #[must_use]
    pub fn key(&self) -> ModelKey {
        ModelKey {
            version: self.version.clone(),
            hash: self.hash.clone(),
            precision: self.precision,
        }
    }

    /// What is said where the profile was measured on another file than the one at hand:
    /// [`ProfileError::Precision`] or [`ProfileError::Model`].
    #[must_use]
    pub fn differs(&self, expected: ModelKey) -> ProfileError {
        let (model, found) = (self.name.clone(), self.key());
        match found.precision == expected.precision {
            true => ProfileError::Model {
                model,
                found: Box::new(found),
                expected: Box::new(expected),
            },
            false => ProfileError::Precision {
                model,
                found: found.precision,
                expected: expected.precision,
            },
        }
    }

    /// As [`Profile::check`], for one model of a device of `slices` slices.
    ///
    /// # Errors
    /// As [`Profile::check`].
    pub fn check(&self, slices: u16) -> Result<(), ProfileError> {
        self.check_whole(slices)?;
        self.check_leg_plan()?;
        if self.legs.is_empty() {
            return Ok(());
        }
        for leg in self.each_leg() {
            leg.check_whole(slices)?;
            if !leg.grid.iter().any(|point| point.times().is_some()) {
                return Err(leg.wrong("grid", &"without times", "at least one point with times"));
            }
        }
        Ok(())
    }

    fn check_leg_plan(&self) -> Result<(), ProfileError> {
        let Some(LegPlan { longest, plan }) = self.leg_plan.as_deref() else {
            return Ok(());
        };
        if longest.is_some_and(|longest| longest == Nanos::ZERO) {
            return Err(self.wrong("leg_plan.longest_ns", &0, "at least 1"));
        }
        if plan.key.model != self.hash {
            let field = "leg_plan.plan.key.model";
            return Err(self.wrong(field, &plan.key.model, &format!("`{}`", self.hash)));
        }
        if plan.legs.len() != self.legs.len() {
            let expected = format!("{}, as the model has legs", self.legs.len());
            return Err(self.wrong("leg_plan.plan.legs", &plan.legs.len(), &expected));
        }
        if let Some(assumed) = self.legs.iter().position(|leg| leg.assumed) {
            let field = format!("legs[{assumed}].assumed");
            return Err(self.wrong(&field, &true, "false, as there is a plan of them"));
        }
        Ok(())
    }

    fn check_whole(&self, slices: u16) -> Result<(), ProfileError> {
        let positive = [("slo_s", self.slo_s), ("arrival_rate", self.arrival_rate)];
        for (name, value) in positive {
            if let Some(found) = value.filter(|&value| !is_positive(value)) {
                return Err(self.wrong(name, &found, "a positive number"));
            }
        }
        if self.max_batch == 0 {
            return Err(self.wrong("max_batch", &0, "at least 1"));
        }
        if self.hash.is_empty() {
            return Err(self.wrong("hash", &"empty", "a content hash"));
        }
        let mut seen = BTreeSet::new();
        for point in &self.grid {
            check_point(&self.name, point, slices)?;
            if !seen.insert(point.key()) {
                return Err(ProfileError::DuplicatePoint {
                    model: self.name.clone(),
                    point: point.key(),
                });
            }
        }
        if let Some(found) = self.host_s.filter(|&host_s| !is_time(host_s)) {
            let expected = "a positive number of seconds, at most a day";
            return Err(self.wrong("host_s", &found, expected));
        }
        for changeover in &self.changeovers {
            self.check_changeover(changeover, slices)?;
        }
        self.check_beside(slices)?;
        match self.missing().first() {
            Some(&point) if !self.sparse => Err(ProfileError::MissingPoint {
                model: self.name.clone(),
                point,
            }),
            _ => concluded::check(self, slices),
        }
    }

    fn check_changeover(&self, changeover: &Changeover, slices: u16) -> Result<(), ProfileError> {
        let &Changeover {
            batch,
            share,
            extra_s,
            repeats,
        } = changeover;
        if batch == 0 {
            return Err(self.wrong("changeovers.batch", &0, "at least 1"));
        }
        if share == 0 || share > slices {
            let expected = format!("1 to {slices} slices");
            return Err(self.wrong("changeovers.share", &share, &expected));
        }
        if !(0.0..=TIME_MAX_S).contains(&extra_s) {
            let expected = "0 or a positive number of seconds, at most a day";
            return Err(self.wrong("changeovers.extra_s", &extra_s, expected));
        }
        if repeats == 0 {
            return Err(self.wrong("changeovers.repeats", &0, "at least 1"));
        }
        Ok(())
    }

    fn wrong(&self, field: &str, found: &dyn fmt::Display, expected: &str) -> ProfileError {
        ProfileError::Field {
            field: format!("{field} of model `{}`", self.name),
            found: found.to_string(),
            expected: expected.to_owned(),
        }
    }

    /// The points that the grid implies and lacks: each batch of it at each share of it,
    /// alone, and at each (share, neighbours) of it.
    #[must_use]
    pub fn missing(&self) -> Vec<PointKey> {
        let batches: BTreeSet<u32> = self.grid.iter().map(|point| point.batch).collect();
        let places: BTreeSet<(u16, u16)> = self
            .grid
            .iter()
            .flat_map(|point| [(point.share, 0), (point.share, point.neighbours)])
            .collect();
        let known: BTreeSet<PointKey> = self.grid.iter().map(GridPoint::key).collect();
        let wanted = batches.iter().flat_map(|&batch| {
            places.iter().map(move |&(share, neighbours)| PointKey {
                batch,
                share,
                neighbours,
            })
        });
        wanted.filter(|point| !known.contains(point)).collect()
    }
}

pub(super) fn schema(found: &str) -> Result<(), ProfileError> {
    if found == SCHEMA {
        return Ok(());
    }
    Err(ProfileError::Schema {
        found: found.to_owned(),
    })
}

fn is_positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

fn is_time(seconds: f64) -> bool {
    is_positive(seconds) && seconds <= TIME_MAX_S
}

/// Checks the times that a model's points rest on, in nanoseconds by visit, as
/// [`Survey::resume`](crate::profile::Survey::resume) takes them.
///
/// # Errors
/// As [`Profile::check`]: a point outside a device of `slices` slices or there twice, a
/// time of zero or above a day.
pub fn check_samples<'a>(
    model: &str,
    points: impl IntoIterator<Item = (PointKey, &'a [Vec<u64>])>,
    slices: u16,
) -> Result<(), ProfileError> {
    let mut seen = BTreeSet::new();
    for (point, visits) in points {
        check_place(model, point, slices)?;
        if !seen.insert(point) {
            return Err(ProfileError::DuplicatePoint {
                model: model.to_owned(),
                point,
            });
        }
        let mut times = visits.iter().flatten();
        if let Some(found) = times.find(|&&nanos| !(1..=TIME_MAX_NS).contains(&nanos)) {
            return Err(ProfileError::Point {
                model: model.to_owned(),
                point,
                field: "visits_ns",
                found: found.to_string(),
                expected: format!("1 to {TIME_MAX_NS} ns"),
            });
        }
    }
    Ok(())
}

/// Checks that a point is within the device.
fn check_place(model: &str, point: PointKey, slices: u16) -> Result<(), ProfileError> {
    let wrong = |field, found: &dyn fmt::Display, expected: String| ProfileError::Point {
        model: model.to_owned(),
        point,
        field,
        found: found.to_string(),
        expected,
    };
    if point.batch == 0 {
        return Err(wrong("batch", &0, "at least 1".to_owned()));
    }
    if point.share == 0 || point.share > slices {
        let expected = format!("1 to {slices} slices");
        return Err(wrong("share", &point.share, expected));
    }
    if point.neighbours > slices - point.share {
        let expected = format!("at most the other {} slices", slices - point.share);
        return Err(wrong("neighbours", &point.neighbours, expected));
    }
    Ok(())
}

fn check_point(model: &str, point: &GridPoint, slices: u16) -> Result<(), ProfileError> {
    check_place(model, point.key(), slices)?;
    let wrong = |field, found: &dyn fmt::Display, expected: &str| ProfileError::Point {
        model: model.to_owned(),
        point: point.key(),
        field,
        found: found.to_string(),
        expected: expected.to_owned(),
    };
    let times = [
        ("median_s", point.median_s),
        ("p95_s", point.p95_s),
        ("low_s", point.low_s),
        ("high_s", point.high_s),
    ];
    for (field, value) in times {
        if let Some(found) = value {
            if point.failed.is_some() {
                return Err(wrong(field, &found, "no time, because the point failed"));
            }
            if !is_time(found) {
                return Err(wrong(field, &found, TIME_EXPECTED));
            }
        }
    }
    match (point.times(), &point.failed) {
        (None, None) => Err(wrong("median_s", &"missing", "a time, or why it failed")),
        (Some(_), _) if point.repeats == 0 => {
            Err(wrong("repeats", &0, "at least 1 where there is a time"))
        }
        (Some(times), _) if times.low_s > times.median_s => {
            Err(wrong("low_s", &times.low_s, "at most median_s"))
        }
        (Some(times), _) if times.high_s < times.median_s => {
            Err(wrong("high_s", &times.high_s, "at least median_s"))
        }
        (Some(times), _) if times.p95_s < times.median_s => {
            Err(wrong("p95_s", &times.p95_s, "at least median_s"))
        }
        _ => Ok(()),
    }
}
