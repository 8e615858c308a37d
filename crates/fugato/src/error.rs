//! What can go wrong with a request, and what each protocol answers then.
//!
//! [`ErrorKind::facts`] is the one table of HTTP status, gRPC code, whether a retry makes
//! sense, and metric label. Both protocols read it and neither has an exception to it.

use fugato_core::{DeviceId, Nanos};
use fugato_device::{ElementType, InputFault, RunError, RunErrorKind};
use std::fmt;

mod disclose;
mod fault;

pub(crate) use disclose::for_clients;
pub(crate) use fault::Fault;

/// Declares [`ErrorKind`] together with its table, so that no kind can lack a row.
macro_rules! error_kinds {
    ($( $(#[$doc:meta])* $kind:ident => $http:literal $grpc:ident $retryable:literal $label:literal, )*) => {
        /// The sort of an [`InferError`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $( $(#[$doc])* $kind, )* }

        impl ErrorKind {
            /// Every kind, in the order of the table.
            pub const ALL: &[Self] = &[ $( Self::$kind, )* ];

            /// The row of this kind.
            pub const fn facts(self) -> ErrorFacts {
                match self {
                    $( Self::$kind => ErrorFacts {
                        http_status: $http,
                        grpc_code: tonic::Code::$grpc,
                        retryable: $retryable,
                        label: $label,
                    }, )*
                }
            }
        }
    };
}

error_kinds! {
    /// No model of that name.
    UnknownModel => 404 NotFound false "unknown_model",
    /// The model has no such version.
    UnknownVersion => 404 NotFound false "unknown_version",
    /// The model is known and cannot run (yet, or at all: the message has the reason).
    ModelNotReady => 503 Unavailable true "model_not_ready",
    /// The request cannot be read: JSON, a header, a size that lies.
    InvalidRequest => 400 InvalidArgument false "invalid_request",
    /// An input that the model has not.
    UnknownInput => 400 InvalidArgument false "unknown_input",
    /// An input of the model that the request lacks.
    MissingInput => 400 InvalidArgument false "missing_input",
    /// An input or output named twice.
    DuplicateName => 400 InvalidArgument false "duplicate_name",
    /// A shape that the model does not take.
    InvalidShape => 400 InvalidArgument false "invalid_shape",
    /// An element type that the model does not take, or that does not exist.
    InvalidType => 400 InvalidArgument false "invalid_type",
    /// A payload whose length does not follow from type and shape.
    InvalidByteCount => 400 InvalidArgument false "invalid_byte_count",
    /// An element or parameter that its type cannot hold.
    InvalidValue => 400 InvalidArgument false "invalid_value",
    /// An output that the model has not.
    UnknownOutput => 400 InvalidArgument false "unknown_output",
    /// A request larger than the configured limit.
    TooLarge => 413 ResourceExhausted false "too_large",
    /// The request carries no token that is let in.
    Unauthenticated => 401 Unauthenticated false "unauthenticated",
    /// A body of a type or a compression that is not read here.
    UnsupportedMediaType => 415 InvalidArgument false "unsupported_media_type",
    /// A part of the protocol that Fugato does not have.
    Unimplemented => 501 Unimplemented false "unimplemented",
    /// No such URL.
    NotFound => 404 NotFound false "not_found",
    /// The URL exists, with another method.
    MethodNotAllowed => 405 Unimplemented false "method_not_allowed",
    /// A limit of the model's queue, or of the requests in the whole server, is reached.
    QueueFull => 503 Unavailable true "queue_full",
    /// Admission found that the deadline cannot be met; nothing was run.
    DeadlineUnreachable => 503 Unavailable true "deadline_unreachable",
    /// Admission found that requests accepted before would miss their deadlines; nothing
    /// was run.
    NoRoom => 503 Unavailable true "no_room",
    /// The request was accepted, and dropped before it ran when its deadline could no
    /// longer be met.
    DeadlineDoomed => 503 Unavailable true "deadline_doomed",
    /// The request waited longer than its `timeout` parameter allows; nothing was run.
    QueueTimeout => 503 Unavailable true "queue_timeout",
    /// The deadline passed before the reply.
    DeadlineExceeded => 504 DeadlineExceeded false "deadline_exceeded",
    /// The client went away, or took the request back.
    Cancelled => 499 Cancelled false "cancelled",
    /// The server takes no new requests because it is about to stop.
    Draining => 503 Unavailable true "draining",
    /// The server stopped before the request ended.
    ShuttingDown => 503 Unavailable true "shutting_down",
    /// The device that the request was on is lost to the server for good; another process, or
    /// another server, may have one.
    DeviceLost => 503 Unavailable true "device_lost",
    /// The server's control mode does not let clients load and unload models, nor change how
    /// they are scheduled.
    ControlDisabled => 403 PermissionDenied false "control_disabled",
    /// A model could not be loaded; what was served before still is.
    LoadFailed => 400 FailedPrecondition false "load_failed",
    /// No request of that id is remembered.
    UnknownRequest => 404 NotFound false "unknown_request",
    /// No shared-memory region of that name is registered.
    UnknownRegion => 404 NotFound false "unknown_region",
    /// A shared-memory region of that name is registered already.
    RegionExists => 409 AlreadyExists false "region_exists",
    /// A shared-memory region that cannot be registered, or a range that is not in it.
    InvalidRegion => 400 InvalidArgument false "invalid_region",
    /// A shared-memory region turned out shorter than it was registered.
    RegionShort => 400 FailedPrecondition false "region_short",
    /// The model refused the inputs while running.
    RunRefused => 400 InvalidArgument false "run_refused",
    /// The model failed while running.
    RunFailed => 500 Internal false "run_failed",
    /// A fault of the server itself.
    Internal => 500 Internal false "internal",
}

/// What both protocols say about one [`ErrorKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorFacts {
    /// The HTTP status code.
    pub http_status: u16,
    /// The gRPC status code.
    pub grpc_code: tonic::Code,
    /// Whether the same request may succeed later, or at another server.
    pub retryable: bool,
    /// The value of the metric label `reason`.
    pub label: &'static str,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().label)
    }
}

/// Why a request got no reply.
///
/// Its text names the object, what was found and what was expected. It is for clients: it is
/// not longer than a few KiB, and what the runtime said is without paths of the machine.
#[derive(Debug)]
pub struct InferError(Box<Fault>);

impl fmt::Display for InferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        if self.0.quotes_the_machine() {
            text = for_clients(&text);
        }
        f.write_str(&disclose::cut(text))
    }
}

impl std::error::Error for InferError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl From<Fault> for InferError {
    fn from(fault: Fault) -> Self {
        Self(Box::new(fault))
    }
}

/// Which limit of a queue a request would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueLimit {
    /// Requests waiting.
    Requests,
    /// Bytes of the inputs waiting.
    Bytes,
}

impl InferError {
    /// The sort of error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// The repository has no model `model`.
    pub fn unknown_model(model: impl Into<String>) -> Self {
        Fault::UnknownModel {
            model: model.into(),
        }
        .into()
    }

    /// Model `model` has the versions `available`, not `version`.
    pub fn unknown_version(
        model: impl Into<String>,
        version: impl Into<String>,
        available: Vec<String>,
    ) -> Self {
        Fault::UnknownVersion {
            model: model.into(),
            version: version.into(),
            available,
        }
        .into()
    }

    /// A part of the protocol that this server does not have, named by `what`.
    pub fn unimplemented(what: impl Into<String>) -> Self {
        Fault::Unimplemented { what: what.into() }.into()
    }

    /// Clients may not load and unload models or change settings, because of `reason`.
    pub fn control_disabled(reason: impl Into<String>) -> Self {
        Fault::ControlDisabled {
            reason: reason.into(),
        }
        .into()
    }

    /// No request `id` to `model` is remembered; `remembered` requests are.
    pub fn unknown_request(
        model: impl Into<String>,
        id: impl Into<String>,
        remembered: usize,
    ) -> Self {
        Fault::UnknownRequest {
            model: model.into(),
            id: id.into(),
            remembered,
        }
        .into()
    }

    /// Model `model` could not be loaded, because of `reason`.
    pub fn load_failed(model: impl Into<String>, reason: impl Into<String>) -> Self {
        Fault::LoadFailed {
            model: model.into(),
            reason: reason.into(),
        }
        .into()
    }

    /// Model `model` cannot run, because of `reason`.
    pub fn model_not_ready(model: impl Into<String>, reason: impl Into<String>) -> Self {
        Fault::ModelNotReady {
            model: model.into(),
            reason: reason.into(),
        }
        .into()
    }

    /// The queue of `model` holds `held` of `limit`, and the request would add `wanted`.
    pub fn queue_full(
        model: impl Into<String>,
        which: QueueLimit,
        held: u64,
        wanted: u64,
        limit: u64,
    ) -> Self {
        Fault::QueueFull {
            model: model.into(),
            which,
            held,
            wanted,
            limit,
        }
        .into()
    }

    /// A reply of `model` is predicted `needed` after its request came, which has only `left`.
    pub fn deadline_unreachable(model: impl Into<String>, needed: Nanos, left: Nanos) -> Self {
        Fault::DeadlineUnreachable {
            model: model.into(),
            needed,
            left,
        }
        .into()
    }

    /// Accepting a request to `model` would leave accepted ones `short` of time.
    pub fn no_room(model: impl Into<String>, short: Nanos) -> Self {
        Fault::NoRoom {
            model: model.into(),
            short,
        }
        .into()
    }

    /// A request that was accepted would take `needed` from now, and only `left` is left.
    pub fn deadline_doomed(model: impl Into<String>, needed: Nanos, left: Nanos) -> Self {
        Fault::DeadlineDoomed {
            model: model.into(),
            needed,
            left,
        }
        .into()
    }

    /// The request waited `waited` in the queue of `model`, past its `timeout` parameter.
    pub fn queue_timeout(model: impl Into<String>, waited: Nanos, timeout: Nanos) -> Self {
        Fault::QueueTimeout {
            model: model.into(),
            waited,
            timeout,
        }
        .into()
    }

    /// The deadline of a request to `model` passed `late` ago.
    pub fn deadline_exceeded(model: impl Into<String>, late: Nanos) -> Self {
        Fault::DeadlineExceeded {
            model: model.into(),
            late,
        }
        .into()
    }

    /// The request to `model` was taken back.
    pub fn cancelled(model: impl Into<String>) -> Self {
        Fault::Cancelled {
            model: model.into(),
        }
        .into()
    }

    /// The server takes no new requests.
    pub fn draining() -> Self {
        Fault::Draining.into()
    }

    /// The server stopped before the request ended.
    pub fn shutting_down() -> Self {
        Fault::ShuttingDown.into()
    }

    /// Device `device` went away before a request to `model` ended.
    pub fn device_lost(model: impl Into<String>, device: DeviceId) -> Self {
        Fault::DeviceLost {
            model: model.into(),
            device,
        }
        .into()
    }

    /// Model `model` could not run the batch that the request was in.
    pub fn run_failed(model: impl Into<String>, cause: RunError) -> Self {
        let model = model.into();
        if cause.kind == RunErrorKind::InvalidInput {
            Fault::RunRefused { model, cause }
        } else {
            Fault::RunFailed { model, cause }
        }
        .into()
    }

    /// The inputs of a request to `model` could not be copied from where they are.
    pub fn input_fault(model: impl Into<String>, cause: InputFault) -> Self {
        match cause {
            InputFault::Short {
                region,
                offset,
                found,
                expected,
            } => Fault::RegionShort {
                region: region.to_string(),
                offset,
                found,
                expected,
            },
            InputFault::Unreadable { region, reason } => Fault::InvalidRegion {
                region: region.to_string(),
                found: format!("cannot be read ({reason})"),
                expected: "memory that can".to_owned(),
            },
            InputFault::Bool {
                input,
                index,
                found,
            } => Fault::Element {
                model: model.into(),
                input,
                index,
                found: found.to_string(),
                expected: "a BOOL of 0 or 1".to_owned(),
            },
        }
        .into()
    }

    /// A fault of the server itself, in `part` of it.
    pub fn internal(part: &'static str, detail: impl Into<String>) -> Self {
        Fault::Internal {
            part,
            detail: detail.into(),
        }
        .into()
    }
}

/// A shape as messages show it: `[batch, 3, ?]` for a model's, `[1, 3, 224]` for a request's.
pub(crate) struct ShapeText(pub(crate) String);

impl ShapeText {
    /// The shape of a request's tensor.
    pub(crate) fn found(shape: &[u64]) -> Self {
        Self(format!("{shape:?}"))
    }

    /// The shape of a request's tensor before its dimensions are known to be positive.
    pub(crate) fn signed(shape: &[i64]) -> Self {
        Self(format!("{shape:?}"))
    }

    /// The shape a model declares; dimensions that vary show their symbol or `?`.
    pub(crate) fn declared(spec: &fugato_device::TensorSpec) -> Self {
        let dims: Vec<String> = spec
            .shape
            .iter()
            .enumerate()
            .map(|(axis, dim)| match (dim, spec.symbols.get(axis)) {
                (Some(size), _) => size.to_string(),
                (None, Some(Some(symbol))) => symbol.clone(),
                (None, _) => "?".to_owned(),
            })
            .collect();
        Self(format!("[{}]", dims.join(", ")))
    }
}

impl fmt::Display for ShapeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShapeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names in a message: `` `a`, `b` ``, or `none`.
pub(crate) fn name_list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// The element types, as a message lists them.
pub(crate) fn element_types() -> String {
    ElementType::ALL.map(ElementType::oip_name).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_has_a_sound_row() {
        let mut labels = BTreeSet::new();
        for &kind in ErrorKind::ALL {
            let facts = kind.facts();
            assert!((400..600).contains(&facts.http_status), "{kind}: {facts:?}");
            assert_ne!(facts.grpc_code, tonic::Code::Ok, "{kind}");
            assert!(labels.insert(facts.label), "label {} twice", facts.label);
            assert!(
                facts
                    .label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{}",
                facts.label
            );
            // Load balancers retry on these two codes and nothing else, so they must agree
            // with the column.
            assert_eq!(facts.retryable, facts.http_status == 503, "{kind}");
            assert_eq!(
                facts.retryable,
                facts.grpc_code == tonic::Code::Unavailable,
                "{kind}"
            );
            // A client's fault is a 4xx in one protocol exactly when it is not a server
            // code in the other.
            let client_code = !matches!(
                facts.grpc_code,
                tonic::Code::Unavailable | tonic::Code::Internal | tonic::Code::DeadlineExceeded
            ) && kind != ErrorKind::Unimplemented;
            assert_eq!(client_code, facts.http_status < 500, "{kind}");
        }
    }

    #[test]
    fn messages_name_object_found_and_expected() {
        let error = InferError::unknown_version("resnet18", "7", vec!["1".into(), "2".into()]);
        assert_eq!(error.kind(), ErrorKind::UnknownVersion);
        assert_eq!(
            error.to_string(),
            "model `resnet18` has no version `7`, it has `1`, `2`"
        );
        let error = InferError::deadline_unreachable(
            "bert",
            Nanos::from_millis(30),
            Nanos::from_millis(10),
        );
        assert_eq!(
            error.to_string(),
            "a reply of model `bert` is predicted 30.00 ms after its request came, past its deadline at \
             10.00 ms"
        );
    }
}
