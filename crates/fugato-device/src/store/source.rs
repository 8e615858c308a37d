//! What is read of a model's own files: its header, its weights' sizes, its hash.

use super::{LoadCause, entry, wire};
use memmap2::Mmap;
use std::collections::BTreeMap;
use std::path::{Component, Path};

/// What is read of the original file before the runtime sees it.
pub(super) struct Source {
    pub(super) header: wire::Header,
    pub(super) weight_bytes: u64,
    pub(super) hash: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> Result<Self, LoadCause> {
        let mapped = entry::map(path).map_err(LoadCause::File)?;
        let model = mapped.as_deref().unwrap_or_default();
        let header = wire::header(model)?;
        if !header.has_graph {
            let bytes = model.len() as u64;
            return Err(LoadCause::NoGraph { bytes });
        }
        let mut weight_bytes = 0;
        let mut external: BTreeMap<String, Vec<wire::Tensor>> = BTreeMap::new();
        wire::visit_tensors(model, &mut |tensor| {
            weight_bytes += tensor.byte_size();
            if let Some(place) = &tensor.external {
                let at = external.entry(place.location.clone()).or_default();
                at.push(tensor);
            }
        })?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(model);
        for (location, tensors) in &external {
            let content = open_external(path, location, tensors)?;
            let content = content.as_deref().unwrap_or_default();
            hasher.update(location.as_bytes());
            hasher.update(&(content.len() as u64).to_le_bytes());
            hasher.update(content);
        }
        Ok(Self {
            header,
            weight_bytes,
            hash: hasher.finalize().to_hex().to_string(),
        })
    }
}

/// Maps an external weight file and checks that `tensors` are within it.
fn open_external(
    model: &Path,
    location: &str,
    tensors: &[wire::Tensor],
) -> Result<Option<Mmap>, LoadCause> {
    let inside = Path::new(location)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(LoadCause::ExternalEscapes {
            location: location.to_owned(),
        });
    }
    let path = model.parent().unwrap_or(Path::new("")).join(location);
    let mapped = entry::map(&path).map_err(|source| LoadCause::ExternalFile {
        location: location.to_owned(),
        source,
    })?;
    let bytes = mapped.as_ref().map_or(0, |mapped| mapped.len()) as u64;
    for tensor in tensors {
        let place = tensor.external.as_ref().expect("listed as external");
        let length = place.length.unwrap_or_else(|| tensor.byte_size());
        let end = place.offset.saturating_add(length);
        if end > bytes {
            return Err(LoadCause::ExternalRange {
                tensor: tensor.name.clone(),
                location: location.to_owned(),
                start: place.offset,
                end,
                bytes,
            });
        }
    }
    Ok(mapped)
}
