//! The arrivals of a workload, in order of time.

use super::Workload;
use super::process::{ArrivalProcess, MmppState, Trace};
use crate::{Nanos, Timestamp};
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::f64::consts::TAU;

/// One request to send.
///
/// The order of the fields is the order of arrivals: by time, then model, then sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrival {
    /// When, since the start of the run (the warm-up included).
    pub at: Timestamp,
    /// Which model: its index in [`Workload::models`].
    pub model: usize,
    /// How many requests of this model came before.
    pub sequence: u64,
}

/// The arrivals of all models of a workload, merged; an iterator.
///
/// The same workload and seed give the same arrivals (on one platform: logarithm and
/// sine come from the platform). Each model draws from a stream of its own, so a change
/// of one model leaves the arrivals of the others as they were.
///
/// # Cost
/// O(log models) per arrival; draws lazily, so a long workload takes no more memory.
#[derive(Clone, Debug)]
pub struct Arrivals {
    sources: Vec<Source>,
    next: BinaryHeap<Reverse<Arrival>>,
}

impl Arrivals {
    /// The arrivals of `workload` from its start to the end of its duration.
    pub fn new(workload: &Workload, seed: u64) -> Self {
        let end = Timestamp::ZERO + workload.end();
        let models = workload.models().iter().zip(0_u64..);
        let mut sources: Vec<Source> = models
            .map(|(model, stream)| Source::new(model.arrivals.clone(), end, seed, stream))
            .collect();
        let first = (0..sources.len()).filter_map(|model| Self::draw(&mut sources, model));
        Self {
            next: first.map(Reverse).collect(),
            sources,
        }
    }

    /// The next arrival of a model.
    fn draw(sources: &mut [Source], model: usize) -> Option<Arrival> {
        let source = &mut sources[model];
        let at = source.next()?;
        let sequence = source.sent;
        source.sent += 1;
        Some(Arrival {
            at,
            model,
            sequence,
        })
    }
}

impl Iterator for Arrivals {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        let mut first = self.next.peek_mut()?;
        let arrival = first.0;
        // In its place, which moves the others once.
        match Self::draw(&mut self.sources, arrival.model) {
            Some(next) => first.0 = next,
            None => {
                PeekMut::pop(first);
            }
        }
        Some(arrival)
    }
}

/// The arrivals of one model.
#[derive(Clone, Debug)]
struct Source {
    rng: ChaCha8Rng,
    end: Timestamp,
    /// The last arrival or, for thinned processes, the last candidate.
    now: Timestamp,
    sent: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Constant {
        rate: f64,
        /// Part of a gap before the first arrival.
        phase: f64,
    },
    Poisson {
        rate: f64,
    },
    Mmpp {
        states: Vec<MmppState>,
        state: usize,
        until: Timestamp,
    },
    /// Lewis and Shedler's thinning: candidates at the peak rate, each kept with
    /// probability rate(t) / peak.
    Thinned {
        process: ArrivalProcess,
        peak: f64,
    },
    Trace {
        trace: Trace,
        row: usize,
        /// Times of the current row not yet given out, latest first.
        pending: Vec<Timestamp>,
    },
    /// Saturated: no arrival has a time.
    None,
}

impl Source {
    fn new(process: ArrivalProcess, end: Timestamp, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let kind = match process {
            ArrivalProcess::Constant { rate } => Kind::Constant {
                rate,
                phase: rng.random(),
            },
            ArrivalProcess::Poisson { rate } => Kind::Poisson { rate },
            ArrivalProcess::Mmpp { states } => {
                let state = first_state(&states, &mut rng);
                let until = Timestamp::ZERO + exponential(states[state].hold, &mut rng);
                Kind::Mmpp {
                    states,
                    state,
                    until,
                }
            }
            ArrivalProcess::Diurnal {
                base, amplitude, ..
            } => Kind::Thinned {
                peak: base + amplitude,
                process,
            },
            ArrivalProcess::Square { low, high, .. } => Kind::Thinned {
                peak: low.max(high),
                process,
            },
            ArrivalProcess::Trace(trace) => Kind::Trace {
                trace,
                row: 0,
                pending: Vec::new(),
            },
            ArrivalProcess::Saturated => Kind::None,
        };
        Self {
            rng,
            end,
            now: Timestamp::ZERO,
            sent: 0,
            kind,
        }
    }

    fn next(&mut self) -> Option<Timestamp> {
        let (rng, now, end) = (&mut self.rng, self.now, self.end);
        let next = match &mut self.kind {
            // From the count, not the last arrival, so that rounding does not add up.
            Kind::Constant { rate, phase } => {
                Timestamp::ZERO + Nanos::from_secs_f64((self.sent as f64 + *phase) / *rate)
            }
            Kind::Poisson { rate } => now + gap(*rate, rng),
            Kind::Mmpp {
                states,
                state,
                until,
            } => next_modulated(states, state, until, now, end, rng),
            Kind::Thinned { process, peak } => next_thinned(process, *peak, now, end, rng),
            Kind::Trace {
                trace,
                row,
                pending,
            } => next_recorded(trace, row, pending, end, rng)?,
            Kind::None => return None,
        };
        self.now = next;
        (next < end).then_some(next)
    }
}

/// The next arrival of a modulated process after `now`, or a time not before `end`.
/// Exact: by the exponential's lack of memory, a gap cut off by a change of state may be
/// drawn anew from the change on.
fn next_modulated(
    states: &[MmppState],
    state: &mut usize,
    until: &mut Timestamp,
    mut now: Timestamp,
    end: Timestamp,
    rng: &mut ChaCha8Rng,
) -> Timestamp {
    while now < end {
        let next = now + gap(states[*state].rate, rng);
        if next < *until {
            return next;
        }
        now = *until;
        let other = rng.random_range(0..states.len() - 1);
        *state = if other < *state { other } else { other + 1 };
        *until = now + exponential(states[*state].hold, rng);
    }
    now
}

fn next_thinned(
    process: &ArrivalProcess,
    peak: f64,
    mut now: Timestamp,
    end: Timestamp,
    rng: &mut ChaCha8Rng,
) -> Timestamp {
    while now < end {
        now = now + gap(peak, rng);
        if rng.random::<f64>() * peak < rate_at(process, now) {
            break;
        }
    }
    now
}

fn next_recorded(
    trace: &Trace,
    row: &mut usize,
    pending: &mut Vec<Timestamp>,
    end: Timestamp,
    rng: &mut ChaCha8Rng,
) -> Option<Timestamp> {
    while pending.is_empty() {
        let (offset, count) = *trace.counts.get(*row)?;
        let at = Timestamp::ZERO + offset;
        if at >= end {
            return None;
        }
        *row += 1;
        let exact = count as f64 * trace.scale;
        let extra = u64::from(rng.random::<f64>() < exact.fract());
        for _ in 0..whole(exact) + extra {
            let late = trace.interval.map_or(Nanos::ZERO, |interval| {
                Nanos::new(rng.random_range(0..interval.as_nanos()))
            });
            pending.push(at + late);
        }
        pending.sort_unstable_by_key(|time| Reverse(*time));
    }
    pending.pop()
}

/// The rate of a thinned process at `now`, in requests per second.
fn rate_at(process: &ArrivalProcess, now: Timestamp) -> f64 {
    let part =
        |period: Nanos| (now.as_nanos() % period.as_nanos()) as f64 / period.as_nanos() as f64;
    match process {
        ArrivalProcess::Diurnal {
            base,
            amplitude,
            period,
        } => base + amplitude * (TAU * part(*period)).sin(),
        ArrivalProcess::Square {
            low,
            high,
            period,
            duty,
        } => {
            if part(*period) < *duty {
                *high
            } else {
                *low
            }
        }
        ArrivalProcess::Constant { rate } | ArrivalProcess::Poisson { rate } => *rate,
        ArrivalProcess::Mmpp { .. } | ArrivalProcess::Trace(_) | ArrivalProcess::Saturated => {
            unreachable!("{process:?} is not sampled by thinning")
        }
    }
}

/// A state drawn by its share of time.
fn first_state(states: &[MmppState], rng: &mut ChaCha8Rng) -> usize {
    let total: f64 = states.iter().map(|state| state.hold.as_secs_f64()).sum();
    let mut left = rng.random::<f64>() * total;
    for (index, state) in states.iter().enumerate() {
        left -= state.hold.as_secs_f64();
        if left < 0.0 {
            return index;
        }
    }
    states.len() - 1
}

/// An exponential time of the rate `rate`; for rate 0, [`Nanos::MAX`].
fn gap(rate: f64, rng: &mut ChaCha8Rng) -> Nanos {
    // 1 - u lies in (0, 1], so the logarithm is finite.
    let unit = -(1.0 - rng.random::<f64>()).ln();
    if rate > 0.0 {
        Nanos::from_secs_f64(unit / rate)
    } else {
        Nanos::MAX
    }
}

/// An exponential time of the mean `mean`.
fn exponential(mean: Nanos, rng: &mut ChaCha8Rng) -> Nanos {
    gap(1.0 / mean.as_secs_f64(), rng)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are not negative and at most MAX_RATE, checked with the process"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests;
