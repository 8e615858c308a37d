//! Files that come with an order to load a model, in place of those of the repository.

use crate::api::LoadFile;
use crate::repository::{RelativeNameError, check_relative};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// A folder of the server's own that looks like a repository of one model; removed when it
/// is dropped. The repository itself is never written to.
pub(super) struct Staged(TempDir);

/// Why files could not be put there.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    #[error(transparent)]
    Name(#[from] RelativeNameError),
    #[error("its files cannot be kept in a temporary folder of the server: {0}")]
    Io(#[from] io::Error),
}

impl Staged {
    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }
}

/// Writes `files` as the folder of the model `name`, which must be a model's name.
pub(super) fn stage(name: &str, files: &[LoadFile]) -> Result<Staged, StageError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("fugato-load-");
    // Nobody else may read a client's model or put another in its place.
    builder.permissions(Permissions::from_mode(0o700));
    let folder = builder.tempdir()?;
    let model = folder.path().join(name);
    fs::create_dir(&model)?;
    for file in files {
        let path = model.join(check_relative(&file.path)?);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, &file.content)?;
    }
    Ok(Staged(folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn file(path: &str) -> LoadFile {
        LoadFile {
            path: path.to_owned(),
            content: Bytes::from_static(b"model"),
        }
    }

    #[test]
    fn files_lie_in_a_private_folder_that_goes_away() {
        let staged = stage("m", &[file("1/model.onnx"), file("labels.txt")]).expect("fine");
        let root = staged.root().to_owned();
        let mode = fs::metadata(&root).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
        let text = fs::read(root.join("m/1/model.onnx")).expect("it is there");
        assert_eq!(text, b"model");
        drop(staged);
        assert!(!root.exists());
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["../x", "/etc/passwd", "1/../../x", "", "1//x"] {
            let refused = stage("m", &[file(name)]).err().expect(name);
            assert!(matches!(refused, StageError::Name(_)), "{name}: {refused}");
        }
    }
}
