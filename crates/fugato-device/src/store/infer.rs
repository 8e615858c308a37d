//! The types of an optimised graph's inner values, as ONNX Runtime infers them.
//!
//! The graph that the runtime saves says nothing of them, and it is the only one that
//! knows the shapes of its own operators (blocked layouts, fusions). It tells them of
//! outputs, so it is asked about a copy of the graph in which every value is one.

use super::entry::{self, Draft};
use super::error::LoadCause;
use crate::capi::{Options, OrtError, Session, TypeInfo};
use crate::runtime::Runtime;
use fugato_onnx::proto::ValueInfoProto;
use fugato_onnx::proto::tensor_shape_proto::Dimension;
use fugato_onnx::{ExternalPolicy, GraphProto, ModelProto, read_model, save_model};
use ort::sys::GraphOptimizationLevel;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The copy of the graph, in the draft for as long as it is asked about.
const PROBE: &str = "probe.onnx";

/// Writes the types of inner values into the `value_info` of a draft's graph, as far as
/// the runtime can tell them.
pub(super) fn annotate(runtime: &Arc<Runtime>, draft: &Draft) -> Result<(), LoadCause> {
    let failed = |source| LoadCause::Store {
        path: draft.path(entry::MODEL),
        action: "annotated",
        source,
    };
    let path = draft.path(entry::MODEL);
    let mut model = read_model(&path).map_err(|error| failed(io::Error::other(error)))?;
    let Some(graph) = &mut model.graph else {
        return Ok(());
    };
    let inner = inner_values(graph);
    if inner.is_empty() {
        return Ok(());
    }
    let probe = draft.path(PROBE);
    save(&probed(&model, &inner), &probe).map_err(failed)?;
    let told = outputs(runtime, &probe);
    std::fs::remove_file(&probe).map_err(failed)?;
    match told {
        Ok(told) => {
            let told = told.into_iter().filter(|(name, _)| inner.contains(name));
            let told = told.filter_map(|(name, info)| value_info(name, info));
            if let Some(graph) = &mut model.graph {
                graph.value_info = told.collect();
            }
            save(&model, &path).map_err(failed)
        }
        Err(error) => {
            // The model runs as a whole; it only cannot be cut.
            tracing::debug!(%error, "the types of a model's inner values are not known");
            Ok(())
        }
    }
}

/// Values that operators write and that are not outputs of the graph.
fn inner_values(graph: &GraphProto) -> BTreeSet<String> {
    let outputs: BTreeSet<_> = graph.output.iter().map(|output| output.name()).collect();
    let written = graph.node.iter().flat_map(|node| &node.output);
    let inner = written.filter(|name| !name.is_empty() && !outputs.contains(name.as_str()));
    inner.cloned().collect()
}

fn probed(model: &ModelProto, inner: &BTreeSet<String>) -> ModelProto {
    let mut probed = model.clone();
    if let Some(graph) = &mut probed.graph {
        graph.output.extend(inner.iter().map(|name| ValueInfoProto {
            name: Some(name.clone()),
            ..ValueInfoProto::default()
        }));
    }
    probed
}

fn save(model: &ModelProto, path: &Path) -> io::Result<()> {
    save_model(model, path, ExternalPolicy::Never).map_err(io::Error::other)
}

/// Whether the runtime takes a draft's graph.
pub(super) fn check(runtime: &Arc<Runtime>, draft: &Draft) -> Result<(), OrtError> {
    outputs(runtime, &draft.path(entry::MODEL)).map(drop)
}

fn outputs(runtime: &Arc<Runtime>, path: &Path) -> Result<Vec<(String, TypeInfo)>, OrtError> {
    let mut options = Options::new(1, GraphOptimizationLevel::ORT_DISABLE_ALL)?;
    options.log_only_errors()?;
    // It is never run.
    options.entry(c"session.disable_prepacking", c"1")?;
    // SAFETY: nothing is borrowed by these options.
    unsafe { Session::load(runtime, path, &options, None, None) }?.outputs()
}

/// The description of a tensor; `None` for values of other sorts.
fn value_info(name: String, info: TypeInfo) -> Option<ValueInfoProto> {
    let TypeInfo::Tensor {
        number,
        is_ranked,
        dims,
        symbols,
        ..
    } = info
    else {
        return None;
    };
    let dims = dims
        .iter()
        .zip(symbols)
        .map(|(&size, symbol)| match symbol {
            _ if size >= 0 => Dimension::size(size),
            Some(symbol) => Dimension::symbol(symbol),
            None => Dimension::default(),
        });
    let data_type = fugato_onnx::DataType::try_from(number).ok()?;
    let mut value = ValueInfoProto::tensor(name, data_type, dims.collect());
    if !is_ranked && let Some(tensor) = value.tensor_type_mut() {
        tensor.shape = None;
    }
    Some(value)
}
