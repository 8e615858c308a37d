//! What legs that run at once do to each other.
//!
//! Two things, both stated and both in integers:
//!
//! - **Time-slicing.** Legs whose partitions share atoms divide them evenly in time. A leg
//!   runs at the rate of its most crowded atom: where k running legs cover it, k times as
//!   long, and longer still by the time that each switch costs. A leg on an urgent lane counts
//!   as several.
//! - **Interference.** Legs on disjoint atoms share memory bandwidth and caches. Each leg
//!   has a memory-bound part, which takes longer by what its neighbours demand, and a
//!   compute-bound part, which does not: beside neighbours j on other atoms
//!   `time = alone * (1 + sensitivity * sum_j demand_j * share_j / (slices - share))`.
//!
//! # Source
//! The form is that of linear interference models of co-located inference (a sensitivity
//! of the one, a pressure of the others). Where the numbers come from is said by
//! [`ProfiledService`](super::ProfiledService).

use crate::device::{ATOMS_MAX, AtomSet};
use crate::id::Share;
use crate::time::Nanos;

/// 1 in the fixed point of this module: 2^-24, so that an hour is known to 0.2 ms.
pub(super) const ONE: u64 = 1 << FRACTION;

/// Bits after the point.
pub(super) const FRACTION: u32 = 24;

/// A part of a leg's time, in steps of 2^-24.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part(u32);

impl Part {
    /// None of it.
    pub const ZERO: Self = Self(0);
    /// All of it.
    pub const WHOLE: Self = Self(1 << FRACTION);

    /// The nearest part to `part`; negative and NaN give none, 16 wholes are the most.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the value is clamped to the range first"
    )]
    pub fn new(part: f64) -> Self {
        let steps = (part * ONE as f64).round();
        Self(steps.clamp(0.0, 16.0 * ONE as f64) as u32)
    }

    pub(super) const fn steps(self) -> u64 {
        self.0 as u64
    }
}

/// Fifteen steps of niceness in Linux's fair scheduler, which is what the lanes of a CPU are apart. What
/// else an urgent leg loses there is not counted (SqueezeNet over VGG-19 takes 1.07 times its time
/// alone in the median, `examples/urgent.rs`; a twenty-eighth is 1.04).
const URGENT: u16 = 28;

/// How a device's atoms are shared in time, where running legs overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSlicing {
    /// How long one leg runs before the next one's turn.
    pub quantum: Nanos,
    /// What each turn costs before work goes on.
    pub switch: Nanos,
    /// How many legs on normal lanes one on an urgent lane counts as; at least 1.
    pub urgent: u16,
}

impl TimeSlicing {
    /// Even division that costs nothing.
    pub const FREE: Self = Self {
        quantum: Nanos::from_millis(1),
        switch: Nanos::ZERO,
        urgent: URGENT,
    };

    /// What a leg's time is multiplied by in a crowd, in steps of 2^-24.
    fn factor(self, crowd: u64) -> u64 {
        if crowd <= ONE {
            return ONE;
        }
        let quantum = self.quantum.as_nanos().max(1);
        let turn = self.quantum + self.switch;
        Nanos::new(crowd)
            .scaled(turn.as_nanos().max(1), quantum)
            .as_nanos()
    }

    /// What an occupant counts as.
    fn weight(self, occupant: &Occupant) -> u64 {
        match occupant.urgent {
            true => u64::from(self.urgent.max(1)),
            false => 1,
        }
    }
}

/// A leg that runs, as far as others feel it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occupant {
    /// Whether its lane is urgent.
    pub urgent: bool,
    pub atoms: AtomSet,
    pub share: Share,
    /// How much longer it takes beside the demand of full neighbours.
    pub sensitivity: Part,
    /// What it does to its neighbours.
    pub demand: Part,
}

impl Occupant {
    /// Whether the other goes slower because of this one.
    pub(super) fn disturbs(&self, other: &Self) -> bool {
        self.atoms.overlaps(other.atoms)
            || self.demand != Part::ZERO && other.sensitivity != Part::ZERO
    }
}

/// How fast a leg goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Running legs on its most crowded atom, itself included, each by its weight over its
    /// own, in steps of 2^-24.
    pub crowd: u64,
    /// Its time over its time alone, in steps of 2^-24; at least 1.
    pub slow: u64,
}

impl Pace {
    /// Alone on the device.
    pub(super) const ALONE: Self = Self {
        crowd: ONE,
        slow: ONE,
    };
}

/// The pace of each of the legs that run at once.
///
/// # Cost
/// O(legs x atoms), and O(legs^2) where any of them demands memory.
pub(super) fn paces(
    occupants: &[Occupant],
    slices: Share,
    slicing: TimeSlicing,
    paces: &mut Vec<Pace>,
) {
    let mut on_atom = [0_u64; ATOMS_MAX as usize];
    for occupant in occupants {
        for atom in occupant.atoms.iter() {
            on_atom[usize::from(atom)] += slicing.weight(occupant);
        }
    }
    paces.clear();
    paces.extend(occupants.iter().map(|occupant| {
        let crowds = occupant.atoms.iter().map(|atom| on_atom[usize::from(atom)]);
        let own = slicing.weight(occupant);
        let crowd = crowds.max().unwrap_or(own) * ONE / own;
        Pace {
            crowd,
            slow: slicing.factor(crowd),
        }
    }));
    if occupants.iter().all(|other| other.demand == Part::ZERO) {
        return;
    }
    for index in 0..occupants.len() {
        let one = occupants[index];
        let others = u64::from(slices.0.saturating_sub(one.share.0)).max(1);
        let beside = occupants.iter().zip(paces.iter());
        let pressure: u64 = beside
            .filter(|(other, _)| !other.atoms.overlaps(one.atoms))
            .map(|(other, pace)| {
                let demand = other.demand.steps() * u64::from(other.share.0);
                (demand << FRACTION) / pace.crowd
            })
            .sum();
        let stretch = ONE + ((one.sensitivity.steps() * (pressure / others)) >> FRACTION);
        paces[index].slow = (paces[index].slow * stretch) >> FRACTION;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn occupant(first: u16, count: u16, memory: f64) -> Occupant {
        Occupant {
            urgent: false,
            atoms: AtomSet::range(first, count),
            share: Share(count),
            sensitivity: Part::new(memory),
            demand: Part::new(memory),
        }
    }

    fn slows(occupants: &[Occupant], slicing: TimeSlicing) -> Vec<u64> {
        let mut found = Vec::new();
        paces(occupants, Share(8), slicing, &mut found);
        found.iter().map(|pace| pace.slow).collect()
    }

    #[test]
    fn memory_bound_parts_take_longer_by_what_neighbours_demand() {
        // Half of each is memory-bound: beside a full device 1 + 1/2 * 1/2.
        let full = [occupant(0, 4, 0.5), occupant(4, 4, 0.5)];
        assert_eq!(slows(&full, TimeSlicing::FREE), [ONE * 5 / 4; 2]);
        // The neighbour has half of the other slices.
        let half = [occupant(0, 4, 0.5), occupant(4, 2, 0.5)];
        assert_eq!(slows(&half, TimeSlicing::FREE)[0], ONE * 9 / 8);
        // Beside compute-bound work nobody waits.
        let bound = [occupant(0, 4, 0.5), occupant(4, 4, 0.0)];
        assert_eq!(slows(&bound, TimeSlicing::FREE), [ONE; 2]);
    }

    #[test]
    fn an_urgent_leg_has_its_weight_of_the_atoms_that_it_shares() {
        let urgent = Occupant {
            urgent: true,
            ..occupant(0, 2, 0.0)
        };
        let legs = [occupant(0, 8, 0.0), urgent, occupant(2, 2, 0.0)];
        let slicing = TimeSlicing {
            urgent: 3,
            ..TimeSlicing::FREE
        };
        // 3 to 1 on two atoms, 1 to 1 on two others; the first leg goes as its slowest part.
        assert_eq!(slows(&legs, slicing), [4 * ONE, ONE * 4 / 3, 2 * ONE]);
    }

    #[test]
    fn the_most_crowded_atom_sets_the_pace_and_turns_cost() {
        let crowded = [
            occupant(0, 8, 0.0),
            occupant(0, 2, 0.0),
            occupant(6, 2, 0.0),
        ];
        assert_eq!(slows(&crowded, TimeSlicing::FREE), [2 * ONE; 3]);
        let slicing = TimeSlicing {
            quantum: Nanos::from_micros(1_000),
            switch: Nanos::from_micros(250),
            urgent: 3,
        };
        assert_eq!(slows(&crowded, slicing), [2 * ONE * 5 / 4; 3]);
        assert_eq!(slows(&crowded[1..], slicing), [ONE; 2]);
    }
}
