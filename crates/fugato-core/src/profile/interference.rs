//! How models slow each other: one number for what each waits, one for what each makes others
//! wait, from pairs that ran beside each other.
//!
//! # Source
//! The linear form of interference models of co-located inference: the part that `on` takes
//! longer with all other slices busy with `by` is `sensitivity[on] * demand[by]`, a matrix of
//! rank one. It is fitted by alternating least squares, whose every step is exact and keeps the
//! numbers at 0 or above. So n models need a few measurements each and not n^2.
//!
//! **Invariant:** the same pairs in the same order give the same numbers, to the bit, in the
//! same binary.

use super::file::{Interference, ModelProfile, Profile};

/// Rounds of the fit. Where all pairs are there a few are enough; of a ring of 30 models, each
/// beside its next three, a pair that was not measured is off by 5 % of the time after 100
/// rounds and by less than a thousandth after 800.
const ROUNDS: usize = 3_200;

/// A change of all numbers below this part of them ends the fit.
const SETTLED: f64 = 1e-12;

/// A product of sensitivity and demand below this is none: a millionth of a run's time.
const NONE: f64 = 1e-6;

/// What points of a grid may have of a model's sensitivity and demand: within these factors a
/// batch, a share or a leg differs from the one that was measured.
const STRENGTH: (f64, f64) = (0.5, 2.0);

/// The most that a run may take longer, as a part of its time alone; what is above is a mistake
/// of units.
const CONTENTION_MAX: f64 = 256.0;

/// How much longer a run takes beside one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contention {
    /// The model that runs, as a place in a list.
    pub on: usize,
    /// The model that all other slices are busy with, likewise; itself, too.
    pub by: usize,
    /// How much longer it takes, as a part of its time alone; below 0 by noise.
    pub longer: f64,
}

impl Interference {
    /// Of a model of which only this is known: what its own kind makes it take longer, as a part
    /// of its time alone.
    #[must_use]
    pub fn of_own_kind(longer: f64) -> Self {
        let part = longer.max(0.0).sqrt();
        Self {
            sensitivity: part,
            demand: part,
        }
    }

    /// What a batch, a share or a leg has of it that its own kind makes take `longer`: so many
    /// times as much of both, from half to twice. All of it where that is not known, or where
    /// the model does not slow its own kind.
    #[must_use]
    pub fn at(self, longer: Option<f64>) -> Self {
        let times = self.strength(longer);
        Self {
            sensitivity: self.sensitivity * times,
            demand: self.demand * times,
        }
    }

    /// How many times as much of both [`at`](Self::at) has.
    pub(super) fn strength(self, longer: Option<f64>) -> f64 {
        let own = self.sensitivity * self.demand;
        let (least, most) = STRENGTH;
        match longer {
            Some(longer) if own > NONE => (longer.max(0.0) / own).sqrt().clamp(least, most),
            Some(_) | None => 1.0,
        }
    }
}

/// Fits the sensitivity and the demand of so many `models` to what was measured of them; `None`
/// for those of which one of the two was not. Places beyond the list and what is no number are
/// left out.
///
/// # Cost
/// At most some thousand passes over the pairs.
#[must_use]
pub fn interference(models: usize, pairs: &[Contention]) -> Vec<Option<Interference>> {
    let mut pairs = pairs.to_vec();
    pairs.retain(|pair| pair.on.max(pair.by) < models && pair.longer.is_finite());
    let mut fit = Alternation::new(models, &pairs);
    for _ in 0..ROUNDS {
        if fit.round(&pairs) <= SETTLED {
            break;
        }
    }
    fit.balance(&pairs);
    let mut known = vec![(false, false); models];
    for pair in &pairs {
        known[pair.on].0 = true;
        known[pair.by].1 = true;
    }
    let numbers = fit.sensitivity.into_iter().zip(fit.demand);
    let found = numbers.zip(known).map(|((sensitivity, demand), known)| {
        let found = Interference {
            sensitivity,
            demand,
        };
        (known == (true, true)).then_some(found)
    });
    found.collect()
}

/// The numbers that are fitted, by model.
struct Alternation {
    sensitivity: Vec<f64>,
    demand: Vec<f64>,
}

impl Alternation {
    /// Begins with the mean that each model makes others take longer. From numbers above 0 the
    /// steps lead to the best ones where all pairs are there.
    fn new(models: usize, pairs: &[Contention]) -> Self {
        let (mut sums, mut counts) = (vec![0.0; models], vec![0.0; models]);
        for pair in pairs {
            sums[pair.by] += pair.longer.max(0.0);
            counts[pair.by] += 1.0;
        }
        let means = sums.iter().zip(&counts).map(|(sum, count)| match *count {
            0.0 => 0.0,
            count => sum / count,
        });
        Self {
            sensitivity: vec![0.0; models],
            demand: means.collect(),
        }
    }

    /// The best sensitivities to these demands, then the best demands to those. Gives the
    /// largest change, as a part of the largest number.
    fn round(&mut self, pairs: &[Contention]) -> f64 {
        let step = |from: &[f64], pick: fn(&Contention) -> (usize, usize)| {
            let (mut sums, mut squares) = (vec![0.0; from.len()], vec![0.0; from.len()]);
            for pair in pairs {
                let (to, other) = pick(pair);
                sums[to] += pair.longer * from[other];
                squares[to] += from[other] * from[other];
            }
            let best = sums.iter().zip(&squares).map(|(sum, square)| {
                // Beside models that demand nothing, nothing tells.
                match *square > 0.0 {
                    true => (sum / square).max(0.0),
                    false => 0.0,
                }
            });
            best.collect::<Vec<f64>>()
        };
        let sensitivity = step(&self.demand, |pair| (pair.on, pair.by));
        let demand = step(&sensitivity, |pair| (pair.by, pair.on));
        let changes = [(&sensitivity, &self.sensitivity), (&demand, &self.demand)];
        let change = changes.map(|(new, old)| {
            let largest = new.iter().copied().fold(0.0, f64::max);
            let apart = new.iter().zip(old).map(|(new, old)| (new - old).abs());
            match largest > 0.0 {
                true => apart.fold(0.0, f64::max) / largest,
                false => 0.0,
            }
        });
        (self.sensitivity, self.demand) = (sensitivity, demand);
        change[0].max(change[1])
    }

    /// Makes the squares of the sensitivities as large together as those of the demands: in each
    /// set of numbers that pairs bind, since a factor between the two changes nothing in it. By
    /// squares, so that a number that is 0 but for noise changes nothing, either.
    fn balance(&mut self, pairs: &[Contention]) {
        let models = self.demand.len();
        // Sensitivities first, then demands; a number of 0 binds nothing.
        let mut sets: Vec<usize> = (0..2 * models).collect();
        for pair in pairs {
            if self.sensitivity[pair.on] * self.demand[pair.by] > 0.0 {
                let (one, other) = (root(&sets, pair.on), root(&sets, models + pair.by));
                sets[one.max(other)] = one.min(other);
            }
        }
        let roots: Vec<usize> = (0..2 * models).map(|place| root(&sets, place)).collect();
        // By root: the squares of each of the two.
        let mut squares = vec![(0.0_f64, 0.0_f64); 2 * models];
        for (place, &root) in roots.iter().enumerate() {
            match place < models {
                true => squares[root].0 += self.sensitivity[place].powi(2),
                false => squares[root].1 += self.demand[place - models].powi(2),
            }
        }
        let factor = |place: usize| {
            let (sensitivity, demand) = squares[roots[place]];
            match sensitivity > 0.0 && demand > 0.0 {
                true => (demand / sensitivity).sqrt().sqrt(),
                false => 1.0,
            }
        };
        let factors: Vec<f64> = (0..2 * models).map(factor).collect();
        let (up, down) = factors.split_at(models);
        for (value, factor) in self.sensitivity.iter_mut().zip(up) {
            *value *= factor;
        }
        for (value, factor) in self.demand.iter_mut().zip(down) {
            *value /= factor;
        }
    }
}

/// The first place of the set that a place is in.
fn root(sets: &[usize], mut place: usize) -> usize {
    while sets[place] != place {
        place = sets[place];
    }
    place
}

impl ModelProfile {
    /// Of each other model of a list that it was measured beside, by place: how much longer it
    /// takes, as a part of its time alone, with all other slices of `slices` busy; one entry
    /// per share.
    fn beside_others<'a>(
        &'a self,
        models: &'a [Self],
        slices: u16,
    ) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.beside.iter().filter_map(move |beside| {
            let mut models = models.iter();
            let by = models.position(|other| {
                (&other.name, &other.hash) == (&beside.model, &beside.hash)
                    && other.hash != self.hash
            })?;
            let times = (beside.alone_s, beside.beside_s);
            let busy = (beside.share, beside.neighbours);
            Some((by, longer(times, busy, slices)))
        })
    }

    /// The same beside itself, at the smallest batch that was measured so: one entry per share.
    fn beside_itself(&self, slices: u16) -> Vec<f64> {
        let busy = self.grid.iter().filter(|point| point.neighbours > 0);
        let found = busy.filter_map(|point| {
            let alone = self.point(super::PointKey {
                neighbours: 0,
                ..point.key()
            })?;
            let times = (alone.times()?.median_s, point.times()?.median_s);
            let longer = longer(times, (point.share, point.neighbours), slices);
            Some((point.batch, longer))
        });
        let found: Vec<(u32, f64)> = found.collect();
        let least = found.iter().map(|(batch, _)| *batch).min();
        let found = found.into_iter();
        let found = found.filter(|(batch, _)| Some(*batch) == least);
        found.map(|(_, longer)| longer).collect()
    }
}

/// How much longer a run takes with all other slices busy, as a part of its time alone, from
/// what it takes with some of them.
fn longer((alone_s, beside_s): (f64, f64), (share, neighbours): (u16, u16), slices: u16) -> f64 {
    let others = f64::from(slices.saturating_sub(share).max(neighbours));
    let longer = (beside_s / alone_s - 1.0) * others / f64::from(neighbours.max(1));
    longer.min(CONTENTION_MAX)
}

impl Profile {
    /// How much longer its models take beside each other, by places in its list: each pair that
    /// was measured, once per share. Those of a model beside itself are of models that were
    /// measured beside others.
    #[must_use]
    pub fn contentions(&self) -> Vec<Contention> {
        let slices = self.device.slices;
        let mut found = Vec::new();
        for (on, model) in self.models.iter().enumerate() {
            let others = model.beside_others(&self.models, slices);
            found.extend(others.map(|(by, longer)| Contention { on, by, longer }));
        }
        let mut paired = vec![false; self.models.len()];
        for pair in &found {
            paired[pair.on] = true;
            paired[pair.by] = true;
        }
        for (on, model) in self.models.iter().enumerate() {
            if paired[on] {
                let own = model.beside_itself(slices).into_iter();
                found.extend(own.map(|longer| Contention { on, by: on, longer }));
            }
        }
        found
    }

    /// Concludes how its models slow each other from what was measured of pairs of them; of a
    /// model of which nothing was, nothing is.
    pub fn conclude_interference(&mut self) {
        let found = interference(self.models.len(), &self.contentions());
        for (model, found) in self.models.iter_mut().zip(found) {
            model.interference = found;
        }
    }
}

#[cfg(test)]
mod tests;
