//! Log lines on standard error, and what clients may change about them.

use crate::api::{LogSetting, LogSettings};
use crate::config::{LogConfig, LogFormat};
use crate::error::{Fault, InferError};
use std::io::IsTerminal;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Why logging cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives cannot be read.
    #[error(
        "log.level is `{level}`, expected a level or directives such as `info,fugato::driver=debug`"
    )]
    Level {
        /// What was given.
        level: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Something else logs already.
    #[error("a logger is already there")]
    Installed,
}

/// The process has one log, and so one of these.
static CONTROL: OnceLock<Control> = OnceLock::new();

struct Control {
    /// The directives of the configuration.
    configured: String,
    as_configured: Switches,
    switches: Mutex<Switches>,
    apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// What clients may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Switches {
    info: bool,
    warning: bool,
    error: bool,
    verbose: u32,
}

impl Switches {
    /// What directives whose most talkative level is `level` amount to.
    fn of(level: LevelFilter) -> Self {
        Self {
            info: level >= LevelFilter::INFO,
            warning: level >= LevelFilter::WARN,
            error: level >= LevelFilter::ERROR,
            verbose: u32::from(level >= LevelFilter::DEBUG)
                + u32::from(level >= LevelFilter::TRACE),
        }
    }

    /// Directives for these switches. A level without the ones above it is no filter of
    /// `tracing`: the first that is off turns off the rest.
    fn directives(self) -> &'static str {
        match self {
            Self { error: false, .. } => "off",
            Self { warning: false, .. } => "error",
            Self { info: false, .. } => "warn",
            Self { verbose: 0, .. } => "info",
            Self { verbose: 1, .. } => "info,fugato=debug,fugato_device=debug",
            _ => "info,fugato=trace,fugato_device=trace",
        }
    }

    fn settings(self) -> LogSettings {
        let settings = [
            ("log_file", LogSetting::Text(String::new())),
            ("log_info", LogSetting::Switch(self.info)),
            ("log_warning", LogSetting::Switch(self.warning)),
            ("log_error", LogSetting::Switch(self.error)),
            ("log_verbose_level", LogSetting::Level(self.verbose)),
            ("log_format", LogSetting::Text(FORMAT.to_owned())),
        ];
        settings
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }

    fn change(&mut self, name: &str, value: &LogSetting) -> Result<(), InferError> {
        let wrong = |expected: &str| {
            let found = match value {
                LogSetting::Switch(on) => on.to_string(),
                LogSetting::Level(level) => level.to_string(),
                LogSetting::Text(text) => text.clone(),
            };
            Err(Fault::setting(name, Some(&[found]), expected).into())
        };
        let switch = match name {
            "log_info" => &mut self.info,
            "log_warning" => &mut self.warning,
            "log_error" => &mut self.error,
            "log_verbose_level" => {
                let LogSetting::Level(level) = value else {
                    return wrong("a whole number");
                };
                self.verbose = (*level).min(2);
                return Ok(());
            }
            "log_file" if matches!(value, LogSetting::Text(text) if text.is_empty()) => {
                return Ok(());
            }
            "log_format" if matches!(value, LogSetting::Text(text) if text == FORMAT) => {
                return Ok(());
            }
            "log_file" => return wrong("nothing: the log is standard error"),
            "log_format" => return wrong("`ISO8601`: times are always written so"),
            _ => return wrong("one of the settings that `log_settings` lists"),
        };
        let LogSetting::Switch(on) = value else {
            return wrong("true or false");
        };
        *switch = *on;
        Ok(())
    }
}

/// How times are written, in Triton's words.
const FORMAT: &str = "ISO8601";

/// Begins logging for the whole process.
///
/// # Errors
/// [`LogError`].
pub fn init_logs(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.level);
    let filter = filter.map_err(|source| LogError::Level {
        level: config.level.clone(),
        source,
    })?;
    let switches = Switches::of(filter.max_level_hint().unwrap_or(LevelFilter::TRACE));
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(color);
    let (installed, apply): (_, Box<dyn Fn(EnvFilter) -> bool + Send + Sync>) = match config.format
    {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |filter| handle.reload(filter).is_ok();
            (builder.try_init(), Box::new(apply))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            let apply = move |filter| handle.reload(filter).is_ok();
            (builder.try_init(), Box::new(apply))
        }
    };
    installed.map_err(|_| LogError::Installed)?;
    let control = Control {
        configured: config.level.clone(),
        as_configured: switches,
        switches: Mutex::new(switches),
        apply,
    };
    CONTROL.set(control).map_err(|_| LogError::Installed)
}

/// The settings of Triton's logging extension; none where nothing logs.
pub fn log_settings() -> LogSettings {
    CONTROL.get().map_or_else(LogSettings::new, |control| {
        control
            .switches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .settings()
    })
}

/// Changes settings, all of them or none, and gives the new ones. Where all are as they
/// were at the start, so are the directives of the configuration.
///
/// # Errors
/// `InvalidValue`: a setting that there is not, or that cannot be set so.
pub fn update_log_settings(update: LogSettings) -> Result<LogSettings, InferError> {
    let Some(control) = CONTROL.get() else {
        return Err(InferError::unimplemented("logging in this process"));
    };
    let mut switches = control
        .switches
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let mut changed = *switches;
    for (name, value) in &update {
        changed.change(name, value)?;
    }
    let directives = if changed == control.as_configured {
        &control.configured
    } else {
        changed.directives()
    };
    if !(control.apply)(EnvFilter::new(directives)) {
        return Err(InferError::internal("log", "its filter is gone"));
    }
    *switches = changed;
    Ok(changed.settings())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn switches_become_directives() {
        let mut switches = Switches::of(LevelFilter::INFO);
        assert_eq!(switches.directives(), "info");
        for (name, value, directives) in [
            (
                "log_verbose_level",
                LogSetting::Level(1),
                "info,fugato=debug,fugato_device=debug",
            ),
            ("log_info", LogSetting::Switch(false), "warn"),
            ("log_warning", LogSetting::Switch(false), "error"),
            ("log_error", LogSetting::Switch(false), "off"),
            ("log_file", LogSetting::Text(String::new()), "off"),
        ] {
            switches.change(name, &value).expect("it can be set");
            assert_eq!(switches.directives(), directives, "{name}");
        }
        let settings = switches.settings();
        assert_eq!(settings["log_info"], LogSetting::Switch(false));
        assert_eq!(settings["log_verbose_level"], LogSetting::Level(1));
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        for (name, value) in [
            ("log_info", LogSetting::Level(1)),
            ("log_verbose_level", LogSetting::Switch(true)),
            ("log_file", LogSetting::Text("fugato.log".to_owned())),
            ("log_format", LogSetting::Text("default".to_owned())),
            ("log_colour", LogSetting::Switch(true)),
        ] {
            let mut switches = Switches::of(LevelFilter::INFO);
            let error = switches.change(name, &value).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
