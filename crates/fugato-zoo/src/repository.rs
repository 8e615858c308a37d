//! Writing models as a Triton model repository.

use crate::{Recipe, STAMP_KEY, ZooModel, find};
use fugato_onnx::{ExternalPolicy, WriteError, read_metadata, save_model};
use std::fs;
use std::path::{Path, PathBuf};

/// What happened to one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The file was written.
    Written,
    /// The file was there with the same content.
    Kept,
}

/// A model of a repository that was laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Name of the model.
    pub name: &'static str,
    /// Its file.
    pub path: PathBuf,
    /// What happened.
    pub outcome: Outcome,
}

/// A step of [`write_repository`].
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A model is about to be made and written.
    Start(&'static ZooModel),
    /// A model's file is in place.
    Done(&'a Written),
}

/// Why a repository cannot be laid out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// No model has this name.
    #[error("the zoo has no model `{name}`\n\nhint: `fugato zoo list` shows the names")]
    UnknownModel {
        /// The name given.
        name: String,
    },
    /// A folder cannot be made.
    #[error("cannot make the folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model cannot be written.
    #[error("cannot write the model `{model}`")]
    Write {
        /// Name of the model.
        model: &'static str,
        /// Why.
        source: WriteError,
    },
}

/// Lays the named models out as `<folder>/<name>/1/model.onnx`.
///
/// Each file appears at once and whole. A file already there with the same model, zoo
/// version and recipe is kept. Names are checked before anything is written.
///
/// # Errors
/// Every kind of [`RepositoryError`]; models before the one that failed are in place.
pub fn write_repository(
    folder: &Path,
    names: &[&str],
    recipe: Recipe,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Written>, RepositoryError> {
    let known = |name: &&str| {
        find(name).ok_or_else(|| RepositoryError::UnknownModel {
            name: (*name).to_owned(),
        })
    };
    let models = names.iter().map(known).collect::<Result<Vec<_>, _>>()?;
    let mut all = Vec::with_capacity(models.len());
    for model in models {
        let version = folder.join(model.name).join("1");
        fs::create_dir_all(&version).map_err(|source| RepositoryError::Folder {
            path: version.clone(),
            source,
        })?;
        let path = version.join("model.onnx");
        let outcome = if holds(&path, &model.stamp(recipe)) {
            Outcome::Kept
        } else {
            progress(Progress::Start(model));
            save_model(&model.make(recipe), &path, ExternalPolicy::Never).map_err(|source| {
                RepositoryError::Write {
                    model: model.name,
                    source,
                }
            })?;
            Outcome::Written
        };
        let written = Written {
            name: model.name,
            path,
            outcome,
        };
        progress(Progress::Done(&written));
        all.push(written);
    }
    Ok(all)
}

/// Says whether a file is a whole model with this stamp. One that is not there, cannot
/// be read or is of another sort is not, and is then written anew.
pub(crate) fn holds(path: &Path, stamp: &str) -> bool {
    read_metadata(path).is_ok_and(|metadata| {
        metadata
            .iter()
            .any(|entry| entry.key() == STAMP_KEY && entry.value() == stamp)
    })
}
