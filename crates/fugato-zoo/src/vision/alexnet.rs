use super::{CLASSES, image};
use crate::network::{Conv, Network, Pool};

const POOL: Pool = Pool {
    kernel: 3,
    stride: 2,
    padding: [0; 4],
    ceil: false,
};

/// Builds AlexNet.
///
/// # Source
/// Krizhevsky 2014 ("One weird trick"), the form of one column and without local response
/// normalisation, as in torchvision; the published parameter count is of this form.
pub(crate) fn alexnet() -> Network {
    let mut net = Network::new("alexnet");
    let x = image(&mut net);
    let first = Conv {
        padding: [2; 4],
        ..Conv::new(64, 11, 4)
    };
    // Index in torchvision's list of layers, and whether a pooling follows.
    let convs = [
        (0, first, true),
        (3, Conv::new(192, 5, 1), true),
        (6, Conv::new(384, 3, 1), false),
        (8, Conv::new(256, 3, 1), false),
        (10, Conv::new(256, 3, 1), true),
    ];
    let mut x = x;
    for (layer, conv, pooled) in convs {
        x = net.conv(&format!("features.{layer}"), &x, conv.with_bias());
        x = net.relu(&format!("features.{}", layer + 1), &x);
        if pooled {
            x = net.max_pool(&format!("features.{}", layer + 2), &x, POOL);
        }
    }
    let mut x = net.flatten("flatten", &x);
    for layer in [1, 4] {
        x = net.linear(&format!("classifier.{layer}"), &x, 4096);
        x = net.relu(&format!("classifier.{}", layer + 1), &x);
    }
    let x = net.linear("classifier.6", &x, CLASSES);
    net.output("output", &x);
    net
}
