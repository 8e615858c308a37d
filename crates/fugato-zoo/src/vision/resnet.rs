use super::{CLASSES, EPSILON, conv_norm, image};
use crate::network::{BRANCH_SCALE, BatchNorm, Conv, Network, Pool, Value};

/// Builds ResNet-18.
///
/// # Source
/// He et al. 2016.
pub(crate) fn resnet18() -> Network {
    resnet("resnet18", [2, 2, 2, 2], Layers::Basic)
}

/// Builds ResNet-50.
///
/// # Source
/// He et al. 2016, with the stride in the 3x3 convolution as in torchvision ("v1.5").
pub(crate) fn resnet50() -> Network {
    let layers = Layers::Bottleneck {
        groups: 1,
        widening: 1,
    };
    resnet("resnet50", [3, 4, 6, 3], layers)
}

/// Builds ResNeXt-50 of 32 groups of 4 channels.
///
/// # Source
/// Xie et al. 2017, table 1, with the stride in the grouped convolution as in torchvision.
pub(crate) fn resnext50_32x4d() -> Network {
    let layers = Layers::Bottleneck {
        groups: 32,
        widening: 2,
    };
    resnet("resnext50_32x4d", [3, 4, 6, 3], layers)
}

/// What a residual block is made of.
#[derive(Clone, Copy)]
enum Layers {
    /// Two 3x3 convolutions.
    Basic,
    /// A 3x3 convolution between two of 1x1, the last of which makes four times the
    /// stage's width.
    Bottleneck {
        /// Groups of the 3x3 convolution.
        groups: u64,
        /// Channels inside, in units of the stage's width.
        widening: u64,
    },
}

impl Layers {
    fn convs(self, width: u64, stride: u64) -> Vec<Conv> {
        match self {
            Self::Basic => vec![Conv::new(width, 3, stride), Conv::new(width, 3, 1)],
            Self::Bottleneck { groups, widening } => vec![
                Conv::new(width * widening, 1, 1),
                Conv {
                    groups,
                    ..Conv::new(width * widening, 3, stride)
                },
                Conv::new(width * 4, 1, 1),
            ],
        }
    }
}

fn resnet(name: &str, blocks: [u64; 4], layers: Layers) -> Network {
    let mut net = Network::new(name);
    let x = image(&mut net);
    let x = conv_norm(&mut net, ("conv1", "bn1"), &x, Conv::new(64, 7, 2));
    let x = net.relu("relu", &x);
    let pool = Pool {
        kernel: 3,
        stride: 2,
        padding: [1; 4],
        ceil: false,
    };
    let mut x = net.max_pool("maxpool", &x, pool);
    for (stage, (blocks, width)) in (1..).zip(blocks.into_iter().zip([64, 128, 256, 512])) {
        for index in 0..blocks {
            let stride = if stage > 1 && index == 0 { 2 } else { 1 };
            let convs = layers.convs(width, stride);
            x = residual(&mut net, &format!("layer{stage}.{index}"), &x, &convs);
        }
    }
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// Adds a residual block of these convolutions. The shortcut is a convolution where the
/// shape changes.
fn residual(net: &mut Network, name: &str, x: &Value, convs: &[Conv]) -> Value {
    let last = convs[convs.len() - 1];
    let mut y = x.clone();
    for (index, conv) in (1..=convs.len()).zip(convs) {
        y = net.conv(&format!("{name}.conv{index}"), &y, *conv);
        let ends = index == convs.len();
        let norm = BatchNorm {
            epsilon: EPSILON,
            scale: if ends { BRANCH_SCALE } else { 1.0 },
        };
        y = net.batch_norm(&format!("{name}.bn{index}"), &y, norm);
        if !ends {
            y = net.relu(&format!("{name}.relu{index}"), &y);
        }
    }
    let stride = convs.iter().map(|conv| conv.stride).product();
    let shortcut = if stride > 1 || last.channels != x.channels() {
        let [conv, norm] = [0, 1].map(|i| format!("{name}.downsample.{i}"));
        let project = Conv::new(last.channels, 1, stride);
        conv_norm(net, (&conv, &norm), x, project)
    } else {
        x.clone()
    };
    let y = net.add(&format!("{name}.add"), &y, &shortcut);
    net.relu(&format!("{name}.relu"), &y)
}
