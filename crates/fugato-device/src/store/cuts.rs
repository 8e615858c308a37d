//! How a model is cut into legs, stages and groups, and the parts that come of it.

use super::error::LoadCause;
use super::operators::ModelGraph;
use super::part::{self, Border, CutError, Part};
use fugato_core::OperatorIndex;
use fugato_core::graph::{Graph, Segments};
use fugato_core::plan::{Group, Plan, Stage};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// A model's operators divided among legs, and within them among stages and groups.
///
/// Legs follow each other and may be far apart in time; stages of a leg follow each other;
/// groups of a stage may run at once; operators of a group run in order. Each operator is
/// in one group, and reads only what the group itself or an earlier stage gives.
///
/// A group may be **merged**: its operators, which read the same tensor and are alike, then run
/// as one, with what joins all that they give if that is in it.
///
/// # Shape
/// `legs[leg][stage][group]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    legs: Vec<Vec<Vec<CutGroup>>>,
}

/// Operators that run in order, or as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct CutGroup {
    operators: Vec<OperatorIndex>,
    merged: bool,
}

/// The parts of a cut model, whose files are in the store.
///
/// # Shape
/// `legs[leg][stage][group]`, without groups that give nothing anybody reads.
#[derive(Clone)]
pub(crate) struct CutModel {
    pub(crate) graph: Arc<ModelGraph>,
    pub(crate) legs: Vec<Vec<Vec<Part>>>,
}

impl Cuts {
    /// The cuts that a plan asks for; `segments` are those it was made of. Stages of one
    /// group that follow each other within a leg are one.
    ///
    /// # Panics
    /// Where the plan has segments that are not among these; [`Plan::check`] tells.
    pub fn of(plan: &Plan, segments: &Segments) -> Self {
        let leg = |stages: &[Stage]| {
            // Stages of one group that follow each other run as one: a session runs its
            // operators in order by itself, and for less.
            let is_plain = |stage: &Stage| stage.groups.len() == 1 && !stage.merged;
            let runs = stages.chunk_by(|one, next| is_plain(one) && is_plain(next));
            runs.map(|run| match run {
                [stage] => stage_of(stage, segments),
                _ => {
                    let groups = run.iter().flat_map(|stage| &stage.groups);
                    let operators = groups.flat_map(|group| operators_of(group, segments));
                    vec![operators.collect::<Vec<_>>().into()]
                }
            })
            .collect()
        };
        let legs = plan.legs.iter();
        Self {
            legs: legs.map(|one| leg(plan.stages_of(one))).collect(),
        }
    }

    /// Each stage a leg.
    ///
    /// # Panics
    /// Where stages have segments that are not among these.
    pub fn stage_by_stage(stages: &[Stage], segments: &Segments) -> Self {
        let legs = stages.iter();
        let legs = legs.map(|stage| vec![stage_of(stage, segments)]);
        Self {
            legs: legs.collect(),
        }
    }

    /// Whether nothing is cut of a model with so many operators: all of them are in one group.
    pub(crate) fn is_whole(&self, operators: usize) -> bool {
        let mut groups = self.legs.iter().flatten().flatten();
        let (Some(only), None) = (groups.next(), groups.next()) else {
            return false;
        };
        let distinct: BTreeSet<_> = only.operators.iter().collect();
        !only.merged && only.operators.len() == operators && distinct.len() == operators
    }

    /// Cuts as they are listed; loading a model with them checks them.
    ///
    /// # Shape
    /// `legs[leg][stage][group][operator]`.
    pub fn new(legs: Vec<Vec<Vec<Vec<OperatorIndex>>>>) -> Self {
        let stage = |stage: Vec<Vec<_>>| stage.into_iter().map(CutGroup::from).collect();
        let leg = |leg: Vec<Vec<Vec<_>>>| leg.into_iter().map(stage).collect();
        Self {
            legs: legs.into_iter().map(leg).collect(),
        }
    }

    /// Each leg one group, which runs on one lane.
    pub fn sequential(legs: impl IntoIterator<Item = Vec<OperatorIndex>>) -> Self {
        let legs = legs
            .into_iter()
            .map(|operators| vec![vec![operators.into()]]);
        Self {
            legs: legs.collect(),
        }
    }

    /// The same legs, with all of a leg in one group: its stages and groups run one after the
    /// other. `None` where that leaves a model of so many operators as it is.
    #[cfg(feature = "cuda")]
    pub(crate) fn leg_by_leg(&self, operators: usize) -> Option<Self> {
        let joined = Self::sequential(self.legs.iter().map(|leg| {
            let groups = leg.iter().flatten();
            groups
                .flat_map(|group| group.operators.iter().copied())
                .collect()
        }));
        (!joined.is_whole(operators)).then_some(joined)
    }

    /// The same legs, those that have groups at once in stages and groups, all others in one
    /// group. Merged groups are groups of operators one after the other, and stages of one group
    /// that follow each other are one. `None` where no leg has groups at once.
    #[cfg(feature = "cuda")]
    pub(crate) fn side_by_side(&self) -> Option<Self> {
        let is_at_once = |leg: &[Vec<CutGroup>]| leg.iter().any(|stage| stage.len() > 1);
        let plain = |stages: &[Vec<CutGroup>]| -> CutGroup {
            let groups = stages.iter().flatten();
            let operators = groups.flat_map(|group| group.operators.iter().copied());
            operators.collect::<Vec<_>>().into()
        };
        let leg = |leg: &Vec<Vec<CutGroup>>| match is_at_once(leg) {
            false => vec![vec![plain(leg)]],
            true => {
                let runs = leg.chunk_by(|one, next| one.len() == 1 && next.len() == 1);
                let stages = runs.map(|run| match run {
                    [stage] if stage.len() > 1 => {
                        let groups = stage.iter();
                        groups.map(|group| group.operators.clone().into()).collect()
                    }
                    _ => vec![plain(run)],
                });
                stages.collect()
            }
        };
        let is_wanted = self.legs.iter().any(|leg| is_at_once(leg));
        is_wanted.then(|| Self {
            legs: self.legs.iter().map(leg).collect(),
        })
    }

    /// One leg that runs all segments one after the other, each a part of its own.
    pub fn segment_by_segment(segments: &Segments) -> Self {
        let stages = segments.all().iter();
        let stages = stages.map(|segment| vec![segment.operators.clone().into()]);
        Self {
            legs: vec![stages.collect()],
        }
    }

    /// How many legs there are.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Whether all groups run one after the other, each as the model has it: what the legs
    /// do together, the model in one piece does no slower.
    pub fn is_in_turn(&self) -> bool {
        let mut stages = self.legs.iter().flatten();
        stages.all(|stage| matches!(&stage[..], [group] if !group.merged))
    }

    /// What each group reads and gives.
    ///
    /// # Errors
    /// Where an operator is not in just one group, or runs before what it reads, or a
    /// tensor that must not be cut is.
    fn borders(&self, model: &ModelGraph) -> Result<Vec<Border>, CutError> {
        let graph = model.graph();
        self.check_once(graph)?;
        let mut given: BTreeSet<_> = graph.inputs().iter().copied().collect();
        let mut borders = Vec::new();
        for stage in self.legs.iter().flatten() {
            let before = borders.len();
            for group in stage {
                let border = Border::of(model, group.operators.iter().copied())?;
                border.check_given(model, &given)?;
                borders.push(match group.merged {
                    true => border.merged(model)?,
                    false => border,
                });
            }
            for border in &borders[before..] {
                given.extend(border.outputs());
            }
        }
        Ok(borders)
    }

    fn check_once(&self, graph: &Graph) -> Result<(), CutError> {
        let operators = graph.operators().len();
        let mut times = vec![0_usize; operators];
        let groups = self.legs.iter().flatten().flatten();
        for &found in groups.flat_map(|group| &group.operators) {
            match times.get_mut(found.place()) {
                Some(times) => *times += 1,
                None => return Err(CutError::NoSuchOperator { found, operators }),
            }
        }
        match times.iter().position(|&times| times != 1) {
            Some(place) => Err(CutError::NotOnce {
                operator: graph.label(OperatorIndex::at(place)),
                found: times[place],
            }),
            None => Ok(()),
        }
    }

    /// Writes the parts beside the model's entry.
    pub(crate) fn write(
        &self,
        entry: &Path,
        graph: Arc<ModelGraph>,
    ) -> Result<CutModel, LoadCause> {
        if let Some(reason) = graph.indivisible() {
            return Err(CutError::Indivisible(reason.clone()).into());
        }
        if self.legs.is_empty() || u16::try_from(self.legs.len()).is_err() {
            let found = self.legs.len();
            return Err(CutError::Legs { found }.into());
        }
        let borders = self.borders(&graph)?;
        let mut parts = part::write(entry, &graph, &borders)?.into_iter();
        let legs = self.legs.iter().map(|leg| {
            let stages = leg.iter();
            stages
                .map(|stage| parts.by_ref().take(stage.len()).flatten().collect())
                .collect()
        });
        Ok(CutModel {
            legs: legs.collect(),
            graph,
        })
    }
}

impl From<Vec<OperatorIndex>> for CutGroup {
    fn from(operators: Vec<OperatorIndex>) -> Self {
        Self {
            operators,
            merged: false,
        }
    }
}

/// The groups of a stage.
fn stage_of(stage: &Stage, segments: &Segments) -> Vec<CutGroup> {
    let groups = stage.groups.iter();
    let groups = groups.map(|group| CutGroup {
        operators: operators_of(group, segments).collect(),
        merged: stage.merged,
    });
    groups.collect()
}

fn operators_of(group: &Group, segments: &Segments) -> impl Iterator<Item = OperatorIndex> {
    let found = group.segments.iter();
    found.flat_map(|&index| segments.segment(index).operators.iter().copied())
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    /// `legs[leg][stage][group][operator]`.
    fn cuts(legs: &[&[&[&[usize]]]]) -> Cuts {
        let group = |group: &&[usize]| group.iter().copied().map(OperatorIndex::at).collect();
        let stage = |stage: &&[&[usize]]| stage.iter().map(group).collect();
        let leg = |leg: &&[&[&[usize]]]| leg.iter().map(stage).collect();
        Cuts::new(legs.iter().map(leg).collect())
    }

    #[test]
    fn only_legs_with_groups_at_once_are_cut_into_them() {
        let plain: &[&[&[usize]]] = &[&[&[0]], &[&[1, 2]]];
        assert_eq!(cuts(&[plain]).side_by_side(), None);
        let mixed = cuts(&[
            plain,
            &[
                &[&[3]],
                &[&[4]],
                &[&[5], &[6, 7]],
                &[&[8], &[9]],
                &[&[10]],
                &[&[11]],
            ],
        ]);
        let expected = cuts(&[
            &[&[&[0, 1, 2]]],
            &[&[&[3, 4]], &[&[5], &[6, 7]], &[&[8], &[9]], &[&[10, 11]]],
        ]);
        assert_eq!(mixed.side_by_side(), Some(expected));
    }

    #[test]
    fn merged_groups_run_operator_by_operator() {
        let mut merged = cuts(&[&[&[&[0]], &[&[1, 2]], &[&[3], &[4]]]]);
        merged.legs[0][1][0].merged = true;
        let expected = cuts(&[&[&[&[0, 1, 2]], &[&[3], &[4]]]]);
        assert_eq!(merged.side_by_side(), Some(expected));
    }
}
