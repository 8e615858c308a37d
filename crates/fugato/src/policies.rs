//! Policies by name with settings by name, as the command line and the live endpoint take
//! them. What a setting may be is the specification's own reading of it.

use crate::config::Span;
use fugato_core::sched::PolicySpec;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a policy cannot be set so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SettingError {
    /// No policy has the name.
    #[error("policy is `{found}`, expected one of {}", PolicySpec::NAMES.join(", "))]
    UnknownPolicy {
        /// What was given.
        found: String,
    },
    /// The policy has no such setting.
    #[error("policy `{policy}` has no setting `{name}`, expected {}", list(.expected))]
    UnknownSetting {
        /// The policy.
        policy: &'static str,
        /// The setting.
        name: String,
        /// The settings that it has.
        expected: Vec<String>,
    },
    /// The setting cannot have the value.
    #[error("setting `{name}` is `{found}`, expected {expected}")]
    Value {
        /// The setting.
        name: String,
        /// What was given.
        found: Value,
        /// What it takes.
        expected: String,
    },
    /// A setting is not written as one.
    #[error("`{found}` is no setting, expected NAME=VALUE")]
    Form {
        /// What was given.
        found: String,
    },
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

/// A policy written as `NAME` or `NAME:SETTING=VALUE:..`, with the usual values of the
/// settings that are not named.
///
/// # Errors
/// [`SettingError`], naming what is wrong.
pub fn parse(text: &str) -> Result<PolicySpec, SettingError> {
    let mut parts = text.split(':');
    let name = parts.next().unwrap_or_default();
    let usual = PolicySpec::named(name).ok_or_else(|| SettingError::UnknownPolicy {
        found: name.to_owned(),
    })?;
    parts.try_fold(usual, |policy, part| {
        let (name, value) = part.split_once('=').ok_or_else(|| SettingError::Form {
            found: part.to_owned(),
        })?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        with_setting(&policy, name, value)
    })
}

/// The name of a policy, as recordings write it, and its settings.
pub(crate) fn settings(policy: &PolicySpec) -> (String, Map<String, Value>) {
    match serde_json::to_value(policy) {
        Ok(Value::Object(named)) => match named.into_iter().next() {
            Some((name, Value::Object(settings))) => (name, settings),
            _ => unreachable!("settings of a policy have names"),
        },
        // One without settings is its name alone.
        _ => (policy.name().to_owned(), Map::new()),
    }
}

/// The policy with another value of one of its settings.
///
/// # Errors
/// [`SettingError`], where it has no such setting or that cannot have the value.
pub(crate) fn with_setting(
    policy: &PolicySpec,
    name: &str,
    value: Value,
) -> Result<PolicySpec, SettingError> {
    let (key, mut settings) = settings(policy);
    if !settings.contains_key(name) {
        return Err(SettingError::UnknownSetting {
            policy: policy.name(),
            name: name.to_owned(),
            expected: settings.keys().cloned().collect(),
        });
    }
    // A length of time is written as in the configuration, and counted in nanoseconds.
    let span = value.as_str().and_then(|text| text.parse::<Span>().ok());
    let counted = span.map_or_else(|| value.clone(), |span| span.nanos().as_nanos().into());
    settings.insert(name.to_owned(), counted);
    let changed = Map::from_iter([(key, Value::Object(settings))]);
    PolicySpec::deserialize(Value::Object(changed)).map_err(|error| SettingError::Value {
        name: name.to_owned(),
        found: value,
        expected: expected(&error),
    })
}

/// What a setting takes, from what reading its value failed with.
fn expected(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once("expected ") {
        Some((_, "u8")) => "a whole number of 0 to 255".to_owned(),
        Some((_, "u16" | "u32" | "u64")) => "a whole number that is not negative".to_owned(),
        Some((_, what)) => what.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::{Nanos, Share};

    #[test]
    fn settings_are_named_after_the_policy() {
        let parsed = parse("uncontrolled:lanes=3:share=1").expect("it is one");
        let expected = PolicySpec::Uncontrolled {
            lanes: 3,
            share: Some(Share(1)),
        };
        assert_eq!(parsed, expected);
        assert_eq!(parse("edf"), Ok(PolicySpec::Edf));
        let cycle = Some(Nanos::from_millis(20));
        assert_eq!(
            parse("temporal:cycle=20ms"),
            Ok(PolicySpec::Temporal { cycle })
        );
        let wrong = [
            ("edfx", "policy is `edfx`, expected one of fifo, edf"),
            (
                "edf:lanes=1",
                "policy `edf` has no setting `lanes`, expected none",
            ),
            (
                "uncontrolled:lane=1",
                "has no setting `lane`, expected lanes, share",
            ),
            (
                "uncontrolled:lanes",
                "`lanes` is no setting, expected NAME=VALUE",
            ),
            (
                "uncontrolled:lanes=many",
                "setting `lanes` is `\"many\"`, expected a whole number",
            ),
            (
                "clipper:target_percent=500",
                "setting `target_percent` is `500`, expected a whole number of 0 to 255",
            ),
        ];
        for (text, message) in wrong {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
