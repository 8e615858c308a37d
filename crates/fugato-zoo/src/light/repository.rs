//! Writing materialised light models as a Triton model repository.

use super::{LightError, materialise, stamp};
use crate::repository::{Outcome, holds};
use fugato_onnx::{ExternalPolicy, ReadError, WriteError, read_model, save_model};
use std::fs;
use std::path::{Path, PathBuf};

/// A light model that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LightWritten {
    /// Name: that of the file it was made from, without `.onnx`.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// What happened.
    pub outcome: Outcome,
}

/// Why the light models cannot be laid out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LightRepositoryError {
    /// The folder of light models cannot be listed.
    #[error("cannot list the folder `{}`", path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The folder has no light models.
    #[error("folder `{}` has no file light_*.onnx\n\nhint: give the folder onnx/backend/test/data/light of the Python package onnx", path.display())]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// A light model cannot be read.
    #[error("cannot read the light model `{}`", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// A light model cannot be given weights.
    #[error("cannot give weights to the light model `{model}`")]
    Materialise {
        /// Its name.
        model: String,
        /// Why.
        source: LightError,
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
        /// Its name.
        model: String,
        /// Why.
        source: WriteError,
    },
}

/// Lists the light models of a folder: the files `light_*.onnx`, sorted by name.
///
/// # Errors
/// [`LightRepositoryError::List`] and [`LightRepositoryError::Nothing`].
pub fn list(folder: &Path) -> Result<Vec<PathBuf>, LightRepositoryError> {
    let failed = |source| LightRepositoryError::List {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("light_") && name.ends_with(".onnx") {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(LightRepositoryError::Nothing {
            path: folder.to_owned(),
        });
    }
    paths.sort();
    Ok(paths)
}

/// Materialises light model files as `<folder>/<name>/1/model.onnx`, calling `progress`
/// after each. A file already there with the same graph, zoo version and seed is kept.
///
/// # Errors
/// Every kind of [`LightRepositoryError`] but those of [`list`]; models before the one
/// that failed are in place.
pub fn write_repository(
    models: &[PathBuf],
    folder: &Path,
    seed: u64,
    progress: &mut dyn FnMut(&LightWritten),
) -> Result<Vec<LightWritten>, LightRepositoryError> {
    let mut all = Vec::with_capacity(models.len());
    for path in models {
        let written = write(path, folder, seed)?;
        progress(&written);
        all.push(written);
    }
    Ok(all)
}

fn write(source: &Path, folder: &Path, seed: u64) -> Result<LightWritten, LightRepositoryError> {
    let name = source.file_stem().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let model = read_model(source).map_err(|error| LightRepositoryError::Read {
        path: source.to_owned(),
        source: error,
    })?;
    let version = folder.join(&name).join("1");
    fs::create_dir_all(&version).map_err(|source| LightRepositoryError::Folder {
        path: version.clone(),
        source,
    })?;
    let path = version.join("model.onnx");
    let graph = model.graph.as_ref().map_or("", |graph| graph.name());
    if holds(&path, &stamp(graph, seed)) {
        return Ok(LightWritten {
            name,
            path,
            outcome: Outcome::Kept,
        });
    }
    let model = materialise(&model, seed).map_err(|source| LightRepositoryError::Materialise {
        model: name.clone(),
        source,
    })?;
    save_model(&model, &path, ExternalPolicy::Never).map_err(|source| {
        LightRepositoryError::Write {
            model: name.clone(),
            source,
        }
    })?;
    Ok(LightWritten {
        name,
        path,
        outcome: Outcome::Written,
    })
}
