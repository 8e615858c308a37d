//! What stages take, by the times of their segments or by a model of the device.

use super::Step;
use crate::engine::{PlanBench, PlanBenchError};
use fugato_core::graph::Segments;
use fugato_core::plan::{CostBasis, CostModel, Group, ModelledCost, StageCost};
use fugato_core::{Nanos, Share};
use std::convert::Infallible;

/// What waking the other threads of a stage of several groups takes, at the least.
const FORK: Nanos = Nanos::from_micros(10);

/// Bytes of an operator's output that make one parallel operation: a page, which a thread
/// is not woken for less than.
const GRAIN_BYTES: f64 = 4_096.0;

/// What planners go by.
#[derive(Clone, Debug)]
pub(super) enum Prices {
    /// The times of segments.
    Measured(SegmentTimes),
    /// Computed from the operators.
    Modelled(ModelledCost),
}

impl Prices {
    /// Prices in proportion to the operations of segments, as the whole model has them on one
    /// slice; groups at once have a slice each.
    pub(super) fn modelled(
        bench: &mut PlanBench,
        segments: &Segments,
        rounds: usize,
    ) -> Result<Self, PlanBenchError> {
        let whole = bench.whole_time(Share(1), rounds)?.as_secs_f64();
        let graph = bench.graph().graph();
        let (share, batch) = (bench.key().share, bench.key().batch);
        let flops: u64 = graph.operators().iter().map(|one| one.flops).sum();
        let flops = flops as f64 * f64::from(batch.0);
        let model = CostModel {
            flops_per_slice: flops.max(1.0) / whole.max(1e-9),
            bytes_per_slice: f64::INFINITY,
            grain_bytes: GRAIN_BYTES,
            launch_s: 0.0,
            sync_s: 0.0,
            lane_slices: Share(1),
            lanes: share.0,
            fork_s: FORK.as_secs_f64(),
            group_s: 0.0,
            crowding: 0.0,
        };
        Ok(Self::Modelled(model.costs(graph, segments, batch, share)))
    }
}

impl StageCost for Prices {
    type Error = Infallible;

    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        match self {
            Self::Measured(costs) => costs.stage(groups),
            Self::Modelled(costs) => costs.stage(groups),
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
    slices: usize,
}

impl SegmentTimes {
    /// Times the segments on the bench's share and on one slice.
    pub(super) fn measure(
        bench: &mut PlanBench,
        segments: &Segments,
        rounds: usize,
        tell: &mut dyn FnMut(Step),
    ) -> Result<Self, PlanBenchError> {
        let (share, count) = (bench.key().share, segments.count());
        let mut at = |share: Share| {
            let timed = bench.segment_times(segments, share, rounds, &mut |done| {
                tell(Step {
                    what: format!("segments timed on a {share}"),
                    done,
                    all: count,
                });
            })?;
            Ok::<_, PlanBenchError>(timed.unwrap_or_else(|| vec![Nanos::ZERO; count]))
        };
        let wide = at(share)?;
        Ok(Self {
            narrow: match share {
                Share(1) => wide.clone(),
                Share(_) => at(Share(1))?,
            },
            wide,
            slices: usize::from(share.0),
        })
    }

    /// The times of so many segments on one slice; none are known where a segment does not
    /// run by itself.
    pub(super) fn of_one_slice(times: Option<Vec<Nanos>>, count: usize) -> Self {
        let times = times.unwrap_or_else(|| vec![Nanos::ZERO; count]);
        Self {
            narrow: times.clone(),
            wide: times,
            slices: 1,
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

    fn basis(&self) -> CostBasis {
        CostBasis::Measured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fugato_core::SegmentIndex;

    #[test]
    fn groups_at_once_take_as_long_as_the_longest_slice() {
        let times = |times: &[u64]| times.iter().map(|&us| Nanos::from_micros(us)).collect();
        let mut costs = SegmentTimes {
            wide: times(&[60, 50, 40]),
            narrow: times(&[100, 80, 70]),
            slices: 2,
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
