//! Which files of a model are loaded, and how they are served.

use super::overrides::Staged;
use super::settings::Settings;
use crate::config::Config;
use crate::modelconfig::{parse_json, parse_text};
use crate::repository::{self, ChosenVersions, ModelFolder};
use std::path::PathBuf;
use std::sync::Arc;

/// What to load of a model.
pub(super) struct Found {
    pub(super) settings: Arc<Settings>,
    /// The model's folder.
    pub(super) folder: PathBuf,
    pub(super) versions: Vec<(u64, PathBuf)>,
    /// Keeps a client's files until they are loaded.
    _staged: Option<Staged>,
}

impl Found {
    /// Reads the configuration (`own` in place of that in the folder) and chooses.
    pub(super) fn choose(
        name: &str,
        config: &Config,
        folder: &ModelFolder,
        own: Option<&str>,
        staged: Option<Staged>,
    ) -> Result<Self, String> {
        let asked = match (own, &folder.config) {
            (Some(json), _) => Some(("parameter `config`", parse_json(json))),
            (None, Some(text)) => Some(("config.pbtxt", parse_text(text))),
            (None, None) => None,
        };
        let asked = asked
            .map(|(place, read)| read.map_err(|error| format!("{place}: {}", with_cause(&error))));
        let asked = asked.transpose()?;
        let settings = Settings::of(name, config, asked, &folder.path);
        let settings = settings.map_err(|error| with_cause(&error))?;
        let ChosenVersions { serve, missing } = settings.versions().choose(&folder.versions);
        if !missing.is_empty() {
            let missing = numbers(&missing);
            tracing::warn!(
                model = name,
                missing,
                "its version policy names versions it lacks"
            );
        }
        if serve.is_empty() {
            let (missing, present) = (numbers(&missing), numbers(&folder.versions));
            return Err(format!(
                "its version policy names {missing}, and the versions there are {present}"
            ));
        }
        let file = settings.wanted().map(|wanted| wanted.model_file.as_str());
        let file = file.unwrap_or(repository::MODEL_FILE);
        let mut versions = Vec::with_capacity(serve.len());
        for number in serve {
            let path = folder.model_file(number, file);
            versions.push((number, path.map_err(|fault| with_cause(&fault))?));
        }
        Ok(Self {
            settings: Arc::new(settings),
            folder: folder.path.clone(),
            versions,
            _staged: staged,
        })
    }
}

fn numbers(versions: &[u64]) -> String {
    let texts: Vec<String> = versions.iter().map(u64::to_string).collect();
    texts.join(", ")
}

/// An error and what led to it, in one line.
pub(super) fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
