//! Whether the vendor's libraries go with each other, by what they say of themselves.
//!
//! cuDNN has the same file name for every CUDA, and its packages for CUDA 12 and 13 the same
//! folder: the one for the other CUDA is found, loads, and fails as a model is loaded.

use super::{CudaLibraries, open, symbol};
use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// The major version of CUDA that ONNX Runtime's provider is built for.
const CUDA: usize = 13;

/// The major version of cuDNN, likewise.
const DNN: usize = 9;

/// What cuDNN opens by itself for whatever it is asked, its version too. Where it cannot, it ends
/// the process.
const GRAPH: &str = "libcudnn_graph.so.9";

/// A library that does not go with the others, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Its file name.
    pub library: &'static str,
    /// Where it is; `None`: where the system's loader found it.
    pub folder: Option<PathBuf>,
    /// What it is, such as `cuDNN 8.9.7` or `built for CUDA 12.9`.
    pub found: String,
    /// What is needed in place of that.
    pub expected: String,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.library)?;
        if let Some(folder) = &self.folder {
            write!(f, " in {}", folder.display())?;
        }
        write!(f, " is {}, expected {}", self.found, self.expected)
    }
}

/// Libraries that are there and do not go with each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(Unfit::to_string).collect::<Vec<_>>().join("; "))]
pub struct LibrariesUnfit(pub Vec<Unfit>);

/// What libraries say of themselves, in their own numbers. `None`: it cannot be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// `cudaRuntimeGetVersion`: 13000 is 13.0.
    runtime: Option<usize>,
    /// What the loader says of cuDNN's [`GRAPH`], where it does not load: cuDNN is then not asked.
    dnn_graph: Option<String>,
    /// `cudnnGetVersion`: 91002 is 9.10.2, and 8907 was 8.9.7.
    dnn: Option<usize>,
    /// `cudnnGetCudartVersion`, as `runtime`.
    dnn_runtime: Option<usize>,
    /// `cublasGetProperty`: major, minor, patch.
    blas: Option<[usize; 3]>,
    /// `cublasLtGetVersion`: 130100 is 13.1.0.
    blas_lt: Option<usize>,
}

/// The version of CUDA in a number of its runtime's.
fn of_cuda(number: usize) -> (usize, String) {
    let (major, minor) = (number / 1_000, number % 1_000 / 10);
    (major, format!("{major}.{minor}"))
}

/// The version in a number of cuDNN's.
fn of_dnn(number: usize) -> (usize, String) {
    let (major, rest) = match number >= 10_000 {
        true => (number / 10_000, number % 10_000),
        false => (number / 1_000, number % 1_000),
    };
    (major, format!("{major}.{}.{}", rest / 100, rest % 100))
}

/// Opens a library from a folder, else by the system's loader.
///
/// # Errors
/// The loader's words: of the one in the folder, where there is one.
fn open_beside(folder: Option<&Path>, library: &str) -> Result<(), String> {
    let path = folder.map(|folder| folder.join(library));
    let path = path.filter(|path| path.exists());
    let beside = path.map_or(Ok(false), |path| open(&path).map(|()| true));
    match beside {
        Ok(true) => Ok(()),
        Ok(false) => open(Path::new(library)),
        Err(words) => open(Path::new(library)).map_err(|_| words),
    }
}

impl Said {
    /// Asks those that were loaded; cuDNN is in that folder, or where the system's loader has it.
    pub(super) fn by_libraries(dnn: Option<&Path>) -> Self {
        let is_loaded = symbol(c"libcudnn.so.9", c"cudnnGetVersion").is_some();
        let graph = match is_loaded {
            true => open_beside(dnn, GRAPH),
            // Nothing there is asked.
            false => Ok(()),
        };
        Self::by(graph, Self::asked)
    }

    /// Asks by `ask`: cuDNN only where its part for graphs was opened.
    fn by(graph: Result<(), String>, ask: impl FnOnce(bool) -> Self) -> Self {
        let dnn_graph = graph.err();
        let said = ask(dnn_graph.is_none());
        Self { dnn_graph, ..said }
    }

    fn asked(dnn: bool) -> Self {
        /// `size_t cudnnGetVersion(void)`, and its like.
        type Version = unsafe extern "C" fn() -> usize;
        /// `cudaError_t cudaRuntimeGetVersion(int *)`.
        type Runtime = unsafe extern "C" fn(*mut i32) -> i32;
        /// `cublasStatus_t cublasGetProperty(libraryPropertyType, int *)`.
        type Property = unsafe extern "C" fn(i32, *mut i32) -> i32;
        let version = |library: &CStr, name: &CStr| {
            let ask = symbol(library, name)?;
            // SAFETY: that is the type of the functions named below in all versions of their
            // libraries' headers.
            Some(unsafe { std::mem::transmute::<NonNull<c_void>, Version>(ask)() })
        };
        let runtime = symbol(c"libcudart.so.13", c"cudaRuntimeGetVersion").and_then(|ask| {
            // SAFETY: as above.
            let ask = unsafe { std::mem::transmute::<NonNull<c_void>, Runtime>(ask) };
            let mut number = 0;
            // SAFETY: the place for the answer is valid.
            let is_told = unsafe { ask(&mut number) } == 0;
            is_told
                .then_some(number)
                .and_then(|number| usize::try_from(number).ok())
        });
        let blas = symbol(c"libcublas.so.13", c"cublasGetProperty").and_then(|ask| {
            // SAFETY: as above.
            let ask = unsafe { std::mem::transmute::<NonNull<c_void>, Property>(ask) };
            let property = |kind| {
                let mut number = 0;
                // SAFETY: the kinds are 0 to 2, and the place for the answer is valid.
                let is_told = unsafe { ask(kind, &mut number) } == 0;
                is_told
                    .then_some(number)
                    .and_then(|number| usize::try_from(number).ok())
            };
            Some([property(0)?, property(1)?, property(2)?])
        });
        let of_dnn = |name| dnn.then(|| version(c"libcudnn.so.9", name)).flatten();
        Self {
            runtime,
            dnn_graph: None,
            dnn: of_dnn(c"cudnnGetVersion"),
            dnn_runtime: of_dnn(c"cudnnGetCudartVersion"),
            blas,
            blas_lt: version(c"libcublasLt.so.13", c"cublasLtGetVersion"),
        }
    }

    /// What does not go with what the provider is built for: library, found, expected.
    fn unfit(&self) -> Vec<(&'static str, String, String)> {
        let mut unfit = Vec::new();
        let mut expect = |library, (major, version), expected: usize, [is, wanted]: [&str; 2]| {
            if major != expected {
                let (is, wanted) = (format!("{is} {version}"), format!("{wanted} {expected}"));
                unfit.push((library, is, wanted));
            }
        };
        if let Some(runtime) = self.runtime {
            expect("libcudart.so.13", of_cuda(runtime), CUDA, ["CUDA"; 2]);
        }
        if let Some(number) = self.blas_lt {
            let (major, minor) = (number / 10_000, number % 10_000 / 100);
            let found = (major, format!("{major}.{minor}"));
            expect("libcublasLt.so.13", found, CUDA, ["cuBLASLt"; 2]);
        }
        if let Some([major, minor, _]) = self.blas {
            let found = (major, format!("{major}.{minor}"));
            expect("libcublas.so.13", found, CUDA, ["cuBLAS"; 2]);
        }
        if let Some(number) = self.dnn {
            expect("libcudnn.so.9", of_dnn(number), DNN, ["cuDNN"; 2]);
        }
        if let Some(number) = self.dnn_runtime {
            let words = ["built for CUDA", "one for CUDA"];
            expect("libcudnn.so.9", of_cuda(number), CUDA, words);
        }
        if let Some(words) = &self.dnn_graph {
            let found = format!("without a `{GRAPH}` that loads ({words})");
            unfit.push((
                "libcudnn.so.9",
                found,
                format!("one with `{GRAPH}` beside it"),
            ));
        }
        unfit
    }
}

impl CudaLibraries {
    /// Those that do not go with the others.
    pub(super) fn unfit(&self, said: &Said) -> Option<LibrariesUnfit> {
        let named = |(library, found, expected)| Unfit {
            library,
            folder: self.folder(library).map(Path::to_owned),
            found,
            expected,
        };
        let unfit: Vec<_> = said.unfit().into_iter().map(named).collect();
        (!unfit.is_empty()).then_some(LibrariesUnfit(unfit))
    }

    /// The versions of those that bring kernels, as they say themselves:
    /// `cuDNN 91002, cuBLAS 13.1.0`. `None` where they cannot be asked.
    pub fn versions(&self) -> Option<String> {
        let said = Said::by_libraries(self.folder("libcudnn.so.9"));
        let (dnn, [major, minor, patch]) = said.dnn.zip(said.blas)?;
        Some(format!("cuDNN {dnn}, cuBLAS {major}.{minor}.{patch}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes with each other.
    const FIT: Said = Said {
        runtime: Some(13_000),
        dnn_graph: None,
        dnn: Some(91_300),
        dnn_runtime: Some(13_010),
        blas: Some([13, 1, 0]),
        blas_lt: Some(130_100),
    };

    fn told(said: &Said) -> Option<String> {
        let loaded = CudaLibraries {
            loaded: vec![
                ("libcublas.so.13", None),
                (
                    "libcudnn.so.9",
                    Some(PathBuf::from("/env/nvidia/cudnn/lib")),
                ),
            ],
            ..CudaLibraries::default()
        };
        loaded.unfit(said).map(|unfit| unfit.to_string())
    }

    #[test]
    fn libraries_of_one_cuda_and_those_that_say_nothing_are_taken() {
        assert_eq!(told(&FIT), None);
        assert_eq!(told(&Said::default()), None);
        // Minor versions go with each other.
        let newer = Said {
            blas: Some([13, 4, 2]),
            dnn: Some(92_000),
            ..FIT
        };
        assert_eq!(told(&newer), None);
    }

    #[test]
    fn a_library_of_another_major_version_is_named_with_its_place() {
        let cases = [
            (
                Said {
                    dnn_runtime: Some(12_090),
                    ..FIT
                },
                "`libcudnn.so.9` in /env/nvidia/cudnn/lib is built for CUDA 12.9, expected one for \
                 CUDA 13",
            ),
            (
                Said {
                    dnn: Some(8_907),
                    ..FIT
                },
                "`libcudnn.so.9` in /env/nvidia/cudnn/lib is cuDNN 8.9.7, expected cuDNN 9",
            ),
            (
                Said {
                    dnn: Some(100_001),
                    ..FIT
                },
                "`libcudnn.so.9` in /env/nvidia/cudnn/lib is cuDNN 10.0.1, expected cuDNN 9",
            ),
            (
                Said {
                    blas: Some([12, 9, 1]),
                    blas_lt: Some(120_901),
                    ..FIT
                },
                "`libcublasLt.so.13` is cuBLASLt 12.9, expected cuBLASLt 13; `libcublas.so.13` is \
                 cuBLAS 12.9, expected cuBLAS 13",
            ),
            (
                Said {
                    runtime: Some(12_080),
                    ..FIT
                },
                "`libcudart.so.13` is CUDA 12.8, expected CUDA 13",
            ),
        ];
        for (said, expected) in cases {
            assert_eq!(told(&said).as_deref(), Some(expected));
        }
    }

    #[test]
    fn nothing_is_asked_of_libraries_that_are_not_loaded() {
        // Of this process; a machine that has them loads them in other tests at most.
        let said = Said::by_libraries(None);
        assert!(said.unfit().is_empty(), "{said:?}");
    }

    #[test]
    fn a_cudnn_without_its_part_for_graphs_is_named_and_not_asked() {
        let words = "libcudnn_graph.so.9: cannot open shared object file";
        let said = Said::by(Err(words.to_owned()), |dnn| {
            assert!(!dnn, "it would end the process");
            Said {
                dnn: None,
                dnn_runtime: None,
                ..FIT
            }
        });
        assert_eq!(
            told(&said).as_deref(),
            Some(
                "`libcudnn.so.9` in /env/nvidia/cudnn/lib is without a `libcudnn_graph.so.9` that \
                 loads (libcudnn_graph.so.9: cannot open shared object file), expected one with \
                 `libcudnn_graph.so.9` beside it"
            )
        );
        let mut is_asked = false;
        let said = Said::by(Ok(()), |dnn| {
            is_asked = dnn;
            FIT
        });
        assert!(is_asked && told(&said).is_none());
    }

    #[test]
    fn a_part_is_opened_beside_its_library_first() {
        let folder = tempfile::tempdir().expect("a folder");
        // Not beside it, but where the system's loader looks.
        assert_eq!(open_beside(Some(folder.path()), "libc.so.6"), Ok(()));
        assert_eq!(open_beside(None, "libc.so.6"), Ok(()));
        std::fs::write(folder.path().join(GRAPH), "no library").expect("a file");
        // Of what does not load the one beside it is told of.
        let words = open_beside(Some(folder.path()), GRAPH);
        let place = folder.path().display().to_string();
        assert!(words.is_ok() || words.is_err_and(|words| words.contains(&place)));
    }
}
