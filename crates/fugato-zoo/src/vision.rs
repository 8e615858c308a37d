//! The image classifiers, with the layers and names of torchvision where it has them.
//!
//! All take `input` [batch, 3, side, side], with a side of 224 where a builder says no
//! other, and give `output` [batch, 1000], the logits.

use crate::network::{BatchNorm, Conv, Dim, Network, Value};
use fugato_onnx::DataType;

mod alexnet;
mod densenet;
mod googlenet;
mod inception;
mod mobilenet;
mod nasnet;
mod randwire;
mod resnet;
mod shufflenet;
mod squeezenet;
mod vgg;

pub(crate) use alexnet::alexnet;
pub(crate) use densenet::densenet121;
pub(crate) use googlenet::googlenet;
pub(crate) use inception::inception_v3;
pub(crate) use mobilenet::mobilenet_v2;
pub(crate) use nasnet::nasnet_a_large;
pub(crate) use randwire::randwire_ws;
pub(crate) use resnet::{resnet18, resnet50, resnext50_32x4d};
pub(crate) use shufflenet::shufflenet_v2_x1_0;
pub(crate) use squeezenet::squeezenet1_1;
pub(crate) use vgg::vgg19;

/// Classes of ImageNet.
const CLASSES: u64 = 1000;

/// torchvision's usual epsilon of batch normalisation.
const EPSILON: f32 = 1e-5;

fn image(net: &mut Network) -> Value {
    image_of(net, 224)
}

fn image_of(net: &mut Network, side: u64) -> Value {
    let dims = [Dim::Batch, Dim::Size(3), Dim::Size(side), Dim::Size(side)];
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
