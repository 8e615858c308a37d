//! Where ONNX Runtime's shared library is.
//!
//! The binary links to no ONNX Runtime; it loads one at run time. [`find`] says which,
//! so that no environment variable has to be set: `make runtime` puts the library below
//! `.fugato/`, an installation puts it beside the binary.

use std::fmt;
use std::path::{Path, PathBuf};

/// The version that is fetched, tested and looked for. A library of another name is used
/// only where it is given by name.
pub const VERSION: &str = "1.31.1";

/// A library that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Its absolute path.
    pub path: PathBuf,
    /// Why this one: the place that was looked at.
    pub place: Place,
}

/// A place where the library may be, in the order they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Given by flag, environment variable or configuration file.
    Given,
    /// In the executable's folder or in `lib` beside it: an installation.
    BesideExecutable,
    /// In `.fugato/onnxruntime/` of a folder that holds the executable: a build.
    AboveExecutable,
    /// In `.fugato/onnxruntime/` of a folder that holds the working directory: a build
    /// with its target folder elsewhere.
    AboveWorkingDirectory,
    /// In a folder of the system's loader.
    System,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::BesideExecutable => "beside the executable",
            Self::AboveExecutable => "above the executable",
            Self::AboveWorkingDirectory => "above the working directory",
            Self::System => "system",
        })
    }
}

/// There is no library where it was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no ONNX Runtime {VERSION} was found; looked at:{}\n\nhint: run `make runtime`, or name the library with `--onnxruntime`",
    listed(looked_at)
)]
pub struct FindError {
    /// The paths that were looked at, in order.
    pub looked_at: Vec<PathBuf>,
}

/// The file of ONNX Runtime's CUDA provider, which lies beside the library.
const CUDA_PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// There is no library for NVIDIA devices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindGpuError {
    /// There is none at all.
    #[error("{}", .0.to_string().replace("make runtime", "make runtime-gpu"))]
    Missing(#[from] FindError),
    /// It is a build without the CUDA provider.
    #[error(
        "`{}` ({}) has no CUDA provider: `{CUDA_PROVIDER}` is not beside it\n\nhint: run \
         `make runtime-gpu`, or name a library that has it with `--onnxruntime`",
        library.path.display(),
        library.place
    )]
    NoProvider {
        /// What was found.
        library: Library,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| format!("\n  {}", path.display()))
        .collect()
}

/// What [`find`] looks around from; read from the process by [`Surroundings::of_process`].
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The executable's folder.
    pub executable: Option<PathBuf>,
    /// The working directory.
    pub working: Option<PathBuf>,
    /// The folders of the system's loader, first one first.
    pub system: Vec<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let executable = std::env::current_exe()
            .ok()
            .and_then(|path| path.canonicalize().ok())
            .and_then(|path| path.parent().map(Path::to_owned));
        let loader = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let standard = [
            "/usr/local/lib",
            "/usr/lib",
            "/usr/lib64",
            "/lib",
            multiarch_folder(),
        ];
        Self {
            executable,
            working: std::env::current_dir().ok(),
            system: std::env::split_paths(&loader)
                .filter(|folder| folder.is_absolute())
                .chain(standard.into_iter().map(PathBuf::from))
                .collect(),
        }
    }
}

/// The folder where Debian and its descendants keep libraries of this architecture.
const fn multiarch_folder() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "/usr/lib/aarch64-linux-gnu"
    } else {
        "/usr/lib/x86_64-linux-gnu"
    }
}

/// Finds the library: `given` if there is one (the file, or its folder), else the first
/// that exists of the places in the order of [`Place`].
///
/// # Errors
/// [`FindError`]: none exists. A given path that does not exist is an error even where
/// another library would be found, since running another one would surprise.
pub fn find(given: Option<&Path>, around: &Surroundings) -> Result<Library, FindError> {
    find_build(".fugato/onnxruntime", given, around)
}

/// Finds the library of the build for NVIDIA devices: as [`find`] does, but of what was
/// fetched only that build.
///
/// # Errors
/// As `find`, and where the library that was found has no CUDA provider beside it.
pub fn find_gpu(given: Option<&Path>, around: &Surroundings) -> Result<Library, FindGpuError> {
    let library = find_build(".fugato/onnxruntime-gpu", given, around)?;
    let provider = library.path.with_file_name(CUDA_PROVIDER);
    match provider.is_file() {
        true => Ok(library),
        false => Err(FindGpuError::NoProvider { library }),
    }
}

fn find_build(
    fetched: &str,
    given: Option<&Path>,
    around: &Surroundings,
) -> Result<Library, FindError> {
    let name = format!("libonnxruntime.so.{VERSION}");
    let mut looked_at = Vec::new();
    let candidates = match given {
        Some(path) if path.is_dir() => vec![(Place::Given, path.join(&name))],
        Some(path) => vec![(Place::Given, path.to_owned())],
        None => candidates(around, fetched, &name),
    };
    for (place, path) in candidates {
        if path.is_file()
            && let Ok(path) = path.canonicalize()
        {
            return Ok(Library { path, place });
        }
        if !looked_at.contains(&path) {
            looked_at.push(path);
        }
    }
    Err(FindError { looked_at })
}

fn candidates(around: &Surroundings, fetched: &str, name: &str) -> Vec<(Place, PathBuf)> {
    let mut found = Vec::new();
    if let Some(folder) = &around.executable {
        if let Some(parent) = folder.parent() {
            found.push((Place::BesideExecutable, parent.join("lib").join(name)));
        }
        found.push((Place::BesideExecutable, folder.join(name)));
    }
    let fetched = Path::new(fetched).join(VERSION).join("lib");
    for (place, start) in [
        (Place::AboveExecutable, &around.executable),
        (Place::AboveWorkingDirectory, &around.working),
    ] {
        let folders = start.iter().flat_map(|start| start.ancestors());
        found.extend(folders.map(|folder| (place, folder.join(&fetched).join(name))));
    }
    let system = around.system.iter();
    found.extend(system.map(|folder| (Place::System, folder.join(name))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NAME: &str = "libonnxruntime.so.1.31.1";
    const FETCHED: &str = ".fugato/onnxruntime/1.31.1/lib";

    fn put(root: &Path, folder: &str) -> PathBuf {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(NAME);
        fs::write(&path, b"").expect("a file");
        path
    }

    #[test]
    fn a_build_for_the_gpu_is_not_one_without_its_provider() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let around = Surroundings {
            working: Some(scratch.path().to_owned()),
            ..Surroundings::default()
        };
        put(scratch.path(), FETCHED);
        let missing = find_gpu(None, &around).expect_err("only the other build is there");
        assert!(matches!(missing, FindGpuError::Missing(_)), "{missing}");
        assert!(
            missing.to_string().contains("make runtime-gpu"),
            "{missing}"
        );

        let path = put(scratch.path(), ".fugato/onnxruntime-gpu/1.31.1/lib");
        let bare = find_gpu(None, &around).expect_err("there is no provider");
        assert!(bare.to_string().contains(CUDA_PROVIDER), "{bare}");

        fs::write(path.with_file_name(CUDA_PROVIDER), b"").expect("a file");
        let library = find_gpu(None, &around).expect("all is there");
        assert_eq!(library.path, path.canonicalize().expect("a path"));
    }

    #[test]
    fn the_nearest_place_wins() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let root = scratch.path().canonicalize().expect("it exists");
        let around = Surroundings {
            executable: Some(root.join("build/target/release")),
            working: Some(root.join("work/deep")),
            system: vec![root.join("system")],
        };
        fs::create_dir_all(root.join("build/target/release")).expect("a folder");
        // From the last place to the first, each found before all placed earlier.
        let places = [
            ("system", Place::System),
            (&format!("work/{FETCHED}"), Place::AboveWorkingDirectory),
            (&format!("build/{FETCHED}"), Place::AboveExecutable),
            ("build/target/release", Place::BesideExecutable),
            ("build/target/lib", Place::BesideExecutable),
            ("given", Place::Given),
        ];
        for (folder, place) in places {
            let path = put(&root, folder);
            let given = (place == Place::Given).then(|| root.join("given"));
            let library = find(given.as_deref(), &around).expect("one is there");
            assert_eq!(library, Library { path, place });
        }
    }

    #[test]
    fn what_was_looked_at_is_listed_with_the_way_out() {
        let around = Surroundings {
            executable: Some("/a/bin".into()),
            working: Some("/b".into()),
            system: vec!["/c".into()],
        };
        let error = find(None, &around).expect_err("none is there").to_string();
        for part in [
            "/a/lib/",
            "/a/bin/",
            "/a/.fugato/",
            "/b/.fugato/",
            "/c/",
            "make runtime",
        ] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
    }

    #[test]
    fn a_given_path_is_not_replaced_by_another() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        put(scratch.path(), "system");
        let around = Surroundings {
            system: vec![scratch.path().join("system")],
            ..Surroundings::default()
        };
        let error = find(Some(Path::new("/no/such.so")), &around).expect_err("not there");
        assert_eq!(error.looked_at, [PathBuf::from("/no/such.so")]);
    }
}
