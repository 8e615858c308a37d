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

/// Rows and columns added above, to the left, below and to the right.
pub(crate) type Padding = [u64; 4];

/// A convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conv {
    /// Channels it makes.
    pub(crate) channels: u64,
    /// Height and width of the window.
    pub(crate) kernel: [u64; 2],
    /// Step between windows.
    pub(crate) stride: u64,
    /// Zeros around the image.
    pub(crate) padding: Padding,
    /// Groups of channels that do not mix.
    pub(crate) groups: u64,
    /// Whether a bias is added.
    pub(crate) bias: bool,
}

impl Conv {
    /// A convolution of square windows that keeps the size at stride 1, without bias.
    pub(crate) const fn new(channels: u64, side: u64, stride: u64) -> Self {
        Self {
            stride,
            ..Self::of_window(channels, [side, side])
        }
    }

    /// A convolution of stride 1 that keeps the size, without bias.
    pub(crate) const fn of_window(channels: u64, kernel: [u64; 2]) -> Self {
        let [rows, columns] = [kernel[0] / 2, kernel[1] / 2];
        Self {
            channels,
            kernel,
            stride: 1,
            padding: [rows, columns, rows, columns],
            groups: 1,
            bias: false,
        }
    }

    /// The same without padding.
    pub(crate) const fn unpadded(mut self) -> Self {
        self.padding = [0; 4];
        self
    }

    /// The same with a bias.
    pub(crate) const fn with_bias(mut self) -> Self {
        self.bias = true;
        self
    }
}

/// A pooling. Windows are square.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// Side of the window.
    pub(crate) kernel: u64,
    /// Step between windows.
    pub(crate) stride: u64,
    /// What is added around the image; never the maximum.
    pub(crate) padding: Padding,
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

impl Pool {
    fn attributes(&self) -> Vec<AttributeProto> {
        vec![
            AttributeProto::ints("kernel_shape", &[self.kernel as i64; 2]),
            AttributeProto::ints("strides", &[self.stride as i64; 2]),
            AttributeProto::ints("pads", &self.padding.map(|side| side as i64)),
            AttributeProto::int("ceil_mode", i64::from(self.ceil)),
        ]
    }

    fn dims(&self, x: &Value) -> Vec<Dim> {
        let side = |size: u64| {
            let steps = size - self.kernel;
            let steps = if self.ceil {
                steps.div_ceil(self.stride)
            } else {
                steps / self.stride
            };
            Dim::Size(steps + 1)
        };
        let [height, width] = padded(x, self.padding).map(side);
        vec![x.dims[0], x.dims[1], height, width]
    }
}

impl Value {
    /// Gives the number of channels of an image value.
    pub(crate) fn channels(&self) -> u64 {
        self.size(1)
    }

    /// Gives the height of an image value.
    pub(crate) fn side(&self) -> u64 {
        self.size(2)
    }
}

impl Network {
    /// Adds a convolution; `name` is the prefix of its weights.
    pub(crate) fn conv(&mut self, name: &str, x: &Value, conv: Conv) -> Value {
        let [rows, columns] = conv.kernel;
        let fan_in = x.size(1) / conv.groups * rows * columns;
        let std = 1.0 / (x.std * (fan_in as f32).sqrt());
        let dims = [conv.channels, x.size(1) / conv.groups, rows, columns];
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
        let attributes = vec![
            AttributeProto::ints("kernel_shape", &conv.kernel.map(|side| side as i64)),
            AttributeProto::ints("strides", &[conv.stride as i64; 2]),
            AttributeProto::ints("pads", &conv.padding.map(|side| side as i64)),
            AttributeProto::int("group", conv.groups as i64),
        ];
        let [height, width] = padded(x, conv.padding);
        let side = |size: u64, window: u64| Dim::Size((size - window) / conv.stride + 1);
        let (height, width) = (side(height, rows), side(width, columns));
        let dims = vec![x.dims[0], Dim::Size(conv.channels), height, width];
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
        let y = self.node(name, "MaxPool", &[&x.name], pool.attributes(), pool.dims(x));
        Value {
            std: x.std,
            rectified: x.rectified,
            ..y
        }
    }

    /// Adds an average pooling; `count_padding` says whether the zeros around the image
    /// count as elements of a window.
    pub(crate) fn average_pool(
        &mut self,
        name: &str,
        x: &Value,
        pool: Pool,
        count_padding: bool,
    ) -> Value {
        let mut attributes = pool.attributes();
        let count = i64::from(count_padding);
        attributes.push(AttributeProto::int("count_include_pad", count));
        let y = self.node(name, "AveragePool", &[&x.name], attributes, pool.dims(x));
        Value {
            std: x.std / calming(pool.kernel * pool.kernel),
            rectified: x.rectified,
            ..y
        }
    }

    /// Adds the mean over all positions of each channel, without the positions' axes.
    pub(crate) fn global_average_pool(&mut self, name: &str, x: &Value) -> Value {
        let dims = vec![x.dims[0], x.dims[1], Dim::Size(1), Dim::Size(1)];
        let mut y = self.node(name, "GlobalAveragePool", &[&x.name], Vec::new(), dims);
        y.std = x.std / calming(x.size(2) * x.size(3));
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

    /// Adds the sum of values of one shape, each times a weight of its own between 0 and 1.
    pub(crate) fn weighted_sum(&mut self, name: &str, parts: &[Value]) -> Value {
        const WEIGHT: f32 = 0.5;
        let mut scaled = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let init = Init::Uniform {
                mean: WEIGHT,
                spread: WEIGHT * AROUND_SPREAD,
            };
            let weight = self.param(format!("{name}.weight{index}"), &[], init);
            let inputs = [part.name.as_str(), &weight];
            let scale = format!("{name}.scale{index}");
            let y = self.node(&scale, "Mul", &inputs, Vec::new(), part.dims.clone());
            let std = part.std * WEIGHT;
            scaled.push(Value { std, ..y });
        }
        self.sum(name, &scaled)
    }

    /// Adds the mean of values of one shape.
    pub(crate) fn mean(&mut self, name: &str, parts: &[Value]) -> Value {
        let count = parts.len() as f32;
        let sum = self.sum(&format!("{name}.sum"), parts);
        let share = self.scalar(&format!("one_over_{}", parts.len()), 1.0 / count);
        let y = self.binary(name, "Mul", &sum, &share);
        let std = sum.std / count;
        Value { std, ..y }
    }

    fn sum(&mut self, name: &str, parts: &[Value]) -> Value {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let y = self.node(name, "Sum", &names, Vec::new(), parts[0].dims.clone());
        let variance = parts.iter().map(|part| part.std * part.std).sum::<f32>();
        let std = variance.sqrt();
        Value { std, ..y }
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

/// Gives the deviation of one position, in units of that of the mean of so many.
///
/// They are neither independent nor equal: the mean of `n` is taken to keep `n^(-1/4)` of
/// their deviation, between `n^(-1/2)` and 1.
fn calming(positions: u64) -> f32 {
    (positions as f32).powf(0.25)
}

/// Gives the height and width of an image with its padding.
fn padded(x: &Value, [top, left, bottom, right]: Padding) -> [u64; 2] {
    [x.size(2) + top + bottom, x.size(3) + left + right]
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
