//! The device there is: the driver's types, and ONNX Runtime's CUDA provider on its streams.

use super::backend::{Backend, Fault, FaultKind, GraphId, How, Places, SessionOptions};
use super::driver::{CudaError, mind_own_captures};
use super::gpu::{Gpu, Partition};
use super::graph::{Executable, Graph, GraphNodes};
use super::memory::{DeviceMemory, PinnedMemory};
use super::priority::Priorities;
use super::provider::{PROVIDER, not_captured, provider_settings};
use super::stream::{Alone, Event, Stream, alone, alone_now};
use super::words::{is_refusal, kind_of, kind_of_words, uninitialised};
use crate::capi::{Binding, Options, OrtError, RunOptions, Session, Value, onnx_of_number};
use crate::runtime::Runtime;
use crate::store::{CutModel, Cuts, LoadCause, ModelInfo, Part, StoredModel, lacks_operator};
use fugato_core::Nanos;
use fugato_core::device::AtomSet;
use ort::sys::GraphOptimizationLevel;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

/// Runs of one shape until the runtime captures: two in which it allocates and makes plans,
/// and one that is captured and then run.
const RUNS_TO_CAPTURE: usize = 3;

/// Host memory that weights pass through, in bytes: enough to keep the bus busy, little beside
/// what models take.
const STAGING: usize = 32 << 20;

/// The driver and ONNX Runtime on one device.
pub(super) struct Nvidia {
    /// The whole device first.
    pub(super) partitions: Vec<(AtomSet, Arc<Partition>)>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) gpu: Arc<Gpu>,
}

/// The weights of a model in the device's memory.
pub(super) struct DeviceWeights {
    /// Over `_memory`; dropped before it.
    values: Vec<(String, Value)>,
    _memory: Option<DeviceMemory>,
}

/// Something whose end waits for the device, which would break a capture off.
struct Quiet<T>(Option<T>);

impl<T> Quiet<T> {
    fn get(&self) -> &T {
        self.0.as_ref().expect("it is there until it is dropped")
    }

    fn get_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let _alone = alone();
        self.0 = None;
    }
}

/// A model on a stream.
pub(super) struct NvidiaSession {
    session: Quiet<Arc<Session>>,
    stream: Arc<Stream>,
}

/// A session with what it reads and writes.
pub(super) struct NvidiaBinding {
    binding: Quiet<Binding>,
    eager: RunOptions,
    recorded: RunOptions,
    /// The settings of replays, from the capture on.
    replay: Option<(GraphId, RunOptions)>,
    stream: Arc<Stream>,
    /// What is bound.
    _memory: Vec<Arc<DeviceMemory>>,
}

/// A graph of ours, ready to run. What it was made of is kept as long: there can be one of it
/// where it takes memory of its own.
pub(super) struct NvidiaGraph(Quiet<(Executable, Graph)>);

impl From<CudaError> for Fault {
    fn from(error: CudaError) -> Self {
        Self {
            kind: kind_of(error.code),
            detail: error.to_string(),
        }
    }
}

impl Nvidia {
    fn fault(&self, error: &OrtError) -> Fault {
        let detail = error.message().to_owned();
        let kind = kind_of_words(&detail).unwrap_or(FaultKind::Other);
        if !matches!(kind, FaultKind::OutOfMemory | FaultKind::Other) {
            return Fault { kind, detail };
        }
        let free = self.gpu.memory_free();
        // The libraries of cuDNN and cuBLAS hide what became of the device.
        if matches!(&free, Err(error) if error.is_sticky()) {
            let kind = FaultKind::Lost;
            return Fault { kind, detail };
        }
        uninitialised(&detail, free.ok()).unwrap_or(Fault { kind, detail })
    }

    fn run_options(&self, entries: &[(&CStr, &CStr)]) -> Result<RunOptions, Fault> {
        RunOptions::new(entries).map_err(|error| self.fault(&error))
    }
}

const GRAPH: &CStr = c"gpu_graph_id";
const NO_GRAPH: &CStr = c"-1";
const NO_WAIT: &CStr = c"disable_synchronize_execution_providers";

fn number(number: u32) -> CString {
    CString::new(number.to_string()).expect("digits have no NUL byte")
}

impl Backend for Nvidia {
    /// What the driver's own allocations are aligned to, which kernels count on.
    const ALIGN: usize = 256;

    type Model = StoredModel;
    type Weights = DeviceWeights;
    type Session = NvidiaSession;
    type Binding = NvidiaBinding;
    type Captured = Graph;
    type Graph = NvidiaGraph;
    type Stream = Stream;
    type Event = Event;
    type Memory = DeviceMemory;
    type Pinned = PinnedMemory;
    type Turn = Alone;

    fn enter(&self) -> Result<(), Fault> {
        self.gpu.make_current()?;
        Ok(mind_own_captures()?)
    }

    fn priorities(&self) -> Result<Priorities, Fault> {
        Ok(self.gpu.stream_priorities()?)
    }

    fn stream(&self, atoms: AtomSet, priority: i32) -> Result<Arc<Stream>, Fault> {
        let found = self.partitions.iter().find(|(of, _)| *of == atoms);
        let (_, partition) = found.ok_or_else(|| Fault::other("there is no such partition"))?;
        Ok(partition.stream(priority)?)
    }

    fn event(&self) -> Result<Event, Fault> {
        Ok(Event::to_sleep_for(&self.gpu)?)
    }

    fn memory(&self, bytes: usize) -> Result<DeviceMemory, Fault> {
        Ok(DeviceMemory::new(&self.gpu, bytes)?)
    }

    fn pinned(&self, bytes: usize) -> Result<PinnedMemory, Fault> {
        Ok(PinnedMemory::new(&self.gpu, bytes)?)
    }

    fn upload(
        &self,
        from: &PinnedMemory,
        to: &DeviceMemory,
        bytes: usize,
        on: &Stream,
    ) -> Result<(), Fault> {
        Ok(to.copy_part_from((from, bytes), 0, on)?)
    }

    fn download(
        &self,
        from: &DeviceMemory,
        to: &mut PinnedMemory,
        bytes: usize,
        on: &Stream,
    ) -> Result<(), Fault> {
        Ok(from.copy_first_to((to, bytes), on)?)
    }

    fn record(&self, event: &Event, on: &Stream) -> Result<(), Fault> {
        Ok(on.record(event)?)
    }

    fn wait(&self, on: &Stream, event: &Event) -> Result<(), Fault> {
        Ok(on.wait(event)?)
    }

    fn finish(&self, event: &Event) -> Result<(), Fault> {
        Ok(event.synchronize()?)
    }

    fn elapsed(&self, since: &Event, until: &Event) -> Result<Nanos, Fault> {
        Ok(Nanos::from_secs_f64(until.elapsed(since)?.as_secs_f64()))
    }

    fn describe(model: &StoredModel) -> (&ModelInfo, &Path) {
        (model.info(), model.origin())
    }

    fn weights(&self, model: &StoredModel) -> Result<DeviceWeights, Fault> {
        let mut total = 0_usize;
        let mut places = Vec::new();
        for (_, _, _, bytes) in model.weights() {
            let at = total.next_multiple_of(Self::ALIGN);
            places.push(at);
            total = at + bytes.len();
        }
        if places.is_empty() {
            return Ok(DeviceWeights {
                values: Vec::new(),
                _memory: None,
            });
        }
        let memory = DeviceMemory::new(&self.gpu, total)?;
        let mut staging = PinnedMemory::new(&self.gpu, STAGING.min(total))?;
        let (whole, _) = &self.partitions[0];
        let stream = self.stream(*whole, Priorities::NONE.least)?;
        let device = self.gpu.info().ordinal.cast_signed();
        let mut values = Vec::with_capacity(places.len());
        for ((name, data_type, dims, bytes), at) in model.weights().zip(places) {
            for (index, part) in bytes.chunks(STAGING).enumerate() {
                staging.bytes_mut()[..part.len()].copy_from_slice(part);
                memory.copy_part_from((&staging, part.len()), at + index * STAGING, &stream)?;
                stream.synchronize()?;
            }
            let onnx = onnx_of_number(data_type);
            let onnx = onnx.ok_or_else(|| Fault::other("a weight of an unknown type is shared"))?;
            let address = memory.address() + at as u64;
            // SAFETY: the memory is as long as the weights, which hold both, and which every
            // session over the values holds.
            let value = unsafe { Value::over_cuda(device, address, bytes.len(), dims, onnx) };
            values.push((name.to_owned(), value.map_err(|error| self.fault(&error))?));
        }
        model.give_pages_back();
        Ok(DeviceWeights {
            values,
            _memory: Some(memory),
        })
    }

    fn operators(model: &StoredModel) -> Result<usize, LoadCause> {
        model.operators()
    }

    fn cut(model: &StoredModel, cuts: &Cuts) -> Result<CutModel, LoadCause> {
        model.cut(cuts)
    }

    fn session(
        &self,
        (model, part): (&StoredModel, Option<&Part>),
        weights: &Arc<DeviceWeights>,
        stream: &Arc<Stream>,
        options: SessionOptions,
    ) -> Result<NvidiaSession, Fault> {
        if options.graphs
            && let Some(operator) = not_captured(model, part)
        {
            return Err(Fault {
                kind: FaultKind::Capture,
                detail: format!("operator `{operator}` cannot be captured"),
            });
        }
        let session = self.make((model, part), (weights, stream), options);
        let session = session.map_err(|error| {
            let fault = self.fault(&error);
            let is_unknown = fault.kind == FaultKind::Other;
            if is_unknown && is_refusal(error.message(), lacks_operator(&error)) {
                let kind = FaultKind::Refused;
                return Fault { kind, ..fault };
            }
            fault
        })?;
        Ok(NvidiaSession {
            session: Quiet(Some(Arc::new(session))),
            stream: Arc::clone(stream),
        })
    }

    fn on_host(&self, session: &NvidiaSession) -> Result<BTreeMap<String, usize>, Fault> {
        let placed = session.session.get().placed();
        let placed = placed.map_err(|error| Fault::other(error.message()))?;
        Ok(besides(PROVIDER, placed))
    }

    fn bind(
        &self,
        session: &NvidiaSession,
        places: &Places<'_, DeviceMemory>,
    ) -> Result<NvidiaBinding, Fault> {
        let failed = |error: OrtError| self.fault(&error);
        let mut binding = Binding::new(session.session.get()).map_err(failed)?;
        let device = self.gpu.info().ordinal.cast_signed();
        let all = places.inputs.iter().chain(&places.outputs);
        for (index, place) in all.clone().enumerate() {
            let name = place.name;
            let end = place.offset.checked_add(place.bytes);
            if end.is_none_or(|end| end > place.memory.bytes()) {
                let name = name.to_string_lossy();
                return Err(Fault::other(format!("`{name}` has no room")));
            }
            let address = place.memory.address() + place.offset as u64;
            let (dims, onnx) = (&place.dims, place.element);
            // SAFETY: the binding holds the memory, which reaches as far.
            let value = unsafe { Value::over_cuda(device, address, place.bytes, dims, onnx) };
            let value = value.map_err(failed)?;
            let bound = match index < places.inputs.len() {
                true => binding.input(name, &value),
                false => binding.output(name, &value),
            };
            bound.map_err(failed)?;
        }
        // It waits: without that, memory that eager runs stage copies in piles up.
        let eager = self.run_options(&[(GRAPH, NO_GRAPH)])?;
        let recorded = self.run_options(&[(GRAPH, NO_GRAPH), (NO_WAIT, c"1")])?;
        // Last: given up, it takes the turn, which the caller may have.
        Ok(NvidiaBinding {
            binding: Quiet(Some(binding)),
            eager,
            recorded,
            replay: None,
            stream: Arc::clone(&session.stream),
            _memory: all.map(|place| Arc::clone(place.memory)).collect(),
        })
    }

    fn run(&self, binding: &mut NvidiaBinding, how: How) -> Result<(), Fault> {
        let options = match (how, &binding.replay) {
            (How::Eager, _) => &binding.eager,
            (How::Recorded, _) => &binding.recorded,
            (How::Replay(graph), Some((captured, options))) if graph == *captured => options,
            (How::Replay(_), _) => {
                return Err(Fault {
                    kind: FaultKind::Capture,
                    detail: "there is no such graph".to_owned(),
                });
            }
        };
        // SAFETY: the binding holds the memory, and whoever enqueues runs leaves it alone until
        // an event after them, as this trait asks.
        let ran = unsafe { binding.binding.get_mut().run_with(options) };
        ran.map_err(|error| self.fault(&error))
    }

    fn turn(&self) -> Alone {
        alone()
    }

    fn try_turn(&self) -> Option<Alone> {
        alone_now()
    }

    fn capture(
        &self,
        _turn: &Alone,
        binding: &mut NvidiaBinding,
        graph: GraphId,
    ) -> Result<(), Fault> {
        let id = number(graph.0);
        let waiting = self.run_options(&[(GRAPH, &id)])?;
        let replay = self.run_options(&[(GRAPH, &id), (NO_WAIT, c"1")])?;
        for _ in 0..RUNS_TO_CAPTURE {
            // SAFETY: as for `run`.
            let ran = unsafe { binding.binding.get_mut().run_with(&waiting) };
            if let Err(error) = ran {
                let ended = binding.stream.abandon_capture();
                let fault = ended.map_err(Fault::from).err();
                let fault = fault.filter(|fault| fault.kind == FaultKind::Lost);
                return Err(fault.unwrap_or_else(|| self.fault(&error)));
            }
        }
        binding.replay = Some((graph, replay));
        Ok(())
    }

    fn capture_streams(
        &self,
        turn: &Alone,
        from: &Stream,
        enqueue: &mut dyn FnMut() -> Result<(), Fault>,
    ) -> Result<Graph, Fault> {
        from.capture_alone(turn, enqueue)
    }

    fn contents(&self, captured: &Graph, on: &Stream) -> Result<GraphNodes, Fault> {
        Ok(captured.nodes(on.partition())?)
    }

    fn memory_free(&self) -> Result<u64, Fault> {
        Ok(self.gpu.memory_free()?)
    }

    fn make_graph(&self, captured: Graph, on: &Stream) -> Result<NvidiaGraph, Fault> {
        let executable = captured.instantiate()?;
        executable.upload(on)?;
        Ok(NvidiaGraph(Quiet(Some((executable, captured)))))
    }

    fn launch(&self, graph: &NvidiaGraph, on: &Stream) -> Result<(), Fault> {
        let (executable, _) = graph.0.get();
        Ok(executable.launch(on)?)
    }

    fn write(
        &self,
        bytes: &[u8],
        (to, at): (&DeviceMemory, usize),
        on: &Stream,
    ) -> Result<(), Fault> {
        let mut staging = PinnedMemory::new(&self.gpu, bytes.len())?;
        staging.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        to.copy_part_from((&staging, bytes.len()), at, on)?;
        Ok(on.synchronize()?)
    }

    fn read(
        &self,
        (from, at): (&DeviceMemory, usize),
        bytes: usize,
        on: &Stream,
    ) -> Result<Vec<u8>, Fault> {
        let mut staging = PinnedMemory::new(&self.gpu, bytes)?;
        from.copy_part_to(at, (&mut staging, bytes), on)?;
        on.synchronize()?;
        Ok(staging.bytes()[..bytes].to_vec())
    }
}

impl Nvidia {
    fn make(
        &self,
        (model, part): (&StoredModel, Option<&Part>),
        (weights, stream): (&Arc<DeviceWeights>, &Arc<Stream>),
        options: SessionOptions,
    ) -> Result<Session, OrtError> {
        let device = number(self.gpu.info().ordinal);
        let mut settings = vec![(c"device_id", &*device)];
        settings.extend(provider_settings(options));
        let mut with = Options::new(1, GraphOptimizationLevel::ORT_ENABLE_ALL)?;
        with.note_places()?;
        // SAFETY: the session keeps the stream.
        unsafe { with.cuda(stream.handle().cast(), &settings) }?;
        let is_read = |name: &str| part.is_none_or(|part| part.weights.contains(name));
        for (name, value) in weights.values.iter().filter(|(name, _)| is_read(name)) {
            // SAFETY: the session keeps the weights, which own the value and its memory.
            unsafe { with.initializer(name, value) }?;
        }
        let keep = Arc::new((Arc::clone(weights), Arc::clone(stream)));
        // Making a session waits for the device, which would break a capture.
        let _alone = alone();
        let graph = part.map_or(model.optimised_graph(), |part| &part.path);
        // SAFETY: what the options borrow is kept.
        unsafe { Session::load(&self.runtime, graph, &with, None, Some(keep)) }
    }
}

/// The kinds of operators that other providers run, and how many there are of each in all.
fn besides(
    provider: &str,
    placed: BTreeMap<String, BTreeMap<String, usize>>,
) -> BTreeMap<String, usize> {
    let others = placed.into_iter().filter(|(other, _)| other != provider);
    let mut counts = BTreeMap::new();
    for (kind, count) in others.flat_map(|(_, kinds)| kinds) {
        *counts.entry(kind).or_default() += count;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_of_several_other_providers_are_counted_together() {
        let kinds = |kinds: &[(&str, usize)]| -> BTreeMap<String, usize> {
            let kinds = kinds.iter().map(|&(kind, count)| (kind.to_owned(), count));
            kinds.collect()
        };
        let placed = [
            (PROVIDER, kinds(&[("Conv", 50), ("Shape", 1)])),
            ("CPUExecutionProvider", kinds(&[("Shape", 2), ("If", 1)])),
            ("OtherExecutionProvider", kinds(&[("Shape", 3)])),
        ];
        let placed = placed.map(|(name, kinds)| (name.to_owned(), kinds));
        assert_eq!(
            besides(PROVIDER, placed.into()),
            kinds(&[("If", 1), ("Shape", 5)])
        );
    }

    #[test]
    fn the_runtimes_words_are_told_apart() {
        let cases = [
            (
                "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
                Some(FaultKind::Lost),
            ),
            (
                "CUDA failure 2: out of memory ; GPU=0",
                Some(FaultKind::OutOfMemory),
            ),
            (
                "Available memory of 5 is smaller than requested bytes of 6. Failed to allocate \
                 memory for requested buffer of size 6",
                Some(FaultKind::OutOfMemory),
            ),
            (
                "CUDA failure 901: operation failed due to a previous error during capture",
                Some(FaultKind::Capture),
            ),
            (
                "This session cannot use the graph capture feature as requested by the user",
                Some(FaultKind::Capture),
            ),
            ("CUDA failure 1: invalid argument", Some(FaultKind::Other)),
            ("CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR", None),
        ];
        for (words, kind) in cases {
            assert_eq!(kind_of_words(words), kind, "{words}");
        }
    }
}
