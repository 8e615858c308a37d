//! What a configuration asks, in Fugato's words.

use crate::config::RawModel;
use crate::repository::VersionPolicy;
use fugato_core::Nanos;
use fugato_device::{ElementType, TensorSpec};
use std::collections::BTreeMap;

/// What a model's configuration asks of the server.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The model's name.
    pub model: String,
    /// What it says about batches.
    pub batch: BatchLimit,
    /// The inputs it declares; empty leaves them to the model file.
    pub inputs: Vec<DeclaredTensor>,
    /// The outputs it declares; empty leaves them to the model file.
    pub outputs: Vec<DeclaredTensor>,
    /// How requests are queued and put together; `None` where it does not say.
    pub dynamic_batching: Option<DynamicBatching>,
    /// Executions that may run at once, of all instance groups; `None` where it does not
    /// say.
    pub instances: Option<u16>,
    /// Which versions are served.
    pub versions: VersionPolicy,
    /// Runs before the model takes requests, in order.
    pub warm_ups: Vec<WarmUp>,
    /// The model file's name within a version's folder.
    pub model_file: String,
    /// The settings of `[model.NAME]` that the configuration gives, through its own fields
    /// (batch size, instances, preferred sizes, queue delay, queue length) and through
    /// `parameters` whose keys start with `fugato.`.
    pub settings: RawModel,
    /// What it asks that Fugato does not do, and that changes no answer.
    pub notices: Vec<Notice>,
    /// What it asks besides that is not so where the model runs on the CPU.
    pub cpu_notices: Vec<Notice>,
}

impl Wanted {
    /// A model file's inputs as requests must fit them: where the file leaves a dimension
    /// open and the configuration gives its size, the configuration counts.
    ///
    /// Call it for specs that passed [`super::check()`]; others come back as they are.
    pub fn narrowed_inputs(&self, inputs: &[TensorSpec]) -> Vec<TensorSpec> {
        let mut narrowed = inputs.to_vec();
        for spec in &mut narrowed {
            let declared = self.inputs.iter().find(|input| input.name == spec.name);
            let Some(declared) = declared else { continue };
            let skip = usize::from(self.batch.has_batch_dimension());
            if spec.shape.len() != declared.dims.len() + skip {
                continue;
            }
            for (size, dim) in spec.shape.iter_mut().skip(skip).zip(&declared.dims) {
                *size = size.or(*dim);
            }
        }
        narrowed
    }
}

/// What a configuration says about the batch dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchLimit {
    /// Nothing: neither a size nor the tensors. The model file and Fugato's own settings
    /// decide, as Triton's completion does.
    Open,
    /// `max_batch_size` 0 beside declared inputs and outputs: the first dimension is no
    /// batch, and requests are run one by one.
    NoBatchDimension,
    /// The first dimension is the batch, of at most this many items, and is left out of
    /// declared dims.
    AtMost(u32),
}

impl BatchLimit {
    /// Whether declared dims leave a batch dimension out.
    pub const fn has_batch_dimension(self) -> bool {
        matches!(self, Self::AtMost(_))
    }
}

/// An input or output that a configuration declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredTensor {
    /// Its name.
    pub name: String,
    /// Its element type; `None` leaves it to the model file.
    pub element: Option<ElementType>,
    /// Its dimensions without the batch dimension; `None` is one that varies.
    pub dims: Vec<Option<u64>>,
    /// The file of class names, one a line, relative to the model's folder; only outputs
    /// have one.
    pub label_file: Option<String>,
}

/// How requests are queued and put together into batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DynamicBatching {
    /// Batch sizes to wait for, rising, without repeats.
    pub preferred_sizes: Vec<u32>,
    /// The longest wait for a preferred size.
    pub queue_delay_max: Nanos,
    /// Priority levels: requests have 1 (the highest) to this; 0 where they have none.
    pub priority_levels: u64,
    /// The level of requests that name none; 0 where there are no levels.
    pub default_priority_level: u64,
    /// The policy of each level that has none of its own.
    pub default_policy: QueuePolicy,
    /// Policies by level.
    pub policies: BTreeMap<u64, QueuePolicy>,
}

impl DynamicBatching {
    /// The policy of a level.
    pub fn policy(&self, level: u64) -> QueuePolicy {
        self.policies
            .get(&level)
            .copied()
            .unwrap_or(self.default_policy)
    }
}

/// How long requests of one priority level may wait, and how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuePolicy {
    /// What happens to a request that waited too long.
    pub timeout_action: TimeoutAction,
    /// The longest wait; `None` has no limit.
    pub default_timeout: Option<Nanos>,
    /// Whether a request's own `timeout` counts where it is shorter.
    pub allow_timeout_override: bool,
    /// Most requests waiting; `None` leaves only the model's own limit.
    pub queue_size_max: Option<u32>,
}

/// What happens to a request that waited too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It is served once no request in time waits.
    Delay,
}

/// A request that the model is run with before it takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUp {
    /// What its author calls it.
    pub name: String,
    /// Items of the batch, at least 1; 1 for a model without a batch dimension.
    pub batch_size: u32,
    /// How often it is run, at least once.
    pub count: u32,
    /// Its inputs, by name.
    pub inputs: Vec<WarmUpInput>,
}

/// One input of a [`WarmUp`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmUpInput {
    /// The input's name.
    pub name: String,
    /// Its element type.
    pub element: ElementType,
    /// Its dimensions without the batch dimension.
    pub dims: Vec<u64>,
    /// Its elements.
    pub data: WarmUpData,
}

/// Where the elements of a [`WarmUpInput`] come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarmUpData {
    /// Zeros, or empty strings.
    Zero,
    /// Random ones.
    Random,
    /// A file of raw elements, relative to the folder `warmup` in the model's folder, for
    /// the whole batch.
    File(String),
}

/// Something that a configuration asks and Fugato does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The field, from the configuration's top: `instance_group[0].rate_limiter`.
    pub path: String,
    /// What happens in its place, and why.
    pub reason: String,
}
