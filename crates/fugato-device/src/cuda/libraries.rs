//! The vendor's libraries that ONNX Runtime's CUDA provider needs, wherever they are.

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

/// Libraries that were loaded, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaLibraries {
    /// File names and folders; no folder: found by the system's loader.
    pub loaded: Vec<(&'static str, Option<PathBuf>)>,
}

/// Libraries that are in none of the places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} not found by the system's loader, nor in {}",
    missing.join(", "),
    listed(looked_in)
)]
pub struct LibrariesMissing {
    /// Their file names.
    pub missing: Vec<&'static str>,
    /// The folders that were looked in.
    pub looked_in: Vec<PathBuf>,
    /// What the loader said of those that were there and could not be loaded.
    pub refused: Vec<String>,
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

impl CudaLibraries {
    /// Loads them for the life of the process, so that ONNX Runtime finds them by name:
    /// from `given`, else by the system's loader, else from the `nvidia` packages of Python
    /// installations nearby.
    ///
    /// # Errors
    /// Where one that is needed is nowhere.
    pub fn load(given: &[PathBuf]) -> Result<Self, LibrariesMissing> {
        let wheels = wheels(&python_packages());
        let (mut loaded, mut missing, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for name in WANTED {
            let mut found = None;
            let places = given.iter().map(Some).chain([None]);
            for folder in places.chain(wheels.iter().map(Some)) {
                let path = folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
                if folder.is_some() && !path.exists() {
                    continue;
                }
                match open(&path) {
                    Ok(()) => {
                        found = Some(folder.cloned());
                        break;
                    }
                    Err(words) if folder.is_some() => refused.push(words),
                    Err(_) => {}
                }
            }
            match found {
                Some(folder) => loaded.push((name, folder)),
                None if NEEDED.contains(&name) => missing.push(name),
                None => {}
            }
        }
        match missing.is_empty() {
            true => Ok(Self { loaded }),
            false => Err(LibrariesMissing {
                missing,
                looked_in: given.iter().chain(&wheels).cloned().collect(),
                refused,
            }),
        }
    }
}

impl CudaLibraries {
    /// The versions of those that bring kernels, as they say themselves:
    /// `cuDNN 91002, cuBLAS 13.1.0`. `None` where they cannot be asked.
    pub fn versions(&self) -> Option<String> {
        /// `size_t cudnnGetVersion(void)`.
        type Version = unsafe extern "C" fn() -> usize;
        /// `cublasStatus_t cublasGetProperty(libraryPropertyType, int *)`.
        type Property = unsafe extern "C" fn(i32, *mut i32) -> i32;
        let dnn = symbol(c"libcudnn.so.9", c"cudnnGetVersion")?;
        // SAFETY: that is the function's type in all versions of the library's header.
        let dnn = unsafe { std::mem::transmute::<NonNull<c_void>, Version>(dnn)() };
        let property = symbol(c"libcublas.so.13", c"cublasGetProperty")?;
        // SAFETY: as above.
        let property = unsafe { std::mem::transmute::<NonNull<c_void>, Property>(property) };
        let mut blas = Vec::new();
        for kind in 0..3 {
            let mut number = 0;
            // SAFETY: the kinds are 0 to 2, and the place for the answer is valid.
            if unsafe { property(kind, &mut number) } != 0 {
                return None;
            }
            blas.push(number.to_string());
        }
        Some(format!("cuDNN {dnn}, cuBLAS {}", blas.join(".")))
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
    fn a_file_that_is_no_library_is_told_of() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("libcudnn.so.9"), "no library").expect("a file");
        let folder = folder.path().to_owned();
        let words = open(&folder.join("libcudnn.so.9")).expect_err("no library");
        assert!(words.contains("libcudnn.so.9"), "{words}");
    }
}
