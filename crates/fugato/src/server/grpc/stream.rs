//! `ModelStreamInfer`: many requests and their replies in one call.
//!
//! Requests of a stream run at once; replies are sent in the order of their requests, as
//! Triton sends those of models that are not decoupled. An error of one request travels in
//! its reply's place. The stream itself ends when the client has sent its last request and
//! got its last reply, when a message cannot be read, or when the server drains; what was
//! accepted is answered before.
//!
//! **Invariant:** nothing is read from the client while [`REQUESTS_MAX`] requests are in
//! flight, or while it does not take the replies.

use super::calls::{Origin, infer};
use super::codec;
use super::messages::{Message, Messages, PREFIX_BYTES};
use crate::api::{InferenceService, TraceContext};
use crate::error::{Fault, InferError};
use crate::server::budget::Hold;
use crate::server::proto::infer_parameter::ParameterChoice;
use crate::server::proto::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::Stream as _;
use futures_util::stream::FuturesOrdered;
use hyper::HeaderMap;
use hyper::body::{Body, Frame};
use prost::Message as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

/// Requests of one stream in flight; more wait in the client. Above what a queue usually
/// holds, so that the queue, which can refuse, is what fills first; it bounds the state of
/// a stream at some megabytes beside its messages.
const REQUESTS_MAX: usize = 1024;

/// The parameter that marks a request's last reply, which here is its only one.
const FINAL: &str = "triton_final_response";

/// What a stream's headers say of it.
#[derive(Clone, Copy)]
pub(super) struct StreamOptions {
    /// The client's trace, of which every request is a part.
    pub(super) trace: Option<TraceContext>,
    /// Triton's header `triton_grpc_error: true`: the first error ends the stream with its
    /// code.
    pub(super) errors_end_it: bool,
}

/// The replies, as the body of the call's response.
pub(super) struct Replies<S> {
    service: Arc<S>,
    options: StreamOptions,
    /// The read of the next message, while there may be one.
    reading: Option<Reading>,
    answers: FuturesOrdered<Answering>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What the client is told at the end; `None` after it was.
    end: Option<Status>,
}

type Next = Result<Option<Result<Message, InferError>>, InferError>;
type Reading = Pin<Box<dyn Future<Output = (Messages, Next)> + Send>>;
type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a request got.
struct Answer {
    /// The reply as it goes over the wire.
    frame: Bytes,
    /// Why it failed, where it did.
    error: Option<InferError>,
}

fn read(mut messages: Messages) -> Reading {
    Box::pin(async move {
        let next = messages.next().await;
        (messages, next)
    })
}

impl<S: InferenceService> Replies<S> {
    /// Answers `messages` from `service`, until `stop`.
    pub(super) fn new(
        service: Arc<S>,
        messages: Messages,
        stop: CancellationToken,
        options: StreamOptions,
    ) -> Self {
        Self {
            service,
            options,
            reading: Some(read(messages)),
            answers: FuturesOrdered::new(),
            draining: Box::pin(stop.cancelled_owned()),
            end: Some(Status::ok("")),
        }
    }

    /// Starts the requests that came, as many as there is room for.
    fn poll_requests(&mut self, context: &mut Context<'_>) {
        if self.reading.is_some() && self.draining.as_mut().poll(context).is_ready() {
            self.stop_reading(InferError::from(Fault::Draining).into());
        }
        while self.answers.len() < REQUESTS_MAX
            && let Some(reading) = &mut self.reading
            && let Poll::Ready((messages, next)) = reading.as_mut().poll(context)
        {
            match next {
                Ok(Some(message)) => match self.answer(message) {
                    Ok(answering) => {
                        self.answers.push_back(answering);
                        self.reading = Some(read(messages));
                    }
                    Err(status) => self.stop_reading(status),
                },
                Ok(None) => self.reading = None,
                Err(error) => {
                    self.service.refused(error.kind());
                    self.stop_reading(error.into());
                }
            }
        }
    }

    /// No more requests are taken; the client is told why once it got its replies.
    fn stop_reading(&mut self, because: Status) {
        self.reading = None;
        self.end = Some(because);
    }

    /// Starts one request.
    ///
    /// # Errors
    /// The message is no request: the client does not speak the protocol.
    fn answer(&self, message: Result<Message, InferError>) -> Result<Answering, Status> {
        let Message {
            bytes,
            hold,
            arrived,
        } = match message {
            Ok(message) => message,
            Err(error) => {
                self.service.refused(error.kind());
                let answer = failed(&About::default(), error, None);
                return Ok(Box::pin(std::future::ready(answer)));
            }
        };
        let request: ModelInferRequest = codec::decode(bytes).map_err(|error| {
            self.service.refused(error.kind());
            Status::from(error)
        })?;
        let origin = Origin {
            arrived,
            // The stream's time limit is not each request's.
            timeout: None,
            trace: self.options.trace,
        };
        let service = Arc::clone(&self.service);
        Ok(Box::pin(async move {
            let about = About::of(&request);
            match infer(&*service, request, &hold, origin).await {
                Ok(mut reply) => {
                    let last = ParameterChoice::BoolParam(true);
                    reply.parameters.insert(FINAL.to_owned(), parameter(last));
                    Answer {
                        frame: framed(
                            &ModelStreamInferResponse {
                                error_message: String::new(),
                                infer_response: Some(reply),
                            },
                            Some(&hold),
                        ),
                        error: None,
                    }
                }
                Err(error) => failed(&about, error, Some(&hold)),
            }
        }))
    }
}

/// Which request a reply is of.
#[derive(Default)]
struct About {
    model: String,
    version: String,
    id: String,
}

impl About {
    fn of(request: &ModelInferRequest) -> Self {
        Self {
            model: request.model_name.clone(),
            version: request.model_version.clone(),
            id: request.id.clone(),
        }
    }
}

/// The reply to a request that failed. Metadata belongs to whole calls, so the error's
/// label is a parameter.
fn failed(about: &About, error: InferError, hold: Option<&Arc<Hold>>) -> Answer {
    let label = error.kind().facts().label.to_owned();
    let parameters = [
        (FINAL, ParameterChoice::BoolParam(true)),
        (super::ERROR_METADATA, ParameterChoice::StringParam(label)),
    ];
    let reply = ModelStreamInferResponse {
        error_message: error.to_string(),
        infer_response: Some(ModelInferResponse {
            model_name: about.model.clone(),
            model_version: about.version.clone(),
            id: about.id.clone(),
            parameters: parameters
                .map(|(name, choice)| (name.to_owned(), parameter(choice)))
                .into(),
            ..ModelInferResponse::default()
        }),
    };
    Answer {
        frame: framed(&reply, hold),
        error: Some(error),
    }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

/// A reply with its prefix, which counts until it is sent.
fn framed(reply: &ModelStreamInferResponse, hold: Option<&Arc<Hold>>) -> Bytes {
    let length = reply.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    // A reply of 4 GiB does not get this far: its tensors are larger than any model's.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    reply.encode_raw(&mut frame);
    let frame = frame.freeze();
    match hold {
        Some(hold) => {
            hold.answer(frame.len());
            hold.until_sent(frame)
        }
        None => frame,
    }
}

impl<S: InferenceService> Body for Replies<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.poll_requests(context);
        match Pin::new(&mut this.answers).poll_next(context) {
            Poll::Ready(Some(Answer { frame, error })) => match error {
                Some(error) if this.options.errors_end_it => {
                    this.stop_reading(error.into());
                    this.answers.clear();
                }
                _ => return Poll::Ready(Some(Ok(Frame::data(frame)))),
            },
            Poll::Ready(None) if this.reading.is_none() => {}
            Poll::Ready(None) | Poll::Pending => return Poll::Pending,
        }
        let Some(end) = this.end.take() else {
            return Poll::Ready(None);
        };
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(
            end.add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        ))
    }
}
