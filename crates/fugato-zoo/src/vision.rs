//! The image classifiers, with the layers and names of torchvision.
//!
//! All take `input` [batch, 3, 224, 224] and give `output` [batch, 1000], the logits.

use crate::network::{BatchNorm, Conv, Dim, Network, Value};
use fugato_onnx::DataType;

mod googlenet;
mod mobilenet;
mod resnet;
mod squeezenet;
mod vgg;

pub(crate) use googlenet::googlenet;
pub(crate) use mobilenet::mobilenet_v2;
pub(crate) use resnet::{resnet18, resnet50};
pub(crate) use squeezenet::squeezenet1_1;
pub(crate) use vgg::vgg19;

/// Classes of ImageNet.
const CLASSES: u64 = 1000;

/// torchvision's usual epsilon of batch normalisation.
const EPSILON: f32 = 1e-5;

fn image(net: &mut Network) -> Value {
    let dims = [Dim::Batch, Dim::Size(3), Dim::Size(224), Dim::Size(224)];
    net.input("input", DataType::Float, &dims)
}

/// A convolution and a batch normalisation of scale 1.
fn conv_norm(net: &mut Network, names: (&str, &str), x: &Value, conv: Conv) -> Value {
    let y = net.conv(names.0, x, conv);
    let norm = BatchNorm {
        epsilon: EPSILON,
        scale: 1.0,
    };
    net.batch_norm(names.1, &y, norm)
}
