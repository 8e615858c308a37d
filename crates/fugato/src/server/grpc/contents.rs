//! Typed tensor contents: one list of a message per family of element types.

use crate::error::{Fault, InferError};
use crate::server::proto::InferTensorContents;
use bytes::Bytes;
use fugato_device::{ElementType, TensorData};
use std::fmt::Display;

/// The elements as bytes (or strings), from the list that belongs to the type.
///
/// # Errors
/// Elements in another list, an element that its type cannot hold, and the types that the
/// protocol sends raw only.
pub(super) fn tensor_data(
    model: &str,
    input: &str,
    element: ElementType,
    contents: InferTensorContents,
) -> Result<TensorData, InferError> {
    let at = At {
        model,
        input,
        element,
    };
    let Some(list) = list_of(element) else {
        return Err(at.misplaced("in `contents`", "it in `raw_input_contents`"));
    };
    for (name, count) in lists(&contents) {
        if name != list && count > 0 {
            let found = format!("in `{name}`");
            return Err(at.misplaced(&found, &format!("{element} in `{list}`")));
        }
    }
    let raw = match element {
        ElementType::Bool => contents
            .bool_contents
            .iter()
            .map(|&b| u8::from(b))
            .collect(),
        ElementType::Int8 => at.narrow(&contents.int_contents, i8::to_le_bytes)?,
        ElementType::Int16 => at.narrow(&contents.int_contents, i16::to_le_bytes)?,
        ElementType::Int32 => bytes(&contents.int_contents, i32::to_le_bytes),
        ElementType::Int64 => bytes(&contents.int64_contents, i64::to_le_bytes),
        ElementType::Uint8 => at.narrow(&contents.uint_contents, u8::to_le_bytes)?,
        ElementType::Uint16 => at.narrow(&contents.uint_contents, u16::to_le_bytes)?,
        ElementType::Uint32 => bytes(&contents.uint_contents, u32::to_le_bytes),
        ElementType::Uint64 => bytes(&contents.uint64_contents, u64::to_le_bytes),
        ElementType::Fp32 => bytes(&contents.fp32_contents, f32::to_le_bytes),
        ElementType::Fp64 => bytes(&contents.fp64_contents, f64::to_le_bytes),
        ElementType::Bytes | ElementType::Fp16 | ElementType::Bf16 => {
            return Ok(TensorData::Strings(contents.bytes_contents));
        }
    };
    Ok(TensorData::Raw(raw))
}

/// Bytes of all lists in memory; what strings hold is part of the message.
pub(super) fn decoded_bytes(contents: &InferTensorContents) -> usize {
    size_of_val(&*contents.bool_contents)
        + size_of_val(&*contents.int_contents)
        + size_of_val(&*contents.int64_contents)
        + size_of_val(&*contents.uint_contents)
        + size_of_val(&*contents.uint64_contents)
        + size_of_val(&*contents.fp32_contents)
        + size_of_val(&*contents.fp64_contents)
        + size_of_val(&*contents.bytes_contents)
}

/// The list that carries a type; none for the types the protocol sends raw only.
const fn list_of(element: ElementType) -> Option<&'static str> {
    Some(match element {
        ElementType::Bool => "bool_contents",
        ElementType::Int8 | ElementType::Int16 | ElementType::Int32 => "int_contents",
        ElementType::Int64 => "int64_contents",
        ElementType::Uint8 | ElementType::Uint16 | ElementType::Uint32 => "uint_contents",
        ElementType::Uint64 => "uint64_contents",
        ElementType::Fp32 => "fp32_contents",
        ElementType::Fp64 => "fp64_contents",
        ElementType::Bytes => "bytes_contents",
        ElementType::Fp16 | ElementType::Bf16 => return None,
    })
}

/// Every list with its length.
fn lists(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

/// Where the contents belong, for messages.
struct At<'a> {
    model: &'a str,
    input: &'a str,
    element: ElementType,
}

impl At<'_> {
    fn narrow<W, T, const N: usize>(
        &self,
        values: &[W],
        to_bytes: fn(T) -> [u8; N],
    ) -> Result<Bytes, InferError>
    where
        W: Copy + Display,
        T: TryFrom<W>,
    {
        let mut raw = Vec::with_capacity(values.len() * N);
        for (index, &value) in values.iter().enumerate() {
            let narrow = T::try_from(value).map_err(|_| Fault::Element {
                model: self.model.to_owned(),
                input: self.input.to_owned(),
                index,
                found: value.to_string(),
                expected: self.element.to_string(),
            })?;
            raw.extend_from_slice(&to_bytes(narrow));
        }
        Ok(raw.into())
    }

    fn misplaced(&self, found: &str, expected: &str) -> InferError {
        Fault::Payload {
            model: self.model.to_owned(),
            input: self.input.to_owned(),
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn read(element: ElementType, contents: InferTensorContents) -> Result<TensorData, InferError> {
        tensor_data("m", "x", element, contents)
    }

    #[test]
    fn every_type_comes_from_its_own_list() {
        let full = InferTensorContents {
            bool_contents: vec![true],
            int_contents: vec![1],
            int64_contents: vec![1],
            uint_contents: vec![1],
            uint64_contents: vec![1],
            fp32_contents: vec![1.0],
            fp64_contents: vec![1.0],
            bytes_contents: vec![Bytes::from_static(b"1")],
        };
        for element in ElementType::ALL {
            let error = read(element, full.clone()).expect_err("eight lists at once");
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{element}");
            assert!(error.to_string().contains("contents"), "{error}");
        }
        let contents = InferTensorContents {
            int_contents: vec![-1, 300],
            ..Default::default()
        };
        let raw = |bytes: &'static [u8]| TensorData::Raw(Bytes::from_static(bytes));
        let int16 = read(ElementType::Int16, contents.clone()).expect("they fit");
        assert_eq!(int16, raw(b"\xff\xff\x2c\x01"));
        let error = read(ElementType::Int8, contents).expect_err("300 does not fit");
        assert_eq!(error.kind(), ErrorKind::InvalidValue);
        assert_eq!(
            error.to_string(),
            "element 1 of input `x` of model `m` is 300, expected INT8"
        );
    }
}
