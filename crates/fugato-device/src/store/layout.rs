//! How an entry's weights lie in its file: aligned, so that sessions use them in place.

use super::entry::{self, Draft, Initializer};
use super::{LoadCause, wire};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Where a tensor may begin in the weight file, in bytes: a cache line, and the widest
/// vector register. The runtime asks for no more.
const ALIGN: u64 = 64;

/// The weight file's size is a multiple of this, so that its last tensor ends a page that
/// holds nothing else.
const PAGE: u64 = 4096;

/// Turns the files that the runtime wrote into the entry's two: weights aligned, graph
/// pointing at them. Removes the runtime's.
pub(super) fn lay_out(draft: &Draft, raw_graph: &Path) -> Result<Vec<Initializer>, LoadCause> {
    let failed = |action| {
        move |source| LoadCause::Store {
            path: draft.path(""),
            action,
            source,
        }
    };
    let raw = entry::map(raw_graph).map_err(failed("read"))?;
    let raw = raw.as_deref().unwrap_or_default();
    let (graph, moved) = wire::relocate(raw, entry::WEIGHTS, ALIGN)?;
    let raw_weights = draft.path("optimised.bin");
    let content = match moved.is_empty() {
        true => None,
        false => entry::map(&raw_weights).map_err(failed("read"))?,
    };
    let content = content.as_deref().unwrap_or_default();
    let write = || -> io::Result<()> {
        std::fs::write(draft.path(entry::MODEL), &graph)?;
        write_weights(&draft.path(entry::WEIGHTS), content, &moved)?;
        std::fs::remove_file(raw_graph)?;
        match std::fs::remove_file(&raw_weights) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    write().map_err(failed("written"))?;
    let shareable = moved.into_iter().filter(|moved| moved.main);
    let initializers = shareable.map(|moved| Initializer {
        name: moved.tensor.name,
        data_type: moved.tensor.data_type,
        dims: moved.tensor.dims,
        offset: moved.offset,
        length: moved.length,
    });
    Ok(initializers.collect())
}

/// Writes the weights of `moved` to their new places.
fn write_weights(path: &Path, content: &[u8], moved: &[wire::Moved]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    let mut written = 0;
    for moved in moved {
        let old = moved.tensor.external.as_ref();
        let old = old.expect("only external tensors are moved").offset;
        let range = usize::try_from(old)
            .ok()
            .zip(usize::try_from(moved.length).ok());
        let bytes = range.and_then(|(old, length)| content.get(old..old.checked_add(length)?));
        let bytes = bytes.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the runtime wrote no data for `{}`", moved.tensor.name),
            )
        })?;
        let gap = moved.offset - written;
        pad_by(&mut out, gap)?;
        out.write_all(bytes)?;
        written = moved.offset + moved.length;
    }
    pad_by(&mut out, written.next_multiple_of(PAGE) - written)?;
    out.flush()
}

/// Writes `count` zeros, less than a page.
fn pad_by(out: &mut impl Write, count: u64) -> io::Result<()> {
    const ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];
    let count = usize::try_from(count).expect("less than a page");
    out.write_all(&ZEROS[..count])
}
