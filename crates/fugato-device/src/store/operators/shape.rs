//! Types and shapes of tensors, with the batch told from other dimensions.

use crate::store::info::ModelInfo;
use fugato_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fugato_onnx::proto::{SparseTensorProto, TensorType as TensorTypeProto, ValueInfoProto};
use fugato_onnx::{DataType, TensorProto};

/// One dimension of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dim {
    Known(u64),
    /// The model's batch.
    Batch,
    /// Only running tells it; equal symbols are equal sizes.
    Varies(Option<String>),
}

/// The type of a tensor, as far as it is known before the model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorType {
    data_type: DataType,
    /// `None` where even their number varies.
    dims: Option<Vec<Dim>>,
    batch: Option<String>,
}

/// The shape and bytes of a tensor of which nothing but the batch varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) data_type: DataType,
    /// -1 where the batch stands.
    pub(crate) dims: Vec<i64>,
    /// Bytes at batch 1.
    pub(crate) row_bytes: u64,
    /// Whether one of the dimensions is the batch.
    pub(crate) per_item: bool,
}

/// The name of the first dimension of all inputs and outputs, if they share one.
pub(super) fn batch_symbol(info: &ModelInfo) -> Option<String> {
    let mut all = info.inputs.iter().chain(&info.outputs);
    let symbol = all.next()?.symbols.first()?.clone()?;
    let is_first = |spec: &crate::TensorSpec| spec.symbols.first() == Some(&Some(symbol.clone()));
    all.all(is_first).then_some(symbol)
}

impl TensorType {
    /// `None` where the element type is not known.
    pub(super) fn read(found: &TensorTypeProto, batch: Option<&str>) -> Option<Self> {
        let data_type = DataType::try_from(found.elem_type?).ok()?;
        let dim = |dim: &Dimension| match &dim.value {
            Some(dimension::Value::DimValue(size)) => match u64::try_from(*size) {
                Ok(size) => Dim::Known(size),
                Err(_) => Dim::Varies(None),
            },
            Some(dimension::Value::DimParam(symbol)) if Some(symbol.as_str()) == batch => {
                Dim::Batch
            }
            Some(dimension::Value::DimParam(symbol)) => Dim::Varies(Some(symbol.clone())),
            None => Dim::Varies(None),
        };
        let dims = found.shape.as_ref().map(|shape| shape.dim.iter().map(dim));
        Some(Self {
            data_type,
            dims: dims.map(Iterator::collect),
            batch: batch.map(str::to_owned),
        })
    }

    pub(super) fn of_weight(tensor: &TensorProto) -> Option<Self> {
        Self::known(tensor, &tensor.dims)
    }

    pub(super) fn of_sparse(sparse: &SparseTensorProto) -> Option<Self> {
        Self::known(sparse.values.as_ref()?, &sparse.dims)
    }

    fn known(tensor: &TensorProto, dims: &[i64]) -> Option<Self> {
        let dims = dims.iter().map(|&dim| u64::try_from(dim).map(Dim::Known));
        Some(Self {
            data_type: tensor.element_type().ok()?,
            dims: Some(dims.collect::<Result<_, _>>().ok()?),
            batch: None,
        })
    }

    /// As a file describes it.
    pub(super) fn value_info(&self, name: &str) -> ValueInfoProto {
        let dim = |dim: &Dim| match (dim, &self.batch) {
            (Dim::Known(size), _) => {
                i64::try_from(*size).map_or_else(|_| Dimension::default(), Dimension::size)
            }
            (Dim::Batch, Some(symbol)) | (Dim::Varies(Some(symbol)), _) => {
                Dimension::symbol(symbol.clone())
            }
            (Dim::Batch, None) | (Dim::Varies(None), _) => Dimension::default(),
        };
        let dims = self.dims.iter().flatten().map(dim).collect();
        let mut value = ValueInfoProto::tensor(name, self.data_type, dims);
        if let (None, Some(tensor)) = (&self.dims, value.tensor_type_mut()) {
            tensor.shape = None;
        }
        value
    }

    /// The dimensions at batch 1, where nothing else varies.
    pub(super) fn dims_at_one(&self) -> Option<Vec<u64>> {
        let dims = self.dims.as_ref()?.iter().map(|dim| match dim {
            Dim::Known(size) => Some(*size),
            Dim::Batch => Some(1),
            Dim::Varies(_) => None,
        });
        dims.collect()
    }

    /// `None` where another dimension than the batch varies, the batch stands twice, or
    /// elements have no size of their own.
    pub(super) fn size(&self) -> Option<Size> {
        let at_one = self.dims_at_one()?;
        let bits = self.data_type.bits()?;
        let elements = at_one
            .iter()
            .try_fold(1_u64, |product, &dim| product.checked_mul(dim))?;
        let dims = self.dims.as_ref()?;
        let batches = dims.iter().filter(|dim| **dim == Dim::Batch).count();
        let signed = dims.iter().zip(at_one).map(|(dim, size)| match dim {
            Dim::Batch => Some(-1),
            Dim::Known(_) | Dim::Varies(_) => i64::try_from(size).ok(),
        });
        (batches <= 1).then_some(Size {
            data_type: self.data_type,
            dims: signed.collect::<Option<_>>()?,
            row_bytes: elements.checked_mul(bits)?.div_ceil(8),
            per_item: batches == 1,
        })
    }
}
