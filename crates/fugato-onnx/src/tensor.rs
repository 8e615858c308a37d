//! The values of a tensor, whichever of its fields they are stored in.

use crate::external::{ExternalData, ExternalDataError};
use crate::proto::{DataLocation, DataType, GraphProto, TensorProto};
use bytes::Bytes;

/// Why a tensor's values cannot be given as bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// The element type's number is not in the format.
    #[error("tensor `{tensor}` has element type number {found}, which ONNX does not define")]
    UnknownType {
        /// Name of the tensor.
        tensor: String,
        /// The number found.
        found: i32,
    },
    /// A dimension is negative, or the shape has more elements than memory can hold.
    #[error("tensor `{tensor}` has the impossible shape {dims:?}")]
    Shape {
        /// Name of the tensor.
        tensor: String,
        /// The shape found.
        dims: Vec<i64>,
    },
    /// The number of bytes or elements stored is not what shape and type ask for.
    #[error(
        "tensor `{tensor}` of type {data_type:?} and shape {dims:?} holds {found} {unit}, expected {expected}"
    )]
    Length {
        /// Name of the tensor.
        tensor: String,
        /// Its element type.
        data_type: DataType,
        /// Its shape.
        dims: Vec<i64>,
        /// What is counted: bytes or elements.
        unit: &'static str,
        /// How many there are.
        found: u64,
        /// How many there must be.
        expected: u64,
    },
    /// A string tensor has no fixed-width bytes.
    #[error("tensor `{tensor}` holds strings, which have no fixed width; read `string_data`")]
    Strings {
        /// Name of the tensor.
        tensor: String,
    },
    /// The values are in another file that was not loaded.
    #[error(
        "tensor `{tensor}` keeps its values in another file\n\nhint: load the external data first"
    )]
    External {
        /// Name of the tensor.
        tensor: String,
    },
    /// The values were asked for as another type than the tensor's.
    #[error("tensor `{tensor}` has element type {found:?}, expected {expected:?}")]
    WrongType {
        /// Name of the tensor.
        tensor: String,
        /// The type found.
        found: DataType,
        /// The type asked for.
        expected: DataType,
    },
}

/// A named constant of a graph, with its values as bytes.
#[derive(Clone, Debug)]
pub struct Initializer<'a> {
    /// Name.
    pub name: &'a str,
    /// Element type.
    pub data_type: DataType,
    /// Shape; no dimension is negative.
    pub dims: &'a [i64],
    /// Values, little-endian, row-major; sub-byte types packed from the low bits.
    pub bytes: Bytes,
}

impl GraphProto {
    /// Gives the dense initializers that have fixed-width elements, in file order.
    ///
    /// # Errors
    /// An item is an error where the tensor's own shape, type and data disagree, where
    /// it holds strings, or where its external data is not loaded.
    pub fn initializers(&self) -> impl Iterator<Item = Result<Initializer<'_>, TensorError>> {
        self.initializer.iter().map(|tensor| {
            Ok(Initializer {
                name: tensor.name(),
                data_type: tensor.element_type()?,
                dims: &tensor.dims,
                bytes: tensor.to_bytes()?,
            })
        })
    }

    /// Finds a dense initializer by name.
    pub fn find_initializer(&self, name: &str) -> Option<&TensorProto> {
        self.initializer.iter().find(|tensor| tensor.name() == name)
    }
}

impl DataType {
    /// Bits of one element; `None` for strings and for `Undefined`.
    pub const fn bits(self) -> Option<u64> {
        Some(match self {
            Self::Undefined | Self::String => return None,
            Self::Uint2 | Self::Int2 => 2,
            Self::Uint4 | Self::Int4 | Self::Float4e2m1 => 4,
            Self::Float6e2m3 | Self::Float6e3m2 => 6,
            Self::Uint8
            | Self::Int8
            | Self::Bool
            | Self::Float8e4m3fn
            | Self::Float8e4m3fnuz
            | Self::Float8e5m2
            | Self::Float8e5m2fnuz
            | Self::Float8e8m0 => 8,
            Self::Uint16 | Self::Int16 | Self::Float16 | Self::Bfloat16 => 16,
            Self::Float | Self::Int32 | Self::Uint32 => 32,
            Self::Int64 | Self::Double | Self::Uint64 | Self::Complex64 => 64,
            Self::Complex128 => 128,
        })
    }
}

impl TensorProto {
    /// Gives the element type.
    ///
    /// # Errors
    /// [`TensorError::UnknownType`] where the number is absent, 0 or not in the format.
    pub fn element_type(&self) -> Result<DataType, TensorError> {
        let found = self.data_type.unwrap_or(0);
        match DataType::try_from(found) {
            Ok(DataType::Undefined) | Err(_) => Err(TensorError::UnknownType {
                tensor: self.name().to_owned(),
                found,
            }),
            Ok(data_type) => Ok(data_type),
        }
    }

    /// Counts the elements; a scalar has one.
    ///
    /// # Errors
    /// [`TensorError::Shape`] where a dimension is negative or the product overflows.
    pub fn element_count(&self) -> Result<u64, TensorError> {
        let product = self.dims.iter().try_fold(1_u64, |product, &dim| {
            product.checked_mul(u64::try_from(dim).ok()?)
        });
        product.ok_or_else(|| self.shape_error())
    }

    /// Gives the size of the values in bytes, sub-byte types packed.
    ///
    /// # Errors
    /// As [`Self::element_type`] and [`Self::element_count`], and
    /// [`TensorError::Strings`] for strings.
    pub fn byte_size(&self) -> Result<u64, TensorError> {
        let bits = self
            .element_type()?
            .bits()
            .ok_or_else(|| TensorError::Strings {
                tensor: self.name().to_owned(),
            })?;
        self.element_count()?
            .checked_mul(bits)
            .map(|bits| bits.div_ceil(8))
            .ok_or_else(|| self.shape_error())
    }

    /// Says whether the values are in another file.
    pub fn is_external(&self) -> bool {
        self.data_location == Some(DataLocation::External as i32)
    }

    /// Says where the values are, for a tensor whose values are in another file.
    ///
    /// # Errors
    /// Where the location is absent or leaves the model's folder, or a number is bad.
    pub fn external(&self) -> Result<Option<ExternalData>, ExternalDataError> {
        if self.is_external() {
            ExternalData::of(self).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Gives the values as little-endian bytes, row-major, sub-byte types packed.
    ///
    /// Copies nothing where they are stored as `raw_data`.
    ///
    /// # Errors
    /// Every kind of [`TensorError`] but `WrongType`.
    pub fn to_bytes(&self) -> Result<Bytes, TensorError> {
        let data_type = self.element_type()?;
        let expected = self.byte_size()?;
        if self.is_external() {
            return Err(TensorError::External {
                tensor: self.name().to_owned(),
            });
        }
        if let Some(raw) = &self.raw_data {
            self.check_length(data_type, "bytes", raw.len() as u64, expected)?;
            return Ok(raw.clone());
        }
        self.typed_bytes(data_type)
    }

    /// Gives the values of a float tensor.
    ///
    /// # Errors
    /// As [`Self::to_bytes`], and [`TensorError::WrongType`] for another element type.
    pub fn to_f32s(&self) -> Result<Vec<f32>, TensorError> {
        self.check_type(DataType::Float)?;
        let bytes = self.to_bytes()?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect())
    }

    /// Gives the values of an int64 tensor.
    ///
    /// # Errors
    /// As [`Self::to_bytes`], and [`TensorError::WrongType`] for another element type.
    pub fn to_i64s(&self) -> Result<Vec<i64>, TensorError> {
        self.check_type(DataType::Int64)?;
        let bytes = self.to_bytes()?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|&word| i64::from_le_bytes(word)).collect())
    }

    fn check_type(&self, expected: DataType) -> Result<(), TensorError> {
        let found = self.element_type()?;
        if found == expected {
            return Ok(());
        }
        Err(TensorError::WrongType {
            tensor: self.name().to_owned(),
            found,
            expected,
        })
    }

    /// Packs the typed fields. Only the field that belongs to the type is read.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "all types but these few share one field"
    )]
    fn typed_bytes(&self, data_type: DataType) -> Result<Bytes, TensorError> {
        match data_type {
            DataType::Float => self.pack(&self.float_data, 1, f32::to_le_bytes),
            DataType::Complex64 => self.pack(&self.float_data, 2, f32::to_le_bytes),
            DataType::Double => self.pack(&self.double_data, 1, f64::to_le_bytes),
            DataType::Complex128 => self.pack(&self.double_data, 2, f64::to_le_bytes),
            DataType::Int64 => self.pack(&self.int64_data, 1, i64::to_le_bytes),
            DataType::Uint64 => self.pack(&self.uint64_data, 1, u64::to_le_bytes),
            // The format stores uint32 in the low half of each uint64.
            DataType::Uint32 => self.pack(&self.uint64_data, 1, |v| (v as u32).to_le_bytes()),
            _ => self.small_integer_bytes(data_type),
        }
    }

    fn pack<T: Copy, const N: usize>(
        &self,
        entries: &[T],
        entries_per_element: u64,
        to_bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Bytes, TensorError> {
        let expected = self.element_count()?.checked_mul(entries_per_element);
        let expected = expected.ok_or_else(|| self.shape_error())?;
        self.check_length(
            self.element_type()?,
            "entries",
            entries.len() as u64,
            expected,
        )?;
        Ok(entries.iter().flat_map(|&entry| to_bytes(entry)).collect())
    }

    /// Packs `int32_data`: an entry is an element, but two for 4-bit and four for 2-bit
    /// types, which the format packs into the entry's low byte.
    fn small_integer_bytes(&self, data_type: DataType) -> Result<Bytes, TensorError> {
        let bits = data_type.bits().ok_or_else(|| TensorError::Strings {
            tensor: self.name().to_owned(),
        })?;
        let entries = self.int32_data.as_slice();
        let expected = match bits {
            2 | 4 => self.byte_size()?,
            _ => self.element_count()?,
        };
        self.check_length(data_type, "entries", entries.len() as u64, expected)?;
        Ok(match bits {
            6 => pack_six_bits(entries).into(),
            16 => entries
                .iter()
                .flat_map(|v| (*v as u16).to_le_bytes())
                .collect(),
            32 => entries.iter().flat_map(|v| v.to_le_bytes()).collect(),
            _ => entries.iter().map(|v| *v as u8).collect(),
        })
    }

    fn check_length(
        &self,
        data_type: DataType,
        unit: &'static str,
        found: u64,
        expected: u64,
    ) -> Result<(), TensorError> {
        if found == expected {
            return Ok(());
        }
        Err(TensorError::Length {
            tensor: self.name().to_owned(),
            data_type,
            dims: self.dims.clone(),
            unit,
            found,
            expected,
        })
    }

    fn shape_error(&self) -> TensorError {
        TensorError::Shape {
            tensor: self.name().to_owned(),
            dims: self.dims.clone(),
        }
    }
}

/// Packs 6-bit elements four to three bytes, low bits first.
fn pack_six_bits(entries: &[i32]) -> Vec<u8> {
    let mut packed = vec![0_u8; (entries.len() * 6).div_ceil(8)];
    for (index, entry) in entries.iter().enumerate() {
        let bits = u16::from(*entry as u8 & 0x3f) << (index * 6 % 8);
        let byte = index * 6 / 8;
        packed[byte] |= bits as u8;
        if bits > 0xff {
            packed[byte + 1] |= (bits >> 8) as u8;
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(data_type: DataType, dims: &[i64]) -> TensorProto {
        TensorProto {
            name: Some("w".to_owned()),
            data_type: Some(data_type as i32),
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn typed_fields_and_raw_data_give_the_same_bytes() {
        let float = TensorProto {
            float_data: vec![1.5, -2.0],
            ..typed(DataType::Float, &[2])
        };
        assert_eq!(float.to_f32s().expect("valid"), [1.5, -2.0]);
        let int = TensorProto {
            int64_data: vec![-1, 7],
            ..typed(DataType::Int64, &[2, 1])
        };
        assert_eq!(int.to_i64s().expect("valid"), [-1, 7]);
        let half = TensorProto {
            int32_data: vec![0x3c00, 0xc000],
            ..typed(DataType::Float16, &[2])
        };
        assert_eq!(half.to_bytes().expect("valid").as_ref(), [0, 0x3c, 0, 0xc0]);
        let uint32 = TensorProto {
            uint64_data: vec![0xffff_fffe],
            ..typed(DataType::Uint32, &[])
        };
        assert_eq!(
            uint32.to_bytes().expect("valid").as_ref(),
            [0xfe, 0xff, 0xff, 0xff]
        );
        let int4 = TensorProto {
            int32_data: vec![0x21, 0x03],
            ..typed(DataType::Uint4, &[3])
        };
        assert_eq!(int4.to_bytes().expect("valid").as_ref(), [0x21, 0x03]);
    }

    #[test]
    fn six_bit_elements_follow_the_formula_of_the_format() {
        let (x0, x1, x2, x3) = (0x2a_u8, 0x15, 0x3f, 0x21);
        let tensor = TensorProto {
            int32_data: [x0, x1, x2, x3].map(i32::from).to_vec(),
            ..typed(DataType::Float6e2m3, &[4])
        };
        let expected = [
            x0 | ((x1 & 0x3) << 6),
            (x1 >> 2) | ((x2 & 0xf) << 4),
            (x2 >> 4) | (x3 << 2),
        ];
        assert_eq!(tensor.to_bytes().expect("valid").as_ref(), expected);
    }

    #[test]
    fn lying_tensors_are_refused() {
        let short = TensorProto {
            raw_data: Some(Bytes::from_static(&[0; 7])),
            ..typed(DataType::Float, &[2])
        };
        assert!(matches!(
            short.to_bytes(),
            Err(TensorError::Length {
                found: 7,
                expected: 8,
                ..
            })
        ));
        let missing = typed(DataType::Int64, &[3]);
        assert!(matches!(
            missing.to_i64s(),
            Err(TensorError::Length {
                found: 0,
                expected: 3,
                ..
            })
        ));
        let negative = typed(DataType::Float, &[2, -1]);
        assert!(matches!(
            negative.to_bytes(),
            Err(TensorError::Shape { .. })
        ));
        let huge = typed(DataType::Float, &[i64::MAX, i64::MAX]);
        assert!(matches!(huge.to_bytes(), Err(TensorError::Shape { .. })));
        let unknown = TensorProto {
            data_type: Some(99),
            ..typed(DataType::Float, &[1])
        };
        assert!(matches!(
            unknown.to_bytes(),
            Err(TensorError::UnknownType { found: 99, .. })
        ));
        let strings = typed(DataType::String, &[1]);
        assert!(matches!(
            strings.to_bytes(),
            Err(TensorError::Strings { .. })
        ));
        assert!(matches!(
            strings.to_f32s(),
            Err(TensorError::WrongType { .. })
        ));
    }
}
