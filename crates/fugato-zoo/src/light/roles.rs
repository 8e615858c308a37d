//! What each weight of a foreign graph is for, and so how it is filled.
//!
//! The graph is walked in its order with the expected standard deviation of every value,
//! by the same rules as [`crate::network`] builds its own models.

use super::{LightError, Weight, output};
use crate::network::{AROUND_SPREAD, BRANCH_SCALE, RELU_STD, SHIFT};
use crate::weights::Init;
use fugato_onnx::{GraphProto, NodeProto};
use std::collections::{HashMap, HashSet};

/// Share of the standard deviation left by a mean over all positions, as of 7x7.
const GLOBAL_POOL_STD: f32 = 0.38;

/// Says how each of `weights` is filled, in their order.
pub(super) fn plan(graph: &GraphProto, weights: &[Weight]) -> Result<Vec<Init>, LightError> {
    let mut walk = Walk {
        dims: weights
            .iter()
            .map(|weight| (weight.name.as_str(), weight.dims.as_slice()))
            .collect(),
        sources: weights
            .iter()
            .map(|weight| (weight.name.as_str(), weight.name.as_str()))
            .collect(),
        scales: HashMap::new(),
        branch_ends: branch_ends(graph),
        inits: HashMap::new(),
    };
    for node in &graph.node {
        walk.visit(node)?;
    }
    let init = |weight: &Weight| {
        let init = walk.inits.get(weight.name.as_str()).copied();
        init.ok_or_else(|| LightError::Unread {
            weight: weight.name.clone(),
        })
    };
    weights.iter().map(init).collect()
}

/// The expected scale of a value.
#[derive(Clone, Copy)]
struct Scale {
    std: f32,
    /// Whether most elements are at least zero.
    rectified: bool,
}

const UNIT: Scale = Scale {
    std: 1.0,
    rectified: false,
};

struct Walk<'a> {
    dims: HashMap<&'a str, &'a [i64]>,
    /// The weight behind a value that is a weight, or one with axes added or joined.
    sources: HashMap<&'a str, &'a str>,
    scales: HashMap<&'a str, Scale>,
    branch_ends: HashSet<&'a str>,
    inits: HashMap<&'a str, Init>,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, node: &'a NodeProto) -> Result<(), LightError> {
        let first = node.input.first().map_or("", String::as_str);
        if let ("Unsqueeze" | "Reshape" | "Identity", Some(&source)) =
            (node.op_type(), self.sources.get(first))
        {
            self.sources.insert(output(node), source);
            return Ok(());
        }
        for (slot, input) in node.input.iter().enumerate() {
            if let Some(&weight) = self.sources.get(input.as_str()) {
                let init = self.init(node, slot, weight)?;
                self.inits.entry(weight).or_insert(init);
            }
        }
        let scale = self.scale(node);
        self.scales.insert(output(node), scale);
        Ok(())
    }

    /// Says how a weight is filled that `node` reads as input `slot`.
    fn init(&self, node: &NodeProto, slot: usize, weight: &str) -> Result<Init, LightError> {
        let dims = self.dims.get(weight).copied().unwrap_or_default();
        let x = self.data_scale(node).std;
        let filter = |fan_in: i64| Init::Filter {
            std: 1.0 / (x * (fan_in.max(1) as f32).sqrt()),
        };
        let around = |mean: f32| Init::Uniform {
            mean,
            spread: mean * AROUND_SPREAD,
        };
        let shift = |std: f32| Init::Normal { std: SHIFT * std };
        let norm_scale = self.norm_scale(node);
        Ok(match (node.op_type(), slot) {
            ("Conv", 1) => filter(dims.iter().skip(1).product()),
            ("Gemm", 1) if integer(node, "transB") == 1 => filter(dims.iter().skip(1).product()),
            ("Gemm" | "MatMul", 1) => Init::Normal {
                std: 1.0 / (x * (dims.iter().rev().skip(1).product::<i64>().max(1) as f32).sqrt()),
            },
            ("Conv" | "Gemm", 2) => shift(1.0),
            ("BatchNormalization", 1) => around(norm_scale),
            ("BatchNormalization", 2) => shift(norm_scale),
            ("BatchNormalization", 3) => shift(x),
            ("BatchNormalization", 4) => around(x * x),
            ("Mul", _) => around(1.0),
            ("Add", _) => shift(x),
            (op_type, slot) => {
                return Err(LightError::UnknownRole {
                    weight: weight.to_owned(),
                    slot,
                    op_type: op_type.to_owned(),
                });
            }
        })
    }

    /// Gives the scale of a node's first input that is not a weight.
    fn data_scale(&self, node: &NodeProto) -> Scale {
        self.data_scales(node).next().unwrap_or(UNIT)
    }

    fn data_scales(&self, node: &NodeProto) -> impl Iterator<Item = Scale> {
        node.input
            .iter()
            .filter(|input| !self.sources.contains_key(input.as_str()))
            .map(|input| self.scales.get(input.as_str()).copied().unwrap_or(UNIT))
    }

    fn norm_scale(&self, node: &NodeProto) -> f32 {
        if self.branch_ends.contains(output(node)) {
            BRANCH_SCALE
        } else {
            1.0
        }
    }

    /// Gives the scale of a node's output.
    fn scale(&self, node: &NodeProto) -> Scale {
        let x = self.data_scale(node);
        let variance: f32 = self.data_scales(node).map(|x| x.std * x.std).sum();
        match node.op_type() {
            "Conv" | "Gemm" | "MatMul" => UNIT,
            "BatchNormalization" => Scale {
                std: self.norm_scale(node),
                rectified: false,
            },
            "Relu" => Scale {
                std: if x.rectified { x.std } else { x.std * RELU_STD },
                rectified: true,
            },
            "Sum" | "Add" => Scale {
                std: variance.sqrt(),
                rectified: self.data_scales(node).any(|x| x.rectified),
            },
            "Concat" => Scale {
                std: (variance / self.data_scales(node).count().max(1) as f32).sqrt(),
                rectified: self.data_scales(node).all(|x| x.rectified),
            },
            "AveragePool" => {
                let kernel = node.find_attribute("kernel_shape");
                let positions: i64 = kernel.map_or(1, |kernel| kernel.ints.iter().product());
                Scale {
                    std: x.std / (positions.max(1) as f32).powf(0.25),
                    ..x
                }
            }
            "GlobalAveragePool" => Scale {
                std: x.std * GLOBAL_POOL_STD,
                ..x
            },
            _ => x,
        }
    }
}

/// Finds the batch normalisations that end a residual branch: they are added to a value
/// that is not one.
fn branch_ends(graph: &GraphProto) -> HashSet<&str> {
    let norms = graph
        .node
        .iter()
        .filter(|node| node.op_type() == "BatchNormalization");
    let norms: HashSet<&str> = norms.map(output).collect();
    let sums = graph
        .node
        .iter()
        .filter(|node| matches!(node.op_type(), "Sum" | "Add"));
    sums.filter(|sum| !sum.input.iter().all(|input| norms.contains(input.as_str())))
        .flat_map(|sum| &sum.input)
        .map(String::as_str)
        .filter(|input| norms.contains(input))
        .collect()
}

fn integer(node: &NodeProto, attribute: &str) -> i64 {
    node.find_attribute(attribute)
        .map_or(0, |attribute| attribute.i())
}
