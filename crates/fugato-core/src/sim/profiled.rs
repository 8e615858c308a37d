//! Service times out of measured profiles.

use super::contention::Part;
use super::service::{Service, ServiceTime};
use crate::device::{ATOMS_MAX, AtomSet};
use crate::id::{BatchSize, ModelId, Share};
use crate::profile::{Changeover, Estimate, Interference, Load, ModelProfile, Surface};
use crate::sched::Start;
use crate::time::Nanos;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;
use std::sync::Arc;

/// The standard normal distribution's 95th percentile.
const NORMAL_P95: f64 = 1.644_853_626_951_472_7;

/// The first random stream that noise uses; those of arrivals count from 0.
const NOISE_STREAM: u64 = 1 << 63;

/// The service of one model, or one leg of it, at every batch and share of a device.
///
/// # Source
/// The profile's measured point; else its fit; else, between two measured batches of one
/// share, the line between them. A share that the profile does not know counts as the
/// next smaller one that it knows: more slices than were measured do not help.
///
/// How much legs disturb each other is the profile's [`Interference`] where it has one, and
/// is taken from the points alone against those with all other slices busy, where the same
/// model ran: if these take `1 + c` times as long, sensitivity and demand are both `sqrt(c)`.
/// Where there are both, both numbers of the first are multiplied by what makes their product
/// `c` ([`Interference::at`]), so that each batch, share and leg keeps its own. A profile
/// with neither has no interference.
///
/// What a run costs more right after another model's is the profile's at the nearest batch of
/// the share, or of the next smaller share that it knows; a profile without changeovers has none.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    max_batch: BatchSize,
    slices: Share,
    /// `[batch - 1][share - 1]`, row-major.
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    service: Service,
    /// Standard deviation of the logarithm of the time.
    sigma: f64,
    /// What it takes longer right after another model's run.
    changeover: Nanos,
}

/// What a surface says of a point: the median and the 95th percentile alone in seconds, and how
/// much longer it takes with all other slices busy, as a fraction, where that is known.
#[derive(Clone, Copy, Debug)]
struct Point {
    median_s: f64,
    p95_s: f64,
    contention: Option<f64>,
}

impl ServiceTable {
    /// The table of a model profiled on a device of `profiled` slices, for a device of
    /// `slices` slices and batches up to `max_batch`; `None` where the profile lacks the
    /// time of some batch at every share up to one that is asked for.
    pub fn new(
        model: &ModelProfile,
        profiled: Share,
        slices: Share,
        max_batch: BatchSize,
    ) -> Option<Self> {
        let surface = Surface::new(model, profiled.0);
        let mut batches: Vec<u32> = model.grid.iter().map(|point| point.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let useful = model.knee.tolerance.map_or(Share(u16::MAX), Share);
        let mut cells = Vec::new();
        for batch in 1..=max_batch.0 {
            let mut known = None;
            for share in 1..=slices.0 {
                known = point(&surface, &batches, batch, share).or(known);
                cells.push(known);
            }
            // Shares too small to have been measured: the smallest that was.
            let first = cells.len() - usize::from(slices.0);
            let least = cells[first..].iter().find_map(|cell| *cell)?;
            for cell in &mut cells[first..] {
                cell.get_or_insert(least);
            }
        }
        let places = (1..=max_batch.0).flat_map(|batch| {
            let shares = 1..=slices.0;
            shares.map(move |share| (batch, share))
        });
        let cells = cells.into_iter().flatten().zip(places);
        let cells = cells.map(|(point, place)| {
            let changeover = changeover(&model.changeovers, place);
            point.cell(model.interference, useful, changeover)
        });
        Some(Self {
            max_batch,
            slices,
            cells: cells.collect(),
        })
    }

    /// The table of a leg that has this part of its model's time, from the table that its own
    /// points give: what a changeover costs is divided as the time is, since a leg brings its
    /// part of the weights.
    #[must_use]
    pub(super) fn of_leg(mut self, whole: &Self) -> Self {
        for (leg, whole) in self.cells.iter_mut().zip(&whole.cells) {
            let (part, all) = (leg.service.alone, whole.service.alone);
            leg.changeover = whole
                .changeover
                .scaled(part.as_nanos(), all.as_nanos().max(1));
        }
        self
    }

    /// What a run asks for; the batch and the share count as the largest known where they
    /// are larger.
    pub fn service(&self, batch: BatchSize, share: Share) -> Service {
        self.cell(batch, share).service
    }

    /// The largest batch it knows.
    pub fn max_batch(&self) -> BatchSize {
        self.max_batch
    }

    /// Slices of the device it is for.
    pub fn slices(&self) -> Share {
        self.slices
    }

    fn cell(&self, batch: BatchSize, share: Share) -> Cell {
        let batch = batch.0.clamp(1, self.max_batch.0) as usize - 1;
        let share = usize::from(share.0.clamp(1, self.slices.0)) - 1;
        self.cells[batch * usize::from(self.slices.0) + share]
    }
}

fn point(surface: &Surface, batches: &[u32], batch: u32, share: u16) -> Option<Point> {
    let at = |batch| {
        let alone = surface.under(batch, share, Load::Alone)?;
        let busy = surface.under(batch, share, Load::Busy);
        Some(Point::new(alone, busy))
    };
    at(batch).or_else(|| {
        let below = *batches.iter().rev().find(|&&known| known < batch)?;
        let above = *batches.iter().find(|&&known| known > batch)?;
        let part = f64::from(batch - below) / f64::from(above - below);
        Some(at(below)?.towards(at(above)?, part))
    })
}

/// See [`ServiceTable`].
fn changeover(known: &[Changeover], (batch, share): (u32, u16)) -> Nanos {
    let nearest = known.iter().min_by_key(|known| {
        // A smaller share before a larger one, however near.
        let beyond = (known.share > share, known.share.abs_diff(share));
        (beyond, known.batch.abs_diff(batch), known.batch)
    });
    nearest.map_or(Nanos::ZERO, |known| Nanos::from_secs_f64(known.extra_s))
}

impl Point {
    fn new(alone: Estimate, busy: Option<Estimate>) -> Self {
        let busy = busy.filter(|busy| !busy.neighbours_unknown);
        Self {
            median_s: alone.median_s,
            p95_s: alone.p95_s,
            contention: busy.map(|busy| busy.median_s / alone.median_s - 1.0),
        }
    }

    /// The point at `part` of the way to another.
    fn towards(self, other: Self, part: f64) -> Self {
        let between = |from: f64, to: f64| from + part * (to - from);
        Self {
            median_s: between(self.median_s, other.median_s),
            p95_s: between(self.p95_s, other.p95_s),
            contention: match (self.contention, other.contention) {
                (Some(from), Some(to)) => Some(between(from, to)),
                (known, None) | (None, known) => known,
            },
        }
    }

    fn cell(self, model: Option<Interference>, useful: Share, changeover: Nanos) -> Cell {
        let own = Interference::of_own_kind(self.contention.unwrap_or(0.0));
        let Interference {
            sensitivity,
            demand,
        } = model.map_or(own, |model| model.at(self.contention));
        Cell {
            service: Service {
                alone: Nanos::from_secs_f64(self.median_s),
                sensitivity: Part::new(sensitivity),
                demand: Part::new(demand),
                useful,
            },
            sigma: (self.p95_s / self.median_s).ln().max(0.0) / NORMAL_P95,
            changeover,
        }
    }
}

/// Service times of models, leg by leg, from their profiles.
#[derive(Debug)]
pub struct ProfiledService {
    /// `[model][leg]`, by [`ModelId`] and [`LegIndex`](crate::LegIndex).
    tables: Vec<Arc<[ServiceTable]>>,
    /// Of whole models, for tasks that run unsplit, by [`ModelId`]; empty where none does.
    wholes: Vec<Arc<ServiceTable>>,
    /// By [`PartitionId`](crate::PartitionId).
    atoms: Vec<AtomSet>,
    /// By atom, the model that last ran there; empty where no model knows what that costs.
    last: Vec<Option<ModelId>>,
    /// By model; empty without noise.
    noise: Vec<ChaCha8Rng>,
}

impl ProfiledService {
    /// Times for the models with these tables, `[model][leg]`, ids counted from 0, on a
    /// device whose partitions cover these atoms.
    pub fn new(tables: Vec<Arc<[ServiceTable]>>, atoms: Vec<AtomSet>) -> Self {
        let mut cells = tables
            .iter()
            .flat_map(|legs| legs.iter())
            .flat_map(|leg| &leg.cells);
        let atoms_noted = match cells.any(|cell| cell.changeover > Nanos::ZERO) {
            true => usize::from(ATOMS_MAX),
            false => 0,
        };
        Self {
            last: vec![None; atoms_noted],
            tables,
            wholes: Vec::new(),
            atoms,
            noise: Vec::new(),
        }
    }

    /// Gives the times of whole models, for tasks that run unsplit: without them such a task
    /// panics.
    #[must_use]
    pub fn with_wholes(mut self, wholes: Vec<Arc<ServiceTable>>) -> Self {
        self.wholes = wholes;
        self
    }

    /// Draws each time from the lognormal distribution with the profile's median and 95th
    /// percentile. Each model has a stream of its own.
    #[must_use]
    pub fn with_noise(mut self, seed: u64) -> Self {
        let stream = |model: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(NOISE_STREAM + model);
            rng
        };
        let models = (0..).zip(&self.tables);
        self.noise = models.map(|(model, _)| stream(model)).collect();
        self
    }
}

impl ProfiledService {
    /// Notes that a model runs next on these atoms; says whether another one ran last on any.
    fn change_over(&mut self, atoms: AtomSet, model: ModelId) -> bool {
        if self.last.is_empty() {
            return false;
        }
        let mut changed = false;
        for atom in atoms.iter() {
            let last = self.last[usize::from(atom)].replace(model);
            changed |= last.is_some_and(|last| last != model);
        }
        changed
    }
}

impl ServiceTime for ProfiledService {
    fn service(&mut self, start: &Start) -> Service {
        let model = start.model.0 as usize;
        let atoms = self.atoms[usize::from(start.partition.0)];
        let table = match start.unsplit {
            true => &*self.wholes[model],
            false => &self.tables[model][usize::from(start.leg.0)],
        };
        let Cell {
            mut service,
            sigma,
            changeover,
        } = table.cell(start.batch, Share(atoms.count()));
        if self.change_over(atoms, start.model) {
            service.alone += changeover;
        }
        if sigma > 0.0
            && let Some(rng) = self.noise.get_mut(model)
        {
            let factor = (sigma * normal(rng)).exp();
            service.alone = Nanos::from_secs_f64(service.alone.as_secs_f64() * factor);
        }
        service
    }
}

/// A draw from the standard normal distribution (Box and Muller's transform).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::super::contention::{ONE, Occupant, TimeSlicing, paces};
    use super::*;
    use crate::id::{DeviceId, LaneId, LegIndex, PartitionId, SlotIndex, TaskId};
    use crate::profile::GridPoint;
    use crate::time::Timestamp;

    /// 100 us per item over the share; 44 % longer with the other slices busy; the 95th
    /// percentile is 20 % above the median. Batches 1 and 5, shares 1 and 2 of 4.
    fn profile() -> ModelProfile {
        let mut profile = ModelProfile::new("model", "hash", 5);
        for (batch, share, busy) in [1, 5]
            .into_iter()
            .flat_map(|batch| [(batch, 1, false), (batch, 2, false), (batch, 1, true)])
        {
            let alone = f64::from(batch) * 100e-6 / f64::from(share);
            let median_s = if busy { alone * 1.44 } else { alone };
            profile.grid.push(GridPoint {
                batch,
                share,
                neighbours: if busy { 4 - share } else { 0 },
                median_s: Some(median_s),
                p95_s: Some(1.2 * median_s),
                low_s: None,
                high_s: None,
                repeats: 9,
                failed: None,
            });
        }
        profile
    }

    fn table() -> ServiceTable {
        ServiceTable::new(&profile(), Share(4), Share(4), BatchSize(5)).expect("it answers")
    }

    fn micros(table: &ServiceTable, batch: u32, share: u16) -> u64 {
        let alone = table.service(BatchSize(batch), Share(share)).alone;
        alone.as_nanos() / 1_000
    }

    #[test]
    fn points_between_are_on_the_line_and_larger_shares_do_not_help() {
        let table = table();
        assert_eq!(micros(&table, 1, 1), 100);
        assert_eq!(micros(&table, 5, 2), 250);
        assert_eq!(micros(&table, 3, 1), 300);
        assert_eq!(micros(&table, 3, 4), 150);
        let service = table.service(BatchSize(3), Share(1));
        assert_eq!(service.sensitivity, Part::new(0.44_f64.sqrt()));
        assert_eq!(service.demand, service.sensitivity);
        assert!(ServiceTable::new(&profile(), Share(4), Share(4), BatchSize(6)).is_none());
    }

    fn start(model: u32, partition: u16) -> Start {
        Start {
            device: DeviceId(0),
            task: TaskId(0),
            model: ModelId(model),
            leg: LegIndex(0),
            partition: PartitionId(partition),
            lane: LaneId(0),
            slot: SlotIndex(0),
            batch: BatchSize(1),
            unsplit: false,
            not_before: Timestamp::ZERO,
            requests: Vec::new(),
        }
    }

    #[test]
    fn a_run_after_another_model_costs_its_changeover() {
        let changeover = |batch, share, micros: f64| Changeover {
            batch,
            share,
            extra_s: micros * 1e-6,
            repeats: 7,
        };
        let mut known = profile();
        known.changeovers = vec![changeover(1, 1, 30.0), changeover(1, 2, 20.0)];
        let table =
            |profile: &ModelProfile| ServiceTable::new(profile, Share(4), Share(4), BatchSize(5));
        let whole = table(&known).expect("it answers");
        let halves = {
            let mut half = profile();
            for point in &mut half.grid {
                point.median_s = point.median_s.map(|median_s| median_s / 2.0);
            }
            table(&half).expect("it answers").of_leg(&whole)
        };
        let models = vec![
            Arc::from([whole]),
            Arc::from([halves]),
            Arc::from([table(&profile()).expect("it answers")]),
        ];
        let atoms = [(0, 1), (1, 1), (0, 2), (0, 4)];
        let atoms = atoms.map(|(first, count)| AtomSet::range(first, count));
        let mut service = ProfiledService::new(models, atoms.to_vec());
        let mut micros = |model, partition| {
            let service = service.service(&start(model, partition));
            service.alone.as_nanos() / 1_000
        };
        // Nothing ran before; then itself; then another model, and on one of two atoms.
        assert_eq!([micros(0, 0), micros(0, 0)], [100, 100]);
        assert_eq!([micros(2, 0), micros(0, 0)], [100, 130]);
        assert_eq!([micros(2, 1), micros(0, 2)], [100, 70]);
        // A share that was not looked at costs what the next smaller one does.
        assert_eq!([micros(2, 0), micros(0, 3)], [100, 70]);
        // A leg of half the model's time has half of it.
        assert_eq!([micros(2, 0), micros(1, 0)], [100, 65]);
    }

    /// Of a model with these numbers.
    fn service(sensitivity: f64, demand: f64, share: u16) -> Service {
        let mut profile = profile();
        profile.interference = Some(Interference {
            sensitivity,
            demand,
        });
        let table = ServiceTable::new(&profile, Share(4), Share(4), BatchSize(5));
        table
            .expect("it answers")
            .service(BatchSize(1), Share(share))
    }

    #[test]
    fn what_moves_much_slows_what_waits_and_not_what_computes() {
        // On two slices each, of which nothing was measured beside its own kind.
        let (moves, waits, computes) = (
            service(0.8, 0.9, 2),
            service(0.6, 0.1, 2),
            service(0.0, 0.0, 2),
        );
        let slow = |one: Service, other: Service| {
            let occupant = |service: Service, first| Occupant {
                urgent: false,
                atoms: AtomSet::range(first, 2),
                share: Share(2),
                sensitivity: service.sensitivity,
                demand: service.demand,
            };
            let both = [occupant(one, 0), occupant(other, 2)];
            let mut found = Vec::new();
            paces(&both, Share(4), TimeSlicing::FREE, &mut found);
            found[0].slow as f64 / ONE as f64
        };
        for (one, other, expected) in [
            (waits, moves, 1.54),
            (moves, waits, 1.08),
            (computes, moves, 1.0),
            (waits, computes, 1.0),
            (waits, waits, 1.06),
        ] {
            let found = slow(one, other);
            assert!((found - expected).abs() < 1e-5, "{found}, not {expected}");
        }
    }

    #[test]
    fn points_keep_what_their_own_kind_costs_them() {
        // On one slice its own kind makes it take 0.44 longer.
        let parts = |service: Service| {
            let part = |part: Part| part.steps() as f64 / ONE as f64;
            (part(service.sensitivity), part(service.demand))
        };
        let (sensitivity, demand) = parts(service(0.8, 0.9, 1));
        assert!((sensitivity * demand - 0.44).abs() < 1e-5);
        assert!((sensitivity / demand - 0.8 / 0.9).abs() < 1e-5);
        // Within twice of what is known of the model.
        let (sensitivity, demand) = parts(service(0.3, 0.1, 1));
        assert!((sensitivity - 0.6).abs() < 1e-5 && (demand - 0.2).abs() < 1e-5);
        // Its own kind tells nothing of a model that demands nothing.
        let (sensitivity, demand) = parts(service(0.3, 0.0, 1));
        assert!((sensitivity - 0.3).abs() < 1e-5 && demand == 0.0);
    }

    #[test]
    fn noise_has_the_median_and_the_tail_of_the_profile() {
        let start = start(0, 0);
        let service =
            || ProfiledService::new(vec![Arc::new([table()])], vec![AtomSet::range(0, 1)]);
        let draw = |mut service: ProfiledService| -> Vec<u64> {
            let times = (0..10_001).map(|_| service.service(&start).alone.as_nanos());
            times.collect()
        };
        assert!(draw(service()).iter().all(|&time| time == 100_000));
        let mut noisy = draw(service().with_noise(1));
        assert_eq!(noisy, draw(service().with_noise(1)));
        noisy.sort_unstable();
        let (median, tail) = (noisy[5_000], noisy[9_500]);
        assert!(median.abs_diff(100_000) < 1_000, "{median}");
        assert!(tail.abs_diff(120_000) < 1_500, "{tail}");
    }
}
