//! The TOML form of a workload: what is written, not yet checked.

use super::duration::{deserialize, deserialize_some};
use super::process::{ArrivalProcess, MmppState, Trace};
use super::trace::TraceRow;
use super::{ModelLoad, Workload, WorkloadError};
use crate::{BatchSize, Nanos};
use serde::Deserialize;
use std::collections::BTreeMap;

/// A workload file as written. Unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadFile {
    /// Measured time: `"60s"`.
    #[serde(deserialize_with = "deserialize")]
    pub duration: Nanos,
    /// Time of load before the measurement (default none).
    #[serde(default, deserialize_with = "deserialize")]
    pub warmup: Nanos,
    /// Seed of arrivals and random inputs; drawn and printed where absent.
    pub seed: Option<u64>,
    /// The models.
    #[serde(rename = "model", default)]
    pub models: Vec<ModelTable>,
}

/// A `[[model]]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// The model's name on the server.
    pub name: String,
    /// The objective: `"25ms"`.
    #[serde(deserialize_with = "deserialize")]
    pub slo: Nanos,
    /// Value of a reply against other models' (default 1).
    pub weight: Option<f64>,
    /// The largest batch the scheduler may form.
    pub max_batch_size: Option<u32>,
    /// Items of each request (default 1).
    pub batch: Option<u32>,
    /// By input, the shape of one item, the batch dimension left out.
    #[serde(default)]
    pub shape: BTreeMap<String, Vec<u64>>,
    /// By input, the exclusive upper bound of random integers.
    #[serde(default)]
    pub integers: BTreeMap<String, u32>,
    /// When requests arrive.
    pub arrivals: ArrivalsTable,
}

/// An `arrivals` table, told apart by its `kind`. Rates are requests per second.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum ArrivalsTable {
    /// `kind = "constant"`.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// `kind = "poisson"`.
    Poisson {
        /// Mean requests per second.
        rate: f64,
    },
    /// `kind = "mmpp"`.
    Mmpp {
        /// The states.
        states: Vec<MmppStateTable>,
    },
    /// `kind = "diurnal"`.
    Diurnal {
        /// Mean requests per second.
        base: f64,
        /// Swing around the base.
        amplitude: f64,
        /// Length of a day.
        #[serde(deserialize_with = "deserialize")]
        period: Nanos,
    },
    /// `kind = "square"`.
    Square {
        /// Rate in the second part of a period.
        low: f64,
        /// Rate in the first part of a period.
        high: f64,
        /// Length of both parts.
        #[serde(deserialize_with = "deserialize")]
        period: Nanos,
        /// Part of the period at `high`.
        duty: f64,
    },
    /// `kind = "trace"`.
    Trace {
        /// A CSV file (time, model, count), relative to the workload file.
        file: String,
        /// The model's name in the trace (default: as here).
        model: Option<String>,
        /// The time over which a row's requests are spread.
        #[serde(default, deserialize_with = "deserialize_some")]
        interval: Option<Nanos>,
    },
    /// `kind = "saturated"`.
    Saturated,
}

/// A state of `kind = "mmpp"`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MmppStateTable {
    /// Mean requests per second in this state.
    pub rate: f64,
    /// Mean time in this state.
    #[serde(deserialize_with = "deserialize")]
    pub hold: Nanos,
}

impl WorkloadFile {
    /// The trace files this workload names, as it names them.
    pub fn traces(&self) -> impl Iterator<Item = &str> {
        self.models
            .iter()
            .filter_map(|model| match &model.arrivals {
                ArrivalsTable::Trace { file, .. } => Some(file.as_str()),
                ArrivalsTable::Constant { .. }
                | ArrivalsTable::Poisson { .. }
                | ArrivalsTable::Mmpp { .. }
                | ArrivalsTable::Diurnal { .. }
                | ArrivalsTable::Square { .. }
                | ArrivalsTable::Saturated => None,
            })
    }

    /// The valid workload. `traces` holds the rows of each of [`WorkloadFile::traces`].
    ///
    /// # Errors
    /// [`WorkloadError`], with the model and parameter at fault.
    pub fn resolve(
        self,
        traces: &BTreeMap<String, Vec<TraceRow>>,
    ) -> Result<Workload, WorkloadError> {
        let models = self.models.into_iter().map(|model| model.resolve(traces));
        let models = models.collect::<Result<_, _>>()?;
        Workload::new(self.duration, self.warmup, self.seed, models)
    }
}

impl ModelTable {
    fn resolve(self, traces: &BTreeMap<String, Vec<TraceRow>>) -> Result<ModelLoad, WorkloadError> {
        let arrivals = match self.arrivals {
            ArrivalsTable::Constant { rate } => ArrivalProcess::Constant { rate },
            ArrivalsTable::Poisson { rate } => ArrivalProcess::Poisson { rate },
            ArrivalsTable::Mmpp { states } => ArrivalProcess::Mmpp {
                states: states
                    .into_iter()
                    .map(|MmppStateTable { rate, hold }| MmppState { rate, hold })
                    .collect(),
            },
            ArrivalsTable::Diurnal {
                base,
                amplitude,
                period,
            } => ArrivalProcess::Diurnal {
                base,
                amplitude,
                period,
            },
            ArrivalsTable::Square {
                low,
                high,
                period,
                duty,
            } => ArrivalProcess::Square {
                low,
                high,
                period,
                duty,
            },
            ArrivalsTable::Trace {
                file,
                model,
                interval,
            } => {
                let rows = traces
                    .get(&file)
                    .ok_or_else(|| WorkloadError::MissingTrace {
                        model: self.name.clone(),
                        file: file.clone(),
                    })?;
                let model = model.as_deref().unwrap_or(&self.name);
                ArrivalProcess::Trace(Trace::new(rows, model, interval))
            }
            ArrivalsTable::Saturated => ArrivalProcess::Saturated,
        };
        Ok(ModelLoad {
            weight: self.weight.unwrap_or(1.0),
            max_batch_size: self.max_batch_size.map(BatchSize),
            batch: BatchSize(self.batch.unwrap_or(1)),
            shapes: self.shape,
            integers: self.integers,
            ..ModelLoad::new(self.name, self.slo, arrivals)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{ProcessError, parse_trace};

    fn parse(text: &str) -> Result<WorkloadFile, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    fn model(arrivals: &str) -> String {
        format!(
            "duration = \"10s\"\n[[model]]\nname = \"m\"\nslo = \"25ms\"\narrivals = {arrivals}\n"
        )
    }

    #[test]
    fn a_full_file_is_read() {
        let text = r#"
            duration = "1m"
            warmup = "5s"
            seed = 7
            [[model]]
            name = "bert"
            slo = "25ms"
            weight = 2.0
            max_batch_size = 8
            batch = 2
            shape = { input_ids = [128] }
            integers = { input_ids = 30522 }
            arrivals = { kind = "poisson", rate = 700.0 }
            [[model]]
            name = "resnet"
            slo = "200us"
            [model.arrivals]
            kind = "mmpp"
            states = [{ rate = 10, hold = "1s" }, { rate = 100, hold = "250ms" }]
        "#;
        let workload = parse(text).expect("valid").resolve(&BTreeMap::new());
        let workload = workload.expect("valid");
        assert_eq!(workload.end(), Nanos::from_millis(65_000));
        assert_eq!(workload.seed(), Some(7));
        let bert = &workload.models()[0];
        assert_eq!(bert.batch, BatchSize(2));
        assert_eq!(bert.max_batch_size, Some(BatchSize(8)));
        assert_eq!(bert.shapes["input_ids"], [128]);
        let rate = workload.models()[1].arrivals.mean_rate(workload.end());
        assert!(
            (rate - 28.0).abs() < 1e-9,
            "(10*1 + 100*0.25) / 1.25, got {rate}"
        );
    }

    #[test]
    fn each_kind_is_read() {
        let kinds = [
            r#"{ kind = "constant", rate = 1 }"#,
            r#"{ kind = "diurnal", base = 2.0, amplitude = 1.0, period = "1m" }"#,
            r#"{ kind = "square", low = 0, high = 9, period = "2s", duty = 0.25 }"#,
            r#"{ kind = "trace", file = "t.csv", model = "x", interval = "1s" }"#,
        ];
        let rows = parse_trace("time,model,count\n0,x,3\n").expect("valid");
        let traces = BTreeMap::from([("t.csv".to_owned(), rows)]);
        for kind in kinds {
            let workload = parse(&model(kind)).expect(kind).resolve(&traces);
            workload.expect(kind);
        }
    }

    #[test]
    fn unknown_keys_and_kinds_are_refused_by_name() {
        let poisson = r#"{ kind = "poisson", rate = 1.0 }"#;
        let cases = [
            (model(poisson).replace("slo", "sol"), "sol"),
            (format!("length = 3\n{}", model(poisson)), "length"),
            (model(r#"{ kind = "poison", rate = 1.0 }"#), "poison"),
            (
                model(r#"{ kind = "poisson", rate = 1.0, burst = 2 }"#),
                "burst",
            ),
            (model(poisson).replace("25ms", "25"), "duration `25`"),
        ];
        for (text, part) in cases {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_the_model() {
        let resolve = |text: String| parse(&text).expect("syntax").resolve(&BTreeMap::new());
        let poisson = r#"{ kind = "poisson", rate = 1.0 }"#;
        assert_eq!(
            resolve(model(r#"{ kind = "poisson", rate = 0 }"#)),
            Err(WorkloadError::Arrivals {
                model: "m".to_owned(),
                source: ProcessError::Silent { parameter: "rate" },
            })
        );
        assert!(matches!(
            resolve(model(r#"{ kind = "poisson", rate = nan }"#)),
            Err(WorkloadError::Arrivals { .. })
        ));
        let error = resolve(model(poisson).replace("25ms", "0ms")).expect_err("no objective");
        let found = error.to_string();
        assert_eq!(found, "slo of model `m` is 0, expected above 0");
        assert_eq!(
            error,
            WorkloadError::NoSlo {
                model: "m".to_owned()
            }
        );
        assert_eq!(
            resolve("duration = \"1s\"".to_owned()),
            Err(WorkloadError::NoModel)
        );
        assert!(matches!(
            resolve(model(r#"{ kind = "trace", file = "none.csv" }"#)),
            Err(WorkloadError::MissingTrace { .. })
        ));
        let twice = model(poisson);
        let table = twice.split_once("[[model]]").map_or("", |(_, rest)| rest);
        assert_eq!(
            resolve(format!("{twice}\n[[model]]{table}")),
            Err(WorkloadError::Duplicate {
                model: "m".to_owned()
            })
        );
        let zero = model(poisson).replace("slo", "batch = 0\nslo");
        assert!(matches!(resolve(zero), Err(WorkloadError::Zero { .. })));
    }
}
