//! A profile for a device of the same kind with another number of slices.

use super::analyse::{AnalysisOptions, conclude};
use super::file::{GridPoint, LegProfile, ModelProfile, Profile};
use std::collections::BTreeMap;

impl Profile {
    /// The profile for a device of `slices` slices of the same kind, to simulate it.
    ///
    /// Shares that the smaller device lacks are left out. Shares that a larger one has more
    /// count as the largest measured (more slices than were measured do not help), but where
    /// the profile is synthetic its kernels say. A point with all other slices busy stays
    /// one. Knees and optima are found anew. Legs stay, and the plan that they are of does not:
    /// it was made for the device that was measured.
    #[must_use]
    pub fn resized(&self, slices: u16) -> Self {
        let mut resized = self.clone();
        if slices == self.device.slices {
            return resized;
        }
        resized.device.slices = slices;
        for model in &mut resized.models {
            let mut options = AnalysisOptions::new(slices);
            if self.synthetic {
                options.interval_floor = 0.0;
            }
            if !model.legs.is_empty() {
                let mut legs: Vec<ModelProfile> = model.each_leg().collect();
                for (leg, known) in legs.iter_mut().zip(&mut model.legs) {
                    resize(leg, self.device.slices, slices, self.synthetic);
                    conclude(leg, &options);
                    *known = LegProfile::of(leg, known.assumed);
                }
            }
            model.leg_plan = None;
            // What they were measured beside was of the other device's size; what it taught stays.
            model.beside.clear();
            resize(model, self.device.slices, slices, self.synthetic);
            conclude(model, &options);
        }
        resized
    }
}

fn resize(model: &mut ModelProfile, from: u16, to: u16, synthetic: bool) {
    let grid = std::mem::take(&mut model.grid);
    let kept = grid.into_iter().filter(|point| point.share <= to);
    let kept = kept.filter_map(|mut point| {
        let others = point.neighbours > 0 && point.neighbours + point.share == from;
        if others {
            point.neighbours = to - point.share;
        }
        let fits = point.neighbours == 0 || point.neighbours + point.share <= to;
        (fits && !(others && point.neighbours == 0)).then_some(point)
    });
    model.grid = kept.collect();
    let mut widest: BTreeMap<u32, GridPoint> = BTreeMap::new();
    for point in model.grid.iter().filter(|point| point.neighbours == 0) {
        let known = widest.entry(point.batch).or_insert_with(|| point.clone());
        if known.share < point.share {
            *known = point.clone();
        }
    }
    let kernels = model.fit.as_mut().filter(|_| synthetic).map(|fit| {
        fit.range.share_max = to;
        fit.model.clone()
    });
    for (batch, point) in widest {
        for share in from + 1..=to {
            let mut wider = GridPoint {
                share,
                ..point.clone()
            };
            if let Some(kernels) = &kernels {
                let latency_s = kernels.latency_s(f64::from(batch), f64::from(share));
                wider.median_s = Some(latency_s);
                wider.p95_s = Some(latency_s);
                wider.low_s = Some(latency_s);
                wider.high_s = Some(latency_s);
            }
            model.grid.push(wider);
        }
    }
    if let Some(fit) = &mut model.fit {
        fit.range.share_max = fit.range.share_max.min(to);
    }
    model.published = model.published.take().filter(|stated| stated.share <= to);
}

#[cfg(test)]
mod tests {
    use super::super::{Load, Surface, v100_dstack};

    #[test]
    fn a_synthetic_set_follows_its_kernels_to_any_size() {
        let profile = v100_dstack();
        assert_eq!(profile.resized(80), profile);
        for slices in [1, 40, 148] {
            let resized = profile.resized(slices);
            resized.check().expect("a sound profile");
            for (model, original) in resized.models.iter().zip(&profile.models) {
                let (new, old) = (
                    Surface::new(model, slices),
                    Surface::new(original, profile.device.slices),
                );
                let share = slices.min(80);
                assert_eq!(
                    new.under(3, share, Load::Alone),
                    old.under(3, share, Load::Alone)
                );
                let knee = model.knee.tolerance.expect("found");
                let before = original.knee.tolerance.expect("found");
                assert!(knee == before || slices < 80 && knee <= before.min(slices));
            }
        }
    }
}
