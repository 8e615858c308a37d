//! A model that is ready to be loaded: its optimised graph, and its weights in memory once for
//! all sessions.

use super::entry::{self, Initializer, Opened};
use super::{
    CutModel, Cuts, LoadCause, LoadError, ModelGraph, ModelInfo, ModelStore, Part, halving, part,
};
use crate::capi::{Options, OrtError, Prepacked, Session, Value, onnx_of_number};
use crate::os;
use crate::runtime::Runtime;
use fugato_core::graph::Segments;
use fugato_onnx::ModelProto;
use memmap2::{Mmap, UncheckedAdvice};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// A model that is ready to be loaded on a device. Clones share its weights.
#[derive(Clone)]
pub struct StoredModel {
    pub(super) weights: Arc<Weights>,
    pub(super) origin: PathBuf,
    pub(super) was_cached: bool,
}

/// The optimised graph's file, and the mapping of its weights.
pub(super) struct Weights {
    /// One value per shared initializer, over `mapping`; dropped before it.
    values: Vec<(String, Value)>,
    /// Where each of `values` is in `mapping`, in the same order.
    #[cfg(feature = "cuda")]
    places: Vec<Initializer>,
    prepacked: Prepacked,
    mapping: Option<Mmap>,
    graph: PathBuf,
    /// The graph's operators, read when they are first asked for.
    operators: OnceLock<Arc<ModelGraph>>,
    info: ModelInfo,
    runtime: Arc<Runtime>,
}

impl ModelStore {
    /// Makes the mapped weights into values that sessions share.
    pub(super) fn share(&self, opened: Opened) -> Result<Weights, LoadCause> {
        let Opened {
            entry,
            folder,
            weights: mapping,
        } = opened;
        let mut values = Vec::with_capacity(entry.initializers.len());
        let mut places = Vec::with_capacity(entry.initializers.len());
        if let Some(mapping) = &mapping {
            for initializer in entry.initializers {
                if let Some(value) = share_one(mapping, &initializer)? {
                    values.push((initializer.name.clone(), value));
                    places.push(initializer);
                }
            }
        }
        #[cfg(not(feature = "cuda"))]
        drop(places);
        let weights = Weights {
            values,
            #[cfg(feature = "cuda")]
            places,
            prepacked: Prepacked::new().map_err(LoadCause::Runtime)?,
            mapping,
            graph: folder.join(entry::MODEL),
            operators: OnceLock::new(),
            info: entry.info,
            runtime: Arc::clone(&self.runtime),
        };
        weights.give_back(None);
        Ok(weights)
    }
}

/// The value over one initializer's bytes; `None` where its element type cannot be shared
/// (sessions then read it from the file themselves).
fn share_one(mapping: &Mmap, initializer: &Initializer) -> Result<Option<Value>, LoadCause> {
    let Some(onnx) = onnx_of_number(initializer.data_type) else {
        return Ok(None);
    };
    let start = usize::try_from(initializer.offset).expect("checked against the mapping");
    let length = usize::try_from(initializer.length).expect("checked against the mapping");
    let bytes = &mapping[start..start + length];
    // SAFETY: the mapping lives as long as `Weights`, which every session made from these
    // values holds; an initializer is only read, so the mapping may be read-only.
    let value = unsafe { Value::over(bytes.as_ptr().cast_mut(), length, &initializer.dims, onnx) };
    value.map(Some).map_err(LoadCause::Runtime)
}

/// The pages of a model's weights that are in memory. Those that kernels read as they run are in
/// use, as long as all others have been given back.
#[derive(Clone, Debug)]
pub struct WeightPages {
    /// By page of the mapping; `None` where the system does not tell.
    present: Option<Vec<bool>>,
}

impl WeightPages {
    /// How many; `None` where the system does not tell.
    pub fn count(&self) -> Option<usize> {
        let present = self.present.as_ref()?.iter();
        Some(present.filter(|&&present| present).count())
    }
}

impl Weights {
    fn pages(&self) -> WeightPages {
        let present = self
            .mapping
            .as_ref()
            .map(|mapping| os::pages_present(mapping));
        let present = present.transpose().unwrap_or_else(|error| {
            tracing::debug!(%error, "the system does not tell which pages are in memory");
            None
        });
        WeightPages { present }
    }

    /// Gives the memory of mapped pages back, but of those `kept`; what is needed after all comes back from the
    /// page cache when it is touched. Where nobody knows which are in use, all stay.
    fn give_back(&self, kept: Option<&WeightPages>) {
        if let Some(mapping) = &self.mapping {
            for pages in others(mapping.len().div_ceil(os::page_bytes()), kept) {
                let start = pages.start * os::page_bytes();
                let bytes = (pages.end * os::page_bytes()).min(mapping.len()) - start;
                // SAFETY: the mapping is of a file and never written, so dropping its pages
                // loses nothing.
                let advised = unsafe {
                    mapping.unchecked_advise_range(UncheckedAdvice::DontNeed, start, bytes)
                };
                if let Err(error) = advised {
                    tracing::debug!(%error, "pages of weights could not be given back");
                }
            }
        }
        os::trim_heap();
    }
}

/// Runs of pages, of so many, that are not `kept`.
fn others(pages: usize, kept: Option<&WeightPages>) -> Vec<Range<usize>> {
    let none = WeightPages {
        present: Some(vec![false; pages]),
    };
    let Some(present) = &kept.unwrap_or(&none).present else {
        return Vec::new();
    };
    let mut start = 0;
    let runs = present.chunk_by(|one, next| one == next).map(|run| {
        let pages = start..start + run.len();
        start = pages.end;
        (pages, run[0])
    });
    runs.filter_map(|(pages, kept)| (!kept).then_some(pages))
        .collect()
}

impl StoredModel {
    /// What the model says about itself.
    pub fn info(&self) -> &ModelInfo {
        &self.weights.info
    }

    /// The file the model came from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The optimised graph's file, with the weight file beside it.
    pub fn optimised_graph(&self) -> &Path {
        &self.weights.graph
    }

    /// Whether [`ModelStore::prepare`] found an entry and did not need to optimise.
    pub fn was_cached(&self) -> bool {
        self.was_cached
    }

    /// The number of weights that sessions share, and their bytes.
    pub fn shared_weights(&self) -> (usize, u64) {
        let weights = &self.weights;
        let bytes = weights.mapping.as_ref().map_or(0, |mapping| mapping.len());
        (weights.values.len(), bytes as u64)
    }

    /// Gives back the memory of all weight pages: kernels keep some weights in a form of their
    /// own, and need the original no more. Those that they read come back when they are touched,
    /// which takes half a second for 400 MB: a model that serves keeps them
    /// ([`give_other_pages_back`](Self::give_other_pages_back)).
    pub fn give_pages_back(&self) {
        self.weights.give_back(None);
    }

    /// The weight pages in memory.
    pub fn pages(&self) -> WeightPages {
        self.weights.pages()
    }

    /// Gives back the memory of weight pages but those `kept`, such as what was in use before a
    /// session was made, which reads all.
    pub fn give_other_pages_back(&self, kept: &WeightPages) {
        self.weights.give_back(Some(kept));
    }

    /// The optimised graph's operators and tensors, which plans are made of.
    ///
    /// # Errors
    /// [`LoadErrorKind::Store`](super::LoadErrorKind::Store) where the stored graph cannot be
    /// read again.
    pub fn graph(&self) -> Result<Arc<ModelGraph>, LoadError> {
        self.model_graph().map_err(|cause| cause.of(&self.origin))
    }

    fn model_graph(&self) -> Result<Arc<ModelGraph>, LoadCause> {
        let weights = &self.weights;
        if let Some(read) = weights.operators.get() {
            return Ok(Arc::clone(read));
        }
        let read = Arc::new(ModelGraph::import(self.read_graph()?, &weights.info)?);
        Ok(Arc::clone(weights.operators.get_or_init(|| read)))
    }

    fn read_graph(&self) -> Result<ModelProto, LoadCause> {
        let graph = &self.weights.graph;
        fugato_onnx::read_model(graph).map_err(|error| LoadCause::Store {
            path: graph.clone(),
            action: "read",
            source: io::Error::other(error),
        })
    }

    /// The stored graph in half precision, its weights within it.
    pub(super) fn halved(&self) -> Result<halving::Halved, LoadCause> {
        Ok(halving::halve(self.read_graph()?, self.folder())?)
    }

    /// What each segment is known by: a hash of its operators, their shapes and the place of
    /// their weights among those of this model. Equal hashes of one model are equal work.
    ///
    /// # Errors
    /// Where a segment cannot be a part of its own, or the stored graph cannot be read.
    pub fn segment_hashes(&self, segments: &Segments) -> Result<Vec<String>, LoadError> {
        let hashes = self.model_graph().and_then(|graph| {
            let all = segments.all().iter();
            all.map(|segment| part::known_by(&graph, segment.operators.iter().copied()))
                .collect()
        });
        hashes.map_err(|cause: LoadCause| cause.of(&self.origin))
    }

    /// The folder of what is kept of this model: its graph, its weights, its parts.
    pub fn folder(&self) -> &Path {
        self.weights.graph.parent().unwrap_or(Path::new(""))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.weights.runtime
    }

    /// The weights that sessions share: name, number of the element type, shape, bytes.
    #[cfg(feature = "cuda")]
    pub(crate) fn weights(&self) -> impl Iterator<Item = (&str, i32, &[i64], &[u8])> {
        let bytes = self.weights.mapping.as_deref().unwrap_or_default();
        self.weights.places.iter().map(move |place| {
            let start = usize::try_from(place.offset).expect("checked against the mapping");
            let length = usize::try_from(place.length).expect("checked against the mapping");
            let bytes = &bytes[start..start + length];
            (&*place.name, place.data_type, &*place.dims, bytes)
        })
    }

    /// How many operators its graph has.
    #[cfg(feature = "cuda")]
    pub(crate) fn operators(&self) -> Result<usize, LoadCause> {
        Ok(self.model_graph()?.graph().operators().len())
    }

    /// The parts of the model under these cuts, written beside its graph.
    pub(crate) fn cut(&self, cuts: &Cuts) -> Result<CutModel, LoadCause> {
        cuts.write(self.folder(), self.model_graph()?)
    }

    /// A session of the optimised graph over the shared weights.
    pub(crate) fn session(&self, options: Options) -> Result<Session, OrtError> {
        self.session_of(&self.weights.graph, options, |_| true)
    }

    /// A session of a part of the optimised graph over the shared weights.
    pub(crate) fn part_session(&self, part: &Part, options: Options) -> Result<Session, OrtError> {
        self.session_of(&part.path, options, |name| part.weights.contains(name))
    }

    fn session_of(
        &self,
        graph: &Path,
        mut options: Options,
        reads: impl Fn(&str) -> bool,
    ) -> Result<Session, OrtError> {
        let values = &self.weights.values;
        for (name, value) in values.iter().filter(|(name, _)| reads(name)) {
            // SAFETY: the session holds `weights`, which owns the value and its mapping.
            unsafe { options.initializer(name, value)? };
        }
        let keep: Arc<dyn Send + Sync> = Arc::clone(&self.weights) as Arc<dyn Send + Sync>;
        let Weights {
            prepacked, runtime, ..
        } = &*self.weights;
        // SAFETY: `keep` owns initializers and prepacked weights.
        unsafe { Session::load(runtime, graph, &options, Some(prepacked), Some(keep)) }
    }
}
