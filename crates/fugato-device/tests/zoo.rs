//! The zoo's models, batched on the device, against plain ONNX Runtime one request at a
//! time: what batching, the store's optimised graph and shared weights may not change.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::zoo::item;
use common::{Bench, Rig, as_f32, assert_close, request};
use fugato_core::device::LaneClass;
use fugato_core::{LaneId, PartitionId};
use fugato_device::Device;
use fugato_device::reference::PlainSession;

fn compare(name: &str) {
    compare_batches(name, &[1, 3, 8]);
}

fn compare_batches(name: &str, batches: &[usize]) {
    let largest = batches.iter().max().unwrap();
    let model = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let path = bench.write("model.onnx", &model.build(1));
    let stored = bench.store.prepare(&path).unwrap();
    assert_eq!(stored.info().batching, fugato_device::Batching::Batchable);
    assert!(stored.info().weight_bytes >= 4 * model.parameters());
    let mut plain = PlainSession::load(&bench.runtime, &path, 1).unwrap();
    let items: Vec<_> = (0..*largest as u64).map(|seed| item(model, seed)).collect();
    let expected: Vec<_> = items.iter().map(|item| plain.run(item).unwrap()).collect();
    drop(plain);
    let rig = Rig::new();
    rig.load(1, &stored, *largest as u32);
    let spec = rig.device.spec().clone();
    for partition in [PartitionId(0), spec.partitions.last().unwrap().id] {
        let lanes = &spec.partitions[usize::from(partition.0)].lanes;
        let lane = lanes
            .iter()
            .position(|&class| class == LaneClass::Normal)
            .unwrap();
        for &batch in batches {
            let requests = items[..batch].iter().map(|item| request(1, item.clone()));
            let mut leg = rig.leg(1, requests.collect());
            leg.start.partition = partition;
            leg.start.lane = LaneId(u16::try_from(lane).unwrap());
            rig.device.start(leg);
            let found = rig.finished().result.unwrap().requests;
            assert_eq!(found.len(), batch);
            for (found, expected) in found.iter().zip(&expected) {
                for (found, expected) in found.as_ref().unwrap().iter().zip(expected) {
                    assert_eq!(found.shape, expected.shape);
                    assert_close(&as_f32(found), &as_f32(expected), 1e-4);
                }
            }
        }
    }
}

#[test]
fn identity() {
    compare("identity");
}

#[test]
fn squeezenet() {
    compare("squeezenet1_1");
}

#[test]
fn mobilenet() {
    compare("mobilenet_v2");
}

#[test]
fn googlenet() {
    compare("googlenet");
}

#[test]
fn resnet18() {
    compare("resnet18");
}

#[test]
fn bert_tiny() {
    compare("bert-tiny");
}

#[test]
fn resnet50() {
    compare("resnet50");
}

#[test]
fn bert_base() {
    compare("bert-base");
}

#[test]
fn vgg19() {
    compare("vgg19");
}

#[test]
fn alexnet() {
    compare("alexnet");
}

#[test]
fn inception() {
    compare("inception_v3");
}

#[test]
fn densenet() {
    compare("densenet121");
}

#[test]
fn resnext() {
    compare("resnext50_32x4d");
}

#[test]
fn shufflenet() {
    compare("shufflenet_v2_x1_0");
}

#[test]
fn randwire() {
    compare("randwire_ws");
}

/// A few items only: each takes as long as six of ResNet-50.
#[test]
fn nasnet() {
    compare_batches("nasnet_a_large", &[2]);
}
