//! The models of the zoo in legs, against themselves in one piece.

use crate::common::zoo::item;
use crate::common::{Bench, Rig, as_f32, assert_close, request};
use crate::{options, part_files};
use fugato_core::ModelId;
use fugato_device::Cuts;

/// A model of the zoo in one leg of all segments, and in a leg for each, against itself in
/// one piece.
fn compare(name: &str) {
    compare_batches(name, &[1, 2]);
}

fn compare_batches(name: &str, batches: &[u64]) {
    let zoo = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let rig = Rig::new();
    rig.load(1, &stored, 2);
    // Chains are cut too, or some models would be one segment.
    let segments = stored.graph().unwrap().segments_from(100_000_000);
    assert!(segments.count() > 1);
    let together = Cuts::segment_by_segment(&segments);
    let all = segments.all().iter();
    let apart = Cuts::sequential(all.map(|one| one.operators.clone()));
    for (id, cuts) in [(2, together), (3, apart)] {
        let legs = u16::try_from(cuts.legs()).unwrap();
        let loaded = rig.device.load(ModelId(id), &stored, &options(cuts, 2));
        assert_eq!(loaded.unwrap().legs, legs);
        for &batch in batches {
            let items = || (0..batch).map(|seed| request(1, item(zoo, seed)));
            let expected = rig.run(1, items().collect()).unwrap();
            let found = rig.run_legs(id, legs, items().collect()).unwrap();
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert_eq!(found.shape, expected.shape);
                assert_close(&as_f32(found), &as_f32(expected), 1e-5);
            }
        }
    }
    // Both plans are of the same segments, so of the same files.
    assert_eq!(part_files(&stored).len(), segments.count());
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
fn resnet50() {
    compare("resnet50");
}

#[test]
fn resnext50() {
    compare("resnext50_32x4d");
}

#[test]
fn alexnet() {
    compare("alexnet");
}

#[test]
fn shufflenet() {
    compare("shufflenet_v2_x1_0");
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
fn vgg19() {
    compare("vgg19");
}

#[test]
fn bert_base() {
    compare("bert-base");
}

#[test]
fn randwire() {
    compare("randwire_ws");
}

/// One item: it takes as long as six of ResNet-50.
#[test]
fn nasnet() {
    compare_batches("nasnet_a_large", &[1]);
}
