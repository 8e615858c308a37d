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
mod layout;
mod operators;
mod part;
mod rows;
mod source;
mod stack;
mod stored;
mod target;
mod wire;

pub(crate) use cuts::CutModel;
pub use cuts::Cuts;
pub(crate) use error::LoadCause;
#[cfg(feature = "cuda")]
pub(crate) use error::lacks_operator;
pub use error::{LoadError, LoadErrorKind};
pub use fugato_core::profile::Precision;
pub use halving::HalfError;
pub use info::{Batching, ModelInfo};
pub(crate) use info::{fixed_first_dimension, tensors as model_tensors};

pub(crate) use operators::Size;
pub use operators::{Indivisible, ModelGraph};
pub use part::CutError;
pub(crate) use part::Part;
pub use stack::StackError;
pub use stored::{StoredModel, WeightPages};

use crate::capi::{Options, OrtError, Session};
use crate::reference::PlainSession;
use crate::runtime::Runtime;
use entry::{Draft, Opened};
use fugato_onnx::{ExternalPolicy, ModelProto, save_model};
use layout::lay_out;
use source::Source;
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use stored::Weights;
use target::{Target, instruction_set};

/// Initializers of at least this many bytes go to the weight file. Smaller ones stay in
/// the graph, where the runtime's shape inference can read them; 1 KiB is the runtime's
/// own default.
const EXTERNAL_MIN_BYTES: u64 = 1024;

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
        source.hash = halving::hash_in(precision, &source.hash);
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
            .map_err(|error| LoadCause::from_runtime(error).with_fault(path))?;
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
                "numbers of the model are beyond the range of half precision and were put to 10000 or \
                 -10000"
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
