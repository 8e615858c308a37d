//! What becomes of a reply's outputs before a protocol writes it: those that go to shared
//! memory are written there, and the reply says only where they are.

use crate::api::{InferReply, InferRequest, ModelInfo, output_bytes};
use crate::error::{Fault, InferError};
use crate::shm::RegionTarget;
use bytes::Bytes;
use fugato_device::{ElementType, TensorData};
use std::sync::Arc;

/// Bytes up to which outputs are written where they are: handing them over costs more than
/// it saves. A copy of this size takes a fraction of a millisecond.
const INLINE_BYTES: usize = 1 << 20;

/// A reply as both protocols write it.
pub(super) struct Reply {
    /// The model version that ran.
    pub(super) model: Arc<ModelInfo>,
    /// The request's own id.
    pub(super) id: String,
    /// In the order asked for.
    pub(super) outputs: Vec<Output>,
    /// Items of the task the request ran in.
    pub(super) batch: u32,
}

/// One output of a [`Reply`].
pub(super) struct Output {
    /// Index into [`ModelInfo::outputs`].
    pub(super) index: usize,
    /// The type of its elements.
    pub(super) element: ElementType,
    /// Its shape, batch dimension included.
    pub(super) shape: Vec<u64>,
    /// Where its elements are.
    pub(super) data: OutputData,
}

/// Where the elements of an output are.
pub(super) enum OutputData {
    /// Here, to be sent.
    Here(TensorData),
    /// In the client's memory already.
    Region(Written),
}

/// An output in the client's memory.
pub(super) struct Written {
    /// The range it begins in.
    pub(super) target: RegionTarget,
    /// Bytes that were written.
    pub(super) byte_size: u64,
}

impl OutputData {
    /// Bytes to be sent of it.
    pub(super) fn byte_size(&self) -> usize {
        match self {
            Self::Here(data) => data.byte_size(),
            Self::Region(_) => 0,
        }
    }
}

/// Where the outputs of a request go, in the order asked for; none where all are sent.
pub(super) struct Destinations(Vec<Option<RegionTarget>>);

impl Destinations {
    /// Takes the destinations out of a request.
    ///
    /// # Errors
    /// `InvalidRegion` where two outputs would overwrite each other.
    pub(super) fn take(request: &mut InferRequest) -> Result<Self, InferError> {
        let outputs = &mut request.outputs;
        if outputs.iter().all(|output| output.region.is_none()) {
            return Ok(Self(Vec::new()));
        }
        for (position, output) in outputs.iter().enumerate() {
            let Some(region) = &output.region else {
                continue;
            };
            let overlaps = |other: &&crate::api::RequestedOutput| {
                let other = other.region.as_ref();
                other.is_some_and(|other| region.overlaps(other))
            };
            if let Some(other) = outputs[..position].iter().find(overlaps) {
                return Err(Fault::InvalidRegion {
                    region: region.region().to_string(),
                    found: format!(
                        "would get output `{}` over output `{}`",
                        output.name, other.name
                    ),
                    expected: "a range of its own for each output".to_owned(),
                }
                .into());
            }
        }
        let regions = outputs.iter_mut().map(|output| output.region.take());
        Ok(Self(regions.collect()))
    }

    /// Writes the outputs that go to shared memory.
    ///
    /// # Errors
    /// `InvalidRegion` where a range is too small for its output or cannot be written,
    /// `RegionShort` where the client's file is shorter than it was.
    pub(super) async fn deliver(self, reply: InferReply) -> Result<Reply, InferError> {
        if self.0.is_empty() {
            return Reply::new(reply, |_, data| Ok(OutputData::Here(data)));
        }
        let model = Arc::clone(&reply.model);
        let mut targets = self.0.into_iter();
        let mut writes = Vec::new();
        let delivered = Reply::new(reply, |index, data| {
            let Some(target) = targets.next().flatten() else {
                return Ok(OutputData::Here(data));
            };
            let spec = &model.outputs[index];
            let bytes = output_bytes(&model, spec, data)?;
            let byte_size = bytes.len() as u64;
            if byte_size > target.byte_size() {
                return Err(too_small(&target, &spec.name, byte_size));
            }
            writes.push((target.clone(), bytes));
            Ok(OutputData::Region(Written { target, byte_size }))
        })?;
        write(writes).await?;
        Ok(delivered)
    }
}

impl Reply {
    /// The same reply, whose outputs go where `place` says for each of them and its index.
    fn new(
        reply: InferReply,
        mut place: impl FnMut(usize, TensorData) -> Result<OutputData, InferError>,
    ) -> Result<Self, InferError> {
        let InferReply {
            model,
            id,
            outputs,
            batch,
        } = reply;
        let outputs = outputs.into_iter().map(|output| {
            Ok(Output {
                index: output.index,
                element: output.element,
                shape: output.shape,
                data: place(output.index, output.data)?,
            })
        });
        Ok(Self {
            outputs: outputs.collect::<Result<_, InferError>>()?,
            model,
            id,
            batch,
        })
    }
}

/// Writes every output to its range, on a thread of their own where they are large.
async fn write(writes: Vec<(RegionTarget, Bytes)>) -> Result<(), InferError> {
    let total: usize = writes.iter().map(|(_, bytes)| bytes.len()).sum();
    let all = move || {
        let mut writes = writes.iter();
        writes.try_for_each(|(target, bytes)| target.write(bytes))
    };
    if total <= INLINE_BYTES {
        return all();
    }
    let written = tokio::task::spawn_blocking(all).await;
    written.map_err(|error| InferError::internal("shared memory", error.to_string()))?
}

fn too_small(target: &RegionTarget, output: &str, byte_size: u64) -> InferError {
    Fault::InvalidRegion {
        region: target.region().to_string(),
        found: format!("has {} bytes for output `{output}`", target.byte_size()),
        expected: format!("at least the {byte_size} that it takes"),
    }
    .into()
}
