//! What the policy remembers of latencies: of a batch of a model, in each share of a device,
//! the time from each leg on.

use crate::flat::FlatMap;
use crate::id::{BatchSize, DeviceId, LegIndex, ModelId, Share};
use crate::sched::View;
use crate::time::Nanos;

/// Tasks of a model after which its times are asked for anew: a median that is learned while
/// serving rests on as many.
const ANEW_AFTER: u64 = 64;

/// How near to the best time counts as having all that is of use.
const KNEE: (u64, u64) = (21, 20);

/// Tables of all batches that were met, kept up as knowledge changes.
#[derive(Debug, Default)]
pub(super) struct Tables {
    configuration: u64,
    ids: FlatMap<(DeviceId, ModelId, BatchSize), TableId>,
    tables: Vec<Table>,
    /// Tasks of each model that ended.
    ran: FlatMap<ModelId, u64>,
}

/// What a table rests on: the model's knowledge, and how often it was asked for anew.
pub(super) type Basis = (u32, u64);

/// Which of the [`Tables`]: to be asked for anew with each decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableId(usize);

/// The place of a share among those of a device.
pub(super) type Place = usize;

/// The times of one batch, in the shares of one device.
#[derive(Debug, Default)]
pub(super) struct Table {
    basis: Basis,
    /// What had been told of the model; `None` before it was made.
    told: Option<u64>,
    /// Rising; empty only of a table that was not made yet.
    shares: Vec<Share>,
    /// `[place][leg]`: the time of this leg and those after it; one entry more than there
    /// are legs, the last of them zero. Empty where nothing is known of the model.
    rest: Vec<Vec<Nanos>>,
    /// By leg, where anything is known.
    best: Vec<Best>,
}

/// The best shares for all from a leg on.
#[derive(Clone, Copy, Debug)]
struct Best {
    fastest: Place,
    knee: Place,
}

impl Tables {
    /// Counts a task that ended; whether its model's times are to be asked for anew.
    pub(super) fn ran(&mut self, model: ModelId) -> bool {
        let ran = self.ran.entry(model);
        *ran += 1;
        ran.is_multiple_of(ANEW_AFTER)
    }

    /// What is known of a model: while it stays, so do its tables.
    pub(super) fn basis(&self, view: &View<'_>, model: ModelId) -> Basis {
        let ran = self.ran.get(model).copied().unwrap_or(0);
        (view.knowledge(model), ran / ANEW_AFTER)
    }

    /// The times of a batch.
    ///
    /// # Cost
    /// As [`find`](Self::find).
    pub(super) fn of(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        model: ModelId,
        batch: BatchSize,
    ) -> &Table {
        let id = self.find(view, device, model, batch);
        self.get(id)
    }

    /// The table of a batch, for the rest of this decision.
    ///
    /// # Cost
    /// A look-up; once in [`ANEW_AFTER`] tasks the device's shares times the model's legs of
    /// predictions.
    pub(super) fn find(
        &mut self,
        view: &View<'_>,
        device: DeviceId,
        model: ModelId,
        batch: BatchSize,
    ) -> TableId {
        if self.configuration != view.configuration() {
            self.configuration = view.configuration();
            self.ids = FlatMap::default();
            self.tables.clear();
            self.ran.retain(|model| view.knows(model));
        }
        let basis = self.basis(view, model);
        let key = (device, model, batch);
        let known = self.ids.get(key).copied();
        let id = known.unwrap_or_else(|| {
            let id = TableId(self.tables.len());
            self.tables.push(Table::default());
            self.ids.insert(key, id);
            id
        });
        let table = &mut self.tables[id.0];
        // What is unknown may be known after any leg of the model.
        let may_know = || table.told != Some(view.told(model));
        if table.basis != basis || !table.is_known() && may_know() {
            let new = Table::new(view, device, (model, batch), basis);
            let told = Some(view.told(model));
            *table = Table { told, ..new };
        }
        id
    }

    /// A table that was found in this decision.
    pub(super) fn get(&self, id: TableId) -> &Table {
        &self.tables[id.0]
    }
}

impl Table {
    fn new(
        view: &View<'_>,
        device: DeviceId,
        (model, batch): (ModelId, BatchSize),
        basis: Basis,
    ) -> Self {
        let shares: Vec<Share> = view.shares(device).collect();
        let slices = view.slices(device);
        let known = shares.iter().map(|&share| {
            // Reckoned with busy neighbours, which a device that is shared has.
            let place = (share, Share(slices.0 - share.0));
            let quantile = view.admission_quantile();
            let times = (0..view.legs(model)).map(LegIndex).map(|leg| {
                let known = view.predict_leg((model, leg), batch, place, quantile);
                known.map(|known| known.time)
            });
            let times: Option<Vec<Nanos>> = times.collect();
            times.map(|times| sums_from(&times))
        });
        let rest = filled(&shares, known.collect());
        Self::of_times(basis, shares, rest)
    }

    /// From the times `[place][leg]`, with one entry more than there are legs.
    fn of_times(basis: Basis, shares: Vec<Share>, rest: Vec<Vec<Nanos>>) -> Self {
        let legs = rest.first().map_or(0, Vec::len);
        let best = (0..legs).filter_map(|leg| best_of(&rest, leg)).collect();
        Self {
            basis,
            told: None,
            shares,
            rest,
            best,
        }
    }

    /// Whether anything is known of the batch.
    pub(super) fn is_known(&self) -> bool {
        !self.rest.is_empty()
    }

    pub(super) fn share(&self, place: Place) -> Share {
        self.shares[place]
    }

    /// The largest share.
    pub(super) fn widest(&self) -> Place {
        self.shares.len() - 1
    }

    /// The largest share of at most `slices`.
    pub(super) fn within(&self, slices: u16) -> Option<Place> {
        let fits = self.shares.partition_point(|share| share.0 <= slices);
        fits.checked_sub(1)
    }

    /// The time from a leg on.
    pub(super) fn rest(&self, place: Place, leg: u16) -> Nanos {
        self.rest[place][usize::from(leg)]
    }

    /// The time of one leg.
    pub(super) fn leg(&self, place: Place, leg: u16) -> Nanos {
        self.rest(place, leg)
            .saturating_sub(self.rest(place, leg + 1))
    }

    /// The smallest share in which all from a leg on takes no longer than `within`.
    pub(super) fn enough(&self, leg: u16, within: Nanos) -> Option<Place> {
        (0..self.rest.len()).find(|&place| self.rest(place, leg) <= within)
    }

    /// The share in which all from a leg on is fastest, the smallest of equal ones; `None`
    /// where nothing is known.
    pub(super) fn fastest(&self, leg: u16) -> Option<Place> {
        let best = self.best.get(usize::from(leg))?;
        Some(best.fastest)
    }

    /// The time from a leg on in the smallest share; `None` where nothing is known.
    pub(super) fn in_smallest(&self, leg: u16) -> Option<Nanos> {
        let smallest = self.rest.first()?;
        Some(smallest[usize::from(leg)])
    }

    /// As [`fastest`](Self::fastest), of the shares up to one.
    pub(super) fn fastest_within(&self, most: Share, leg: u16) -> Option<Place> {
        if self.shares.last().is_some_and(|&widest| widest <= most) {
            return self.fastest(leg);
        }
        let places = (0..self.rest.len()).take_while(|&place| self.shares[place] <= most);
        places.min_by_key(|&place| self.rest(place, leg))
    }

    /// The time of the longest leg.
    pub(super) fn longest_leg(&self, place: Place) -> Nanos {
        let rest = self.rest[place].windows(2);
        let legs = rest.map(|pair| pair[0].saturating_sub(pair[1]));
        legs.max().unwrap_or(Nanos::ZERO)
    }

    /// The smallest share up to `place` in which one leg is nearly as fast as in any of them.
    pub(super) fn knee_of_leg(&self, place: Place, leg: u16) -> Place {
        let best = (0..=place).map(|place| self.leg(place, leg)).min();
        let (part, whole) = KNEE;
        let within = best.unwrap_or(Nanos::MAX).scaled(part, whole);
        let mut places = 0..=place;
        let knee = places.find(|&place| self.leg(place, leg) <= within);
        knee.unwrap_or(place)
    }

    /// The smallest share in which all from a leg on is nearly as fast as in any.
    pub(super) fn knee_of_rest(&self, leg: u16) -> Place {
        let best = self.best.get(usize::from(leg));
        best.map_or(self.widest(), |best| best.knee)
    }
}

/// The share in which all from a leg on is fastest, the smallest of equal ones, and the
/// smallest in which it is nearly as fast.
fn best_of(rest: &[Vec<Nanos>], leg: usize) -> Option<Best> {
    let fastest = (0..rest.len()).min_by_key(|&place| rest[place][leg])?;
    let (part, whole) = KNEE;
    let within = rest[fastest][leg].scaled(part, whole);
    let knee = rest.iter().position(|times| times[leg] <= within)?;
    Some(Best { fastest, knee })
}

/// Of each time, the sum of it and those after it; then zero.
fn sums_from(times: &[Nanos]) -> Vec<Nanos> {
    let mut sums = vec![Nanos::ZERO; times.len() + 1];
    for (leg, &time) in times.iter().enumerate().rev() {
        sums[leg] = sums[leg + 1] + time;
    }
    sums
}

/// The times with those in shares that nothing is known of, which are taken to be in
/// proportion to the nearest share that is known: too good for larger ones, so that they are
/// tried where they are needed.
fn filled(shares: &[Share], known: Vec<Option<Vec<Nanos>>>) -> Vec<Vec<Nanos>> {
    let places: Vec<Place> = (0..known.len())
        .filter(|&place| known[place].is_some())
        .collect();
    let from = |place: Place| {
        let nearest = places.iter().min_by_key(|&&other| other.abs_diff(place));
        let nearest = *nearest?;
        let (share, other) = (u64::from(shares[place].0), u64::from(shares[nearest].0));
        let times = known[nearest].as_ref()?.iter();
        Some(times.map(|time| time.scaled(other, share.max(1))).collect())
    };
    (0..known.len()).filter_map(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rest: &[&[u64]]) -> Table {
        let rest = rest.iter().map(|times| {
            let times: Vec<Nanos> = times.iter().copied().map(Nanos::new).collect();
            sums_from(&times)
        });
        Table::of_times((0, 0), [1, 2, 4].map(Share).to_vec(), rest.collect())
    }

    #[test]
    fn the_smallest_share_that_is_enough_depends_on_what_is_left() {
        let table = table(&[&[100, 60], &[50, 58], &[25, 59]]);
        assert_eq!(table.enough(0, Nanos::new(160)), Some(0));
        assert_eq!(table.enough(0, Nanos::new(110)), Some(1));
        assert_eq!(table.enough(0, Nanos::new(83)), None);
        assert_eq!(table.enough(1, Nanos::new(83)), Some(0));
        assert_eq!(table.fastest(0), Some(2));
        assert_eq!(table.fastest(1), Some(1), "more slices may cost time");
        assert_eq!(table.knee_of_leg(2, 0), 2);
        assert_eq!(table.knee_of_leg(2, 1), 0, "within a twentieth");
        assert_eq!(table.knee_of_rest(0), 2);
        assert_eq!((table.within(3), table.within(0)), (Some(1), None));
    }

    #[test]
    fn shares_that_were_never_measured_are_taken_in_proportion() {
        let shares = [1, 2, 4].map(Share);
        let known = vec![None, Some(vec![Nanos::new(80), Nanos::ZERO]), None];
        let rest = filled(&shares, known);
        let first: Vec<u64> = rest.iter().map(|times| times[0].as_nanos()).collect();
        assert_eq!(first, [160, 80, 40]);
        assert!(filled(&shares, vec![None, None, None]).is_empty());
    }
}
