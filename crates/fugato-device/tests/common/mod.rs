//! What the tests share: the runtime, a store, tiny models, and a device with its events.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    reason = "each test binary uses a part; a failed unwrap is a failed test"
)]

pub mod onnx;
pub mod zoo;

pub use onnx::{batched, branching, model, node};

use bytes::Bytes;
use fugato_core::sched::Start;
use fugato_core::{
    BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, RequestId, SlotIndex, TaskId,
    Timestamp,
};
use fugato_device::{
    CpuDevice, CpuOptions, Device, DeviceEvent, ElementType, InputTensor, LegWork, LoadOptions,
    ModelStore, MonotonicClock, OutputTensor, RequestInputs, RunError, Runtime, StoredModel,
    TaskOutputs, TensorData,
};
use fugato_onnx::{DataType, ExternalPolicy, ModelProto, TensorProto};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Long enough for any leg of a test on a machine that does other work too.
const PATIENCE: Duration = Duration::from_secs(120);

/// The library that `make runtime` fetches, or that `FUGATO_ORT_LIB` names.
pub fn library() -> PathBuf {
    if let Some(path) = std::env::var_os("FUGATO_ORT_LIB") {
        return path.into();
    }
    let fetched = |folder: &Path| -> Option<PathBuf> {
        let versions = std::fs::read_dir(folder.join(".fugato/onnxruntime")).ok()?;
        let libraries = versions
            .flatten()
            .filter_map(|version| std::fs::read_dir(version.path().join("lib")).ok());
        libraries
            .flat_map(Iterator::flatten)
            .map(|found| found.path())
            .find(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("libonnxruntime.so"))
            })
    };
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find_map(fetched)
        .expect("no ONNX Runtime found: run `make runtime` first")
}

pub fn runtime() -> Arc<Runtime> {
    Runtime::load(library()).expect("the fetched library loads")
}

/// A folder of models and a store beside it, gone at the end of the test.
pub struct Bench {
    pub runtime: Arc<Runtime>,
    pub store: ModelStore,
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let runtime = runtime();
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(&runtime, folder.path().join("store")).unwrap();
        Self {
            runtime,
            store,
            folder,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, model: &ModelProto) -> PathBuf {
        let path = self.path(name);
        fugato_onnx::save_model(model, &path, ExternalPolicy::Never).unwrap();
        path
    }

    pub fn prepare(&self, model: &ModelProto) -> StoredModel {
        let path = self.write("model.onnx", model);
        self.store.prepare(path).unwrap()
    }
}

/// `y = x`, of any element type, rows of `row` elements.
pub fn identity(element: DataType, row: i64) -> ModelProto {
    model(
        vec![node("Identity", &["x"], &["y"])],
        vec![batched("x", element, &[row])],
        vec![batched("y", element, &[row])],
        vec![],
    )
}

/// Floats that differ, repeat only late, and have no pattern that a bug could share.
pub fn floats(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 40) as f32 / (1 << 24) as f32) * 2.0 - 1.0
    };
    (0..count).map(next).collect()
}

/// Two dense layers of `width`, 4 `width`^2 bytes of weights each.
pub fn dense(width: i64) -> ModelProto {
    let count = usize::try_from(width * width).unwrap();
    let scale = 1.0 / (width as f32).sqrt();
    let weight = |name: &str, seed| {
        let values: Vec<f32> = floats(seed, count).iter().map(|v| v * scale).collect();
        TensorProto::from_f32s(name, &[width, width], &values)
    };
    model(
        vec![
            node("MatMul", &["x", "w1"], &["h"]),
            node("Relu", &["h"], &["r"]),
            node("MatMul", &["r", "w2"], &["y"]),
        ],
        vec![batched("x", DataType::Float, &[width])],
        vec![batched("y", DataType::Float, &[width])],
        vec![weight("w1", 1), weight("w2", 2)],
    )
}

pub fn f32_bytes(values: &[f32]) -> Bytes {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub fn as_f32(tensor: &OutputTensor) -> Vec<f32> {
    let TensorData::Raw(bytes) = &tensor.data else {
        panic!("expected floats, found strings");
    };
    bytes
        .chunks_exact(4)
        .map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap()))
        .collect()
}

pub fn raw(shape: &[u64], data: impl Into<Bytes>) -> InputTensor {
    InputTensor {
        shape: shape.to_vec(),
        data: TensorData::Raw(data.into()).into(),
    }
}

pub fn strings(shape: &[u64], data: &[&[u8]]) -> InputTensor {
    let data = data.iter().map(|string| Bytes::copy_from_slice(string));
    InputTensor {
        shape: shape.to_vec(),
        data: TensorData::Strings(data.collect()).into(),
    }
}

/// `rows` rows of `row` random floats.
pub fn random_rows(seed: u64, rows: u64, row: u64) -> InputTensor {
    let count = usize::try_from(rows * row).unwrap();
    raw(&[rows, row], f32_bytes(&floats(seed, count)))
}

/// A request of `items` rows.
pub fn request(items: u32, inputs: impl Into<Arc<[InputTensor]>>) -> RequestInputs {
    RequestInputs {
        items,
        inputs: inputs.into(),
    }
}

/// A CPU device and what it reports.
pub struct Rig {
    pub device: CpuDevice,
    pub clock: MonotonicClock,
    events: Mutex<Receiver<DeviceEvent>>,
    next_task: std::sync::atomic::AtomicU64,
}

/// What a finished leg gave, in the order of the events.
#[derive(Debug)]
pub struct Finished {
    pub task: TaskId,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub result: Result<TaskOutputs, RunError>,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(CpuOptions::default())
    }

    pub fn with(options: CpuOptions) -> Self {
        let clock = MonotonicClock::start();
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |event| {
            // A receiver that is gone is a test that has ended.
            let _ = sender.lock().unwrap().send(event);
        });
        Self {
            device: CpuDevice::new(DeviceId(0), options, clock, sink).unwrap(),
            clock,
            events: Mutex::new(events),
            next_task: std::sync::atomic::AtomicU64::new(0),
        }
    }

    pub fn load(&self, id: u32, stored: &StoredModel, max_batch: u32) {
        let options = LoadOptions {
            max_batch,
            ..LoadOptions::default()
        };
        self.device.load(ModelId(id), stored, &options).unwrap();
    }

    /// A leg of a new task on the whole device's first lane, slot 0.
    pub fn leg(&self, model: u32, requests: Vec<RequestInputs>) -> LegWork {
        let task = self
            .next_task
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let batch = requests.iter().map(|request| request.items).sum();
        let ids = (0..requests.len() as u64).map(RequestId);
        LegWork {
            start: Start {
                device: DeviceId(0),
                task: TaskId(task),
                model: ModelId(model),
                leg: LegIndex(0),
                partition: PartitionId(0),
                lane: LaneId(0),
                slot: SlotIndex(0),
                batch: BatchSize(batch),
                unsplit: false,
                not_before: Timestamp::ZERO,
                requests: ids.collect(),
            },
            requests,
        }
    }

    pub fn event(&self) -> DeviceEvent {
        self.events
            .lock()
            .unwrap()
            .recv_timeout(PATIENCE)
            .expect("the device reports within two minutes")
    }

    pub fn no_event_left(&self) -> bool {
        self.events.lock().unwrap().try_recv().is_err()
    }

    /// Drops the device; gives the events it had left and made in dropping.
    pub fn drop_device(self) -> Vec<DeviceEvent> {
        let Self { device, events, .. } = self;
        drop(device);
        events.into_inner().unwrap().try_iter().collect()
    }

    /// The next leg to finish; starts before it are skipped.
    pub fn finished(&self) -> Finished {
        loop {
            match self.event() {
                DeviceEvent::Started { .. } => {}
                DeviceEvent::Revoked { task, .. } => panic!("{task} was revoked"),
                DeviceEvent::Lost { detail, .. } => panic!("{detail}"),
                DeviceEvent::Finished {
                    task,
                    started,
                    ended,
                    result,
                    ..
                } => {
                    return Finished {
                        task,
                        started,
                        ended,
                        result,
                    };
                }
            }
        }
    }

    /// Runs a task of several legs, one after the other.
    pub fn run_legs(
        &self,
        model: u32,
        legs: u16,
        requests: Vec<RequestInputs>,
    ) -> Result<Vec<Vec<OutputTensor>>, RunError> {
        let first = self.leg(model, requests);
        let later: Vec<_> = (1..legs).map(|leg| later_leg(&first, leg)).collect();
        let mut found = Vec::new();
        for work in std::iter::once(first).chain(later) {
            assert!(found.is_empty(), "only the last leg has outputs");
            self.device.start(work);
            found = self.finished().result?.requests;
        }
        Ok(found
            .into_iter()
            .map(|request| request.expect("its inputs are here"))
            .collect())
    }

    /// Runs one leg alone.
    pub fn run(
        &self,
        model: u32,
        requests: Vec<RequestInputs>,
    ) -> Result<Vec<Vec<OutputTensor>>, RunError> {
        self.device.start(self.leg(model, requests));
        let outputs = self.finished().result?;
        let requests = outputs.requests.into_iter();
        Ok(requests
            .map(|request| request.expect("its inputs are here"))
            .collect())
    }
}

/// A later leg of a task.
pub fn later_leg(first: &LegWork, leg: u16) -> LegWork {
    LegWork {
        start: Start {
            leg: LegIndex(leg),
            requests: Vec::new(),
            ..first.start.clone()
        },
        requests: Vec::new(),
    }
}

/// A generator of numbers that repeat only late.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % end
    }

    pub fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// ONNX's number for each element type of the protocol.
pub fn onnx_type(element: ElementType) -> DataType {
    match element {
        ElementType::Bool => DataType::Bool,
        ElementType::Uint8 => DataType::Uint8,
        ElementType::Uint16 => DataType::Uint16,
        ElementType::Uint32 => DataType::Uint32,
        ElementType::Uint64 => DataType::Uint64,
        ElementType::Int8 => DataType::Int8,
        ElementType::Int16 => DataType::Int16,
        ElementType::Int32 => DataType::Int32,
        ElementType::Int64 => DataType::Int64,
        ElementType::Fp16 => DataType::Float16,
        ElementType::Bf16 => DataType::Bfloat16,
        ElementType::Fp32 => DataType::Float,
        ElementType::Fp64 => DataType::Double,
        ElementType::Bytes => DataType::String,
    }
}

/// Asserts `max|a - b| <= tolerance max|b|`, and that `b` is not all zero.
pub fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let size = expected
        .iter()
        .fold(0.0_f32, |most, value| most.max(value.abs()));
    let error = found
        .iter()
        .zip(expected)
        .fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(size > 0.0, "expected values are all zero");
    assert!(
        error <= tolerance * size,
        "largest error {error} of values up to {size}"
    );
}

/// What is logged while `work` runs, on this thread.
pub fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::WARN)
        .with_writer(Mutex::new(file.reopen().unwrap()))
        .finish();
    let done = tracing::subscriber::with_default(lines, work);
    (done, std::fs::read_to_string(file.path()).unwrap())
}

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    allowed_cores(&std::fs::read_to_string("/proc/self/status").unwrap())
}

/// The cores that a thread may run on, by its `status` under `/proc`.
pub fn allowed_cores(status: &str) -> Vec<usize> {
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    let ranges = list.trim().split(',').flat_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    });
    ranges.collect()
}
