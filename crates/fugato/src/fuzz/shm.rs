//! Shared-memory calls, as a little program that the bytes are.

use crate::error::{ErrorKind, InferError};
use crate::shm::{RegionRange, RegisterRegion, SharedMemory, SharedMemoryOptions};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use tempfile::TempDir;

/// Files that may be registered, with their sizes in bytes.
const FILES: [(&str, u64); 3] = [("a", 100), ("b", 4096), ("empty", 0)];

/// The secret that no call may read or write, beside the folder.
const OUTSIDE: &[u8] = b"nobody may read this";

/// The most regions registered at once.
const REGIONS_MAX: usize = 3;

struct Folder {
    outside: TempDir,
    shrinking: File,
}

thread_local! {
    static FOLDER: Folder = Folder::new();
}

impl Folder {
    fn new() -> Self {
        let outside = tempfile::tempdir().expect("a folder can be made");
        let folder = outside.path().join("shm");
        fs::create_dir_all(folder.join("sub")).expect("a folder can be made");
        fs::write(outside.path().join("secret"), OUTSIDE).expect("a file can be written");
        fs::write(folder.join("sub/a"), OUTSIDE).expect("a file can be written");
        symlink("../secret", folder.join("link")).expect("a link can be made");
        for (name, size) in FILES {
            let file = File::create(folder.join(name)).and_then(|file| file.set_len(size));
            file.expect("a file can be written");
        }
        let a = OpenOptions::new().write(true).open(folder.join("a"));
        Self {
            outside,
            shrinking: a.expect("it was made"),
        }
    }

    fn path(&self) -> PathBuf {
        self.outside.path().join("shm")
    }
}

/// Calls on system shared memory, each a byte of what to do and what it needs, while a file
/// shrinks and grows; and the JSON that registers a region.
///
/// # Panics
/// Where a region is registered that is not inside a plain file of the folder, a range is
/// given that is not inside its region, a file grows, or a file outside is touched.
pub fn shared_memory(data: &[u8]) {
    FOLDER.with(|folder| {
        let [(_, first), ..] = FILES;
        let reset = folder.shrinking.set_len(first);
        reset.expect("its size can be set");
        let memory = SharedMemory::new(SharedMemoryOptions {
            folder: folder.path(),
            regions_max: REGIONS_MAX,
            input_bytes_max: 256,
        });
        let mut program = Program(data);
        while let Some(call) = program.byte() {
            run(&memory, folder, call, &mut program);
        }
        let known = memory.status(None).expect("it is on");
        assert!(known.len() <= REGIONS_MAX, "{known:?}");
        let secret = fs::read(folder.outside.path().join("secret"));
        assert_eq!(secret.expect("it is there"), OUTSIDE);
    });
}

/// What is left of the program.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    /// Bytes as long as the one before them says, or all that is left.
    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// One of a few names.
    fn name(&mut self) -> String {
        ["r", "s", "t", "u", ""][usize::from(self.byte().unwrap_or(0)) % 5].to_owned()
    }

    /// The number of a byte, or one of all that 64 bits can say.
    fn number(&mut self) -> u64 {
        match self.byte().unwrap_or(0) {
            255 => {
                let mut number = [0; 8];
                number.fill_with(|| self.byte().unwrap_or(255));
                u64::from_le_bytes(number)
            }
            small => small.into(),
        }
    }
}

fn run(memory: &SharedMemory, folder: &Folder, call: u8, program: &mut Program<'_>) {
    match call % 8 {
        0 => {
            let name = program.name();
            if let Ok(region) = RegisterRegion::from_json(name, program.bytes()) {
                register(memory, folder, &region);
            }
        }
        1 => {
            let region = RegisterRegion {
                name: program.text(),
                key: program.text(),
                offset: program.number(),
                byte_size: program.number(),
            };
            register(memory, folder, &region);
        }
        2 => {
            let region = RegisterRegion {
                name: program.name(),
                key: ["a", "/b", "empty", "link", "sub", "../secret", "sub/a"]
                    [usize::from(program.byte().unwrap_or(0)) % 7]
                    .to_owned(),
                offset: program.number(),
                byte_size: program.number(),
            };
            register(memory, folder, &region);
        }
        3 => memory
            .unregister(Some(&program.name()))
            .expect("what is not there is nothing to do"),
        4 => memory.unregister(None).expect("it is on"),
        5 => take(memory, program),
        6 => give(memory, folder, program),
        _ => {
            let shrunk = folder.shrinking.set_len(program.number().min(FILES[0].1));
            shrunk.expect("its size can be set");
        }
    }
}

fn register(memory: &SharedMemory, folder: &Folder, region: &RegisterRegion) {
    if let Err(error) = memory.register(region) {
        return expected(&error);
    }
    let file = region.key.strip_prefix('/').unwrap_or(&region.key);
    assert!(FILES.iter().any(|(name, _)| *name == file), "{region:?}");
    let size = fs::metadata(folder.path().join(file)).map(|file| file.len());
    let end = region.offset.checked_add(region.byte_size);
    let end = end.expect("a region has an end");
    assert!(end <= size.expect("it is there"), "{region:?}");
    let known = memory.status(Some(&region.name)).expect("it is registered");
    assert_eq!(
        (&*known[0].key, known[0].offset, known[0].byte_size),
        (&*region.key, region.offset, region.byte_size)
    );
    let again = memory.register(region).expect_err("it is there");
    assert_eq!(again.kind(), ErrorKind::RegionExists);
}

fn take(memory: &SharedMemory, program: &mut Program<'_>) {
    let name = program.name();
    let (offset, byte_size) = (program.number(), program.number());
    let slice = memory.input(RegionRange {
        region: &name,
        offset,
        byte_size,
    });
    match slice {
        Ok(slice) => {
            let region = &memory.status(Some(&name)).expect("it is registered")[0];
            assert!(offset + byte_size <= region.byte_size, "{region:?}");
            assert_eq!(slice.position, region.offset + offset);
            if let Ok(bytes) = slice.read() {
                assert_eq!(bytes.len() as u64, byte_size);
            }
        }
        Err(error) => expected(&error),
    }
}

fn give(memory: &SharedMemory, folder: &Folder, program: &mut Program<'_>) {
    let name = program.name();
    let (offset, byte_size) = (program.number(), program.number());
    let target = memory.target(RegionRange {
        region: &name,
        offset,
        byte_size,
    });
    let bytes = program.bytes();
    match target {
        Ok(target) => {
            assert!(target.overlaps(&target), "{target:?}");
            let size = || folder.shrinking.metadata().expect("it is open").len();
            let before = size();
            let some = &bytes[..bytes.len().min(byte_size as usize)];
            if let Err(error) = target.write(some) {
                expected(&error);
            }
            assert_eq!(size(), before, "a client's file was made longer");
        }
        Err(error) => expected(&error),
    }
}

/// What a client gets wrong is never the server's fault.
fn expected(error: &InferError) {
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
}
