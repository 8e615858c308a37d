//! How the groups of a stage run: at once, a thread each, or one after the other, with all threads of
//! the lane.
//!
//! A plan was measured at one share and batch. At each that a model is served at, both ways take
//! turns until each was timed [`TURNS`] times; from then on it is the one of the smaller median.
//! As they take turns, what runs beside them on the device is much the same for both. At batch 1
//! that is found out while the model is loaded.

use fugato_core::Nanos;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Times of each way after which one is chosen: the median leaves out what other tasks, or memory
/// that is touched for the first time, cost some of them.
const TURNS: usize = 8;

/// How the groups of a stage run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    AtOnce,
    InTurn,
}

/// Where a stage runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    /// Counted over all legs.
    pub(super) stage: usize,
    /// Of the lane: slices of its share.
    pub(super) threads: u16,
    pub(super) rows: u32,
}

/// The ways of a model's stages of several groups.
#[derive(Debug, Default)]
pub(super) struct Ways(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    spots: HashMap<Spot, Trial>,
    /// Lanes of so many threads have no sessions for groups in turn.
    at_once_only: BTreeSet<u16>,
}

/// What is known of a spot.
#[derive(Debug)]
enum Trial {
    Open {
        at_once: Vec<Nanos>,
        in_turn: Vec<Nanos>,
    },
    Chosen(Way),
}

impl Ways {
    /// The way to run a stage now, and whether [`timed`](Self::timed) wants to know what it took.
    pub(super) fn of(&self, spot: Spot) -> (Way, bool) {
        let known = self.lock();
        if known.at_once_only.contains(&spot.threads) {
            return (Way::AtOnce, false);
        }
        match known.spots.get(&spot) {
            None => (Way::AtOnce, true),
            Some(Trial::Open { at_once, in_turn }) if in_turn.len() < at_once.len() => {
                (Way::InTurn, true)
            }
            Some(Trial::Open { .. }) => (Way::AtOnce, true),
            Some(Trial::Chosen(way)) => (*way, false),
        }
    }

    /// Takes in what a stage took; gives the way that it is run in from now on, the first time
    /// that this is known.
    pub(super) fn timed(&self, spot: Spot, way: Way, took: Nanos) -> Option<Way> {
        let mut known = self.lock();
        let trial = known.spots.entry(spot).or_insert_with(|| Trial::Open {
            at_once: Vec::with_capacity(TURNS),
            in_turn: Vec::with_capacity(TURNS),
        });
        // Of tasks side by side one may find that it was chosen meanwhile.
        let Trial::Open { at_once, in_turn } = trial else {
            return None;
        };
        match way {
            Way::AtOnce => at_once.push(took),
            Way::InTurn => in_turn.push(took),
        }
        if at_once.len().min(in_turn.len()) < TURNS {
            return None;
        }
        let way = match median(at_once) <= median(in_turn) {
            true => Way::AtOnce,
            false => Way::InTurn,
        };
        *trial = Trial::Chosen(way);
        Some(way)
    }

    /// Takes in that a stage failed in a way that was to be timed: it is not tried again where it
    /// is not the plan's.
    pub(super) fn failed(&self, spot: Spot, way: Way) {
        if way == Way::InTurn {
            (self.lock().spots).insert(spot, Trial::Chosen(Way::AtOnce));
        }
    }

    /// Takes in that lanes of so many threads cannot run groups in turn.
    pub(super) fn only_at_once(&self, threads: u16) {
        self.lock().at_once_only.insert(threads);
    }

    /// Whether a stage is being tried for which no way was chosen yet.
    pub(super) fn is_trying(&self) -> bool {
        let known = self.lock();
        let is_open = |trial: &Trial| matches!(trial, Trial::Open { .. });
        known.spots.values().any(is_open)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The upper of the two in the middle, where there are two.
fn median(times: &mut [Nanos]) -> Nanos {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPOT: Spot = Spot {
        stage: 3,
        threads: 2,
        rows: 4,
    };

    /// Runs a stage until a way is chosen, and tells the ways it ran in before.
    fn tried(ways: &Ways, spot: Spot, takes: impl Fn(Way, usize) -> u64) -> (Vec<Way>, Way) {
        let mut ran = Vec::new();
        loop {
            let (way, is_timed) = ways.of(spot);
            assert!(is_timed && ran.len() < 100, "{ran:?}");
            let took = Nanos::from_micros(takes(way, ran.len()));
            ran.push(way);
            if let Some(chosen) = ways.timed(spot, way, took) {
                assert_eq!(ways.of(spot), (chosen, false));
                return (ran, chosen);
            }
        }
    }

    #[test]
    fn the_faster_way_stays_after_both_took_turns() {
        let ways = Ways::default();
        let (ran, chosen) = tried(&ways, SPOT, |way, _| match way {
            Way::AtOnce => 120,
            Way::InTurn => 100,
        });
        assert_eq!(chosen, Way::InTurn);
        assert_eq!(ran.len(), 2 * TURNS);
        let (even, odd): (Vec<_>, Vec<_>) = (0..ran.len()).partition(|run| run % 2 == 0);
        assert!(
            even.into_iter().all(|run| ran[run] == Way::AtOnce),
            "{ran:?}"
        );
        assert!(
            odd.into_iter().all(|run| ran[run] == Way::InTurn),
            "{ran:?}"
        );
    }

    #[test]
    fn a_plan_stays_as_it_is_where_neither_way_is_faster() {
        assert_eq!(tried(&Ways::default(), SPOT, |_, _| 100).1, Way::AtOnce);
    }

    #[test]
    fn a_few_runs_that_were_held_up_decide_nothing() {
        let held_up = |way, run| match (way, run) {
            (Way::AtOnce, 0..=5) => 9_000,
            (Way::AtOnce, _) => 100,
            (Way::InTurn, _) => 120,
        };
        assert_eq!(tried(&Ways::default(), SPOT, held_up).1, Way::AtOnce);
    }

    #[test]
    fn each_share_and_batch_has_a_way_of_its_own() {
        let ways = Ways::default();
        let in_turn = |way, _: usize| match way {
            Way::AtOnce => 2,
            Way::InTurn => 1,
        };
        assert_eq!(tried(&ways, SPOT, in_turn).1, Way::InTurn);
        for other in [
            Spot { stage: 4, ..SPOT },
            Spot { threads: 4, ..SPOT },
            Spot { rows: 1, ..SPOT },
        ] {
            assert_eq!(ways.of(other), (Way::AtOnce, true), "{other:?}");
        }
    }

    #[test]
    fn a_way_that_fails_is_not_tried_again() {
        let ways = Ways::default();
        assert_eq!(ways.timed(SPOT, Way::AtOnce, Nanos::from_micros(3)), None);
        assert!(ways.is_trying());
        assert_eq!(ways.of(SPOT), (Way::InTurn, true));
        ways.failed(SPOT, Way::InTurn);
        assert_eq!(ways.of(SPOT), (Way::AtOnce, false));
        assert!(!ways.is_trying());
    }

    #[test]
    fn lanes_without_sessions_for_it_never_run_groups_in_turn() {
        let ways = Ways::default();
        ways.only_at_once(SPOT.threads);
        assert_eq!(ways.of(SPOT), (Way::AtOnce, false));
        assert!(ways.of(Spot { threads: 4, ..SPOT }).1);
    }

    #[test]
    fn tasks_side_by_side_may_both_be_timed() {
        let ways = Ways::default();
        let at_once = ways.of(SPOT);
        assert_eq!(ways.of(SPOT), at_once, "nothing was told of the first yet");
        for _ in 0..2 * TURNS {
            ways.timed(SPOT, Way::AtOnce, Nanos::from_micros(3));
        }
        for _ in 1..TURNS {
            assert_eq!(ways.of(SPOT), (Way::InTurn, true));
            ways.timed(SPOT, Way::InTurn, Nanos::from_micros(2));
        }
        let last = ways.timed(SPOT, Way::InTurn, Nanos::from_micros(2));
        assert_eq!(last, Some(Way::InTurn));
        assert_eq!(ways.timed(SPOT, Way::AtOnce, Nanos::from_micros(1)), None);
        assert_eq!(ways.of(SPOT), (Way::InTurn, false));
    }
}
