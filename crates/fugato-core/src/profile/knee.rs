//! The knee: the smallest share that is enough, by three definitions.
//!
//! | definition | the share | the paper's word |
//! |---|---|---|
//! | tolerance | the smallest whose latency is within a tolerance (5 %) of the best | "latency does not improve appreciably" |
//! | efficacy | the one of largest `batch / (latency^2 x share)` | `eta` at a fixed batch |
//! | chord | the one farthest below the line from the first share to the last | none; the usual geometric knee |
//!
//! They differ by 2 to 5 times on the same curve, so each result carries its name.
//!
//! Measured latencies are intervals. A share *may* be the knee where some latencies within
//! the intervals make it so, and *must* be where all do. The knee is the smallest share
//! that may be; it is decided where that share must be. So latency that rises with the
//! share gives the smaller share, and so do intervals that overlap, marked undecided.

use super::file::{Knee, KneeRule};

/// One share of a curve of latency over share, at one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// Slices.
    pub share: u16,
    /// The median latency, in seconds.
    pub median_s: f64,
    /// Lower end of the median's interval, in seconds.
    pub low_s: f64,
    /// Upper end of the median's interval, in seconds.
    pub high_s: f64,
}

/// The knee by each definition, and which of them are undecided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KneeFound {
    /// The knee, in slices.
    pub knee: Knee,
    /// The definitions whose knee rests on intervals that overlap, or that too few shares
    /// were measured for.
    pub undecided_by: Vec<KneeRule>,
}

/// Finds the knee of a curve whose shares are distinct, in any order.
///
/// A curve of one share has no knee: tolerance and efficacy are `None` and undecided. The
/// chord of two shares has no point below it: with fewer than three it is `None`, which is
/// no indecision, because on a device of two slices no measurement could change it.
///
/// # Cost
/// Quadratic in the shares.
#[must_use]
pub fn knee(curve: &[CurvePoint], tolerance: f64) -> KneeFound {
    let mut rising = curve.to_vec();
    rising.sort_by_key(|point| point.share);
    let mut found = KneeFound::default();
    if rising.len() < 2 {
        found.undecided_by = vec![KneeRule::Tolerance, KneeRule::Efficacy];
        return found;
    }
    let rules: [(KneeRule, Option<Verdict>); 3] = [
        (KneeRule::Tolerance, Some(by_tolerance(&rising, tolerance))),
        (KneeRule::Efficacy, Some(by_efficacy(&rising))),
        (KneeRule::Chord, by_chord(&rising)),
    ];
    for (rule, verdict) in rules {
        let share = verdict.map(|verdict| verdict.share);
        match rule {
            KneeRule::Tolerance => found.knee.tolerance = share,
            KneeRule::Efficacy => found.knee.efficacy = share,
            KneeRule::Chord => found.knee.chord = share,
        }
        if verdict.is_some_and(|verdict| !verdict.decided) {
            found.undecided_by.push(rule);
        }
    }
    found
}

#[derive(Clone, Copy)]
struct Verdict {
    share: u16,
    decided: bool,
}

/// The smallest share that may be the knee, decided where it must be.
fn smallest(
    curve: &[CurvePoint],
    may: impl Fn(usize) -> bool,
    must: impl Fn(usize) -> bool,
) -> Verdict {
    // Some share always may be: the one that is by the medians.
    let index = (0..curve.len()).find(|&index| may(index)).unwrap_or(0);
    Verdict {
        share: curve[index].share,
        decided: must(index),
    }
}

fn others(curve: &[CurvePoint], index: usize) -> impl Iterator<Item = &CurvePoint> {
    let others = curve.iter().enumerate();
    others.filter_map(move |(other, point)| (other != index).then_some(point))
}

fn by_tolerance(curve: &[CurvePoint], tolerance: f64) -> Verdict {
    let enough = 1.0 + tolerance;
    smallest(
        curve,
        |index| others(curve, index).all(|other| curve[index].low_s <= enough * other.high_s),
        |index| others(curve, index).all(|other| curve[index].high_s <= enough * other.low_s),
    )
}

fn by_efficacy(curve: &[CurvePoint]) -> Verdict {
    // The batch is the same everywhere: the largest efficacy is the least of these.
    let cost = |latency_s: f64, share: u16| latency_s * latency_s * f64::from(share);
    smallest(
        curve,
        |index| {
            let least = cost(curve[index].low_s, curve[index].share);
            others(curve, index).all(|other| least <= cost(other.high_s, other.share))
        },
        |index| {
            let most = cost(curve[index].high_s, curve[index].share);
            others(curve, index).all(|other| most <= cost(other.low_s, other.share))
        },
    )
}

/// `None` with fewer than three shares.
fn by_chord(curve: &[CurvePoint]) -> Option<Verdict> {
    let [first, .., last] = curve else {
        return None;
    };
    if curve.len() < 3 {
        return None;
    }
    // Past the least latency there is nothing to gain, however far below the chord.
    let mut best = 0;
    for (index, point) in curve.iter().enumerate() {
        if point.median_s < curve[best].median_s {
            best = index;
        }
    }
    let falling = &curve[..=best];
    let width = f64::from(last.share - first.share);
    let below = |point: &CurvePoint, latency_s: f64| {
        let along = f64::from(point.share - first.share) / width;
        first.median_s + (last.median_s - first.median_s) * along - latency_s
    };
    Some(smallest(
        falling,
        |index| {
            let most = below(&falling[index], falling[index].low_s);
            others(falling, index).all(|other| most >= below(other, other.high_s))
        },
        |index| {
            let least = below(&falling[index], falling[index].high_s);
            others(falling, index).all(|other| least >= below(other, other.low_s))
        },
    ))
}
