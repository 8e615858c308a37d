use super::{CLASSES, EPSILON, conv_norm, image};
use crate::network::{BatchNorm, Conv, Network, Pool, Value};

const NORM: BatchNorm = BatchNorm {
    epsilon: EPSILON,
    scale: 1.0,
};

/// Channels that a layer adds.
const GROWTH: u64 = 32;

/// Channels between the two convolutions of a layer, in units of [`GROWTH`].
const BOTTLENECK: u64 = 4;

/// Builds DenseNet-121.
///
/// # Source
/// Huang et al. 2017, table 1.
pub(crate) fn densenet121() -> Network {
    let mut net = Network::new("densenet121");
    let x = image(&mut net);
    let names = ("features.conv0", "features.norm0");
    let x = conv_norm(&mut net, names, &x, Conv::new(2 * GROWTH, 7, 2));
    let x = net.relu("features.relu0", &x);
    let pool = Pool {
        kernel: 3,
        stride: 2,
        padding: [1; 4],
        ceil: false,
    };
    let mut x = net.max_pool("features.pool0", &x, pool);
    for (block, layers) in (1..).zip([6, 12, 24, 16]) {
        if block > 1 {
            x = transition(&mut net, &format!("features.transition{}", block - 1), &x);
        }
        x = dense_block(&mut net, &format!("features.denseblock{block}"), x, layers);
    }
    let x = net.batch_norm("features.norm5", &x, NORM);
    let x = net.relu("features.relu5", &x);
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("classifier", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds layers, each of which reads what all before it made.
fn dense_block(net: &mut Network, name: &str, x: Value, layers: u64) -> Value {
    let mut made = vec![x.clone()];
    let mut x = x;
    for layer in 1..=layers {
        let name = format!("{name}.denselayer{layer}");
        let wide = Conv::new(BOTTLENECK * GROWTH, 1, 1);
        let y = norm_relu_conv(net, &name, "1", &x, wide);
        made.push(norm_relu_conv(net, &name, "2", &y, Conv::new(GROWTH, 3, 1)));
        x = net.concat(&format!("{name}.concat"), &made);
    }
    x
}

/// Halves the channels and the sides.
fn transition(net: &mut Network, name: &str, x: &Value) -> Value {
    let x = norm_relu_conv(net, name, "", x, Conv::new(x.channels() / 2, 1, 1));
    let pool = Pool {
        kernel: 2,
        stride: 2,
        padding: [0; 4],
        ceil: false,
    };
    net.average_pool(&format!("{name}.pool"), &x, pool, false)
}

fn norm_relu_conv(net: &mut Network, name: &str, index: &str, x: &Value, conv: Conv) -> Value {
    let x = net.batch_norm(&format!("{name}.norm{index}"), x, NORM);
    let x = net.relu(&format!("{name}.relu{index}"), &x);
    net.conv(&format!("{name}.conv{index}"), &x, conv)
}
