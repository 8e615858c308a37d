//! The models of the zoo in legs, against themselves in one piece.

use crate::common::zoo::item;
use crate::common::{Bench, Rig, as_f32, assert_close, request};
use crate::{options, part_files};
use fugato_core::plan::{AnyPlanner, CostBasis, CostModel, LegLimits, Plan, PlanKey, Planner};
use fugato_core::profile::DeviceKey;
use fugato_core::{BatchSize, ModelId, Share};
use fugato_device::{Cuts, StoredModel};
use fugato_zoo::ZooModel;

/// A model of the zoo in one leg of all segments, in a leg for each, and in the legs of every
/// planner's plan, groups at once and merged stages among them, against itself in one piece.
fn compare(name: &str) {
    compare_batches(name, &[1, 2]);
}

fn compare_batches(name: &str, batches: &[u64]) {
    let zoo = fugato_zoo::find(name).unwrap();
    let bench = Bench::new();
    let stored = bench.prepare(&zoo.build(1));
    let rig = Rig::new();
    rig.load(1, &stored, 2);
    let segments = stored.graph().unwrap().segments_from(FLOPS);
    assert!(segments.count() > 1);
    let together = Cuts::segment_by_segment(&segments);
    let all = segments.all().iter();
    let apart = Cuts::sequential(all.map(|one| one.operators.clone()));
    for cuts in [together, apart] {
        compare_legs(&rig, &stored, cuts, (zoo, batches));
    }
    // Both plans are of the same segments, so of the same files.
    assert_eq!(part_files(&stored).len(), segments.count());
    for name in AnyPlanner::NAMES {
        compare_legs(&rig, &stored, planned(name, &stored), (zoo, batches));
    }
}

/// Operations after which chains are cut, or some models would be one segment.
const FLOPS: u64 = 100_000_000;

/// What a planner makes of the model at the prices of a device on which much may run at once.
fn planned(name: &str, stored: &StoredModel) -> Cuts {
    let planner: AnyPlanner = name.parse().unwrap();
    let graph = stored.graph().unwrap();
    let segments = match planner.merges() {
        true => graph.segments_to_stack(FLOPS),
        false => graph.segments_from(FLOPS),
    };
    let model = CostModel::IOS_V100;
    let mut costs = model.costs(graph.graph(), &segments, BatchSize(1), model.lane_slices);
    let Ok(stages) = planner.stages(&segments, &mut costs, &mut |_| {});
    let key = PlanKey {
        model: stored.info().hash.clone(),
        device: DeviceKey {
            kind: "cpu".to_owned(),
            name: "a CPU".to_owned(),
            slices: 2,
        },
        runtime: "onnxruntime".to_owned(),
        share: Share(2),
        batch: BatchSize(1),
    };
    let limits = LegLimits::default();
    let plan = Plan::new(key, name, CostBasis::Modelled, stages, limits);
    plan.check(&segments).unwrap();
    Cuts::of(&plan, &segments)
}

/// The model cut that way against itself in one piece.
fn compare_legs(
    rig: &Rig,
    stored: &StoredModel,
    cuts: Cuts,
    (zoo, batches): (&'static ZooModel, &[u64]),
) {
    let cut = 2;
    let legs = u16::try_from(cuts.legs()).unwrap();
    let loaded = rig.device.load(ModelId(cut), stored, &options(cuts, 2));
    assert_eq!(loaded.unwrap().legs, legs);
    for &batch in batches {
        let items = || (0..batch).map(|seed| request(1, item(zoo, seed)));
        let expected = rig.run(1, items().collect()).unwrap();
        let found = rig.run_legs(cut, legs, items().collect()).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(found.shape, expected.shape);
            assert_close(&as_f32(found), &as_f32(expected), 1e-5);
        }
    }
    rig.device.unload(ModelId(cut));
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

#[test]
fn bert_tiny() {
    compare("bert-tiny");
}
