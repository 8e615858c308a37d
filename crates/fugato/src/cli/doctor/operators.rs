//! Operators of a repository's models that an NVIDIA device is known to lack.

use super::{Check, model_files};
use crate::config::{Config, ModelDevice};
use crate::repository::{self, ModelEntry};
use fugato_device::cuda::lacks_kernel;
use fugato_onnx::{ModelProto, NodeProto};
use std::collections::BTreeSet;
use std::path::Path;

const NAME: &str = "operators";

/// Looks through the models of a repository that are for the device. `None` where the repository
/// cannot be read, which another check says.
pub(super) fn check(path: &Path, config: &Config) -> Option<Check> {
    let repository = repository::scan(path).ok()?;
    let is_for_device = |model: &&ModelEntry| {
        let of = config.models.get(&model.name).unwrap_or(&config.defaults);
        of.device != ModelDevice::Cpu
    };
    let models: Vec<_> = repository.models.iter().filter(is_for_device).collect();
    let lacking = models.iter().filter_map(|model| {
        let kinds = lacking(model);
        let kinds: Vec<_> = kinds.iter().map(|kind| format!("`{kind}`")).collect();
        (!kinds.is_empty()).then(|| format!("`{}`: {}", model.name, kinds.join(", ")))
    });
    let lacking: Vec<_> = lacking.collect();
    let count = models.len();
    Some(match lacking.is_empty() {
        true => Check::ok(
            NAME,
            format!("{count} models, none with one that is known to run on the CPU only"),
        ),
        false => Check::degraded(
            NAME,
            format!(
                "without a kernel for NVIDIA devices: {}",
                lacking.join("; ")
            ),
            "ONNX Runtime runs them on the CPU, in the device's lanes and not captured, or refuses \
             the model there",
        ),
    })
}

/// The kinds of operators of a model that have no kernel on the device. Nothing of a file that
/// cannot be read: another check, or loading it, says why.
fn lacking(model: &ModelEntry) -> BTreeSet<String> {
    let mut kinds = BTreeSet::new();
    for file in model_files(model).unwrap_or_default() {
        if let Ok(model) = fugato_onnx::read_model(&file) {
            of_model(&model, &mut kinds);
        }
    }
    kinds
}

fn of_model(model: &ModelProto, kinds: &mut BTreeSet<String>) {
    if let Some(graph) = &model.graph {
        of_nodes(&graph.node, kinds);
    }
    for function in &model.functions {
        of_nodes(&function.node, kinds);
    }
}

fn of_nodes(nodes: &[NodeProto], kinds: &mut BTreeSet<String>) {
    for node in nodes {
        let (domain, kind) = (node.domain(), node.op_type());
        if lacks_kernel(domain, kind) {
            kinds.insert(match domain {
                "" | "ai.onnx" => kind.to_owned(),
                domain => format!("{domain}.{kind}"),
            });
        }
        for attribute in &node.attribute {
            for graph in attribute.g.as_deref().into_iter().chain(&attribute.graphs) {
                of_nodes(&graph.node, kinds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::config::tests::file;
    use fugato_onnx::proto::AttributeProto;
    use fugato_onnx::{ExternalPolicy, GraphProto, save_model};

    fn node(domain: &str, kind: &str) -> NodeProto {
        NodeProto {
            domain: Some(domain.to_owned()),
            ..NodeProto::new(kind, kind, &["x"], &["y"])
        }
    }

    fn put(repository: &Path, name: &str, node: Vec<NodeProto>) {
        let folder = repository.join(name).join("1");
        std::fs::create_dir_all(&folder).expect("a folder");
        let model = ModelProto {
            graph: Some(GraphProto {
                node,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        };
        let path = folder.join("model.onnx");
        save_model(&model, &path, ExternalPolicy::Never).expect("it can be written");
    }

    fn config(text: &str) -> Config {
        Config::resolve(&file(text)).expect("a configuration")
    }

    #[test]
    fn operators_without_a_kernel_are_listed_by_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let branch = AttributeProto {
            name: Some("then_branch".to_owned()),
            g: Some(Box::new(GraphProto {
                node: vec![node("", "Tan")],
                ..GraphProto::default()
            })),
            ..AttributeProto::default()
        };
        let with_branch = NodeProto {
            attribute: vec![branch],
            ..node("", "If")
        };
        put(
            folder.path(),
            "fine",
            vec![node("", "Conv"), node("", "Relu")],
        );
        put(
            folder.path(),
            "trees",
            vec![node("ai.onnx.ml", "TreeEnsembleRegressor")],
        );
        put(
            folder.path(),
            "odd",
            vec![node("", "Unique"), with_branch, node("", "Unique")],
        );
        let found = check(folder.path(), &config("")).expect("a repository");
        assert_eq!(found.status, Status::Degraded);
        assert_eq!(
            found.found,
            "without a kernel for NVIDIA devices: `odd`: `Tan`, `Unique`; `trees`: \
             `ai.onnx.ml.TreeEnsembleRegressor`"
        );
        // What is for the CPU lacks nothing.
        let on_cpu = config("[model.odd]\ndevice = \"cpu\"\n[model.trees]\ndevice = \"cpu\"\n");
        let found = check(folder.path(), &on_cpu).expect("a repository");
        assert_eq!(found.status, Status::Ok, "{}", found.found);
        assert!(found.found.starts_with("1 models"), "{}", found.found);
    }
}
