//! Which device hosts which model, where there are several.

use crate::id::{BatchSize, Share};
use crate::profile::ModelProfile;
use crate::sim::profiled::ServiceTable;
use crate::time::Nanos;
use crate::workload::{ArrivalProcess, ModelLoad};

/// One device, in the unit of demands.
pub(super) const WHOLE: u64 = 1_000_000;

/// A model that asks for more than this part of a device may be split before it asks for a
/// whole one, where that fills the devices evenly. Splitting costs batch size: at half a
/// device there is as much to lose as to gain.
const SPLIT_FROM: u64 = WHOLE / 2;

/// Rounds of local search at most; each makes the fullest device less full, so few are
/// needed.
const ROUNDS: usize = 10_000;

/// One replica of a model on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// The model's index in the workload.
    pub model: usize,
    /// On how many devices it is: each gets an equal part of the arrivals.
    pub of: u32,
}

/// What runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The replicas of each device, by model.
    pub devices: Vec<Vec<Replica>>,
    /// What is asked of each device, in millionths of it.
    pub loads: Vec<u64>,
}

/// What a model asks for, in millionths of a device: its knee's slices over the time that
/// its runs take, at the largest batch that can be assembled within its objective, and run
/// within it. A
/// saturated model asks for its knee all the time.
pub(super) fn demand(
    load: &ModelLoad,
    profile: &ModelProfile,
    table: &ServiceTable,
    end: Nanos,
) -> u64 {
    let slices = table.slices();
    let knee = profile.knee.tolerance.map_or(slices, Share).min(slices);
    let part = f64::from(knee.0) / f64::from(slices.0);
    if load.arrivals == ArrivalProcess::Saturated {
        return millionths(part);
    }
    let items = load.arrivals.mean_rate(end) * f64::from(load.batch.0);
    let slo = load.slo.as_secs_f64();
    let run = |batch: u32| {
        let service = table.service(BatchSize(batch), knee);
        service.alone.as_secs_f64()
    };
    // To the nanosecond, as a batch may take exactly its objective to assemble.
    let within = slo + 1e-9;
    let fits = |&batch: &u32| run(batch).max(f64::from(batch) / items) <= within;
    let largest = load.max_batch_size.map_or(profile.max_batch, |most| most.0);
    let batch = (1..=largest.min(table.max_batch().0)).rev().find(fits);
    let batch = batch.unwrap_or(1);
    millionths(items / f64::from(batch) * run(batch) * part)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a demand is not negative, and saturates far above any real one"
)]
fn millionths(part: f64) -> u64 {
    (part * WHOLE as f64).ceil() as u64
}

impl Placement {
    /// Places models on `devices` devices: the largest demand first, on the emptiest device
    /// that does not have the model yet; then moves and swaps as long as the fullest device
    /// becomes less full. A model that asks for more than one device can give is split
    /// evenly, and so is every model in `everywhere`, over all devices. Devices that would have
    /// nothing to do get replicas too, each of the model whose replicas ask for most.
    ///
    /// # Panics
    /// Where there are no devices.
    pub fn new(demands: &[u64], everywhere: &[bool], devices: u32) -> Self {
        assert!(devices > 0, "models are placed on no device");
        let of = replicas(demands, everywhere, devices);
        let mut parts = Vec::new();
        for (model, (&demand, &of)) in demands.iter().zip(&of).enumerate() {
            let part = demand.div_ceil(u64::from(of));
            parts.extend((0..of).map(|_| (part, Replica { model, of })));
        }
        // Largest first; of equal ones by model.
        parts.sort_by_key(|&(part, replica)| (std::cmp::Reverse(part), replica));
        let mut bins = Bins::new(devices as usize);
        for part in parts {
            bins.add(part);
        }
        let mut rounds = 0;
        while rounds < ROUNDS && bins.improve() {
            rounds += 1;
        }
        bins.into_placement()
    }

    /// What is asked of the fullest device, in millionths of it.
    pub fn fullest(&self) -> u64 {
        self.loads.iter().copied().max().unwrap_or(0)
    }
}

/// On how many devices each model is to be.
fn replicas(demands: &[u64], everywhere: &[bool], devices: u32) -> Vec<u32> {
    let total: u64 = demands.iter().sum();
    let cap = (total / u64::from(devices)).clamp(SPLIT_FROM, WHOLE);
    let models = demands.iter().zip(everywhere);
    let needed = models.map(|(&demand, &everywhere)| {
        let needed = u32::try_from(demand.div_ceil(cap)).unwrap_or(u32::MAX);
        if everywhere {
            devices
        } else {
            needed.clamp(1, devices)
        }
    });
    let mut of: Vec<u32> = needed.collect();
    let idle = u64::from(devices).saturating_sub(of.iter().copied().map(u64::from).sum());
    for _ in 0..idle {
        // No model is on all devices yet, as then none would be idle. Of equal ones the first.
        let most = (0..of.len()).rev().max_by(|&a, &b| {
            let of = |model: usize| u128::from(of[model]);
            (u128::from(demands[a]) * of(b)).cmp(&(u128::from(demands[b]) * of(a)))
        });
        if let Some(model) = most {
            of[model] += 1;
        }
    }
    of
}

type Part = (u64, Replica);

struct Bins {
    bins: Vec<Vec<Part>>,
    loads: Vec<u64>,
}

impl Bins {
    fn new(count: usize) -> Self {
        Self {
            bins: vec![Vec::new(); count],
            loads: vec![0; count],
        }
    }

    fn has(&self, bin: usize, model: usize) -> bool {
        self.bins[bin].iter().any(|(_, known)| known.model == model)
    }

    /// Puts a part on the emptiest device without its model. There is one: a model has at
    /// most as many replicas as there are devices.
    fn add(&mut self, part: Part) {
        let free = (0..self.bins.len()).filter(|&bin| !self.has(bin, part.1.model));
        if let Some(bin) = free.min_by_key(|&bin| (self.loads[bin], self.bins[bin].len(), bin)) {
            self.bins[bin].push(part);
            self.loads[bin] += part.0;
        }
    }

    /// Moves a part off the fullest device, or swaps one of its parts for a smaller one, where
    /// that leaves both devices less full than it was. `false` where nothing does.
    fn improve(&mut self) -> bool {
        let Some(full) = (0..self.bins.len()).max_by_key(|&bin| self.loads[bin]) else {
            return false;
        };
        let mut best: Option<(u64, usize, usize, Option<usize>)> = None;
        for (place, &(size, replica)) in self.bins[full].iter().enumerate() {
            for bin in (0..self.bins.len()).filter(|&bin| bin != full) {
                let mut consider = |back: u64, other: Option<usize>| {
                    let there = self.loads[bin] + size - back;
                    let here = self.loads[full] - size + back;
                    let fullest = there.max(here);
                    let known = best.map_or(self.loads[full], |(fullest, ..)| fullest);
                    if fullest < known {
                        best = Some((fullest, place, bin, other));
                    }
                };
                if self.has(bin, replica.model) {
                    continue;
                }
                consider(0, None);
                for (other, &(back, theirs)) in self.bins[bin].iter().enumerate() {
                    if back < size && !self.has(full, theirs.model) {
                        consider(back, Some(other));
                    }
                }
            }
        }
        let Some((_, place, bin, other)) = best else {
            return false;
        };
        let moved = self.bins[full].swap_remove(place);
        self.loads[full] -= moved.0;
        if let Some(other) = other {
            let back = self.bins[bin].swap_remove(other);
            self.loads[bin] -= back.0;
            self.loads[full] += back.0;
            self.bins[full].push(back);
        }
        self.loads[bin] += moved.0;
        self.bins[bin].push(moved);
        true
    }

    fn into_placement(self) -> Placement {
        let devices = self.bins.into_iter().map(|bin| {
            let mut replicas: Vec<Replica> = bin.into_iter().map(|(_, replica)| replica).collect();
            replicas.sort_unstable();
            replicas
        });
        Placement {
            devices: devices.collect(),
            loads: self.loads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(demands: &[u64], devices: u32) -> Placement {
        Placement::new(demands, &vec![false; demands.len()], devices)
    }

    /// The least that the fullest device can be asked for, of all ways to place whole models.
    fn brute_force(demands: &[u64], devices: u32) -> u64 {
        let ways = u64::from(devices).pow(u32::try_from(demands.len()).expect("few"));
        let fullest = (0..ways).map(|mut way| {
            let mut loads = vec![0; devices as usize];
            for demand in demands {
                loads[usize::try_from(way % u64::from(devices)).expect("few")] += demand;
                way /= u64::from(devices);
            }
            loads.into_iter().max().unwrap_or(0)
        });
        fullest.min().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn placements_are_near_the_best_and_whole(
            demands in prop::collection::vec(1..=WHOLE / 2, 1..7),
            devices in 1_u32..4,
        ) {
            let placement = place(&demands, devices);
            let best = brute_force(&demands, devices);
            // None is split unless a device would be idle: the search has what brute force has.
            prop_assume!(devices as usize <= demands.len());
            let mut placed: Vec<usize> =
                placement.devices.iter().flatten().map(|replica| replica.model).collect();
            placed.sort_unstable();
            prop_assert!(placed.into_iter().eq(0..demands.len()));
            prop_assert!(placement.fullest() >= best);
            prop_assert!(placement.fullest() <= best + best / 6, "{} for {best}", placement.fullest());
        }

        #[test]
        fn replicas_of_a_model_are_on_different_devices(
            demands in prop::collection::vec(1..=5 * WHOLE, 1..7),
            devices in 1_u32..9,
        ) {
            let placement = place(&demands, devices);
            let mut seen = vec![0_u32; demands.len()];
            let mut of = vec![0_u32; demands.len()];
            for device in &placement.devices {
                prop_assert!(device.windows(2).all(|pair| pair[0].model < pair[1].model));
                for replica in device {
                    seen[replica.model] += 1;
                    of[replica.model] = replica.of;
                }
            }
            prop_assert_eq!(seen, of);
        }
    }

    #[test]
    fn a_model_that_one_device_cannot_hold_is_split() {
        let placement = place(&[5 * WHOLE / 2, WHOLE / 2], 3);
        assert_eq!(placement.devices.iter().map(Vec::len).sum::<usize>(), 4);
        let large: Vec<u32> = placement
            .devices
            .iter()
            .flatten()
            .filter(|replica| replica.model == 0)
            .map(|replica| replica.of)
            .collect();
        assert_eq!(large, [3, 3, 3]);
        let everywhere = Placement::new(&[1, 2], &[true, false], 2);
        assert_eq!(everywhere.devices.iter().map(Vec::len).sum::<usize>(), 3);
    }

    #[test]
    fn no_device_is_left_idle() {
        assert_eq!(place(&[1], 1_000).devices.len(), 1_000);
        let placement = place(&[WHOLE / 20, WHOLE / 5, WHOLE / 5], 7);
        assert!(placement.devices.iter().all(|device| device.len() == 1));
        // A device for each, then to whose replicas ask for most: the first of equal ones first.
        let of = |model| {
            let mut replicas = placement.devices.iter().flatten();
            replicas
                .find(|replica| replica.model == model)
                .map(|found| found.of)
        };
        assert_eq!([0, 1, 2].map(of), [Some(1), Some(3), Some(3)]);
        assert!(
            place(&[0, 0], 5)
                .devices
                .iter()
                .all(|device| !device.is_empty())
        );
    }
}
