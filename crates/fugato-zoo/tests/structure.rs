//! The models are the published ones: parameters, multiply-adds, shapes, seeds.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use fugato_onnx::{DataType, ModelProto, TensorProto, read_model};
use fugato_zoo::{Dim, Outcome, Recipe, RepositoryError, ZooModel, find, models, write_repository};

const BATCH: Dim = Dim::Batch;
const SEQUENCE: Dim = Dim::Sequence;

fn model(name: &str) -> &'static ZooModel {
    find(name).unwrap()
}

/// Parameters and their sources: the "num_params" of torchvision's weight tables, and
/// the checkpoint of BERT-base uncased with its pooler (the paper rounds to 110M).
#[test]
fn parameters_are_the_published_counts() {
    let published = [
        ("squeezenet1_1", 1_235_496),
        ("googlenet", 6_624_904),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("vgg19", 143_667_240),
        ("alexnet", 61_100_840),
        // torchvision's 27,161,264 less the 3,326,696 of the auxiliary head.
        ("inception_v3", 23_834_568),
        ("densenet121", 7_978_856),
        ("resnext50_32x4d", 25_028_904),
        ("shufflenet_v2_x1_0", 2_278_604),
        // "Trainable params" of Keras's NASNetLarge; the paper rounds to 88.9 million.
        ("nasnet_a_large", 88_753_150),
        // Of our graphs; the paper gives 31.9 million, a mean over random ones.
        ("randwire_ws", 32_017_599),
        ("bert-base", 109_482_240),
        // Turc et al. 2019 give 4.4 million.
        ("bert-tiny", 4_385_920),
        ("identity", 0),
    ];
    for (name, parameters) in published {
        assert_eq!(model(name).parameters(), parameters, "{name}");
    }
    assert_eq!(published.len(), models().len());
}

/// Multiply-adds in millions and their sources: the "GFLOPS" column of torchvision's
/// weight tables, which counts a multiply-add as one, rounded to three decimals; and
/// 22.5 GFLOPs, a multiply-add as two, for BERT-base at 128 tokens (TinyBERT, Jiao et
/// al. 2020, table 1), rounded to one decimal and counting more than matrix products. The
/// papers give 23.8 billion for NASNet-A (6 @ 4032) and 4.0 billion, a mean over random
/// graphs, for RandWire-WS of 109 channels.
#[test]
fn multiply_adds_are_the_published_counts() {
    let published = [
        ("squeezenet1_1", 349.0, 0.5),
        ("googlenet", 1_498.0, 0.5),
        ("resnet18", 1_814.0, 0.5),
        ("resnet50", 4_089.0, 0.5),
        ("mobilenet_v2", 301.0, 0.5),
        ("vgg19", 19_632.0, 0.5),
        ("alexnet", 714.0, 0.5),
        ("inception_v3", 5_713.0, 0.5),
        ("densenet121", 2_834.0, 0.5),
        ("resnext50_32x4d", 4_230.0, 0.5),
        ("shufflenet_v2_x1_0", 145.0, 0.5),
        ("nasnet_a_large", 23_800.0, 50.0),
        ("randwire_ws", 4_000.0, 90.0),
        ("bert-base", 11_250.0, 100.0),
    ];
    for (name, millions, tolerance) in published {
        let counted = model(name).multiply_adds() as f64 / 1e6;
        assert!(
            (counted - millions).abs() <= tolerance,
            "{name}: {counted} M, published {millions} M"
        );
    }
}

#[test]
fn inputs_and_outputs_have_the_published_shapes() {
    for (name, side) in [
        ("squeezenet1_1", 224),
        ("googlenet", 224),
        ("resnet18", 224),
        ("resnet50", 224),
        ("mobilenet_v2", 224),
        ("vgg19", 224),
        ("alexnet", 224),
        ("inception_v3", 299),
        ("densenet121", 224),
        ("resnext50_32x4d", 224),
        ("shufflenet_v2_x1_0", 224),
        ("nasnet_a_large", 331),
        ("randwire_ws", 224),
    ] {
        let inputs = model(name).inputs();
        let side = Dim::Size(side);
        assert_eq!(inputs.len(), 1, "{name}");
        assert_eq!(inputs[0].port.data_type, DataType::Float);
        assert_eq!(inputs[0].port.dims, [BATCH, Dim::Size(3), side, side]);
        let outputs = model(name).outputs();
        assert_eq!(outputs.len(), 1, "{name}");
        assert_eq!(outputs[0].dims, [BATCH, Dim::Size(1000)], "{name}");
    }
    for (name, hidden) in [("bert-base", 768), ("bert-tiny", 128)] {
        let inputs = model(name).inputs();
        let names: Vec<&str> = inputs
            .iter()
            .map(|input| input.port.name.as_str())
            .collect();
        assert_eq!(names, ["input_ids", "attention_mask", "token_type_ids"]);
        for input in &inputs {
            assert_eq!(input.port.data_type, DataType::Int64);
            assert_eq!(input.port.dims, [BATCH, SEQUENCE]);
        }
        let outputs = model(name).outputs();
        assert_eq!(outputs[0].name, "last_hidden_state");
        assert_eq!(outputs[0].dims, [BATCH, SEQUENCE, Dim::Size(hidden)]);
        assert_eq!(outputs[1].name, "pooler_output");
        assert_eq!(outputs[1].dims, [BATCH, Dim::Size(hidden)]);
    }
}

fn weights(model: &ModelProto) -> &[TensorProto] {
    &model.graph.as_ref().unwrap().initializer
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_seed_others() {
    let model = model("squeezenet1_1");
    let [first, again, other] = [5, 5, 6].map(|seed| model.build(seed));
    assert_eq!(first, again);
    for (a, b) in weights(&first).iter().zip(weights(&other)) {
        assert_eq!((a.name(), &a.dims), (b.name(), &b.dims));
        assert_ne!(a.raw_data, b.raw_data, "{}", a.name());
    }
    let total: usize = weights(&first)
        .iter()
        .map(|tensor| tensor.to_bytes().unwrap().len() / 4)
        .sum();
    assert_eq!(total as u64, model.parameters());
}

#[test]
fn a_repository_is_written_once_and_renewed_for_another_seed() {
    let folder = tempfile::tempdir().unwrap();
    let write = |seed| {
        let names = ["identity", "squeezenet1_1"];
        let written =
            write_repository(folder.path(), &names, Recipe::seeded(seed), &mut |_| {}).unwrap();
        written
            .iter()
            .map(|model| model.outcome)
            .collect::<Vec<_>>()
    };
    assert_eq!(write(1), [Outcome::Written; 2]);
    assert_eq!(write(1), [Outcome::Kept; 2]);
    assert_eq!(write(2), [Outcome::Written; 2]);

    let path = folder.path().join("squeezenet1_1/1/model.onnx");
    assert_eq!(read_model(&path).unwrap(), model("squeezenet1_1").build(2));
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(
        write(2),
        [Outcome::Kept, Outcome::Written],
        "a cut file is written anew"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn an_unknown_name_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let names = ["identity", "../escape"];
    let error =
        write_repository(folder.path(), &names, Recipe::seeded(0), &mut |_| {}).unwrap_err();
    assert!(matches!(error, RepositoryError::UnknownModel { name } if name == "../escape"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_text_model_of_so_many_tokens_says_so_and_others_stay_as_they_are() {
    let fixed = Recipe {
        seed: 3,
        sequence: Some(16),
    };
    let tiny = model("bert-tiny");
    let (any, sixteen) = (tiny.build(3), tiny.make(fixed));
    assert_eq!(weights(&any), weights(&sixteen));
    let graph = sixteen.graph.as_ref().unwrap();
    for port in graph.input.iter().chain(&graph.output) {
        let text = format!("{port:?}");
        assert!(!text.contains("sequence"), "{text}");
    }
    let squeezenet = model("squeezenet1_1");
    assert_eq!(squeezenet.make(fixed), squeezenet.build(3));

    let folder = tempfile::tempdir().unwrap();
    let write = |recipe| {
        let names = ["bert-tiny", "identity"];
        let written = write_repository(folder.path(), &names, recipe, &mut |_| {}).unwrap();
        [written[0].outcome, written[1].outcome]
    };
    assert_eq!(write(Recipe::seeded(3)), [Outcome::Written; 2]);
    assert_eq!(write(fixed), [Outcome::Written, Outcome::Kept]);
    assert_eq!(write(fixed), [Outcome::Kept; 2]);
}
