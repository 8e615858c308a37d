//! Requests and replies as both protocols see them, and their validation.
//!
//! HTTP and gRPC turn their wire types into an [`InferRequest`] and an [`InferReply`] into
//! theirs; everything between is here and in the [`InferenceService`], once. Start reading
//! at the trait.

use crate::error::{ErrorKind, Fault, InferError};
use crate::server::proto::ModelConfig;
use crate::shm::{RegionTarget, SharedMemory};
use bytes::Bytes;
use fugato_core::{Nanos, Timestamp};
use fugato_device::{ElementType, InputData, InputTensor, MonotonicClock, TensorData, TensorSpec};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

mod admin;
mod classify;
mod explain;
mod limits;
mod live;
mod parameter;
mod profile;
mod timeline;
mod trace_context;
mod validate;

pub use admin::{
    BatchStatistics, Counted, LoadFile, LoadRequest, LogSetting, LogSettings, ModelStatistics,
    TraceSettings,
};
pub use explain::{Constraint, Explanation, LegExplanation};
pub use profile::{ProfileReport, ProfileServing};
pub use timeline::TimelineTrace;
pub use trace_context::TraceContext;

pub(crate) use classify::classify;
pub(crate) use limits::check_limits;
pub use limits::{NAME_MAX_BYTES, RANK_MAX, TENSORS_MAX};
pub use live::{Change, ModelSettings, ModelUpdate, Objective, SchedulerSettings, SchedulerUpdate};
pub(crate) use parameter::{ParameterValue, RegionParameters, RequestParameters, boolean, classes};
pub use validate::validate;

/// The platform that model metadata names, as Triton spells it for ONNX models.
pub const PLATFORM: &str = "onnxruntime_onnx";

/// One inference request, read from the wire and not yet checked against its model.
#[derive(Clone, Debug)]
pub struct InferRequest {
    /// The model's name.
    pub model: String,
    /// The version asked for; `None` leaves the choice to the server.
    pub version: Option<String>,
    /// The client's own name for the request; empty where it gave none.
    pub id: String,
    /// The inputs, in the client's order.
    pub inputs: Vec<NamedInput>,
    /// The outputs asked for, in the client's order; empty asks for all.
    pub outputs: Vec<RequestedOutput>,
    /// When the request's first byte was seen, on [`InferenceService::clock`].
    pub arrived: Timestamp,
    /// The earliest of the gRPC timeout and parameter `slo_us`. The model's own SLO is the
    /// service's to add.
    pub deadline: Option<Timestamp>,
    /// Triton's parameter `timeout`: the longest the request may wait in the queue.
    pub queue_timeout: Option<Nanos>,
    /// Triton's parameter `priority`: 1 is the highest, 0 is the model's default.
    pub priority: u64,
    /// The client's trace that the request is part of, where it sent one.
    pub trace: Option<TraceContext>,
}

/// One output that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Answer with this many best classes of each row in place of the tensor (Triton's
    /// classification extension); 0 answers with the tensor.
    pub classes: u32,
    /// Where in a client's shared memory it goes; `None` sends it with the reply.
    pub region: Option<RegionTarget>,
}

impl From<&str> for RequestedOutput {
    /// The tensor itself.
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            classes: 0,
            region: None,
        }
    }
}

/// A request's value for one input, as the client named it.
#[derive(Clone, Debug)]
pub struct NamedInput {
    /// The name.
    pub name: String,
    /// The element type the client says.
    pub element: ElementType,
    /// The shape the client says, batch dimension included.
    pub shape: Vec<u64>,
    /// The elements. `BYTES` may come [`TensorData::Raw`] or in shared memory in the
    /// protocol's serialised form (each string after its length as 4 little-endian bytes);
    /// [`validate()`] copies them out of shared memory and takes them apart.
    pub data: InputData,
}

/// The answer to one request.
#[derive(Clone, Debug)]
pub struct InferReply {
    /// The model version that ran.
    pub model: Arc<ModelInfo>,
    /// The request's own id.
    pub id: String,
    /// The outputs, in the order asked for.
    pub outputs: Vec<ReplyOutput>,
    /// Items of the task the request ran in.
    pub batch: u32,
}

/// One output of a reply.
#[derive(Clone, Debug)]
pub struct ReplyOutput {
    /// Its place in [`ModelInfo::outputs`].
    pub index: usize,
    /// The type of its elements: the model's, or `BYTES` for classes.
    pub element: ElementType,
    /// The shape, batch dimension included.
    pub shape: Vec<u64>,
    /// The elements.
    pub data: TensorData,
}

/// What clients may know of a loaded model version.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// The version this describes.
    pub version: String,
    /// Its inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// The most items of a batch; 0 where the model has no batch dimension.
    pub max_batch_size: u32,
    /// Every ready version of the model, rising.
    pub versions: Vec<String>,
    /// Class names of each output, parallel to [`Self::outputs`] or empty: what line `i` of
    /// the output's label file says, for classification.
    pub labels: Vec<Option<Arc<[String]>>>,
}

/// Whether a model version can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// It is being loaded.
    Loading,
    /// It can run.
    Ready,
    /// It cannot run; [`ModelStatus::reason`] says why.
    Unavailable,
    /// It takes no new requests, and accepted ones run to their end.
    Unloading,
}

/// One model version of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStatus {
    /// The model's name.
    pub name: String,
    /// The version; empty where the model has none that could be read.
    pub version: String,
    /// Whether it can run.
    pub state: ModelState,
    /// Why it cannot run; empty where it can.
    pub reason: String,
}

/// A request that fits its model.
#[derive(Clone, Debug)]
pub struct ValidRequest {
    /// One tensor per input of the model, in the model's order.
    pub inputs: Arc<[InputTensor]>,
    /// Rows of the batch dimension; 1 for a model without one.
    pub items: u32,
    /// Bytes that the inputs hold in memory.
    pub bytes: u64,
    /// Equal for requests that may share a batch.
    pub shape: ShapeSignature,
    /// Indices into [`ModelInfo::outputs`], in the order asked for. Never empty.
    pub outputs: Box<[usize]>,
}

/// The dimensions of every input past the batch dimension, in the model's order.
///
/// Requests may share a batch where these are equal. Ranks are fixed by the model, so the
/// dimensions need no separators.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeSignature(pub Box<[u64]>);

/// What the servers serve: the engine, or a double of it in tests.
pub trait InferenceService: Send + Sync + 'static {
    /// The clock that [`InferRequest::arrived`] and deadlines are on.
    fn clock(&self) -> MonotonicClock;

    /// Whether the process works at all.
    fn live(&self) -> bool;

    /// Whether requests are taken: models loaded, not draining, not stopping.
    fn ready(&self) -> bool;

    /// The ready version of a model that a request for `version` (or for any) gets.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownModel`], [`ErrorKind::UnknownVersion`], or
    /// [`ErrorKind::ModelNotReady`] with the reason.
    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelInfo>, InferError>;

    /// Every model version of the repository, ready or not, by name and version.
    fn models(&self) -> Vec<ModelStatus>;

    /// Checks the request ([`validate()`]) and runs it. Dropping the future takes the
    /// request back: the client went away.
    ///
    /// # Errors
    /// Any kind but those of a protocol's own (URLs, methods, message sizes).
    fn infer(
        &self,
        request: InferRequest,
    ) -> impl Future<Output = Result<InferReply, InferError>> + Send;

    /// Counts a request that [`Self::infer`] could not: a protocol refused it before, or
    /// could not carry its reply, or the service panicked.
    fn refused(&self, kind: ErrorKind);

    /// The configuration that a model version is served with, completed by what its file
    /// says.
    ///
    /// # Errors
    /// As [`Self::model`].
    fn config(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelConfig>, InferError>;

    /// What has been counted of a model (of every model where `name` is `None`), one entry
    /// for each version that is ready.
    ///
    /// # Errors
    /// As [`Self::model`].
    fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, InferError>;

    /// Loads a model, or loads it anew; returns once its versions are ready, or not.
    /// Requests go to the versions that were ready before until then.
    ///
    /// # Errors
    /// [`ErrorKind::ControlDisabled`], [`ErrorKind::UnknownModel`],
    /// [`ErrorKind::LoadFailed`] with the reason, or what the request itself gets wrong.
    fn load(&self, request: LoadRequest) -> impl Future<Output = Result<(), InferError>> + Send;

    /// Takes a model out: no new requests are taken from here on, accepted ones run to
    /// their end. Returns once it takes none; its memory is given back when they ended.
    ///
    /// # Errors
    /// [`ErrorKind::ControlDisabled`], [`ErrorKind::UnknownModel`].
    fn unload(&self, name: &str) -> impl Future<Output = Result<(), InferError>> + Send;

    /// The trace settings of a model, or of the server.
    ///
    /// # Errors
    /// As [`Self::model`].
    fn trace_settings(&self, model: Option<&str>) -> Result<TraceSettings, InferError>;

    /// Changes trace settings and gives the new ones; `None` for a value takes back what
    /// was set.
    ///
    /// # Errors
    /// As [`Self::model`], and [`ErrorKind::InvalidValue`].
    fn update_trace_settings(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<TraceSettings, InferError>;

    /// The log settings.
    fn log_settings(&self) -> LogSettings;

    /// Changes log settings and gives the new ones.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidValue`].
    fn update_log_settings(&self, update: LogSettings) -> Result<LogSettings, InferError>;

    /// What was decided about the latest request to a model that its client named `id`.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownModel`], [`ErrorKind::UnknownRequest`].
    fn explain(
        &self,
        name: &str,
        id: &str,
    ) -> impl Future<Output = Result<Explanation, InferError>> + Send;

    /// The profile of a model version, and how it stands.
    ///
    /// # Errors
    /// As [`Self::model`].
    fn profile(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> impl Future<Output = Result<ProfileReport, InferError>> + Send;

    /// How the scheduler decides at present.
    ///
    /// # Errors
    /// [`ErrorKind::ShuttingDown`].
    fn scheduler(&self) -> impl Future<Output = Result<SchedulerSettings, InferError>> + Send;

    /// Changes how the scheduler decides; returns what is in force from then on. Requests
    /// that were accepted stay accepted, and legs that run stay where they are.
    ///
    /// # Errors
    /// [`ErrorKind::ControlDisabled`], [`ErrorKind::InvalidValue`],
    /// [`ErrorKind::ShuttingDown`].
    fn update_scheduler(
        &self,
        update: SchedulerUpdate,
    ) -> impl Future<Output = Result<SchedulerSettings, InferError>> + Send;

    /// The settings of a model that may change while it is served.
    ///
    /// # Errors
    /// As [`Self::model`].
    fn model_settings(&self, name: &str) -> Result<ModelSettings, InferError>;

    /// Changes settings of a model, of every version; returns those in force from then on.
    /// Requests that were accepted keep their deadlines.
    ///
    /// # Errors
    /// As [`Self::model`], and [`ErrorKind::ControlDisabled`], [`ErrorKind::InvalidValue`],
    /// [`ErrorKind::ShuttingDown`].
    fn update_model_settings(
        &self,
        name: &str,
        update: ModelUpdate,
    ) -> impl Future<Output = Result<ModelSettings, InferError>> + Send;

    /// The legs that ended within the `last` time, as far as they are kept. Takes
    /// milliseconds where there are many.
    fn timeline(&self, last: Nanos) -> TimelineTrace;

    /// The shared memory that clients registered.
    fn regions(&self) -> &SharedMemory;

    /// The metrics, as OpenMetrics text.
    fn metrics(&self) -> impl Future<Output = String> + Send;
}

/// Bytes of what [`validate()`] will make of inputs that are serialised strings: handles,
/// and a copy of what is in shared memory. Elements of other types stay where they are.
pub(crate) fn string_bytes(inputs: &[NamedInput]) -> usize {
    // Every string has its length, of 4 bytes, before it.
    let handles =
        |shape: &[u64], bytes: usize| element_bound(shape, bytes / 4) * size_of::<Bytes>();
    let strings = inputs
        .iter()
        .filter(|input| input.element == ElementType::Bytes);
    let bytes = strings.map(|input| match &input.data {
        InputData::Here(TensorData::Raw(raw)) => handles(&input.shape, raw.len()),
        InputData::Shared(slice) => slice.length + handles(&input.shape, slice.length),
        InputData::Here(TensorData::Strings(_)) => 0,
    });
    bytes.sum()
}

/// The elements of a shape, but at most `most`, which what was sent can hold.
pub(crate) fn element_bound(shape: &[u64], most: usize) -> usize {
    let product = shape
        .iter()
        .fold(1u64, |product, &dim| product.saturating_mul(dim));
    usize::try_from(product).map_or(most, |product| product.min(most))
}

/// An output's bytes as both protocols carry them: raw elements as they are (shared, not
/// copied), strings each after their length as 4 little-endian bytes.
///
/// # Errors
/// A string longer than its length field can say.
pub(crate) fn output_bytes(
    info: &ModelInfo,
    output: &TensorSpec,
    data: TensorData,
) -> Result<Bytes, InferError> {
    let strings = match data {
        TensorData::Raw(raw) => return Ok(raw),
        TensorData::Strings(strings) => strings,
    };
    let total: usize = strings.iter().map(|string| 4 + string.len()).sum();
    let mut raw = Vec::with_capacity(total);
    for (index, string) in strings.iter().enumerate() {
        let length = u32::try_from(string.len()).map_err(|_| Fault::OutputElement {
            model: info.name.clone(),
            output: output.name.clone(),
            index,
            found: format!("a string of {} bytes", string.len()),
            expected: "at most 4294967295 bytes",
        })?;
        raw.extend_from_slice(&length.to_le_bytes());
        raw.extend_from_slice(string);
    }
    Ok(raw.into())
}
