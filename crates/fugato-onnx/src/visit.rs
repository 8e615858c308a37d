//! Walking over every tensor of a model.

use crate::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// Calls `visit` with every tensor of a model: initializers (sparse ones too) and
/// attribute values, in subgraphs, functions and training graphs as well.
///
/// # Errors
/// The first error of `visit`, which ends the walk.
pub fn visit_tensors_mut<E>(
    model: &mut ModelProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), E>,
) -> Result<(), E> {
    if let Some(graph) = &mut model.graph {
        visit_graph(graph, visit)?;
    }
    for training in &mut model.training_info {
        for graph in [&mut training.initialization, &mut training.algorithm] {
            graph
                .as_mut()
                .map_or(Ok(()), |graph| visit_graph(graph, visit))?;
        }
    }
    for function in &mut model.functions {
        visit_nodes(&mut function.node, visit)?;
        for attribute in &mut function.attribute_proto {
            visit_attribute(attribute, visit)?;
        }
    }
    Ok(())
}

type Visitor<'a, E> = &'a mut dyn FnMut(&mut TensorProto) -> Result<(), E>;

fn visit_graph<E>(graph: &mut GraphProto, visit: Visitor<'_, E>) -> Result<(), E> {
    for tensor in &mut graph.initializer {
        visit(tensor)?;
    }
    for sparse in &mut graph.sparse_initializer {
        for tensor in [&mut sparse.values, &mut sparse.indices]
            .into_iter()
            .flatten()
        {
            visit(tensor)?;
        }
    }
    visit_nodes(&mut graph.node, visit)
}

fn visit_nodes<E>(nodes: &mut [NodeProto], visit: Visitor<'_, E>) -> Result<(), E> {
    for attribute in nodes.iter_mut().flat_map(|node| &mut node.attribute) {
        visit_attribute(attribute, visit)?;
    }
    Ok(())
}

fn visit_attribute<E>(attribute: &mut AttributeProto, visit: Visitor<'_, E>) -> Result<(), E> {
    for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
        visit(tensor)?;
    }
    let sparse = attribute.sparse_tensor.as_deref_mut().into_iter();
    for sparse in sparse.chain(&mut attribute.sparse_tensors) {
        for tensor in [&mut sparse.values, &mut sparse.indices]
            .into_iter()
            .flatten()
        {
            visit(tensor)?;
        }
    }
    let graph = attribute.g.as_deref_mut().into_iter();
    for graph in graph.chain(&mut attribute.graphs) {
        visit_graph(graph, visit)?;
    }
    Ok(())
}
