//! What a stage takes, computed: a parallelism model of each operator, with groups that share
//! the slices.
//!
//! | design, section 5 | here |
//! |---|---|
//! | `N_i`, parallel operations of a kernel | the bytes that an operator writes, over [`CostModel::grain_bytes`] |
//! | `N_i * t_p` | its floating-point operations over [`CostModel::flops_per_slice`] |
//! | `t_np` | [`CostModel::launch_s`] |
//! | `d_i`, `M` | bytes read and written, [`CostModel::bytes_per_slice`] |
//! | `t_sync` | [`CostModel::sync_s`] |
//!
//! A kernel alone is launched, then computes and moves its bytes at the same time, so that the
//! longer of the two is what it takes (roofline), and what its further slices cost. While it runs
//! it **demands** the slices that its parallel operations fill for as long as they compute, and the
//! share's bandwidth for as long as its bytes take. Groups run their kernels in order, at once. Where
//! the demands of the running kernels exceed the share, all go slower by as much; launches share the
//! one thread that makes them. A stage of several groups pays a fork and a join.
//!
//! A merged stage is one kernel with the operations, weights and outputs of all, which reads
//! its input once, and one that copies its output apart. Operations and weights of a window that is
//! padded to a larger one grow as its places do. With what joins its outputs it is one kernel.
//!
//! # Source
//! Kernels that fill as many slices as they have operations are D-STACK's. Ours differs from that
//! and from a profile's model, where waiting for memory comes after computing: there one kernel stands
//! for many operators, here each is one of its own, and overlaps the two. That kernels at once divide a
//! device by their demands is the fluid limit of a scheduler of thread blocks. How far to believe
//! it is said in `docs/concepts/plans.md`.

use super::{CostBasis, Group, StageCost};
use crate::graph::{Graph, Operator, Segments, Window};
use crate::id::{BatchSize, SegmentIndex, Share};
use crate::time::Nanos;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

/// A device, and the runtime on it, in the terms of the parallelism model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    /// Floating-point operations per second on one slice, as far as kernels reach them.
    pub flops_per_slice: f64,
    /// Memory bandwidth of one slice, in bytes per second.
    pub bytes_per_slice: f64,
    /// Bytes of output that make one parallel operation.
    pub grain_bytes: f64,
    /// Serial time of each kernel, in seconds; of kernels at once in all as long as one after the
    /// other.
    pub launch_s: f64,
    /// Cost of each further slice of a kernel, in seconds.
    pub sync_s: f64,
    /// Most slices that one kernel of several at once can use: 1 where lanes are threads.
    /// One that runs alone can use the whole share.
    pub lane_slices: Share,
    /// Groups that can run at once; further ones start as lanes come free.
    pub lanes: u16,
    /// Fork and join of a stage of several groups, in seconds.
    pub fork_s: f64,
}

/// The costs of the stages of one graph, at a batch and a share.
#[derive(Clone, Debug)]
pub struct ModelledCost {
    /// By segment: its kernels where it runs alone, and where others run beside it.
    alone: Vec<Vec<Piece>>,
    beside: Vec<Vec<Piece>>,
    /// By segment: its operator, where that can be stacked with others.
    stacks: Vec<Option<Stackable>>,
    /// Segments that only join what a whole list gives.
    joins: BTreeMap<SegmentIndex, Joined>,
    model: CostModel,
    share: Share,
    lanes: usize,
    fork_ns: f64,
}

/// A kernel, alone in the share: serial time, then work. Whole nanoseconds, so that times
/// of stages of one group add up.
#[derive(Clone, Copy, Debug)]
struct Piece {
    launch_ns: f64,
    work_ns: f64,
    /// What the work takes up.
    demand: Demand,
}

/// An operator that can be stacked with those of the same list.
#[derive(Clone, Debug)]
struct Stackable {
    list: usize,
    work: Work,
    window: Window,
}

/// What an operator does, at a batch.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    flops: f64,
    weight_bytes: f64,
    read_bytes: f64,
    written_bytes: f64,
}

/// What a segment joins: all that the members of a list give.
#[derive(Clone, Copy, Debug)]
struct Joined {
    list: usize,
    members: usize,
}

impl Work {
    fn of(graph: &Graph, operator: &Operator, batch: BatchSize) -> Self {
        let items = f64::from(batch.0.max(1));
        let written = operator.outputs.iter();
        let written: u64 = written
            .map(|&index| graph.tensor(index).bytes_at(batch))
            .sum();
        let read = operator.inputs.iter().map(|&index| graph.tensor(index));
        let read = read.filter(|tensor| !tensor.weight);
        let read: u64 = read.map(|tensor| tensor.bytes_at(batch)).sum();
        Self {
            flops: items * operator.flops as f64,
            weight_bytes: operator.weight_bytes as f64,
            read_bytes: read as f64,
            written_bytes: written as f64,
        }
    }

    /// The same with a window of so many times the places.
    fn padded(self, times: f64) -> Self {
        Self {
            flops: times * self.flops,
            weight_bytes: times * self.weight_bytes,
            ..self
        }
    }

    /// One operator that reads what this reads, and does and writes what both do.
    fn stacked(self, other: Self) -> Self {
        Self {
            flops: self.flops + other.flops,
            weight_bytes: self.weight_bytes + other.weight_bytes,
            read_bytes: self.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
        }
    }
}

/// Parts of the share's slices, and of its bandwidth, that are taken up.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    slices: f64,
    bandwidth: f64,
}

impl CostModel {
    /// A V100 as IOS used it: 80 slices, cuDNN 7.6, 32-bit floats, ten streams.
    ///
    /// # Source
    /// Operations per second are those of the data sheet (5,120 lanes at 1.53 GHz). Bandwidth,
    /// grain, launch and fork are fitted to published times of sequential and greedy schedules
    /// (IOS, MLSys 2021): of four models at batch 1, and of one at batches up to 128. They stand
    /// for the runtime of then as much as for the device: `tests/plans/ios_paper.rs` fits them
    /// again, and holds them against times that they were not fitted to.
    pub const IOS_V100: Self = Self {
        flops_per_slice: 196e9,
        bytes_per_slice: 4.48e9,
        grain_bytes: 25_400.0,
        launch_s: 3.08e-6,
        sync_s: 0.0,
        lane_slices: Share(80),
        lanes: 10,
        fork_s: 17.0e-6,
    };

    /// The costs of the stages of a graph that was cut into these segments.
    #[must_use]
    pub fn costs(
        &self,
        graph: &Graph,
        segments: &Segments,
        batch: BatchSize,
        share: Share,
    ) -> ModelledCost {
        let pieces = |slices: Share| -> Vec<Vec<Piece>> {
            let work = |operator| Work::of(graph, graph.operator(operator), batch);
            let of = |operator| self.piece(work(operator), share, slices);
            let segments = segments.all().iter();
            segments
                .map(|segment| segment.operators.iter().map(|&index| of(index)).collect())
                .collect()
        };
        let mut stacks = vec![None; segments.count()];
        let mut joins = BTreeMap::new();
        for (list, alike) in graph.stacks(segments).into_iter().enumerate() {
            let members = alike.members.len();
            joins.extend(alike.join.map(|join| (join, Joined { list, members })));
            for index in alike.members {
                // It is a segment of its own.
                let operator = segments.segment(index).operators.first();
                stacks[index.place()] = operator.map(|&one| {
                    let operator = graph.operator(one);
                    let stacks = operator.stacks.as_ref();
                    Stackable {
                        list,
                        work: Work::of(graph, operator, batch),
                        window: stacks.map_or_else(Window::default, |one| one.window.clone()),
                    }
                });
            }
        }
        ModelledCost {
            stacks,
            joins,
            model: *self,
            share,
            alone: pieces(share),
            beside: pieces(self.lane_slices.min(share)),
            lanes: usize::from(self.lanes.max(1)),
            fork_ns: whole_ns(self.fork_s),
        }
    }

    /// An operator on `slices` of the share.
    fn piece(&self, work: Work, share: Share, slices: Share) -> Piece {
        let (slices, share) = (f64::from(slices.0.max(1)), f64::from(share.0.max(1)));
        // The batch is in the bytes already.
        let filled = (work.written_bytes / self.grain_bytes).clamp(1.0, slices);
        let computes = work.flops / (self.flops_per_slice * filled);
        let moved = work.weight_bytes + work.written_bytes + work.read_bytes;
        let waits = moved / (self.bytes_per_slice * slices);
        let work = computes.max(waits) + self.sync_s * (slices - 1.0);
        // On average over the kernel: slices while it computes, the bandwidth of the slices
        // at hand while it moves bytes.
        let demand = if work > 0.0 {
            Demand {
                slices: computes * filled / (work * share),
                bandwidth: waits * slices / (work * share),
            }
        } else {
            Demand::default()
        };
        Piece {
            launch_ns: whole_ns(self.launch_s),
            work_ns: whole_ns(work),
            demand,
        }
    }
}

/// Seconds as whole nanoseconds; negative and NaN as none.
fn whole_ns(seconds: f64) -> f64 {
    (seconds * 1e9).round().max(0.0)
}

impl StageCost for ModelledCost {
    type Error = Infallible;

    /// # Panics
    /// Where a segment is not of the graph.
    ///
    /// # Cost
    /// O(kernels x lanes).
    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Infallible> {
        let time = match groups {
            [] => 0.0,
            [group] => pieces(&self.alone, group)
                .map(|p| p.launch_ns + p.work_ns)
                .sum(),
            _ => self.together(groups),
        };
        Ok(Nanos::from_secs_f64(time / 1e9))
    }

    /// # Panics
    /// Where a segment is not of the graph.
    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, Infallible> {
        let join = segments.iter().find_map(|one| self.joins.get(one));
        let members = segments.iter().filter(|one| !self.joins.contains_key(one));
        let found = members.map(|one| self.stacks[one.place()].as_ref());
        let found: Option<Vec<&Stackable>> = found.collect();
        let alike = found.filter(|all| all.windows(2).all(|two| two[0].list == two[1].list));
        let alike = alike.unwrap_or_default();
        if let Some(join) = join {
            let of_it = alike.iter().filter(|one| one.list == join.list);
            if of_it.count() != join.members || segments.len() != join.members + 1 {
                return Ok(None);
            }
        }
        let windows = alike.iter().map(|one| one.window.clone());
        let window = windows.reduce(|one, other| one.joined(&other));
        let places = window.unwrap_or_default().places() as f64;
        let works = alike
            .iter()
            .map(|one| one.work.padded(places / one.window.places() as f64));
        let Some(stacked) = works.reduce(Work::stacked) else {
            return Ok(None);
        };
        let split = Work {
            read_bytes: stacked.written_bytes,
            written_bytes: stacked.written_bytes,
            ..Work::default()
        };
        let pieces = [stacked, split].map(|work| self.model.piece(work, self.share, self.share));
        let pieces = &pieces[..if join.is_some() { 1 } else { 2 }];
        let time: f64 = pieces.iter().map(|p| p.launch_ns + p.work_ns).sum();
        Ok(Some(Nanos::from_secs_f64(time / 1e9)))
    }

    fn basis(&self) -> CostBasis {
        CostBasis::Modelled
    }
}

fn pieces<'a>(of: &'a [Vec<Piece>], group: &'a Group) -> impl Iterator<Item = Piece> + 'a {
    let segments = group.segments.iter();
    segments.flat_map(|segment| of[segment.place()].iter().copied())
}

/// A lane that runs a group.
struct Lane<I> {
    rest: I,
    /// What is left of the kernel's serial time, then of its work, alone.
    left_ns: f64,
    /// The work and its demand, while the serial time runs.
    work: Option<Piece>,
    /// What the running part demands; `None` while it launches.
    demand: Option<Demand>,
}

impl<I: Iterator<Item = Piece>> Lane<I> {
    fn start(rest: I) -> Option<Self> {
        let mut lane = Self {
            rest,
            left_ns: 0.0,
            work: None,
            demand: None,
        };
        lane.next().then_some(lane)
    }

    /// Goes on to the next part that takes time; false at the end.
    fn next(&mut self) -> bool {
        loop {
            if let Some(piece) = self.work.take() {
                (self.left_ns, self.demand) = (piece.work_ns, Some(piece.demand));
            } else if let Some(piece) = self.rest.next() {
                (self.left_ns, self.demand) = (piece.launch_ns, None);
                self.work = Some(piece);
            } else {
                return false;
            }
            if self.left_ns > 0.0 {
                return true;
            }
        }
    }
}

impl ModelledCost {
    /// Groups at once, in nanoseconds: from one end of a kernel's part to the next.
    fn together(&self, groups: &[Group]) -> f64 {
        let mut waiting: VecDeque<_> = groups
            .iter()
            .map(|group| pieces(&self.beside, group))
            .collect();
        let mut lanes: Vec<Lane<_>> = Vec::with_capacity(self.lanes);
        let mut time = self.fork_ns;
        loop {
            while lanes.len() < self.lanes
                && let Some(group) = waiting.pop_front()
            {
                lanes.extend(Lane::start(group));
            }
            let demands = || lanes.iter().filter_map(|lane| lane.demand);
            let slices: f64 = demands().map(|demand| demand.slices).sum();
            let bandwidth: f64 = demands().map(|demand| demand.bandwidth).sum();
            let slow = slices.max(bandwidth).max(1.0);
            let launching = lanes.len() - demands().count();
            let pace = |lane: &Lane<_>| match lane.demand {
                Some(_) => slow,
                None => launching as f64,
            };
            let ends = lanes.iter().map(|lane| lane.left_ns * pace(lane));
            let Some(step) = ends.reduce(f64::min) else {
                return time;
            };
            time += step;
            lanes.retain_mut(|lane| {
                lane.left_ns -= step / pace(lane);
                // A rest below a thousandth of a nanosecond is rounding.
                lane.left_ns > 1e-3 || lane.next()
            });
        }
    }
}

#[cfg(test)]
mod tests;
