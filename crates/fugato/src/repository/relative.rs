//! Names of files that come from a client, and where they may lead.

use std::io;
use std::path::{Path, PathBuf};

/// The longest relative name, in bytes. A model's files lie a folder or two deep, and
/// each component is under the limit of Linux file systems on its own.
pub const RELATIVE_MAX_BYTES: usize = 1024;

/// The longest component of a name, in bytes: what Linux file systems take.
const COMPONENT_MAX_BYTES: usize = 255;

/// A text that cannot be the name of a file below a folder.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("file name `{}` {problem}, expected a relative name such as `1/model.onnx`", name.escape_debug())]
pub struct RelativeNameError {
    /// The text, shortened.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Checks that `name` names a file below whatever folder it is joined to, by its text alone:
/// components separated by `/`, none empty, `.` or `..`, no backslash, no control character.
///
/// It says nothing of symbolic links that lie in the folder already; where the folder is not
/// of the server's own making, [`resolve_below`] does.
///
/// # Errors
/// [`RelativeNameError`], saying which rule is broken.
pub fn check_relative(name: &str) -> Result<PathBuf, RelativeNameError> {
    let component_problem = |component: &str| match component {
        "" => Some("has an empty component"),
        "." | ".." => Some("has a component `.` or `..`"),
        _ if component.len() > COMPONENT_MAX_BYTES => Some("has a component of over 255 bytes"),
        _ => None,
    };
    let problem = if name.is_empty() {
        Some("is empty")
    } else if name.len() > RELATIVE_MAX_BYTES {
        Some("is longer than 1024 bytes")
    } else if name.starts_with('/') {
        Some("is absolute")
    } else if name.contains('\\') {
        Some("holds a backslash")
    } else if name.chars().any(char::is_control) {
        Some("holds a control character")
    } else {
        name.split('/').find_map(component_problem)
    };
    match problem {
        None => Ok(PathBuf::from(name)),
        Some(problem) => Err(RelativeNameError {
            // Enough to recognise it; the name comes from a client.
            name: name.chars().take(64).collect(),
            problem,
        }),
    }
}

/// Why a name does not lead to a file below a folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The name itself is wrong.
    #[error(transparent)]
    Name(#[from] RelativeNameError),
    /// The folder or the file cannot be looked at.
    #[error("file `{name}` cannot be found")]
    Missing {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A symbolic link leads out of the folder.
    #[error("file `{name}` is a link out of its folder")]
    Outside {
        /// The name.
        name: String,
    },
}

/// The canonical path of the existing file `name` below `folder`, symbolic links followed.
///
/// # Errors
/// [`ResolveError`]: a wrong name, no such file, or a link that leads out of `folder`.
pub fn resolve_below(folder: &Path, name: &str) -> Result<PathBuf, ResolveError> {
    let relative = check_relative(name)?;
    let missing = |source| ResolveError::Missing {
        name: name.to_owned(),
        source,
    };
    let folder = folder.canonicalize().map_err(missing)?;
    let path = folder.join(relative).canonicalize().map_err(missing)?;
    if path.starts_with(&folder) {
        Ok(path)
    } else {
        Err(ResolveError::Outside {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_names_below_the_folder_pass() {
        for name in [
            "model.onnx",
            "1/model.onnx",
            "1/weights/a..b",
            "..x/y",
            ".h",
        ] {
            assert_eq!(check_relative(name), Ok(PathBuf::from(name)), "{name}");
        }
        let long_component = "x".repeat(256);
        let long = "x/".repeat(512) + "y";
        let cases = [
            ("", "is empty"),
            ("/etc/passwd", "is absolute"),
            ("//x", "is absolute"),
            ("..", "`..`"),
            ("../model.onnx", "`..`"),
            ("1/../../model.onnx", "`..`"),
            ("1/..", "`..`"),
            ("./model.onnx", "`.`"),
            ("1//model.onnx", "empty component"),
            ("1/", "empty component"),
            ("1\\..\\model.onnx", "backslash"),
            ("C:\\model.onnx", "backslash"),
            ("1/model.onnx\0.txt", "control character"),
            ("1/model\n.onnx", "control character"),
            (&long_component, "over 255 bytes"),
            (&long, "longer than 1024"),
        ];
        for (name, problem) in cases {
            let error = check_relative(name).expect_err(name).to_string();
            assert!(error.contains(problem), "{name:?} gave {error}");
            assert!(!error.contains(char::is_control), "{error:?}");
            assert!(error.len() < 256, "{error}");
        }
    }

    #[test]
    fn a_link_may_stay_in_the_folder_and_not_leave_it() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = scratch.path().join("model");
        fs::create_dir_all(folder.join("1")).expect("a folder");
        fs::write(scratch.path().join("secret"), b"").expect("a file");
        fs::write(folder.join("1/model.onnx"), b"").expect("a file");
        symlink("model.onnx", folder.join("1/inside")).expect("a link");
        symlink("../../secret", folder.join("1/outside")).expect("a link");
        symlink("../..", folder.join("1/up")).expect("a link");
        let real = folder.canonicalize().expect("it exists");
        for name in ["1/model.onnx", "1/inside"] {
            let path = resolve_below(&folder, name).expect(name);
            assert_eq!(path, real.join("1/model.onnx"));
        }
        for name in ["1/outside", "1/up/secret"] {
            let error = resolve_below(&folder, name).expect_err(name);
            assert!(matches!(error, ResolveError::Outside { .. }), "{error:?}");
        }
        let error = resolve_below(&folder, "1/none").expect_err("there is none");
        assert!(matches!(error, ResolveError::Missing { .. }), "{error:?}");
        let error = resolve_below(&folder, "../secret").expect_err("it leads out");
        assert!(matches!(error, ResolveError::Name(_)), "{error:?}");
    }
}
