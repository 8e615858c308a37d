use super::{CLASSES, EPSILON, conv_norm, image};
use crate::network::{BRANCH_SCALE, BatchNorm, Conv, Network, Value};

/// Expansion, channels, blocks and first stride of each stage (table 2 of the paper).
const STAGES: [(u64, u64, u64, u64); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// Builds MobileNet-v2 of width 1.
///
/// # Source
/// Sandler et al. 2018.
pub(crate) fn mobilenet_v2() -> Network {
    let mut net = Network::new("mobilenet_v2");
    let x = image(&mut net);
    let mut x = unit(&mut net, "features.0", 0, &x, Conv::new(32, 3, 2));
    let mut layer = 1;
    for (expand, channels, blocks, stride) in STAGES {
        for index in 0..blocks {
            let stride = if index == 0 { stride } else { 1 };
            let name = format!("features.{layer}");
            x = bottleneck(&mut net, &name, &x, expand, Conv::new(channels, 3, stride));
            layer += 1;
        }
    }
    let x = unit(&mut net, "features.18", 0, &x, Conv::new(1280, 1, 1));
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("classifier.1", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds an inverted residual; `conv` says its channels, window and stride.
fn bottleneck(net: &mut Network, name: &str, x: &Value, expand: u64, conv: Conv) -> Value {
    let name = format!("{name}.conv");
    let channels = x.channels();
    let wide = channels * expand;
    let mut y = x.clone();
    let mut index = 0;
    if expand != 1 {
        y = unit(net, &name, index, &y, Conv::new(wide, 1, 1));
        index += 1;
    }
    let depthwise = Conv {
        channels: wide,
        groups: wide,
        ..conv
    };
    y = unit(net, &name, index, &y, depthwise);
    let residual = conv.stride == 1 && channels == conv.channels;
    y = net.conv(
        &format!("{name}.{}", index + 1),
        &y,
        Conv::new(conv.channels, 1, 1),
    );
    let norm = BatchNorm {
        epsilon: EPSILON,
        scale: if residual { BRANCH_SCALE } else { 1.0 },
    };
    y = net.batch_norm(&format!("{name}.{}", index + 2), &y, norm);
    if residual {
        y = net.add(&format!("{name}.add"), x, &y);
    }
    y
}

/// Adds a convolution, a batch normalisation and a ReLU6.
fn unit(net: &mut Network, name: &str, index: u64, x: &Value, conv: Conv) -> Value {
    let [first, second, third] = [0, 1, 2].map(|part| format!("{name}.{index}.{part}"));
    let x = conv_norm(net, (&first, &second), x, conv);
    net.relu6(&third, &x)
}
