//! The operators of transformer encoders.

use super::ops::{AROUND_SPREAD, SHIFT, broadcast};
use super::{Dim, Network, Value};
use crate::weights::Init;
use fugato_onnx::proto::AttributeProto;
use fugato_onnx::{DataType, TensorProto};

impl Network {
    /// Looks rows of a new table up by index.
    pub(crate) fn embedding(&mut self, name: &str, ids: &Value, rows: u64, width: u64) -> Value {
        let table = self.embedding_table(name, rows, width);
        let mut dims = ids.dims.clone();
        dims.push(Dim::Size(width));
        self.node(name, "Gather", &[&table, &ids.name], Vec::new(), dims)
    }

    /// Gives the first rows of a new table, one for each token of `ids`
    /// [batch, sequence].
    pub(crate) fn positions(&mut self, name: &str, ids: &Value, rows: u64, width: u64) -> Value {
        let table = self.embedding_table(name, rows, width);
        let length = self.node(
            &format!("{name}.length"),
            "Shape",
            &[&ids.name],
            vec![
                AttributeProto::int("start", 1),
                AttributeProto::int("end", 2),
            ],
            vec![Dim::Size(1)],
        );
        let zero = self.constant(TensorProto::from_i64s("zero_index", &[1], &[0]));
        let dims = vec![Dim::Sequence, Dim::Size(width)];
        let inputs = [table.as_str(), &zero, &length.name, &zero];
        self.node(name, "Slice", &inputs, Vec::new(), dims)
    }

    fn embedding_table(&mut self, name: &str, rows: u64, width: u64) -> String {
        let init = Init::Normal { std: 1.0 };
        self.param(format!("{name}.weight"), &[rows, width], init)
    }

    /// Normalises over the last axis.
    pub(crate) fn layer_norm(&mut self, name: &str, x: &Value, epsilon: f32) -> Value {
        let axis = x.dims.len() - 1;
        let width = [x.size(axis)];
        let scale = Init::Uniform {
            mean: 1.0,
            spread: AROUND_SPREAD,
        };
        let weight = self.param(format!("{name}.weight"), &width, scale);
        let bias = self.param(format!("{name}.bias"), &width, Init::Normal { std: SHIFT });
        let attributes = vec![
            AttributeProto::int("axis", -1),
            AttributeProto::float("epsilon", epsilon),
        ];
        let inputs = [x.name.as_str(), &weight, &bias];
        self.node(
            name,
            "LayerNormalization",
            &inputs,
            attributes,
            x.dims.clone(),
        )
    }

    /// Adds a fully connected layer over the last axis, as a product and a sum, the form
    /// runtimes fuse.
    pub(crate) fn dense(&mut self, name: &str, x: &Value, features: u64) -> Value {
        let axis = x.dims.len() - 1;
        let fan_in = x.size(axis);
        let std = 1.0 / (x.std * (fan_in as f32).sqrt());
        let init = Init::Normal { std };
        let weight = self.param(format!("{name}.weight"), &[fan_in, features], init);
        let bias = self.param(
            format!("{name}.bias"),
            &[features],
            Init::Normal { std: SHIFT },
        );
        let mut dims = x.dims.clone();
        dims[axis] = Dim::Size(features);
        self.count_multiply_adds(dims.iter().copied().chain([Dim::Size(fan_in)]).collect());
        let product = format!("{name}.matmul");
        let inputs = [x.name.as_str(), &weight];
        let y = self.node(&product, "MatMul", &inputs, Vec::new(), dims.clone());
        self.node(name, "Add", &[&bias, &y.name], Vec::new(), dims)
    }

    /// Multiplies matrices of the last two axes; the axes before must be equal.
    pub(crate) fn matmul(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        let (rank, inner) = (a.dims.len(), a.dims[a.dims.len() - 1]);
        assert_eq!(
            inner,
            b.dims[rank - 2],
            "inner axes of `{}` and `{}`",
            a.name,
            b.name
        );
        let mut dims = a.dims.clone();
        dims[rank - 1] = b.dims[rank - 1];
        self.count_multiply_adds(dims.iter().copied().chain([inner]).collect());
        self.node(name, "MatMul", &[&a.name, &b.name], Vec::new(), dims)
    }

    /// Reshapes; a size of 0 in `target` copies the axis of `x`.
    pub(crate) fn reshape(&mut self, name: &str, x: &Value, target: &[u64]) -> Value {
        let sizes: Vec<i64> = target.iter().map(|&size| size as i64).collect();
        let shape = TensorProto::from_i64s(format!("{name}.shape"), &[sizes.len() as i64], &sizes);
        let shape = self.constant(shape);
        let dims = (0..).zip(target).map(|(axis, &size)| match size {
            0 => x.dims[axis],
            size => Dim::Size(size),
        });
        self.node(
            name,
            "Reshape",
            &[&x.name, &shape],
            Vec::new(),
            dims.collect(),
        )
    }

    /// Swaps axes: axis `i` of the result is axis `order[i]` of `x`.
    pub(crate) fn transpose(&mut self, name: &str, x: &Value, order: &[usize]) -> Value {
        let axes: Vec<i64> = order.iter().map(|&axis| axis as i64).collect();
        let dims = order.iter().map(|&axis| x.dims[axis]).collect();
        let attributes = vec![AttributeProto::ints("perm", &axes)];
        self.node(name, "Transpose", &[&x.name], attributes, dims)
    }

    /// Normalises to positive values of sum 1 over the last axis.
    pub(crate) fn softmax(&mut self, name: &str, x: &Value) -> Value {
        let attributes = vec![AttributeProto::int("axis", -1)];
        self.node(name, "Softmax", &[&x.name], attributes, x.dims.clone())
    }

    /// Applies an elementwise function of no parameters.
    pub(crate) fn unary(&mut self, name: &str, op_type: &str, x: &Value) -> Value {
        self.node(name, op_type, &[&x.name], Vec::new(), x.dims.clone())
    }

    /// Applies an elementwise operator of two values, each broadcast to the other.
    pub(crate) fn binary(&mut self, name: &str, op_type: &str, a: &Value, b: &Value) -> Value {
        let dims = broadcast(a, b);
        self.node(name, op_type, &[&a.name, &b.name], Vec::new(), dims)
    }

    /// Gives a float constant of no axes.
    pub(crate) fn scalar(&mut self, name: &str, value: f32) -> Value {
        let name = self.constant(TensorProto::from_f32s(name, &[], &[value]));
        Value {
            name,
            dims: Vec::new(),
            std: 0.0,
            rectified: false,
        }
    }

    /// Adds the Gaussian error linear unit `x * (1 + erf(x / sqrt 2)) / 2`, in operators
    /// every version has.
    pub(crate) fn gelu(&mut self, name: &str, x: &Value) -> Value {
        let root = self.scalar("sqrt_two", std::f32::consts::SQRT_2);
        let one = self.scalar("one", 1.0);
        let half = self.scalar("half", 0.5);
        let y = self.binary(&format!("{name}.div"), "Div", x, &root);
        let y = self.unary(&format!("{name}.erf"), "Erf", &y);
        let y = self.binary(&format!("{name}.add"), "Add", &y, &one);
        let y = self.binary(&format!("{name}.mul"), "Mul", x, &y);
        let y = self.binary(name, "Mul", &y, &half);
        // The root of the mean square of gelu over a unit normal; its mean is small.
        Value { std: 0.65, ..y }
    }

    /// Makes the additive mask of an attention: 0 where `mask` [batch, sequence] is 1,
    /// and a number that softmax turns to 0 elsewhere; [batch, 1, 1, sequence].
    pub(crate) fn attention_mask(&mut self, name: &str, mask: &Value) -> Value {
        let axes = self.constant(TensorProto::from_i64s("mask_axes", &[2], &[1, 2]));
        let one_size = Dim::Size(1);
        let dims = vec![mask.dims[0], one_size, one_size, mask.dims[1]];
        let inputs = [mask.name.as_str(), &axes];
        let wide = format!("{name}.unsqueeze");
        let y = self.node(&wide, "Unsqueeze", &inputs, Vec::new(), dims.clone());
        let to = vec![AttributeProto::int("to", DataType::Float as i64)];
        let y = self.node(&format!("{name}.cast"), "Cast", &[&y.name], to, dims);
        let one = self.scalar("one", 1.0);
        // As in the published code; -inf would give NaN for a row that is all masked.
        let low = self.scalar("mask_low", -10_000.0);
        let y = self.binary(&format!("{name}.sub"), "Sub", &one, &y);
        self.binary(name, "Mul", &y, &low)
    }

    /// Takes the first token of each item: [batch, width] of [batch, sequence, width].
    pub(crate) fn first_token(&mut self, name: &str, x: &Value) -> Value {
        let index = self.constant(TensorProto::from_i64s("first_index", &[], &[0]));
        let attributes = vec![AttributeProto::int("axis", 1)];
        let dims = vec![x.dims[0], x.dims[2]];
        self.node(name, "Gather", &[&x.name, &index], attributes, dims)
    }
}
