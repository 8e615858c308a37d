//! What the device asks of the driver and of ONNX Runtime, behind a trait: lanes, loading and
//! faults are then tested without a GPU.
//!
//! **Invariant:** what a [`Backend`] is given for work that it enqueues (buffers, bindings) is
//! kept, and not written to, by whoever enqueues it until an event after that work is reached.

use super::graph::GraphNodes;
use super::priority::Priorities;
use crate::capi::onnx_of;
use crate::course::KeptPlace;
use crate::device::GpuTuning;
use crate::store::{CutModel, Cuts, LoadCause, ModelInfo, Part};
use crate::tensor::TensorSpec;
use fugato_core::Nanos;
use fugato_core::device::AtomSet;
use ort::sys::ONNXTensorElementDataType as Onnx;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

/// What sort of failure a call ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The device has not that much memory left. What was there before is untouched.
    OutOfMemory,
    /// Every further call of this process fails alike.
    Lost,
    /// A capture into a graph was refused or broken off; eager runs are none the worse for it.
    Capture,
    /// The model, or its part, cannot be run there, whatever else is: an operator that the device
    /// lacks, say.
    Refused,
    /// Whatever else.
    Other,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The library's own words.
    pub(super) detail: String,
}

impl Fault {
    pub(super) fn other(detail: impl Into<String>) -> Self {
        Self {
            kind: FaultKind::Other,
            detail: detail.into(),
        }
    }
}

impl From<Fault> for LoadCause {
    fn from(fault: Fault) -> Self {
        let Fault { kind, detail } = fault;
        match kind {
            FaultKind::OutOfMemory => Self::DeviceMemory { detail },
            FaultKind::Lost => Self::DeviceLost { detail },
            FaultKind::Refused => Self::DeviceRefuses { detail },
            FaultKind::Capture | FaultKind::Other => Self::Device { detail },
        }
    }
}

/// A graph of a session: from 1, one for each set of buffers and batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GraphId(pub(super) u32);

/// How a model is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Operator by operator.
    Eager,
    /// By a graph that was captured.
    Replay(GraphId),
    /// Operator by operator, without waiting for any: to be captured by
    /// [`Backend::capture_streams`].
    Recorded,
}

/// An input or output with a place of its own in the device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) spec: TensorSpec,
    /// The shape of a row; of the whole, for a model without a batch.
    pub(super) row: Vec<u64>,
    pub(super) batched: bool,
}

impl Port {
    /// The place of `spec`; `None` where a dimension besides the batch is not fixed, or its
    /// elements have no size.
    pub(super) fn fixed(spec: &TensorSpec, batched: bool) -> Option<Self> {
        spec.element.size()?;
        let row = spec.shape.get(usize::from(batched)..)?;
        Some(Self {
            row: row.iter().copied().collect::<Option<_>>()?,
            spec: spec.clone(),
            batched,
        })
    }

    /// The shape of so many rows.
    pub(super) fn shape(&self, rows: u32) -> Vec<u64> {
        let batch = self.batched.then_some(u64::from(rows));
        batch.into_iter().chain(self.row.iter().copied()).collect()
    }

    /// The bytes of so many rows; `None` where they are too many to count.
    pub(super) fn bytes(&self, rows: u32) -> Option<usize> {
        let size = self.spec.element.size()?;
        self.shape(rows).iter().try_fold(size, |bytes, &dim| {
            bytes.checked_mul(usize::try_from(dim).ok()?)
        })
    }

    pub(super) fn too_large(&self) -> Fault {
        Fault::other(format!("`{}` is too large to have memory", self.spec.name))
    }
}

/// What a session is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionOptions {
    pub(super) tuning: GpuTuning,
    /// Whether runs may be captured.
    pub(super) graphs: bool,
}

/// A tensor that a run reads or writes, and where in the device's memory it is.
pub(super) struct Place<'a, M> {
    pub(super) name: &'a CStr,
    pub(super) element: Onnx,
    pub(super) dims: Vec<i64>,
    pub(super) bytes: usize,
    pub(super) memory: &'a Arc<M>,
    /// Where in the memory it begins, in bytes: a multiple of [`Backend::ALIGN`].
    pub(super) offset: usize,
}

impl<'a, M> Place<'a, M> {
    /// So many rows of a port, which has memory of its own.
    pub(super) fn of_port(
        name: &'a CStr,
        (port, memory): (&Port, &'a Arc<M>),
        rows: u32,
    ) -> Result<Self, Fault> {
        let shape = port.shape(rows);
        let bytes = port.bytes(rows);
        Ok(Self {
            name,
            element: onnx_of(port.spec.element),
            dims: shape.iter().map(|dim| dim.cast_signed()).collect(),
            bytes: bytes.ok_or_else(|| port.too_large())?,
            memory,
            offset: 0,
        })
    }

    /// So many rows of a tensor between legs.
    pub(super) fn of_kept(
        name: &'a CStr,
        (kept, memory): (&KeptPlace, &'a Arc<M>),
        rows: u32,
    ) -> Self {
        Self {
            name,
            element: kept.element,
            dims: kept.dims(rows),
            bytes: kept.byte_size(rows),
            memory,
            offset: kept.offset,
        }
    }
}

/// What a session's runs read and write.
pub(super) struct Places<'a, M> {
    pub(super) inputs: Vec<Place<'a, M>>,
    pub(super) outputs: Vec<Place<'a, M>>,
}

/// The driver and ONNX Runtime on one device.
pub(super) trait Backend: Send + Sync + Sized + 'static {
    /// Where a tensor may begin in the device's memory, in bytes.
    const ALIGN: usize;

    /// What a model is loaded from.
    type Model: Clone + Send + Sync + 'static;
    /// The model's weights in the device's memory, once.
    type Weights: Send + Sync + 'static;
    /// The model, or a part of it, ready to run on one stream, from one thread.
    type Session: Send + 'static;
    /// A session with what its runs read and write, which it keeps.
    type Binding: Send + 'static;
    /// What several streams were given, captured and not yet ready to run.
    type Captured;
    /// What was captured, ready to run. It uses the memory of what is bound to the sessions that
    /// were captured, and theirs; whoever has it keeps these.
    type Graph: Send + 'static;
    /// In-order work on the slices of a partition.
    type Stream: Send + Sync + 'static;
    /// A point in the work of a stream.
    type Event: Send + Sync + 'static;
    /// Memory of the device.
    type Memory: Send + Sync + 'static;
    /// Host memory that the device copies from and to by itself.
    type Pinned: AsRef<[u8]> + AsMut<[u8]> + Send + 'static;
    /// While somebody has it no session is made or dropped, and nobody else captures: either
    /// would break the other off. Whoever has it makes and drops no session.
    type Turn;

    /// Makes the calling thread one that uses the device, before its first other call.
    fn enter(&self) -> Result<(), Fault>;
    /// The priorities that streams may have.
    fn priorities(&self) -> Result<Priorities, Fault>;
    /// A stream of a partition; kernels on one of a lower `priority` go first.
    fn stream(&self, atoms: AtomSet, priority: i32) -> Result<Arc<Self::Stream>, Fault>;
    fn event(&self) -> Result<Self::Event, Fault>;
    fn memory(&self, bytes: usize) -> Result<Self::Memory, Fault>;
    fn pinned(&self, bytes: usize) -> Result<Self::Pinned, Fault>;
    /// Enqueues a copy of the first `bytes`.
    fn upload(
        &self,
        from: &Self::Pinned,
        to: &Self::Memory,
        bytes: usize,
        on: &Self::Stream,
    ) -> Result<(), Fault>;
    /// Enqueues a copy of the first `bytes`.
    fn download(
        &self,
        from: &Self::Memory,
        to: &mut Self::Pinned,
        bytes: usize,
        on: &Self::Stream,
    ) -> Result<(), Fault>;
    fn record(&self, event: &Self::Event, on: &Self::Stream) -> Result<(), Fault>;
    /// Has what is enqueued from now on wait for an event.
    fn wait(&self, on: &Self::Stream, event: &Self::Event) -> Result<(), Fault>;
    /// Blocks until an event is reached; tells what work before it failed with.
    fn finish(&self, event: &Self::Event) -> Result<(), Fault>;
    /// The time between two events that were reached, by the device's clock.
    fn elapsed(&self, since: &Self::Event, until: &Self::Event) -> Result<Nanos, Fault>;

    /// What the model says of itself, and its file.
    fn describe(model: &Self::Model) -> (&ModelInfo, &Path);
    fn weights(&self, model: &Self::Model) -> Result<Self::Weights, Fault>;
    /// How many operators there are to cut.
    fn operators(model: &Self::Model) -> Result<usize, LoadCause>;
    /// The parts of a model under these cuts.
    fn cut(model: &Self::Model, cuts: &Cuts) -> Result<CutModel, LoadCause>;
    /// Makes a session of a part, or of the whole model, on the thread that will run it. It
    /// holds weights and stream.
    fn session(
        &self,
        model: (&Self::Model, Option<&Part>),
        weights: &Arc<Self::Weights>,
        stream: &Arc<Self::Stream>,
        options: SessionOptions,
    ) -> Result<Self::Session, Fault>;
    /// The kinds of operators that a session runs on the host, and how many there are of each:
    /// those that the device has no kernel for, and those that compute shapes.
    ///
    /// # Errors
    /// Where that is not told; the session is none the worse for it.
    fn on_host(&self, session: &Self::Session) -> Result<BTreeMap<String, usize>, Fault>;
    fn bind(
        &self,
        session: &Self::Session,
        places: &Places<'_, Self::Memory>,
    ) -> Result<Self::Binding, Fault>;
    /// Waits for the turn, maybe for seconds: somebody may be making a session.
    fn turn(&self) -> Self::Turn;
    /// The turn, where nobody has it.
    fn try_turn(&self) -> Option<Self::Turn>;
    /// Enqueues a run; may wait for it. The first of a session makes its thread's handles of the
    /// vendor's libraries, for which the caller has the [turn](Self::turn).
    fn run(&self, binding: &mut Self::Binding, how: How) -> Result<(), Fault>;
    /// Runs as often as it takes to capture a graph, the captured run too: what is bound as
    /// output is as after [`run`](Self::run). After a failure the session is not used again.
    fn capture(
        &self,
        turn: &Self::Turn,
        binding: &mut Self::Binding,
        graph: GraphId,
    ) -> Result<(), Fault>;

    /// Captures what `enqueue` gives to a stream, and to streams that fork from it and join it by
    /// events: runs that are [`How::Recorded`]. Nothing of it runs.
    ///
    /// Each session's runs must have been captured only after some eager ones over the same
    /// places, the last before: in those they take memory and make plans.
    fn capture_streams(
        &self,
        turn: &Self::Turn,
        from: &Self::Stream,
        enqueue: &mut dyn FnMut() -> Result<(), Fault>,
    ) -> Result<Self::Captured, Fault>;
    /// What was captured consists of; the kernels of `on`'s partition are counted apart.
    fn contents(&self, captured: &Self::Captured, on: &Self::Stream) -> Result<GraphNodes, Fault>;
    /// Bytes of the device's memory that are free, whoever holds the others.
    fn memory_free(&self) -> Result<u64, Fault>;
    /// Makes it ready to run. What was captured is used up: where it takes memory of its own,
    /// there may be one of it.
    fn make_graph(&self, captured: Self::Captured, on: &Self::Stream)
    -> Result<Self::Graph, Fault>;
    /// Enqueues a run of a graph. Its work runs in the partitions that it was captured in.
    fn launch(&self, graph: &Self::Graph, on: &Self::Stream) -> Result<(), Fault>;
    /// Copies bytes to a place in the device's memory, and waits for it.
    fn write(
        &self,
        bytes: &[u8],
        to: (&Self::Memory, usize),
        on: &Self::Stream,
    ) -> Result<(), Fault>;
    /// Copies so many bytes from a place in the device's memory, after what the stream has to
    /// do, and waits for it.
    fn read(
        &self,
        from: (&Self::Memory, usize),
        bytes: usize,
        on: &Self::Stream,
    ) -> Result<Vec<u8>, Fault>;
}
