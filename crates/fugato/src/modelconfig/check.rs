//! The declared inputs and outputs against those of the model file.

use super::{DeclaredTensor, ModelConfigError, Notice, Wanted};
use fugato_device::TensorSpec;

/// Compares what the configuration declares with the inputs and outputs of the model file:
/// names, types, dimensions. A dimension that the file leaves open may be given a size, as
/// in Triton (see [`Wanted::narrowed_inputs`]).
///
/// Gives what is worth a warning: outputs of the file that the configuration leaves out are
/// answered all the same.
///
/// # Errors
/// [`ModelConfigError::Mismatch`], naming both sides.
pub fn check(
    wanted: &Wanted,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<Vec<Notice>, ModelConfigError> {
    for declared in &wanted.inputs {
        compare(wanted, "input", declared, inputs)?;
    }
    for declared in &wanted.outputs {
        compare(wanted, "output", declared, outputs)?;
    }
    let undeclared = |declared: &[DeclaredTensor], specs: &[TensorSpec]| -> Vec<String> {
        let absent = |spec: &&TensorSpec| !declared.iter().any(|known| known.name == spec.name);
        match declared {
            [] => Vec::new(),
            _ => specs
                .iter()
                .filter(absent)
                .map(|spec| spec.name.clone())
                .collect(),
        }
    };
    if let Some(name) = undeclared(&wanted.inputs, inputs).first() {
        return Err(mismatch(
            wanted,
            format!("{} inputs", wanted.inputs.len()),
            format!("another one, `{name}`, which it needs"),
        ));
    }
    let extra = undeclared(&wanted.outputs, outputs);
    Ok(extra
        .into_iter()
        .map(|name| Notice {
            path: "output".to_owned(),
            reason: format!(
                "output `{name}` of the model file is not declared; requests that name no \
                 outputs get it too, which Triton would not answer"
            ),
        })
        .collect())
}

fn mismatch(wanted: &Wanted, declared: String, actual: String) -> ModelConfigError {
    ModelConfigError::Mismatch {
        model: wanted.model.clone(),
        declared,
        actual,
    }
}

/// One declared tensor against the tensor of that name.
fn compare(
    wanted: &Wanted,
    role: &str,
    declared: &DeclaredTensor,
    specs: &[TensorSpec],
) -> Result<(), ModelConfigError> {
    let name = &declared.name;
    let Some(spec) = specs.iter().find(|spec| spec.name == *name) else {
        let names: Vec<String> = specs
            .iter()
            .map(|spec| format!("`{}`", spec.name))
            .collect();
        let actual = format!("the {role}s {}", names.join(", "));
        return Err(mismatch(wanted, format!("{role} `{name}`"), actual));
    };
    if let Some(element) = declared.element.filter(|element| *element != spec.element) {
        return Err(mismatch(
            wanted,
            format!("{role} `{name}` of type {element}"),
            format!("it of type {}", spec.element),
        ));
    }
    let batched = wanted.batch.has_batch_dimension();
    if batched && spec.shape.first() != Some(&None) {
        return Err(mismatch(
            wanted,
            format!("a batch (`max_batch_size` above 0) for {role} `{name}`"),
            format!(
                "it with shape {}, whose first dimension is not open",
                shown(&spec.shape)
            ),
        ));
    }
    // A configuration that leaves the batch open, with only some tensors declared, may have
    // left the batch dimension out of them or not.
    let skips: &[usize] = match wanted.batch {
        super::BatchLimit::AtMost(_) => &[1],
        super::BatchLimit::NoBatchDimension => &[0],
        super::BatchLimit::Open => &[0, 1],
    };
    let fits = |skip: &usize| {
        let rest = spec.shape.get(*skip..).unwrap_or_default();
        rest.len() == declared.dims.len()
            && rest
                .iter()
                .zip(&declared.dims)
                .all(|(actual, dim)| actual.is_none() || actual == dim)
    };
    if skips.iter().any(fits) {
        return Ok(());
    }
    let rest = spec.shape.get(usize::from(batched)..).unwrap_or_default();
    let beside = if batched { " beside the batch" } else { "" };
    Err(mismatch(
        wanted,
        format!("{role} `{name}` with dims {}", shown(&declared.dims)),
        format!("it with {}{beside}", shown(rest)),
    ))
}

/// Dimensions as the configuration writes them: -1 varies.
fn shown(dims: &[Option<u64>]) -> String {
    let sizes: Vec<String> = dims
        .iter()
        .map(|dim| dim.map_or("-1".to_owned(), |size| size.to_string()))
        .collect();
    format!("[{}]", sizes.join(", "))
}
