//! The operators a network is built of, each with its shape, scale and multiply-adds.

use super::{Dim, Network, Value};
use crate::weights::Init;
use fugato_onnx::TensorProto;
use fugato_onnx::proto::AttributeProto;

/// Standard deviation of `max(x, 0)` for a unit normal `x`: `sqrt((1 - 1/pi) / 2)`.
pub(crate) const RELU_STD: f32 = 0.583_8;

/// Spread of biases and of batch normalisation's shifts, in units of the activations'
/// standard deviation: enough to be seen in the outputs, too little to dominate them.
pub(crate) const SHIFT: f32 = 0.05;

/// Relative spread of scales and running variances around 1.
pub(crate) const AROUND_SPREAD: f32 = 0.2;

/// Scale of the last batch normalisation of a residual branch, relative to 1: the branch
/// adds a quarter of its variance, so that a stage's variance grows slowly.
pub(crate) const BRANCH_SCALE: f32 = 0.5;

/// A convolution. Windows are square.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    /// Channels it makes.
    pub(crate) channels: u64,
    /// Side of the window.
    pub(crate) kernel: u64,
    /// Step between windows.
    pub(crate) stride: u64,
    /// Rows and columns of zeros on each side.
    pub(crate) padding: u64,
    /// Groups of channels that do not mix.
    pub(crate) groups: u64,
    /// Whether a bias is added.
    pub(crate) bias: bool,
}

impl Conv {
    /// A convolution that keeps the size at stride 1, without bias.
    pub(crate) const fn new(channels: u64, kernel: u64, stride: u64) -> Self {
        Self {
            channels,
            kernel,
            stride,
            padding: kernel / 2,
            groups: 1,
            bias: false,
        }
    }

    /// The same with a bias.
    pub(crate) const fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }
}

/// A max pooling. Windows are square.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// Side of the window.
    pub(crate) kernel: u64,
    /// Step between windows.
    pub(crate) stride: u64,
    /// Rows and columns added on each side, never the maximum.
    pub(crate) padding: u64,
    /// Whether a last window may stick out.
    pub(crate) ceil: bool,
}

/// A batch normalisation at inference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchNorm {
    /// Added to the variance.
    pub(crate) epsilon: f32,
    /// Mean of the scales.
    pub(crate) scale: f32,
}

impl Value {
    /// Gives the number of channels of an image value.
    pub(crate) fn channels(&self) -> u64 {
        self.size(1)
    }
}

impl Network {
    /// Adds a convolution; `name` is the prefix of its weights.
    pub(crate) fn conv(&mut self, name: &str, x: &Value, conv: Conv) -> Value {
        let fan_in = x.size(1) / conv.groups * conv.kernel * conv.kernel;
        let std = 1.0 / (x.std * (fan_in as f32).sqrt());
        let dims = [
            conv.channels,
            x.size(1) / conv.groups,
            conv.kernel,
            conv.kernel,
        ];
        let weight = self.param(format!("{name}.weight"), &dims, Init::Filter { std });
        let mut inputs = vec![x.name.as_str(), &weight];
        let bias;
        if conv.bias {
            bias = self.param(
                format!("{name}.bias"),
                &dims[..1],
                Init::Normal { std: SHIFT },
            );
            inputs.push(&bias);
        }
        let square = |side: u64| [side as i64, side as i64];
        let padding = conv.padding as i64;
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &square(conv.kernel)),
            AttributeProto::ints("strides", &square(conv.stride)),
            AttributeProto::ints("pads", &[padding; 4]),
            AttributeProto::int("group", conv.groups as i64),
        ];
        let side =
            |axis| Dim::Size((x.size(axis) + 2 * conv.padding - conv.kernel) / conv.stride + 1);
        let dims = vec![x.dims[0], Dim::Size(conv.channels), side(2), side(3)];
        self.count_multiply_adds(dims.iter().copied().chain([Dim::Size(fan_in)]).collect());
        self.node(name, "Conv", &inputs, attributes, dims)
    }

    /// Adds a batch normalisation whose running statistics are about those of its input.
    pub(crate) fn batch_norm(&mut self, name: &str, x: &Value, norm: BatchNorm) -> Value {
        let channels = [x.size(1)];
        let around = |mean: f32| Init::Uniform {
            mean,
            spread: mean * AROUND_SPREAD,
        };
        let shift = |std: f32| Init::Normal { std: SHIFT * std };
        let weight = self.param(format!("{name}.weight"), &channels, around(norm.scale));
        let bias = self.param(format!("{name}.bias"), &channels, shift(norm.scale));
        let mean = self.any_param(
            format!("{name}.running_mean"),
            &channels,
            shift(x.std),
            false,
        );
        let variance = around(x.std * x.std);
        let variance = self.any_param(format!("{name}.running_var"), &channels, variance, false);
        let mut y = self.node(
            name,
            "BatchNormalization",
            &[&x.name, &weight, &bias, &mean, &variance],
            vec![AttributeProto::float("epsilon", norm.epsilon)],
            x.dims.clone(),
        );
        y.std = norm.scale;
        y
    }

    /// Adds `max(x, 0)`.
    pub(crate) fn relu(&mut self, name: &str, x: &Value) -> Value {
        let y = self.node(name, "Relu", &[&x.name], Vec::new(), x.dims.clone());
        rectify(x, y)
    }

    /// Adds `min(max(x, 0), 6)`.
    pub(crate) fn relu6(&mut self, name: &str, x: &Value) -> Value {
        let zero = self.constant(TensorProto::from_f32s("zero", &[], &[0.0]));
        let six = self.constant(TensorProto::from_f32s("six", &[], &[6.0]));
        let y = self.node(
            name,
            "Clip",
            &[&x.name, &zero, &six],
            Vec::new(),
            x.dims.clone(),
        );
        rectify(x, y)
    }

    /// Adds a max pooling.
    pub(crate) fn max_pool(&mut self, name: &str, x: &Value, pool: Pool) -> Value {
        let (kernel, stride) = (pool.kernel as i64, pool.stride as i64);
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &[kernel; 2]),
            AttributeProto::ints("strides", &[stride; 2]),
            AttributeProto::ints("pads", &[pool.padding as i64; 4]),
            AttributeProto::int("ceil_mode", i64::from(pool.ceil)),
        ];
        let side = |axis| {
            let steps = x.size(axis) + 2 * pool.padding - pool.kernel;
            Dim::Size(
                1 + if pool.ceil {
                    steps.div_ceil(pool.stride)
                } else {
                    steps / pool.stride
                },
            )
        };
        let dims = vec![x.dims[0], x.dims[1], side(2), side(3)];
        let y = self.node(name, "MaxPool", &[&x.name], attributes, dims);
        Value {
            std: x.std,
            rectified: x.rectified,
            ..y
        }
    }

    /// Adds the mean over all positions of each channel, without the positions' axes.
    pub(crate) fn global_average_pool(&mut self, name: &str, x: &Value) -> Value {
        let dims = vec![x.dims[0], x.dims[1], Dim::Size(1), Dim::Size(1)];
        // Positions are neither independent nor equal: the mean of `n` of them is taken
        // to keep `n^(-1/4)` of their deviation, between `n^(-1/2)` and 1.
        let positions = (x.size(2) * x.size(3)) as f32;
        let mut y = self.node(name, "GlobalAveragePool", &[&x.name], Vec::new(), dims);
        y.std = x.std / positions.powf(0.25);
        self.flatten(&format!("{name}.flatten"), &y)
    }

    /// Joins all axes but the first.
    pub(crate) fn flatten(&mut self, name: &str, x: &Value) -> Value {
        let size = (1..x.dims.len()).map(|axis| x.size(axis)).product();
        let attributes = vec![AttributeProto::int("axis", 1)];
        let dims = vec![x.dims[0], Dim::Size(size)];
        let y = self.node(name, "Flatten", &[&x.name], attributes, dims);
        Value { std: x.std, ..y }
    }

    /// Adds a fully connected layer on `[batch, features]`; `name` prefixes its weights.
    pub(crate) fn linear(&mut self, name: &str, x: &Value, features: u64) -> Value {
        let fan_in = x.size(1);
        let std = 1.0 / (x.std * (fan_in as f32).sqrt());
        let weight = self.param(
            format!("{name}.weight"),
            &[features, fan_in],
            Init::Filter { std },
        );
        let bias = self.param(
            format!("{name}.bias"),
            &[features],
            Init::Normal { std: SHIFT },
        );
        let dims = vec![x.dims[0], Dim::Size(features)];
        self.count_multiply_adds(vec![x.dims[0], Dim::Size(features), Dim::Size(fan_in)]);
        let attributes = vec![AttributeProto::int("transB", 1)];
        self.node(name, "Gemm", &[&x.name, &weight, &bias], attributes, dims)
    }

    /// Adds the sum of two values, each broadcast to the other.
    pub(crate) fn add(&mut self, name: &str, a: &Value, b: &Value) -> Value {
        let dims = broadcast(a, b);
        let y = self.node(name, "Add", &[&a.name, &b.name], Vec::new(), dims);
        Value {
            std: a.std.hypot(b.std),
            rectified: a.rectified || b.rectified,
            ..y
        }
    }

    /// Joins values along the channels.
    pub(crate) fn concat(&mut self, name: &str, parts: &[Value]) -> Value {
        let channels = parts.iter().map(|part| part.size(1)).sum();
        let mut dims = parts[0].dims.clone();
        dims[1] = Dim::Size(channels);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let attributes = vec![AttributeProto::int("axis", 1)];
        let y = self.node(name, "Concat", &names, attributes, dims);
        let variance = |part: &Value| part.std * part.std * part.size(1) as f32;
        Value {
            std: (parts.iter().map(variance).sum::<f32>() / channels as f32).sqrt(),
            rectified: parts.iter().all(|part| part.rectified),
            ..y
        }
    }
}

fn rectify(x: &Value, y: Value) -> Value {
    Value {
        std: if x.rectified { x.std } else { x.std * RELU_STD },
        rectified: true,
        ..y
    }
}

/// Gives the shape of an elementwise operator's result.
///
/// # Panics
/// Where the shapes do not go together: an error in a model's builder.
pub(super) fn broadcast(a: &Value, b: &Value) -> Vec<Dim> {
    let rank = a.dims.len().max(b.dims.len());
    let dim = |value: &Value, axis: usize| {
        let missing = rank - value.dims.len();
        axis.checked_sub(missing)
            .map_or(Dim::Size(1), |axis| value.dims[axis])
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (left, right) if left == right => left,
            (Dim::Size(1), other) | (other, Dim::Size(1)) => other,
            (left, right) => panic!(
                "axis {axis} of `{}` is {left:?} and of `{}` is {right:?}",
                a.name, b.name
            ),
        })
        .collect()
}
