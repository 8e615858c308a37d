//! ONNX models: protobuf messages, reading, writing, tensors with external data.
//!
//! Start at [`read_model`] and [`save_model`]. [`proto`] holds the messages;
//! [`TensorProto::to_bytes`] gives a tensor's values however they are stored;
//! [`load_external_data`] brings values in from other files.
//!
//! **Invariant:** nothing read from a model is trusted: sizes are checked before memory
//! is taken, and external data cannot lie outside the model's folder.

mod build;
mod external;
pub mod proto;
mod read;
mod tensor;
mod visit;
mod write;

pub use external::{ExternalData, ExternalDataError, load_external_data};
pub use proto::{DataType, GraphProto, ModelProto, NodeProto, TensorProto};
pub use read::{ReadError, decode_model, read_metadata, read_model};
pub use tensor::{Initializer, TensorError};
pub use visit::visit_tensors_mut;
pub use write::{ExternalPolicy, WriteError, save_model, write_model};
