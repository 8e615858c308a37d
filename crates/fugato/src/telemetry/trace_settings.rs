//! Which requests are traced: Triton's trace settings, for the server and for each model.

use crate::api::{TraceContext, TraceSettings};
use crate::error::{Fault, InferError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Where spans go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// To a collector.
    OpenTelemetry,
    /// To the log, as one line for each span.
    Log,
}

/// What is set for the server or for one model; `None` is as the server, or as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Set {
    on: Option<bool>,
    rate: Option<u64>,
    /// Traces that may still be made.
    count: Option<u64>,
}

/// The settings of the server and of its models.
#[derive(Debug)]
pub(super) struct Sampling {
    mode: Mode,
    /// As configured.
    on: bool,
    rate: u64,
    state: RwLock<State>,
    seen: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    server: Set,
    models: BTreeMap<String, Set>,
}

impl Sampling {
    pub(super) fn new(mode: Mode, on: bool, rate: u64) -> Self {
        Self {
            mode,
            on,
            rate: rate.max(1),
            state: RwLock::default(),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether a request to `model` is traced: where tracing is on for it, every request
    /// whose client records its trace, and of the others one in `trace_rate`.
    pub(super) fn samples(&self, model: &str, context: Option<&TraceContext>) -> bool {
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let of_model = state.models.get(model);
            let pick = |get: fn(&Set) -> Option<u64>| {
                of_model.and_then(get).or_else(|| get(&state.server))
            };
            let on = of_model.and_then(|set| set.on).or(state.server.on);
            if !on.unwrap_or(self.on) || pick(|set| set.count) == Some(0) {
                return false;
            }
            let rate = pick(|set| set.rate).unwrap_or(self.rate);
            let wanted = match context {
                Some(context) => context.sampled,
                None => self
                    .seen
                    .fetch_add(1, Ordering::Relaxed)
                    .is_multiple_of(rate),
            };
            if !wanted {
                return false;
            }
            if pick(|set| set.count).is_none() {
                return true;
            }
        }
        self.take_one(model)
    }

    /// Takes one of a limited number of traces; `false` where none is left.
    fn take_one(&self, model: &str) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State { server, models } = &mut *state;
        let own = models.get_mut(model).and_then(|set| set.count.as_mut());
        match own.or(server.count.as_mut()) {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// The settings of `model`, or of the server, as the trace extension has them.
    pub(super) fn get(&self, model: Option<&str>) -> TraceSettings {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let of_model = model.and_then(|model| state.models.get(model));
        let pick =
            |get: fn(&Set) -> Option<u64>| of_model.and_then(get).or_else(|| get(&state.server));
        let on = of_model.and_then(|set| set.on).or(state.server.on);
        let level = if on.unwrap_or(self.on) {
            "TIMESTAMPS"
        } else {
            "OFF"
        };
        let count = pick(|set| set.count).map_or("-1".to_owned(), |count| count.to_string());
        let mode = match self.mode {
            Mode::OpenTelemetry => "opentelemetry",
            Mode::Log => "log",
        };
        let rate = pick(|set| set.rate).unwrap_or(self.rate);
        [
            ("trace_level", level.to_owned()),
            ("trace_rate", rate.to_string()),
            ("trace_count", count),
            ("log_frequency", "0".to_owned()),
            ("trace_file", String::new()),
            ("trace_mode", mode.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), vec![value]))
        .into()
    }

    /// Changes settings, all of them or none.
    ///
    /// # Errors
    /// `InvalidValue`: a setting that there is not, or that cannot be set so.
    pub(super) fn update(
        &self,
        model: Option<&str>,
        update: BTreeMap<String, Option<Vec<String>>>,
    ) -> Result<(), InferError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let old = match model {
            None => state.server.clone(),
            Some(model) => state.models.get(model).cloned().unwrap_or_default(),
        };
        let mut set = old;
        for (name, values) in update {
            set.change(&name, values.as_deref())?;
        }
        match model {
            None => state.server = set,
            Some(model) if set == Set::default() => {
                state.models.remove(model);
            }
            Some(model) => {
                state.models.insert(model.to_owned(), set);
            }
        }
        Ok(())
    }
}

impl Set {
    /// Changes one setting; `None` takes back what was set.
    fn change(&mut self, name: &str, values: Option<&[String]>) -> Result<(), InferError> {
        let wrong = |expected: &str| InferError::from(Fault::setting(name, values, expected));
        let Some(values) = values.filter(|values| !values.is_empty()) else {
            match name {
                "trace_level" => self.on = None,
                "trace_rate" => self.rate = None,
                "trace_count" => self.count = None,
                // They are what taking them back would make them.
                "log_frequency" | "trace_file" | "trace_mode" | "trace_config" => {}
                _ => return Err(wrong(SETTINGS)),
            }
            return Ok(());
        };
        let one = match values {
            [one] => Some(one.as_str()),
            _ => None,
        };
        match name {
            "trace_level" => {
                let levels: Vec<&str> = values.iter().map(String::as_str).collect();
                self.on = Some(match levels[..] {
                    ["OFF"] => false,
                    ["TIMESTAMPS"] => true,
                    _ => return Err(wrong("`OFF` or `TIMESTAMPS`")),
                });
            }
            "trace_rate" => {
                let rate = one.and_then(|rate| rate.parse().ok());
                let rate = rate.filter(|rate| *rate > 0);
                self.rate = Some(rate.ok_or_else(|| wrong("a whole number above 0"))?);
            }
            "trace_count" => {
                self.count = match one {
                    Some("-1") => None,
                    count => {
                        let count = count.and_then(|count| count.parse().ok());
                        Some(count.ok_or_else(|| wrong("a whole number, or -1 for no limit"))?)
                    }
                }
            }
            "log_frequency" if one == Some("0") => {}
            "trace_file" if one == Some("") => {}
            "log_frequency" | "trace_file" | "trace_mode" | "trace_config" => {
                let expected = "nothing: clients do not choose where traces go, \
                                `telemetry.otlp_endpoint` does";
                return Err(wrong(expected));
            }
            _ => return Err(wrong(SETTINGS)),
        }
        Ok(())
    }
}

const SETTINGS: &str = "one of the settings `trace_level`, `trace_rate`, `trace_count`, \
                        `log_frequency`, `trace_file`";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn update(name: &str, values: Option<&[&str]>) -> BTreeMap<String, Option<Vec<String>>> {
        let values = values.map(|values| values.iter().map(|&value| value.to_owned()).collect());
        [(name.to_owned(), values)].into()
    }

    fn traced(sampling: &Sampling, model: &str, of: usize) -> usize {
        (0..of).filter(|_| sampling.samples(model, None)).count()
    }

    #[test]
    fn a_model_is_as_the_server_unless_it_is_set_otherwise() {
        let sampling = Sampling::new(Mode::Log, false, 1);
        assert_eq!(traced(&sampling, "a", 3), 0);
        let on = update("trace_level", Some(&["TIMESTAMPS"]));
        sampling.update(Some("a"), on.clone()).expect("it is fine");
        assert_eq!(
            (traced(&sampling, "a", 3), traced(&sampling, "b", 3)),
            (3, 0)
        );
        sampling.update(None, on).expect("it is fine");
        let off = update("trace_level", Some(&["OFF"]));
        sampling.update(Some("a"), off).expect("it is fine");
        assert_eq!(
            (traced(&sampling, "a", 3), traced(&sampling, "b", 3)),
            (0, 3)
        );
        sampling
            .update(Some("a"), update("trace_level", None))
            .expect("it is fine");
        assert_eq!(traced(&sampling, "a", 3), 3);
        sampling
            .update(None, update("trace_rate", Some(&["4"])))
            .expect("it is fine");
        assert_eq!(traced(&sampling, "a", 16), 4);
        assert_eq!(sampling.get(Some("a"))["trace_rate"], ["4"]);
        sampling
            .update(None, update("trace_count", Some(&["2"])))
            .expect("it is fine");
        assert_eq!(traced(&sampling, "b", 16), 2);
        assert_eq!(sampling.get(None)["trace_count"], ["0"]);
    }

    #[test]
    fn a_clients_own_trace_decides_for_its_request() {
        let sampling = Sampling::new(Mode::Log, true, 1);
        let context = |sampled| TraceContext {
            trace_id: 1,
            parent_id: 1,
            sampled,
        };
        assert!(sampling.samples("a", Some(&context(true))));
        assert!(!sampling.samples("a", Some(&context(false))));
    }

    #[test]
    fn what_cannot_be_set_changes_nothing() {
        let sampling = Sampling::new(Mode::OpenTelemetry, false, 1000);
        let before = sampling.get(None);
        for (name, values) in [
            ("trace_level", &["TENSORS"][..]),
            ("trace_level", &["OFF", "TIMESTAMPS"]),
            ("trace_rate", &["0"]),
            ("trace_rate", &["-1"]),
            ("trace_count", &["many"]),
            ("trace_file", &["/etc/passwd"]),
            ("trace_mode", &["triton"]),
            ("nothing", &["1"]),
        ] {
            let mut wanted = update(name, Some(values));
            // A good one beside it is not taken either.
            wanted.insert("trace_count".to_owned(), Some(vec!["7".to_owned()]));
            wanted.insert(
                name.to_owned(),
                Some(values.iter().map(|&value| value.to_owned()).collect()),
            );
            let error = sampling.update(None, wanted).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(sampling.get(None), before, "{name}");
        }
    }
}
