//! Errors as HTTP replies.

use crate::error::{ErrorKind, InferError};
use crate::server::grpc::ERROR_METADATA;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An error on its way out: status from the table, body `{"error": ".."}`.
pub(super) struct Refusal(InferError);

impl From<InferError> for Refusal {
    fn from(error: InferError) -> Self {
        Self(error)
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let facts = self.0.kind().facts();
        let message = self.0.to_string();
        // A string always serialises; an empty body would still carry the status.
        let text = serde_json::to_vec(&ErrorBody { error: &message }).unwrap_or_default();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() =
            StatusCode::from_u16(facts.http_status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.0.kind() == ErrorKind::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        headers.insert(ERROR_METADATA, HeaderValue::from_static(facts.label));
        response
    }
}
