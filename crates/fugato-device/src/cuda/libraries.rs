//! The vendor's libraries that ONNX Runtime's CUDA provider needs, wherever they are.

mod fit;

use fit::Said;
pub use fit::{LibrariesUnfit, Unfit};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// By file name, those that others need first. The provider links to the first five and
/// opens cuDNN and cuFFT where a model needs them; cuDNN opens NVRTC.
const WANTED: [&str; 8] = [
    "libcudart.so.13",
    "libnvJitLink.so.13",
    "libnvrtc.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcufft.so.12",
    "libcudnn.so.9",
];

/// Those without which the provider does not load, or no convolution runs.
const NEEDED: [&str; 5] = [
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
];

/// The same of other major versions, by the names before their numbers, newest first.
const OTHERS: [(&str, &[&str]); 4] = [
    ("libcudart.so.", &["12", "11.0"]),
    ("libcublasLt.so.", &["12", "11"]),
    ("libcublas.so.", &["12", "11"]),
    ("libcudnn.so.", &["10", "8", "7"]),
];

/// Libraries that were loaded, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaLibraries {
    /// File names and folders; no folder: found by the system's loader.
    pub loaded: Vec<(&'static str, Option<PathBuf>)>,
    /// Those that are there, do not load, and that only some models need.
    pub refused: Vec<Unloadable>,
}

/// A library that is there and does not load: of another architecture, say, or without a library
/// that it needs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unloadable {
    /// Its file name.
    pub library: &'static str,
    /// Where it is; `None`: where the system's loader found it.
    pub folder: Option<PathBuf>,
    /// What the loader says.
    pub words: String,
}

impl std::fmt::Display for Unloadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.library)?;
        if let Some(folder) = &self.folder {
            write!(f, " in {}", folder.display())?;
        }
        write!(f, " does not load: {}", self.words)
    }
}

/// Why the vendor's libraries cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LibrariesError {
    /// Some are nowhere, or do not load.
    #[error(transparent)]
    Missing(#[from] LibrariesMissing),
    /// Some do not go with the others.
    #[error(transparent)]
    Unfit(#[from] LibrariesUnfit),
}

/// Libraries that are in none of the places, or do not load from there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.told())]
pub struct LibrariesMissing {
    /// The file names of those that are nowhere.
    pub missing: Vec<&'static str>,
    /// What is there of other major versions: file names and folders, as in [`CudaLibraries`].
    pub instead: Vec<(String, Option<PathBuf>)>,
    /// The folders that were looked in.
    pub looked_in: Vec<PathBuf>,
    /// Those that are there and load from nowhere, once for each place.
    pub refused: Vec<Unloadable>,
}

impl LibrariesMissing {
    fn told(&self) -> String {
        let absent = (!self.missing.is_empty()).then(|| {
            format!(
                "{} not found by the system's loader, nor in {}{}",
                self.missing.join(", "),
                listed(&self.looked_in),
                told(&self.instead)
            )
        });
        let refused = self.refused.iter().map(Unloadable::to_string);
        refused.chain(absent).collect::<Vec<_>>().join("; ")
    }
}

fn listed(folders: &[PathBuf]) -> String {
    match folders {
        [] => "any other folder".to_owned(),
        folders => folders
            .iter()
            .map(|folder| folder.display().to_string())
            .collect::<Vec<_>>()
            .join(", "),
    }
}

/// What is there of other versions, as the end of a message.
fn told(instead: &[(String, Option<PathBuf>)]) -> String {
    let each = instead.iter().map(|(name, folder)| match folder {
        Some(folder) => format!("`{name}` in {}", folder.display()),
        None => format!("`{name}`"),
    });
    match instead.is_empty() {
        true => String::new(),
        false => format!(
            "; of other major versions there is {}",
            each.collect::<Vec<_>>().join(", ")
        ),
    }
}

impl CudaLibraries {
    /// Loads them for the life of the process, so that ONNX Runtime finds them by name:
    /// from `given`, else by the system's loader, else from the `nvidia` packages of Python
    /// installations nearby.
    ///
    /// # Errors
    /// Where one that is needed is nowhere, does not load, or is of another major version of CUDA or
    /// of itself than the others.
    pub fn load(given: &[PathBuf]) -> Result<Self, LibrariesError> {
        let found = Self::search(given, &wheels(&python_packages()), open)?;
        let said = Said::by_libraries(found.folder("libcudnn.so.9"));
        match found.unfit(&said) {
            None => Ok(found),
            Some(unfit) => Err(unfit.into()),
        }
    }

    /// Loads each by `open`, from the first place where it can be.
    fn search(
        given: &[PathBuf],
        wheels: &[PathBuf],
        open: impl Fn(&Path) -> Result<(), String>,
    ) -> Result<Self, LibrariesMissing> {
        let mut found = Self::default();
        let (mut missing, mut needed) = (Vec::new(), Vec::new());
        for library in WANTED {
            let mut refused = Vec::new();
            let places = given.iter().map(Some).chain([None]);
            let mut places = places.chain(wheels.iter().map(Some));
            let place = places.find(|folder| {
                let path = match folder {
                    Some(folder) => folder.join(library),
                    None => PathBuf::from(library),
                };
                if folder.is_some() && !path.exists() {
                    return false;
                }
                let words = match open(&path) {
                    Ok(()) => return true,
                    Err(words) => words,
                };
                if folder.is_some() || !is_absent(library, &words) {
                    refused.push(Unloadable {
                        library,
                        folder: folder.cloned(),
                        words,
                    });
                }
                false
            });
            match place {
                Some(folder) => found.loaded.push((library, folder.cloned())),
                None if !NEEDED.contains(&library) => found.refused.append(&mut refused),
                None if refused.is_empty() => missing.push(library),
                None => needed.append(&mut refused),
            }
        }
        if missing.is_empty() && needed.is_empty() {
            return Ok(found);
        }
        let looked_in: Vec<_> = given.iter().chain(wheels).cloned().collect();
        Err(LibrariesMissing {
            instead: instead_of(&missing, &looked_in),
            missing,
            looked_in,
            refused: needed,
        })
    }

    /// Where one that was loaded is; `None` where the system's loader found it, or nobody did.
    fn folder(&self, library: &str) -> Option<&Path> {
        let mut loaded = self.loaded.iter();
        let (_, folder) = loaded.find(|(name, _)| *name == library)?;
        folder.as_deref()
    }
}

/// Whether the system's loader says of a library by its name that it is nowhere, and not that
/// something is wrong with it.
///
/// Source: glibc's words, which name what could not be opened: a library that is found and needs
/// another that is not is told with the other's name.
fn is_absent(library: &str, words: &str) -> bool {
    let rest = words.strip_prefix(library);
    rest.is_some_and(|rest| rest.starts_with(": cannot open shared object file: No such file"))
}

/// What is there of other major versions of libraries, in folders or by the system's loader.
fn instead_of(missing: &[&str], folders: &[PathBuf]) -> Vec<(String, Option<PathBuf>)> {
    let mut found = Vec::new();
    for (stem, versions) in OTHERS {
        if !missing.iter().any(|name| name.starts_with(stem)) {
            continue;
        }
        for name in versions.iter().map(|version| format!("{stem}{version}")) {
            let folder = folders.iter().find(|folder| folder.join(&name).exists());
            if folder.is_some() || is_known(&name) {
                found.push((name, folder.cloned()));
            }
        }
    }
    found
}

/// Whether the system's loader finds a library, which is not kept.
fn is_known(name: &str) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    // SAFETY: the name ends with a zero; what the library does when it is loaded and unloaded is
    // the vendor's, and nobody uses it in between.
    unsafe {
        let library = libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL);
        !library.is_null() && libc::dlclose(library) == 0
    }
}

/// A function of a library that was loaded.
fn symbol(library: &CStr, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the names end with a zero; nothing is loaded by this. The handle is never closed,
    // as the library never is.
    unsafe {
        let library = libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        NonNull::new(library)?;
        NonNull::new(libc::dlsym(library, name.as_ptr()))
    }
}

/// Loads a library so that others find it by its name.
fn open(path: &Path) -> Result<(), String> {
    let c_path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| format!("`{}` contains a NUL byte", path.display()))?;
    // SAFETY: the path ends with a zero; what the library does when it is loaded is the
    // vendor's. It is never unloaded.
    let handle = unsafe { libc::dlopen(c_path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: the text, if any, is valid until the thread's next call of the loader.
    let words = unsafe {
        let words = libc::dlerror();
        (!words.is_null()).then(|| CStr::from_ptr(words).to_string_lossy().into_owned())
    };
    Err(words.unwrap_or_else(|| format!("`{}` could not be loaded", path.display())))
}

/// Folders with Python packages: of the active environment, of `python3` on the path, of the
/// user and of the system.
fn python_packages() -> Vec<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let mut prefixes: Vec<PathBuf> = folder("VIRTUAL_ENV").into_iter().collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in std::env::split_paths(&path).map(|folder| folder.join("python3")) {
        let real = program.canonicalize().ok();
        for program in [Some(program), real].into_iter().flatten() {
            if program.exists() {
                prefixes.extend(program.parent().and_then(Path::parent).map(Path::to_owned));
            }
        }
    }
    prefixes.extend(folder("HOME").map(|home| home.join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));
    let mut seen = BTreeSet::new();
    let mut packages = Vec::new();
    for prefix in prefixes
        .into_iter()
        .filter(|prefix| seen.insert(prefix.clone()))
    {
        for python in entries(&prefix.join("lib"), |name| name.starts_with(b"python3")) {
            packages.extend(["site-packages", "dist-packages"].map(|kind| python.join(kind)));
        }
    }
    packages
}

/// The library folders of NVIDIA's packages in folders of Python packages.
fn wheels(packages: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for packages in packages {
        for package in entries(&packages.join("nvidia"), |_| true) {
            folders.extend(
                ["lib", "lib64"]
                    .map(|name| package.join(name))
                    .into_iter()
                    .filter(|folder| folder.is_dir()),
            );
        }
    }
    folders
}

/// What is in a folder, by name; nothing where it cannot be read.
fn entries(folder: &Path, wanted: impl Fn(&[u8]) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| wanted(path.file_name().unwrap_or(OsStr::new("")).as_bytes()))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn libraries_of_python_packages_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let packages = folder.path().join("site-packages");
        for package in ["cu13/lib", "cudnn/lib", "cudnn/include"] {
            fs::create_dir_all(packages.join("nvidia").join(package)).expect("a folder");
        }
        let nvidia = packages.join("nvidia");
        assert_eq!(
            wheels(&[packages, folder.path().join("none")]),
            [nvidia.join("cu13/lib"), nvidia.join("cudnn/lib")]
        );
    }

    #[test]
    fn libraries_that_were_not_loaded_say_no_version() {
        assert_eq!(symbol(c"libno-such-library.so.1", c"version"), None);
        assert!(symbol(c"libc.so.6", c"getpid").is_some());
        assert_eq!(symbol(c"libc.so.6", c"no_such_function"), None);
    }

    #[test]
    fn libraries_of_another_cuda_are_named_beside_those_that_are_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["libcublas.so.12", "libcudnn.so.8", "libcufft.so.11"] {
            fs::write(folder.path().join(name), "").expect("a file");
        }
        let folders = vec![folder.path().to_owned()];
        let missing = vec!["libcublas.so.13", "libcudnn.so.9", "libcurand.so.10"];
        let here = Some(folder.path().to_owned());
        let mut instead = instead_of(&missing, &folders);
        // What else this machine has is its own.
        instead.retain(|(_, folder)| folder.is_some());
        let expected =
            ["libcublas.so.12", "libcudnn.so.8"].map(|name| (name.to_owned(), here.clone()));
        assert_eq!(instead, expected);
        let error = LibrariesMissing {
            missing,
            instead,
            looked_in: folders,
            refused: Vec::new(),
        };
        let folder = folder.path().display();
        let end = format!(
            "; of other major versions there is `libcublas.so.12` in {folder}, `libcudnn.so.8` in \
             {folder}"
        );
        assert!(error.to_string().ends_with(&end), "{error}");
    }

    #[test]
    fn a_library_is_looked_for_and_not_kept() {
        assert!(!is_known("libno-such-library.so.1"));
        assert!(is_known("libc.so.6"));
    }

    /// What a loader says that finds no library by its name.
    fn nowhere(path: &Path) -> String {
        let path = path.display();
        format!("{path}: cannot open shared object file: No such file or directory")
    }

    #[test]
    fn a_library_that_does_not_load_is_not_called_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (here, there) = (folder.path().join("given"), folder.path().join("wheel"));
        for folder in [&here, &there] {
            fs::create_dir(folder).expect("a folder");
            fs::write(folder.join("libcudnn.so.9"), "").expect("a file");
        }
        fs::write(here.join("libcublas.so.13"), "").expect("a file");
        fs::write(here.join("libcufft.so.12"), "").expect("a file");
        let arch = "wrong ELF class: ELFCLASS32";
        // cuDNN loads from nowhere, cuBLAS from the given folder alone does not, the system has no
        // cuRAND, and all else loads by its name.
        let open = |path: &Path| match path.display().to_string() {
            name if name == "libcudnn.so.9"
                || name == "libcurand.so.10"
                || name == "libcufft.so.12" =>
            {
                Err(nowhere(path))
            }
            name if name.contains('/') => Err(format!("{name}: {arch}")),
            _ => Ok(()),
        };
        let (given, wheels) = ([here.clone()], [there.clone()]);
        let missing = CudaLibraries::search(&given, &wheels, open).expect_err("two are missing");
        assert_eq!(missing.missing, ["libcurand.so.10"]);
        let places = missing
            .refused
            .iter()
            .map(|one| (one.library, one.folder.clone()));
        let expected = [here.clone(), there.clone()].map(|folder| ("libcudnn.so.9", Some(folder)));
        assert_eq!(places.collect::<Vec<_>>(), expected);
        let told = missing.to_string();
        let (here, there) = (here.display(), there.display());
        let expected = format!(
            "`libcudnn.so.9` in {here} does not load: {here}/libcudnn.so.9: {arch}; `libcudnn.so.9` \
             in {there} does not load: {there}/libcudnn.so.9: {arch}; libcurand.so.10 not found by \
             the system's loader, nor in {here}, {there}"
        );
        assert_eq!(told, expected);
    }

    #[test]
    fn a_library_that_lacks_another_does_not_load_and_one_that_few_need_hinders_nothing() {
        let lacks = "libcudart.so.12: cannot open shared object file: No such file or directory";
        let open = |path: &Path| match path.to_str() {
            Some("libcublas.so.13") => Err(lacks.to_owned()),
            _ => Ok(()),
        };
        let missing = CudaLibraries::search(&[], &[], open).expect_err("cuBLAS does not load");
        assert_eq!(
            missing.to_string(),
            format!("`libcublas.so.13` does not load: {lacks}")
        );
        let open = |path: &Path| match path.to_str() {
            Some("libcufft.so.12") => Err(lacks.to_owned()),
            Some("libnvrtc.so.13") => Err(nowhere(path)),
            _ => Ok(()),
        };
        let found = CudaLibraries::search(&[], &[], open).expect("the others are enough");
        assert_eq!(found.loaded.len(), WANTED.len() - 2);
        let refused: Vec<_> = found.refused.iter().map(|one| one.library).collect();
        assert_eq!(refused, ["libcufft.so.12"]);
    }

    #[test]
    fn a_file_that_is_no_library_is_told_of() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("libcudnn.so.9"), "no library").expect("a file");
        let folder = folder.path().to_owned();
        let words = open(&folder.join("libcudnn.so.9")).expect_err("no library");
        assert!(words.contains("libcudnn.so.9"), "{words}");
    }
}
