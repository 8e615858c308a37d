//! Making the batch dimension dynamic.

use super::{IntegerConstants, LightError, output};
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::{GraphProto, TensorProto};
use std::collections::HashSet;

/// Makes the first dimension of inputs, outputs and values in between the symbol
/// `batch`, and lets reshapes of such values copy it.
pub(super) fn make_dynamic(
    graph: &mut GraphProto,
    constants: &IntegerConstants,
) -> Result<(), LightError> {
    let initialised: HashSet<String> = graph
        .initializer
        .iter()
        .map(|tensor| tensor.name().to_owned())
        .collect();
    let mut dynamic: HashSet<String> = graph
        .input
        .iter()
        .map(|port| port.name().to_owned())
        .filter(|name| !initialised.contains(name))
        .collect();
    let mut shapes = Vec::new();
    for node in &mut graph.node {
        if !node.input.iter().any(|name| dynamic.contains(name)) {
            continue;
        }
        dynamic.extend(node.output.iter().cloned());
        if node.op_type() == "Reshape" {
            let target = node.input.get(1).and_then(|name| constants.get(name));
            let Some([first, rest @ ..]) = target.map(Vec::as_slice) else {
                continue;
            };
            match first {
                0 | -1 => continue,
                1 => {}
                &found => {
                    let value = output(node).to_owned();
                    return Err(LightError::FixedBatch { value, found });
                }
            }
            // 0 copies the size of the input's first dimension. A new constant, since
            // the old one may have other readers.
            let name = format!("{}.batched_shape", output(node));
            let sizes: Vec<i64> = [0].into_iter().chain(rest.iter().copied()).collect();
            shapes.push(TensorProto::from_i64s(
                name.clone(),
                &[sizes.len() as i64],
                &sizes,
            ));
            node.input[1] = name;
        }
    }
    graph.initializer.extend(shapes);
    let ports = graph.input.iter_mut().chain(&mut graph.output);
    for port in ports.chain(&mut graph.value_info) {
        if dynamic.contains(port.name()) {
            rename_first_dimension(port)?;
        }
    }
    Ok(())
}

fn rename_first_dimension(port: &mut ValueInfoProto) -> Result<(), LightError> {
    let name = port.name().to_owned();
    let shape = port
        .tensor_type_mut()
        .and_then(|tensor| tensor.shape.as_mut());
    let Some(first) = shape.and_then(|shape| shape.dim.first_mut()) else {
        return Ok(());
    };
    if let Some(found) = first.known_size().filter(|&size| size != 1) {
        return Err(LightError::FixedBatch { value: name, found });
    }
    *first = Dimension::symbol("batch");
    Ok(())
}
