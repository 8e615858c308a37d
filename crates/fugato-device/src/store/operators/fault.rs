//! What is wrong with the graph of a file that the runtime refuses.
//!
//! Of a circle the runtime says only that there is one, and of a value that nothing gives only
//! its name; here the operators are named.

use super::{Importer, capture, subgraphs};
use fugato_core::graph::GraphError;
use fugato_onnx::{GraphProto, ModelProto};
use std::collections::BTreeSet;

/// The first thing wrong with how the operators of a model are put together, those of graphs
/// inside operators too; `None` where nothing is, or it has no graph.
pub(in crate::store) fn fault(model: &ModelProto) -> Option<GraphError> {
    of(model.graph.as_ref()?, &BTreeSet::new())
}

/// The same of a graph that reads the values of `outer` from around it.
fn of(onnx: &GraphProto, outer: &BTreeSet<&str>) -> Option<GraphError> {
    if let Err(fault) = Importer::new(onnx, None).build(onnx, outer) {
        return Some(fault);
    }
    let mut inner = onnx.node.iter().flat_map(subgraphs);
    inner.find_map(|graph| {
        // Whether those around it have what it reads was looked at with their operators.
        let mut read = BTreeSet::new();
        capture(graph, &mut read);
        of(graph, &read)
    })
}
