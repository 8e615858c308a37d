//! What a device publishes about itself: slices, partitions, lanes.
//!
//! The scheduler hands out partitions, never counts of slices, because two partitions of
//! the same size may overlap; [`AtomSet`] says which.

use crate::id::{DeviceId, PartitionId, Share};
use serde::{Deserialize, Serialize};

/// The most atoms a device may have. An H200 publishes at most 66 pairs of SMs; the
/// simulator goes to 148 slices.
pub const ATOMS_MAX: u16 = 256;

/// A set of a device's atoms (particular slices), as a bit set.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct AtomSet([u64; 4]);

impl AtomSet {
    /// No atom.
    pub const EMPTY: Self = Self([0; 4]);

    /// The atoms `first .. first + count`.
    ///
    /// # Panics
    /// Where the range goes past [`ATOMS_MAX`].
    pub fn range(first: u16, count: u16) -> Self {
        assert!(
            u32::from(first) + u32::from(count) <= u32::from(ATOMS_MAX),
            "atoms {first}..{first}+{count} go past {ATOMS_MAX}"
        );
        // By word: its bits that are below an end.
        let below = |end: u16| {
            [0, 64, 128, 192].map(|from| {
                let bits = u32::from(end.saturating_sub(from));
                u64::MAX.checked_shl(bits).map_or(u64::MAX, |above| !above)
            })
        };
        Self(below(first + count)).without(Self(below(first)))
    }

    /// Whether the two sets share an atom.
    pub fn overlaps(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether every atom of `other` is in `self`.
    pub fn contains(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(a, b)| b & !a == 0)
    }

    /// The atoms in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] | other.0[word]))
    }

    /// The atoms of `self` that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & !other.0[word]))
    }

    /// The atoms in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// The atoms beside one of the set: one up or one down, and not in it.
    #[must_use]
    pub fn neighbours(self) -> Self {
        let mut beside = [0; 4];
        for (word, bits) in self.0.into_iter().enumerate() {
            beside[word] |= bits << 1 | bits >> 1;
            if let Some(next) = beside.get_mut(word + 1) {
                *next |= bits >> 63;
            }
            if let Some(last) = word.checked_sub(1) {
                beside[last] |= bits << 63;
            }
        }
        Self(beside).without(self)
    }

    /// The number of atoms.
    #[expect(clippy::cast_possible_truncation, reason = "at most 256 bits are set")]
    pub fn count(self) -> u16 {
        self.0.iter().map(|word| word.count_ones()).sum::<u32>() as u16
    }

    /// Whether no atom is in the set.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The atoms, rising.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.0.into_iter().zip(0_u16..).flat_map(|(word, index)| {
            let rest = std::iter::successors(Some(word), |rest| Some(rest & (rest - 1)));
            let rest = rest.take(word.count_ones() as usize);
            rest.map(move |rest| index * 64 + lowest(rest))
        })
    }
}

/// The lowest bit of a word that is not 0.
#[expect(clippy::cast_possible_truncation, reason = "a word has 64 bits")]
fn lowest(word: u64) -> u16 {
    word.trailing_zeros() as u16
}

/// How a lane competes with the other lanes of the same atoms where the device's owner
/// (an operating system) shares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneClass {
    /// The class that policies use unless they say otherwise.
    Normal,
    /// Runs before [`LaneClass::Normal`] lanes of the same atoms, which the device
    /// suspends inside an operator. A device without such preemption publishes none.
    Urgent,
}

/// A partition: a set of atoms in which a leg runs, with its lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSpec {
    /// The device's name for it; equal to its index in [`DeviceSpec::partitions`].
    pub id: PartitionId,
    /// The atoms it covers; two partitions may run at once only if these are disjoint.
    pub atoms: AtomSet,
    /// Its lanes, by [`crate::LaneId`]. Never empty.
    pub lanes: Vec<LaneClass>,
}

impl PartitionSpec {
    /// The number of slices of the partition.
    pub fn share(&self) -> Share {
        Share(self.atoms.count())
    }
}

/// A device as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Which device this is.
    pub id: DeviceId,
    /// What it is, for people: `cpu: 2 x AMD EPYC`.
    pub name: String,
    /// All its slices.
    pub slices: Share,
    /// Its partitions. The first one is the whole device.
    pub partitions: Vec<PartitionSpec>,
}

/// Why a [`DeviceSpec`] cannot be scheduled on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceSpecError {
    /// No partition, or the first one is not the whole device.
    #[error(
        "device `{name}` must publish the whole device ({slices} slices) as its first partition"
    )]
    NoWholePartition {
        /// The device.
        name: String,
        /// Its slices.
        slices: u16,
    },
    /// A partition's id is not its index, it has no atom or no lane, or an atom past the
    /// device's slices.
    #[error("partition {partition} of device `{name}` is malformed: {found}")]
    Malformed {
        /// The device.
        name: String,
        /// The index of the partition.
        partition: usize,
        /// What is wrong.
        found: &'static str,
    },
}

impl DeviceSpec {
    /// Checks what the scheduler relies on.
    ///
    /// # Errors
    /// [`DeviceSpecError`], naming the first fault.
    pub fn validate(&self) -> Result<(), DeviceSpecError> {
        let whole = AtomSet::range(0, self.slices.0.min(ATOMS_MAX));
        if self.slices.0 == 0
            || self.slices.0 > ATOMS_MAX
            || self
                .partitions
                .first()
                .is_none_or(|first| first.atoms != whole)
        {
            return Err(DeviceSpecError::NoWholePartition {
                name: self.name.clone(),
                slices: self.slices.0,
            });
        }
        for (index, partition) in self.partitions.iter().enumerate() {
            let found = if usize::from(partition.id.0) != index {
                "its id is not its index"
            } else if partition.atoms.is_empty() {
                "it has no atom"
            } else if partition.lanes.is_empty() {
                "it has no lane"
            } else if !whole.contains(partition.atoms) {
                "it has an atom that the device has not"
            } else {
                continue;
            };
            return Err(DeviceSpecError::Malformed {
                name: self.name.clone(),
                partition: index,
                found,
            });
        }
        Ok(())
    }

    /// Nested partitions of a device of `slices` equal slices: the whole, halves,
    /// quarters and so on down to single slices, each level covering the device left to
    /// right (the last part of a level takes what division leaves). The whole device
    /// gets `whole_lanes`, every other partition `part_lanes`.
    pub fn nested(
        id: DeviceId,
        name: impl Into<String>,
        slices: Share,
        whole_lanes: &[LaneClass],
        part_lanes: &[LaneClass],
    ) -> Self {
        let mut partitions = Vec::new();
        let mut push = |atoms: AtomSet, lanes: &[LaneClass]| {
            let known = partitions
                .iter()
                .any(|known: &PartitionSpec| known.atoms == atoms);
            if !atoms.is_empty() && !known {
                let id = PartitionId(u16::try_from(partitions.len()).unwrap_or(u16::MAX));
                partitions.push(PartitionSpec {
                    id,
                    atoms,
                    lanes: lanes.to_vec(),
                });
            }
        };
        push(AtomSet::range(0, slices.0), whole_lanes);
        let mut parts = 2u16;
        while parts / 2 < slices.0 {
            let parts_here = parts.min(slices.0);
            for part in 0..parts_here {
                let edge =
                    |index: u16| u32::from(slices.0) * u32::from(index) / u32::from(parts_here);
                let (first, end) = (edge(part), edge(part + 1));
                let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
                push(
                    AtomSet::range(narrow(first), narrow(end - first)),
                    part_lanes,
                );
            }
            parts = parts.saturating_mul(2);
        }
        Self {
            id,
            name: name.into(),
            slices,
            partitions,
        }
    }
}

/// The most units of [`DeviceSpec::subsets`]: a device has 2^units - 1 partitions.
pub const UNITS_MAX: u16 = 10;

impl DeviceSpec {
    /// A partition for every run of neighbouring units of `unit` slices: what a device offers
    /// whose partitions are places, as CPU cores or groups of SMs are. Slices that the division
    /// leaves over are in the whole device only: a smaller unit would be a share that there is
    /// once, and whoever takes the least share that is enough would wait for it.
    ///
    /// # Panics
    /// Where `unit` is zero.
    pub fn ranges(
        id: DeviceId,
        name: impl Into<String>,
        slices: Share,
        unit: Share,
        whole_lanes: &[LaneClass],
        part_lanes: &[LaneClass],
    ) -> Self {
        assert!(unit.0 > 0, "a unit of no slices");
        let edges: Vec<u16> = (0..=slices.0).step_by(usize::from(unit.0)).collect();
        let parts = runs(&edges);
        Self::of_parts(id, name.into(), slices, parts, (whole_lanes, part_lanes))
    }

    /// A partition for every run of slices between two of `edges`, which rise from 0 to the
    /// device's slices; the shorter runs, by edges, first.
    ///
    /// # Panics
    /// Where there are no two edges.
    pub fn between(
        id: DeviceId,
        name: impl Into<String>,
        edges: &[u16],
        whole_lanes: &[LaneClass],
        part_lanes: &[LaneClass],
    ) -> Self {
        assert!(edges.len() > 1, "no run between fewer than two edges");
        let slices = Share(edges[edges.len() - 1]);
        let lanes = (whole_lanes, part_lanes);
        Self::of_parts(id, name.into(), slices, runs(edges), lanes)
    }

    /// A partition for every set of units of `unit` slices, of as many as fit and at most
    /// [`UNITS_MAX`]: what a device offers that hands out percentages and no places, as CUDA's
    /// MPS does. Slices that are of no unit are in the whole device only, as with
    /// [`ranges`](Self::ranges).
    ///
    /// # Panics
    /// Where `unit` is zero.
    pub fn subsets(
        id: DeviceId,
        name: impl Into<String>,
        slices: Share,
        unit: Share,
        whole_lanes: &[LaneClass],
        part_lanes: &[LaneClass],
    ) -> Self {
        assert!(unit.0 > 0, "a unit of no slices");
        let units = (slices.0 / unit.0).min(UNITS_MAX);
        let parts = (1u16..(1 << units) - 1).map(|chosen| {
            let chosen = (0..units).filter(|at| chosen >> at & 1 == 1);
            chosen.fold(AtomSet::EMPTY, |atoms, at| {
                atoms.union(AtomSet::range(at * unit.0, unit.0))
            })
        });
        Self::of_parts(id, name.into(), slices, parts, (whole_lanes, part_lanes))
    }

    fn of_parts(
        id: DeviceId,
        name: String,
        slices: Share,
        parts: impl Iterator<Item = AtomSet>,
        (whole_lanes, part_lanes): (&[LaneClass], &[LaneClass]),
    ) -> Self {
        let whole = (AtomSet::range(0, slices.0), whole_lanes);
        let parts = parts.map(|atoms| (atoms, part_lanes));
        let partitions = std::iter::once(whole).chain(parts).zip(0u16..);
        let partitions = partitions
            .map(|((atoms, lanes), id)| PartitionSpec {
                id: PartitionId(id),
                atoms,
                lanes: lanes.to_vec(),
            })
            .collect();
        Self {
            id,
            name,
            slices,
            partitions,
        }
    }
}

/// The atoms of every run between two edges but the longest, the shorter runs first.
fn runs(edges: &[u16]) -> impl Iterator<Item = AtomSet> {
    let units = edges.len().saturating_sub(1);
    let runs = (1..units).flat_map(move |length| (0..=units - length).map(move |at| (at, length)));
    runs.map(|(at, length)| AtomSet::range(edges[at], edges[at + length] - edges[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_cross_words_and_leave_the_set_out() {
        let set = AtomSet::range(60, 5);
        let beside: Vec<u16> = set.neighbours().iter().collect();
        assert_eq!(beside, [59, 65]);
        let edge: Vec<u16> = AtomSet::range(64, 1).neighbours().iter().collect();
        assert_eq!(edge, [63, 65]);
        assert_eq!(AtomSet::range(0, ATOMS_MAX).neighbours(), AtomSet::EMPTY);
    }

    #[test]
    fn ranges_are_all_runs_and_subsets_all_sets_of_units() {
        let lanes = [LaneClass::Normal];
        let ranges = |slices, unit| {
            let (slices, unit) = (Share(slices), Share(unit));
            DeviceSpec::ranges(DeviceId(0), "test", slices, unit, &lanes, &lanes)
        };
        let subsets = |slices, unit| {
            let (slices, unit) = (Share(slices), Share(unit));
            DeviceSpec::subsets(DeviceId(0), "test", slices, unit, &lanes, &lanes)
        };
        let many = ranges(132, 8);
        many.validate().expect("well formed");
        assert_eq!(many.partitions.len(), 16 * 17 / 2);
        assert_eq!(many.partitions[0].share(), Share(132), "132 = 16 x 8 + 4");
        let parts = || many.partitions[1..].iter().map(PartitionSpec::share);
        assert!(parts().all(|share| share.0.is_multiple_of(8) && share.0 < 128));
        let all = subsets(80, 8);
        all.validate().expect("well formed");
        assert_eq!(all.partitions.len(), 1023);
        let mut atoms: Vec<AtomSet> = all.partitions.iter().map(|part| part.atoms).collect();
        atoms.sort_unstable();
        atoms.dedup();
        assert_eq!(atoms.len(), 1023);
        let uneven = subsets(132, 13);
        uneven.validate().expect("well formed");
        assert_eq!(uneven.partitions.len(), 1023);
        let parts = || uneven.partitions[1..].iter().map(PartitionSpec::share);
        assert!(parts().all(|share| share.0.is_multiple_of(13)));
        for one in [ranges(1, 1), subsets(1, 1)] {
            assert_eq!(one.partitions.len(), 1);
        }
    }

    fn nested(slices: u16) -> DeviceSpec {
        DeviceSpec::nested(
            DeviceId(0),
            "test",
            Share(slices),
            &[LaneClass::Normal],
            &[LaneClass::Normal],
        )
    }

    #[test]
    fn atoms_are_a_set() {
        let (left, right) = (AtomSet::range(0, 70), AtomSet::range(70, 62));
        assert!(!left.overlaps(right));
        assert!(left.union(right).contains(left));
        assert_eq!(left.union(right), AtomSet::range(0, 132));
        assert_eq!(left.count(), 70);
        assert_eq!(AtomSet::range(0, 132).without(left), right);
        assert!(right.iter().eq(70..132));
        for (first, end) in [
            (0, 0),
            (0, 1),
            (3, 64),
            (64, 128),
            (63, 65),
            (1, 256),
            (256, 256),
        ] {
            assert!(AtomSet::range(first, end - first).iter().eq(first..end));
        }
        assert!(left.union(right).without(right).iter().eq(0..70));
        assert!(AtomSet::EMPTY.is_empty());
    }

    #[test]
    fn nested_partitions_tile_each_level() {
        let shares = |slices| -> Vec<u16> {
            nested(slices)
                .partitions
                .iter()
                .map(|partition| partition.share().0)
                .collect()
        };
        assert_eq!(shares(1), [1]);
        assert_eq!(shares(2), [2, 1, 1]);
        assert_eq!(shares(3), [3, 1, 2, 1, 1]);
        assert_eq!(shares(4), [4, 2, 2, 1, 1, 1, 1]);
        for slices in 1..=148 {
            nested(slices)
                .validate()
                .expect("nested partitions are well formed");
        }
    }

    #[test]
    fn a_device_must_publish_itself_whole() {
        let mut spec = nested(4);
        spec.partitions.remove(0);
        assert!(matches!(
            spec.validate(),
            Err(DeviceSpecError::NoWholePartition { .. })
        ));
        let mut spec = nested(4);
        spec.partitions[1].lanes.clear();
        assert!(matches!(
            spec.validate(),
            Err(DeviceSpecError::Malformed { partition: 1, .. })
        ));
    }
}
