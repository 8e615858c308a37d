//! A Triton model repository: `<name>/<version>/model.onnx`.
//!
//! [`scan`] only looks at names and files; it opens no model. One model that is wrong
//! never hides another: each is listed, with the versions found or the reason why it
//! cannot be served.
//!
//! **Invariant:** every path that [`scan`] returns lies, symbolic links followed, inside
//! the repository.

mod name;
mod relative;

pub use name::{MODEL_NAME_MAX_BYTES, ModelNameError, check_model_name};
pub use relative::{
    RELATIVE_MAX_BYTES, RelativeNameError, ResolveError, check_relative, resolve_below,
};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tracing::{debug, warn};

/// The file of a model version.
pub const MODEL_FILE: &str = "model.onnx";

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
    /// Its versions, rising; at least one. Or why it cannot be served.
    pub versions: Result<Vec<VersionEntry>, ModelFault>,
}

impl ModelEntry {
    /// The version that is served where a request names none: the highest.
    pub fn latest(&self) -> Option<&VersionEntry> {
        self.versions.as_ref().ok()?.last()
    }
}

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionEntry {
    /// Its number, at least 1.
    pub version: u64,
    /// Its model file, canonical.
    pub path: PathBuf,
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
    /// A version folder without a model file.
    #[error("version {version} of model `{model}` has no file `{MODEL_FILE}`")]
    NoFile {
        /// The model.
        model: String,
        /// The version.
        version: u64,
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
/// a model folder whose names are no version numbers. A `config.pbtxt` is named in a
/// warning, since its settings are not read.
///
/// # Errors
/// [`ScanError`]: `root` is no folder that can be listed.
pub fn scan(root: &Path) -> Result<Repository, ScanError> {
    let fail = |source| ScanError {
        path: root.to_owned(),
        source,
    };
    let canonical = root.canonicalize().map_err(fail)?;
    let mut models = Vec::new();
    for entry in fs::read_dir(&canonical).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        // A name that is not UTF-8 is listed with its odd bytes replaced, and refused
        // because of the replacements.
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || entry.path().is_file() {
            debug!(entry = name, "skipped: not a model folder");
            continue;
        }
        let versions = scan_model(&canonical, &name, &entry.path());
        models.push(ModelEntry { name, versions });
    }
    models.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(Repository {
        root: canonical,
        models,
    })
}

/// Lists the versions of the model in `folder`.
fn scan_model(root: &Path, model: &str, folder: &Path) -> Result<Vec<VersionEntry>, ModelFault> {
    check_model_name(model)?;
    let inside = Inside { root, model };
    let folder = inside.resolve(folder)?;
    let entries = fs::read_dir(&folder).map_err(|source| inside.unreadable(&folder, source))?;
    let mut versions: Vec<VersionEntry> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| inside.unreadable(&folder, source))?;
        let name = entry.file_name();
        let Some(version) = name.to_str().and_then(version_number) else {
            if name == "config.pbtxt" {
                warn!(
                    model,
                    file = "config.pbtxt",
                    "not read: set the model's options in [model.NAME] of fugato.toml"
                );
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
        if versions.iter().any(|known| known.version == version) {
            return Err(ModelFault::TwoFolders {
                model: model.to_owned(),
                version,
            });
        }
        let file = version_folder.join(MODEL_FILE);
        if !file.exists() {
            return Err(ModelFault::NoFile {
                model: model.to_owned(),
                version,
            });
        }
        versions.push(VersionEntry {
            version,
            path: inside.resolve(&file)?,
        });
    }
    versions.sort_by_key(|entry| entry.version);
    if versions.is_empty() {
        return Err(ModelFault::NoVersion {
            model: model.to_owned(),
        });
    }
    Ok(versions)
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
    /// The canonical form of `path`.
    fn resolve(&self, path: &Path) -> Result<PathBuf, ModelFault> {
        let canonical = path
            .canonicalize()
            .map_err(|source| self.unreadable(path, source))?;
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
            self.entry(name).versions.expect_err("at fault").to_string()
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
        let versions = entry.versions.as_ref().expect("fine");
        let numbers: Vec<u64> = versions.iter().map(|entry| entry.version).collect();
        assert_eq!(numbers, [2, 9, 10]);
        let latest = entry.latest().expect("there is one");
        assert_eq!(latest.version, 10);
        assert!(latest.path.ends_with("models/a/10/model.onnx"));
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
        assert!(scratch.entry("good").versions.is_ok());
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
                .path
                .ends_with("a/1/model.onnx")
        );
    }

    #[test]
    fn a_repository_that_is_none_is_an_error() {
        let error = scan(Path::new("no/such/folder")).expect_err("there is none");
        assert!(error.to_string().contains("`no/such/folder`"), "{error}");
    }
}
