//! Shared-memory regions of the load generator: files under `/dev/shm` that hold the
//! inputs once and have one place for outputs per request in flight.
//!
//! Files are made by this process alone, read and written with plain file calls, and
//! removed when [`Regions`] is dropped, however the run ends.

use super::client::{CallError, Client, InputFrom, OutputTo, PreparedOutputs};
use super::expect::Case;
use super::tensor::Tensor;
use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Where POSIX shared memory lives on Linux; a region's key is the file's name in it.
const FOLDER: &str = "/dev/shm";

/// How many names are tried for one file. A name is taken only by what a run that was killed
/// left behind, under a process id that came up again: two files for each of its models.
const NAMES_MAX: u32 = 1_000;

/// Tensors begin at multiples of this, as vector loads like it.
const ALIGN: u64 = 64;

/// What the load generator puts into shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SharedMemory {
    /// Nothing: tensors travel with the requests.
    None,
    /// Inputs and outputs, through Triton's system shared memory.
    System,
}

/// Why shared memory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A region's file cannot be made or filled.
    #[error("cannot write the shared-memory file `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The request that shows how large outputs are failed.
    #[error("the request that tells the sizes of the outputs failed")]
    Sizes(#[source] CallError),
    /// The server did not register a region.
    #[error("the server did not register region `{region}`")]
    Register {
        /// The region.
        region: String,
        /// The cause.
        source: CallError,
    },
}

/// A file under [`FOLDER`] that goes when this is dropped.
#[derive(Debug)]
struct SharedFile {
    path: PathBuf,
    key: String,
    file: File,
    size: u64,
}

impl SharedFile {
    fn new(size: u64) -> Result<Self, RegionError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self::within(Path::new(FOLDER), &NEXT, size)
    }

    /// A new file in `folder`, under the first name from the next number on that nothing has.
    fn within(folder: &Path, next: &AtomicU64, size: u64) -> Result<Self, RegionError> {
        let mut tries = 0;
        let (name, path, file) = loop {
            tries += 1;
            let number = next.fetch_add(1, Ordering::Relaxed);
            let name = format!("fugato-bench-{}-{number}", std::process::id());
            let path = folder.join(&name);
            let mut new = OpenOptions::new();
            match new.read(true).write(true).create_new(true).open(&path) {
                Ok(file) => break (name, path, file),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < NAMES_MAX => {}
                Err(source) => return Err(RegionError::File { path, source }),
            }
        };
        let shared = Self {
            key: format!("/{name}"),
            path,
            file,
            size: size.max(1),
        };
        let sized = shared.file.set_len(shared.size);
        sized.map_err(|source| RegionError::File {
            path: shared.path.clone(),
            source,
        })?;
        Ok(shared)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), RegionError> {
        self.file
            .write_all_at(data, offset)
            .map_err(|source| RegionError::File {
                path: self.path.clone(),
                source,
            })
    }
}

impl SharedFile {
    /// It is this process's own file; where it is gone already, so much the better.
    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Where one output of a slot is.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    offset: u64,
    size: u64,
}

/// The regions of one model: all inputs of its cases, and slots for outputs.
#[derive(Debug)]
pub struct Regions {
    inputs: SharedFile,
    outputs: SharedFile,
    /// By case and input.
    sources: Vec<Vec<(u64, u64)>>,
    /// By slot and output.
    places: Vec<Vec<Place>>,
    /// By client and slot.
    prepared: Vec<Vec<PreparedOutputs>>,
    /// Names of the regions at each client's server: inputs, outputs.
    names: Vec<[String; 2]>,
    free: Mutex<Vec<usize>>,
}

impl Regions {
    /// Regions for `slots` requests of these cases in flight, with outputs as large as in
    /// `sizes`, registered at the server of every client.
    ///
    /// # Errors
    /// [`RegionError`]; what was registered by then stays until the server ends, and its
    /// files are gone.
    pub async fn register(
        cases: &[Case],
        sizes: &[(String, u64)],
        slots: u32,
        clients: &[Client],
    ) -> Result<Self, RegionError> {
        let mut end = 0;
        let mut sources = Vec::with_capacity(cases.len());
        for case in cases {
            let tensors = case.inputs.iter().map(|input| {
                let (offset, size) = (end, input.data.len() as u64);
                end = (end + size).next_multiple_of(ALIGN);
                (offset, size)
            });
            sources.push(tensors.collect::<Vec<_>>());
        }
        let inputs = SharedFile::new(end)?;
        for (case, places) in cases.iter().zip(&sources) {
            for (input, (offset, _)) in case.inputs.iter().zip(places) {
                inputs.write(*offset, &input.data)?;
            }
        }
        let mut end = 0;
        let places: Vec<Vec<Place>> = (0..slots)
            .map(|_| {
                let outputs = sizes.iter().map(|(name, size)| {
                    let offset = end;
                    end = (end + size).next_multiple_of(ALIGN);
                    Place {
                        name: name.clone(),
                        offset,
                        size: *size,
                    }
                });
                outputs.collect()
            })
            .collect();
        let outputs = SharedFile::new(end)?;
        let mut regions = Self {
            inputs,
            outputs,
            sources,
            free: Mutex::new((0..places.len()).rev().collect()),
            places,
            prepared: Vec::new(),
            names: Vec::new(),
        };
        for (index, client) in clients.iter().enumerate() {
            regions.register_at(index, client).await?;
        }
        Ok(regions)
    }

    async fn register_at(&mut self, index: usize, client: &Client) -> Result<(), RegionError> {
        // Two addresses may be one server, which takes a name once.
        let name = |file: &SharedFile| format!("{}-{index}", &file.key[1..]);
        let names = [name(&self.inputs), name(&self.outputs)];
        for (region, file) in names.iter().zip([&self.inputs, &self.outputs]) {
            let registered = client.register(region, &file.key, file.size).await;
            registered.map_err(|source| RegionError::Register {
                region: region.clone(),
                source,
            })?;
        }
        let prepared = self.places.iter().map(|slot| {
            let outputs = slot.iter().map(|place| OutputTo {
                name: &place.name,
                region: &names[1],
                offset: place.offset,
                size: place.size,
            });
            client.prepare_outputs(&outputs.collect::<Vec<_>>())
        });
        self.prepared.push(prepared.collect());
        self.names.push(names);
        Ok(())
    }

    /// Where a client's request of a case says that its inputs are.
    pub fn inputs_of(&self, client: usize, case: usize) -> Vec<InputFrom<'_>> {
        let places = self.sources[case].iter();
        let region = &self.names[client][0];
        places
            .map(|&(offset, size)| InputFrom::Region {
                region,
                offset,
                size,
            })
            .collect()
    }

    /// A place for the outputs of one request; `None` where all are taken.
    pub fn take(&self) -> Option<Slot<'_>> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().map(|index| Slot {
            regions: self,
            index,
        })
    }

    /// Takes the regions back from the servers and removes their files, which requests that
    /// were never answered might keep otherwise.
    ///
    /// # Errors
    /// The first refusal; the others are tried all the same.
    pub async fn unregister(&self, clients: &[Client]) -> Result<(), CallError> {
        let mut result = Ok(());
        self.inputs.remove();
        self.outputs.remove();
        for (client, names) in clients.iter().zip(&self.names) {
            for region in names {
                let done = client.unregister(region).await;
                result = result.and(done);
            }
        }
        result
    }
}

/// One request's place for outputs; free again when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    regions: &'a Regions,
    index: usize,
}

impl Slot<'_> {
    /// What a request of this client says of its outputs.
    pub fn prepared(&self, client: usize) -> &PreparedOutputs {
        &self.regions.prepared[client][self.index]
    }

    /// Fills in the outputs of a reply, which says where they are by name only.
    ///
    /// # Errors
    /// Where an output is not in the region or the region cannot be read.
    pub fn read(&self, outputs: &mut [Tensor]) -> io::Result<()> {
        for output in outputs {
            let mut places = self.regions.places[self.index].iter();
            let place = places.find(|place| place.name == output.name);
            let place = place.ok_or_else(|| {
                io::Error::other(format!("output `{}` is not in the region", output.name))
            })?;
            let size = output.byte_size().filter(|size| *size <= place.size);
            let size = size.and_then(|size| usize::try_from(size).ok());
            let size = size.ok_or_else(|| {
                io::Error::other(format!(
                    "output `{}` does not fit its {} bytes of region",
                    output.name, place.size
                ))
            })?;
            let mut data = vec![0; size];
            let file = &self.regions.outputs.file;
            file.read_exact_at(&mut data, place.offset)?;
            output.data = Bytes::from(data);
        }
        Ok(())
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let free = &self.regions.free;
        let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(self.index);
    }
}

/// The size of each output of a reply, by name.
pub(super) fn sizes_of(outputs: &[Tensor]) -> Vec<(String, u64)> {
    let sizes = outputs.iter();
    sizes
        .map(|output| (output.name.clone(), output.data.len() as u64))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_file_lives_as_long_as_its_owner() {
        let file = SharedFile::new(100).expect("room in /dev/shm");
        let path = file.path.clone();
        assert_eq!(
            file.key,
            format!("/{}", path.file_name().expect("a name").display())
        );
        file.write(96, &[1, 2, 3, 4]).expect("inside the file");
        let held = std::fs::read(&path).expect("readable");
        assert_eq!((held.len(), &held[96..]), (100, &[1, 2, 3, 4][..]));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_run_left_is_passed_by_and_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let next = AtomicU64::new(0);
        let name = |number| format!("fugato-bench-{}-{number}", std::process::id());
        for number in [0, 1, 3] {
            std::fs::write(folder.path().join(name(number)), b"left").expect("writable");
        }
        let mut made = Vec::new();
        for number in [2, 4] {
            let file = SharedFile::within(folder.path(), &next, 8).expect("a free name");
            assert_eq!(file.key, format!("/{}", name(number)));
            made.push(file);
        }
        drop(made);
        let mut left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("readable")
            .map(|entry| entry.expect("readable").file_name())
            .collect();
        left.sort();
        let expected = [0, 1, 3].map(|number| std::ffi::OsString::from(name(number)));
        assert_eq!(left, expected);
    }

    #[test]
    fn names_that_are_all_taken_end_the_search() {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..NAMES_MAX {
            let name = format!("fugato-bench-{}-{number}", std::process::id());
            File::create(folder.path().join(name)).expect("writable");
        }
        let error = SharedFile::within(folder.path(), &AtomicU64::new(0), 8);
        let RegionError::File { path, source } = error.expect_err("no name is free") else {
            panic!("another error than of a file");
        };
        assert_eq!(source.kind(), ErrorKind::AlreadyExists);
        let text = path.display().to_string();
        assert!(text.ends_with("-999"), "{text}");
    }
}
