//! Whether the files of a model changed since they were last looked at.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most files that are looked at below one model's folder: far above what models have,
/// and a bound for a link that leads around in a circle.
const FILES_MAX: usize = 65_536;

/// The deepest folder that is looked at: `<model>/<version>/<external data>` has two.
const DEPTH_MAX: usize = 8;

/// The files of a model with what changes when they do. Content is not read: two
/// fingerprints that differ may be of equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Stamp>);

/// Size, time of the last change of content and of the file itself, and inode: the time
/// alone is as coarse as the kernel's tick, and copying tools set it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    inode: u64,
}

impl Fingerprint {
    /// Looks at everything below the model folder `folder`, links followed.
    ///
    /// # Errors
    /// Where a folder cannot be listed, or holds more than a model does. A file that
    /// vanishes meanwhile is left out.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        collect(folder, DEPTH_MAX, &mut files)?;
        Ok(Self(files))
    }
}

fn collect(folder: &Path, depth: usize, files: &mut BTreeMap<PathBuf, Stamp>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        if metadata.is_dir() {
            if depth == 0 {
                return Err(io::Error::other("its folders are nested too deeply"));
            }
            collect(&path, depth - 1, files)?;
        }
        if files.len() >= FILES_MAX {
            return Err(io::Error::other("it holds more files than any model"));
        }
        // A folder counts as itself too, so that an empty one is noticed; its times say
        // nothing that its entries do not.
        let is_file = metadata.is_file();
        let time = |(seconds, nanos)| if is_file { (seconds, nanos) } else { (0, 0) };
        let stamp = Stamp {
            bytes: if is_file { metadata.len() } else { 0 },
            modified: time((metadata.mtime(), metadata.mtime_nsec())),
            changed: time((metadata.ctime(), metadata.ctime_nsec())),
            inode: metadata.ino(),
        };
        files.insert(path, stamp);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_of_a_file_changes_the_fingerprint() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let folder = scratch.path();
        let model = folder.join("1/model.onnx");
        fs::create_dir(folder.join("1")).expect("a folder");
        fs::write(&model, b"one").expect("a file");
        let print = || Fingerprint::of(folder).expect("it can be read");
        let mut last = print();
        assert_eq!(last, print());
        let steps: [(&str, &dyn Fn()); 6] = [
            ("longer", &|| fs::write(&model, b"three").expect("a file")),
            ("of equal size, renamed over it", &|| {
                fs::write(folder.join("new"), b"seven").expect("a file");
                fs::rename(folder.join("new"), &model).expect("renamed");
            }),
            ("a configuration", &|| {
                fs::write(folder.join("config.pbtxt"), b"").expect("a file");
            }),
            ("a version", &|| {
                fs::create_dir(folder.join("2")).expect("a folder");
            }),
            ("external data", &|| {
                fs::write(folder.join("1/weights.bin"), b"w").expect("a file");
            }),
            ("one less", &|| {
                fs::remove_file(folder.join("1/weights.bin")).expect("removed");
            }),
        ];
        for (what, change) in steps {
            change();
            let changed = print();
            assert_ne!(changed, last, "{what}");
            last = changed;
        }
    }
}
