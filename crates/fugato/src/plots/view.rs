//! A model's grid in the order in which charts draw it.

use fugato_core::profile::{GridPoint, ModelProfile, Precision, Surface, Times};
use std::collections::BTreeMap;

/// A measured point, with its times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample<'a> {
    pub(super) point: &'a GridPoint,
    pub(super) times: Times,
}

/// The points of one model that have times.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) model: &'a ModelProfile,
    /// By batch, then by share: nothing else ran.
    alone: BTreeMap<u32, BTreeMap<u16, Sample<'a>>>,
    /// By batch, then by share: the most other slices that were measured busy.
    busy: BTreeMap<u32, BTreeMap<u16, Sample<'a>>>,
    pub(super) failed: Vec<&'a GridPoint>,
    /// The latencies that the optima are found on.
    pub(super) surface: Surface,
}

impl<'a> View<'a> {
    /// `None` where no point was measured alone: no chart can be drawn of it.
    pub(super) fn new(model: &'a ModelProfile, slices: u16) -> Option<Self> {
        let mut view = Self {
            model,
            alone: BTreeMap::new(),
            busy: BTreeMap::new(),
            failed: Vec::new(),
            surface: Surface::new(model, slices),
        };
        for point in &model.grid {
            let Some(times) = point.times() else {
                view.failed.push(point);
                continue;
            };
            let sample = Sample { point, times };
            if point.neighbours == 0 {
                let of_batch = view.alone.entry(point.batch).or_default();
                of_batch.insert(point.share, sample);
                continue;
            }
            let of_batch = view.busy.entry(point.batch).or_default();
            let known = of_batch.entry(point.share).or_insert(sample);
            if known.point.neighbours < point.neighbours {
                *known = sample;
            }
        }
        (!view.alone.is_empty()).then_some(view)
    }

    /// The model's name, and its precision where that is not its file's own.
    pub(super) fn title(&self) -> String {
        let ModelProfile {
            name, precision, ..
        } = self.model;
        match precision {
            Precision::Fp32 => name.clone(),
            Precision::Fp16 => format!("{name}, {precision}"),
        }
    }

    /// The batches measured alone, smallest first.
    pub(super) fn batches(&self) -> Vec<u32> {
        self.alone.keys().copied().collect()
    }

    /// The shares measured alone at some batch, smallest first.
    pub(super) fn shares(&self) -> Vec<u16> {
        let mut shares: Vec<u16> = self
            .alone
            .values()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect();
        shares.sort_unstable();
        shares.dedup();
        shares
    }

    /// The points of a batch measured alone, smallest share first.
    pub(super) fn alone(&self, batch: u32) -> Vec<Sample<'a>> {
        in_order(&self.alone, batch)
    }

    /// The points of a batch measured with other slices busy, smallest share first.
    pub(super) fn busy(&self, batch: u32) -> Vec<Sample<'a>> {
        in_order(&self.busy, batch)
    }

    /// The point of a batch and share measured alone.
    pub(super) fn at(&self, batch: u32, share: u16) -> Option<Sample<'a>> {
        self.alone.get(&batch)?.get(&share).copied()
    }

    pub(super) fn has_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    /// Every point with times.
    pub(super) fn samples(&self) -> impl Iterator<Item = Sample<'a>> + '_ {
        let both = self.alone.values().chain(self.busy.values());
        both.flat_map(BTreeMap::values).copied()
    }

    /// The batch that the charts of several models compare at: that of the knee.
    pub(super) fn knee_batch(&self) -> u32 {
        let largest = self.alone.keys().next_back().copied().unwrap_or(1);
        let of_knee = self.model.knee_batch;
        of_knee
            .filter(|batch| self.alone.contains_key(batch))
            .unwrap_or(largest)
    }
}

fn in_order<'a>(points: &BTreeMap<u32, BTreeMap<u16, Sample<'a>>>, batch: u32) -> Vec<Sample<'a>> {
    let of_batch = points.get(&batch);
    of_batch
        .map(|points| points.values().copied().collect())
        .unwrap_or_default()
}

impl Sample<'_> {
    /// All that is known of the point, for where the pointer rests.
    pub(super) fn hint(&self) -> String {
        let point = self.point;
        let beside = match point.neighbours {
            0 => "alone".to_owned(),
            busy => format!("{} busy beside it", slices(busy)),
        };
        let [median, p95, low, high] = [
            self.times.median_s,
            self.times.p95_s,
            self.times.low_s,
            self.times.high_s,
        ]
        .map(time);
        format!(
            "batch {} on {}, {beside}: median {median} (95 % interval {low} to {high}), \
             p95 {p95}, {} runs",
            point.batch,
            slices(point.share),
            point.repeats
        )
    }

    /// Requests per second of one copy that never waits.
    pub(super) fn rate(&self) -> f64 {
        f64::from(self.point.batch) / self.times.median_s
    }
}

/// A number of slices with its unit.
pub(super) fn slices(count: u16) -> String {
    match count {
        1 => "1 slice".to_owned(),
        count => format!("{count} slices"),
    }
}

/// A time with its unit.
pub(super) fn time(seconds: f64) -> String {
    if seconds.abs() >= 1.0 {
        format!("{} s", super::scale::number(seconds))
    } else if seconds.abs() >= 1e-3 {
        format!("{} ms", super::scale::number(seconds * 1e3))
    } else {
        format!("{} \u{b5}s", super::scale::number(seconds * 1e6))
    }
}
