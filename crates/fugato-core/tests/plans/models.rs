//! The four models of IOS as graphs: operators with their shapes, without weights.
//!
//! Their shapes are those of the papers (Inception-v3, SqueezeNet with complex bypass,
//! NASNet-A 6 @ 4032, RandWire), their operators those of IOS: a ReLU with the separable
//! convolution after it is one, a sum or a concatenation that feeds an operator is part of
//! it. Such an operator is several kernels, those of IOS's runtime (its `ios_runtime.cu`): a
//! convolution without an activation after it adds its bias in one of its own, so is each sum, and
//! a concatenation copies term by term.
//! RandWire's graphs are random; these are of the same kind as the ones that IOS drew, not the
//! same ones.

use fugato_core::TensorIndex;
use fugato_core::graph::{Graph, Operator, Span, Stacks, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What an operator gives: a tensor of `channels` maps.
#[derive(Clone, Copy)]
struct Value {
    tensor: TensorIndex,
    channels: u64,
    height: u64,
    width: u64,
}

/// A window that moves over maps: height, width, stride, padding of both.
#[derive(Clone, Copy)]
struct Window {
    size: (u64, u64),
    stride: u64,
    padding: (u64, u64),
}

const POINT: Window = same(1, 1);

/// A window whose maps keep their size at stride 1.
const fn same(size: u64, stride: u64) -> Window {
    Window {
        size: (size, size),
        stride,
        padding: (size / 2, size / 2),
    }
}

/// A window without padding.
const fn valid(size: u64, stride: u64) -> Window {
    Window {
        size: (size, size),
        stride,
        padding: (0, 0),
    }
}

/// A window of two sizes whose maps keep theirs.
const fn flat(height: u64, width: u64) -> Window {
    Window {
        size: (height, width),
        stride: 1,
        padding: (height / 2, width / 2),
    }
}

#[derive(Default)]
struct Net {
    tensors: Vec<Tensor>,
    operators: Vec<Operator>,
}

impl Net {
    fn value(&mut self, channels: u64, height: u64, width: u64) -> Value {
        let tensor = TensorIndex::at(self.tensors.len());
        self.tensors.push(Tensor {
            name: format!("t{}", tensor.0),
            bytes: 4 * channels * height * width,
            per_item: true,
            ..Tensor::default()
        });
        Value {
            tensor,
            channels,
            height,
            width,
        }
    }

    fn operator(
        &mut self,
        op_type: &str,
        inputs: &[Value],
        output: Value,
        macs: u64,
        weights: u64,
    ) {
        self.operators.push(Operator {
            name: format!("{op_type}-{}", self.operators.len()),
            op_type: op_type.to_owned(),
            inputs: inputs.iter().map(|value| value.tensor).collect(),
            outputs: vec![output.tensor],
            flops: 2 * macs,
            weight_bytes: 4 * weights,
            stacks: None,
            joins: matches!(op_type, "Copy" | "Concat"),
        });
    }

    /// Convolution over groups of `per_group` input channels.
    fn grouped(&mut self, x: Value, channels: u64, window: Window, per_group: u64) -> Value {
        let (height, width) = moved(x, window);
        let output = self.value(channels, height, width);
        let weights = channels * per_group * window.size.0 * window.size.1;
        self.operator("Conv", &[x], output, weights * height * width, weights);
        if let Some(operator) = self.operators.last_mut()
            && per_group == x.channels
        {
            let span = |size, before| Span { before, size };
            operator.stacks = Some(Stacks {
                alike: format!("{height} x {width} by {}", window.stride),
                window: fugato_core::graph::Window(vec![
                    span(window.size.0, window.padding.0),
                    span(window.size.1, window.padding.1),
                ]),
            });
        }
        output
    }

    fn conv(&mut self, x: Value, channels: u64, window: Window) -> Value {
        self.grouped(x, channels, window, x.channels)
    }

    fn pool(&mut self, x: Value, window: Window) -> Value {
        let (height, width) = moved(x, window);
        let output = self.value(x.channels, height, width);
        let macs = x.channels * height * width * window.size.0 * window.size.1 / 2;
        self.operator("Pool", &[x], output, macs, 0);
        output
    }

    /// The sum of values, with what else is done to each element.
    fn sum(&mut self, op_type: &str, inputs: &[Value]) -> Value {
        let Value {
            channels,
            height,
            width,
            ..
        } = inputs[0];
        let output = self.value(channels, height, width);
        let elements = channels * height * width;
        self.operator(
            op_type,
            inputs,
            output,
            elements * inputs.len() as u64 / 2,
            0,
        );
        output
    }

    /// Sums, one beside the other: terms of one or two values.
    fn concat(&mut self, terms: &[&[Value]]) -> Value {
        let channels = terms.iter().map(|term| term[0].channels).sum();
        let mut read = Vec::new();
        for (place, term) in terms.iter().enumerate() {
            let mut x = term[0];
            if term.len() > 1 {
                x = self.sum("Sum", term);
                x = self.within(x);
            }
            if place + 1 < terms.len() {
                // What it writes is counted with the last one, which stands for the whole.
                let copied = self.value(0, x.height, x.width);
                self.operator("Copy", &[x], copied, 0, 0);
                x = self.within(copied);
            }
            read.push(x);
        }
        let output = self.value(channels, terms[0][0].height, terms[0][0].width);
        self.operator("Concat", &read, output, 0, 0);
        output
    }

    /// Marks what an operator of IOS passes on within itself.
    fn within(&mut self, value: Value) -> Value {
        let tensor = &mut self.tensors[value.tensor.place()];
        tensor.uncut = Some("one operator of IOS".to_owned());
        value
    }

    /// The bias of a convolution that no activation follows.
    fn biased(&mut self, x: Value) -> Value {
        let x = self.within(x);
        self.sum("Bias", &[x])
    }

    fn relu_conv(&mut self, x: Value, channels: u64, window: Window) -> Value {
        let x = self.sum("Relu", &[x]);
        let x = self.within(x);
        let x = self.conv(x, channels, window);
        self.biased(x)
    }

    /// ReLU of a sum, then a convolution by channel, then one by point.
    fn relu_separable(&mut self, inputs: &[Value], channels: u64, window: Window) -> Value {
        let mut x = inputs[0];
        if inputs.len() > 1 {
            x = self.sum("Sum", inputs);
            x = self.within(x);
        }
        let x = self.sum("Relu", &[x]);
        let x = self.within(x);
        let x = self.grouped(x, x.channels, window, 1);
        let x = self.biased(x);
        let x = self.within(x);
        let x = self.conv(x, channels, POINT);
        self.biased(x)
    }

    /// Two of them, the first with the stride.
    fn branch(&mut self, x: Value, channels: u64, size: u64, stride: u64) -> Value {
        let x = self.relu_separable(&[x], channels, same(size, stride));
        self.relu_separable(&[x], channels, same(size, 1))
    }

    fn graph(self, input: Value, output: Value) -> Graph {
        let (inputs, outputs) = (vec![input.tensor], vec![output.tensor]);
        Graph::new(self.tensors, self.operators, inputs, outputs).expect("the builder makes graphs")
    }
}

fn moved(x: Value, window: Window) -> (u64, u64) {
    let Window {
        size,
        stride,
        padding,
    } = window;
    (
        (x.height + 2 * padding.0 - size.0) / stride + 1,
        (x.width + 2 * padding.1 - size.1) / stride + 1,
    )
}

/// SqueezeNet 1.0 with complex bypass, at 224 x 224.
pub(crate) fn squeezenet() -> Graph {
    let mut net = Net::default();
    let input = net.value(3, 224, 224);
    let mut x = net.conv(input, 96, same(7, 2));
    x = net.pool(x, valid(3, 2));
    for (place, (squeeze, expand)) in [
        (16, 64),
        (16, 64),
        (32, 128),
        (32, 128),
        (48, 192),
        (48, 192),
        (64, 256),
        (64, 256),
    ]
    .into_iter()
    .enumerate()
    {
        let squeezed = net.conv(x, squeeze, POINT);
        let wide = net.conv(squeezed, expand, same(3, 1));
        let narrow = net.conv(squeezed, expand, POINT);
        let both = net.concat(&[&[wide], &[narrow]]);
        let beside = if both.channels == x.channels {
            x
        } else {
            net.conv(x, 2 * expand, POINT)
        };
        x = net.sum("Sum", &[both, beside]);
        if place == 2 || place == 6 {
            x = net.pool(x, valid(3, 2));
        }
    }
    x = net.conv(x, 1000, POINT);
    let output = net.pool(x, valid(x.height, 1));
    net.graph(input, output)
}

/// Inception-v3 at 299 x 299, without its classifier.
pub(crate) fn inception_v3() -> Graph {
    let mut net = Net::default();
    let input = net.value(3, 299, 299);
    let mut x = net.conv(input, 32, valid(3, 2));
    x = net.conv(x, 32, valid(3, 1));
    x = net.conv(x, 64, same(3, 1));
    x = net.pool(x, valid(3, 2));
    x = net.conv(x, 80, POINT);
    x = net.conv(x, 192, valid(3, 1));
    x = net.pool(x, valid(3, 2));
    for pooled in [32, 64, 64] {
        let one = net.conv(x, 64, POINT);
        let five = net.chain(x, &[(48, POINT), (64, same(5, 1))]);
        let three = net.chain(x, &[(64, POINT), (96, same(3, 1)), (96, same(3, 1))]);
        let pool = net.pool(x, same(3, 1));
        let pool = net.conv(pool, pooled, POINT);
        x = net.concat(&[&[one], &[five], &[three], &[pool]]);
    }
    let three = net.conv(x, 384, valid(3, 2));
    let double = net.chain(x, &[(64, POINT), (96, same(3, 1)), (96, valid(3, 2))]);
    let pool = net.pool(x, valid(3, 2));
    x = net.concat(&[&[three], &[double], &[pool]]);
    for c in [128, 160, 160, 192] {
        let (across, down) = (flat(1, 7), flat(7, 1));
        let one = net.conv(x, 192, POINT);
        let seven = net.chain(x, &[(c, POINT), (c, across), (192, down)]);
        let double = [(c, POINT), (c, down), (c, across), (c, down), (192, across)];
        let double = net.chain(x, &double);
        let pool = net.pool(x, same(3, 1));
        let pool = net.conv(pool, 192, POINT);
        x = net.concat(&[&[one], &[seven], &[double], &[pool]]);
    }
    let three = net.chain(x, &[(192, POINT), (320, valid(3, 2))]);
    let seven = [
        (192, POINT),
        (192, flat(1, 7)),
        (192, flat(7, 1)),
        (192, valid(3, 2)),
    ];
    let seven = net.chain(x, &seven);
    let pool = net.pool(x, valid(3, 2));
    x = net.concat(&[&[three], &[seven], &[pool]]);
    for _ in 0..2 {
        let one = net.conv(x, 320, POINT);
        let three = net.conv(x, 384, POINT);
        let three = (
            net.conv(three, 384, flat(1, 3)),
            net.conv(three, 384, flat(3, 1)),
        );
        let double = net.chain(x, &[(448, POINT), (384, same(3, 1))]);
        let double = (
            net.conv(double, 384, flat(1, 3)),
            net.conv(double, 384, flat(3, 1)),
        );
        let pool = net.pool(x, same(3, 1));
        let pool = net.conv(pool, 192, POINT);
        x = net.concat(&[
            &[one],
            &[three.0],
            &[three.1],
            &[double.0],
            &[double.1],
            &[pool],
        ]);
    }
    let output = net.pool(x, valid(x.height, 1));
    net.graph(input, output)
}

impl Net {
    fn chain(&mut self, x: Value, layers: &[(u64, Window)]) -> Value {
        let layer = |x, &(channels, window): &(u64, Window)| self.conv(x, channels, window);
        layers.iter().fold(x, layer)
    }

    /// NASNet-A's reduction cell, after its inputs have got `channels` channels.
    fn reduction(&mut self, x: Value, before: Value, channels: u64) -> Value {
        let first = [
            self.branch(x, channels, 5, 2),
            self.branch(before, channels, 7, 2),
        ];
        let first = self.sum("Sum", &first);
        let second = [
            self.pool(x, same(3, 2)),
            self.branch(before, channels, 7, 2),
        ];
        let second = self.sum("Sum", &second);
        let third = [
            self.pool(x, same(3, 2)),
            self.branch(before, channels, 5, 2),
        ];
        let fourth = [self.pool(first, same(3, 1)), second];
        let fifth = [self.branch(first, channels, 3, 1), self.pool(x, same(3, 2))];
        self.concat(&[&[second], &third, &fourth, &fifth])
    }

    /// NASNet-A's normal cell. Where the value before the last is larger, it is halved.
    fn normal(&mut self, x: Value, before: Value, channels: u64) -> Value {
        let left = self.fitted(before, x, channels);
        let right = self.relu_conv(x, channels, POINT);
        let first = [
            self.branch(right, channels, 5, 1),
            self.branch(left, channels, 3, 1),
        ];
        let second = [
            self.branch(left, channels, 5, 1),
            self.branch(left, channels, 3, 1),
        ];
        let third = [self.pool(right, same(3, 1)), left];
        let fourth = [0; 2].map(|_| self.pool(left, same(3, 1)));
        let fifth = [self.branch(right, channels, 3, 1), right];
        let terms: [&[Value]; 5] = [&first, &second, &third, &fourth, &fifth];
        match before.height == x.height {
            true => self.concat(&terms),
            // IOS's first cell of each size passes this on too.
            false => self.concat(&[&[&[left] as &[Value]], &terms[..]].concat()),
        }
    }

    /// A value with `channels` channels and the size of `like`, which may be half its own.
    fn fitted(&mut self, value: Value, like: Value, channels: u64) -> Value {
        if value.height == like.height {
            return self.relu_conv(value, channels, POINT);
        }
        let halves = [0; 2].map(|_| self.relu_conv(value, channels / 2, valid(1, 2)));
        self.concat(&[&halves[..1], &halves[1..]])
    }
}

/// NASNet-A, 6 @ 4032, at 331 x 331, without its classifier.
pub(crate) fn nasnet_large() -> Graph {
    let mut net = Net::default();
    let input = net.value(3, 331, 331);
    let filters = 168;
    let stem = net.conv(input, 96, valid(3, 2));
    let stem = net.biased(stem);
    let narrow = net.relu_conv(stem, filters / 4, POINT);
    let mut before = net.reduction(narrow, stem, filters / 4);
    let right = net.fitted(stem, before, filters / 2);
    let left = net.relu_conv(before, filters / 2, POINT);
    let mut x = net.reduction(left, right, filters / 2);
    for scale in [1, 2, 4] {
        for _ in 0..6 {
            (before, x) = (x, net.normal(x, before, scale * filters));
        }
        if scale < 4 {
            let channels = 2 * scale * filters;
            let inputs = [x, before].map(|value| net.relu_conv(value, channels, POINT));
            // The cell after it reads the larger value from before it.
            x = net.reduction(inputs[0], inputs[1], channels);
        }
    }
    x = net.sum("Relu", &[x]);
    let output = net.pool(x, valid(x.height, 1));
    net.graph(input, output)
}

/// RandWire of 154 channels at 224 x 224: a stage of 16 operators and three of 32, each
/// wired by Watts and Strogatz' method, WS(n, 4, 0.75).
pub(crate) fn randwire(seed: u64) -> Graph {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut net = Net::default();
    let input = net.value(3, 224, 224);
    let x = net.conv(input, 77, same(3, 2));
    let mut x = net.biased(x);
    for (nodes, channels) in [(16, 154), (32, 308), (32, 616), (32, 1232)] {
        let edges = watts_strogatz(nodes, 4, 0.75, &mut random);
        let mut values: Vec<Value> = Vec::new();
        let mut read = vec![false; nodes];
        for (node, from) in edges.iter().enumerate() {
            from.iter().for_each(|&other| read[other] = true);
            let inputs: Vec<Value> = from.iter().map(|&other| values[other]).collect();
            values.push(match node {
                _ if inputs.is_empty() => net.relu_separable(&[x], channels, same(3, 2)),
                _ => net.relu_separable(&inputs, channels, same(3, 1)),
            });
        }
        let last = (0..nodes).filter(|&node| !read[node]);
        let last: Vec<Value> = last.map(|node| values[node]).collect();
        x = net.sum("Sum", &last);
    }
    x = net.relu_conv(x, 1280, POINT);
    let output = net.pool(x, valid(x.height, 1));
    net.graph(input, output)
}

/// By node: those before it that it is joined to. A ring where each is joined to the
/// nearest `near`, and each of these edges is led elsewhere with probability `moved`.
fn watts_strogatz(
    nodes: usize,
    near: usize,
    moved: f64,
    random: &mut ChaCha8Rng,
) -> Vec<Vec<usize>> {
    let mut joined = vec![vec![false; nodes]; nodes];
    let mut edges = Vec::new();
    for step in 1..=near / 2 {
        for node in 0..nodes {
            let other = (node + step) % nodes;
            join(&mut joined, node, other, true);
            edges.push((node, other));
        }
    }
    for (node, other) in edges {
        if random.random::<f64>() >= moved {
            continue;
        }
        let free: Vec<usize> = (0..nodes)
            .filter(|&new| new != node && !joined[node][new])
            .collect();
        if !free.is_empty() {
            let new = free[random.random_range(0..free.len())];
            join(&mut joined, node, other, false);
            join(&mut joined, node, new, true);
        }
    }
    let before = |node: usize| (0..node).filter(|&other| joined[node][other]).collect();
    (0..nodes).map(before).collect()
}

fn join(joined: &mut [Vec<bool>], a: usize, b: usize, on: bool) {
    joined[a][b] = on;
    joined[b][a] = on;
}
