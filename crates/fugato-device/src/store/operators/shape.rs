//! Types and shapes of tensors, with the batch told from other dimensions.

use crate::store::info::ModelInfo;
use fugato_onnx::proto::tensor_shape_proto::{Dimension, dimension};
use fugato_onnx::proto::{SparseTensorProto, TensorType as TensorTypeProto};
use fugato_onnx::{DataType, TensorProto};

/// One dimension of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dim {
    Known(u64),
    /// The model's batch.
    Batch,
    /// Only running tells it.
    Varies,
}

/// The type of a tensor, as far as it is known before the model runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorType {
    data_type: DataType,
    /// `None` where even their number varies.
    dims: Option<Vec<Dim>>,
}

/// The bytes of a tensor of which nothing but the batch varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    /// Bytes at batch 1.
    pub(super) row_bytes: u64,
    /// Whether one of the dimensions is the batch.
    pub(super) per_item: bool,
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
                Err(_) => Dim::Varies,
            },
            Some(dimension::Value::DimParam(symbol)) if Some(symbol.as_str()) == batch => {
                Dim::Batch
            }
            Some(dimension::Value::DimParam(_)) | None => Dim::Varies,
        };
        let dims = found.shape.as_ref().map(|shape| shape.dim.iter().map(dim));
        Some(Self {
            data_type,
            dims: dims.map(Iterator::collect),
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
        })
    }

    /// The dimensions at batch 1, where nothing else varies.
    pub(super) fn dims_at_one(&self) -> Option<Vec<u64>> {
        let dims = self.dims.as_ref()?.iter().map(|dim| match dim {
            Dim::Known(size) => Some(*size),
            Dim::Batch => Some(1),
            Dim::Varies => None,
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
        (batches <= 1).then_some(Size {
            row_bytes: elements.checked_mul(bits)?.div_ceil(8),
            per_item: batches == 1,
        })
    }
}
