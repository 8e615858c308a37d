//! The model and the shared memory that fuzzed requests meet.

use crate::api::ModelInfo;
use crate::shm::{RegisterRegion, SharedMemory, SharedMemoryOptions};
use fugato_device::{ElementType, TensorSpec};
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

/// Bytes of the registered regions' file. Inputs of fuzzing are about as long.
const REGION_BYTES: u64 = 4096;

/// What one thread's requests meet.
pub(crate) struct Fixture {
    /// A model with an input and an output of every element type and several ranks.
    pub(crate) info: Arc<ModelInfo>,
    /// A model with one input, whose requests may come without JSON.
    pub(crate) single: Arc<ModelInfo>,
    /// Regions `r` and `s`, which overlap.
    pub(crate) regions: SharedMemory,
    /// Where their file is.
    pub(crate) folder: TempDir,
}

thread_local! {
    static FIXTURE: Fixture = Fixture::new();
}

/// Calls `use_it` with this thread's fixture.
pub(crate) fn with_fixture<T>(use_it: impl FnOnce(&Fixture) -> T) -> T {
    FIXTURE.with(use_it)
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = vec![1; REGION_BYTES as usize];
        fs::write(folder.path().join("file"), file).expect("a file can be written");
        let regions = SharedMemory::new(SharedMemoryOptions {
            folder: folder.path().to_owned(),
            regions_max: 4,
            input_bytes_max: REGION_BYTES,
        });
        for (name, offset) in [("r", 0), ("s", REGION_BYTES / 4)] {
            let region = RegisterRegion {
                name: name.to_owned(),
                key: "/file".to_owned(),
                offset,
                byte_size: REGION_BYTES / 2,
            };
            regions.register(&region).expect("the file holds it");
        }
        let all = ElementType::ALL.into_iter().enumerate();
        let tensors = all.map(|(index, element)| {
            // `i0` to `i13`, with one to three dimensions, the second of them fixed.
            let shape = [None, Some(2), None];
            spec(&format!("i{index}"), element, &shape[..1 + index % 3])
        });
        Self {
            info: Arc::new(model("m", 8, tensors.collect())),
            single: Arc::new(model(
                "single",
                0,
                vec![spec("i0", ElementType::Fp32, &[Some(2), None])],
            )),
            regions,
            folder,
        }
    }
}

fn spec(name: &str, element: ElementType, shape: &[Option<u64>]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        element,
        shape: shape.to_vec(),
        symbols: vec![None; shape.len()],
    }
}

fn model(name: &str, max_batch_size: u32, tensors: Vec<TensorSpec>) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        version: "1".to_owned(),
        inputs: tensors.clone(),
        outputs: tensors,
        max_batch_size,
        versions: vec!["1".to_owned()],
        labels: Vec::new(),
    }
}
