//! The small server that Fugato is measured against (`bench/peers`): what a person writes in
//! an afternoon. For each core a thread with a single-thread ONNX Runtime session of every
//! model; the threads take requests in the order they came, one at a time: no batches, no
//! deadlines, no refusals. It speaks as much of the protocol as the load generator does, over
//! the same generated code and the same shared memory (`pread`, `pwrite`) as Fugato.
//!
//! ```text
//! cargo run --release -p fugato --example tonic_peer -- ADDRESS CORES REPOSITORY
//! ```
//!
//! It prints the address that it listens on, once it does.

#![allow(clippy::print_stdout, reason = "it says where it listens")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "parameters of other types are none of its own"
)]

use anyhow::{Context as _, Result};
use fugato::runtime::Surroundings;
use fugato::server::proto::grpc_inference_service_server as service;
use fugato::server::proto::infer_parameter::ParameterChoice;
use fugato::server::proto::model_infer_response::InferOutputTensor;
use fugato::server::proto::model_metadata_response::TensorMetadata;
use fugato::server::proto::*;
use fugato_device::reference::PlainSession;
use fugato_device::{InputTensor, Runtime, TensorData, TensorSpec};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

type Parameters = BTreeMap<String, InferParameter>;
type Regions = Arc<Mutex<BTreeMap<String, Arc<File>>>>;
type Answer = Result<Response<ModelInferResponse>, Status>;
type Job = (ModelInferRequest, oneshot::Sender<Answer>);

struct Peer {
    inputs: BTreeMap<String, Vec<TensorSpec>>,
    regions: Regions,
    jobs: Sender<Job>,
}

/// A core's sessions, by the model's name.
struct Worker {
    sessions: BTreeMap<String, PlainSession>,
    regions: Regions,
}

impl Worker {
    fn load(repository: &Path, regions: &Regions) -> Result<Self> {
        let library = fugato::runtime::find(None, &Surroundings::of_process())?;
        let runtime = Runtime::load(library.path)?;
        let mut sessions = BTreeMap::new();
        for entry in fs::read_dir(repository)? {
            let folder = entry?;
            let file = folder.path().join("1/model.onnx");
            let name = folder.file_name().to_string_lossy().into_owned();
            sessions.insert(name, PlainSession::load(&runtime, file, 1)?);
        }
        let regions = Arc::clone(regions);
        Ok(Self { sessions, regions })
    }

    fn work(mut self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            // The server is gone, and with it all who wait.
            let Ok((request, answer)) = job else { return };
            // A client that is gone needs no answer.
            let _ = answer.send(self.infer(request));
        }
    }

    fn infer(&mut self, request: ModelInferRequest) -> Answer {
        let unknown = || Status::not_found(request.model_name.clone());
        let session = self.sessions.get_mut(&request.model_name);
        let session = session.ok_or_else(unknown)?;
        let mut sent = request.raw_input_contents.into_iter();
        let mut inputs = Vec::new();
        for input in &request.inputs {
            let data = match in_region(&self.regions, &input.parameters)? {
                None => sent
                    .next()
                    .ok_or_else(|| Status::invalid_argument("no data"))?,
                Some((file, offset, size)) => {
                    let mut bytes = vec![0; size as usize];
                    file.read_exact_at(&mut bytes, offset)?;
                    bytes.into()
                }
            };
            inputs.push(InputTensor {
                shape: input
                    .shape
                    .iter()
                    .map(|size| size.cast_unsigned())
                    .collect(),
                data: TensorData::Raw(data).into(),
            });
        }
        let results = session.run(&inputs);
        let results = results.map_err(|error| Status::internal(error.to_string()))?;
        let mut reply = ModelInferResponse::default();
        for (spec, result) in session.outputs().iter().zip(results) {
            let wanted = request
                .outputs
                .iter()
                .find(|output| output.name == spec.name);
            let parameters = wanted
                .map(|output| output.parameters.clone())
                .unwrap_or_default();
            let TensorData::Raw(data) = result.data else {
                return Err(Status::unimplemented("strings"));
            };
            match in_region(&self.regions, &parameters)? {
                None => reply.raw_output_contents.push(data),
                Some((file, offset, _)) => file.write_all_at(&data, offset)?,
            }
            reply.outputs.push(InferOutputTensor {
                name: spec.name.clone(),
                datatype: spec.element.oip_name().to_owned(),
                shape: result.shape.iter().map(|size| size.cast_signed()).collect(),
                parameters,
                contents: None,
            });
        }
        Ok(Response::new(reply))
    }
}

/// The file, offset and size of a tensor in shared memory; `None` for one that is not.
fn in_region(
    regions: &Regions,
    parameters: &Parameters,
) -> Result<Option<(Arc<File>, u64, u64)>, Status> {
    let text = |name: &str| match parameters.get(name)?.parameter_choice.as_ref()? {
        ParameterChoice::StringParam(text) => Some(text),
        _ => None,
    };
    let number = |name: &str| match parameters.get(name)?.parameter_choice {
        Some(ParameterChoice::Int64Param(number)) => Some(number.cast_unsigned()),
        _ => None,
    };
    let Some(name) = text("shared_memory_region") else {
        return Ok(None);
    };
    let regions = regions.lock().unwrap_or_else(PoisonError::into_inner);
    let file = regions
        .get(name)
        .ok_or_else(|| Status::not_found(name.clone()))?;
    let size = number("shared_memory_byte_size");
    let size = size.ok_or_else(|| Status::invalid_argument("a region without a size"))?;
    let offset = number("shared_memory_offset").unwrap_or(0);
    Ok(Some((Arc::clone(file), offset, size)))
}

#[tonic::async_trait]
impl service::GrpcInferenceService for Peer {
    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let gone = |_| Status::internal("no thread is left");
        let job = (request.into_inner(), answer);
        self.jobs
            .send(job)
            .map_err(|_| Status::internal("no thread is left"))?;
        answered.await.map_err(gone)?
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let name = request.into_inner().name;
        let inputs = self.inputs.get(&name);
        let inputs = inputs
            .ok_or_else(|| Status::not_found(name.clone()))?
            .iter();
        let inputs = inputs.map(|spec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.element.oip_name().to_owned(),
            shape: spec
                .shape
                .iter()
                .map(|dim| dim.map_or(-1, u64::cast_signed))
                .collect(),
        });
        Ok(Response::new(ModelMetadataResponse {
            inputs: inputs.collect(),
            name,
            ..Default::default()
        }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Result<Response<SystemSharedMemoryRegisterResponse>, Status> {
        let SystemSharedMemoryRegisterRequest {
            name, key, offset, ..
        } = request.into_inner();
        if offset != 0 {
            return Err(Status::unimplemented(
                "regions that begin inside their file",
            ));
        }
        let path = Path::new("/dev/shm").join(key.trim_start_matches('/'));
        let file = File::options().read(true).write(true).open(path)?;
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.insert(name, Arc::new(file));
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Result<Response<SystemSharedMemoryUnregisterResponse>, Status> {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        regions.remove(&request.into_inner().name);
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || {
        arguments
            .next()
            .context("expected ADDRESS CORES REPOSITORY")
    };
    let listener = tokio::net::TcpListener::bind(argument()?).await?;
    let cores: usize = argument()?.parse().context("expected a number of cores")?;
    let repository = PathBuf::from(argument()?);
    let (jobs, queue) = channel();
    let (regions, queue) = (Regions::default(), Arc::new(Mutex::new(queue)));
    let mut inputs = BTreeMap::new();
    for _ in 0..cores {
        let worker = Worker::load(&repository, &regions)?;
        for (name, session) in &worker.sessions {
            inputs.insert(name.clone(), session.inputs().to_vec());
        }
        let queue = Arc::clone(&queue);
        std::thread::spawn(move || worker.work(&queue));
    }
    println!("{}", listener.local_addr()?);
    let peer = Peer {
        inputs,
        regions,
        jobs,
    };
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = service::GrpcInferenceServiceServer::new(peer);
    let service = service.max_decoding_message_size(64 << 20);
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(server.serve_with_incoming(incoming).await?)
}
