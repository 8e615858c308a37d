use super::{CLASSES, conv_norm, image};
use crate::network::{Conv, Network, Pool, Value};

/// Name in torchvision, channels made and number of units of each stage.
const STAGES: [(&str, u64, u64); 3] = [("stage2", 116, 4), ("stage3", 232, 8), ("stage4", 464, 4)];

/// Builds ShuffleNet-v2 of width 1.
///
/// # Source
/// Ma et al. 2018, table 5.
pub(crate) fn shufflenet_v2_x1_0() -> Network {
    let mut net = Network::new("shufflenet_v2_x1_0");
    let x = image(&mut net);
    let x = unit(&mut net, "conv1", 0, &x, Conv::new(24, 3, 2));
    let pool = Pool {
        kernel: 3,
        stride: 2,
        padding: [1; 4],
        ceil: false,
    };
    let mut x = net.max_pool("maxpool", &x, pool);
    for (stage, channels, units) in STAGES {
        for index in 0..units {
            let name = format!("{stage}.{index}");
            x = if index == 0 {
                downsampling(&mut net, &name, &x, channels / 2)
            } else {
                basic(&mut net, &name, &x)
            };
        }
    }
    let x = unit(&mut net, "conv5", 0, &x, Conv::new(1024, 1, 1));
    let x = net.global_average_pool("mean", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds a unit that passes half of the channels on as they are.
fn basic(net: &mut Network, name: &str, x: &Value) -> Value {
    let [kept, changed] = net.halve(&format!("{name}.split"), x);
    let changed = branch(
        net,
        &format!("{name}.branch2"),
        &changed,
        kept.channels(),
        1,
    );
    join(net, name, &[kept, changed])
}

/// Adds a unit that halves the sides and makes `channels` in each of its branches.
fn downsampling(net: &mut Network, name: &str, x: &Value, channels: u64) -> Value {
    let first = format!("{name}.branch1");
    let y = depthwise(net, &first, 0, x, 2);
    let left = unit(net, &first, 2, &y, Conv::new(channels, 1, 1));
    let right = branch(net, &format!("{name}.branch2"), x, channels, 2);
    join(net, name, &[left, right])
}

fn branch(net: &mut Network, name: &str, x: &Value, channels: u64, stride: u64) -> Value {
    let x = unit(net, name, 0, x, Conv::new(channels, 1, 1));
    let x = depthwise(net, name, 3, &x, stride);
    unit(net, name, 5, &x, Conv::new(channels, 1, 1))
}

fn join(net: &mut Network, name: &str, branches: &[Value]) -> Value {
    let x = net.concat(&format!("{name}.concat"), branches);
    net.shuffle(&format!("{name}.shuffle"), &x, 2)
}

fn depthwise(net: &mut Network, name: &str, index: u64, x: &Value, stride: u64) -> Value {
    let channels = x.channels();
    let conv = Conv {
        groups: channels,
        ..Conv::new(channels, 3, stride)
    };
    let [conv_name, norm] = [0, 1].map(|part| format!("{name}.{}", index + part));
    conv_norm(net, (&conv_name, &norm), x, conv)
}

/// Adds a convolution, a batch normalisation and a ReLU.
fn unit(net: &mut Network, name: &str, index: u64, x: &Value, conv: Conv) -> Value {
    let [first, second, third] = [0, 1, 2].map(|part| format!("{name}.{}", index + part));
    let x = conv_norm(net, (&first, &second), x, conv);
    net.relu(&third, &x)
}
