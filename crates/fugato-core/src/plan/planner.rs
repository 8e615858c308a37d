//! What planners have in common: the trait, what they ask for prices, and what is ready.

use super::{CostBasis, Group, Stage};
use crate::graph::Segments;
use crate::id::SegmentIndex;
use crate::time::Nanos;

/// What a stage would take.
pub trait StageCost {
    /// Why a stage could not be priced: a device that failed, a search that was stopped.
    /// [`Infallible`](std::convert::Infallible) for computed costs.
    type Error;

    /// The time from the start of the groups, all at once, to the end of the last; fork
    /// and join included. Groups stand in the order of their first segments.
    ///
    /// # Errors
    /// Where there is no answer; the planner then stops with the same error.
    fn stage(&mut self, groups: &[Group]) -> Result<Nanos, Self::Error>;

    /// The time of these segments, which rise, as one operator: some that can be stacked, or all of a
    /// list with what joins them ([`Stack`](crate::graph::Stack)). `None` where they cannot be one, or
    /// what it takes is not known.
    ///
    /// # Errors
    /// As [`StageCost::stage`].
    fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, Self::Error> {
        let _ = segments;
        Ok(None)
    }

    /// Whether the times are measured or computed.
    fn basis(&self) -> CostBasis;
}

/// Divides segments into stages.
pub trait Planner {
    /// Its name, as a [`Plan`](super::Plan) says it.
    fn name(&self) -> &'static str;

    /// The stages of a model, each priced by `costs`, which pass
    /// [`Plan::check`](super::Plan::check). The same segments and prices give the same
    /// stages.
    ///
    /// `progress` is told how far the search is, in no stated rhythm.
    ///
    /// # Errors
    /// Only those of `costs`. Where they are [`Remembered`](super::Remembered), the same
    /// call goes on from what a stopped search had priced.
    fn stages<C: StageCost>(
        &self,
        segments: &Segments,
        costs: &mut C,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Stage>, C::Error>;
}

/// How far a planner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Segments that have their final stage.
    pub planned: usize,
    /// All segments.
    pub segments: usize,
    /// Stages that a price was asked of.
    pub priced: u64,
}

/// Prices, counted, with groups brought into order, and progress told.
pub(super) struct Pricing<'a, C> {
    costs: &'a mut C,
    tell: &'a mut dyn FnMut(Progress),
    progress: Progress,
}

impl<'a, C: StageCost> Pricing<'a, C> {
    pub(super) fn new(
        segments: &Segments,
        costs: &'a mut C,
        tell: &'a mut dyn FnMut(Progress),
    ) -> Self {
        let progress = Progress {
            segments: segments.count(),
            ..Progress::default()
        };
        Self {
            costs,
            tell,
            progress,
        }
    }

    /// The price of a stage.
    pub(super) fn price(&mut self, groups: &mut [Group]) -> Result<Nanos, C::Error> {
        groups.sort_unstable();
        self.progress.priced += 1;
        self.costs.stage(groups)
    }

    /// The price of these segments as one operator, where there is one.
    pub(super) fn merged(&mut self, segments: &[SegmentIndex]) -> Result<Option<Nanos>, C::Error> {
        self.costs.merged(segments)
    }

    /// The stage of these groups, with its price.
    pub(super) fn stage(&mut self, mut groups: Vec<Group>) -> Result<Stage, C::Error> {
        let predicted = self.price(&mut groups)?;
        Ok(Stage {
            groups,
            merged: false,
            predicted,
        })
    }

    /// The price of each segment alone.
    pub(super) fn alone(&mut self, segments: &Segments) -> Result<Vec<Nanos>, C::Error> {
        let one = |index| self.price(&mut [Group::from(vec![index])]);
        segments.indices().map(one).collect()
    }

    /// Tells that so many more segments have their final stage.
    pub(super) fn planned(&mut self, more: usize) {
        self.progress.planned += more;
        self.tell();
    }

    /// Tells how far the search is.
    pub(super) fn tell(&mut self) {
        (self.tell)(self.progress);
    }
}

/// A stage of one segment, whose price is known.
pub(super) fn lone(segment: SegmentIndex, predicted: Nanos) -> Stage {
    Stage {
        groups: vec![Group::from(vec![segment])],
        merged: false,
        predicted,
    }
}

/// How many segments each segment still waits for.
pub(super) struct Waits(Vec<usize>);

impl Waits {
    pub(super) fn new(segments: &Segments) -> Self {
        let counts = segments.indices();
        Self(
            counts
                .map(|index| segments.predecessors(index).len())
                .collect(),
        )
    }

    /// Those that wait for none, rising.
    pub(super) fn ready(&self) -> Vec<SegmentIndex> {
        let places = (0..self.0.len()).filter(|&place| self.0[place] == 0);
        places.map(SegmentIndex::at).collect()
    }

    pub(super) fn of(&self, segment: SegmentIndex) -> usize {
        self.0[segment.place()]
    }

    /// Takes a segment as done; gives those that waited for it alone.
    pub(super) fn done<'a>(
        &'a mut self,
        segment: SegmentIndex,
        segments: &'a Segments,
    ) -> impl Iterator<Item = SegmentIndex> + 'a {
        let nexts = segments.successors(segment).iter().copied();
        nexts.filter(|next| {
            self.0[next.place()] -= 1;
            self.0[next.place()] == 0
        })
    }
}
