//! What a profile's conclusions must satisfy: they rest on its grid, and on this device.

use super::{TIME_EXPECTED, is_time};
use crate::profile::file::{Fit, Knee, ModelProfile, Optima, Optimum, ProfileError};
use crate::profile::parallelism::Kernel;
use std::ops::RangeInclusive;

/// A number that is at least 0, as an error says it.
const AT_LEAST_0: &str = "a number of at least 0";

/// What conclusions may speak of.
struct Ground<'a> {
    model: &'a ModelProfile,
    /// From the smallest to the largest batch of the grid.
    batches: RangeInclusive<u32>,
    /// The shares of the grid, likewise.
    shares: RangeInclusive<u16>,
    slices: u16,
}

/// Checks the fit, the knees, the optima and what was published.
pub(super) fn check(model: &ModelProfile, slices: u16) -> Result<(), ProfileError> {
    let batches = model.grid.iter().map(|point| point.batch);
    let shares = model.grid.iter().map(|point| point.share);
    let (Some(first), Some(last)) = (batches.clone().min(), batches.max()) else {
        return nothing(model);
    };
    let ground = Ground {
        model,
        batches: first..=last,
        shares: shares.clone().min().unwrap_or(1)..=shares.max().unwrap_or(slices),
        slices,
    };
    ground.knees()?;
    ground.optimum("efficacy", &model.optima.efficacy)?;
    ground.optimum("work", &model.optima.work)?;
    if let Some(fit) = &model.fit {
        ground.fit(fit)?;
    }
    match &model.published {
        Some(published) => {
            ground.share("published.share", published.share)?;
            ground.time("published.latency_s", published.latency_s)
        }
        None => Ok(()),
    }
}

/// Checks that nothing is concluded from an empty grid.
fn nothing(model: &ModelProfile) -> Result<(), ProfileError> {
    let found = [
        ("fit", model.fit.is_some()),
        ("knee", model.knee != Knee::default()),
        ("knee_batch", model.knee_batch.is_some()),
        ("knees", !model.knees.is_empty()),
        ("optima", model.optima != Optima::default()),
    ];
    match found.into_iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(model.wrong(field, &"there", "none, as the grid is empty")),
        None => Ok(()),
    }
}

impl Ground<'_> {
    fn batch(&self, field: &str, batch: u32) -> Result<(), ProfileError> {
        if self.batches.contains(&batch) {
            return Ok(());
        }
        let (first, last) = (self.batches.start(), self.batches.end());
        let expected = format!("{first} to {last} items, as the grid has");
        Err(self.model.wrong(field, &batch, &expected))
    }

    fn share(&self, field: &str, share: u16) -> Result<(), ProfileError> {
        if (1..=self.slices).contains(&share) {
            return Ok(());
        }
        let expected = format!("1 to {} slices", self.slices);
        Err(self.model.wrong(field, &share, &expected))
    }

    fn time(&self, field: &str, seconds: f64) -> Result<(), ProfileError> {
        if is_time(seconds) {
            return Ok(());
        }
        Err(self.model.wrong(field, &seconds, TIME_EXPECTED))
    }

    fn at_least_0(&self, field: &str, value: f64) -> Result<(), ProfileError> {
        if value.is_finite() && value >= 0.0 {
            return Ok(());
        }
        Err(self.model.wrong(field, &value, AT_LEAST_0))
    }

    fn knees(&self) -> Result<(), ProfileError> {
        self.knee("knee", self.model.knee)?;
        if let Some(batch) = self.model.knee_batch {
            self.batch("knee_batch", batch)?;
        }
        for (index, at) in self.model.knees.iter().enumerate() {
            self.batch(&format!("knees[{index}].batch"), at.batch)?;
            self.knee(&format!("knees[{index}]"), at.knee)?;
        }
        Ok(())
    }

    fn knee(&self, field: &str, knee: Knee) -> Result<(), ProfileError> {
        let rules = [
            ("tolerance", knee.tolerance),
            ("efficacy", knee.efficacy),
            ("chord", knee.chord),
        ];
        for (rule, share) in rules {
            if let Some(share) = share {
                self.share(&format!("{field}.{rule}"), share)?;
            }
        }
        Ok(())
    }

    fn optimum(&self, name: &str, optimum: &Optimum) -> Result<(), ProfileError> {
        let field = |part: &str| format!("optima.{name}.{part}");
        match optimum {
            Optimum::Unknown => Ok(()),
            Optimum::Infeasible(why) => {
                self.batch(&field("infeasible.nearest.batch"), why.nearest.batch)?;
                self.share(&field("infeasible.nearest.share"), why.nearest.share)?;
                // Not a run's time: assembling a batch may take any time.
                self.at_least_0(&field("infeasible.shortfall_s"), why.shortfall_s)
            }
            Optimum::At(best) => {
                self.batch(&field("batch"), best.batch)?;
                self.share(&field("share"), best.share)?;
                self.share(&field("granted"), best.granted)?;
                self.time(&field("latency_s"), best.latency_s)?;
                for (index, rival) in best.rivals.iter().enumerate() {
                    self.batch(&field(&format!("rivals[{index}].batch")), rival.batch)?;
                    self.share(&field(&format!("rivals[{index}].share")), rival.share)?;
                }
                Ok(())
            }
        }
    }

    fn fit(&self, fit: &Fit) -> Result<(), ProfileError> {
        for (index, kernel) in fit.model.kernels.iter().enumerate() {
            for (part, value) in parts(kernel) {
                self.at_least_0(&format!("fit.model.kernels[{index}].{part}"), value)?;
            }
        }
        self.at_least_0("fit.model.sync_s", fit.model.sync_s)?;
        self.range(fit)?;
        if let Some(contention) = fit.contention {
            // At -1 a run beside others would take no time.
            if !contention.is_finite() || contention <= -1.0 {
                let expected = "a number above -1";
                return Err(self.model.wrong("fit.contention", &contention, expected));
            }
        }
        self.predictions(fit)?;
        self.at_least_0("fit.median_error", fit.median_error)?;
        self.at_least_0("fit.worst_error", fit.worst_error)?;
        if let Some(unseen) = &fit.held_out {
            self.at_least_0("fit.held_out.median_error", unseen.median_error)?;
            self.at_least_0("fit.held_out.worst_error", unseen.worst_error)?;
        }
        for (index, point) in fit.points.iter().enumerate() {
            let field = |part: &str| format!("fit.points[{index}].{part}");
            self.batch(&field("batch"), point.batch)?;
            self.share(&field("share"), point.share)?;
            self.time(&field("measured_s"), point.measured_s)?;
            self.time(&field("fitted_s"), point.fitted_s)?;
            self.at_least_0(&field("error"), point.error)?;
            let unseen = point.held_out_error.unwrap_or_default();
            self.at_least_0(&field("held_out_error"), unseen)?;
        }
        Ok(())
    }

    fn range(&self, fit: &Fit) -> Result<(), ProfileError> {
        let range = fit.range;
        self.batch("fit.range.batch_min", range.batch_min)?;
        self.batch("fit.range.batch_max", range.batch_max)?;
        for (field, share) in [
            ("fit.range.share_min", range.share_min),
            ("fit.range.share_max", range.share_max),
        ] {
            if !self.shares.contains(&share) {
                let (first, last) = (self.shares.start(), self.shares.end());
                let expected = format!("{first} to {last} slices, as the grid has");
                return Err(self.model.wrong(field, &share, &expected));
            }
        }
        if range.batch_min > range.batch_max {
            let field = "fit.range.batch_min";
            return Err(self
                .model
                .wrong(field, &range.batch_min, "at most batch_max"));
        }
        if range.share_min > range.share_max {
            let field = "fit.range.share_min";
            return Err(self
                .model
                .wrong(field, &range.share_min, "at most share_max"));
        }
        Ok(())
    }

    /// What the fit answers at the corners of its range. With no part below 0 a latency
    /// rises with the batch and is largest at the least or the largest share, so that what
    /// holds there holds within.
    fn predictions(&self, fit: &Fit) -> Result<(), ProfileError> {
        let range = fit.range;
        let busy = 1.0 + fit.contention.unwrap_or_default();
        for batch in [range.batch_min, range.batch_max] {
            for share in [range.share_min, range.share_max] {
                // No kernels add up to -0.
                let alone = 0.0 + fit.model.latency_s(f64::from(batch), f64::from(share));
                for seconds in [alone, alone * busy] {
                    if !is_time(seconds) {
                        let field = format!("fit at (batch {batch}, share {share})");
                        let found = format!("{seconds} seconds");
                        return Err(self.model.wrong(&field, &found, TIME_EXPECTED));
                    }
                }
            }
        }
        Ok(())
    }
}

fn parts(kernel: &Kernel) -> [(&'static str, f64); 8] {
    [
        ("width", kernel.width),
        ("repeats", kernel.repeats),
        ("op_s", kernel.op_s),
        ("launch_s", kernel.launch_s),
        ("serial_per_item_s", kernel.serial_per_item_s),
        ("traffic_s", kernel.traffic_s),
        ("traffic_per_item_s", kernel.traffic_per_item_s),
        ("spill_s", kernel.spill_s),
    ]
}
