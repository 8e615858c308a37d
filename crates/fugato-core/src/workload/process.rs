//! Arrival processes: what they are, what is valid, and their scaling.

use super::trace::TraceRow;
use crate::Nanos;
use std::collections::BTreeMap;

/// The highest rate of one model, in requests per second: far above what a client can
/// send, low enough that no iterator runs for long without passing time.
pub const MAX_RATE: f64 = 10_000_000.0;

/// The shortest holding time or period: below it a process is noise around its mean,
/// and an iterator would spend its time on changes of state.
pub const MIN_PERIOD: Nanos = Nanos::from_millis(1);

/// How the requests of one model arrive. Valid by construction through
/// [`ArrivalProcess::checked`], which [`super::Workload`] applies to each.
///
/// # Units
/// Rates are requests per second.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ArrivalProcess {
    /// Evenly spaced. The first comes at a random part of the first gap, so that models
    /// of equal rate do not arrive in step.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// Independent exponential gaps.
    Poisson {
        /// Mean requests per second.
        rate: f64,
    },
    /// A Markov-modulated Poisson process: Poisson at the rate of a hidden state, which
    /// is left after an exponential time for any of the others, each as likely. The
    /// share of time in a state is thus its mean holding time over the sum of all; the
    /// run starts in a state drawn by these shares.
    Mmpp {
        /// At least two states.
        states: Vec<MmppState>,
    },
    /// Poisson at `base + amplitude * sin(2 pi t / period)`.
    Diurnal {
        /// Mean requests per second.
        base: f64,
        /// At most `base`.
        amplitude: f64,
        /// Length of a day.
        period: Nanos,
    },
    /// Poisson at `high` for the first `duty` of each period and at `low` for the rest.
    Square {
        /// Requests per second in the second part of a period.
        low: f64,
        /// Requests per second in the first part of a period.
        high: f64,
        /// Length of both parts together.
        period: Nanos,
        /// Length of the first part over the period, in (0, 1).
        duty: f64,
    },
    /// Recorded arrivals.
    Trace(Trace),
    /// Requests without end: at every time more than a full batch waits. It has no times
    /// and no rate; the simulator sends the next request when one ends, and a load
    /// generator cannot send it.
    Saturated,
}

/// A state of [`ArrivalProcess::Mmpp`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MmppState {
    /// Mean requests per second in this state; 0 is a pause.
    pub rate: f64,
    /// Mean time in this state.
    pub hold: Nanos,
}

/// Recorded arrivals of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Requests by time, ascending.
    pub(super) counts: Vec<(Nanos, u64)>,
    /// Where given, a row's requests come at random times in this long after it (rows
    /// that count an interval); else all at the row's time.
    pub(super) interval: Option<Nanos>,
    /// Factor on each count. A fraction is met on average, by a seeded draw per row.
    pub(super) scale: f64,
}

impl Trace {
    /// The rows of `model`. Rows of equal time are summed.
    pub fn new(rows: &[TraceRow], model: &str, interval: Option<Nanos>) -> Self {
        let mut counts = BTreeMap::<Nanos, u64>::new();
        for row in rows.iter().filter(|row| row.model == model) {
            let sum = counts.entry(row.at).or_default();
            *sum = sum.saturating_add(row.count);
        }
        Self {
            counts: counts.into_iter().collect(),
            interval,
            scale: 1.0,
        }
    }
}

/// Why an arrival process is not valid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// A rate is NaN, infinite, negative or past [`MAX_RATE`].
    #[error("{parameter} is {found} requests per second, expected 0 to {MAX_RATE}")]
    Rate {
        /// Which rate.
        parameter: &'static str,
        /// Its value.
        found: f64,
    },
    /// A process that would never send anything.
    #[error("{parameter} is 0, so no request would ever arrive; hint: leave the model out instead")]
    Silent {
        /// Which rate.
        parameter: &'static str,
    },
    /// The amplitude is above the base, which would need negative rates.
    #[error("amplitude is {amplitude}, expected at most the base {base}")]
    Amplitude {
        /// The amplitude.
        amplitude: f64,
        /// The base.
        base: f64,
    },
    /// A holding time, period or interval is too short.
    #[error("{parameter} is {found}, expected at least {MIN_PERIOD}")]
    TooShort {
        /// Which time.
        parameter: &'static str,
        /// Its value.
        found: Nanos,
    },
    /// The duty is not inside (0, 1).
    #[error("duty is {found}, expected above 0 and below 1")]
    Duty {
        /// Its value.
        found: f64,
    },
    /// Fewer than two states.
    #[error("mmpp has {found} states, expected at least 2; hint: one state is `poisson`")]
    States {
        /// Their number.
        found: usize,
    },
    /// The trace has no request for the model.
    #[error(
        "the trace has no request for this model; hint: set `arrivals.model` to its name there"
    )]
    EmptyTrace,
    /// Rows lie closer than the interval over which each is spread.
    #[error("two rows of the trace are {gap} apart, expected at least the interval {interval}")]
    Overlap {
        /// The smallest distance.
        gap: Nanos,
        /// The interval.
        interval: Nanos,
    },
    /// A queue that is always full has no rate to be scaled.
    #[error("saturated arrivals have no rate to be scaled; hint: give each model a rate")]
    NoRate,
    /// A scale is NaN, infinite, zero or negative.
    #[error("scale is {found}, expected finite and above 0")]
    Scale {
        /// Its value.
        found: f64,
    },
}

impl ArrivalProcess {
    /// The same process, where it is valid.
    ///
    /// # Errors
    /// [`ProcessError`], with the parameter at fault.
    pub fn checked(self) -> Result<Self, ProcessError> {
        match &self {
            Self::Constant { rate } | Self::Poisson { rate } => {
                in_range("rate", *rate)?;
                sends("rate", *rate)?;
            }
            Self::Mmpp { states } => {
                if states.len() < 2 {
                    return Err(ProcessError::States {
                        found: states.len(),
                    });
                }
                for state in states {
                    in_range("rate of a state", state.rate)?;
                    long_enough("hold of a state", state.hold)?;
                }
                sends(
                    "rate of every state",
                    states.iter().map(|state| state.rate).sum(),
                )?;
            }
            Self::Diurnal {
                base,
                amplitude,
                period,
            } => {
                in_range("base", *base)?;
                in_range("amplitude", *amplitude)?;
                in_range("base + amplitude", base + amplitude)?;
                sends("base", *base)?;
                long_enough("period", *period)?;
                if amplitude > base {
                    return Err(ProcessError::Amplitude {
                        amplitude: *amplitude,
                        base: *base,
                    });
                }
            }
            Self::Square {
                low,
                high,
                period,
                duty,
            } => {
                in_range("low", *low)?;
                in_range("high", *high)?;
                sends("low and high", low + high)?;
                long_enough("period", *period)?;
                if !(*duty > 0.0 && *duty < 1.0) {
                    return Err(ProcessError::Duty { found: *duty });
                }
            }
            Self::Trace(trace) => trace.check()?,
            Self::Saturated => {}
        }
        Ok(self)
    }

    /// The process at `factor` times its rates.
    ///
    /// # Errors
    /// [`ProcessError::Scale`] for a factor that is not finite and above 0;
    /// [`ProcessError::Rate`] where a rate leaves its range; [`ProcessError::NoRate`] where
    /// there is none.
    pub fn scaled(&self, factor: f64) -> Result<Self, ProcessError> {
        if !(factor.is_finite() && factor > 0.0) {
            return Err(ProcessError::Scale { found: factor });
        }
        let mut scaled = self.clone();
        match &mut scaled {
            Self::Constant { rate } | Self::Poisson { rate } => *rate *= factor,
            Self::Mmpp { states } => {
                for state in states {
                    state.rate *= factor;
                }
            }
            Self::Diurnal {
                base, amplitude, ..
            } => {
                *base *= factor;
                *amplitude *= factor;
            }
            Self::Square { low, high, .. } => {
                *low *= factor;
                *high *= factor;
            }
            Self::Trace(trace) => trace.scale *= factor,
            Self::Saturated => return Err(ProcessError::NoRate),
        }
        scaled.checked()
    }

    /// The mean rate over a long time (for a trace: over the time of `end`), in requests
    /// per second; without bound where it is saturated.
    pub fn mean_rate(&self, end: Nanos) -> f64 {
        match self {
            Self::Constant { rate } | Self::Poisson { rate } => *rate,
            Self::Mmpp { states } => {
                let time: f64 = states.iter().map(|state| state.hold.as_secs_f64()).sum();
                let requests = |state: &MmppState| state.rate * state.hold.as_secs_f64();
                states.iter().map(requests).sum::<f64>() / time
            }
            Self::Diurnal { base, .. } => *base,
            Self::Square {
                low, high, duty, ..
            } => high * duty + low * (1.0 - duty),
            Self::Trace(trace) => {
                let inside = trace.counts.iter().filter(|(at, _)| *at < end);
                let requests: f64 = inside.map(|(_, count)| *count as f64 * trace.scale).sum();
                requests / end.as_secs_f64()
            }
            Self::Saturated => f64::INFINITY,
        }
    }
}

impl Trace {
    fn check(&self) -> Result<(), ProcessError> {
        if self.counts.iter().all(|(_, count)| *count == 0) {
            return Err(ProcessError::EmptyTrace);
        }
        let highest = self.counts.iter().map(|(_, count)| *count).max();
        in_range("count of a row", highest.unwrap_or(0) as f64 * self.scale)?;
        let Some(interval) = self.interval else {
            return Ok(());
        };
        long_enough("interval", interval)?;
        let gaps = self.counts.windows(2);
        let smallest = gaps.map(|pair| pair[1].0.saturating_sub(pair[0].0)).min();
        match smallest {
            Some(gap) if gap < interval => Err(ProcessError::Overlap { gap, interval }),
            Some(_) | None => Ok(()),
        }
    }
}

fn in_range(parameter: &'static str, rate: f64) -> Result<(), ProcessError> {
    if (0.0..=MAX_RATE).contains(&rate) {
        Ok(())
    } else {
        Err(ProcessError::Rate {
            parameter,
            found: rate,
        })
    }
}

/// That a rate already known to be in range is above zero.
fn sends(parameter: &'static str, rate: f64) -> Result<(), ProcessError> {
    if rate > 0.0 {
        Ok(())
    } else {
        Err(ProcessError::Silent { parameter })
    }
}

fn long_enough(parameter: &'static str, length: Nanos) -> Result<(), ProcessError> {
    if length >= MIN_PERIOD {
        Ok(())
    } else {
        Err(ProcessError::TooShort {
            parameter,
            found: length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_out_of_range_are_refused() {
        for rate in [f64::NAN, -1.0, f64::INFINITY, MAX_RATE * 2.0] {
            for process in [
                ArrivalProcess::Constant { rate },
                ArrivalProcess::Poisson { rate },
                ArrivalProcess::Square {
                    low: 1.0,
                    high: rate,
                    period: Nanos::from_millis(10),
                    duty: 0.5,
                },
            ] {
                let error = process.clone().checked();
                assert!(
                    matches!(error, Err(ProcessError::Rate { .. })),
                    "{process:?}: {error:?}"
                );
            }
        }
        let silent = ArrivalProcess::Poisson { rate: 0.0 }.checked();
        assert_eq!(silent, Err(ProcessError::Silent { parameter: "rate" }));
    }

    #[test]
    fn shapes_that_mean_nothing_are_refused() {
        let second = Nanos::from_millis(1_000);
        let square = |duty| ArrivalProcess::Square {
            low: 0.0,
            high: 5.0,
            period: second,
            duty,
        };
        for duty in [0.0, 1.0, f64::NAN] {
            assert!(matches!(
                square(duty).checked(),
                Err(ProcessError::Duty { .. })
            ));
        }
        let diurnal = ArrivalProcess::Diurnal {
            base: 1.0,
            amplitude: 2.0,
            period: second,
        };
        assert!(matches!(
            diurnal.checked(),
            Err(ProcessError::Amplitude { .. })
        ));
        let one = MmppState {
            rate: 1.0,
            hold: second,
        };
        let states = vec![one];
        assert_eq!(
            ArrivalProcess::Mmpp { states }.checked(),
            Err(ProcessError::States { found: 1 })
        );
        let brief = MmppState {
            rate: 1.0,
            hold: Nanos::ZERO,
        };
        let states = vec![one, brief];
        assert!(matches!(
            ArrivalProcess::Mmpp { states }.checked(),
            Err(ProcessError::TooShort { .. })
        ));
    }

    #[test]
    fn scaling_keeps_the_shape_and_the_range() {
        let process = ArrivalProcess::Diurnal {
            base: 10.0,
            amplitude: 5.0,
            period: Nanos::from_millis(1_000),
        };
        let doubled = process.scaled(2.0).expect("in range");
        assert!((doubled.mean_rate(Nanos::MAX) - 20.0).abs() < 1e-9);
        for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(
                process.scaled(factor),
                Err(ProcessError::Scale { .. })
            ));
        }
        assert!(matches!(
            process.scaled(1e9),
            Err(ProcessError::Rate { .. })
        ));
    }

    #[test]
    fn rows_of_a_trace_may_not_overlap() {
        let row = |millis| TraceRow {
            at: Nanos::from_millis(millis),
            model: "m".to_owned(),
            count: 1,
        };
        let rows = [row(0), row(10), row(10)];
        let trace = |interval| ArrivalProcess::Trace(Trace::new(&rows, "m", interval)).checked();
        assert!(trace(None).is_ok());
        assert!(trace(Some(Nanos::from_millis(10))).is_ok());
        assert!(matches!(
            trace(Some(Nanos::from_millis(11))),
            Err(ProcessError::Overlap { .. })
        ));
        let other = ArrivalProcess::Trace(Trace::new(&rows, "other", None)).checked();
        assert_eq!(other, Err(ProcessError::EmptyTrace));
    }
}
