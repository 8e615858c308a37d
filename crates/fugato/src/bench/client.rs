//! Clients of the Open Inference Protocol, one per server address.

mod grpc;
mod http;
mod wire;

use super::tensor::{Tensor, TensorError};
use fugato_core::Nanos;
use fugato_device::{ElementType, TensorSpec};
use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// Connections over which the requests to one gRPC address are spread, so that they do
/// not queue behind one another in one HTTP/2 connection's window.
const GRPC_CONNECTIONS: usize = 4;

/// Where a server listens: `http://HOST:PORT` or `grpc://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    protocol: Protocol,
    authority: String,
}

/// The protocols of the Open Inference Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP with JSON and the binary tensor extension.
    Http,
    /// gRPC with raw tensor contents.
    Grpc,
}

/// Why a text is not a server's address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a server address; hint: write `grpc://127.0.0.1:8001` or `http://127.0.0.1:8000`"
)]
pub struct UrlError {
    text: String,
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = || UrlError {
            text: text.to_owned(),
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(error)?;
        let protocol = match scheme {
            "http" => Protocol::Http,
            "grpc" => Protocol::Grpc,
            _ => return Err(error()),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed: axum::http::uri::Authority = authority.parse().map_err(|_| error())?;
        if parsed.port_u16().is_none() {
            return Err(error());
        }
        Ok(Self {
            protocol,
            authority: authority.to_owned(),
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// Why a call got no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The server refused the request for now: too many requests, or too little time.
    #[error("{status}: {message}")]
    Rejected {
        /// The protocol's name of the status.
        status: String,
        /// The server's own word for the reason, finer than the status, where it has one
        /// (`fugato-error`).
        label: Option<String>,
        /// The server's message.
        message: String,
    },
    /// The server answered with any other error.
    #[error("{status}: {message}")]
    Status {
        /// The protocol's name of the status.
        status: String,
        /// The server's message.
        message: String,
    },
    /// The server could not be reached, or the connection broke.
    #[error("cannot call the server at {url}")]
    Transport {
        /// The server.
        url: String,
        /// The cause.
        source: TransportError,
    },
    /// The reply cannot be read.
    #[error("the server's reply is not valid: {what}")]
    Reply {
        /// What is wrong.
        what: ReplyFault,
    },
}

/// A broken connection, as the protocol's library tells it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The HTTP client could not connect or send.
    #[error(transparent)]
    Http(#[from] hyper_util::client::legacy::Error),
    /// The reply's body broke off.
    #[error(transparent)]
    Body(#[from] hyper::Error),
    /// The gRPC client could not connect or send.
    #[error(transparent)]
    Grpc(#[from] tonic::transport::Error),
    /// A gRPC call broke off.
    #[error("{message}: {cause}")]
    Broken {
        /// The client library's message.
        message: String,
        /// The root of its causes, which is mostly the system's own error.
        cause: String,
    },
}

impl From<tonic::Status> for TransportError {
    fn from(status: tonic::Status) -> Self {
        let mut cause: &dyn Error = &status;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        Self::Broken {
            cause: cause.to_string(),
            message: status.message().to_owned(),
        }
    }
}

/// What is wrong with a reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplyFault {
    /// JSON that is not of the protocol.
    #[error("its JSON cannot be read ({0})")]
    Json(serde_json::Error),
    /// A tensor that contradicts itself.
    #[error("{0}")]
    Tensor(TensorError),
    /// A type the protocol does not have.
    #[error("tensor `{name}` has datatype `{found}`")]
    Datatype {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A shape with sizes out of range.
    #[error("tensor `{name}` has shape {found:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<i64>,
    },
    /// An output that came neither as raw bytes nor binary, which a check needs.
    #[error("output `{name}` has no raw data, which checking answers needs")]
    NoRawData {
        /// The output.
        name: String,
    },
    /// An output in shared memory that cannot be read from there.
    #[error("its outputs cannot be read from shared memory ({source})")]
    Region {
        /// The cause.
        source: std::io::Error,
    },
    /// A header that is not a number, or sizes past the body.
    #[error("its binary sizes do not fit its {body} bytes of body")]
    BinarySizes {
        /// Bytes of the body.
        body: usize,
    },
}

impl From<ReplyFault> for CallError {
    fn from(what: ReplyFault) -> Self {
        Self::Reply { what }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The outputs; empty where they were not asked to be read.
    pub outputs: Vec<Tensor>,
    /// Items of the batch the request ran in: parameter `batch_size` of the reply, where
    /// the server gives it.
    pub batch: Option<u32>,
}

/// Whether a reply's outputs are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// They are received and dropped.
    Drop,
    /// They are given in [`Reply::outputs`].
    Read,
}

/// A client of one address.
#[derive(Clone, Debug)]
pub struct Client {
    url: ServerUrl,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Http(Box<http::HttpClient>),
    Grpc(grpc::GrpcClient),
}

/// A request encoded once, to be sent many times.
#[derive(Clone, Debug)]
pub struct Prepared(PreparedKind);

/// Where a request's outputs go, encoded once.
#[derive(Clone, Debug)]
pub struct PreparedOutputs(bytes::Bytes);

/// Where a server takes an input from.
#[derive(Clone, Copy, Debug)]
pub enum InputFrom<'a> {
    /// It comes with the request.
    Request,
    /// From a registered region of shared memory.
    Region {
        /// The region.
        region: &'a str,
        /// Bytes from the start of the region.
        offset: u64,
        /// Bytes.
        size: u64,
    },
}

/// Where in shared memory a server puts an output.
#[derive(Clone, Copy, Debug)]
pub struct OutputTo<'a> {
    /// The output.
    pub name: &'a str,
    /// The region.
    pub region: &'a str,
    /// Bytes from the start of the region.
    pub offset: u64,
    /// Bytes there is room for.
    pub size: u64,
}

#[derive(Clone, Debug)]
enum PreparedKind {
    Http(http::PreparedHttp),
    Grpc(grpc::PreparedGrpc),
}

impl Client {
    /// A client of `url`. Connects when it first calls. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`CallError::Transport`] for an address that gRPC cannot use.
    pub fn new(url: &ServerUrl) -> Result<Self, CallError> {
        let kind = match url.protocol {
            Protocol::Http => Kind::Http(Box::new(http::HttpClient::new(&url.authority))),
            Protocol::Grpc => Kind::Grpc(
                grpc::GrpcClient::new(&url.authority, GRPC_CONNECTIONS).map_err(|source| {
                    CallError::Transport {
                        url: url.to_string(),
                        source: source.into(),
                    }
                })?,
            ),
        };
        Ok(Self {
            url: url.clone(),
            kind,
        })
    }

    /// The address.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The inputs of `model`.
    ///
    /// # Errors
    /// [`CallError`], for an unknown model among others.
    pub async fn inputs(&self, model: &str) -> Result<Vec<TensorSpec>, CallError> {
        match &self.kind {
            Kind::Http(client) => client.inputs(model).await,
            Kind::Grpc(client) => client.inputs(model).await,
        }
        .map_err(|error| self.named(error))
    }

    /// Encodes a request for `model`, its inputs with it; with `slo`, as the request
    /// parameter `slo_us`.
    pub fn prepare(&self, model: &str, inputs: &[Tensor], slo: Option<Nanos>) -> Prepared {
        let with = vec![InputFrom::Request; inputs.len()];
        self.prepare_from(model, inputs, &with, slo)
    }

    /// As [`prepare`](Self::prepare), each input from where `from` says.
    pub fn prepare_from(
        &self,
        model: &str,
        inputs: &[Tensor],
        from: &[InputFrom<'_>],
        slo: Option<Nanos>,
    ) -> Prepared {
        Prepared(match &self.kind {
            Kind::Http(_) => PreparedKind::Http(http::PreparedHttp::new(model, inputs, from, slo)),
            Kind::Grpc(_) => PreparedKind::Grpc(grpc::PreparedGrpc::new(model, inputs, from, slo)),
        })
    }

    /// Encodes where a request's outputs go, to be sent with any prepared request.
    pub fn prepare_outputs(&self, outputs: &[OutputTo<'_>]) -> PreparedOutputs {
        PreparedOutputs(match &self.kind {
            Kind::Http(_) => http::outputs(outputs),
            Kind::Grpc(_) => grpc::outputs(outputs),
        })
    }

    /// Registers all `size` bytes of the shared memory `key` as `region`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn register(&self, region: &str, key: &str, size: u64) -> Result<(), CallError> {
        match &self.kind {
            Kind::Http(client) => client.register(region, key, size).await,
            Kind::Grpc(client) => client.register(region, key, size).await,
        }
        .map_err(|error| self.named(error))
    }

    /// Makes the server forget a region.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn unregister(&self, region: &str) -> Result<(), CallError> {
        match &self.kind {
            Kind::Http(client) => client.unregister(region).await,
            Kind::Grpc(client) => client.unregister(region).await,
        }
        .map_err(|error| self.named(error))
    }

    /// Sends a request that this client, or one of the same protocol, prepared.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Panics
    /// Where the request was prepared for the other protocol.
    pub async fn infer(&self, request: &Prepared, outputs: Outputs) -> Result<Reply, CallError> {
        self.infer_to(request, None, outputs).await
    }

    /// As [`infer`](Self::infer), with the outputs sent to where `to` says: those in
    /// [`Reply::outputs`] then have no data.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Panics
    /// As [`infer`](Self::infer).
    pub async fn infer_to(
        &self,
        request: &Prepared,
        to: Option<&PreparedOutputs>,
        outputs: Outputs,
    ) -> Result<Reply, CallError> {
        let to = to.map(|to| &to.0);
        match (&self.kind, &request.0) {
            (Kind::Http(client), PreparedKind::Http(request)) => {
                client.infer(request, to, outputs).await
            }
            (Kind::Grpc(client), PreparedKind::Grpc(request)) => {
                client.infer(request, to, outputs).await
            }
            (Kind::Http(_), PreparedKind::Grpc(_)) | (Kind::Grpc(_), PreparedKind::Http(_)) => {
                panic!(
                    "the request to {} was prepared for the other protocol",
                    self.url
                )
            }
        }
        .map_err(|error| self.named(error))
    }

    fn named(&self, error: Call) -> CallError {
        match error {
            Call::Transport(source) => CallError::Transport {
                url: self.url.to_string(),
                source,
            },
            Call::Other(error) => error,
        }
    }
}

/// The header and metadata with the server's own word for an error.
const ERROR_LABEL: &str = "fugato-error";

/// A call's error before the address is known.
enum Call {
    Transport(TransportError),
    Other(CallError),
}

impl<E: Into<TransportError>> From<E> for Call {
    fn from(error: E) -> Self {
        Self::Transport(error.into())
    }
}

impl From<ReplyFault> for Call {
    fn from(fault: ReplyFault) -> Self {
        Self::Other(fault.into())
    }
}

/// A tensor's type and shape from the wire's spelling.
fn spec(name: String, datatype: &str, shape: &[i64]) -> Result<TensorSpec, ReplyFault> {
    let element = element(&name, datatype)?;
    Ok(TensorSpec {
        shape: shape.iter().map(|size| u64::try_from(*size).ok()).collect(),
        symbols: vec![None; shape.len()],
        name,
        element,
    })
}

fn element(name: &str, datatype: &str) -> Result<ElementType, ReplyFault> {
    ElementType::from_oip_name(datatype).ok_or_else(|| ReplyFault::Datatype {
        name: name.to_owned(),
        found: datatype.to_owned(),
    })
}

/// An output whose bytes were received as they are.
fn output(
    name: String,
    datatype: &str,
    shape: &[i64],
    data: bytes::Bytes,
) -> Result<Tensor, ReplyFault> {
    let tensor = described(name, datatype, shape, data)?;
    tensor.check().map_err(ReplyFault::Tensor)?;
    Ok(tensor)
}

/// An output whose bytes are checked later.
fn described(
    name: String,
    datatype: &str,
    shape: &[i64],
    data: bytes::Bytes,
) -> Result<Tensor, ReplyFault> {
    let element = element(&name, datatype)?;
    let sizes = shape.iter().map(|size| u64::try_from(*size));
    let Ok(sizes) = sizes.collect::<Result<Vec<u64>, _>>() else {
        return Err(ReplyFault::Shape {
            name,
            found: shape.to_vec(),
        });
    };
    Ok(Tensor {
        name,
        element,
        shape: sizes,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in ["grpc://127.0.0.1:8001", "http://[::1]:8000", "http://a.b:1"] {
            let url: ServerUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), text);
        }
        for text in [
            "127.0.0.1:8001",
            "https://a:1",
            "grpc://a",
            "http://a:1/v2",
            "http://",
            "grpc://a:99999",
        ] {
            let error = text.parse::<ServerUrl>().expect_err(text);
            assert!(error.to_string().contains("hint"), "{error}");
        }
    }
}
