//! A Triton model repository: `<name>/<version>/model.onnx`.
//!
//! [`scan`] only looks at names and files; it opens no model. One model that is wrong
//! never hides another: each is listed, with the versions found or the reason why it
//! cannot be served.
//!
//! **Invariant:** every path that [`scan`] returns lies, symbolic links followed, inside
//! the repository.

mod fingerprint;
mod name;
mod policy;
mod relative;

pub use fingerprint::Fingerprint;
pub use name::{MODEL_NAME_MAX_BYTES, ModelNameError, check_model_name};
pub use policy::{ChosenVersions, VersionPolicy};
pub use relative::{
    RELATIVE_MAX_BYTES, RelativeNameError, ResolveError, check_relative, resolve_below,
};

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing::debug;

/// The file of a model version, where its configuration names no other.
pub const MODEL_FILE: &str = "model.onnx";

/// The file of a model's configuration, in its folder.
pub const CONFIG_FILE: &str = "config.pbtxt";

/// The longest `config.pbtxt` that is read, in bytes. Real ones have a few thousand; those
/// that list labels or many instances stay far below.
const CONFIG_MAX_BYTES: u64 = 1 << 20;

/// The models of a repository.
#[derive(Debug)]
pub struct Repository {
    /// The repository's folder, canonical.
    pub root: PathBuf,
    /// Its models, by name.
    pub models: Vec<ModelEntry>,
}

impl Repository {
    /// The names of its models, served or not.
    pub fn names(&self) -> Vec<&str> {
        self.models
            .iter()
            .map(|model| model.name.as_str())
            .collect()
    }
}

/// One folder of a repository.
#[derive(Debug)]
pub struct ModelEntry {
    /// The model's name: the folder's.
    pub name: String,
    /// What it holds, or why it cannot be served.
    pub folder: Result<ModelFolder, Arc<ModelFault>>,
}

impl ModelEntry {
    /// The model file of the highest version, under its usual name.
    ///
    /// # Errors
    /// Why the model cannot be served.
    pub fn latest(&self) -> Result<PathBuf, Arc<ModelFault>> {
        let folder = self.folder.as_ref().map_err(Arc::clone)?;
        let latest = folder.versions.last().copied().unwrap_or_default();
        Ok(folder.model_file(latest, MODEL_FILE)?)
    }
}

/// The folder of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFolder {
    /// The model's name.
    pub name: String,
    /// Its path, canonical.
    pub path: PathBuf,
    /// The text of its `config.pbtxt`, where it has one.
    pub config: Option<String>,
    /// Its versions, rising; at least one.
    pub versions: Vec<u64>,
    /// Folders of the versions, parallel, canonical.
    version_folders: Vec<PathBuf>,
    /// The repository's folder, which links must not leave.
    root: PathBuf,
}

impl ModelFolder {
    /// The model file `name` of a version, canonical.
    ///
    /// # Errors
    /// [`ModelFault::NoFile`], or a link that leaves the repository.
    pub fn model_file(&self, version: u64, name: &str) -> Result<PathBuf, ModelFault> {
        let missing = || ModelFault::NoFile {
            model: self.name.clone(),
            version,
            file: name.to_owned(),
        };
        let place = self.versions.iter().position(|known| *known == version);
        let folder = place.map(|place| &self.version_folders[place]);
        let path = folder.ok_or_else(missing)?.join(name);
        if !path.exists() {
            return Err(missing());
        }
        let inside = Inside {
            root: &self.root,
            model: &self.name,
        };
        inside.resolve(&path)
    }
}

/// Why the repository as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the model repository `{}`", path.display())]
pub struct ScanError {
    /// The folder that was given.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Why one model of a repository cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelFault {
    /// The folder's name cannot be a model's.
    #[error(transparent)]
    Name(#[from] ModelNameError),
    /// No version folder.
    #[error("model `{model}` has no version\n\nhint: put its file at `{model}/1/{MODEL_FILE}`")]
    NoVersion {
        /// The model.
        model: String,
    },
    /// A version folder without its model file.
    #[error("version {version} of model `{model}` has no file `{file}`")]
    NoFile {
        /// The model.
        model: String,
        /// The version.
        version: u64,
        /// The file.
        file: String,
    },
    /// A configuration that is larger than any real one.
    #[error(
        "`{CONFIG_FILE}` of model `{model}` has {bytes} bytes, expected at most {CONFIG_MAX_BYTES}"
    )]
    ConfigTooLarge {
        /// The model.
        model: String,
        /// Its size.
        bytes: u64,
    },
    /// Two folders that denote one version, such as `1` and `01`.
    #[error("model `{model}` has two folders for version {version}")]
    TwoFolders {
        /// The model.
        model: String,
        /// The version.
        version: u64,
    },
    /// A symbolic link that leaves the repository.
    #[error("`{}` of model `{model}` leads out of the model repository\n\nhint: copy the folder into the repository, or bind-mount it there", path.display())]
    Escape {
        /// The model.
        model: String,
        /// The path, relative to the repository.
        path: PathBuf,
    },
    /// A folder or file of the model cannot be read.
    #[error("cannot read `{}` of model `{model}`", path.display())]
    Unreadable {
        /// The model.
        model: String,
        /// The path, relative to the repository.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Lists the models of the repository at `root`.
///
/// Hidden entries and plain files beside the model folders are skipped; so are entries of
/// a model folder whose names are no version numbers.
///
/// # Errors
/// [`ScanError`]: `root` is no folder that can be listed.
pub fn scan(root: &Path) -> Result<Repository, ScanError> {
    let fail = |source| ScanError {
        path: root.to_owned(),
        source,
    };
    let canonical = root.canonicalize().map_err(fail)?;
    let models = names(&canonical)?.into_iter().map(|(name, path)| {
        let folder = scan_folder(&canonical, &name, &path).map_err(Arc::new);
        ModelEntry { name, folder }
    });
    Ok(Repository {
        models: models.collect(),
        root: canonical.clone(),
    })
}

/// Looks at whether the files of each model of the repository at `root` changed; `None` for
/// a model whose files cannot be looked at.
///
/// # Errors
/// [`ScanError`]: `root` is no folder that can be listed.
pub fn fingerprints(root: &Path) -> Result<BTreeMap<String, Option<Fingerprint>>, ScanError> {
    let names = names(root)?;
    let print = |(name, folder): (String, PathBuf)| (name, Fingerprint::of(&folder).ok());
    Ok(names.into_iter().map(print).collect())
}

/// The names and folders of models, rising.
fn names(root: &Path) -> Result<Vec<(String, PathBuf)>, ScanError> {
    let fail = |source| ScanError {
        path: root.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(root).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 is listed with its odd bytes replaced, and refused
        // because of the replacements.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || entry.path().is_file() {
            debug!(entry = name, "skipped: not a model folder");
            continue;
        }
        names.push((name, entry.path()));
    }
    names.sort();
    Ok(names)
}

/// Looks at the model `name` of the repository at `root` alone; `None` where it has none.
///
/// # Errors
/// [`ModelFault`]: it cannot be served.
pub fn scan_model(root: &Path, name: &str) -> Result<Option<ModelFolder>, ModelFault> {
    check_model_name(name)?;
    let inside = Inside { root, model: name };
    let root = inside.canonical(root)?;
    let path = root.join(name);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(inside.unreadable(&path, error)),
        Ok(_) if path.is_file() => Ok(None),
        Ok(_) => scan_folder(&root, name, &path).map(Some),
    }
}

/// Lists what the folder of the model `model` holds.
fn scan_folder(root: &Path, model: &str, folder: &Path) -> Result<ModelFolder, ModelFault> {
    check_model_name(model)?;
    let inside = Inside { root, model };
    let folder = inside.resolve(folder)?;
    let entries = fs::read_dir(&folder).map_err(|source| inside.unreadable(&folder, source))?;
    let mut versions: Vec<(u64, PathBuf)> = Vec::new();
    let mut config = None;
    for entry in entries {
        let entry = entry.map_err(|source| inside.unreadable(&folder, source))?;
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(version_number) else {
            if name == CONFIG_FILE {
                config = Some(inside.read_config(&entry.path())?);
            } else {
                debug!(model, entry = ?name, "skipped: not a version folder");
            }
            continue;
        };
        let version_folder = inside.resolve(&entry.path())?;
        if !version_folder.is_dir() {
            debug!(model, version, "skipped: a file named like a version");
            continue;
        }
        if versions.iter().any(|(known, _)| *known == version) {
            return Err(ModelFault::TwoFolders {
                model: model.to_owned(),
                version,
            });
        }
        versions.push((version, version_folder));
    }
    versions.sort_by_key(|(version, _)| *version);
    if versions.is_empty() {
        return Err(ModelFault::NoVersion {
            model: model.to_owned(),
        });
    }
    let (versions, version_folders) = versions.into_iter().unzip();
    Ok(ModelFolder {
        name: model.to_owned(),
        path: folder,
        config,
        versions,
        version_folders,
        root: root.to_owned(),
    })
}

/// The version that a folder's name denotes: a positive whole number, as Triton reads it.
fn version_number(name: &str) -> Option<u64> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    name.parse().ok().filter(|version| digits && *version > 0)
}

/// Follows links within the repository only.
struct Inside<'a> {
    root: &'a Path,
    model: &'a str,
}

impl Inside<'_> {
    fn canonical(&self, path: &Path) -> Result<PathBuf, ModelFault> {
        path.canonicalize()
            .map_err(|source| self.unreadable(path, source))
    }

    /// The text of the configuration file at `path`.
    fn read_config(&self, path: &Path) -> Result<String, ModelFault> {
        let path = self.resolve(path)?;
        let unreadable = |source| self.unreadable(&path, source);
        let file = fs::File::open(&path).map_err(unreadable)?;
        let bytes = file.metadata().map_err(unreadable)?.len();
        if bytes > CONFIG_MAX_BYTES {
            return Err(ModelFault::ConfigTooLarge {
                model: self.model.to_owned(),
                bytes,
            });
        }
        let mut text = String::new();
        // The file may grow while it is read.
        file.take(CONFIG_MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Ok(text)
    }

    /// The canonical form of `path`, which must lie in the repository.
    fn resolve(&self, path: &Path) -> Result<PathBuf, ModelFault> {
        let canonical = self.canonical(path)?;
        if canonical.starts_with(self.root) {
            return Ok(canonical);
        }
        Err(ModelFault::Escape {
            model: self.model.to_owned(),
            path: self.relative(path),
        })
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> ModelFault {
        ModelFault::Unreadable {
            model: self.model.to_owned(),
            path: self.relative(path),
            source,
        }
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(self.root).unwrap_or(path).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new(files: &[&str]) -> Self {
            let scratch = Self(tempfile::tempdir().expect("a scratch folder"));
            fs::create_dir(scratch.root()).expect("a folder");
            for file in files {
                let path = scratch.root().join(file);
                if file.ends_with('/') {
                    fs::create_dir_all(path).expect("folders");
                } else {
                    fs::create_dir_all(path.parent().expect("below the root")).expect("folders");
                    fs::write(&path, b"model").expect("a file");
                }
            }
            scratch
        }

        fn root(&self) -> PathBuf {
            self.0.path().join("models")
        }

        fn entry(&self, name: &str) -> ModelEntry {
            let repository = scan(&self.root()).expect("it can be listed");
            let mut models = repository.models.into_iter();
            models.find(|model| model.name == name).expect("listed")
        }

        fn fault(&self, name: &str) -> String {
            self.entry(name).latest().expect_err("at fault").to_string()
        }
    }

    #[test]
    fn versions_are_numbers_in_numeric_order() {
        let scratch = Scratch::new(&[
            "a/10/model.onnx",
            "a/9/model.onnx",
            "a/2/model.onnx",
            "a/0/model.onnx",
            "a/-1/model.onnx",
            "a/+3/model.onnx",
            "a/notes/readme.txt",
            "a/.cache/x",
            "a/7",
            "a/config.pbtxt",
        ]);
        let entry = scratch.entry("a");
        let folder = entry.folder.as_ref().expect("fine");
        assert_eq!(folder.versions, [2, 9, 10]);
        assert_eq!(folder.config.as_deref(), Some("model"));
        let latest = entry.latest().expect("there is one");
        assert!(latest.ends_with("models/a/10/model.onnx"));
        let ninth = folder.model_file(9, MODEL_FILE).expect("it is there");
        assert!(ninth.ends_with("models/a/9/model.onnx"));
        let alone = scan_model(&scratch.root(), "a").expect("fine");
        assert_eq!(alone.as_ref(), Some(folder));
        assert_eq!(scan_model(&scratch.root(), "b").expect("fine"), None);
    }

    #[test]
    fn a_faulty_model_is_listed_beside_the_others() {
        let scratch = Scratch::new(&[
            "good/1/model.onnx",
            "empty/",
            "hollow/1/other.onnx",
            "twice/1/model.onnx",
            "twice/01/model.onnx",
            "bad name!/1/model.onnx",
            ".hidden/1/model.onnx",
            "README.md",
        ]);
        let repository = scan(&scratch.root()).expect("it can be listed");
        let names: Vec<&str> = repository.models.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["bad name!", "empty", "good", "hollow", "twice"]);
        assert!(scratch.entry("good").latest().is_ok());
        let cases = [
            ("empty", "`empty/1/model.onnx`"),
            (
                "hollow",
                "version 1 of model `hollow` has no file `model.onnx`",
            ),
            ("twice", "two folders for version 1"),
            ("bad name!", "model name `bad name!`"),
        ];
        for (name, expected) in cases {
            let fault = scratch.fault(name);
            assert!(fault.contains(expected), "{name}: {fault}");
        }
    }

    #[test]
    fn links_out_of_the_repository_are_refused_and_links_inside_followed() {
        let scratch = Scratch::new(&["a/1/model.onnx", "file/1/", "version/"]);
        let root = scratch.root();
        let outside = scratch.0.path().join("outside");
        fs::create_dir_all(outside.join("1")).expect("folders");
        fs::write(outside.join("1/model.onnx"), b"secret").expect("a file");
        symlink(&outside, root.join("folder")).expect("a link");
        symlink(outside.join("1"), root.join("version/1")).expect("a link");
        symlink(outside.join("1/model.onnx"), root.join("file/1/model.onnx")).expect("a link");
        symlink(root.join("a"), root.join("alias")).expect("a link");
        symlink(root.join("nowhere"), root.join("broken")).expect("a link");
        for (name, path) in [
            ("folder", "`folder`"),
            ("version", "`version/1`"),
            ("file", "`file/1/model.onnx`"),
        ] {
            let fault = scratch.fault(name);
            assert!(
                fault.contains(path) && fault.contains("leads out"),
                "{name}: {fault}"
            );
        }
        assert!(scratch.fault("broken").contains("cannot read `broken`"));
        let alias = scratch.entry("alias");
        assert!(
            alias
                .latest()
                .expect("followed")
                .ends_with("a/1/model.onnx")
        );
    }

    #[test]
    fn a_repository_that_is_none_is_an_error() {
        let error = scan(Path::new("no/such/folder")).expect_err("there is none");
        assert!(error.to_string().contains("`no/such/folder`"), "{error}");
    }
}
