use super::{CLASSES, EPSILON, conv_norm, image};
use crate::network::{BRANCH_SCALE, BatchNorm, Conv, Network, Pool, Value};

/// Builds ResNet-18.
///
/// # Source
/// He et al. 2016.
pub(crate) fn resnet18() -> Network {
    resnet("resnet18", [2, 2, 2, 2], false)
}

/// Builds ResNet-50.
///
/// # Source
/// He et al. 2016, with the stride in the 3x3 convolution as in torchvision ("v1.5").
pub(crate) fn resnet50() -> Network {
    resnet("resnet50", [3, 4, 6, 3], true)
}

fn resnet(name: &str, blocks: [u64; 4], bottleneck: bool) -> Network {
    let mut net = Network::new(name);
    let x = image(&mut net);
    let x = conv_norm(&mut net, ("conv1", "bn1"), &x, Conv::new(64, 7, 2));
    let x = net.relu("relu", &x);
    let pool = Pool {
        kernel: 3,
        stride: 2,
        padding: 1,
        ceil: false,
    };
    let mut x = net.max_pool("maxpool", &x, pool);
    for (stage, (blocks, width)) in (1..).zip(blocks.into_iter().zip([64, 128, 256, 512])) {
        for index in 0..blocks {
            let block = Block {
                name: format!("layer{stage}.{index}"),
                width,
                stride: if stage > 1 && index == 0 { 2 } else { 1 },
                bottleneck,
                project: index == 0 && (stage > 1 || bottleneck),
            };
            x = block.build(&mut net, &x);
        }
    }
    let x = net.global_average_pool("avgpool", &x);
    let x = net.linear("fc", &x, CLASSES);
    net.output("output", &x);
    net
}

/// A residual block.
struct Block {
    name: String,
    width: u64,
    stride: u64,
    bottleneck: bool,
    /// Whether the shortcut is a convolution, because the shape changes.
    project: bool,
}

impl Block {
    fn build(&self, net: &mut Network, x: &Value) -> Value {
        let convs = if self.bottleneck {
            vec![
                Conv::new(self.width, 1, 1),
                Conv::new(self.width, 3, self.stride),
                Conv::new(self.width * 4, 1, 1),
            ]
        } else {
            vec![
                Conv::new(self.width, 3, self.stride),
                Conv::new(self.width, 3, 1),
            ]
        };
        let last = convs[convs.len() - 1];
        let mut y = x.clone();
        for (index, conv) in (1..=convs.len()).zip(&convs) {
            y = net.conv(&format!("{}.conv{index}", self.name), &y, *conv);
            let ends = index == convs.len();
            let norm = BatchNorm {
                epsilon: EPSILON,
                scale: if ends { BRANCH_SCALE } else { 1.0 },
            };
            y = net.batch_norm(&format!("{}.bn{index}", self.name), &y, norm);
            if !ends {
                y = net.relu(&format!("{}.relu{index}", self.name), &y);
            }
        }
        let shortcut = if self.project {
            let [conv, norm] = [0, 1].map(|i| format!("{}.downsample.{i}", self.name));
            let project = Conv::new(last.channels, 1, self.stride);
            conv_norm(net, (&conv, &norm), x, project)
        } else {
            x.clone()
        };
        let y = net.add(&format!("{}.add", self.name), &y, &shortcut);
        net.relu(&format!("{}.relu", self.name), &y)
    }
}
