//! The engine: loaded models behind one interface for both protocols.
//!
//! It checks requests against their model, hands them to the driver, and turns what comes
//! back into replies and errors. Start reading at [`Engine`]; [`serve()`] puts a whole
//! server together.

mod journal;
mod load;
mod reply;
mod serve;

pub use load::{LoadCounts, ModelLoader};
pub use serve::{ServeError, serve};

use crate::api::{
    Explanation, InferReply, InferRequest, InferenceService, LoadRequest, LogSettings, ModelInfo,
    ModelState, ModelStatistics, ModelStatus, ShapeSignature, TraceSettings, ValidRequest,
    validate,
};
use crate::driver::{Answer, Mailbox, NotTaken, Payload};
use crate::error::{ErrorKind, InferError, QueueLimit};
use crate::server::metadata::model_config;
use crate::server::proto::ModelConfig;
use crate::telemetry::{self, ModelGauges, ModelMetrics, RequestTimes, Telemetry, Traces};
use fugato_core::sched::{self, Arrival, Input};
use fugato_core::{BatchSize, ModelId, RequestId, ShapeClass};
use fugato_device::{CpuDevice, MonotonicClock};
use journal::{Found, Journal, Record};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Shapes of one model that are told apart at a time. Past it the numbering starts afresh
/// with new numbers: requests of one shape may then miss a batch together, and never
/// share one wrongly.
const SHAPES_MAX: usize = 4_096;

/// The models of one server, and the way to its driver.
pub struct Engine {
    clock: MonotonicClock,
    mailbox: Arc<Mailbox>,
    telemetry: Arc<Telemetry>,
    device: Arc<CpuDevice>,
    models: RwLock<BTreeMap<String, Entry>>,
    loaded: AtomicBool,
    draining: AtomicBool,
    journal: Journal,
    traces: Traces,
    /// Cancelled when the driver has ended.
    ended: CancellationToken,
}

/// One model of the repository.
struct Entry {
    version: String,
    state: ModelState,
    reason: String,
    served: Option<Arc<ServedModel>>,
}

/// A model that takes requests.
struct ServedModel {
    id: ModelId,
    info: Arc<ModelInfo>,
    metrics: ModelMetrics,
    shapes: ShapeClasses,
}

/// Numbers the shapes that a model's requests come in.
struct ShapeClasses {
    /// Whether only the batch dimension varies, so that all requests are of one class.
    fixed: bool,
    known: Mutex<(HashMap<ShapeSignature, ShapeClass>, u32)>,
}

impl ServedModel {
    fn new(id: ModelId, info: Arc<ModelInfo>, metrics: ModelMetrics) -> Self {
        let shapes = ShapeClasses::new(&info);
        Self {
            id,
            info,
            metrics,
            shapes,
        }
    }
}

impl ShapeClasses {
    fn new(info: &ModelInfo) -> Self {
        let batch = usize::from(info.max_batch_size > 0);
        let fixed = info
            .inputs
            .iter()
            .all(|input| input.shape.iter().skip(batch).all(Option::is_some));
        Self {
            fixed,
            known: Mutex::default(),
        }
    }

    fn class(&self, shape: &ShapeSignature) -> ShapeClass {
        if self.fixed {
            return ShapeClass(0);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (classes, next) = &mut *known;
        if let Some(&class) = classes.get(shape) {
            return class;
        }
        if classes.len() >= SHAPES_MAX {
            classes.clear();
        }
        let class = ShapeClass(*next);
        *next = next.wrapping_add(1);
        classes.insert(shape.clone(), class);
        class
    }
}

/// Takes a request back unless it was answered: the client went away.
struct CancelOnDrop<'a> {
    mailbox: &'a Mailbox,
    journal: &'a Journal,
    request: Option<RequestId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.mailbox.control(Input::Cancelled { request });
            self.journal.dropped(request);
        }
    }
}

impl Engine {
    /// An engine without models, whose driver cancels `ended` when it ends. It can explain
    /// the last `explanations` requests that had an id, and tells `traces` of those it wants.
    pub fn new(
        clock: MonotonicClock,
        mailbox: Arc<Mailbox>,
        telemetry: Arc<Telemetry>,
        device: Arc<CpuDevice>,
        ended: CancellationToken,
        explanations: usize,
        traces: Traces,
    ) -> Self {
        Self {
            clock,
            mailbox,
            telemetry,
            device,
            models: RwLock::default(),
            loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            journal: Journal::new(explanations),
            traces,
            ended,
        }
    }

    /// Notes a model that is being loaded.
    fn announce(&self, name: &str, version: &str) {
        self.set(
            name,
            Entry::without(version, ModelState::Loading, "it is being loaded"),
        );
    }

    /// Notes that a model cannot be served.
    fn refuse(&self, name: &str, version: &str, reason: &str) {
        tracing::error!(model = name, version, reason, "the model is not served");
        self.set(
            name,
            Entry::without(version, ModelState::Unavailable, reason),
        );
    }

    /// Opens a model to requests.
    fn publish(&self, served: Arc<ServedModel>) {
        let (name, version) = (served.info.name.clone(), served.info.version.clone());
        let entry = Entry {
            version,
            state: ModelState::Ready,
            reason: String::new(),
            served: Some(served),
        };
        self.set(&name, entry);
    }

    fn set(&self, name: &str, entry: Entry) {
        self.models
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.to_owned(), entry);
    }

    /// Ends the first loading: the server is ready from here on.
    fn finish_loading(&self) {
        self.loaded.store(true, Ordering::Release);
    }

    /// Takes no new requests from here on; what was accepted runs to its end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.mailbox.control(Input::Drain);
    }

    fn served(&self, name: &str, version: Option<&str>) -> Result<Arc<ServedModel>, InferError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let entry = models
            .get(name)
            .ok_or_else(|| InferError::unknown_model(name))?;
        if let Some(version) = version.filter(|version| *version != entry.version) {
            return Err(InferError::unknown_version(
                name,
                version,
                vec![entry.version.clone()],
            ));
        }
        entry
            .served
            .clone()
            .ok_or_else(|| InferError::model_not_ready(name, entry.reason.clone()))
    }

    async fn run(
        &self,
        model: &ServedModel,
        request: InferRequest,
    ) -> Result<(InferReply, RequestTimes), InferError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(InferError::draining());
        }
        let (received, deadline, timeout) =
            (request.arrived, request.deadline, request.queue_timeout);
        let (id, priority, trace) = (request.id.clone(), request.priority, request.trace);
        let ValidRequest {
            inputs,
            items,
            bytes,
            shape,
            outputs,
        } = validate(&model.info, request)?;
        let class = model.shapes.class(&shape);
        let traced = self.traces.wants(&model.info.name, trace.as_ref());
        let remembered = self.journal.wants(&id);
        let followed = (traced || remembered).then(|| journal::Open {
            name: journal::Name {
                model: model.info.name.clone(),
                version: model.info.version.clone(),
                id: id.clone(),
            },
            arrived: received,
            deadline,
        });
        let (reply, answered) = oneshot::channel();
        let arrived = self.mailbox.arrive(
            Payload {
                items,
                inputs,
                reply,
            },
            |request| Arrival {
                request,
                model: model.id,
                items: BatchSize(items),
                bytes,
                class,
                received,
                deadline,
                queue_timeout: timeout.map(|timeout| received + timeout),
                // Triton's levels are far below 32 bits; what is above is as low as can be.
                priority: u32::try_from(priority).unwrap_or(u32::MAX),
            },
        );
        let request = arrived.map_err(|not_taken| match not_taken {
            NotTaken::Closed => InferError::shutting_down(),
            NotTaken::Full { limit } => {
                let limit = limit as u64;
                InferError::queue_full(&model.info.name, QueueLimit::Requests, limit, 1, limit)
            }
        })?;
        let mut guard = CancelOnDrop {
            mailbox: &self.mailbox,
            journal: &self.journal,
            request: Some(request),
        };
        if let Some(open) = &followed
            && remembered
        {
            self.journal.began(request, open.clone());
        }
        let Ok(Answer { result, course }) = answered.await else {
            return Err(InferError::shutting_down());
        };
        guard.request = None;
        let now = self.clock.now();
        let record = followed.map(|open| Record::new(open, now, &result, course));
        let result = result
            .map_err(|failure| reply::error(&model.info.name, now, received, timeout, failure));
        if let Some(record) = record {
            let record = record.with_error(result.as_ref().err());
            if traced {
                self.traces.tell(&record.traced(trace));
            }
            if remembered {
                self.journal.ended(request, record);
            }
        }
        let served = result?;
        let times = reply::times(now, received, &served);
        let info = Arc::clone(&model.info);
        Ok((reply::reply(info, id, &outputs, served), times))
    }

    /// Whether there is a model of that name, where one is named.
    fn check_known(&self, model: Option<&str>) -> Result<(), InferError> {
        let Some(name) = model else { return Ok(()) };
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if models.contains_key(name) {
            return Ok(());
        }
        Err(InferError::unknown_model(name))
    }

    /// Sends the traces that have not been sent. Blocks for at most a few seconds.
    pub fn flush_traces(&self) {
        self.traces.flush();
    }

    /// Shows in the metrics what the scheduler says of each model now.
    async fn sample(&self) {
        let served: Vec<Arc<ServedModel>> = {
            let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
            models
                .values()
                .filter_map(|entry| entry.served.clone())
                .collect()
        };
        let ids: Vec<ModelId> = served.iter().map(|model| model.id).collect();
        let asked = self.mailbox.ask(move |scheduler| {
            ids.iter()
                .map(|&id| scheduler.model_status(id))
                .collect::<Vec<_>>()
        });
        // The driver has ended: the process is about to.
        let Ok(statuses) = asked.await else { return };
        for (model, status) in served.iter().zip(statuses) {
            let Some(status) = status else { continue };
            let gauges = ModelGauges {
                waiting: status.waiting,
                in_flight: status.in_flight,
                held_bytes: status.bytes,
                prediction_error: status.prediction_error,
            };
            self.telemetry.show(&model.metrics, &gauges);
        }
    }
}

impl Entry {
    fn without(version: &str, state: ModelState, reason: &str) -> Self {
        Self {
            version: version.to_owned(),
            state,
            reason: reason.to_owned(),
            served: None,
        }
    }
}

impl InferenceService for Engine {
    fn clock(&self) -> MonotonicClock {
        self.clock
    }

    fn live(&self) -> bool {
        !self.ended.is_cancelled()
    }

    fn ready(&self) -> bool {
        self.live() && self.loaded.load(Ordering::Acquire) && !self.draining.load(Ordering::Acquire)
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelInfo>, InferError> {
        Ok(Arc::clone(&self.served(name, version)?.info))
    }

    fn models(&self) -> Vec<ModelStatus> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, entry): (&String, &Entry)| ModelStatus {
            name: name.clone(),
            version: entry.version.clone(),
            state: entry.state,
            reason: entry.reason.clone(),
        };
        models.iter().map(status).collect()
    }

    async fn infer(&self, request: InferRequest) -> Result<InferReply, InferError> {
        let model = match self.served(&request.model, request.version.as_deref()) {
            Ok(model) => model,
            Err(error) => {
                // The name is the client's and may be anything: it is no label.
                self.telemetry.failed("", "", error.kind().facts().label);
                return Err(error);
            }
        };
        let arrived = request.arrived;
        match self.run(&model, request).await {
            Ok((reply, times)) => {
                model.metrics.replied(&times);
                Ok(reply)
            }
            Err(error) => {
                self.telemetry.failed(
                    &model.info.name,
                    &model.info.version,
                    error.kind().facts().label,
                );
                model
                    .metrics
                    .failed(error.kind(), self.clock.now() - arrived);
                Err(error)
            }
        }
    }

    fn refused(&self, kind: ErrorKind) {
        // Whose request it was may not have been read.
        self.telemetry.failed("", "", kind.facts().label);
    }

    fn config(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelConfig>, InferError> {
        let info = self.model(name, version)?;
        Ok(Arc::new(model_config(&info)))
    }

    fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, InferError> {
        if let Some(name) = name {
            return Ok(vec![self.served(name, version)?.metrics.statistics()]);
        }
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let served = models.values().filter_map(|entry| entry.served.as_ref());
        Ok(served.map(|model| model.metrics.statistics()).collect())
    }

    async fn load(&self, _request: LoadRequest) -> Result<(), InferError> {
        Err(InferError::unimplemented("loading models"))
    }

    async fn unload(&self, _name: &str) -> Result<(), InferError> {
        Err(InferError::unimplemented("unloading models"))
    }

    fn trace_settings(&self, model: Option<&str>) -> Result<TraceSettings, InferError> {
        self.check_known(model)?;
        Ok(self.traces.settings(model))
    }

    fn update_trace_settings(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<TraceSettings, InferError> {
        self.check_known(model)?;
        self.traces.update(model, update)?;
        Ok(self.traces.settings(model))
    }

    fn log_settings(&self) -> LogSettings {
        telemetry::log_settings()
    }

    fn update_log_settings(&self, update: LogSettings) -> Result<LogSettings, InferError> {
        telemetry::update_log_settings(update)
    }

    async fn explain(&self, name: &str, id: &str) -> Result<Explanation, InferError> {
        self.check_known(Some(name))?;
        match self.journal.find(name, id) {
            Some(Found::Ended(explanation)) => Ok(*explanation),
            Some(Found::Open(request, open)) => {
                let asked = self
                    .mailbox
                    .ask(move |scheduler| scheduler.explain(request));
                let state = match asked.await {
                    Ok(Some(sched::Explanation::InTask { .. })) => "in_task",
                    // Its answer is on the way here.
                    Ok(Some(sched::Explanation::Ended { .. })) => "ended",
                    Ok(Some(sched::Explanation::Waiting { .. })) | Ok(None) => "waiting",
                    Err(_) => return Err(InferError::shutting_down()),
                };
                Ok(open.explain(state))
            }
            None => Err(InferError::unknown_request(name, id, self.journal.limit())),
        }
    }

    async fn metrics(&self) -> String {
        self.sample().await;
        self.telemetry.encode(&self.device.metrics())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("models", &self.models())
            .finish_non_exhaustive()
    }
}
