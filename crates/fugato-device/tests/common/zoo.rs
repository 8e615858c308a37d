//! Inputs of the zoo's models.

use super::{f32_bytes, floats, raw};
use fugato_device::InputTensor;
use fugato_onnx::DataType;
use fugato_zoo::{InputValues, ZooModel};

/// Sequence length of text models here; odd, so that no kernel's block fits it.
const SEQUENCE: u64 = 17;

/// One item for each input of a zoo model.
pub fn item(model: &ZooModel, seed: u64) -> Vec<InputTensor> {
    let tensor = |input: &fugato_zoo::ZooInput| {
        let dims = input.port.dims.iter();
        let shape: Vec<u64> = dims.map(|dim| dim.at(1, SEQUENCE)).collect();
        let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let integers = |of: &dyn Fn(f32) -> i64| -> Vec<u8> {
            floats(seed, count)
                .iter()
                .flat_map(|&v| of(v).to_le_bytes())
                .collect()
        };
        match (input.port.data_type, input.values) {
            (DataType::Float, InputValues::Normal) => raw(&shape, f32_bytes(&floats(seed, count))),
            (DataType::Int64, InputValues::Below { end }) => {
                let spread = |v: f32| ((v + 1.0) / 2.0 * (end - 1) as f32) as i64;
                raw(&shape, integers(&spread))
            }
            (DataType::Int64, InputValues::One) => raw(&shape, integers(&|_| 1)),
            other => panic!("no values for {other:?}"),
        }
    };
    model.inputs().iter().map(tensor).collect()
}
