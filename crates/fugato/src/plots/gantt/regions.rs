//! A device's slices over time, cut into rectangles: which legs had which slices, and when.

use fugato_core::timeline::TimelineLeg;
use fugato_core::{DeviceId, Timestamp};
use std::collections::BTreeMap;
use std::ops::Range;

/// Neighbouring slices of a device that the same legs had for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) device: DeviceId,
    pub(super) atoms: Range<u16>,
    pub(super) time: Range<Timestamp>,
    /// Indices of the legs, rising; more than one where slices are shared.
    pub(super) legs: Vec<usize>,
}

impl Region {
    /// Slices by nanoseconds.
    pub(super) fn area(&self) -> f64 {
        let length = self.time.end - self.time.start;
        self.atoms.len() as f64 * length.as_nanos() as f64
    }
}

/// All that the legs had within the window, without overlap or gap between the regions of a
/// leg. As wide as they can be: a region ends where a leg comes to its slices or goes.
pub(super) fn regions(legs: &[&TimelineLeg], window: &Range<Timestamp>) -> Vec<Region> {
    let mut by_device: BTreeMap<DeviceId, Vec<usize>> = BTreeMap::new();
    for (index, leg) in legs.iter().enumerate() {
        by_device.entry(leg.device).or_default().push(index);
    }
    let mut regions = Vec::new();
    for (device, own) in by_device {
        let within = |time: Timestamp| time.clamp(window.start, window.end);
        let mut cuts: Vec<Timestamp> = own
            .iter()
            .flat_map(|&leg| [within(legs[leg].started), within(legs[leg].ended)])
            .collect();
        cuts.sort_unstable();
        cuts.dedup();
        // Regions that reach up to the cut.
        let mut open: Vec<Region> = Vec::new();
        for cut in cuts.windows(2) {
            let mut going = Vec::new();
            for (atoms, legs) in at(legs, &own, cut[0]..cut[1]) {
                let same = |region: &Region| region.atoms == atoms && region.legs == legs;
                let time = match open.iter().position(same) {
                    Some(index) => open.swap_remove(index).time.start..cut[1],
                    None => cut[0]..cut[1],
                };
                going.push(Region {
                    device,
                    atoms,
                    time,
                    legs,
                });
            }
            regions.append(&mut open);
            open = going;
        }
        regions.append(&mut open);
    }
    regions.sort_by_key(|region| (region.device, region.time.start, region.atoms.start));
    regions
}

/// The ranges of slices with their legs in a time in which no leg of a device comes or goes.
fn at(
    legs: &[&TimelineLeg],
    own: &[usize],
    time: Range<Timestamp>,
) -> Vec<(Range<u16>, Vec<usize>)> {
    let mut held: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for &index in own {
        let leg = legs[index];
        if leg.started < time.end && leg.ended > time.start {
            for atom in leg.atoms.iter() {
                held.entry(atom).or_default().push(index);
            }
        }
    }
    let mut ranges: Vec<(Range<u16>, Vec<usize>)> = Vec::new();
    for (atom, legs) in held {
        match ranges.last_mut() {
            Some((atoms, same)) if atoms.end == atom && *same == legs => atoms.end += 1,
            _ => ranges.push((atom..atom + 1, legs)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::tests::{exclusive, leg};

    #[test]
    fn slices_are_shared_only_where_and_while_two_legs_have_them() {
        let below = leg(0, (0, 6), (0, 1_000));
        let above = leg(1, (4, 4), (400, 700));
        let nanos = Timestamp::from_nanos;
        let window = nanos(0)..nanos(900);
        let found = regions(&[&below, &above], &window);
        let shared: Vec<&Region> = found.iter().filter(|one| one.legs.len() > 1).collect();
        assert_eq!(shared.len(), 1, "{found:?}");
        assert_eq!(shared[0].atoms, 4..6);
        assert_eq!(shared[0].time, nanos(400)..nanos(700));
        let area = |leg| -> f64 {
            let own = found.iter().filter(|region| region.legs.contains(&leg));
            own.map(Region::area).sum()
        };
        assert!((area(0) - 6.0 * 900.0).abs() < 0.5, "what is in the window");
        assert!((area(1) - 4.0 * 300.0).abs() < 0.5);
    }

    #[test]
    fn a_leg_alone_is_one_region() {
        let legs = exclusive(8, 60);
        let legs: Vec<&TimelineLeg> = legs.iter().collect();
        let ends = legs.iter().map(|leg| leg.ended).max().expect("legs");
        assert_eq!(regions(&legs, &(Timestamp::ZERO..ends)).len(), legs.len());
    }
}
