//! Reading the sources: the file and the environment.

use super::error::{ConfigError, TomlError};
use super::schema::{RawConfig, SETTINGS};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// What a configuration file says.
#[derive(Clone, Debug, PartialEq)]
pub struct FileConfig {
    /// The file.
    pub path: PathBuf,
    /// Its settings.
    pub raw: RawConfig,
}

/// Reads the configuration file at `path`.
///
/// # Errors
/// [`ConfigError`]: unreadable, no TOML, a value of the wrong type, an unknown key.
pub fn read_file(path: &Path) -> Result<FileConfig, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Reads `text`, which came from `path`.
fn parse(text: &str, path: &Path) -> Result<FileConfig, ConfigError> {
    let malformed = |source| ConfigError::Malformed {
        path: path.to_owned(),
        source: TomlError::from(source),
    };
    let table: Table = toml::from_str(text).map_err(malformed)?;
    if let Some(key) = unknown_key(&table) {
        return Err(ConfigError::UnknownKey {
            nearest: nearest(&key),
            key,
            path: path.to_owned(),
        });
    }
    Ok(FileConfig {
        raw: toml::from_str(text).map_err(malformed)?,
        path: path.to_owned(),
    })
}

/// Reads the variables of the settings from the environment, which is handed in as
/// `variable`, so that tests need not change the process's own.
///
/// Other variables that begin with `FUGATO_` are no error: Kubernetes makes some for
/// every service of that name.
///
/// # Errors
/// [`ConfigError::BadVariable`], naming the first variable whose value is not of its
/// setting's type.
pub fn from_environment(
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<RawConfig, ConfigError> {
    let mut sections = Table::new();
    for (section, settings) in SETTINGS {
        let mut table = Table::new();
        for setting in settings {
            let name = setting.variable();
            let Some(text) = variable(&name) else {
                continue;
            };
            let text = text.to_string_lossy().into_owned();
            let value = value_of(section, setting.key, &text).map_err(|source| {
                ConfigError::BadVariable {
                    variable: name,
                    found: text,
                    expected: setting.kind,
                    source: source.into(),
                }
            })?;
            table.insert(setting.key.to_owned(), value);
        }
        insert(&mut sections, section, table);
    }
    Ok(RawConfig::deserialize(sections).expect("each value was read alone and is of its type"))
}

/// Puts a section, which may be one of several below a name, where the file has it.
fn insert(sections: &mut Table, section: &str, settings: Table) {
    match section.split_once('.') {
        None => {
            sections.insert(section.to_owned(), Value::Table(settings));
        }
        Some((outer, inner)) => {
            let empty = || Value::Table(Table::new());
            let outer = sections.entry(outer).or_insert_with(empty);
            if let Value::Table(outer) = outer {
                insert(outer, inner, settings);
            }
        }
    }
}

/// `text` as the value of a setting: as a string where the setting takes one, else as
/// TOML writes it.
fn value_of(section: &str, key: &str, text: &str) -> Result<Value, toml::de::Error> {
    let fits = |value: &Value| {
        let setting = Table::from_iter([(key.to_owned(), value.clone())]);
        let mut table = Table::new();
        insert(&mut table, section, setting);
        RawConfig::deserialize(table).map(drop)
    };
    let string = Value::String(text.to_owned());
    let Err(error) = fits(&string) else {
        return Ok(string);
    };
    let parsed = toml::from_str::<BTreeMap<String, Value>>(&format!("value = {text}"));
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => fits(&value).map(|()| value),
        None => Err(error),
    }
}

/// The first key that no setting has.
fn unknown_key(table: &Table) -> Option<String> {
    for (section, value) in table {
        let known = |name: &str| SETTINGS.iter().find(|(section, _)| *section == name);
        let unknown_in = |value: &Value, settings: &[super::Setting], prefix: &str| {
            let keys = value.as_table()?.keys();
            let mut unknown = keys.filter(|key| settings.iter().all(|known| known.key != **key));
            unknown.next().map(|key| format!("{prefix}.{key}"))
        };
        let found = match (section.as_str(), known(section)) {
            ("model", _) => {
                let (_, settings) = known("defaults").expect("the section of model settings");
                let models = value.as_table();
                models
                    .into_iter()
                    .flatten()
                    .find_map(|(name, model)| unknown_in(model, settings, &format!("model.{name}")))
            }
            ("policy", _) => {
                let policies = value.as_table().into_iter().flatten();
                let mut policies =
                    policies.map(|(name, policy)| (format!("policy.{name}"), policy));
                policies.find_map(|(path, policy)| match known(&path) {
                    Some((_, settings)) => unknown_in(policy, settings, &path),
                    None => Some(path),
                })
            }
            (_, Some((_, settings))) => unknown_in(value, settings, section),
            (_, None) => Some(section.clone()),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The known key that `key` was probably meant to be: the most alike of its section (or,
/// at the top, of the sections), else the same key of another section.
fn nearest(key: &str) -> Option<String> {
    let (prefix, last) = key.rsplit_once('.').unwrap_or(("", key));
    let section = match prefix.strip_prefix("model.") {
        Some(_) => "defaults",
        None => prefix,
    };
    let settings = || SETTINGS.iter().flat_map(|(_, settings)| settings.iter());
    let sections = SETTINGS.iter().map(|(section, _)| *section);
    let policies = || {
        sections
            .clone()
            .filter_map(|section| section.strip_prefix("policy."))
    };
    let siblings: Vec<&str> = match section {
        "" => sections.chain(["model"]).collect(),
        "policy" => policies().collect(),
        _ => settings()
            .filter(|setting| setting.section == section)
            .map(|setting| setting.key)
            .collect(),
    };
    let alike = siblings
        .into_iter()
        .map(|known| (edit_distance(last, known), known))
        .min()
        // A third of the letters may differ before it is another word.
        .filter(|(distance, known)| *distance <= last.len().min(known.len()) / 3)
        .map(|(_, known)| match prefix {
            "" => known.to_owned(),
            _ => format!("{prefix}.{known}"),
        });
    alike.or_else(|| {
        settings()
            .find(|setting| setting.key == last)
            .map(super::Setting::path)
    })
}

/// The least number of characters to insert, delete or replace that makes `left` `right`.
///
/// # Cost
/// O(left x right) time, O(right) memory.
pub(super) fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        let error = parse(text, Path::new("fugato.toml")).expect_err(text);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error} {}", source.unwrap_or_default())
    }

    #[test]
    fn numbers_that_do_not_fit_say_which_do() {
        for (text, expected) in [
            (
                "[policy.dstack]\nmargin = -1",
                "`-1`, expected a whole number of 0 to 65535",
            ),
            (
                "[policy.dstack]\nmargin = 70_000",
                "a whole number of 0 to 65535",
            ),
            (
                "[policy.gslice]\ntarget_percent = 300",
                "a whole number of 0 to 255",
            ),
        ] {
            let error = error_of(text);
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("line 2"), "{error}");
        }
    }

    #[test]
    fn unknown_keys_are_named_with_the_nearest_known_one() {
        let cases = [
            (
                "[server]\nhtp_port = 1",
                "`server.htp_port`",
                "`server.http_port`",
            ),
            ("[servr]\nhttp_port = 1", "`servr`", "`server`"),
            ("http_port = 1", "`http_port`", "`server.http_port`"),
            (
                "[model.resnet]\nweigth = 3",
                "`model.resnet.weigth`",
                "`model.resnet.weight`",
            ),
            (
                "[policy.uncontroled]\nlanes = 2",
                "`policy.uncontroled`",
                "`policy.uncontrolled`",
            ),
            (
                "[policy.uncontrolled]\nlane = 2",
                "`policy.uncontrolled.lane`",
                "`policy.uncontrolled.lanes`",
            ),
            (
                "[scheduler]\nadmission = true\nzzz = 2",
                "`scheduler.zzz`",
                "`fugato config show`",
            ),
        ];
        for (text, key, hint) in cases {
            let error = error_of(text);
            for part in [key, "`fugato.toml`", hint] {
                assert!(error.contains(part), "{text:?} gave {error:?}");
            }
        }
    }

    #[test]
    fn values_of_the_wrong_type_are_refused_with_their_place() {
        for (text, expected) in [
            ("[server]\nhttp_port = \"x\"", "line 2"),
            ("[server]\nhttp_port = 70000", "line 2"),
            ("[defaults]\nslo = 25", "with its unit"),
            ("[[model]]\nname = \"x\"", "expected a map"),
            ("server = 3", "line 1"),
            ("[server", "line 1"),
        ] {
            let error = error_of(text);
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn the_environment_is_read_by_type() {
        let variables = BTreeMap::from([
            ("FUGATO_SERVER_HTTP_PORT", "9000"),
            ("FUGATO_SERVER_HOST", "0.0.0.0"),
            ("FUGATO_DEFAULTS_SLO", "25ms"),
            ("FUGATO_DEFAULTS_PREFERRED_BATCH_SIZES", "[4, 8]"),
            ("FUGATO_SCHEDULER_ADMISSION", "false"),
            ("FUGATO_POLICY_UNCONTROLLED_SHARE", "1"),
            ("FUGATO_ONNXRUNTIME", "lib/ort.so"),
            ("FUGATO_SERVICE_HOST", "ignored"),
        ]);
        let get = |name: &str| variables.get(name).map(OsString::from);
        let raw = from_environment(get).expect("all are of their types");
        assert_eq!(raw.server.http_port, Some(9000));
        assert_eq!(raw.defaults.preferred_batch_sizes, Some(vec![4, 8]));
        assert_eq!(raw.scheduler.admission, Some(false));
        assert_eq!(raw.policy.uncontrolled.share, Some(1));
        assert_eq!(raw.runtime.onnxruntime, Some(PathBuf::from("lib/ort.so")));
        for (name, text) in [
            ("FUGATO_SERVER_HTTP_PORT", "many"),
            ("FUGATO_SERVER_HOST", "localhost"),
            ("FUGATO_SCHEDULER_POLICY", "lifo"),
        ] {
            let error = from_environment(|asked| (asked == name).then(|| text.into()))
                .expect_err("not of its type");
            let message = error.to_string();
            assert!(
                message.contains(name) && message.contains(text),
                "{message}"
            );
        }
    }

    #[test]
    fn distances_count_edits() {
        let cases = [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
        ];
        for (left, right, distance) in cases {
            assert_eq!(edit_distance(left, right), distance);
        }
    }
}
