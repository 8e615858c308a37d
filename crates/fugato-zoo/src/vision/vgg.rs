use super::{CLASSES, image};
use crate::network::{Conv, Network, Pool};

const POOL: Pool = Pool {
    kernel: 2,
    stride: 2,
    padding: [0; 4],
    ceil: false,
};

/// Builds VGG-19 without batch normalisation.
///
/// # Source
/// Simonyan and Zisserman 2015, configuration E.
pub(crate) fn vgg19() -> Network {
    let mut net = Network::new("vgg19");
    let mut x = image(&mut net);
    let mut layer = 0;
    for (channels, convs) in [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)] {
        for _ in 0..convs {
            let conv = Conv::new(channels, 3, 1).with_bias();
            x = net.conv(&format!("features.{layer}"), &x, conv);
            x = net.relu(&format!("features.{}", layer + 1), &x);
            layer += 2;
        }
        x = net.max_pool(&format!("features.{layer}"), &x, POOL);
        layer += 1;
    }
    let mut x = net.flatten("flatten", &x);
    for layer in [0, 3] {
        x = net.linear(&format!("classifier.{layer}"), &x, 4096);
        x = net.relu(&format!("classifier.{}", layer + 1), &x);
    }
    let x = net.linear("classifier.6", &x, CLASSES);
    net.output("output", &x);
    net
}
