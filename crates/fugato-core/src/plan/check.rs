//! What a plan must satisfy, and the errors that name what does not.

use super::{Leg, Plan, PlanKey, SCHEMA, Stage, total};
use crate::graph::Segments;
use crate::id::{BatchSize, SegmentIndex, Share};
use crate::profile::DeviceKey;
use crate::time::Nanos;

/// Why a plan cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file is of another schema.
    #[error("plan has schema `{found}`, expected `{SCHEMA}`")]
    Schema {
        /// The schema it names.
        found: String,
    },
    /// It was made for another model file.
    #[error("plan was made for the model with hash `{found}`, the model at hand has `{expected}`")]
    Model {
        /// The plan's hash.
        found: String,
        /// The hash at hand.
        expected: String,
    },
    /// It was made for another device.
    #[error("plan was made for {found}, this device is {expected}")]
    Device {
        /// The plan's device.
        found: DeviceKey,
        /// The device at hand.
        expected: DeviceKey,
    },
    /// It was made with another runtime.
    #[error("plan was made with runtime `{found}`, this one is `{expected}`")]
    Runtime {
        /// The plan's runtime.
        found: String,
        /// The runtime at hand.
        expected: String,
    },
    /// It was made for another share.
    #[error("plan was made for a {found}, it would run in a {expected}")]
    Share {
        /// The plan's share.
        found: Share,
        /// The share at hand.
        expected: Share,
    },
    /// It was made for another batch.
    #[error("plan was made for a {found}, it would run a {expected}")]
    Batch {
        /// The plan's batch.
        found: BatchSize,
        /// The batch at hand.
        expected: BatchSize,
    },
    /// It was made for a larger batch than any of the model's.
    #[error("plan was made for a {found}, the model runs at most a {max}")]
    BatchMax {
        /// The plan's batch.
        found: BatchSize,
        /// The model's largest.
        max: BatchSize,
    },
    /// A stage or a group has nothing in it.
    #[error("plan's {place} is empty, expected at least one segment in each group of each stage")]
    Empty {
        /// The stage, or the group of it.
        place: String,
    },
    /// A merged stage has several groups, or nothing to merge.
    #[error("plan's merged stage {stage} is not one group of several segments")]
    Merged {
        /// The stage, from 0.
        stage: usize,
    },
    /// A segment is not of the model.
    #[error("plan's stage {stage} has {segment}, the model has {count} segments")]
    NoSuchSegment {
        /// The stage, from 0.
        stage: usize,
        /// The segment.
        segment: SegmentIndex,
        /// How many there are.
        count: usize,
    },
    /// A segment runs twice.
    #[error("plan has {segment} in stage {first} and in stage {second}, expected it once")]
    Twice {
        /// The segment.
        segment: SegmentIndex,
        /// The first stage that has it.
        first: usize,
        /// The second one.
        second: usize,
    },
    /// A segment never runs.
    #[error("plan lacks {segment}, expected each of the {count} segments once")]
    Missing {
        /// The segment.
        segment: SegmentIndex,
        /// How many there are.
        count: usize,
    },
    /// A segment runs before, or beside, one that it waits for.
    #[error(
        "plan has {segment} in stage {stage} and {waits_for}, which it waits for, in stage \
         {other}, expected that in an earlier stage or earlier in the same group"
    )]
    Early {
        /// The segment.
        segment: SegmentIndex,
        /// Its stage.
        stage: usize,
        /// The one that it reads results of.
        waits_for: SegmentIndex,
        /// That one's stage.
        other: usize,
    },
    /// The legs do not divide the stages.
    #[error(
        "plan's leg {leg} is stages {from}..{to}, expected it to start at {start} and to end by {stages}"
    )]
    Leg {
        /// The leg, from 0.
        leg: usize,
        /// Its first stage.
        from: u32,
        /// The stage after its last.
        to: u32,
        /// Where the leg before ends.
        start: u32,
        /// How many stages there are.
        stages: usize,
    },
    /// The last legs are missing.
    #[error("plan's legs end at stage {end}, expected at {stages}")]
    LegsEnd {
        /// Where the last leg ends.
        end: u32,
        /// How many stages there are.
        stages: usize,
    },
    /// A leg runs in no parts, or in more than the batch has items.
    #[error("plan's leg {leg} runs in {found} parts, expected 1 to {batch}")]
    SubBatches {
        /// The leg, from 0.
        leg: usize,
        /// Its parts.
        found: u32,
        /// Items in the batch.
        batch: u32,
    },
    /// A time is not the sum of those of its stages.
    #[error("plan's {of} takes {found}, its stages {expected}")]
    Sum {
        /// The plan itself, or a leg.
        of: String,
        /// The time it says.
        found: Nanos,
        /// The sum.
        expected: Nanos,
    },
}

impl PlanKey {
    /// Whether this is the key at hand.
    ///
    /// # Errors
    /// The first part that differs, with both sides.
    pub fn matches(&self, expected: &Self) -> Result<(), PlanError> {
        if self.model != expected.model {
            return Err(PlanError::Model {
                found: self.model.clone(),
                expected: expected.model.clone(),
            });
        }
        if self.device != expected.device {
            return Err(PlanError::Device {
                found: self.device.clone(),
                expected: expected.device.clone(),
            });
        }
        if self.runtime != expected.runtime {
            return Err(PlanError::Runtime {
                found: self.runtime.clone(),
                expected: expected.runtime.clone(),
            });
        }
        if self.share != expected.share {
            return Err(PlanError::Share {
                found: self.share,
                expected: expected.share,
            });
        }
        if self.batch != expected.batch {
            return Err(PlanError::Batch {
                found: self.batch,
                expected: expected.batch,
            });
        }
        Ok(())
    }
}

impl Plan {
    /// Whether the plan was made for this.
    ///
    /// # Errors
    /// The first part of the key that differs, with both sides.
    pub fn matches(&self, expected: &PlanKey) -> Result<(), PlanError> {
        self.key.matches(expected)
    }

    /// Whether the plan runs these segments: each once, none before what it waits for, and
    /// in legs that divide the stages.
    ///
    /// # Errors
    /// The first thing found wrong.
    ///
    /// # Cost
    /// O(segments + edges).
    pub fn check(&self, segments: &Segments) -> Result<(), PlanError> {
        schema(&self.schema)?;
        check_stages(&self.stages, segments)?;
        self.check_legs()?;
        sum("whole", self.predicted, &self.stages)
    }

    fn check_legs(&self) -> Result<(), PlanError> {
        let stages = self.stages.len();
        let mut start = 0;
        for (place, leg) in self.legs.iter().enumerate() {
            let Leg {
                stages: range,
                sub_batches,
                predicted,
            } = leg;
            if range.start != start || range.end <= start || range.end as usize > stages {
                return Err(PlanError::Leg {
                    leg: place,
                    from: range.start,
                    to: range.end,
                    start,
                    stages,
                });
            }
            if *sub_batches == 0 || *sub_batches > self.key.batch.0 {
                return Err(PlanError::SubBatches {
                    leg: place,
                    found: *sub_batches,
                    batch: self.key.batch.0,
                });
            }
            sum(&format!("leg {place}"), *predicted, self.stages_of(leg))?;
            start = range.end;
        }
        if start as usize != stages {
            return Err(PlanError::LegsEnd { end: start, stages });
        }
        Ok(())
    }
}

/// Where a segment stands in a plan.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    stage: usize,
    group: usize,
    at: usize,
}

/// Whether stages run these segments, each once and none before what it waits for.
///
/// # Errors
/// The first thing found wrong.
pub(super) fn check_stages(stages: &[Stage], segments: &Segments) -> Result<(), PlanError> {
    let count = segments.count();
    let mut places: Vec<Option<Place>> = vec![None; count];
    for (stage, Stage { groups, merged, .. }) in stages.iter().enumerate() {
        if groups.is_empty() {
            return Err(PlanError::Empty {
                place: format!("stage {stage}"),
            });
        }
        let is_one = groups.len() == 1 && groups[0].segments.len() > 1;
        if *merged && !is_one {
            return Err(PlanError::Merged { stage });
        }
        for (group, members) in groups.iter().enumerate() {
            if members.segments.is_empty() {
                return Err(PlanError::Empty {
                    place: format!("group {group} of stage {stage}"),
                });
            }
            for (at, &segment) in members.segments.iter().enumerate() {
                let Some(place) = places.get_mut(segment.place()) else {
                    return Err(PlanError::NoSuchSegment {
                        stage,
                        segment,
                        count,
                    });
                };
                if let Some(first) = place.replace(Place { stage, group, at }) {
                    return Err(PlanError::Twice {
                        segment,
                        first: first.stage,
                        second: stage,
                    });
                }
            }
        }
    }
    let placed = |segment: SegmentIndex| {
        places[segment.place()].ok_or(PlanError::Missing { segment, count })
    };
    for segment in segments.indices() {
        let own = placed(segment)?;
        for &waits_for in segments.predecessors(segment) {
            let other = placed(waits_for)?;
            let same_group = (other.stage, other.group) == (own.stage, own.group);
            if other.stage >= own.stage && !(same_group && other.at < own.at) {
                return Err(PlanError::Early {
                    segment,
                    stage: own.stage,
                    waits_for,
                    other: other.stage,
                });
            }
        }
    }
    Ok(())
}

pub(super) fn schema(found: &str) -> Result<(), PlanError> {
    if found == SCHEMA {
        return Ok(());
    }
    Err(PlanError::Schema {
        found: found.to_owned(),
    })
}

fn sum(of: &str, found: Nanos, stages: &[Stage]) -> Result<(), PlanError> {
    let expected = total(stages);
    if found == expected {
        return Ok(());
    }
    Err(PlanError::Sum {
        of: of.to_owned(),
        found,
        expected,
    })
}
