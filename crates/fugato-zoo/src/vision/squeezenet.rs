use super::{CLASSES, image};
use crate::network::{Conv, Network, Pool, Value};

const POOL: Pool = Pool {
    kernel: 3,
    stride: 2,
    padding: [0; 4],
    ceil: true,
};

/// Builds SqueezeNet 1.1.
///
/// # Source
/// Iandola et al. 2016, in the authors' later release 1.1.
pub(crate) fn squeezenet1_1() -> Network {
    let mut net = Network::new("squeezenet1_1");
    let x = image(&mut net);
    let first = Conv::new(64, 3, 2).with_bias().unpadded();
    let mut x = conv_relu(&mut net, "features.0", &x, first);
    // Index in torchvision's list of layers, squeezed channels, channels per expansion.
    let fires = [(3, 16, 64), (4, 16, 64), (6, 32, 128), (7, 32, 128)];
    let fires = fires.into_iter();
    let last = [(9, 48, 192), (10, 48, 192), (11, 64, 256), (12, 64, 256)];
    for (index, squeeze, expand) in fires.chain(last) {
        if matches!(index, 3 | 6 | 9) {
            x = net.max_pool(&format!("features.{}", index - 1), &x, POOL);
        }
        x = fire(&mut net, &format!("features.{index}"), &x, squeeze, expand);
    }
    let x = conv_relu(
        &mut net,
        "classifier.1",
        &x,
        Conv::new(CLASSES, 1, 1).with_bias(),
    );
    let x = net.global_average_pool("classifier.3", &x);
    net.output("output", &x);
    net
}

fn fire(net: &mut Network, name: &str, x: &Value, squeeze: u64, expand: u64) -> Value {
    let squeeze = Conv::new(squeeze, 1, 1).with_bias();
    let x = conv_relu(net, &format!("{name}.squeeze"), x, squeeze);
    let parts = [1, 3].map(|kernel| {
        let conv = Conv::new(expand, kernel, 1).with_bias();
        conv_relu(net, &format!("{name}.expand{kernel}x{kernel}"), &x, conv)
    });
    net.concat(&format!("{name}.concat"), &parts)
}

fn conv_relu(net: &mut Network, name: &str, x: &Value, conv: Conv) -> Value {
    let x = net.conv(name, x, conv);
    net.relu(&format!("{name}.relu"), &x)
}
