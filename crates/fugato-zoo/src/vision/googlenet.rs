use super::{CLASSES, image};
use crate::network::{BatchNorm, Conv, Network, Pool, Value};

const NORM: BatchNorm = BatchNorm {
    epsilon: 1e-3,
    scale: 1.0,
};

const POOL: Pool = Pool {
    kernel: 3,
    stride: 2,
    padding: [0; 4],
    ceil: true,
};

/// Channels of one inception block, in the order of its branches.
struct Inception {
    name: &'static str,
    direct: u64,
    reduce_second: u64,
    second: u64,
    reduce_third: u64,
    third: u64,
    pooled: u64,
}

const fn block(name: &'static str, channels: [u64; 6]) -> Inception {
    let [direct, reduce_second, second, reduce_third, third, pooled] = channels;
    Inception {
        name,
        direct,
        reduce_second,
        second,
        reduce_third,
        third,
        pooled,
    }
}

const BLOCKS: [Inception; 9] = [
    block("inception3a", [64, 96, 128, 16, 32, 32]),
    block("inception3b", [128, 128, 192, 32, 96, 64]),
    block("inception4a", [192, 96, 208, 16, 48, 64]),
    block("inception4b", [160, 112, 224, 24, 64, 64]),
    block("inception4c", [128, 128, 256, 24, 64, 64]),
    block("inception4d", [112, 144, 288, 32, 64, 64]),
    block("inception4e", [256, 160, 320, 32, 128, 128]),
    block("inception5a", [256, 160, 320, 32, 128, 128]),
    block("inception5b", [384, 192, 384, 48, 128, 128]),
];

/// Builds GoogLeNet without its auxiliary heads.
///
/// # Source
/// Szegedy et al. 2015. As in torchvision, with batch normalisation and with 3x3
/// windows where the paper has 5x5; the published parameter count is of this form.
pub(crate) fn googlenet() -> Network {
    let mut net = Network::new("googlenet");
    let x = image(&mut net);
    let x = unit(&mut net, "conv1", &x, Conv::new(64, 7, 2));
    let x = net.max_pool("maxpool1", &x, POOL);
    let x = unit(&mut net, "conv2", &x, Conv::new(64, 1, 1));
    let x = unit(&mut net, "conv3", &x, Conv::new(192, 3, 1));
    let mut x = net.max_pool("maxpool2", &x, POOL);
    for block in &BLOCKS {
        match block.name {
            "inception4a" => x = net.max_pool("maxpool3", &x, POOL),
            "inception5a" => x = net.max_pool("maxpool4", &x, Pool { kernel: 2, ..POOL }),
            _ => {}
        }
        x = inception(&mut net, &x, block);
    }
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

fn inception(net: &mut Network, x: &Value, block: &Inception) -> Value {
    let name = |branch: &str| format!("{}.{branch}", block.name);
    let first = unit(net, &name("branch1"), x, Conv::new(block.direct, 1, 1));
    let reduced = unit(
        net,
        &name("branch2.0"),
        x,
        Conv::new(block.reduce_second, 1, 1),
    );
    let second = unit(
        net,
        &name("branch2.1"),
        &reduced,
        Conv::new(block.second, 3, 1),
    );
    let reduced = unit(
        net,
        &name("branch3.0"),
        x,
        Conv::new(block.reduce_third, 1, 1),
    );
    let third = unit(
        net,
        &name("branch3.1"),
        &reduced,
        Conv::new(block.third, 3, 1),
    );
    let pool = Pool {
        kernel: 3,
        stride: 1,
        padding: [1; 4],
        ceil: true,
    };
    let pooled = net.max_pool(&name("branch4.0"), x, pool);
    let fourth = unit(
        net,
        &name("branch4.1"),
        &pooled,
        Conv::new(block.pooled, 1, 1),
    );
    net.concat(&name("concat"), &[first, second, third, fourth])
}

fn unit(net: &mut Network, name: &str, x: &Value, conv: Conv) -> Value {
    let x = net.conv(&format!("{name}.conv"), x, conv);
    let x = net.batch_norm(&format!("{name}.bn"), &x, NORM);
    net.relu(&format!("{name}.relu"), &x)
}
