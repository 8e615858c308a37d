//! Reading workload files and the traces they name.

use fugato_core::workload::{TraceError, Workload, WorkloadError, WorkloadFile, parse_trace};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Why a workload could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The workload or a trace cannot be read.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The workload is not TOML of the right form.
    #[error("workload `{}` is not valid", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The cause, with line and column.
        source: Box<toml::de::Error>,
    },
    /// A trace is not CSV of the right form.
    #[error("trace `{}` is not valid", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// The cause, with the line.
        source: TraceError,
    },
    /// A value is out of its range.
    #[error("workload `{}` is not valid", path.display())]
    Workload {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: WorkloadError,
    },
}

/// Reads a workload file. Traces lie relative to it.
///
/// # Errors
/// [`ReadError`], with the file and the place in it.
pub fn read_workload(path: &Path) -> Result<Workload, ReadError> {
    let file: WorkloadFile = toml::from_str(&read(path)?).map_err(|source| ReadError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    let mut traces = BTreeMap::new();
    for name in file.traces() {
        let trace = path.parent().unwrap_or(Path::new("")).join(name);
        let rows = parse_trace(&read(&trace)?).map_err(|source| ReadError::Trace {
            path: trace,
            source,
        })?;
        traces.insert(name.to_owned(), rows);
    }
    file.resolve(&traces).map_err(|source| ReadError::Workload {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, ReadError> {
    std::fs::read_to_string(path).map_err(|source| ReadError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: &str = r#"
        duration = "2s"
        [[model]]
        name = "m"
        slo = "1ms"
        arrivals = { kind = "trace", file = "t.csv" }
    "#;

    #[test]
    fn traces_are_read_beside_the_workload() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("w.toml");
        std::fs::write(&path, WORKLOAD).expect("writable");
        assert!(matches!(read_workload(&path), Err(ReadError::Io { .. })));
        std::fs::write(dir.path().join("t.csv"), "time,model,count\n1,m,3\n").expect("writable");
        let workload = read_workload(&path).expect("valid");
        assert_eq!(workload.arrivals(1).count(), 3);
        std::fs::write(dir.path().join("t.csv"), "x\n").expect("writable");
        assert!(matches!(read_workload(&path), Err(ReadError::Trace { .. })));
        std::fs::write(&path, "duration = 3").expect("writable");
        assert!(matches!(read_workload(&path), Err(ReadError::Toml { .. })));
        std::fs::write(&path, "duration = \"3s\"").expect("writable");
        assert!(matches!(
            read_workload(&path),
            Err(ReadError::Workload { .. })
        ));
    }

    #[test]
    fn the_workloads_of_the_repository_are_valid() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut seen = 0;
        for dir in ["examples", "bench/workloads"] {
            for entry in std::fs::read_dir(root.join(dir)).expect("a folder of the repository") {
                let path = entry.expect("readable").path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "toml")
                    && path.file_name().is_some_and(|name| name != "fugato.toml")
                {
                    let workload = read_workload(&path).expect("valid");
                    assert!(
                        workload.arrivals(1).next().is_some(),
                        "{path:?} sends nothing"
                    );
                    seen += 1;
                }
            }
        }
        assert!(seen >= 2, "found {seen} workloads");
    }
}
