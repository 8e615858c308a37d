//! What is asked of the loads that policies hold on a mix, and whether they do.
//!
//! A search that is not at its end bounds what is held too: what was held from below, what was not
//! from above. So many an aim is answered before all of its searches are.

use super::{BASELINE, Held, MixFound, OURS, Way};
use serde_json::{Value, json};

/// How many times the load of `temporal` `dstack` holds.
const TWICE: f64 = 2.0;

/// The part of what `ideal` holds in simulation that ours holds.
const NEAR: f64 = 0.9;

/// Something that is asked on every mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gpu_check::served) enum Aim {
    /// Ours holds as much as no control.
    AsBaseline,
    /// `dstack` holds twice as much as `temporal`.
    TwiceTemporal,
    /// Ours holds as much as each of the others.
    Best,
    /// Ours holds nearly what `ideal` holds in simulation.
    NearIdeal,
}

impl Aim {
    /// All.
    pub(in crate::gpu_check::served) const ALL: [Self; 4] = [
        Self::AsBaseline,
        Self::TwiceTemporal,
        Self::Best,
        Self::NearIdeal,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::AsBaseline => "ours_as_baseline",
            Self::TwiceTemporal => "dstack_twice_temporal",
            Self::Best => "ours_as_best",
            Self::NearIdeal => "ours_near_ideal",
        }
    }

    /// Whether the mix meets it. Loads of which one is at most `tolerance` above the other are
    /// not told apart by a search, and count as the same where equal is enough.
    pub(super) fn judge(self, mix: &MixFound, policies: &[String], tolerance: f64) -> Claim {
        let (outcome, words) = match self {
            Self::AsBaseline => compared(mix, (OURS, 1.0, BASELINE), tolerance),
            Self::TwiceTemporal => compared(mix, ("dstack", TWICE, "temporal"), 0.0),
            Self::Best => best(mix, policies, tolerance),
            Self::NearIdeal => near_ideal(mix),
        };
        Claim {
            aim: self,
            outcome,
            words,
        }
    }
}

/// Whether an aim is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Holds,
    Misses,
    /// What was measured does not tell.
    Open,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Misses => "misses",
            Self::Open => "open",
        }
    }
}

/// An aim on a mix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim {
    pub(super) aim: Aim,
    pub(super) outcome: Outcome,
    /// With the figures.
    words: String,
}

impl Claim {
    pub(super) fn words(&self) -> String {
        format!("{}: {}", self.outcome.name(), self.words)
    }

    pub(super) fn facts(&self) -> Value {
        json!({
            "aim": self.aim.name(),
            "answer": self.outcome.name(),
            "words": self.words,
        })
    }
}

/// What is known of the load that a policy holds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bounds {
    /// So much was held; 0: nothing.
    low: f64,
    /// No more than this is held; `None`: not known.
    high: Option<f64>,
}

impl Bounds {
    const UNKNOWN: Self = Self {
        low: 0.0,
        high: None,
    };

    fn exactly(load: f64) -> Self {
        Self {
            low: load,
            high: Some(load),
        }
    }

    fn of(held: &Held) -> Self {
        let low = held.measured.holds.unwrap_or(0.0);
        let high = match held.is_settled && low == 0.0 {
            true => Some(0.0),
            false => held.measured.fails,
        };
        Self { low, high }
    }

    /// As a search at its end counts where loads that it does not tell apart are the same.
    fn rounded(held: &Held) -> Self {
        match held.is_settled {
            true => Self::exactly(held.measured.holds.unwrap_or(0.0)),
            false => Self::of(held),
        }
    }

    /// Of a policy on a mix: the better of the ways in which it was tried, and no upper bound
    /// while it is to be tried in another.
    fn on(mix: &MixFound, policy: &str, tolerance: f64) -> Self {
        let tried = mix.held.iter().filter(|held| held.policy == policy);
        let better = |one: Self, other: Self| Self {
            low: one.low.max(other.low),
            high: one.high.zip(other.high).map(|(one, other)| one.max(other)),
        };
        let of = match tolerance > 0.0 {
            true => Self::rounded,
            false => Self::of,
        };
        let found = tried.map(of).reduce(better).unwrap_or(Self::UNKNOWN);
        match mix.is_due(policy, Way::InLegs) {
            true => Self {
                high: None,
                ..found
            },
            false => found,
        }
    }

    /// Whether this is at least so many times the other.
    fn at_least(self, factor: f64, other: Self, tolerance: f64) -> Outcome {
        let room = 1.0 + tolerance;
        // Where not even the smallest load was held, something else is wrong.
        if self.high == Some(0.0) {
            return Outcome::Misses;
        }
        let is_above = other
            .high
            .is_some_and(|high| self.low * room >= factor * high);
        let is_below = self
            .high
            .is_some_and(|high| high * room < factor * other.low);
        if is_above && self.low > 0.0 {
            Outcome::Holds
        } else if is_below {
            Outcome::Misses
        } else {
            Outcome::Open
        }
    }
}

impl std::fmt::Display for Bounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.low, self.high) {
            (low, Some(high)) if low == high && low > 0.0 => write!(f, "{low:.2}"),
            (_, Some(0.0)) => write!(f, "none"),
            (low, Some(high)) => write!(f, "{low:.2} to {high:.2}"),
            (low, None) if low > 0.0 => write!(f, "{low:.2} or more"),
            (_, None) => write!(f, "not measured"),
        }
    }
}

fn compared(
    mix: &MixFound,
    (policy, factor, other): (&str, f64, &str),
    tolerance: f64,
) -> (Outcome, String) {
    let on = |policy| Bounds::on(mix, policy, tolerance);
    let (ours, theirs) = (on(policy), on(other));
    let outcome = ours.at_least(factor, theirs, tolerance);
    let words = format!("{policy} {ours} to {other}'s {theirs} (expected {factor:.0} times)");
    (outcome, words)
}

fn best(mix: &MixFound, policies: &[String], tolerance: f64) -> (Outcome, String) {
    let ours = Bounds::on(mix, OURS, tolerance);
    let others = policies.iter().filter(|name| *name != OURS);
    let judged = others.map(|name| {
        let theirs = Bounds::on(mix, name, tolerance);
        (name.as_str(), theirs, ours.at_least(1.0, theirs, tolerance))
    });
    let judged: Vec<_> = judged.collect();
    let of = |wanted: Outcome| {
        let such = judged
            .iter()
            .filter(move |(.., outcome)| *outcome == wanted);
        such.map(|(name, theirs, _)| format!("{name}'s {theirs}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let has = |wanted: Outcome| judged.iter().any(|(.., outcome)| *outcome == wanted);
    if has(Outcome::Misses) {
        let words = format!("{OURS} {ours} to {}", of(Outcome::Misses));
        return (Outcome::Misses, words);
    }
    if has(Outcome::Open) {
        let words = format!("{OURS} {ours} as the best but for {}", of(Outcome::Open));
        return (Outcome::Open, words);
    }
    let most = judged
        .iter()
        .max_by(|one, other| one.1.low.total_cmp(&other.1.low));
    let most = most.map(|(name, theirs, _)| format!(", {name} {theirs}"));
    let words = format!(
        "{OURS} {ours} as the best of the others{}",
        most.unwrap_or_default()
    );
    (Outcome::Holds, words)
}

fn near_ideal(mix: &MixFound) -> (Outcome, String) {
    let ours = Bounds::on(mix, OURS, 0.0);
    let ideal = mix.simulated.get("ideal").copied().flatten();
    let Some(ideal) = ideal.filter(|&ideal| ideal > 0.0) else {
        let why = mix.ideal_error.as_deref();
        let why = why.or(mix.simulation_error.as_deref());
        let why = why.unwrap_or(match mix.simulated.contains_key("ideal") {
            true => "it holds no load",
            false => "the time did not suffice",
        });
        return (Outcome::Open, format!("`ideal` is not simulated: {why}"));
    };
    let outcome = ours.at_least(NEAR, Bounds::exactly(ideal), 0.0);
    let part = format!("{:.0} %", 100.0 * ours.low / ideal);
    let words = format!("{OURS} {ours} is {part} of ideal's {ideal:.2} (expected 90 at least)");
    (outcome, words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::capacity::Capacity;

    /// A search at its end, which tells loads apart that differ by a twentieth.
    fn held(policy: &str, holds: Option<f64>) -> Held {
        Held {
            policy: policy.to_owned(),
            way: Way::Whole,
            measured: Capacity {
                holds,
                fails: holds.map(|holds| 1.05 * holds),
            },
            probes: Vec::new(),
            is_settled: true,
            error: None,
        }
    }

    /// A search that was stopped.
    fn open(policy: &str, holds: Option<f64>, fails: Option<f64>) -> Held {
        Held {
            measured: Capacity { holds, fails },
            is_settled: false,
            ..held(policy, None)
        }
    }

    fn mix(held: Vec<Held>) -> MixFound {
        MixFound {
            name: "c-4".to_owned(),
            held,
            ..MixFound::default()
        }
    }

    fn judged(aim: Aim, held: Vec<Held>) -> Outcome {
        let policies = [OURS, "edf", "gslice"].map(str::to_owned);
        aim.judge(&mix(held), &policies, 0.1).outcome
    }

    #[test]
    fn dstack_holds_twice_the_load_of_temporal() {
        let of = |dstack, temporal| {
            let held = vec![held("dstack", dstack), held("temporal", temporal)];
            judged(Aim::TwiceTemporal, held)
        };
        assert_eq!(of(Some(0.85), Some(0.4)), Outcome::Holds);
        let open = of(Some(0.8), Some(0.4));
        assert_eq!(open, Outcome::Open, "0.80 to 0.84 and 0.40 to 0.42");
        assert_eq!(of(Some(0.76), Some(0.4)), Outcome::Misses);
        assert_eq!(of(Some(0.1), None), Outcome::Holds);
        assert_eq!(of(None, Some(0.4)), Outcome::Misses);
        assert_eq!(of(None, None), Outcome::Misses);
        let alone = vec![held("dstack", Some(0.8))];
        assert_eq!(judged(Aim::TwiceTemporal, alone), Outcome::Open);
        assert_eq!(judged(Aim::TwiceTemporal, Vec::new()), Outcome::Open);
    }

    #[test]
    fn a_search_that_was_stopped_counts_as_far_as_it_came() {
        let of = |dstack: Held, temporal: Held| judged(Aim::TwiceTemporal, vec![dstack, temporal]);
        let settled = || held("temporal", Some(0.4));
        let dstack = |holds, fails| open("dstack", holds, fails);
        assert_eq!(of(dstack(Some(0.85), None), settled()), Outcome::Holds);
        assert_eq!(of(dstack(Some(0.5), None), settled()), Outcome::Open);
        assert_eq!(of(dstack(Some(0.5), Some(0.9)), settled()), Outcome::Open);
        assert_eq!(of(dstack(None, Some(0.7)), settled()), Outcome::Misses);
        let temporal = |holds, fails| open("temporal", holds, fails);
        let settled = || held("dstack", Some(0.8));
        assert_eq!(of(settled(), temporal(None, Some(0.4))), Outcome::Holds);
        assert_eq!(of(settled(), temporal(Some(0.3), Some(0.5))), Outcome::Open);
        assert_eq!(of(settled(), temporal(Some(0.43), None)), Outcome::Misses);
    }

    #[test]
    fn ours_holds_as_much_as_each_of_the_others_as_far_as_a_search_tells() {
        let of = |ours, edf, gslice| {
            let others = [("edf", edf), ("gslice", gslice)];
            let others = others.into_iter().map(|(name, load)| held(name, load));
            let all = others.chain([held(OURS, ours)]).collect();
            judged(Aim::Best, all)
        };
        assert_eq!(of(Some(0.5), Some(0.5), Some(0.2)), Outcome::Holds);
        assert_eq!(of(Some(0.5), Some(0.55), None), Outcome::Holds);
        assert_eq!(of(Some(0.5), Some(0.551), None), Outcome::Misses);
        assert_eq!(of(Some(0.5), Some(0.2), Some(0.6)), Outcome::Misses);
        assert_eq!(of(None, Some(0.2), Some(0.2)), Outcome::Misses);
        let unreached = vec![held(OURS, Some(0.5)), held("edf", Some(0.2))];
        assert_eq!(judged(Aim::Best, unreached), Outcome::Open);
        let worse = vec![held(OURS, Some(0.5)), held("edf", Some(0.9))];
        assert_eq!(judged(Aim::Best, worse), Outcome::Misses, "one is enough");
    }

    #[test]
    fn a_policy_holds_what_it_holds_in_the_better_way() {
        let in_legs = |holds| Held {
            way: Way::InLegs,
            ..held(OURS, holds)
        };
        let of = |whole, legs, edf| {
            let all = vec![held(OURS, whole), in_legs(legs), held("edf", edf)];
            let policies = [OURS, "edf"].map(str::to_owned);
            Aim::Best.judge(&mix(all), &policies, 0.0).outcome
        };
        assert_eq!(of(Some(0.4), Some(0.6), Some(0.5)), Outcome::Holds);
        assert_eq!(of(Some(0.6), Some(0.4), Some(0.5)), Outcome::Holds);
        assert_eq!(of(Some(0.4), Some(0.4), Some(0.5)), Outcome::Misses);
    }

    #[test]
    fn ours_does_not_miss_before_it_was_tried_in_legs() {
        let of = |has_legs, ours| {
            let mut mix = mix(vec![held(OURS, Some(ours)), held("edf", Some(0.5))]);
            mix.has_legs = has_legs;
            let policies = [OURS, "edf"].map(str::to_owned);
            Aim::Best.judge(&mix, &policies, 0.1).outcome
        };
        assert_eq!(of(false, 0.4), Outcome::Misses);
        assert_eq!(of(true, 0.4), Outcome::Open);
        assert_eq!(of(true, 0.5), Outcome::Holds);
    }

    #[test]
    fn ours_holds_nine_tenths_of_what_ideal_holds_in_simulation() {
        let of = |ours, ideal: Option<f64>| {
            let mut mix = mix(vec![held(OURS, ours)]);
            mix.simulated.insert("ideal".to_owned(), ideal);
            mix.ideal_error = ideal.is_none().then(|| "no fitted kernels".to_owned());
            Aim::NearIdeal.judge(&mix, &[], 0.1)
        };
        assert_eq!(of(Some(0.9), Some(1.0)).outcome, Outcome::Holds);
        assert_eq!(of(Some(0.88), Some(1.0)).outcome, Outcome::Open);
        let below = of(Some(0.85), Some(1.0));
        assert_eq!(below.outcome, Outcome::Misses);
        let words = below.words();
        assert!(
            words.contains("0.85 to 0.89 is 85 % of ideal's 1.00"),
            "{words}"
        );
        assert_eq!(of(None, Some(1.0)).outcome, Outcome::Misses);
        let unknown = of(Some(0.9), None);
        assert_eq!(unknown.outcome, Outcome::Open);
        let words = unknown.words();
        assert!(words.contains("no fitted kernels"), "{words}");
    }
}
