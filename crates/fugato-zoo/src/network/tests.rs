#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::Network;
use crate::weights::fnv1a;
use crate::{ZOO_VERSION, models};
use fugato_onnx::write_model;
use std::collections::HashSet;

/// Every value is made once and before its use, and no weight is left over.
#[test]
fn graphs_are_sorted_and_complete() {
    for model in models() {
        let (name, net) = (model.name, (model.network)());
        assert_eq!(net.name, name, "seeds depend on it");
        let weights = net.params.iter().map(|param| param.name.as_str());
        let given: Vec<&str> = weights
            .chain(net.constants.iter().map(|constant| constant.name()))
            .collect();
        let inputs = net.inputs.iter().map(|port| port.name.as_str());
        let mut known: HashSet<&str> = HashSet::new();
        for value in given.iter().copied().chain(inputs) {
            assert!(known.insert(value), "{name}: `{value}` twice");
        }
        let mut nodes = HashSet::new();
        let mut read = HashSet::new();
        for node in &net.nodes {
            assert!(
                nodes.insert(node.name()),
                "{name}: node `{}` twice",
                node.name()
            );
            for input in &node.input {
                assert!(known.contains(input.as_str()), "{name}: `{input}` unknown");
                read.insert(input.as_str());
            }
            for output in &node.output {
                assert!(known.insert(output), "{name}: `{output}` twice");
            }
        }
        let outputs = net.outputs.iter().map(|port| port.name.as_str());
        for output in outputs {
            assert!(known.contains(output), "{name}: `{output}` unknown");
            read.insert(output);
        }
        for value in known {
            assert!(read.contains(value), "{name}: `{value}` unused");
        }
    }
}

/// A hash of the graph and of how each weight is made.
fn digest(net: &Network) -> u64 {
    let mut model = net.with_weights(std::iter::empty(), Vec::new());
    model.producer_version = None;
    let mut bytes = Vec::new();
    write_model(&model, &mut bytes).unwrap();
    bytes.extend_from_slice(format!("{:?}", net.params).as_bytes());
    fnv1a(&bytes)
}

/// Files of the same stamp hold the same content. Where this fails for a model that was
/// there before, raise [`ZOO_VERSION`] and write the hashes anew.
#[test]
fn no_model_changes_without_a_new_zoo_version() {
    assert_eq!(ZOO_VERSION, 1);
    let digests = [
        ("squeezenet1_1", 0x9f90_3fb1_6d99_aefe),
        ("googlenet", 0x1d76_54d3_4f34_fe34),
        ("resnet18", 0x6c4a_0263_b116_21c5),
        ("resnet50", 0xb882_c02d_13e9_d686),
        ("mobilenet_v2", 0x1f0f_f19e_46ac_e59c),
        ("vgg19", 0x1357_2986_433a_3bbc),
        ("alexnet", 0x0216_1993_0643_a6f0),
        ("inception_v3", 0xe8b4_8afd_c034_335f),
        ("densenet121", 0xca8d_e290_bddd_8acc),
        ("resnext50_32x4d", 0x7aa8_fdb2_40a7_4690),
        ("shufflenet_v2_x1_0", 0x372b_fbbc_1e97_407e),
        ("nasnet_a_large", 0x1320_f5cc_acc5_16ab),
        ("randwire_ws", 0xfb24_ab88_d91a_383e),
        ("bert-base", 0x1238_f2b2_442b_d44a),
        ("bert-tiny", 0xfeb4_abad_c02b_1e81),
        ("identity", 0x559b_0eaa_9ff5_13fb),
    ];
    assert_eq!(digests.len(), models().len());
    for (model, (name, expected)) in models().iter().zip(digests) {
        let found = digest(&(model.network)());
        assert_eq!((model.name, found), (name, expected), "found {found:#018x}");
    }
}
