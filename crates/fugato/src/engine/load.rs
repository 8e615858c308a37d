//! Loading of models: from the repository through the store onto the device, and into
//! the scheduler.

use super::{Engine, ServedModel};
use crate::api::{InferRequest, ModelInfo, NamedInput};
use crate::config::Config;
use crate::repository::{ModelEntry, VersionEntry};
use crate::telemetry::ModelMetrics;
use bytes::Bytes;
use fugato_core::sched::{DynamicBatching, Input, ModelSpec, QueueLimits};
use fugato_core::{BatchSize, DeviceId, ModelId};
use fugato_device::{Batching, LoadError, LoadOptions, ModelStore, StoredModel, TensorData};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The only device there is.
pub(super) const DEVICE: DeviceId = DeviceId(0);

/// Runs of a new model before it takes requests: the first one sizes the runtime's
/// arenas and lays weights out, and the second teaches the scheduler its latency.
const WARM_UP_RUNS: u32 = 3;

/// Models that are loaded at once: one reads and hashes while the other optimises.
const LOADS_AT_ONCE: usize = 2;

/// Metrics by model, for the driver's thread.
pub(super) type MetricsById = Arc<RwLock<HashMap<ModelId, ModelMetrics>>>;

/// What became of the models of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadCounts {
    /// Models that take requests.
    pub loaded: usize,
    /// Models that cannot be served.
    pub refused: usize,
}

/// Loads models.
#[derive(Clone)]
pub struct ModelLoader {
    engine: Arc<Engine>,
    config: Arc<Config>,
    store: ModelStore,
    next: Arc<AtomicU32>,
    metrics: MetricsById,
}

impl ModelLoader {
    pub(super) fn new(
        engine: Arc<Engine>,
        config: Arc<Config>,
        store: ModelStore,
        metrics: MetricsById,
    ) -> Self {
        Self {
            engine,
            config,
            store,
            next: Arc::new(AtomicU32::new(0)),
            metrics,
        }
    }

    /// Loads what the repository has; a model that cannot be loaded is noted as such and
    /// stops nothing. Returns when all are loaded or refused: how many of each.
    pub async fn load_all(&self, models: Vec<ModelEntry>) -> LoadCounts {
        let at_once = Arc::new(Semaphore::new(LOADS_AT_ONCE));
        let mut loads = JoinSet::new();
        let mut counts = LoadCounts::default();
        for model in models {
            let version = match &model.versions {
                Ok(versions) => versions.last().cloned(),
                Err(fault) => {
                    self.engine.refuse(&model.name, "", &fault.to_string());
                    counts.refused += 1;
                    continue;
                }
            };
            let Some(version) = version else { continue };
            self.engine
                .announce(&model.name, &version.version.to_string());
            let (loader, at_once) = (self.clone(), Arc::clone(&at_once));
            loads.spawn(async move {
                let _permit = at_once.acquire_owned().await;
                loader.load(&model.name, &version).await
            });
        }
        while let Some(loaded) = loads.join_next().await {
            match loaded {
                Ok(true) => counts.loaded += 1,
                Ok(false) => counts.refused += 1,
                Err(error) => {
                    tracing::error!(%error, "loading a model panicked");
                    counts.refused += 1;
                }
            }
        }
        self.engine.finish_loading();
        counts
    }

    /// Loads a model or refuses it; says whether it was loaded.
    async fn load(&self, name: &str, version: &VersionEntry) -> bool {
        let number = version.version.to_string();
        let (loader, owned, path) = (self.clone(), name.to_owned(), version.path.clone());
        let version = number.clone();
        let loaded = tokio::task::spawn_blocking(move || -> Result<_, LoadError> {
            let stored = loader.store.prepare(&path)?;
            let served = loader.put_on_device(&owned, &version, &stored)?;
            Ok((stored, served))
        })
        .await;
        let (stored, served) = match loaded {
            Ok(Ok(loaded)) => loaded,
            Ok(Err(error)) => {
                self.engine.refuse(name, &number, &error.report());
                return false;
            }
            Err(panic) => {
                let reason = format!("loading it panicked: {panic}");
                self.engine.refuse(name, &number, &reason);
                return false;
            }
        };
        let max_batch_size = served.info.max_batch_size;
        self.warm_up(&served).await;
        self.engine.publish(served);
        stored.give_pages_back();
        tracing::info!(
            model = name,
            version = number,
            max_batch_size,
            weight_bytes = stored.info().weight_bytes,
            from_store = stored.was_cached(),
            "model loaded"
        );
        true
    }

    /// Whether the owner vouches that every first dimension of the model is the batch:
    /// by setting the batch size of this very model, or by `assume_batchable`, which leaves
    /// models alone that cannot have one.
    fn vouched(&self, name: &str, info: &fugato_device::ModelInfo) -> bool {
        let config = self.config.model(name);
        let own = format!("model.{name}.max_batch_size");
        let is_own = self.config.origins.iter().any(|(path, _)| path == own);
        let mut specs = info.inputs.iter().chain(&info.outputs);
        let may_batch =
            !info.inputs.is_empty() && specs.all(|spec| spec.shape.first() == Some(&None));
        config.max_batch_size > 1 && (is_own || (config.assume_batchable && may_batch))
    }

    /// Makes the model's sessions and tells the scheduler.
    fn put_on_device(
        &self,
        name: &str,
        version: &str,
        stored: &StoredModel,
    ) -> Result<Arc<ServedModel>, LoadError> {
        let config = self.config.model(name);
        let vouched = self.vouched(name, stored.info());
        let batchable = match &stored.info().batching {
            Batching::Batchable => true,
            Batching::Single { reason } if vouched => {
                tracing::warn!(
                    model = name,
                    reason,
                    "requests share runs of the model, since its owner vouches that they can"
                );
                true
            }
            Batching::Single { reason } => {
                tracing::info!(
                    model = name,
                    reason,
                    "the model is run one request at a time"
                );
                false
            }
        };
        let max_batch = if batchable { config.max_batch_size } else { 1 };
        let options = LoadOptions {
            max_batch,
            slots: config.slots.max(config.instances),
            assume_batchable: vouched,
            ..LoadOptions::default()
        };
        let id = ModelId(self.next.fetch_add(1, Ordering::Relaxed));
        self.engine.device.load(id, stored, &options)?;
        let info = Arc::new(ModelInfo {
            name: name.to_owned(),
            version: version.to_owned(),
            inputs: stored.info().inputs.clone(),
            outputs: stored.info().outputs.clone(),
            max_batch_size: if batchable { max_batch } else { 0 },
            versions: vec![version.to_owned()],
            labels: Vec::new(),
        });
        let metrics = self.engine.telemetry.model(name, version);
        self.metrics
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, metrics.clone());
        self.engine.mailbox.control(Input::ModelAdded(ModelSpec {
            id,
            name: format!("{name}/{version}"),
            slo: config.slo.map(|slo| slo.nanos()),
            weight: config.weight,
            max_batch: BatchSize(max_batch),
            slots: options.slots,
            legs: 1,
            devices: vec![DEVICE],
            limits: QueueLimits {
                requests: u64::from(config.queue_count_max),
                bytes: config.queue_bytes_max.0,
            },
            batching: DynamicBatching {
                instances: config.instances,
                preferred: config
                    .preferred_batch_sizes
                    .iter()
                    .copied()
                    .map(BatchSize)
                    .collect(),
                max_queue_delay: config.max_queue_delay.nanos(),
            },
        }));
        Ok(Arc::new(ServedModel::new(id, info, metrics)))
    }

    /// Runs the model on zeros a few times, where its input shapes are known.
    async fn warm_up(&self, served: &ServedModel) {
        let info = &served.info;
        let Some(inputs) = zeros(info) else { return };
        for _ in 0..WARM_UP_RUNS {
            let request = InferRequest {
                model: info.name.clone(),
                version: None,
                id: String::new(),
                inputs: inputs.clone(),
                outputs: Vec::new(),
                arrived: self.engine.clock.now(),
                deadline: None,
                queue_timeout: None,
                priority: 0,
                trace: None,
            };
            if let Err(error) = self.engine.run(served, request).await {
                // Zeros may be no valid input (an index, a length): its users' are.
                tracing::debug!(model = info.name, %error, "the warm-up run failed");
                return;
            }
        }
    }
}

/// One row of zeros (or empty strings) for every input; `None` where a dimension past
/// the batch varies, so that no size is typical.
fn zeros(info: &ModelInfo) -> Option<Vec<NamedInput>> {
    let zero = |input: &fugato_device::TensorSpec| {
        let batch = usize::from(info.max_batch_size > 0);
        let rows = std::iter::repeat_n(Some(1), batch);
        let shape: Vec<u64> = rows
            .chain(input.shape.iter().skip(batch).copied())
            .collect::<Option<_>>()?;
        let count = usize::try_from(shape.iter().product::<u64>()).ok()?;
        let data = match input.element.size() {
            Some(size) => TensorData::Raw(Bytes::from(vec![0; count * size])),
            None => TensorData::Strings(vec![Bytes::new(); count]),
        };
        Some(NamedInput {
            name: input.name.clone(),
            element: input.element,
            shape,
            data,
        })
    };
    info.inputs.iter().map(zero).collect()
}
