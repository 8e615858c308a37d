//! Workloads: which models are asked how often, and the requests that follow from it.
//!
//! A workload file is TOML; the shell reads it into a [`WorkloadFile`] and resolves that,
//! with the rows of any traces, into a [`Workload`]. [`Arrivals`] then gives the requests
//! in order of time. The load generator and the simulator read the same files and send
//! the same requests for the same seed.
//!
//! **Invariant:** a [`Workload`] is valid; nothing here touches files, clocks or outside
//! randomness.

mod arrivals;
mod duration;
mod file;
mod process;
mod trace;

pub use arrivals::{Arrival, Arrivals};
pub use duration::{DurationError, parse_duration};
pub use file::{ArrivalsTable, MmppStateTable, ModelTable, WorkloadFile};
pub use process::{ArrivalProcess, MAX_RATE, MIN_PERIOD, MmppState, ProcessError, Trace};
pub use trace::{MAX_TRACE_COUNT, TraceError, TraceRow, parse_trace};

use crate::{BatchSize, Nanos};
use std::collections::{BTreeMap, BTreeSet};

/// A valid workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    duration: Nanos,
    warmup: Nanos,
    seed: Option<u64>,
    models: Vec<ModelLoad>,
}

/// The load on one model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelLoad {
    /// The model's name on the server.
    pub name: String,
    /// The objective: a reply later than this after the scheduled send time is a miss.
    pub slo: Nanos,
    /// The value of a reply within the objective against other models' (default 1).
    pub weight: f64,
    /// The largest batch the scheduler may form, where the workload sets one.
    pub max_batch_size: Option<BatchSize>,
    /// Items of each request (default 1).
    pub batch: BatchSize,
    /// By input name, the shape of one item (the batch dimension left out), for inputs
    /// whose dimensions vary.
    pub shapes: BTreeMap<String, Vec<u64>>,
    /// By input name, the exclusive upper bound of random integers.
    pub integers: BTreeMap<String, u32>,
    /// When requests arrive.
    pub arrivals: ArrivalProcess,
}

/// Why a workload is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// No `[[model]]`.
    #[error("the workload has no model; hint: add a `[[model]]` table")]
    NoModel,
    /// A zero duration.
    #[error("the workload's duration is 0; hint: set `duration = \"60s\"`")]
    NoDuration,
    /// Two tables of one name.
    #[error("model `{model}` is listed twice")]
    Duplicate {
        /// The name.
        model: String,
    },
    /// An empty name.
    #[error("a model's name is empty")]
    Unnamed,
    /// A zero objective.
    #[error("slo of model `{model}` is 0, expected above 0")]
    NoSlo {
        /// The model.
        model: String,
    },
    /// A weight that is NaN, infinite, zero or negative.
    #[error("weight of model `{model}` is {found}, expected finite and above 0")]
    Weight {
        /// The model.
        model: String,
        /// Its weight.
        found: f64,
    },
    /// A batch or bound that must be at least 1 is 0.
    #[error("{parameter} of model `{model}` is 0, expected at least 1")]
    Zero {
        /// The model.
        model: String,
        /// Which number.
        parameter: &'static str,
    },
    /// A model's arrivals are not valid.
    #[error("arrivals of model `{model}` are not valid")]
    Arrivals {
        /// The model.
        model: String,
        /// What is wrong.
        source: ProcessError,
    },
    /// The rows of a trace were not handed in.
    #[error("the trace `{file}` of model `{model}` was not read")]
    MissingTrace {
        /// The model.
        model: String,
        /// The file, as the workload names it.
        file: String,
    },
}

impl Workload {
    /// A workload of these models, that runs for `warmup` and then `duration`.
    ///
    /// # Errors
    /// [`WorkloadError`], with the model and parameter at fault.
    pub fn new(
        duration: Nanos,
        warmup: Nanos,
        seed: Option<u64>,
        models: Vec<ModelLoad>,
    ) -> Result<Self, WorkloadError> {
        if duration == Nanos::ZERO {
            return Err(WorkloadError::NoDuration);
        }
        if models.is_empty() {
            return Err(WorkloadError::NoModel);
        }
        let mut names = BTreeSet::new();
        for model in &models {
            model.check()?;
            if !names.insert(&model.name) {
                return Err(WorkloadError::Duplicate {
                    model: model.name.clone(),
                });
            }
        }
        Ok(Self {
            duration,
            warmup,
            seed,
            models,
        })
    }

    /// The measured time, after the warm-up.
    pub fn duration(&self) -> Nanos {
        self.duration
    }

    /// The time before the measurement, with the same load.
    pub fn warmup(&self) -> Nanos {
        self.warmup
    }

    /// Warm-up and duration together.
    pub fn end(&self) -> Nanos {
        self.warmup + self.duration
    }

    /// The seed the file gives, where it gives one.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The models, in the order of the file.
    pub fn models(&self) -> &[ModelLoad] {
        &self.models
    }

    /// Whether a model's queue is to be full at all times, so that only a simulator can
    /// send it.
    pub fn is_saturated(&self) -> bool {
        let full = |model: &ModelLoad| model.arrivals == ArrivalProcess::Saturated;
        self.models.iter().any(full)
    }

    /// The workload for another time: `duration` and `warmup` replace its own.
    ///
    /// # Errors
    /// [`WorkloadError::NoDuration`] for a zero duration.
    pub fn lasting(self, duration: Nanos, warmup: Nanos) -> Result<Self, WorkloadError> {
        Self::new(duration, warmup, self.seed, self.models)
    }

    /// The workload at `factor` times its rates.
    ///
    /// # Errors
    /// [`WorkloadError::Arrivals`] where the factor is not finite and above 0, or a rate
    /// leaves its range.
    pub fn scaled(&self, factor: f64) -> Result<Self, WorkloadError> {
        let mut scaled = self.clone();
        for model in &mut scaled.models {
            model.arrivals = model
                .arrivals
                .scaled(factor)
                .map_err(|source| model.invalid(source))?;
        }
        Ok(scaled)
    }

    /// The workload with batches of at most `most` items, and fewer where a model asks for that.
    ///
    /// # Errors
    /// [`WorkloadError::Zero`] for 0 items.
    pub fn in_batches_of(self, most: BatchSize) -> Result<Self, WorkloadError> {
        let models = self.models.into_iter().map(|model| {
            let asked = model.max_batch_size.map_or(most, |asked| asked.min(most));
            ModelLoad {
                max_batch_size: Some(asked),
                ..model
            }
        });
        Self::new(self.duration, self.warmup, self.seed, models.collect())
    }

    /// The requests, drawn from `seed`.
    pub fn arrivals(&self, seed: u64) -> Arrivals {
        Arrivals::new(self, seed)
    }
}

impl ModelLoad {
    /// The load `arrivals` on the model `name`: weight 1, one item per request.
    pub fn new(name: impl Into<String>, slo: Nanos, arrivals: ArrivalProcess) -> Self {
        Self {
            name: name.into(),
            slo,
            weight: 1.0,
            max_batch_size: None,
            batch: BatchSize(1),
            shapes: BTreeMap::new(),
            integers: BTreeMap::new(),
            arrivals,
        }
    }

    fn check(&self) -> Result<(), WorkloadError> {
        let model = self.name.clone();
        if model.is_empty() {
            return Err(WorkloadError::Unnamed);
        }
        if self.slo == Nanos::ZERO {
            return Err(WorkloadError::NoSlo { model });
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return Err(WorkloadError::Weight {
                model,
                found: self.weight,
            });
        }
        let sizes = self.shapes.values().flatten();
        let parameter = if self.batch == BatchSize(0) {
            "batch"
        } else if self.max_batch_size == Some(BatchSize(0)) {
            "max_batch_size"
        } else if self.integers.values().any(|bound| *bound == 0) {
            "integers"
        } else if sizes.into_iter().any(|size| *size == 0) {
            "shape"
        } else {
            let checked = self.arrivals.clone().checked();
            return checked.map(drop).map_err(|source| self.invalid(source));
        };
        Err(WorkloadError::Zero { model, parameter })
    }

    fn invalid(&self, source: ProcessError) -> WorkloadError {
        WorkloadError::Arrivals {
            model: self.name.clone(),
            source,
        }
    }
}
