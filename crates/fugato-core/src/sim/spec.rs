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
/// devices) where partitions are places. A CPU has an urgent lane beside the others of each
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
    let unit = |most: u16| Share(slices.0.div_ceil(most));
    if BY_PERCENTAGE.contains(&kind) {
        DeviceSpec::subsets(DeviceId(0), name, slices, unit(UNITS_MAX), &whole, &part)
    } else {
        DeviceSpec::ranges(DeviceId(0), name, slices, unit(PLACES_MAX), &whole, &part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_well_formed() {
        for kind in ["v100", "cpu"] {
            for slices in 1..=148 {
                sim_device(kind, Share(slices)).validate().expect(kind);
            }
        }
    }
}
