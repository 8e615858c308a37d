//! Where the value of a setting came from.

use super::schema::{shown, variable};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line.
    Flag,
    /// The environment variable of that name.
    Variable(String),
    /// The configuration file.
    File(PathBuf),
    /// The model's own configuration: its `config.pbtxt`, or what a client sent.
    Model,
    /// A socket that whoever started the process handed over.
    Handed,
    /// No source said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Model => f.write_str("the model's own configuration"),
            Self::Handed => f.write_str("the socket that was handed over"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What sort of source a [`Layer`] is.
#[derive(Clone, Debug)]
pub(super) enum LayerKind {
    Flags,
    Environment,
    File(PathBuf),
    Model,
}

impl LayerKind {
    fn origin(&self, path: &str) -> Origin {
        match self {
            Self::Flags => Origin::Flag,
            Self::Environment => Origin::Variable(variable(path)),
            Self::File(file) => Origin::File(file.clone()),
            Self::Model => Origin::Model,
        }
    }
}

/// What one source says about one section.
pub(super) struct Layer<'a, Raw> {
    pub(super) kind: &'a LayerKind,
    pub(super) raw: &'a Raw,
}

/// A resolved setting.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// Its value, `None` where it is not set and has no default.
    pub value: Option<toml::Value>,
    /// Where the value came from.
    pub origin: Origin,
}

/// The resolved settings by path (`server.http_port`, `model.NAME.slo`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(BTreeMap<String, Shown>);

impl Origins {
    /// The value of the first layer that has it, or of `base`; notes which it was.
    ///
    /// A model's settings (`prefix` is `model.NAME`) are noted only where its section says
    /// something: the rest is what `[defaults]` shows.
    pub(super) fn pick<Raw, T: Clone + Serialize>(
        &mut self,
        prefix: &str,
        key: &str,
        layers: &[Layer<'_, Raw>],
        value: impl Fn(&Raw) -> Option<&T>,
        base: Option<&T>,
    ) -> Option<T> {
        let path = format!("{prefix}.{key}");
        let found = layers
            .iter()
            .find_map(|layer| value(layer.raw).map(|value| (value, layer.kind.origin(&path))));
        let origin = match &found {
            Some((_, origin)) => origin.clone(),
            None if prefix.starts_with("model.") => return base.cloned(),
            None => Origin::Default,
        };
        let value = found.map(|(value, _)| value).or(base).cloned();
        let entry = Shown {
            value: value.as_ref().map(|value| shown(value)),
            origin,
        };
        self.0.insert(path, entry);
        value
    }

    /// Notes a default that is computed from the environment.
    pub(super) fn note_default(&mut self, path: &str, value: &impl Serialize) {
        let entry = Shown {
            value: Some(shown(value)),
            origin: Origin::Default,
        };
        self.0.insert(path.to_owned(), entry);
    }

    /// Adds what `other` knows, over what is known.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Where the value of the setting `path` came from.
    pub fn origin(&self, path: &str) -> Origin {
        self.0
            .get(path)
            .map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// Every setting and its value, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Shown)> {
        self.0.iter().map(|(path, shown)| (path.as_str(), shown))
    }
}
