//! Triton's model configuration: reading `config.pbtxt`, understanding it, and answering
//! clients with the completed form.
//!
//! The path of a configuration: [`parse_text`] or [`parse_json`] make the message,
//! [`interpret()`] turns it into [`Wanted`] (what it asks, in Fugato's words) or refuses it,
//! [`check()`] compares that with the model file, and [`complete()`] makes what clients are
//! told. [`treatments`] says, field by field, what is done, warned about or refused.
//!
//! **Invariant:** nothing that a configuration asks is dropped in silence: each field is
//! read by [`interpret()`], named in [`Wanted::notices`], or an error.

mod check;
mod complete;
mod error;
mod fields;
mod interpret;
mod text;
mod wanted;

#[cfg(test)]
mod tests;

pub use check::check;
pub use complete::complete;
pub use error::ModelConfigError;
pub use fields::{Treatment, treatments};
pub use interpret::interpret;
pub use text::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, parse_json, parse_text, to_json};
pub use wanted::{
    BatchLimit, DeclaredTensor, DynamicBatching, Notice, QueuePolicy, TimeoutAction, Wanted,
    WarmUp, WarmUpData, WarmUpInput,
};

use crate::server::proto::DataType;
use fugato_device::ElementType;

/// The backend of every model, as Triton spells it.
pub const BACKEND: &str = "onnxruntime";

/// The configuration's name of an element type.
pub(crate) const fn data_type(element: ElementType) -> DataType {
    match element {
        ElementType::Bool => DataType::TypeBool,
        ElementType::Uint8 => DataType::TypeUint8,
        ElementType::Uint16 => DataType::TypeUint16,
        ElementType::Uint32 => DataType::TypeUint32,
        ElementType::Uint64 => DataType::TypeUint64,
        ElementType::Int8 => DataType::TypeInt8,
        ElementType::Int16 => DataType::TypeInt16,
        ElementType::Int32 => DataType::TypeInt32,
        ElementType::Int64 => DataType::TypeInt64,
        ElementType::Fp16 => DataType::TypeFp16,
        ElementType::Bf16 => DataType::TypeBf16,
        ElementType::Fp32 => DataType::TypeFp32,
        ElementType::Fp64 => DataType::TypeFp64,
        ElementType::Bytes => DataType::TypeString,
    }
}

/// The element type that the configuration's number of a type denotes.
fn element_type(number: i32) -> Option<ElementType> {
    ElementType::ALL
        .into_iter()
        .find(|element| data_type(*element) as i32 == number)
}
