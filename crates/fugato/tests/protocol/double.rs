//! The double: models that answer with their own inputs.

use fugato::api::{
    InferReply, InferRequest, InferenceService, ModelInfo, ModelState, ModelStatus, validate,
};
use fugato::error::{ErrorKind, InferError};
use fugato::server::{Addresses, Drained, Server, ServerOptions};
use fugato_core::{Nanos, Timestamp};
use fugato_device::{ElementType, MonotonicClock, OutputTensor, TensorSpec};
use std::net::{Ipv4Addr, SocketAddr};
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
    /// One permit lets one request of `held` go on.
    pub(crate) gate: Semaphore,
    seen: Mutex<Vec<Seen>>,
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
        outputs,
        max_batch_size: batch,
        versions: vec!["1".to_owned()],
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
        let double = Self {
            clock: MonotonicClock::start(),
            models: models.into_iter().map(Arc::new).collect(),
            gate: Semaphore::new(0),
            seen: Mutex::default(),
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
        true
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
            let mut data = input.data.clone();
            if model.name == "odd" {
                data = fugato_device::TensorData::Raw(
                    f32::NAN.to_le_bytes().repeat(data.byte_size() / 4).into(),
                );
            }
            let shape = input.shape.clone();
            (index, OutputTensor { shape, data })
        });
        tell.how = Ended::Replied;
        Ok(InferReply {
            outputs: outputs.collect(),
            id,
            batch: valid.items,
            model,
        })
    }

    fn refused(&self, kind: ErrorKind) {
        let mut refused = self.refused.lock().expect("no test panics with the lock");
        refused.push(kind);
    }

    async fn metrics(&self) -> String {
        "# HELP up Whether the double is up.\n# TYPE up gauge\nup 1\n# EOF\n".to_owned()
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
        server: tokio::spawn(serving),
    }
}

/// Fails a test that would otherwise hang; no test waits this long to pass.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("it comes soon")
}
