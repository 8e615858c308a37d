//! The built-in profile set `convnet`: three LeNet-like networks, as D-STACK compares with
//! its ideal scheduler.
//!
//! | what | from |
//! |---|---|
//! | three networks of the kind of LeNet, knees of about 30, 40 and 60 % of a V100, about 10 to 15 ms | D-STACK, as recalled by readers of it with low confidence |
//! | three convolutions, two poolings, two linear layers; their widths and repeats | ours |
//! | latencies of 10, 12 and 15 ms at the knee, batch 16 | ours, within what is recalled |
//! | objectives of 25, 25 and 50 ms | ours: those of the paper's table for models of such latencies; all keep `latency <= SLO / 2` |
//!
//! Only few kernels are as wide as the widest: that is what a scheduler at kernel grain can
//! use and one of whole models cannot. Each pooling halves what the next convolution works
//! on; a pooling has no more operations than its outputs, and a linear layer few.

use super::{Row, Set, row};
use crate::profile::{Kernel, KernelList, Profile};

/// Serial time as a fraction of one operation's: that of the paper's synthetic run.
const LAUNCH: f64 = 0.25;

/// A layer's parallel operations as a fraction of the widest layer's, and how often its
/// kernel runs.
struct Layer {
    width: f64,
    repeats: f64,
}

const fn layer(width: f64, repeats: f64) -> Layer {
    Layer { width, repeats }
}

/// In falling order of width, as a kernel list is: the convolutions take most of the time.
const LAYERS: [Layer; 7] = [
    layer(1.0, 8.0),
    layer(0.75, 8.0),
    layer(0.5, 8.0),
    layer(0.25, 1.0),
    layer(0.1875, 1.0),
    layer(0.125, 2.0),
    layer(0.0625, 2.0),
];

/// Model, knee in per cent of the device, SLO and runtime in milliseconds.
const MODELS: [Row; 3] = [
    row("convnet1", 30, 25, 10),
    row("convnet2", 40, 25, 12),
    row("convnet3", 60, 50, 15),
];

/// The profile set `convnet`, flagged synthetic.
///
/// # Source
/// D-STACK's comparison with an ideal scheduler; the module header says what is ours.
#[must_use]
pub fn convnet_mix() -> Profile {
    let set = Set {
        runtime: "D-STACK's equations, kernels of our choice",
        source: "D-STACK, comparison with an ideal scheduler; batch and SLO ours",
        rows: &MODELS,
        list,
    };
    set.profile()
}

fn list(width: f64, op_s: f64) -> KernelList {
    let kernel = |layer: &Layer| Kernel {
        width: width * layer.width,
        repeats: layer.repeats,
        op_s,
        launch_s: LAUNCH * op_s,
        ..Kernel::default()
    };
    KernelList {
        kernels: LAYERS.iter().map(kernel).collect(),
        sync_s: 0.0,
    }
}
