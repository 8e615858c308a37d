//! Charts as SVG, one page each, made to be put on a slide: of a profile ([`charts`]), of
//! what ran where and when ([`space_time`]), and of what several policies hold
//! ([`against_load`]).
//!
//! Of a profile: for each model: latency against share with the knee, throughput, and both optima on the
//! (batch, share) surface; and one overview of all models. The charts show what a
//! [`Profile`] says and conclude nothing themselves: undecided knees, infeasible optima,
//! failed points and computed profiles are drawn as such.
//!
//! Equal profiles give equal bytes.

mod canvas;
mod curves;
mod frame;
mod gantt;
pub(crate) mod inline;
mod latency;
mod marks;
mod optima;
mod overview;
mod scale;
mod stages;
#[cfg(test)]
mod tests;
mod throughput;
mod view;

pub use curves::{LoadCurves, LoadLine, LoadPoint, against_load};
pub use gantt::space_time;
pub use stages::stages;

use fugato_core::profile::{Profile, ProfileError};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};
use view::View;

/// A chart, as the text of an SVG file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// Its file's name, which no model's name can lead out of the folder.
    pub file: String,
    /// The file's text.
    pub svg: String,
}

/// Why charts cannot be drawn or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The profile is not one that may be used.
    #[error("the profile cannot be drawn")]
    Profile(#[from] ProfileError),
    /// No model has a point with times.
    #[error(
        "the profile of {device} has no measured point of any of its {models} models\n\
         hint: the reasons stand in `failed` of each point; profile again"
    )]
    Empty {
        /// The device of the profile.
        device: String,
        /// Models in it.
        models: usize,
    },
    /// A file or the folder cannot be written.
    #[error("chart `{}` cannot be written", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

/// Draws all charts of a profile: `overview.svg` first, then three for each model.
///
/// # Errors
/// [`PlotError::Profile`] where [`Profile::check`] refuses the profile (NaN, zero,
/// duplicate points), [`PlotError::Empty`] where no model was measured alone.
pub fn charts(profile: &Profile) -> Result<Vec<Chart>, PlotError> {
    profile.check()?;
    let mut views = Vec::new();
    let mut unmeasured = Vec::new();
    for model in &profile.models {
        match View::new(model, profile.device.slices) {
            Some(view) => views.push(view),
            None => unmeasured.push(model.name.as_str()),
        }
    }
    if views.is_empty() {
        return Err(PlotError::Empty {
            device: profile.device.to_string(),
            models: profile.models.len(),
        });
    }
    let mut charts = vec![Chart {
        file: "overview.svg".to_owned(),
        svg: overview::chart(profile, &views, &unmeasured),
    }];
    let mut taken = BTreeSet::new();
    for view in &views {
        let stem = stem(&view.model.name, &mut taken);
        let of_model = [
            ("latency", latency::chart(profile, view)),
            ("throughput", throughput::chart(profile, view)),
            ("optima", optima::chart(profile, view)),
        ];
        charts.extend(of_model.map(|(kind, svg)| Chart {
            file: format!("{stem}-{kind}.svg"),
            svg,
        }));
    }
    Ok(charts)
}

/// Draws all charts into a folder, which is made where it is not there; gives the files.
///
/// # Errors
/// Those of [`charts`]; [`PlotError::Write`] where the folder or a file cannot be written.
pub fn write(profile: &Profile, folder: &Path) -> Result<Vec<PathBuf>, PlotError> {
    let charts = charts(profile)?;
    let unwritten = |path: &Path| {
        let path = path.to_owned();
        move |source| PlotError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(unwritten(folder))?;
    let mut written = Vec::with_capacity(charts.len());
    for chart in charts {
        let path = folder.join(&chart.file);
        fs::write(&path, chart.svg).map_err(unwritten(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// The model's name as the start of a file's name, not given out before.
fn stem(name: &str, taken: &mut BTreeSet<String>) -> String {
    let safe = |c: char| {
        if c.is_alphanumeric() || "._-".contains(c) {
            c
        } else {
            '_'
        }
    };
    // A file system allows 255 bytes; a character has up to 4.
    let mut stem: String = name.chars().map(safe).take(48).collect();
    if stem.starts_with('.') || stem.is_empty() {
        stem.insert(0, '_');
    }
    let mut unique = stem.clone();
    let mut number = 1;
    while !taken.insert(unique.clone()) {
        number += 1;
        unique = format!("{stem}-{number}");
    }
    unique
}
