//! An OpenTelemetry collector that keeps what it is sent.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::sync::mpsc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A collector on a free port of the loopback.
pub(crate) struct Collector {
    /// Its URL.
    pub(crate) url: String,
    /// What it was sent.
    pub(crate) spans: mpsc::Receiver<Span>,
    _runtime: tokio::runtime::Runtime,
}

struct Sink(mpsc::Sender<Span>);

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        for span in scopes.flat_map(|scope| scope.spans) {
            // A test that has seen enough listens no more.
            let _ = self.0.send(span);
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("threads can be had");
        let bound = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = bound.expect("the loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (sender, spans) = mpsc::channel();
        let served = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Sink(sender)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(served);
        Self {
            url,
            spans,
            _runtime: runtime,
        }
    }
}
