//! Which point of a model's surface to measure next, and what was found.
//!
//! [`Survey`] is pure: its owner asks [`Survey::next`], runs the legs on whatever device
//! it has, and hands their times to [`Survey::record`]. Points are visited in rounds, a
//! few legs at a time, so that a phase of noise falls on all of them alike and shows in
//! their intervals. Once every point has [`SurveyOptions::visits_min`] visits, only
//! points are visited on which a knee or an optimum still hangs ([`Survey::focus`]).
//!
//! **Invariant:** a point that failed, or that was taken over as it stands, is never
//! wanted.

use super::file::{Candidate, GridPoint, ModelProfile, Optimum, PointKey, Times};
use super::interval::summarise;
use crate::time::Nanos;
use std::cell::OnceCell;
use std::collections::BTreeSet;

/// Legs of at least this length carry their own warm-up: what a cold cache adds to one is
/// below 1 %.
const LONG: Nanos = Nanos::from_millis(20);

/// Legs left out when a session first runs at a batch size: the first sizes the runtime's
/// arenas, the second may still find pages cold. A long leg is left out once.
const FIRST_WARM_UP: u32 = 2;

/// The width of a median's interval, as a fraction of the median, from which on more
/// visits are not worth their time: two points that differ by less may count as equal.
const NARROW: f64 = 0.01;

/// How thoroughly a survey looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyOptions {
    /// The time that the timed legs of one visit are meant to take together. One leg is
    /// always run, however long.
    pub visit: Nanos,
    /// The most legs timed in one visit, at least 1.
    pub legs_max: u32,
    /// Visits of every point.
    pub visits_min: u32,
    /// The most visits of a point that something hangs on.
    pub visits_max: u32,
    /// Seed of the intervals' bootstrap.
    pub seed: u64,
}

impl Default for SurveyOptions {
    fn default() -> Self {
        Self {
            // Ten time slices of the operating system, and long enough that going from
            // point to point is a small part of a survey.
            visit: Nanos::from_millis(30),
            legs_max: 16,
            // From here on the interval rests on resampling.
            visits_min: 5,
            visits_max: 60,
            seed: 0,
        }
    }
}

/// A visit that a survey asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The point.
    pub point: PointKey,
    /// Visits that the point has had: lower ones are more urgent.
    pub visits: u32,
    /// Legs to run first, whose times do not count.
    pub warm_up: u32,
    /// Legs to time, at least 1.
    pub legs: u32,
    /// How long the visit takes, as far as anything says so.
    pub expected: Option<Nanos>,
}

/// The survey of one model's surface.
#[derive(Clone, Debug)]
pub struct Survey {
    options: SurveyOptions,
    points: Vec<Point>,
    /// The points that a decision hangs on.
    open: BTreeSet<PointKey>,
}

#[derive(Clone, Debug)]
struct Point {
    key: PointKey,
    /// Times of legs in nanoseconds, by visit.
    visits: Vec<Vec<u64>>,
    /// The last visits of them, which were made by this very survey.
    own: u32,
    state: State,
    /// What the visits come to, once somebody has asked.
    summary: OnceCell<Option<Times>>,
}

impl Point {
    fn times(&self, seed: u64) -> Option<Times> {
        *self.summary.get_or_init(|| summarise(&self.visits, seed))
    }

    fn is_narrow(&self, seed: u64) -> bool {
        let times = self.times(seed);
        times.is_some_and(|times| times.high_s - times.low_s < NARROW * times.median_s)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Measured,
    Failed(String),
    /// Taken over without the times behind it.
    Kept(GridPoint),
}

impl Survey {
    /// A survey of all `batches` at all `shares` of a device of `slices` slices: alone,
    /// and with all other slices busy where there are any.
    #[must_use]
    pub fn new(batches: &[u32], shares: &[u16], slices: u16, options: SurveyOptions) -> Self {
        let mut points = Vec::new();
        for &batch in batches {
            for &share in shares {
                let others = slices.saturating_sub(share);
                let busy = (others > 0).then_some(others);
                for neighbours in std::iter::once(0).chain(busy) {
                    let key = PointKey {
                        batch,
                        share,
                        neighbours,
                    };
                    points.push(Point {
                        key,
                        visits: Vec::new(),
                        own: 0,
                        state: State::Measured,
                        summary: OnceCell::new(),
                    });
                }
            }
        }
        Self {
            options,
            points,
            open: BTreeSet::new(),
        }
    }

    /// Goes on from the times of an earlier survey. A point that this one does not have
    /// is left out. The times have passed [`check_samples`](super::check_samples).
    pub fn resume(&mut self, point: PointKey, visits: Vec<Vec<u64>>) {
        if let Some(point) = self.find(point) {
            point.visits = visits;
            point.visits.retain(|legs| !legs.is_empty());
            point.summary.take();
        }
    }

    /// Takes a point over as it stands: it failed, or the times behind it are gone.
    pub fn keep(&mut self, found: GridPoint) {
        if let Some(point) = self.find(found.key()) {
            point.state = match &found.failed {
                Some(reason) => State::Failed(reason.clone()),
                None => State::Kept(found),
            };
        }
    }

    fn find(&mut self, key: PointKey) -> Option<&mut Point> {
        self.points.iter_mut().find(|point| point.key == key)
    }

    /// Takes in the times of a visit's legs.
    pub fn record(&mut self, point: PointKey, legs: &[Nanos]) {
        if let Some(point) = self.find(point)
            && !legs.is_empty()
        {
            // A time of zero is one below the clock's step.
            let nanos = legs.iter().map(|leg| leg.as_nanos().max(1));
            point.visits.push(nanos.collect());
            point.own += 1;
            point.summary.take();
        }
    }

    /// Takes in that the model cannot be run at a point; it is not tried again.
    pub fn fail(&mut self, point: PointKey, reason: impl Into<String>) {
        if let Some(point) = self.find(point) {
            point.state = State::Failed(reason.into());
        }
    }

    /// Takes in what was concluded from [`Survey::grid`]: points that a knee or an optimum
    /// hangs on are visited on, others only as often as all are.
    pub fn focus(&mut self, concluded: &ModelProfile) {
        let undecided = |key: PointKey| {
            let mut knees = concluded.knees.iter();
            let is_open =
                knees.any(|knee| knee.batch == key.batch && !knee.undecided_by.is_empty());
            is_open && key.neighbours == 0
        };
        let contested = |optimum: &Optimum, key: PointKey| {
            let place = Candidate {
                batch: key.batch,
                share: key.share,
            };
            optimum.point().is_some_and(|best| {
                let is_best = (best.batch, best.share) == (place.batch, place.share);
                !best.rivals.is_empty() && (is_best || best.rivals.contains(&place))
            })
        };
        let optima = &concluded.optima;
        let keys = self.points.iter().map(|point| point.key);
        let open = keys.filter(|&key| {
            let is_full = key.neighbours == self.busiest(key.share);
            undecided(key)
                || (key.neighbours == 0 && contested(&optima.efficacy, key))
                // Work is judged on a full device.
                || (is_full && contested(&optima.work, key))
        });
        self.open = open.collect();
    }

    /// The most neighbours that a share is measured beside.
    fn busiest(&self, share: u16) -> u16 {
        let points = self.points.iter().filter(|point| point.key.share == share);
        points.map(|point| point.key.neighbours).max().unwrap_or(0)
    }

    /// The visit to make next: that of the point with the fewest; `None` where nothing is
    /// left that is worth its time. In every second round points come in reverse, so that
    /// a drift favours none.
    #[must_use]
    pub fn next(&self) -> Option<Wanted> {
        let pending = self.points.iter().filter(|point| self.is_pending(point));
        let fewest = pending.clone().map(|point| point.visits.len()).min()?;
        let mut round = pending.filter(|point| point.visits.len() == fewest);
        let next = if fewest % 2 == 0 {
            round.next()
        } else {
            round.next_back()
        };
        next.map(|point| self.visit(point))
    }

    fn is_pending(&self, point: &Point) -> bool {
        if point.state != State::Measured {
            return false;
        }
        let visits = count(point.visits.len());
        visits < self.options.visits_min
            || (visits < self.options.visits_max
                && self.open.contains(&point.key)
                && !point.is_narrow(self.options.seed))
    }

    fn visit(&self, point: &Point) -> Wanted {
        let typical = self.typical(point);
        let is_long = typical.is_some_and(|typical| typical >= LONG);
        // Whether neighbours are busy makes no difference to what a session has to lay out.
        let is_first = !self.points.iter().any(|other| {
            (other.key.batch, other.key.share) == (point.key.batch, point.key.share)
                && other.own > 0
        });
        let warm_up = match (is_first, is_long) {
            (true, true) => 1,
            (true, false) => FIRST_WARM_UP,
            (false, true) => 0,
            (false, false) => 1,
        };
        let fit = typical.map_or(1, |typical| {
            self.options.visit.as_nanos() / typical.as_nanos().max(1)
        });
        let legs = u32::try_from(fit).unwrap_or(u32::MAX);
        let legs = legs.clamp(1, self.options.legs_max.max(1));
        Wanted {
            point: point.key,
            visits: count(point.visits.len()),
            warm_up,
            legs,
            expected: typical.map(|typical| typical.times(u64::from(legs + warm_up))),
        }
    }

    /// How long a leg at the point takes: the last visit's median, or in proportion from
    /// the nearest smaller batch of the same share; `None` where neither is known.
    fn typical(&self, point: &Point) -> Option<Nanos> {
        let last = |point: &Point| {
            let mut legs = point.visits.last()?.clone();
            legs.sort_unstable();
            legs.get(legs.len() / 2).copied()
        };
        if let Some(nanos) = last(point) {
            return Some(Nanos::new(nanos));
        }
        let smaller = self.points.iter().filter(|other| {
            other.key.share == point.key.share
                && other.key.batch <= point.key.batch
                && !other.visits.is_empty()
        });
        let nearest = smaller.max_by_key(|other| other.key.batch)?;
        let nanos = Nanos::new(last(nearest)?);
        Some(nanos.scaled(
            u64::from(point.key.batch),
            u64::from(nearest.key.batch.max(1)),
        ))
    }

    /// The number of points.
    #[must_use]
    pub fn points(&self) -> usize {
        self.points.len()
    }

    /// Whether every point has had its visits, failed, or was taken over.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.uncovered() == 0
    }

    /// The number of points that have not had all of [`SurveyOptions::visits_min`].
    #[must_use]
    pub fn uncovered(&self) -> usize {
        let short = |point: &&Point| {
            point.state == State::Measured && count(point.visits.len()) < self.options.visits_min
        };
        self.points.iter().filter(short).count()
    }

    /// How long it takes until every point has had its visits, as far as anything says so:
    /// points of which nothing is known count as nothing.
    #[must_use]
    pub fn left(&self) -> Nanos {
        let of = |point: &Point| {
            let visits = count(point.visits.len());
            let missing = self.options.visits_min.saturating_sub(visits);
            let expected = self.visit(point).expected?;
            (point.state == State::Measured).then(|| expected.times(u64::from(missing)))
        };
        let nanos = self.points.iter().filter_map(of);
        nanos.fold(Nanos::default(), |sum, nanos| sum + nanos)
    }

    /// What was found at each point that was measured, failed, or was taken over.
    #[must_use]
    pub fn grid(&self) -> Vec<GridPoint> {
        let of = |point: &Point| {
            let PointKey {
                batch,
                share,
                neighbours,
            } = point.key;
            let empty = GridPoint {
                batch,
                share,
                neighbours,
                median_s: None,
                p95_s: None,
                low_s: None,
                high_s: None,
                repeats: 0,
                failed: None,
            };
            match &point.state {
                State::Kept(found) => Some(found.clone()),
                State::Failed(reason) => Some(GridPoint {
                    failed: Some(reason.clone()),
                    ..empty
                }),
                State::Measured => point.times(self.options.seed).map(|times| GridPoint {
                    median_s: Some(times.median_s),
                    p95_s: Some(times.p95_s),
                    low_s: Some(times.low_s),
                    high_s: Some(times.high_s),
                    repeats: count(point.visits.iter().map(Vec::len).sum()),
                    ..empty
                }),
            }
        };
        self.points.iter().filter_map(of).collect()
    }

    /// The times of legs of each point that has any, in nanoseconds by visit: what
    /// [`Survey::resume`] takes.
    pub fn visits(&self) -> impl Iterator<Item = (PointKey, &[Vec<u64>])> {
        let measured = |point: &&Point| point.state == State::Measured && !point.visits.is_empty();
        let points = self.points.iter().filter(measured);
        points.map(|point| (point.key, point.visits.as_slice()))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
