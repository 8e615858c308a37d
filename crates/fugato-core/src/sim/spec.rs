//! What a simulated device publishes.

use crate::device::{DeviceSpec, LaneClass, UNITS_MAX};
use crate::id::{DeviceId, Share};

/// Kinds of devices that hand out percentages and no places: NVIDIA's, through MPS.
const BY_PERCENTAGE: [&str; 2] = ["v100", "cuda"];

/// Lanes of the whole device: legs that an oversubscribing policy may run at once.
const WHOLE_LANES: usize = 16;

/// Lanes of every other partition.
const PART_LANES: usize = 2;

/// The most units that a device is divided into where partitions are places; each run of
/// neighbouring ones is a partition.
const PLACES_MAX: u16 = 16;

/// A device of `slices` slices as one of its kind publishes it: every set of tenths where
/// the kind hands out percentages, every run of neighbouring slices (sixteenths on larger
/// devices) where partitions are places. Where these are no whole numbers of slices there are
/// fewer parts of one size, and what is left over is in the whole device only. A CPU has an urgent lane beside the others of each
/// partition.
///
/// # Panics
/// Where there are no slices.
#[must_use]
pub fn sim_device(kind: &str, slices: Share) -> DeviceSpec {
    assert!(slices.0 > 0, "a device of no slices");
    let mut whole = vec![LaneClass::Normal; WHOLE_LANES];
    let mut part = vec![LaneClass::Normal; PART_LANES];
    if kind == "cpu" {
        whole.push(LaneClass::Urgent);
        part.push(LaneClass::Urgent);
    }
    let name = format!("sim: {kind}, {} slices", slices.0);
    if BY_PERCENTAGE.contains(&kind) {
        DeviceSpec::subsets(
            DeviceId(0),
            name,
            slices,
            unit(slices, UNITS_MAX),
            &whole,
            &part,
        )
    } else {
        DeviceSpec::ranges(
            DeviceId(0),
            name,
            slices,
            unit(slices, PLACES_MAX),
            &whole,
            &part,
        )
    }
}

/// The size of units of which there are at most so many: half as many, or more, of the same size,
/// as few slices left over as each unit less is worth.
fn unit(slices: Share, most: u16) -> Share {
    let left = |units: u16| slices.0 % units + (most - units);
    let counts = (most.div_ceil(2)..=most).rev();
    let units = counts.min_by_key(|&units| left(units)).unwrap_or(most);
    Share((slices.0 / units).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_of_one_size_and_leave_little_over() {
        for most in [UNITS_MAX, PLACES_MAX] {
            for slices in 1..=148 {
                let unit = unit(Share(slices), most);
                let units = (slices / unit.0).min(most);
                let over = slices - units * unit.0;
                assert!(over < unit.0.max(most / 2), "{slices}: {units} of {unit}");
            }
        }
        assert_eq!(unit(Share(80), UNITS_MAX), Share(8));
        assert_eq!(unit(Share(132), UNITS_MAX), Share(13));
    }

    #[test]
    fn every_size_is_well_formed() {
        for kind in ["v100", "cpu"] {
            for slices in 1..=148 {
                sim_device(kind, Share(slices)).validate().expect(kind);
            }
        }
    }
}
