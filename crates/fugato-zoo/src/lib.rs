//! The models of the papers as ONNX files, built here, with seeded weights.
//!
//! [`models`] lists them, [`ZooModel::build`] makes one, [`write_repository`] lays them
//! out as a Triton model repository. [`light`] gives weights to the weightless models
//! that the PyPI package `onnx` ships.
//!
//! The weights are random: shapes, costs and numerics are those of the real models,
//! answers are not. The standard deviation of each layer's output stays between 0.05 and
//! 10 at any depth, outputs are finite and spread, and different inputs give clearly
//! different outputs (`tests/check_models.py` checks it, the layers with `--layers`; the
//! acceptance suite has it check every model).
//!
//! **Invariant:** the same seed and zoo version give the same bytes on any machine and
//! number of threads.

mod bert;
pub mod light;
mod network;
mod repository;
mod vision;
mod weights;

use fugato_onnx::proto::StringStringEntryProto;
use fugato_onnx::{DataType, ModelProto};
use network::{Network, Port};

pub use network::Dim;
pub use repository::{Outcome, Progress, RepositoryError, Written, write_repository};

/// Version of the zoo's content. Raised with any change of a model or of the weights a
/// seed gives, so that files written before are written again.
pub const ZOO_VERSION: u32 = 1;

/// Sequence length that [`ZooModel::multiply_adds`] counts text models at.
pub const TYPICAL_SEQUENCE: u64 = 128;

/// Longest sequence that text models have places for.
pub const SEQUENCE_MAX: u64 = bert::POSITIONS_MAX;

/// Metadata key of a model file that says what it was made from.
const STAMP_KEY: &str = "fugato.zoo";

/// What a file is made of, beside its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The seed of the weights.
    pub seed: u64,
    /// The tokens that text models take, from 1 to [`SEQUENCE_MAX`]; `None` for any number.
    /// A device that places tensors before it runs needs one.
    pub sequence: Option<u64>,
}

impl Recipe {
    /// A model as it is published, with the weights of a seed.
    pub const fn seeded(seed: u64) -> Self {
        Self {
            seed,
            sequence: None,
        }
    }
}

/// One model of the zoo.
#[derive(Clone, Copy, Debug)]
pub struct ZooModel {
    /// Name, also of the folder in a model repository.
    pub name: &'static str,
    /// What it is, for people.
    pub description: &'static str,
    network: fn() -> Network,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooPort {
    /// Name.
    pub name: String,
    /// Element type.
    pub data_type: DataType,
    /// Shape; the first dimension is [`Dim::Batch`].
    pub dims: Vec<Dim>,
}

/// An input of a model, with what a load generator may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooInput {
    /// Name, type and shape.
    pub port: ZooPort,
    /// Values that make sense.
    pub values: InputValues,
}

/// Values that make sense for an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputValues {
    /// Floats of mean 0 and variance 1, as normalised images have.
    Normal,
    /// Integers from 0 up to but not including `end`.
    Below {
        /// One past the largest.
        end: u64,
    },
    /// Ones.
    One,
}

static MODELS: [ZooModel; 16] = [
    ZooModel {
        name: "squeezenet1_1",
        description: "SqueezeNet 1.1, image classifier",
        network: vision::squeezenet1_1,
    },
    ZooModel {
        name: "googlenet",
        description: "GoogLeNet without auxiliary heads, image classifier",
        network: vision::googlenet,
    },
    ZooModel {
        name: "resnet18",
        description: "ResNet-18, image classifier",
        network: vision::resnet18,
    },
    ZooModel {
        name: "resnet50",
        description: "ResNet-50, image classifier",
        network: vision::resnet50,
    },
    ZooModel {
        name: "mobilenet_v2",
        description: "MobileNet-v2, image classifier",
        network: vision::mobilenet_v2,
    },
    ZooModel {
        name: "vgg19",
        description: "VGG-19, image classifier",
        network: vision::vgg19,
    },
    ZooModel {
        name: "alexnet",
        description: "AlexNet of one column, image classifier",
        network: vision::alexnet,
    },
    ZooModel {
        name: "inception_v3",
        description: "Inception-v3 without its auxiliary head, image classifier",
        network: vision::inception_v3,
    },
    ZooModel {
        name: "densenet121",
        description: "DenseNet-121, image classifier",
        network: vision::densenet121,
    },
    ZooModel {
        name: "resnext50_32x4d",
        description: "ResNeXt-50 of 32 groups of 4 channels, image classifier",
        network: vision::resnext50_32x4d,
    },
    ZooModel {
        name: "shufflenet_v2_x1_0",
        description: "ShuffleNet-v2 of width 1, image classifier",
        network: vision::shufflenet_v2_x1_0,
    },
    ZooModel {
        name: "nasnet_a_large",
        description: "NASNet-A-Large without its auxiliary head, image classifier",
        network: vision::nasnet_a_large,
    },
    ZooModel {
        name: "randwire_ws",
        description: "RandWire-WS(32, 4, 0.75) of 109 channels, image classifier",
        network: vision::randwire_ws,
    },
    ZooModel {
        name: "bert-base",
        description: "BERT-base uncased with pooler, text encoder",
        network: bert::bert_base,
    },
    ZooModel {
        name: "bert-tiny",
        description: "BERT of 2 layers of width 128 with pooler, text encoder",
        network: bert::bert_tiny,
    },
    ZooModel {
        name: "identity",
        description: "gives its one float back, for measuring overhead",
        network: identity,
    },
];

/// Lists the models.
pub fn models() -> &'static [ZooModel] {
    &MODELS
}

/// Finds a model by name.
pub fn find(name: &str) -> Option<&'static ZooModel> {
    MODELS.iter().find(|model| model.name == name)
}

impl ZooModel {
    /// Counts the trainable parameters.
    pub fn parameters(&self) -> u64 {
        (self.network)().parameters()
    }

    /// Counts the multiply-adds of convolutions and matrix products for one item; text
    /// models at [`TYPICAL_SEQUENCE`].
    pub fn multiply_adds(&self) -> u64 {
        (self.network)().multiply_adds(1, TYPICAL_SEQUENCE)
    }

    /// Describes the inputs.
    pub fn inputs(&self) -> Vec<ZooInput> {
        let network = (self.network)();
        let describe = |port: &Port| ZooInput {
            port: ZooPort::from(port),
            values: match port.name.as_str() {
                "input_ids" => InputValues::Below {
                    end: bert::VOCABULARY,
                },
                "token_type_ids" => InputValues::Below {
                    end: bert::TOKEN_TYPES,
                },
                "attention_mask" => InputValues::One,
                _ => InputValues::Normal,
            },
        };
        network.inputs().iter().map(describe).collect()
    }

    /// Describes the outputs; all are floats.
    pub fn outputs(&self) -> Vec<ZooPort> {
        let network = (self.network)();
        network.outputs().iter().map(ZooPort::from).collect()
    }

    /// Makes the model with the weights of a seed.
    ///
    /// # Cost
    /// Linear in the number of parameters: VGG-19's 144 million take a second or two.
    pub fn build(&self, seed: u64) -> ModelProto {
        self.make(Recipe::seeded(seed))
    }

    /// Makes the model by a recipe.
    ///
    /// # Panics
    /// Where a text model is to take no token, or more than [`SEQUENCE_MAX`].
    ///
    /// # Cost
    /// As [`ZooModel::build`].
    pub fn make(&self, recipe: Recipe) -> ModelProto {
        let mut network = (self.network)();
        if let Some(sequence) = recipe.sequence {
            assert!(
                (1..=SEQUENCE_MAX).contains(&sequence),
                "a text of {sequence} tokens, expected 1 to {SEQUENCE_MAX}"
            );
            network.fix_sequence(sequence);
        }
        let stamp = StringStringEntryProto::new(STAMP_KEY, self.stamp(recipe));
        network.to_model(recipe.seed, vec![stamp])
    }

    /// Says what a file holds: equal stamps, equal content.
    fn stamp(&self, Recipe { seed, sequence }: Recipe) -> String {
        let stamp = format!("model={} version={ZOO_VERSION} seed={seed}", self.name);
        match sequence {
            Some(sequence) if (self.network)().takes_text() => {
                format!("{stamp} sequence={sequence}")
            }
            Some(_) | None => stamp,
        }
    }
}

impl From<&Port> for ZooPort {
    fn from(port: &Port) -> Self {
        Self {
            name: port.name.clone(),
            data_type: port.data_type,
            dims: port.dims.clone(),
        }
    }
}

fn identity() -> Network {
    let mut net = Network::new("identity");
    let x = net.input("input", DataType::Float, &[Dim::Batch, Dim::Size(1)]);
    let y = net.unary("identity", "Identity", &x);
    net.output("output", &y);
    net
}
