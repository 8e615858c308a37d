//! What neighbours of other models cost, which the points of a grid do not show, because their
//! neighbours are of the same model.

use super::subject::Subject;
use super::{End, Run, median};
use fugato_core::Nanos;
use fugato_core::profile::Beside;
use fugato_device::{AnyDevice, Neighbour, Profiler, Visit, VisitError};

/// The models that each is measured beside: the next ones in order. With all of them the time
/// would grow with the square of the models; the fit knows the others from these.
const OTHERS: usize = 3;

/// Visits of runs in a row, and runs of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turns {
    rounds: u32,
    warm_up: u32,
    legs: u32,
}

/// Of short runs: a first one brings back what the visit before has driven out of the caches.
const SHORT: Turns = Turns {
    rounds: 3,
    warm_up: 1,
    legs: 3,
};

/// Of long runs, in which that is little.
const LONG: Turns = Turns {
    rounds: 7,
    warm_up: 0,
    legs: 1,
};

/// From here on a run is a long one.
const LONG_FROM: Nanos = Nanos::from_millis(20);

impl Turns {
    fn of(run: Nanos) -> Self {
        match run < LONG_FROM {
            true => SHORT,
            false => LONG,
        }
    }

    /// Runs that are timed of each sort.
    const fn runs(self) -> u32 {
        self.rounds * self.legs
    }

    /// The order of so many sorts of visits in a round: one way and then the other, so that
    /// what rises or falls all the while does so for all sorts alike.
    fn order(round: u32, sorts: usize) -> Vec<usize> {
        match round % 2 {
            0 => (0..sorts).collect(),
            _ => (0..sorts).rev().collect(),
        }
    }
}

/// The models that the one at `index` of so many is measured beside.
fn others(index: usize, models: usize) -> impl Iterator<Item = usize> {
    (1..models)
        .map(move |step| (index + step) % models)
        .take(OTHERS)
}

impl Run {
    /// Measures each model at its smallest batch, at every share that has partitions beside it,
    /// alone and with these busy with each of some other models. What is known from an earlier
    /// run stays. `None` where all is done.
    pub(super) fn measure_beside(&mut self, stopped: &impl Fn() -> bool) -> Option<End> {
        for index in 0..self.subjects.len() {
            let subject = &self.subjects[index];
            if !subject.is_measured() {
                continue;
            }
            let others = others(index, self.subjects.len()).map(|other| &self.subjects[other]);
            let apart = |other: &&Subject| other.model.hash != subject.model.hash;
            let others: Vec<&Subject> = others
                .filter(|other| other.is_measured())
                .filter(apart)
                .collect();
            let mut found = Vec::new();
            let mut end = None;
            for visit in subject.beside_visits() {
                let others = others.iter().copied();
                let others: Vec<&Subject> = others
                    .filter(|other| !subject.is_known_beside(other, visit.share))
                    .collect();
                if others.is_empty() {
                    continue;
                }
                end = match stopped() {
                    true => Some(End::Stopped),
                    false if self.begun.elapsed() >= self.options.budget.into() => {
                        Some(End::BudgetSpent)
                    }
                    false => None,
                };
                if end.is_some() {
                    break;
                }
                let neighbours = others.iter().map(|other| other.neighbour());
                let neighbours: Vec<Neighbour> = neighbours.collect();
                let profiler = &mut self.bench.profiler;
                match compare(profiler, &visit.alone, &visit.busy, &neighbours, stopped) {
                    Ok(compared) => found.extend(visit.results(&others, &compared)),
                    Err(error) => {
                        let model = &subject.model.name;
                        tracing::debug!(model, %error, "it could not be measured beside others");
                    }
                }
            }
            self.subjects[index].add_beside(found);
            if end.is_some() {
                return end;
            }
        }
        None
    }
}

/// A share that a model is measured at beside others.
pub(super) struct BesideVisit {
    pub(super) share: u16,
    /// The other slices of the device.
    pub(super) neighbours: u16,
    pub(super) alone: Visit,
    /// What is busy with the neighbours.
    pub(super) busy: Vec<fugato_core::PartitionId>,
}

/// Medians of as many runs of each.
struct Compared {
    alone: Nanos,
    /// By neighbour; none where a run beside it failed.
    beside: Vec<Option<Nanos>>,
    runs: u32,
}

impl BesideVisit {
    fn results(&self, others: &[&Subject], compared: &Compared) -> Vec<Beside> {
        let beside = others.iter().zip(&compared.beside);
        let found = beside.filter_map(|(other, &beside)| {
            Some(Beside {
                model: other.model.name.clone(),
                hash: other.model.hash.clone(),
                batch: self.alone.batch,
                share: self.share,
                neighbour_batch: other.neighbour().batch,
                neighbours: self.neighbours,
                alone_s: compared.alone.as_secs_f64(),
                beside_s: beside?.as_secs_f64(),
                repeats: compared.runs,
            })
        });
        found.collect()
    }
}

/// Times runs alone and beside each of the neighbours, in turns. A neighbour beside which a run
/// fails is left out from there on.
///
/// # Errors
/// Where a run alone fails, or not all were made, because somebody said stop.
fn compare(
    profiler: &mut Profiler<AnyDevice>,
    alone: &Visit,
    busy: &[fugato_core::PartitionId],
    neighbours: &[Neighbour],
    stopped: &impl Fn() -> bool,
) -> Result<Compared, CompareError> {
    let first = Visit {
        warm_up: 1,
        legs: 1,
        ..alone.clone()
    };
    let first = profiler.visit(&first, || !stopped())?;
    let turns = first.first().map(|&run| Turns::of(run));
    let turns = turns.ok_or(CompareError::Stopped)?;
    let sorts = 1 + neighbours.len();
    let mut times: Vec<Option<Vec<Nanos>>> = vec![Some(Vec::new()); sorts];
    for round in 0..turns.rounds {
        for sort in Turns::order(round, sorts) {
            let Some(known) = &mut times[sort] else {
                continue;
            };
            let neighbour = sort.checked_sub(1).map(|place| neighbours[place].clone());
            let visit = Visit {
                busy: match neighbour {
                    Some(_) => busy.to_vec(),
                    None => Vec::new(),
                },
                neighbour,
                warm_up: turns.warm_up,
                legs: turns.legs,
                ..alone.clone()
            };
            match profiler.visit(&visit, || !stopped()) {
                Ok(runs) => known.extend(runs),
                Err(error) if sort == 0 => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(%error, "a run beside another model failed");
                    times[sort] = None;
                }
            }
        }
    }
    let whole = |times: &Vec<Nanos>| u32::try_from(times.len()) == Ok(turns.runs());
    if !times.iter().flatten().all(whole) {
        return Err(CompareError::Stopped);
    }
    let mut medians = times.into_iter().map(|times| median(times?));
    Ok(Compared {
        alone: medians.next().flatten().ok_or(CompareError::Stopped)?,
        beside: medians.collect(),
        runs: turns.runs(),
    })
}

/// Why a comparison says nothing.
#[derive(Debug, thiserror::Error)]
enum CompareError {
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error("it was stopped")]
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_model_has_the_next_ones_beside_it() {
        let of = |index, models| others(index, models).collect::<Vec<_>>();
        assert_eq!(of(0, 1), [0; 0]);
        assert_eq!(of(1, 2), [0]);
        assert_eq!(of(1, 3), [2, 0]);
        assert_eq!(of(5, 7), [6, 0, 1]);
        // Each is beside as many as have it beside them.
        let pairs: BTreeSet<(usize, usize)> = (0..9)
            .flat_map(|on| others(on, 9).map(move |by| (on, by)))
            .collect();
        assert_eq!(pairs.len(), 9 * OTHERS);
        for model in 0..9 {
            assert_eq!(pairs.iter().filter(|pair| pair.1 == model).count(), OTHERS);
        }
    }

    #[test]
    fn what_rises_all_the_while_rises_alike_for_all() {
        for turns in [SHORT, LONG] {
            assert_eq!(turns.runs() % 2, 1, "so that a median is a time");
            // Times that rise by one from visit to visit, of four sorts.
            let mut times = vec![Vec::new(); 4];
            let mut time = 0;
            for round in 0..turns.rounds {
                for sort in Turns::order(round, 4) {
                    times[sort].push(Nanos::new(time));
                    time += 1;
                }
            }
            let medians: Vec<u64> = times
                .into_iter()
                .map(|times| median(times).expect("some").as_nanos())
                .collect();
            let (least, most) = (medians.iter().min(), medians.iter().max());
            let apart = most.expect("four") - least.expect("four");
            assert!(apart < 4, "{medians:?}");
        }
        assert_eq!(Turns::of(Nanos::from_millis(19)), SHORT);
        assert_eq!(Turns::of(Nanos::from_millis(20)), LONG);
        assert_eq!(median(Vec::new()), None);
    }
}
