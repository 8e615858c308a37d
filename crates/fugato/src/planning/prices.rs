//! What stages take, by the times of their segments or by a model of the device.

use super::{Step, Wanted};
use crate::engine::{PlanBench, PlanBenchError};
use fugato_core::graph::{Merged, Segments};
use fugato_core::plan::{AnyPlanner, CostBasis, CostModel, Group, ModelledCost, StageCost};
use fugato_core::{BatchSize, Nanos, SegmentIndex, Share};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// What waking the other threads of a stage of several groups takes, at the least.
const FORK: Nanos = Nanos::from_micros(10);

/// Bytes of an operator's output that make one parallel operation: a page, which a thread
/// is not woken for less than.
const GRAIN_BYTES: f64 = 4_096.0;

/// Where the prices of a model's stages are from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The times of its segments.
    Measured(SegmentTimes),
    /// The speed of the whole model.
    Modelled(CostModel),
}

/// What planners go by.
#[derive(Clone, Debug)]
pub(super) enum Prices {
    /// The times of segments.
    Measured(SegmentTimes),
    /// Computed from the operators.
    Modelled(ModelledCost),
}

impl Source {
    /// What the model's segments are priced by, as it is wanted: each is timed, or the whole
    /// model is.
    pub(super) fn of(
        bench: &mut PlanBench,
        segments: &Segments,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Step),
    ) -> Result<Self, PlanBenchError> {
        Ok(match wanted.costs {
            CostBasis::Modelled => Self::Modelled(speed(bench, wanted.rounds)?),
            CostBasis::Measured => {
                let times = SegmentTimes::measure(bench, segments, wanted, tell)?;
                Self::Measured(times)
            }
        })
    }

    /// Whether there are any: segments that do not run by themselves have no times.
    pub(super) fn is_known(&self) -> bool {
        match self {
            Self::Measured(times) => times.are_known,
            Self::Modelled(_) => true,
        }
    }

    /// The prices of these segments of the bench's model.
    pub(super) fn prices(&self, bench: &PlanBench, segments: &Segments) -> Prices {
        let (share, batch) = (bench.key().share, bench.key().batch);
        let graph = bench.graph().graph();
        match self {
            Self::Measured(times) => Prices::Measured(times.clone()),
            Self::Modelled(model) => Prices::Modelled(model.costs(graph, segments, batch, share)),
        }
    }

    /// The prices of what is left of tasks of the model, at a share.
    pub(super) fn prices_of_merged(&self, merged: &Merged, share: Share) -> Prices {
        match self {
            Self::Measured(times) => Prices::Measured(times.of_merged(merged)),
            // The batches of the tasks are in the merged graph.
            Self::Modelled(model) => {
                let (graph, segments) = (merged.graph(), merged.segments());
                Prices::Modelled(model.costs(graph, segments, BatchSize(1), share))
            }
        }
    }
}

/// A device on which operations take as long as those of the whole model do on one slice;
/// groups at once have a slice each.
fn speed(bench: &mut PlanBench, rounds: usize) -> Result<CostModel, PlanBenchError> {
    let whole = bench.whole_time(Share(1), rounds)?.as_secs_f64();
    let (share, batch) = (bench.key().share, bench.key().batch);
    let operators = bench.graph().graph().operators().iter();
    let flops: u64 = operators.map(|one| one.flops).sum();
    let flops = flops as f64 * f64::from(batch.0);
    Ok(CostModel {
        flops_per_slice: flops.max(1.0) / whole.max(1e-9),
        bytes_per_slice: f64::INFINITY,
        grain_bytes: GRAIN_BYTES,
        launch_s: 0.0,
        sync_s: 0.0,
        lane_slices: Share(1),
        lanes: share.0,
        fork_s: FORK.as_secs_f64(),
    })
}

impl StageCost for Prices {
    type Error = Infallible;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        match self {
            Self::Measured(costs) => costs.stage(groups),
            Self::Modelled(costs) => costs.stage(groups),
        }
    }

    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, Infallible> {
        match self {
            Self::Measured(costs) => costs.merged(segments),
            Self::Modelled(costs) => costs.merged(segments),
        }
    }

    fn basis(&self) -> CostBasis {
        match self {
            Self::Measured(costs) => costs.basis(),
            Self::Modelled(costs) => costs.basis(),
        }
    }
}

/// What stages take by the times of their segments: of one group its segments at all slices;
/// of several each group on a slice of its own, the longest first, on whichever is free, and
/// the fork. That they do not slow each other is assumed, which is why what a plan says of
/// such stages is measured afterwards.
#[derive(Clone, Debug)]
pub(super) struct SegmentTimes {
    /// By segment: on all slices of the share.
    wide: Vec<Nanos>,
    /// By segment: on one slice.
    narrow: Vec<Nanos>,
    /// By segments that can be one operator, all that are alike: that, on all slices.
    merged: BTreeMap<Vec<SegmentIndex>, Nanos>,
    slices: usize,
    /// Whether the segments run by themselves; else all times are zero.
    are_known: bool,
}

impl SegmentTimes {
    /// Times the segments on the bench's share and on one slice; and those that can be one
    /// operator as that, where a planner merges.
    fn measure(
        bench: &mut PlanBench,
        segments: &Segments,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Step),
    ) -> Result<Self, PlanBenchError> {
        let rounds = wanted.rounds;
        let (share, count) = (bench.key().share, segments.count());
        let mut are_known = true;
        let mut at = |share: Share| {
            let timed = bench.segment_times(segments, share, rounds, &mut |done| {
                tell(Step {
                    what: format!("segments timed on a {share}"),
                    done,
                    all: count,
                });
            })?;
            are_known &= timed.is_some();
            Ok::<_, PlanBenchError>(timed.unwrap_or_else(|| vec![Nanos::ZERO; count]))
        };
        let wide = at(share)?;
        let narrow = match share {
            Share(1) => wide.clone(),
            Share(_) => at(Share(1))?,
        };
        let merges = wanted.planners.iter().any(AnyPlanner::merges);
        let merged = match merges && are_known {
            true => bench.stack_times(segments, rounds)?,
            false => BTreeMap::new(),
        };
        Ok(Self {
            wide,
            narrow,
            merged,
            slices: usize::from(share.0),
            are_known,
        })
    }

    /// The times of so many segments on one slice; none are known where a segment does not
    /// run by itself.
    pub(super) fn of_one_slice(times: Option<Vec<Nanos>>, count: usize) -> Self {
        let are_known = times.is_some();
        let times = times.unwrap_or_else(|| vec![Nanos::ZERO; count]);
        Self {
            narrow: times.clone(),
            wide: times,
            merged: BTreeMap::new(),
            slices: 1,
            are_known,
        }
    }

    /// The times of the segments of tasks of the model.
    fn of_merged(&self, merged: &Merged) -> Self {
        let of = |times: &[Nanos]| {
            let origins = merged.origins().iter();
            origins
                .map(|origin| times[origin.segment.place()])
                .collect()
        };
        Self {
            wide: of(&self.wide),
            narrow: of(&self.narrow),
            // No device runs these stages, so none is asked what they take merged.
            merged: BTreeMap::new(),
            ..*self
        }
    }
}

impl StageCost for SegmentTimes {
    type Error = Infallible;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        let sum = |times: &[Nanos], group: &Group| {
            let segments = group.segments.iter();
            segments.fold(Nanos::ZERO, |sum, segment| sum + times[segment.place()])
        };
        if let [group] = groups {
            return Ok(sum(&self.wide, group));
        }
        let times = groups.iter().map(|group| sum(&self.narrow, group));
        let mut times: Vec<Nanos> = times.collect();
        times.sort_unstable_by(|one, other| other.cmp(one));
        let mut lanes = vec![FORK; self.slices.max(1)];
        for time in times {
            if let Some(first) = lanes.iter_mut().min() {
                *first += time;
            }
        }
        Ok(lanes.into_iter().fold(FORK, Nanos::max))
    }

    /// All that are alike only: what a few of them take as one was not measured.
    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, Infallible> {
        Ok(self.merged.get(segments).copied())
    }

    fn basis(&self) -> CostBasis {
        CostBasis::Measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_at_once_take_as_long_as_the_longest_slice() {
        let times = |times: &[u64]| times.iter().map(|&us| Nanos::from_micros(us)).collect();
        let mut costs = SegmentTimes {
            wide: times(&[60, 50, 40]),
            narrow: times(&[100, 80, 70]),
            merged: BTreeMap::new(),
            slices: 2,
            are_known: true,
        };
        let group = |segments: &[u32]| -> Group {
            let segments = segments.iter().map(|&segment| SegmentIndex(segment));
            segments.collect::<Vec<_>>().into()
        };
        let mut of = |groups: &[Group]| {
            let Ok(time) = costs.stage(groups);
            time
        };
        assert_eq!(of(&[group(&[0, 1])]), Nanos::from_micros(110));
        assert_eq!(of(&[group(&[0]), group(&[1])]), Nanos::from_micros(110));
        let three = [group(&[0]), group(&[1]), group(&[2])];
        assert_eq!(
            of(&three),
            Nanos::from_micros(160),
            "the last two share a slice"
        );
    }
}
