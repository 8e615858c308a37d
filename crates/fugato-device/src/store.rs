//! The model store: each model optimised once, its weights in memory once.
//!
//! [`ModelStore::prepare`] gives a [`StoredModel`]: ONNX Runtime's optimised graph on
//! disk and a read-only mapping of its weights. Every session of a device loads that
//! graph with optimisation off and uses the mapped weights in place, so sessions cost
//! neither optimisation time nor another copy of the weights.
//!
//! An entry's key is the hash of the model's content (external data included), the
//! runtime's version, the processor's instruction set, the provider, and the store's
//! format: a graph optimised for one processor may not run on another.

mod cuts;
mod entry;
mod error;
mod halving;
mod infer;
mod info;
mod operators;
mod part;
mod rows;
mod source;
mod stack;
mod target;
mod wire;

pub(crate) use cuts::CutModel;
pub use cuts::Cuts;
pub(crate) use error::LoadCause;
#[cfg(feature = "cuda")]
pub(crate) use error::lacks_operator;
pub use error::{LoadError, LoadErrorKind};
pub use halving::{HalfError, Precision};
pub use info::{Batching, ModelInfo};
pub(crate) use info::{fixed_first_dimension, tensors as model_tensors};

pub(crate) use operators::Size;
pub use operators::{Indivisible, ModelGraph};
pub use part::CutError;
pub(crate) use part::Part;
pub use stack::StackError;

use crate::capi::{Options, OrtError, Prepacked, Session, Value, onnx_of_number};
use crate::reference::PlainSession;
use crate::runtime::Runtime;
use entry::{Draft, Initializer, Opened};
use fugato_core::graph::Segments;
use fugato_onnx::{ExternalPolicy, ModelProto, save_model};
use memmap2::{Mmap, UncheckedAdvice};
use source::Source;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use target::Target;

/// Initializers of at least this many bytes go to the weight file. Smaller ones stay in
/// the graph, where the runtime's shape inference can read them; 1 KiB is the runtime's
/// own default.
const EXTERNAL_MIN_BYTES: u64 = 1024;

/// Where a tensor may begin in the weight file, in bytes: a cache line, and the widest
/// vector register. The runtime asks for no more.
const ALIGN: u64 = 64;

/// The weight file's size is a multiple of this, so that its last tensor ends a page that
/// holds nothing else.
const PAGE: u64 = 4096;

/// A folder of optimised models, which several processes may share.
#[derive(Clone, Debug)]
pub struct ModelStore {
    runtime: Arc<Runtime>,
    folder: PathBuf,
    target: Target,
    /// The weights in memory by key, so that equal content is there once, however often
    /// and under whatever name it is loaded.
    in_use: Arc<Mutex<HashMap<String, Weak<Weights>>>>,
}

/// A model that is ready to be loaded on a device. Clones share its weights.
#[derive(Clone)]
pub struct StoredModel {
    weights: Arc<Weights>,
    origin: PathBuf,
    was_cached: bool,
}

/// The optimised graph's file, and the mapping of its weights.
struct Weights {
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
    /// Opens the store in `folder`, which is made where it does not exist.
    ///
    /// # Errors
    /// [`LoadErrorKind::Store`] where the folder cannot be made or read.
    pub fn open(runtime: &Arc<Runtime>, folder: impl Into<PathBuf>) -> Result<Self, LoadError> {
        let folder = folder.into();
        let opened = std::fs::create_dir_all(&folder).and_then(|()| entry::sweep(&folder));
        opened.map_err(|source| {
            let cause = LoadCause::Store {
                path: folder.clone(),
                action: "opened",
                source,
            };
            cause.of(&folder)
        })?;
        Ok(Self {
            runtime: Arc::clone(runtime),
            folder,
            target: Target::Cpu,
            in_use: Arc::default(),
        })
    }

    /// Has models optimised only as far as holds for every device, NVIDIA's too.
    #[must_use]
    pub fn for_any_device(self) -> Self {
        Self {
            target: Target::Any,
            ..self
        }
    }

    /// Gives the model at `path` ready to load: from the store where an entry fits, else
    /// optimised now and stored. Reads the whole file either way, for its hash.
    ///
    /// # Errors
    /// Where the file is not a model that the runtime can run, or the store cannot be
    /// written; [`LoadError::kind`] says which.
    pub fn prepare(&self, path: impl AsRef<Path>) -> Result<StoredModel, LoadError> {
        self.prepare_in(path, Precision::Fp32)
    }

    /// As [`prepare`](Self::prepare), in a precision: another model, of a hash of its own.
    ///
    /// # Errors
    /// As `prepare`, and [`LoadErrorKind::Options`] where the model cannot be converted.
    pub fn prepare_in(
        &self,
        path: impl AsRef<Path>,
        precision: Precision,
    ) -> Result<StoredModel, LoadError> {
        let path = path.as_ref();
        self.prepare_model(path, precision)
            .map_err(|cause| cause.of(path))
    }

    fn prepare_model(&self, path: &Path, precision: Precision) -> Result<StoredModel, LoadCause> {
        let mut source = Source::read(path)?;
        source.hash = precision.hash(&source.hash);
        let key = self.key(&source.hash);
        if let Some(weights) = self.in_use(&key) {
            return Ok(StoredModel {
                weights,
                origin: path.to_owned(),
                was_cached: true,
            });
        }
        let stored = entry::open(&self.folder.join(&key));
        let was_cached = stored.is_some();
        let opened = match stored {
            Some(opened) => opened,
            None => match precision {
                Precision::Fp32 => self.optimise(path, source, (&key, None))?,
                Precision::Fp16 => self.halve(path, source, &key)?,
            },
        };
        let made = Arc::new(self.share(opened)?);
        Ok(StoredModel {
            weights: self.put_in_use(key, made),
            origin: path.to_owned(),
            was_cached,
        })
    }

    /// The weights of an entry that somebody uses.
    fn in_use(&self, key: &str) -> Option<Arc<Weights>> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.get(key)?.upgrade()
    }

    /// Notes the weights of an entry for others to use; where somebody was faster, gives
    /// theirs.
    fn put_in_use(&self, key: String, made: Arc<Weights>) -> Arc<Weights> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, weights| weights.strong_count() > 0);
        match in_use.get(&key).and_then(Weak::upgrade) {
            Some(theirs) => theirs,
            None => {
                in_use.insert(key, Arc::downgrade(&made));
                made
            }
        }
    }

    fn key(&self, hash: &str) -> String {
        let format = entry::FORMAT;
        let version = self.runtime.version();
        let instructions = instruction_set();
        let target = self.target.name();
        let parts = format!("{format}\n{hash}\n{version}\n{instructions}\n{target}");
        blake3::hash(parts.as_bytes()).to_hex()[..32].to_owned()
    }

    /// Optimises the model and writes the entry. Whether its rows keep apart is found out,
    /// unless that is known.
    fn optimise(
        &self,
        path: &Path,
        source: Source,
        (key, known): (&str, Option<Batching>),
    ) -> Result<Opened, LoadCause> {
        let failed = |source| LoadCause::Store {
            path: self.folder.clone(),
            action: "written",
            source,
        };
        let draft = Draft::new(&self.folder).map_err(failed)?;
        let raw_graph = draft.path("optimised.onnx");
        let session = self
            .optimising_session(path, &raw_graph)
            .map_err(LoadCause::from_runtime)?;
        let Source {
            header,
            weight_bytes,
            hash,
        } = source;
        let mut info = ModelInfo::read(&session, header, weight_bytes, hash)?;
        if let Some(known) = known {
            drop(session);
            info.batching = known;
        } else if info.batching.is_batchable() {
            // Noted in the entry, so that a model is tried once.
            if let Some(reason) = rows::obstacle(&mut PlainSession::over(session)?) {
                info.batching = Batching::Single { reason };
            }
        } else {
            drop(session);
        }
        let initializers = lay_out(&draft, &raw_graph)?;
        infer::annotate(&self.runtime, &draft)?;
        draft.describe(info, initializers)?;
        draft.publish(&self.folder, key)
    }

    /// Converts the model to half precision and writes the entry.
    fn halve(&self, path: &Path, source: Source, key: &str) -> Result<Opened, LoadCause> {
        let failed = |source| LoadCause::Store {
            path: self.folder.clone(),
            action: "written",
            source,
        };
        // The graph of no device in particular, which says the types of its values.
        let base = self.clone().for_any_device();
        let base = base.prepare_model(path, Precision::Fp32)?;
        let halving::Halved { mut model, clipped } = base.halved()?;
        if clipped > 0 {
            tracing::warn!(
                model = %path.display(),
                constants = clipped,
                "numbers of the model are beyond the range of half precision and were put to its end"
            );
        }
        let source = Source {
            weight_bytes: weight_bytes(&mut model),
            ..source
        };
        let draft = Draft::new(&self.folder).map_err(failed)?;
        let raw_graph = draft.path("optimised.onnx");
        let external = ExternalPolicy::Always("optimised.bin");
        let saved = save_model(&model, &raw_graph, external);
        drop(model);
        saved.map_err(|error| failed(io::Error::other(error)))?;
        let mut info = base.info().clone();
        if self.target == Target::Cpu {
            // It has no kernels for most halves: the runtime puts casts, and folds those of weights.
            return self.optimise(&raw_graph, source, (key, Some(info.batching)));
        }
        info.hash = source.hash;
        info.weight_bytes = source.weight_bytes;
        let initializers = lay_out(&draft, &raw_graph)?;
        // Optimised no further: without kernels for halves the runtime would leave casts behind.
        infer::check(&self.runtime, &draft).map_err(LoadCause::from_runtime)?;
        draft.describe(info, initializers)?;
        draft.publish(&self.folder, key)
    }

    /// A session of the original model, which writes the optimised graph as it is made.
    fn optimising_session(&self, path: &Path, graph: &Path) -> Result<Session, OrtError> {
        let mut options = Options::new(1, self.target.level())?;
        options.save_optimised(graph)?;
        // It warns on every model that the saved graph is for this machine only, which is
        // what the store's key says.
        options.log_only_errors()?;
        for (key, value) in [
            // It runs a few rows at most, so packing its weights would only cost time and
            // memory.
            (c"session.disable_prepacking", c"1"),
            (
                c"session.optimized_model_external_initializers_file_name",
                c"optimised.bin",
            ),
        ] {
            options.entry(key, value)?;
        }
        let min = std::ffi::CString::new(EXTERNAL_MIN_BYTES.to_string());
        options.entry(
            c"session.optimized_model_external_initializers_min_size_in_bytes",
            &min.expect("a number has no NUL"),
        )?;
        // SAFETY: nothing is borrowed by these options.
        unsafe { Session::load(&self.runtime, path, &options, None, None) }
    }

    /// Makes the mapped weights into values that sessions share.
    fn share(&self, opened: Opened) -> Result<Weights, LoadCause> {
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
        weights.give_back();
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

impl Weights {
    /// Gives the memory of mapped pages back; those still needed come back from the page
    /// cache when they are touched.
    fn give_back(&self) {
        if let Some(mapping) = &self.mapping {
            // SAFETY: the mapping is of a file and never written, so dropping its pages
            // loses nothing.
            let advised = unsafe { mapping.unchecked_advise(UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                tracing::debug!(%error, "pages of weights could not be given back");
            }
        }
        crate::os::trim_heap();
    }
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

    /// Gives back the memory of weight pages that are not in use: kernels keep some
    /// weights in a form of their own, and need the original no more.
    pub fn give_pages_back(&self) {
        self.weights.give_back();
    }

    /// The optimised graph's operators and tensors, which plans are made of.
    ///
    /// # Errors
    /// [`LoadErrorKind::Store`] where the stored graph cannot be read again.
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
    fn halved(&self) -> Result<halving::Halved, LoadCause> {
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

/// The bytes of a model's tensors, which are within it.
fn weight_bytes(model: &mut ModelProto) -> u64 {
    let mut bytes = 0;
    let counted = fugato_onnx::visit_tensors_mut(model, &mut |tensor| -> Result<_, Infallible> {
        // Strings have no size.
        bytes += tensor.byte_size().unwrap_or(0);
        Ok(())
    });
    let Ok(()) = counted;
    bytes
}

/// Turns the files that the runtime wrote into the entry's two: weights aligned, graph
/// pointing at them. Removes the runtime's.
fn lay_out(draft: &Draft, raw_graph: &Path) -> Result<Vec<Initializer>, LoadCause> {
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

/// The vector extensions of this processor that the runtime chooses kernels and weight
/// layouts by.
fn instruction_set() -> String {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::is_x86_feature_detected!($name) { found.push($name); })*
            };
        }
        detect!(
            "sse4.1",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512dq",
            "avx512vl",
            "avx512vnni",
            "avx512bf16",
            "avx512fp16"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => {
                $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })*
            };
        }
        detect!("neon", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2");
    }
    found.join("+")
}
