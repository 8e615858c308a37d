use super::{CLASSES, image_of};
use crate::network::{BatchNorm, Conv, Network, Pool, Value};

const NORM: BatchNorm = BatchNorm {
    epsilon: 1e-3,
    scale: 1.0,
};

const HALVE: Pool = Pool {
    kernel: 3,
    stride: 2,
    padding: [0; 4],
    ceil: false,
};

const SMOOTH: Pool = Pool {
    kernel: 3,
    stride: 1,
    padding: [1; 4],
    ceil: false,
};

const fn conv(channels: u64, kernel: [u64; 2]) -> Conv {
    Conv::of_window(channels, kernel)
}

/// A 3x3 convolution that about halves the sides.
const fn halving(channels: u64) -> Conv {
    Conv::new(channels, 3, 2).unpadded()
}

/// Builds Inception-v3 without its auxiliary head, for images of 299x299.
///
/// # Source
/// Szegedy et al. 2016, as in torchvision, whose averages count the zeros around an image.
/// torchvision's rescaling of the input, which it does for weights of another library
/// only, is left out.
pub(crate) fn inception_v3() -> Network {
    let mut net = Network::new("inception_v3");
    let x = image_of(&mut net, 299);
    let x = unit(&mut net, "Conv2d_1a_3x3", &x, halving(32));
    let x = unit(&mut net, "Conv2d_2a_3x3", &x, conv(32, [3, 3]).unpadded());
    let x = unit(&mut net, "Conv2d_2b_3x3", &x, conv(64, [3, 3]));
    let x = net.max_pool("maxpool1", &x, HALVE);
    let x = unit(&mut net, "Conv2d_3b_1x1", &x, conv(80, [1, 1]));
    let x = unit(&mut net, "Conv2d_4a_3x3", &x, conv(192, [3, 3]).unpadded());
    let mut x = net.max_pool("maxpool2", &x, HALVE);
    for (name, pooled) in [("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)] {
        x = block_a(&mut net, name, &x, pooled);
    }
    x = block_b(&mut net, "Mixed_6a", &x);
    let narrow = [128, 160, 160, 192];
    for (name, narrow) in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"]
        .into_iter()
        .zip(narrow)
    {
        x = block_c(&mut net, name, &x, narrow);
    }
    x = block_d(&mut net, "Mixed_7a", &x);
    for name in ["Mixed_7b", "Mixed_7c"] {
        x = block_e(&mut net, name, &x);
    }
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Windows of 5x5 and twice 3x3, at 35x35 positions.
fn block_a(net: &mut Network, name: &str, x: &Value, pooled: u64) -> Value {
    let double = [
        ("branch3x3dbl_1", conv(64, [1, 1])),
        ("branch3x3dbl_2", conv(96, [3, 3])),
        ("branch3x3dbl_3", conv(96, [3, 3])),
    ];
    let five = [
        ("branch5x5_1", conv(48, [1, 1])),
        ("branch5x5_2", conv(64, [5, 5])),
    ];
    let branches = [
        branch(net, name, x, &[("branch1x1", conv(64, [1, 1]))]),
        branch(net, name, x, &five),
        branch(net, name, x, &double),
        smoothed(net, name, x, pooled),
    ];
    net.concat(&format!("{name}.concat"), &branches)
}

/// To 17x17 positions.
fn block_b(net: &mut Network, name: &str, x: &Value) -> Value {
    let double = [
        ("branch3x3dbl_1", conv(64, [1, 1])),
        ("branch3x3dbl_2", conv(96, [3, 3])),
        ("branch3x3dbl_3", halving(96)),
    ];
    let branches = [
        branch(net, name, x, &[("branch3x3", halving(384))]),
        branch(net, name, x, &double),
        net.max_pool(&format!("{name}.branch_pool"), x, HALVE),
    ];
    net.concat(&format!("{name}.concat"), &branches)
}

/// Windows of 7x7, each as one of 1x7 and one of 7x1, at 17x17 positions.
fn block_c(net: &mut Network, name: &str, x: &Value, narrow: u64) -> Value {
    let seven = [
        ("branch7x7_1", conv(narrow, [1, 1])),
        ("branch7x7_2", conv(narrow, [1, 7])),
        ("branch7x7_3", conv(192, [7, 1])),
    ];
    let double = [
        ("branch7x7dbl_1", conv(narrow, [1, 1])),
        ("branch7x7dbl_2", conv(narrow, [7, 1])),
        ("branch7x7dbl_3", conv(narrow, [1, 7])),
        ("branch7x7dbl_4", conv(narrow, [7, 1])),
        ("branch7x7dbl_5", conv(192, [1, 7])),
    ];
    let branches = [
        branch(net, name, x, &[("branch1x1", conv(192, [1, 1]))]),
        branch(net, name, x, &seven),
        branch(net, name, x, &double),
        smoothed(net, name, x, 192),
    ];
    net.concat(&format!("{name}.concat"), &branches)
}

/// To 8x8 positions.
fn block_d(net: &mut Network, name: &str, x: &Value) -> Value {
    let three = [
        ("branch3x3_1", conv(192, [1, 1])),
        ("branch3x3_2", halving(320)),
    ];
    let seven = [
        ("branch7x7x3_1", conv(192, [1, 1])),
        ("branch7x7x3_2", conv(192, [1, 7])),
        ("branch7x7x3_3", conv(192, [7, 1])),
        ("branch7x7x3_4", halving(192)),
    ];
    let branches = [
        branch(net, name, x, &three),
        branch(net, name, x, &seven),
        net.max_pool(&format!("{name}.branch_pool"), x, HALVE),
    ];
    net.concat(&format!("{name}.concat"), &branches)
}

/// Windows of 1x3 beside ones of 3x1, at 8x8 positions.
fn block_e(net: &mut Network, name: &str, x: &Value) -> Value {
    let double = [
        ("branch3x3dbl_1", conv(448, [1, 1])),
        ("branch3x3dbl_2", conv(384, [3, 3])),
    ];
    let three = branch(net, name, x, &[("branch3x3_1", conv(384, [1, 1]))]);
    let double = branch(net, name, x, &double);
    let branches = [
        branch(net, name, x, &[("branch1x1", conv(320, [1, 1]))]),
        fork(net, &format!("{name}.branch3x3_2"), &three),
        fork(net, &format!("{name}.branch3x3dbl_3"), &double),
        smoothed(net, name, x, 192),
    ];
    net.concat(&format!("{name}.concat"), &branches)
}

/// Adds the two windows of a fork and joins them; `name` lacks the letter of each.
fn fork(net: &mut Network, name: &str, x: &Value) -> Value {
    let parts = [("a", [1, 3]), ("b", [3, 1])]
        .map(|(letter, kernel)| unit(net, &format!("{name}{letter}"), x, conv(384, kernel)));
    net.concat(&format!("{name}.concat"), &parts)
}

/// Adds an average pooling and a 1x1 convolution.
fn smoothed(net: &mut Network, name: &str, x: &Value, channels: u64) -> Value {
    let x = net.average_pool(&format!("{name}.branch_pool.pool"), x, SMOOTH, true);
    branch(net, name, &x, &[("branch_pool", conv(channels, [1, 1]))])
}

fn branch(net: &mut Network, block: &str, x: &Value, convs: &[(&str, Conv)]) -> Value {
    let mut x = x.clone();
    for (name, conv) in convs {
        x = unit(net, &format!("{block}.{name}"), &x, *conv);
    }
    x
}

fn unit(net: &mut Network, name: &str, x: &Value, conv: Conv) -> Value {
    let x = net.conv(&format!("{name}.conv"), x, conv);
    let x = net.batch_norm(&format!("{name}.bn"), &x, NORM);
    net.relu(&format!("{name}.relu"), &x)
}
