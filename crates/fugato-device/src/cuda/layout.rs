//! Slices and partitions of a device, reckoned: nothing here calls the driver.

use super::gpu::GpuInfo;
use fugato_core::device::{AtomSet, DeviceSpec, LaneClass};
use fugato_core::{DeviceId, Share};

/// Into how many parts a device is divided, at most: partitions are the runs of them.
const PARTS: u16 = 8;

/// How small groups of multiprocessors may be.
///
/// Source: the CUDA driver API's description of `cuDevSmResourceSplitByCount`, and, from driver
/// 13.0 on, the driver's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmGranularity {
    /// The smallest group.
    pub least: u32,
    /// Groups are multiples of this many.
    pub step: u32,
}

impl SmGranularity {
    /// What the driver says of a device, or what is documented of its compute capability
    /// where the driver is too old to say.
    pub fn of(info: &GpuInfo) -> Self {
        let documented = Self::documented(info.compute_capability.0);
        let or = |said: u32, documented| if said > 0 { said } else { documented };
        Self {
            least: or(info.sms_least, documented.least),
            step: or(info.sms_alignment, documented.step),
        }
    }

    /// What is documented of a major compute capability.
    pub fn documented(major: u32) -> Self {
        let (least, step) = match major {
            ..=6 => (1, 1),
            7 => (2, 2),
            8 => (4, 2),
            _ => (8, 8),
        };
        Self { least, step }
    }

    /// Multiprocessors of a slice: the smallest group that can be had.
    pub fn slice(self) -> u32 {
        self.least.max(1).next_multiple_of(self.step.max(1))
    }

    /// The slices that a device of `sms` multiprocessors is expected to have, by their sizes.
    /// What the driver makes of it counts ([`SmLayout::new`]): it may find fewer, where
    /// multiprocessors that it must keep together are not a multiple of the slice.
    pub fn slices(self, sms: u32) -> Vec<u32> {
        let slice = self.slice();
        vec![slice; (sms / slice) as usize]
    }
}

/// How a device is divided: slices, and partitions, which are runs of slices.
///
/// All slices come from one division of the device, so two partitions are disjoint if their
/// slices are. The whole device is a division of its own, which has the multiprocessors that
/// no slice has, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmLayout {
    sms: u32,
    slices: Vec<u32>,
}

impl SmLayout {
    /// The layout of a device of `sms` multiprocessors that the driver divides into `slices`
    /// of these sizes. Fewer than two are none: the device is one slice, and cannot be shared in
    /// space. Slices past [`fugato_core::device::ATOMS_MAX`] are left out.
    pub fn new(sms: u32, mut slices: Vec<u32>) -> Self {
        slices.truncate(usize::from(fugato_core::device::ATOMS_MAX));
        if slices.len() < 2 {
            slices = vec![sms];
        }
        Self { sms, slices }
    }

    /// The slices of the device.
    pub fn slices(&self) -> Share {
        Share(u16::try_from(self.slices.len()).unwrap_or(u16::MAX))
    }

    /// Whether the device can be shared in space.
    pub fn is_divided(&self) -> bool {
        self.slices.len() > 1
    }

    /// Multiprocessors that only the whole device has.
    pub fn spare(&self) -> u32 {
        self.sms.saturating_sub(self.slices.iter().sum())
    }

    /// The multiprocessors of a partition.
    pub fn sms(&self, atoms: AtomSet) -> u32 {
        if atoms.count() == self.slices().0 {
            return self.sms;
        }
        let of = |atom: u16| self.slices.get(usize::from(atom)).copied().unwrap_or(0);
        atoms.iter().map(of).sum()
    }

    /// What the device publishes: the whole, and every run of eighths of its slices, as even
    /// as they can be. Halves, quarters and unequal pairs such as 3/8 and 5/8 are among them.
    pub fn spec(
        &self,
        id: DeviceId,
        name: impl Into<String>,
        whole_lanes: &[LaneClass],
        part_lanes: &[LaneClass],
    ) -> DeviceSpec {
        let slices = self.slices();
        let parts = PARTS.min(slices.0);
        let edge = |part: u16| {
            let edge = u32::from(slices.0) * u32::from(part) / u32::from(parts);
            u16::try_from(edge).unwrap_or(u16::MAX)
        };
        let edges: Vec<u16> = (0..=parts).map(edge).collect();
        DeviceSpec::between(id, name, &edges, whole_lanes, part_lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Multiprocessors of a T4, a small and a large A100, an H200, and a B200.
    const DEVICES: [u32; 5] = [40, 80, 108, 132, 148];

    fn info(compute_capability: (u32, u32), sms: u32) -> GpuInfo {
        GpuInfo {
            ordinal: 0,
            name: "test".to_owned(),
            compute_capability,
            sms,
            sms_least: 0,
            sms_alignment: 0,
            memory: 0,
            l2_cache: 0,
        }
    }

    fn layout(major: u32, sms: u32) -> SmLayout {
        let granularity = SmGranularity::of(&info((major, 0), sms));
        SmLayout::new(sms, granularity.slices(sms))
    }

    fn spec(layout: &SmLayout) -> DeviceSpec {
        let lanes = [LaneClass::Normal];
        layout.spec(DeviceId(0), "test", &lanes, &lanes)
    }

    #[test]
    fn slices_are_the_smallest_groups_of_each_generation() {
        // Compute capability, and by device: slices, multiprocessors in none of them.
        let expected = [
            (7, [(20, 0), (40, 0), (54, 0), (66, 0), (74, 0)]),
            (8, [(10, 0), (20, 0), (27, 0), (33, 0), (37, 0)]),
            (9, [(5, 0), (10, 0), (13, 4), (16, 4), (18, 4)]),
            (10, [(5, 0), (10, 0), (13, 4), (16, 4), (18, 4)]),
        ];
        for (major, devices) in expected {
            for (sms, (slices, spare)) in DEVICES.into_iter().zip(devices) {
                let layout = layout(major, sms);
                let found = (layout.slices().0, layout.spare());
                assert_eq!(found, (slices, spare), "{sms} of capability {major}");
            }
        }
    }

    #[test]
    fn what_the_driver_says_goes_before_what_is_documented() {
        let mut newer = info((9, 0), 132);
        (newer.sms_least, newer.sms_alignment) = (2, 2);
        assert_eq!(SmGranularity::of(&newer).slice(), 2);
        // Rounded up to the step.
        let odd = SmGranularity { least: 6, step: 4 };
        assert_eq!(odd.slice(), 8);
        assert_eq!(odd.slices(20), [8, 8]);
        let nothing = SmGranularity { least: 0, step: 0 };
        assert_eq!(nothing.slice(), 1);
    }

    #[test]
    fn an_h200_has_halves_quarters_eighths_and_unequal_pairs() {
        let layout = layout(9, 132);
        let spec = spec(&layout);
        let sms: BTreeSet<u32> = spec
            .partitions
            .iter()
            .map(|partition| layout.sms(partition.atoms))
            .collect();
        assert_eq!(Vec::from_iter(sms), [16, 32, 48, 64, 80, 96, 112, 132]);
        assert_eq!(spec.partitions.len(), 8 * 9 / 2);
        assert_eq!(layout.sms(spec.partitions[0].atoms), 132, "the spare 4 too");
    }

    /// Multiprocessors of 3/4 and 1/4, and of 5/8 and 3/8, by device.
    type Pairs = [[(u32, u32); 2]; DEVICES.len()];

    /// By compute capability.
    const UNEQUAL: [(u32, Pairs); 4] = [
        (
            7,
            [
                [(30, 10), (24, 16)],
                [(60, 20), (50, 30)],
                [(80, 28), (66, 42)],
                [(98, 34), (82, 50)],
                [(110, 38), (92, 56)],
            ],
        ),
        (
            8,
            [
                [(28, 12), (24, 16)],
                [(60, 20), (48, 32)],
                [(80, 28), (64, 44)],
                [(96, 36), (80, 52)],
                [(108, 40), (92, 56)],
            ],
        ),
        (9, HOPPER),
        (10, HOPPER),
    ];

    /// As near as slices of eight get; 4 are in none from 108 on. The smallest has five slices,
    /// and these two pairs.
    const HOPPER: Pairs = [
        [(32, 8), (24, 16)],
        [(56, 24), (48, 32)],
        [(72, 32), (64, 40)],
        [(96, 32), (80, 48)],
        [(104, 40), (88, 56)],
    ];

    #[test]
    fn unequal_pairs_are_of_the_same_slices_as_equal_ones() {
        for (major, devices) in UNEQUAL {
            for (sms, pairs) in DEVICES.into_iter().zip(devices) {
                let layout = layout(major, sms);
                let spec = spec(&layout);
                let whole = spec.partitions[0].atoms;
                for (larger, smaller) in pairs {
                    let of = |atoms: AtomSet| {
                        let first = atoms.iter().next() == Some(0);
                        first && atoms != whole && layout.sms(atoms) == larger
                    };
                    let found = spec.partitions.iter().find(|one| of(one.atoms));
                    let found = found.unwrap_or_else(|| panic!("{larger} of {sms}, {major}"));
                    let rest = whole.without(found.atoms);
                    assert!(spec.partitions.iter().any(|one| one.atoms == rest));
                    assert_eq!(layout.sms(rest), smaller, "{larger} of {sms}, {major}");
                    assert_eq!(larger + smaller + layout.spare(), sms);
                }
            }
        }
    }

    #[test]
    fn partitions_are_runs_and_every_part_has_its_complement() {
        for major in [7, 8, 9, 10] {
            for sms in DEVICES {
                let layout = layout(major, sms);
                let spec = spec(&layout);
                spec.validate().expect("well formed");
                let all: BTreeSet<AtomSet> = spec.partitions.iter().map(|one| one.atoms).collect();
                assert_eq!(all.len(), spec.partitions.len(), "each once");
                let whole = spec.partitions[0].atoms;
                for partition in &spec.partitions[1..] {
                    let rest = whole.without(partition.atoms);
                    let at_an_edge = partition.atoms.iter().any(|atom| atom == 0)
                        || partition.atoms.iter().any(|atom| atom + 1 == spec.slices.0);
                    assert_eq!(all.contains(&rest), at_an_edge, "{partition:?}");
                    assert!(layout.sms(partition.atoms) < sms);
                }
                // The finest are even to a slice.
                let finest = spec.partitions.iter().map(|one| one.share().0).min();
                let most = spec.slices.0.div_ceil(PARTS.min(spec.slices.0));
                assert!(
                    finest.is_some_and(|finest| finest + 1 >= most),
                    "{finest:?}"
                );
            }
        }
    }

    #[test]
    fn the_drivers_answer_is_taken_as_it_is() {
        // Six groups of 16 where eight were asked for, as an H200 answers to groups of 11.
        let fewer = SmLayout::new(132, vec![16; 6]);
        assert_eq!((fewer.slices().0, fewer.spare()), (6, 36));
        spec(&fewer).validate().expect("well formed");
        let uneven = SmLayout::new(30, vec![8, 16]);
        assert_eq!(uneven.sms(AtomSet::range(1, 1)), 16);
    }

    #[test]
    fn a_card_too_small_to_split_is_one_slice() {
        for sms in [2, 8, 14] {
            let small = layout(9, sms);
            assert!(!small.is_divided());
            let spec = spec(&small);
            spec.validate().expect("well formed");
            assert_eq!((spec.slices.0, spec.partitions.len()), (1, 1));
            assert_eq!(small.sms(spec.partitions[0].atoms), sms);
        }
    }
}
