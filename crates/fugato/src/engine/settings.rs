//! How a model is served: what all sources say of it, joined.

use crate::config::{Config, ConfigError, ModelConfig};
use crate::modelconfig::{BatchLimit, ModelConfigError, TimeoutAction, Wanted, interpret};
use crate::repository::{ResolveError, VersionPolicy, resolve_below};
use crate::server::proto;
use fugato_core::Nanos;
use fugato_core::sched::Overdue;
use fugato_device::Batches;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The longest file of class names that is read, in bytes: ImageNet's 21,841 classes take
/// half a megabyte.
const LABELS_BYTES_MAX: u64 = 16 << 20;

/// The class names of an output, by its name.
pub(super) type Labels = (String, Arc<[String]>);

/// How a model is served. Equal settings serve equal content alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) model: ModelConfig,
    /// Whether the owner vouches for this very model that every first dimension is the
    /// batch.
    vouched: bool,
    /// The configuration that its owner wrote, and what it asks; `None` without one.
    pub(super) asked: Option<Asked>,
    /// Class names by output.
    pub(super) labels: Vec<Labels>,
}

/// A `config.pbtxt`, or what a client sent in its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) config: proto::ModelConfig,
    pub(super) wanted: Wanted,
}

/// Why a model cannot be served as it is configured.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettingsError {
    #[error(transparent)]
    ModelConfig(#[from] ModelConfigError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the class names of output `{output}` cannot be read")]
    LabelPlace {
        output: String,
        source: ResolveError,
    },
    #[error("the class names of output `{output}` cannot be read")]
    LabelFile { output: String, source: io::Error },
}

/// How a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queueing {
    pub(super) priority: u64,
    /// The longest wait.
    pub(super) timeout: Option<Nanos>,
    /// What happens after it.
    pub(super) overdue: Overdue,
}

impl Settings {
    /// The settings of the model `name` in `folder`, whose configuration is `asked`.
    ///
    /// What its section `[model.NAME]` says is stronger than its own configuration, and
    /// that is stronger than `[defaults]`.
    pub(super) fn of(
        name: &str,
        config: &Config,
        asked: Option<proto::ModelConfig>,
        folder: &Path,
    ) -> Result<Self, SettingsError> {
        let own = format!("model.{name}.max_batch_size");
        let own = config.origins.iter().any(|(path, _)| path == own);
        let Some(asked) = asked else {
            return Ok(Self {
                model: config.model(name).clone(),
                vouched: own,
                asked: None,
                labels: Vec::new(),
            });
        };
        let wanted = interpret(name, &asked)?;
        for notice in &wanted.notices {
            let (field, reason) = (&notice.path, &notice.reason);
            tracing::warn!(
                model = name,
                field,
                reason,
                "config.pbtxt is not followed here"
            );
        }
        Ok(Self {
            model: config.model_with(name, &wanted.settings)?,
            vouched: own || matches!(wanted.batch, BatchLimit::AtMost(_)),
            labels: read_labels(&wanted, folder)?,
            asked: Some(Asked {
                config: asked,
                wanted,
            }),
        })
    }

    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.asked.as_ref().map(|asked| &asked.wanted)
    }

    /// Which versions are served: the highest, as in Triton, where nothing is said.
    pub(super) fn versions(&self) -> VersionPolicy {
        let versions = self.wanted().map(|wanted| wanted.versions.clone());
        versions.unwrap_or(VersionPolicy::Latest(1))
    }

    /// Whether requests to the model `info` may share runs.
    ///
    /// An owner vouches by setting the batch size of this very model, or by
    /// `assume_batchable`, which leaves models alone that cannot have one.
    pub(super) fn batches(&self, info: &fugato_device::ModelInfo) -> Batches {
        if matches!(self.wanted(), Some(wanted) if wanted.batch == BatchLimit::NoBatchDimension) {
            return Batches::Never;
        }
        let mut specs = info.inputs.iter().chain(&info.outputs);
        let may_batch =
            !info.inputs.is_empty() && specs.all(|spec| spec.shape.first() == Some(&None));
        let assumed = self.model.assume_batchable && may_batch;
        match self.model.max_batch_size > 1 && (self.vouched || assumed) {
            true => Batches::Vouched,
            false => Batches::AsFound,
        }
    }

    /// The priority and queue timeout that count for a request that asks for these, by the
    /// model's levels and queue policies.
    pub(super) fn queueing(&self, priority: u64, timeout: Option<Nanos>) -> Queueing {
        let as_asked = Queueing {
            priority,
            timeout,
            overdue: Overdue::Drop,
        };
        let batching = self
            .wanted()
            .and_then(|wanted| wanted.dynamic_batching.as_ref());
        let Some(batching) = batching else {
            return as_asked;
        };
        let priority = match batching.priority_levels {
            0 => priority,
            levels if priority == 0 || priority > levels => batching.default_priority_level,
            _ => priority,
        };
        let policy = batching.policy(priority);
        if policy == Default::default() {
            return as_asked;
        }
        let own = timeout.filter(|_| policy.allow_timeout_override);
        let timeout = match (own, policy.default_timeout) {
            (Some(own), Some(default)) => Some(own.min(default)),
            (one, other) => one.or(other),
        };
        let overdue = match policy.timeout_action {
            TimeoutAction::Reject => Overdue::Drop,
            TimeoutAction::Delay => Overdue::Delay,
        };
        Queueing {
            priority,
            timeout,
            overdue,
        }
    }

    /// The most requests that may wait.
    pub(super) fn queue_count_max(&self) -> u64 {
        let own = u64::from(self.model.queue_count_max);
        let batching = self
            .wanted()
            .and_then(|wanted| wanted.dynamic_batching.as_ref());
        let Some(batching) = batching else { return own };
        let levels = 1..=batching.priority_levels.max(1);
        // Each level has a queue in Triton; here their sum is what counts.
        let sum = levels.into_iter().try_fold(0u64, |sum, level| {
            let size = batching.policy(level).queue_size_max?;
            Some(sum.saturating_add(u64::from(size)))
        });
        sum.map_or(own, |sum| sum.min(own))
    }
}

/// The class names of the outputs that have a file of them, a name a line.
fn read_labels(wanted: &Wanted, folder: &Path) -> Result<Vec<Labels>, SettingsError> {
    let files = wanted.outputs.iter().filter_map(|output| {
        let file = output.label_file.as_ref()?;
        Some((&output.name, file))
    });
    let read = |(output, file): (&String, &String)| {
        let path = resolve_below(folder, file).map_err(|source| SettingsError::LabelPlace {
            output: output.clone(),
            source,
        })?;
        let text = read_bounded(&path).map_err(|source| SettingsError::LabelFile {
            output: output.clone(),
            source,
        })?;
        let lines: Arc<[String]> = text
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect();
        Ok((output.clone(), lines))
    };
    files.map(read).collect()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > LABELS_BYTES_MAX {
        let found = format!("it has {bytes} bytes, expected at most {LABELS_BYTES_MAX}");
        return Err(io::Error::other(found));
    }
    std::fs::read_to_string(path)
}
