//! What can be wrong with a configuration.

use super::origin::Origin;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or a value has the wrong type.
    #[error("the configuration file `{}` is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: TomlError,
    },
    /// The file has a key that no setting has.
    #[error("unknown key `{key}` in the configuration file `{}`{}", path.display(), Hint(nearest.as_deref()))]
    UnknownKey {
        /// The key with its section.
        key: String,
        /// The file.
        path: PathBuf,
        /// The known key that looks most alike, if one does.
        nearest: Option<String>,
    },
    /// An environment variable does not hold a value of its setting's type.
    #[error("environment variable {variable} is `{found}`, expected {expected}")]
    BadVariable {
        /// The variable.
        variable: String,
        /// Its value.
        found: String,
        /// What the setting takes.
        expected: &'static str,
        /// What reading the value failed with.
        source: TomlError,
    },
    /// A section for a model that the repository does not have.
    #[error("section `[model.{name}]` of the configuration file `{}` is for a model that the repository does not have{}", path.display(), ModelHint(nearest.as_deref()))]
    UnknownModel {
        /// The model that the section names.
        name: String,
        /// The file.
        path: PathBuf,
        /// The name in the repository that looks most alike, where it has any.
        nearest: Option<String>,
    },
    /// A value is out of its range.
    #[error("`{key}` is {found}, expected {expected} (set by: {origin})")]
    BadValue {
        /// The setting.
        key: String,
        /// Where the value came from.
        origin: Origin,
        /// The value.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// One of two settings that only mean something together.
    #[error("`{given}` is set and `{missing}` is not, expected both or neither")]
    HalfSet {
        /// The setting that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// The server would be reached from outside and let everyone in.
    #[error(
        "`server.host` is {host}, which others can reach (set by: {origin}), and the server has no \
         {}\n\nhint: add {}; or `--insecure` where the network is closed by other means",
        open_words(*lacks_tls, *lacks_token, ["TLS", "tokens"], " and no "),
        open_words(*lacks_tls, *lacks_token, ["`--tls-cert FILE --tls-key FILE`", "`--auth-token-file FILE`"], " and ")
    )]
    Open {
        /// The address.
        host: IpAddr,
        /// Where it came from.
        origin: Origin,
        /// Whether there is no certificate.
        lacks_tls: bool,
        /// Whether there is no token.
        lacks_token: bool,
    },
}

fn open_words(tls: bool, token: bool, [of_tls, of_token]: [&str; 2], and: &str) -> String {
    let words = [(tls, of_tls), (token, of_token)];
    let said: Vec<&str> = words
        .iter()
        .filter(|(lacks, _)| *lacks)
        .map(|(_, word)| *word)
        .collect();
    said.join(and)
}

impl ConfigError {
    /// The file at fault, where it is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::Malformed { path, .. }
            | Self::UnknownKey { path, .. }
            | Self::UnknownModel { path, .. } => Some(path),
            Self::BadVariable { .. }
            | Self::BadValue { .. }
            | Self::HalfSet { .. }
            | Self::Open { .. } => None,
        }
    }
}

struct Hint<'a>(Option<&'a str>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "\n\nhint: did you mean `{nearest}`?"),
            None => f.write_str("\n\nhint: `fugato config show` lists every key"),
        }
    }
}

struct ModelHint<'a>(Option<&'a str>);

impl fmt::Display for ModelHint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "\n\nhint: the nearest name that it has is `{nearest}`"),
            None => f.write_str("\n\nhint: the repository has no models"),
        }
    }
}

/// Why text is not the TOML that is expected, where in it, and what is expected in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TomlError(Box<toml::de::Error>);

impl From<toml::de::Error> for TomlError {
    fn from(error: toml::de::Error) -> Self {
        Self(Box::new(error))
    }
}

impl std::error::Error for TomlError {}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The reason is last; it names types of this program.
        let text = self.0.to_string();
        let known = [
            (", expected u8", "0 to 255"),
            (", expected u16", "0 to 65535"),
            (", expected u32", "0 to 4294967295"),
            (", expected u64", "0 or more"),
        ];
        let reason = text.trim_end();
        let mut worded = known.into_iter().filter_map(|(name, numbers)| {
            let found = reason.strip_suffix(name)?;
            Some(format!("{found}, expected a whole number of {numbers}"))
        });
        f.write_str(&worded.next().unwrap_or(text))
    }
}
