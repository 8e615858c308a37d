//! The door of a port: who is let in, and what a connection has in flight.

use super::activity::{Activity, Watched};
use super::auth::Tokens;
use crate::error::InferError;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tower::Service as _;

/// Which requests of one port need a token, and what the others get.
pub(super) struct Door<R> {
    tokens: Option<Tokens>,
    open: fn(&str) -> bool,
    refuse: R,
}

impl<R> Door<R> {
    /// A door for those with one of `tokens`, and for every path that is `open`; `refuse`
    /// makes the reply of the others.
    pub(super) fn new(tokens: Option<Tokens>, open: fn(&str) -> bool, refuse: R) -> Arc<Self> {
        Arc::new(Self {
            tokens,
            open,
            refuse,
        })
    }

    fn check<B>(&self, request: &hyper::Request<B>) -> Result<(), InferError> {
        match &self.tokens {
            Some(tokens) if !(self.open)(request.uri().path()) => tokens.check(request.headers()),
            _ => Ok(()),
        }
    }
}

/// The paths of the HTTP port that need no token: a supervisor that asks whether the server
/// is alive has none, and the answer is one bit.
pub(super) fn open_http(path: &str) -> bool {
    matches!(path, "/v2/health/live" | "/v2/health/ready")
}

/// The same of the gRPC port.
pub(super) fn open_grpc(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
        || matches!(
            path,
            "/inference.GRPCInferenceService/ServerLive"
                | "/inference.GRPCInferenceService/ServerReady"
        )
}

/// No path, for the metrics.
pub(super) fn open_none(_: &str) -> bool {
    false
}

type Reply<B> = Pin<Box<dyn Future<Output = Result<hyper::Response<B>, Infallible>> + Send>>;

/// An HTTP service of one connection, behind its door.
pub(super) struct HttpGuard<R> {
    pub(super) router: Router,
    pub(super) door: Arc<Door<R>>,
    pub(super) activity: Activity,
}

impl<R> hyper::service::Service<hyper::Request<Incoming>> for HttpGuard<R>
where
    R: Fn(InferError, Request) -> hyper::Response<Body>,
{
    type Response = hyper::Response<Watched<Body>>;
    type Error = Infallible;
    type Future = Reply<Watched<Body>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.begin();
        // What is left of a refused body is not the head of the next request.
        let until_read = in_flight.clone();
        let request = request.map(|body| Body::new(Watched::whole(body, until_read)));
        if let Err(error) = self.door.check(&request) {
            let reply = (self.door.refuse)(error, request);
            let reply = reply.map(|body| Watched::whole(body, in_flight));
            return Box::pin(std::future::ready(Ok(reply)));
        }
        let reply = self.router.clone().call(request);
        Box::pin(async move {
            let reply = reply.await?;
            Ok(reply.map(|body| Watched::whole(body, in_flight)))
        })
    }
}

/// A gRPC service of one connection, behind its door.
pub(super) struct GrpcGuard<S, R> {
    pub(super) service: S,
    pub(super) door: Arc<Door<R>>,
    pub(super) activity: Activity,
}

impl<S, R> hyper::service::Service<hyper::Request<Incoming>> for GrpcGuard<S, R>
where
    S: hyper::service::Service<
            hyper::Request<Incoming>,
            Response = hyper::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        >,
    R: Fn(InferError) -> hyper::Response<tonic::body::Body>,
{
    type Response = hyper::Response<Watched<tonic::body::Body>>;
    type Error = Infallible;
    type Future = Reply<Watched<tonic::body::Body>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let in_flight = self.activity.begin();
        if let Err(error) = self.door.check(&request) {
            let reply = (self.door.refuse)(error);
            let reply = reply.map(|body| Watched::in_pieces(body, in_flight));
            return Box::pin(std::future::ready(Ok(reply)));
        }
        let reply = self.service.call(request);
        Box::pin(async move {
            let reply = reply.await?;
            Ok(reply.map(|body| Watched::in_pieces(body, in_flight)))
        })
    }
}
