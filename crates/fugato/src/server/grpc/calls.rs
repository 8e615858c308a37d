//! The calls of `GRPCInferenceService` that carry one message each way.

use super::admin;
use super::convert;
use super::health::WATCHERS_MAX;
use super::shm;
use super::timeout::grpc_timeout;
use crate::api::{InferenceService, PLATFORM, TraceContext, string_bytes};
use crate::error::{ErrorKind, InferError};
use crate::server::budget::Hold;
use crate::server::proto::grpc_inference_service_server::GrpcInferenceService;
use crate::server::{metadata, proto, run};
use fugato_core::{Nanos, Timestamp};
use fugato_device::TensorSpec;
use hyper::HeaderMap;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// The largest reply that is compressed, where the client asked for that: it takes a
/// thread that serves for some 30 ms per MiB.
const COMPRESSED_MAX: usize = 1 << 20;

/// The calls themselves.
pub(super) struct Calls<S> {
    pub(super) service: Arc<S>,
    /// Ends what would last: the watchers of the health check.
    pub(super) stop: CancellationToken,
    /// Places for those.
    pub(super) watchers: Arc<Semaphore>,
}

impl<S: InferenceService> Calls<S> {
    /// Answers from `service` until `stop`.
    pub(super) fn new(service: Arc<S>, stop: CancellationToken) -> Self {
        Self {
            service,
            stop,
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
        }
    }

    /// Counts a call that did not reach the service, or whose reply cannot be sent.
    pub(super) fn refuse(&self, error: InferError) -> Status {
        self.service.refused(error.kind());
        error.into()
    }
}

#[tonic::async_trait]
impl<S: InferenceService> GrpcInferenceService for Calls<S> {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        let live = self.service.live();
        Ok(Response::new(proto::ServerLiveResponse { live }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        let ready = self.service.ready();
        Ok(Response::new(proto::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Result<Response<proto::ModelReadyResponse>, Status> {
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let ready = match self.service.model(&name, some(&version)) {
            Ok(_) => true,
            // The question is whether it is ready, and the answer is no.
            Err(error) if is_not_ready(error.kind()) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Result<Response<proto::ServerMetadataResponse>, Status> {
        Ok(Response::new(proto::ServerMetadataResponse {
            name: metadata::SERVER_NAME.to_owned(),
            version: metadata::SERVER_VERSION.to_owned(),
            extensions: metadata::EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Result<Response<proto::ModelMetadataResponse>, Status> {
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        let info = self.service.model(&name, some(&version))?;
        let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor_metadata).collect();
        Ok(Response::new(proto::ModelMetadataResponse {
            name: info.name.clone(),
            versions: info.versions.clone(),
            platform: PLATFORM.to_owned(),
            inputs: tensors(&info.inputs),
            outputs: tensors(&info.outputs),
        }))
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Result<Response<proto::ModelConfigResponse>, Status> {
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        let config = self.service.config(&name, some(&version))?;
        Ok(Response::new(proto::ModelConfigResponse {
            config: Some(config.as_ref().clone()),
        }))
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Result<Response<proto::RepositoryIndexResponse>, Status> {
        let proto::RepositoryIndexRequest {
            repository_name,
            ready,
        } = request.into_inner();
        admin::refuse_repository(&repository_name).map_err(|error| self.refuse(error))?;
        let models = metadata::index(self.service.models(), ready);
        let models = models
            .into_iter()
            .map(|model| proto::repository_index_response::ModelIndex {
                name: model.name,
                version: model.version,
                state: metadata::state_name(model.state).to_owned(),
                reason: model.reason,
            })
            .collect();
        Ok(Response::new(proto::RepositoryIndexResponse { models }))
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Result<Response<proto::ModelStatisticsResponse>, Status> {
        let proto::ModelStatisticsRequest { name, version } = request.into_inner();
        let statistics = self
            .service
            .statistics(some(&name), some(&version))?
            .into_iter();
        Ok(Response::new(proto::ModelStatisticsResponse {
            model_stats: statistics.map(admin::statistics).collect(),
        }))
    }

    async fn repository_model_load(
        &self,
        request: Request<proto::RepositoryModelLoadRequest>,
    ) -> Result<Response<proto::RepositoryModelLoadResponse>, Status> {
        // The request's bytes count while the model is loaded from them.
        let _call = Call::of(&request)?;
        let order = admin::load(request.into_inner()).map_err(|error| self.refuse(error))?;
        self.service.load(order).await?;
        Ok(Response::new(proto::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Result<Response<proto::RepositoryModelUnloadResponse>, Status> {
        let name = admin::unload(request.into_inner()).map_err(|error| self.refuse(error))?;
        self.service.unload(&name).await?;
        Ok(Response::new(proto::RepositoryModelUnloadResponse {}))
    }

    async fn trace_setting(
        &self,
        request: Request<proto::TraceSettingRequest>,
    ) -> Result<Response<proto::TraceSettingResponse>, Status> {
        let (model, update) = admin::trace_update(request.into_inner());
        let settings = if update.is_empty() {
            self.service.trace_settings(some(&model))
        } else {
            self.service.update_trace_settings(some(&model), update)
        };
        Ok(Response::new(admin::trace_reply(settings?)))
    }

    async fn log_settings(
        &self,
        request: Request<proto::LogSettingsRequest>,
    ) -> Result<Response<proto::LogSettingsResponse>, Status> {
        let update = admin::log_update(request.into_inner()).map_err(|error| self.refuse(error))?;
        let settings = if update.is_empty() {
            self.service.log_settings()
        } else {
            self.service.update_log_settings(update)?
        };
        Ok(Response::new(admin::log_reply(settings)))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<proto::SystemSharedMemoryStatusRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryStatusResponse>, Status> {
        let status = shm::status(self.service.regions(), request.get_ref());
        Ok(Response::new(status?))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<proto::SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryRegisterResponse>, Status> {
        let done = shm::register(self.service.regions(), request.into_inner());
        Ok(Response::new(done?))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<proto::SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<proto::SystemSharedMemoryUnregisterResponse>, Status> {
        let done = shm::unregister(self.service.regions(), request.get_ref());
        Ok(Response::new(done?))
    }

    // Nothing can be registered on the CPU, and clients that use system shared memory begin
    // by unregistering all of both.
    async fn cuda_shared_memory_status(
        &self,
        _: Request<proto::CudaSharedMemoryStatusRequest>,
    ) -> Result<Response<proto::CudaSharedMemoryStatusResponse>, Status> {
        Ok(Response::new(
            proto::CudaSharedMemoryStatusResponse::default(),
        ))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<proto::CudaSharedMemoryUnregisterRequest>,
    ) -> Result<Response<proto::CudaSharedMemoryUnregisterResponse>, Status> {
        Ok(Response::new(proto::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let call = Call::of(&request)?;
        let timeout = match request.metadata().get("grpc-timeout") {
            Some(value) => {
                let timeout = grpc_timeout(value.as_encoded_bytes());
                Some(timeout.map_err(|error| self.refuse(error))?)
            }
            None => None,
        };
        let origin = Origin {
            arrived: call.arrived,
            timeout,
            trace: trace_context(request.metadata().as_ref()),
        };
        let reply = infer(&*self.service, request.into_inner(), &call.hold, origin).await?;
        let length = reply.encoded_len();
        call.hold.answer(length);
        let mut reply = Response::new(reply);
        if length > COMPRESSED_MAX {
            reply.disable_compression();
        }
        Ok(reply)
    }
}

/// What the server knows of a call beside its message.
#[derive(Clone)]
pub(super) struct Call {
    /// When the call's headers were read.
    pub(super) arrived: Timestamp,
    /// What it holds of the server's budget.
    pub(super) hold: Arc<Hold>,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Result<Self, InferError> {
        let call = request.extensions().get::<Self>();
        call.cloned()
            .ok_or_else(|| InferError::internal("gRPC server", "it lost a call's extensions"))
    }
}

/// Where a request comes from, and when.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    /// When its first byte was seen.
    pub(super) arrived: Timestamp,
    /// The call's own time limit.
    pub(super) timeout: Option<Nanos>,
    /// The client's trace.
    pub(super) trace: Option<TraceContext>,
}

/// The client's trace, where metadata `traceparent` names one.
pub(super) fn trace_context(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// Runs one request, within what `hold` may take; counts what does not reach the service,
/// or cannot be sent.
pub(super) async fn infer<S: InferenceService>(
    service: &S,
    request: proto::ModelInferRequest,
    hold: &Hold,
    origin: Origin,
) -> Result<proto::ModelInferResponse, InferError> {
    let refused = |error: &InferError| service.refused(error.kind());
    let read = || {
        hold.take(convert::decoded_bytes(&request))?;
        let request = convert::request(request, origin, service.regions())?;
        hold.take(string_bytes(&request.inputs))?;
        Ok(request)
    };
    let request = read().inspect_err(refused)?;
    let reply = run(service, request).await?;
    convert::reply(reply).inspect_err(refused)
}

fn is_not_ready(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::UnknownModel | ErrorKind::UnknownVersion | ErrorKind::ModelNotReady
    )
}

/// The protocol writes "not given" as an empty string.
fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn tensor_metadata(spec: &TensorSpec) -> proto::model_metadata_response::TensorMetadata {
    proto::model_metadata_response::TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.element.oip_name().to_owned(),
        shape: metadata::wire_shape(&spec.shape),
    }
}
