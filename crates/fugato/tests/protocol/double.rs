//! The double: models that answer with their own inputs.

use fugato::api::{
    BatchStatistics, Counted, Explanation, InferReply, InferRequest, InferenceService, LoadRequest,
    LogSetting, LogSettings, ModelInfo, ModelSettings, ModelState, ModelStatistics, ModelStatus,
    ModelUpdate, Objective, ProfileReport, ProfileServing, ReplyOutput, SchedulerSettings,
    SchedulerUpdate, TimelineTrace, TraceContext, TraceSettings, validate,
};
use fugato::error::{ErrorKind, InferError};
use fugato::server::proto::{DataType, ModelConfig, ModelInput};
use fugato::server::{Addresses, Drained, Server, ServerOptions};
use fugato::shm::{SharedMemory, SharedMemoryOptions};
use fugato_core::profile::{DeviceKey, Profile, SCHEMA};
use fugato_core::sched::DeadlineMode;
use fugato_core::{Nanos, Timestamp};
use fugato_device::{ElementType, InputData, MonotonicClock, TensorData, TensorSpec};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// What the double saw of a request that it began.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From arrival to deadline.
    pub(crate) left: Option<Nanos>,
    /// As the request said.
    pub(crate) queue_timeout: Option<Nanos>,
    /// As the request said.
    pub(crate) priority: u64,
    /// As the request said.
    pub(crate) version: Option<String>,
    /// As the request said.
    pub(crate) trace: Option<TraceContext>,
}

/// How a request ended inside the double.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It got its reply.
    Replied,
    /// Its future was dropped.
    Dropped,
}

/// Serves `identity` (batches of floats), `types` (one input and output of each element
/// type), `held` (as `identity`, but waits for a permit of [`Double::gate`]), `odd`
/// (answers what JSON cannot carry), `panics` and `broken` (not ready).
pub(crate) struct Double {
    clock: MonotonicClock,
    models: Vec<Arc<ModelInfo>>,
    /// Where clients of the tests make their shared memory.
    pub(crate) folder: tempfile::TempDir,
    regions: SharedMemory,
    /// One permit lets one request of `held` go on.
    pub(crate) gate: Semaphore,
    seen: Mutex<Vec<Seen>>,
    /// The orders to load that came.
    pub(crate) loads: Mutex<Vec<LoadRequest>>,
    /// The names of models to unload that came.
    pub(crate) unloads: Mutex<Vec<String>>,
    /// Trace settings, of the server under the empty name.
    traces: Mutex<BTreeMap<String, TraceSettings>>,
    logs: Mutex<LogSettings>,
    /// Whether it says that it is ready.
    pub(crate) serving: AtomicBool,
    /// What the protocols refused on their own.
    pub(crate) refused: Mutex<Vec<ErrorKind>>,
    began: mpsc::UnboundedSender<()>,
    ended: mpsc::UnboundedSender<Ended>,
}

/// What a test sees of the double from outside.
pub(crate) struct Events {
    /// One for each request that began.
    pub(crate) began: mpsc::UnboundedReceiver<()>,
    /// One for each request that ended.
    pub(crate) ended: mpsc::UnboundedReceiver<Ended>,
}

fn spec(name: String, element: ElementType, shape: &[Option<u64>]) -> TensorSpec {
    TensorSpec {
        name,
        element,
        shape: shape.to_vec(),
        symbols: vec![None; shape.len()],
    }
}

fn info(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>, batch: u32) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        version: "1".to_owned(),
        inputs,
        max_batch_size: batch,
        versions: vec!["1".to_owned()],
        labels: vec![Some(["ant", "bee"].map(str::to_owned).into()); outputs.len()],
        outputs,
    }
}

fn floats(name: &str) -> Vec<TensorSpec> {
    vec![spec(name.to_owned(), ElementType::Fp32, &[None, None])]
}

impl Double {
    pub(crate) fn new() -> (Arc<Self>, Events) {
        let of_each = |prefix: &str| {
            let name = |element| format!("{prefix}_{element}");
            let specs = ElementType::ALL.map(|e| spec(name(e), e, &[None, Some(2)]));
            specs.to_vec()
        };
        let models = vec![
            info("identity", floats("x"), floats("y"), 8),
            info("types", of_each("in"), of_each("out"), 0),
            info("held", floats("x"), floats("y"), 8),
            info("odd", floats("x"), floats("y"), 8),
            info("panics", floats("x"), floats("y"), 8),
        ];
        let (began, began_events) = mpsc::unbounded_channel();
        let (ended, ended_events) = mpsc::unbounded_channel();
        let folder = tempfile::tempdir().expect("a folder can be made");
        let double = Self {
            regions: SharedMemory::new(SharedMemoryOptions {
                folder: folder.path().to_owned(),
                regions_max: 4,
                input_bytes_max: 1 << 20,
            }),
            folder,
            clock: MonotonicClock::start(),
            models: models.into_iter().map(Arc::new).collect(),
            gate: Semaphore::new(0),
            seen: Mutex::default(),
            loads: Mutex::default(),
            unloads: Mutex::default(),
            traces: Mutex::default(),
            logs: Mutex::new(BTreeMap::from([
                ("log_info".to_owned(), LogSetting::Switch(true)),
                ("log_verbose_level".to_owned(), LogSetting::Level(0)),
                (
                    "log_format".to_owned(),
                    LogSetting::Text("default".to_owned()),
                ),
            ])),
            serving: AtomicBool::new(true),
            refused: Mutex::default(),
            began,
            ended,
        };
        let events = Events {
            began: began_events,
            ended: ended_events,
        };
        (Arc::new(double), events)
    }

    /// The latest request.
    pub(crate) fn last(&self) -> Seen {
        let seen = self.seen.lock().expect("no test panics with the lock");
        seen.last().expect("a request came").clone()
    }
}

/// Tells how a request ended, by being dropped.
struct Tell<'a> {
    to: &'a mpsc::UnboundedSender<Ended>,
    how: Ended,
}

impl Drop for Tell<'_> {
    fn drop(&mut self) {
        // Nobody listens in most tests.
        let _ = self.to.send(self.how);
    }
}

impl InferenceService for Double {
    fn clock(&self) -> MonotonicClock {
        self.clock
    }

    fn live(&self) -> bool {
        true
    }

    fn ready(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelInfo>, InferError> {
        if name == "broken" {
            return Err(InferError::model_not_ready(
                name,
                "operator `Nope` is unknown",
            ));
        }
        let found = self.models.iter().find(|model| model.name == name);
        let model = found.ok_or_else(|| InferError::unknown_model(name))?;
        match version {
            Some(version) if version != model.version => Err(InferError::unknown_version(
                name,
                version,
                model.versions.clone(),
            )),
            _ => Ok(Arc::clone(model)),
        }
    }

    fn models(&self) -> Vec<ModelStatus> {
        let ready = self.models.iter().map(|model| ModelStatus {
            name: model.name.clone(),
            version: model.version.clone(),
            state: ModelState::Ready,
            reason: String::new(),
        });
        let broken = ModelStatus {
            name: "broken".to_owned(),
            version: "1".to_owned(),
            state: ModelState::Unavailable,
            reason: "operator `Nope` is unknown".to_owned(),
        };
        ready.chain([broken]).collect()
    }

    async fn infer(&self, request: InferRequest) -> Result<InferReply, InferError> {
        let model = self.model(&request.model, request.version.as_deref())?;
        self.seen
            .lock()
            .expect("no test panics with the lock")
            .push(Seen {
                left: request
                    .deadline
                    .map(|deadline: Timestamp| deadline - request.arrived),
                queue_timeout: request.queue_timeout,
                priority: request.priority,
                version: request.version.clone(),
                trace: request.trace,
            });
        let mut tell = Tell {
            to: &self.ended,
            how: Ended::Dropped,
        };
        let _ = self.began.send(());
        assert_ne!(model.name, "panics", "this model panics");
        let id = request.id.clone();
        let valid = validate(&model, request)?;
        if model.name == "held" {
            let permit = self.gate.acquire().await.expect("the gate never closes");
            permit.forget();
        }
        let outputs = valid.outputs.iter().map(|&index| {
            let input = &valid.inputs[index];
            let mut data = match input.data.clone() {
                InputData::Here(data) => data,
                InputData::Shared(slice) => {
                    let copy = slice.read();
                    let copy = copy.map_err(|fault| InferError::input_fault(&model.name, fault));
                    TensorData::Raw(copy?)
                }
            };
            if model.name == "odd" {
                data = TensorData::Raw(f32::NAN.to_le_bytes().repeat(data.byte_size() / 4).into());
            }
            Ok(ReplyOutput {
                index,
                element: model.outputs[index].element,
                shape: input.shape.clone(),
                data,
            })
        });
        let outputs = outputs.collect::<Result<_, InferError>>()?;
        tell.how = Ended::Replied;
        Ok(InferReply {
            outputs,
            id,
            batch: valid.items,
            model,
        })
    }

    fn regions(&self) -> &SharedMemory {
        &self.regions
    }

    fn refused(&self, kind: ErrorKind) {
        let mut refused = self.refused.lock().expect("no test panics with the lock");
        refused.push(kind);
    }

    fn config(&self, name: &str, version: Option<&str>) -> Result<Arc<ModelConfig>, InferError> {
        let info = self.model(name, version)?;
        Ok(Arc::new(ModelConfig {
            name: info.name.clone(),
            max_batch_size: i32::try_from(info.max_batch_size).expect("a small number"),
            input: info.inputs.iter().map(config_input).collect(),
            ..ModelConfig::default()
        }))
    }

    fn statistics(
        &self,
        name: Option<&str>,
        version: Option<&str>,
    ) -> Result<Vec<ModelStatistics>, InferError> {
        let of = |info: &ModelInfo| statistics(&info.name, &info.version);
        match name {
            Some(name) => Ok(vec![of(&*self.model(name, version)?)]),
            None => Ok(self.models.iter().map(|info| of(info)).collect()),
        }
    }

    async fn load(&self, request: LoadRequest) -> Result<(), InferError> {
        match request.name.as_str() {
            "forbidden" => return Err(InferError::control_disabled("the double says so")),
            "broken" => return Err(InferError::load_failed("broken", "the double says so")),
            _ => {}
        }
        let mut loads = self.loads.lock().expect("no test panics with the lock");
        loads.push(request);
        Ok(())
    }

    async fn unload(&self, name: &str) -> Result<(), InferError> {
        self.model(name, None)?;
        let mut unloads = self.unloads.lock().expect("no test panics with the lock");
        unloads.push(name.to_owned());
        Ok(())
    }

    fn trace_settings(&self, model: Option<&str>) -> Result<TraceSettings, InferError> {
        self.update_trace_settings(model, BTreeMap::new())
    }

    fn update_trace_settings(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<TraceSettings, InferError> {
        if let Some(name) = model {
            self.model(name, None)?;
        }
        let mut traces = self.traces.lock().expect("no test panics with the lock");
        let settings = traces
            .entry(model.unwrap_or_default().to_owned())
            .or_default();
        for (name, values) in update {
            match values {
                Some(values) => settings.insert(name, values),
                None => settings.remove(&name),
            };
        }
        Ok(settings.clone())
    }

    fn log_settings(&self) -> LogSettings {
        let logs = self.logs.lock().expect("no test panics with the lock");
        logs.clone()
    }

    fn update_log_settings(&self, update: LogSettings) -> Result<LogSettings, InferError> {
        let mut logs = self.logs.lock().expect("no test panics with the lock");
        logs.extend(update);
        Ok(logs.clone())
    }

    async fn explain(&self, name: &str, id: &str) -> Result<Explanation, InferError> {
        self.model(name, None)?;
        if id == "unknown" {
            return Err(InferError::unknown_request(name, id, 1));
        }
        Ok(Explanation {
            model_name: name.to_owned(),
            model_version: "1".to_owned(),
            id: id.to_owned(),
            state: "waiting",
            outcome: None,
            reason: None,
            constraint: None,
            deadline_us: Some(7),
            predicted_us: None,
            ended_us: None,
            batch_size: None,
            legs: Vec::new(),
        })
    }

    async fn profile(
        &self,
        name: &str,
        version: Option<&str>,
    ) -> Result<ProfileReport, InferError> {
        self.model(name, version)?;
        let profile = Profile {
            schema: SCHEMA.to_owned(),
            device: DeviceKey {
                kind: "double".to_owned(),
                name: "of a device".to_owned(),
                slices: 1,
            },
            runtime: "none 1.0".to_owned(),
            synthetic: false,
            launch_s: None,
            models: Vec::new(),
        };
        Ok(ProfileReport {
            profile,
            serving: ProfileServing {
                median_from: "online",
                tail_from: "online",
                profile_error: None,
                online_error: Some(0.25),
                drifted: false,
                measuring: true,
                points: 3,
                device_seconds: 0.5,
            },
        })
    }

    async fn scheduler(&self) -> Result<SchedulerSettings, InferError> {
        Ok(SchedulerSettings {
            policy: "edf",
            settings: serde_json::Map::new(),
            deadlines: DeadlineMode::Enforce,
            policies: &["edf"],
        })
    }

    async fn update_scheduler(
        &self,
        _update: SchedulerUpdate,
    ) -> Result<SchedulerSettings, InferError> {
        self.scheduler().await
    }

    fn model_settings(&self, name: &str) -> Result<ModelSettings, InferError> {
        self.model(name, None)?;
        let objective = Objective {
            slo: None,
            weight: 1.0,
        };
        Ok(ModelSettings {
            model_name: name.to_owned(),
            device: 0,
            device_name: "a double".to_owned(),
            in_force: objective,
            live: Vec::new(),
            configured: objective,
        })
    }

    async fn update_model_settings(
        &self,
        name: &str,
        _update: ModelUpdate,
    ) -> Result<ModelSettings, InferError> {
        self.model_settings(name)
    }

    fn timeline(&self, _last: Nanos) -> TimelineTrace {
        TimelineTrace {
            devices: Vec::new(),
            models: BTreeMap::new(),
            legs: Vec::new(),
            lost: 0,
        }
    }

    async fn metrics(&self) -> String {
        "# HELP up Whether the double is up.\n# TYPE up gauge\nup 1\n# EOF\n".to_owned()
    }
}

/// An input of a model with a batch dimension, as its configuration says it.
fn config_input(spec: &TensorSpec) -> ModelInput {
    let name = if spec.element == ElementType::Bytes {
        "TYPE_STRING".to_owned()
    } else {
        format!("TYPE_{}", spec.element)
    };
    let dim = |dim: &Option<u64>| dim.map_or(-1, |size| i64::try_from(size).expect("small"));
    let mut input = ModelInput {
        name: spec.name.clone(),
        dims: spec.shape.iter().skip(1).map(dim).collect(),
        ..ModelInput::default()
    };
    input.set_data_type(DataType::from_str_name(&name).expect("a type"));
    input
}

/// Numbers that are all different, so that one in a wrong place shows.
fn statistics(name: &str, version: &str) -> ModelStatistics {
    let counted = |count| Counted {
        count,
        total: Nanos::new(count * 1_000),
    };
    ModelStatistics {
        name: name.to_owned(),
        version: version.to_owned(),
        last_inference_ms: 1,
        inference_count: 2,
        execution_count: 3,
        success: counted(4),
        fail: counted(5),
        cancel: counted(6),
        queue: counted(7),
        compute_input: counted(8),
        compute_infer: counted(9),
        compute_output: counted(10),
        batches: vec![BatchStatistics {
            batch_size: 11,
            compute_input: counted(12),
            compute_infer: counted(13),
            compute_output: counted(14),
        }],
    }
}

/// A served double.
pub(crate) struct Served {
    /// Where.
    pub(crate) at: Addresses,
    /// The double itself.
    pub(crate) double: Arc<Double>,
    /// What happens in it.
    pub(crate) events: Events,
    /// Stops the server.
    pub(crate) shutdown: CancellationToken,
    /// The server's task.
    pub(crate) server: tokio::task::JoinHandle<Drained>,
}

/// Options on free ports of the loopback.
pub(crate) fn options() -> ServerOptions {
    let free = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    ServerOptions {
        http: free,
        grpc: free,
        metrics: free,
        ..ServerOptions::default()
    }
}

/// Serves a double on free ports.
pub(crate) async fn serve() -> Served {
    serve_with(options()).await
}

/// Serves a double as told.
pub(crate) async fn serve_with(options: ServerOptions) -> Served {
    let (double, events) = Double::new();
    let server = Server::bind(options)
        .await
        .expect("the loopback has free ports");
    let (at, shutdown) = (server.addresses(), CancellationToken::new());
    let serving = server.serve(Arc::clone(&double), shutdown.clone());
    Served {
        at,
        double,
        events,
        shutdown,
        server: tokio::spawn(async { serving.await.expect("the sockets can be watched") }),
    }
}

/// Fails a test that would otherwise hang; no test waits this long to pass.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it comes soon")
}
