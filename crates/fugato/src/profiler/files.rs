//! The profile on disk, and beside it the times that it rests on, from which a later run
//! goes on.

use super::Run;
use crate::engine::Workbench;
use fugato_core::profile::{
    DeviceKey, LegPlan, ModelProfile, PointKey, Profile, ProfileError, Survey, check_samples,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The schema of [`Samples`].
pub const SAMPLES_SCHEMA: &str = "fugato.profile-samples/1";

/// The times that a profile rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Samples {
    /// Always [`SAMPLES_SCHEMA`].
    pub schema: String,
    /// The device they were measured on.
    pub device: DeviceKey,
    /// The runtime that ran the models.
    pub runtime: String,
    /// The models.
    pub models: Vec<SampledModel>,
}

/// The times of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledModel {
    /// Its name.
    pub name: String,
    /// Its content hash.
    pub hash: String,
    /// Its points.
    pub points: Vec<PointSamples>,
    /// The times of its legs; none where they were not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub legs: Option<Box<SampledLegs>>,
}

/// The times of a model's legs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledLegs {
    /// How the model is cut.
    pub plan: LegPlan,
    /// `legs[leg][point]`.
    pub legs: Vec<Vec<PointSamples>>,
}

/// The times of one point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PointSamples {
    /// Items in the batch.
    pub batch: u32,
    /// Slices it ran in.
    pub share: u16,
    /// Slices that were busy meanwhile.
    pub neighbours: u16,
    /// Times of legs in nanoseconds: `visits_ns[visit][leg]`, in the order of time.
    pub visits_ns: Vec<Vec<u64>>,
}

impl PointSamples {
    /// The times of all points of a survey that have any.
    pub(super) fn of(survey: &Survey) -> Vec<Self> {
        let points = survey.visits().map(|(key, visits)| Self {
            batch: key.batch,
            share: key.share,
            neighbours: key.neighbours,
            visits_ns: visits.to_vec(),
        });
        points.collect()
    }

    /// The point.
    pub fn key(&self) -> PointKey {
        PointKey {
            batch: self.batch,
            share: self.share,
            neighbours: self.neighbours,
        }
    }
}

/// What an earlier run left behind.
#[derive(Clone, Debug)]
pub struct Earlier {
    path: PathBuf,
    /// Its profile.
    pub profile: Profile,
    samples: Option<Samples>,
}

/// Why what was left behind cannot be gone on from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EarlierError {
    /// A file is there and cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is there and is not what its place is for.
    #[error(
        "`{}` is no such file as this run would write\n\nhint: give another file with `--out`",
        path.display()
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A profile is there, of something else or wrong in itself.
    #[error(
        "cannot go on from `{}`\n\nhint: give another file with `--out`, or delete this one \
         to measure anew",
        path.display()
    )]
    Profile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ProfileError>,
    },
    /// The times are of another device or runtime than the profile beside them.
    #[error(
        "`{}` does not belong to the profile beside it\n\nhint: delete it, and the points of \
         the profile count as measured",
        path.display()
    )]
    Samples {
        /// The file.
        path: PathBuf,
    },
    /// A point of the times is not on the device or there twice, or a time is none that
    /// can have been measured.
    #[error(
        "cannot go on from the times in `{}`\n\nhint: delete it, and the points of the \
         profile count as measured",
        path.display()
    )]
    Times {
        /// The file.
        path: PathBuf,
        /// The point, and what is wrong with it.
        source: Box<ProfileError>,
    },
}

/// The file of times that belongs to a profile: `profile.samples.json` to `profile.json`.
pub fn samples_path(profile: &Path) -> PathBuf {
    profile.with_extension("samples.json")
}

impl Earlier {
    /// Reads what is at `path`; `None` where nothing is.
    ///
    /// # Errors
    /// [`EarlierError`].
    pub fn read(path: &Path) -> Result<Option<Self>, EarlierError> {
        let Some(profile) = read_json::<Profile>(path)? else {
            return Ok(None);
        };
        profile.check().map_err(|error| EarlierError::Profile {
            path: path.to_owned(),
            source: Box::new(error),
        })?;
        let beside = samples_path(path);
        let samples = read_json::<Samples>(&beside)?;
        let belongs = |samples: &Samples| {
            samples.schema == SAMPLES_SCHEMA
                && samples.device == profile.device
                && samples.runtime == profile.runtime
        };
        let cut_here = |model: &SampledModel| {
            model.legs.as_ref().is_none_or(|legs| {
                let key = &legs.plan.plan.key;
                (&key.model, &key.device, &key.runtime)
                    == (&model.hash, &profile.device, &profile.runtime)
                    && legs.plan.plan.legs.len() == legs.legs.len()
            })
        };
        let belongs = |samples: &Samples| belongs(samples) && samples.models.iter().all(cut_here);
        if samples.as_ref().is_some_and(|samples| !belongs(samples)) {
            return Err(EarlierError::Samples { path: beside });
        }
        for model in samples.iter().flat_map(|samples| &samples.models) {
            let legs = model.legs.iter().flat_map(|legs| &legs.legs);
            for points in std::iter::once(&model.points).chain(legs) {
                let points = points.iter();
                let times = points.map(|point| (point.key(), point.visits_ns.as_slice()));
                let checked = check_samples(&model.name, times, profile.device.slices);
                checked.map_err(|error| EarlierError::Times {
                    path: beside.clone(),
                    source: Box::new(error),
                })?;
            }
        }
        Ok(Some(Self {
            path: path.to_owned(),
            profile,
            samples,
        }))
    }

    /// Whether it was measured on this device, with this runtime, on these models.
    ///
    /// # Errors
    /// [`EarlierError::Profile`], which names both.
    pub fn check(&self, bench: &Workbench) -> Result<(), EarlierError> {
        let failed = |error| EarlierError::Profile {
            path: self.path.clone(),
            source: Box::new(error),
        };
        let matched = self.profile.matches(&bench.device, &bench.runtime);
        matched.map_err(failed)?;
        for model in &bench.models {
            let served = |version: &Option<String>| {
                let mut models = bench.models.iter();
                models.any(|other| {
                    other.name == model.name && Some(&other.version) == version.as_ref()
                })
            };
            let named = || {
                self.profile
                    .models
                    .iter()
                    .filter(|known| known.name == model.name)
            };
            if named().any(|known| known.hash == model.hash) {
                continue;
            }
            // Of this version with other content, or of a version that is not served.
            let other = named().find(|known| {
                known.version.as_ref() == Some(&model.version) || !served(&known.version)
            });
            if let Some(known) = other {
                return Err(failed(known.differs(model.key())));
            }
        }
        Ok(())
    }

    /// The times of a model of the profile, as far as they are there.
    pub fn samples_of(&self, model: &ModelProfile) -> Option<&SampledModel> {
        let mut models = self.samples().iter();
        models.find(|own| own.name == model.name && own.hash == model.hash)
    }

    /// The times of all models, as far as they are there.
    pub fn samples(&self) -> &[SampledModel] {
        let models = self
            .samples
            .as_ref()
            .map(|samples| samples.models.as_slice());
        models.unwrap_or_default()
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EarlierError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(EarlierError::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|source| EarlierError::Parse {
        path: path.to_owned(),
        source,
    })
}

/// The text of a file, or of a report: JSON for people to look into, with a line's end.
///
/// # Errors
/// Where a number is none that JSON has.
pub fn to_json(content: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(content)? + "\n")
}

/// Why what a run found is not kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeepError {
    /// It is no profile that a later run could go on from.
    #[error("what was found is not written to `{}`", path.display())]
    Unfit {
        /// Where it would have gone.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ProfileError>,
    },
    /// A number is none that JSON has.
    #[error("what was found cannot be put into JSON")]
    Json(#[from] serde_json::Error),
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Writes the profile and the times it rests on, if there are any.
///
/// # Errors
/// [`KeepError`].
pub fn keep(run: &Run, out: &Path) -> Result<(), KeepError> {
    if run.is_empty() {
        return Ok(());
    }
    let profile = run.profile();
    profile.check().map_err(|error| KeepError::Unfit {
        path: out.to_owned(),
        source: Box::new(error),
    })?;
    let times = samples_path(out);
    // The times first: a later run goes on from them only where there is a profile.
    for (path, text) in [
        (times.as_path(), to_json(&run.samples())?),
        (out, to_json(&profile)?),
    ] {
        write_whole(path, &text).map_err(|source| KeepError::Write {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Finds out whether [`write_whole`] could write there, and leaves everything as it was.
///
/// # Errors
/// Where it could not: the folder is missing or cannot be written into, or the path is a
/// folder's.
pub fn try_place(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let partial = partial_path(path);
    fs::write(&partial, "")?;
    fs::remove_file(&partial)
}

/// Where a file is written before it takes its place.
fn partial_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    path.with_file_name(name)
}

/// Writes a file in one step: whoever reads it finds the old content or the new.
///
/// # Errors
/// Where it cannot be written; what was there is still there.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let partial = partial_path(path);
    let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, path));
    if written.is_err() {
        // It is of no use to anyone; that it could not be written is what is told.
        let _ = fs::remove_file(&partial);
    }
    written
}
