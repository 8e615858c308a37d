//! The private side of [`InferError`](super::InferError): every fault with its typed
//! fields, its message and its kind.

use super::{ErrorKind, QueueLimit, ShapeText, element_types, name_list};
use fugato_core::{DeviceId, Nanos};
use fugato_device::{ElementType, RunError};

/// What happened, with the objects that the message names.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("no model `{model}` in the repository")]
    UnknownModel { model: String },
    #[error(
        "model `{model}` has no version `{version}`, it has {}",
        name_list(available)
    )]
    UnknownVersion {
        model: String,
        version: String,
        available: Vec<String>,
    },
    #[error("model `{model}` is not ready: {reason}")]
    ModelNotReady { model: String, reason: String },
    #[error("the request body is not the JSON of {what}: {detail}")]
    Json { what: &'static str, detail: String },
    #[error("header `{header}` is `{found}`, expected {expected}")]
    Header {
        header: &'static str,
        found: String,
        expected: String,
    },
    #[error("the request body ended early: {detail}")]
    Body { detail: String },
    #[error("malformed message: {detail}")]
    Message { detail: String },
    #[error("the URL cannot be read: {problem}")]
    Path { problem: String },
    #[error("parameter `{name}` of {object} is {found}, expected {expected}")]
    Parameter {
        object: String,
        name: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("setting `{name}` is {found}, expected {expected}")]
    Setting {
        name: String,
        found: String,
        expected: String,
    },
    #[error("{object} has no setting `{name}`, it has {}", name_list(expected))]
    UnknownSetting {
        object: String,
        name: String,
        expected: Vec<String>,
    },
    #[error("input `{input}` of model `{model}` has its data {found}, expected {expected}")]
    Payload {
        model: String,
        input: String,
        found: String,
        expected: String,
    },
    #[error("the binary part of the request has {found} bytes, its inputs say {expected}")]
    BinarySize { found: u64, expected: String },
    #[error(
        "{found} raw contents for the {inputs} inputs of a request to model `{model}`, \
         expected one for each"
    )]
    RawCount {
        model: String,
        found: usize,
        inputs: usize,
    },
    #[error(
        "model `{model}` has no input `{input}`, it has {}",
        name_list(expected)
    )]
    UnknownInput {
        model: String,
        input: String,
        expected: Vec<String>,
    },
    #[error(
        "the request lacks input `{input}` of model `{model}`, which takes {}",
        name_list(expected)
    )]
    MissingInput {
        model: String,
        input: String,
        expected: Vec<String>,
    },
    #[error("{what} `{name}` of model `{model}` is named twice, expected once")]
    DuplicateName {
        model: String,
        what: &'static str,
        name: String,
    },
    #[error("input `{input}` of model `{model}` has shape {found}, expected {expected}")]
    Shape {
        model: String,
        input: String,
        found: ShapeText,
        expected: ShapeText,
    },
    #[error(
        "input `{input}` of model `{model}` has shape {found}, expected every dimension \
         between 1 and 9223372036854775807"
    )]
    Dimension {
        model: String,
        input: String,
        found: ShapeText,
    },
    #[error(
        "input `{input}` of model `{model}` has shape {found}, a batch of {batch}, expected \
         at most max_batch_size = {limit}"
    )]
    BatchTooLarge {
        model: String,
        input: String,
        found: ShapeText,
        batch: u64,
        limit: u32,
    },
    #[error(
        "input `{input}` of model `{model}` has a batch of {found}, expected {expected} as \
         input `{first}` has"
    )]
    BatchMismatch {
        model: String,
        input: String,
        first: String,
        found: u64,
        expected: u64,
    },
    #[error(
        "input `{input}` of model `{model}` has shape {found}, whose {element} elements do \
         not fit in memory"
    )]
    ShapeOverflow {
        model: String,
        input: String,
        found: ShapeText,
        element: ElementType,
    },
    #[error("input `{input}` of model `{model}` has type {found}, expected {expected}")]
    Type {
        model: String,
        input: String,
        found: ElementType,
        expected: ElementType,
    },
    #[error(
        "input `{input}` of model `{model}` has type `{found}`, expected one of {}",
        element_types()
    )]
    TypeName {
        model: String,
        input: String,
        found: String,
    },
    #[error(
        "input `{input}` of model `{model}` has {found} bytes, expected {expected} for \
         {element} of shape {shape}"
    )]
    ByteCount {
        model: String,
        input: String,
        found: u64,
        expected: u64,
        element: ElementType,
        shape: ShapeText,
    },
    #[error(
        "input `{input}` of model `{model}` has {found} elements, expected {expected} for \
         shape {shape}"
    )]
    ElementCount {
        model: String,
        input: String,
        found: u64,
        expected: u64,
        shape: ShapeText,
    },
    #[error(
        "input `{input}` of model `{model}`: string {index} says {length} bytes and {left} \
         are left"
    )]
    StringLength {
        model: String,
        input: String,
        index: usize,
        length: u64,
        left: u64,
    },
    #[error(
        "element {index} of input `{input}` of model `{model}` is {found}, expected {expected}"
    )]
    Element {
        model: String,
        input: String,
        index: usize,
        found: String,
        expected: String,
    },
    #[error(
        "element {index} of output `{output}` of model `{model}` is {found}, expected {expected}"
    )]
    OutputElement {
        model: String,
        output: String,
        index: usize,
        found: String,
        expected: &'static str,
    },
    #[error(
        "model `{model}` has no output `{output}`, it has {}",
        name_list(expected)
    )]
    UnknownOutput {
        model: String,
        output: String,
        expected: Vec<String>,
    },
    #[error("the request body has {found} bytes, expected at most {limit} (the server's limit)")]
    TooLarge { found: String, limit: u64 },
    #[error("{what} has {found} {unit}, expected at most {limit}")]
    TooMany {
        what: &'static str,
        unit: &'static str,
        found: usize,
        limit: usize,
    },
    #[error(
        "the request {problem}, expected `authorization: Bearer TOKEN` with a token of this server"
    )]
    Unauthenticated { problem: &'static str },
    #[error("header `{header}` is `{found}`, expected {expected}")]
    MediaType {
        header: &'static str,
        found: String,
        expected: &'static str,
    },
    #[error("{what} is not implemented by this server")]
    Unimplemented { what: String },
    #[error("no URL `{path}`")]
    NotFound { path: String },
    #[error("URL `{path}` takes {expected}, found {method}")]
    MethodNotAllowed {
        path: String,
        method: String,
        expected: String,
    },
    #[error(
        "the server holds {held} of {limit} bytes of requests and replies, and this one would add {wanted}"
    )]
    ServerFull { held: u64, wanted: u64, limit: u64 },
    #[error("{}", queue_full_text(model, *which, *held, *wanted, *limit))]
    QueueFull {
        model: String,
        which: QueueLimit,
        held: u64,
        wanted: u64,
        limit: u64,
    },
    #[error(
        "a reply of model `{model}` is predicted {needed} after its request came, past its deadline at {left}"
    )]
    DeadlineUnreachable {
        model: String,
        needed: Nanos,
        left: Nanos,
    },
    #[error(
        "a request to model `{model}` would leave requests that were accepted before it {short} short of time"
    )]
    NoRoom { model: String, short: Nanos },
    #[error(
        "a reply of model `{model}` would take {needed} from now and the deadline is in {left}: dropped before it ran"
    )]
    DeadlineDoomed {
        model: String,
        needed: Nanos,
        left: Nanos,
    },
    #[error(
        "the request waited {waited} in the queue of model `{model}`, its timeout is {timeout}"
    )]
    QueueTimeout {
        model: String,
        waited: Nanos,
        timeout: Nanos,
    },
    #[error("the deadline of the request to model `{model}` passed {late} ago")]
    DeadlineExceeded { model: String, late: Nanos },
    #[error("the request to model `{model}` was cancelled")]
    Cancelled { model: String },
    #[error("the server is draining and takes no new requests")]
    Draining,
    #[error("the server stopped before the request ended")]
    ShuttingDown,
    #[error("{device} is lost to the server, and the request to model `{model}` with it")]
    DeviceLost { model: String, device: DeviceId },
    #[error("clients change nothing of models and their scheduling: {reason}")]
    ControlDisabled { reason: String },
    #[error(
        "parameter `{name}` of the order to {what} model `{model}` is {found}, expected {expected}"
    )]
    ControlParameter {
        what: &'static str,
        model: String,
        name: String,
        found: &'static str,
        expected: &'static str,
    },
    #[error("log setting `{name}` has no value, expected one")]
    LogSetting { name: String },
    #[error("model `{model}` cannot be loaded: {reason}")]
    LoadFailed { model: String, reason: String },
    #[error(
        "no request `{id}` to model `{model}` is among the {remembered} with an id that ended last"
    )]
    UnknownRequest {
        model: String,
        id: String,
        remembered: usize,
    },
    #[error("no shared-memory region `{region}` is registered")]
    UnknownRegion { region: String },
    #[error("shared-memory region `{region}` is registered already, as {found}")]
    RegionExists { region: String, found: String },
    #[error("shared-memory region `{region}` {found}, expected {expected}")]
    InvalidRegion {
        region: String,
        found: String,
        expected: String,
    },
    #[error(
        "shared-memory region `{region}` ended after {found} of the {expected} bytes from {offset}"
    )]
    RegionShort {
        region: String,
        offset: u64,
        found: u64,
        expected: u64,
    },
    #[error("model `{model}` refused the inputs: {}", cause.detail)]
    RunRefused { model: String, cause: RunError },
    #[error("model `{model}` failed: {}", cause.detail)]
    RunFailed { model: String, cause: RunError },
    #[error("fault in the {part}: {detail}")]
    Internal { part: &'static str, detail: String },
}

impl Fault {
    /// A setting of the trace or logging extension that cannot be set so; `None` is to
    /// take it back.
    pub(crate) fn setting(name: &str, values: Option<&[String]>, expected: &str) -> Self {
        let found = values.map_or("to be cleared".to_owned(), |values| {
            format!("`{}`", values.join("`, `"))
        });
        Self::Setting {
            name: name.to_owned(),
            found,
            expected: expected.to_owned(),
        }
    }

    /// Whether the message holds what the runtime or the operating system said.
    pub(crate) const fn quotes_the_machine(&self) -> bool {
        matches!(
            self,
            Self::ModelNotReady { .. }
                | Self::LoadFailed { .. }
                | Self::RunRefused { .. }
                | Self::RunFailed { .. }
                | Self::Internal { .. }
        )
    }

    /// The row of the table this fault belongs to.
    pub(crate) const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownModel { .. } => ErrorKind::UnknownModel,
            Self::UnknownVersion { .. } => ErrorKind::UnknownVersion,
            Self::ModelNotReady { .. } => ErrorKind::ModelNotReady,
            Self::Json { .. }
            | Self::Header { .. }
            | Self::Body { .. }
            | Self::Message { .. }
            | Self::Path { .. }
            | Self::Payload { .. }
            | Self::BinarySize { .. }
            | Self::RawCount { .. } => ErrorKind::InvalidRequest,
            Self::UnknownInput { .. } => ErrorKind::UnknownInput,
            Self::MissingInput { .. } => ErrorKind::MissingInput,
            Self::DuplicateName { .. } => ErrorKind::DuplicateName,
            Self::Shape { .. }
            | Self::Dimension { .. }
            | Self::BatchTooLarge { .. }
            | Self::BatchMismatch { .. }
            | Self::ShapeOverflow { .. } => ErrorKind::InvalidShape,
            Self::Type { .. } | Self::TypeName { .. } => ErrorKind::InvalidType,
            Self::ByteCount { .. } | Self::ElementCount { .. } | Self::StringLength { .. } => {
                ErrorKind::InvalidByteCount
            }
            Self::Element { .. }
            | Self::OutputElement { .. }
            | Self::Parameter { .. }
            | Self::ControlParameter { .. }
            | Self::Setting { .. }
            | Self::UnknownSetting { .. }
            | Self::LogSetting { .. } => ErrorKind::InvalidValue,
            Self::UnknownOutput { .. } => ErrorKind::UnknownOutput,
            Self::TooLarge { .. } | Self::TooMany { .. } => ErrorKind::TooLarge,
            Self::Unauthenticated { .. } => ErrorKind::Unauthenticated,
            Self::MediaType { .. } => ErrorKind::UnsupportedMediaType,
            Self::Unimplemented { .. } => ErrorKind::Unimplemented,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::MethodNotAllowed { .. } => ErrorKind::MethodNotAllowed,
            Self::ServerFull { .. } | Self::QueueFull { .. } => ErrorKind::QueueFull,
            Self::DeadlineUnreachable { .. } => ErrorKind::DeadlineUnreachable,
            Self::NoRoom { .. } => ErrorKind::NoRoom,
            Self::DeadlineDoomed { .. } => ErrorKind::DeadlineDoomed,
            Self::QueueTimeout { .. } => ErrorKind::QueueTimeout,
            Self::DeadlineExceeded { .. } => ErrorKind::DeadlineExceeded,
            Self::Cancelled { .. } => ErrorKind::Cancelled,
            Self::Draining => ErrorKind::Draining,
            Self::ShuttingDown => ErrorKind::ShuttingDown,
            Self::DeviceLost { .. } => ErrorKind::DeviceLost,
            Self::ControlDisabled { .. } => ErrorKind::ControlDisabled,
            Self::LoadFailed { .. } => ErrorKind::LoadFailed,
            Self::UnknownRequest { .. } => ErrorKind::UnknownRequest,
            Self::UnknownRegion { .. } => ErrorKind::UnknownRegion,
            Self::RegionExists { .. } => ErrorKind::RegionExists,
            Self::InvalidRegion { .. } => ErrorKind::InvalidRegion,
            Self::RegionShort { .. } => ErrorKind::RegionShort,
            Self::RunRefused { .. } => ErrorKind::RunRefused,
            Self::RunFailed { .. } => ErrorKind::RunFailed,
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }
}

fn queue_full_text(model: &str, which: QueueLimit, held: u64, wanted: u64, limit: u64) -> String {
    let unit = match which {
        QueueLimit::Requests => "requests",
        QueueLimit::Bytes => "bytes",
    };
    format!(
        "the queue of model `{model}` holds {held} of {limit} {unit} and the request would \
         add {wanted}"
    )
}
