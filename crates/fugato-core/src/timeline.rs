//! What ran where and when: the legs that ended, collected from [`Decision`] records.
//!
//! The server and the simulator hand the same records to the same [`Timeline`], so a trace
//! of the one can be laid beside a trace of the other.

use crate::device::{AtomSet, DeviceSpec};
use crate::id::{BatchSize, DeviceId, LaneId, LegIndex, ModelId, PartitionId, Share, TaskId};
use crate::sched::Decision;
use crate::time::{Nanos, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A leg that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineLeg {
    /// Where it ran.
    pub device: DeviceId,
    /// In which partition of the device.
    pub partition: PartitionId,
    /// The atoms of the partition.
    pub atoms: AtomSet,
    /// In which lane of the partition.
    pub lane: LaneId,
    /// The model.
    pub model: ModelId,
    /// The task.
    pub task: TaskId,
    /// Which leg of the task.
    pub leg: LegIndex,
    /// Whether it was the whole task in one go; `leg` is the last one then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsplit: bool,
    /// Items in the batch.
    pub batch: BatchSize,
    /// The number of slices of the partition.
    pub share: Share,
    /// The device's time of its start.
    pub started: Timestamp,
    /// The device's time of its end.
    pub ended: Timestamp,
    /// The run time that was predicted when it was issued.
    pub predicted: Option<Nanos>,
}

impl TimelineLeg {
    /// The time it ran for.
    pub fn length(&self) -> Nanos {
        self.ended - self.started
    }
}

/// Collects the legs that ended last, up to a number that its owner states.
#[derive(Clone, Debug)]
pub struct Timeline {
    most: usize,
    partitions: BTreeMap<DeviceId, Vec<AtomSet>>,
    legs: VecDeque<TimelineLeg>,
    lost: u64,
}

impl Timeline {
    /// A timeline that keeps the last `most` legs.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            partitions: BTreeMap::new(),
            legs: VecDeque::new(),
            lost: 0,
        }
    }

    /// Makes a device's partitions known; must come before the device's first leg, and
    /// again where it returns with others.
    pub fn add_device(&mut self, spec: &DeviceSpec) {
        let atoms = spec.partitions.iter().map(|partition| partition.atoms);
        self.partitions.insert(spec.id, atoms.collect());
    }

    /// Takes note of a decision; all but ended legs are passed over.
    pub fn note(&mut self, decision: &Decision) {
        let &Decision::LegEnded {
            task,
            model,
            leg,
            unsplit,
            batch,
            lane,
            started,
            ended,
            predicted,
            ..
        } = decision
        else {
            return;
        };
        let partitions = self.partitions.get(&lane.device);
        let atoms = partitions.and_then(|atoms| atoms.get(usize::from(lane.partition.0)));
        let Some(&atoms) = atoms.filter(|_| self.most > 0) else {
            self.lost += 1;
            return;
        };
        if self.legs.len() == self.most {
            self.legs.pop_front();
            self.lost += 1;
        }
        self.legs.push_back(TimelineLeg {
            device: lane.device,
            partition: lane.partition,
            atoms,
            lane: lane.lane,
            model,
            task,
            leg,
            unsplit,
            batch,
            share: Share(atoms.count()),
            started,
            ended,
            predicted,
        });
    }

    /// The same legs of models with other numbers.
    #[must_use]
    pub fn renamed(mut self, model: impl Fn(ModelId) -> ModelId) -> Self {
        for leg in &mut self.legs {
            leg.model = model(leg.model);
        }
        self
    }

    /// The legs that were kept, in the order in which the scheduler heard of their ends.
    pub fn legs(&self) -> impl ExactSizeIterator<Item = &TimelineLeg> {
        self.legs.iter()
    }

    /// The legs that were kept, as [`Timeline::legs`].
    pub fn into_legs(self) -> Vec<TimelineLeg> {
        self.legs.into()
    }

    /// Legs that ended and are not kept: older than the last `most`, or on a partition
    /// that [`Timeline::add_device`] was never told of.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::LaneClass;
    use crate::sched::LaneRef;

    fn ended(task: u64, device: u16, partition: u16) -> Decision {
        Decision::LegEnded {
            at: Timestamp::from_nanos(task + 7),
            task: TaskId(task),
            model: ModelId(3),
            leg: LegIndex(1),
            unsplit: task % 2 == 1,
            batch: BatchSize(8),
            lane: LaneRef {
                device: DeviceId(device),
                partition: PartitionId(partition),
                lane: LaneId(0),
            },
            started: Timestamp::from_nanos(task),
            ended: Timestamp::from_nanos(task + 5),
            predicted: Some(Nanos::new(4)),
        }
    }

    fn timeline(most: usize) -> Timeline {
        let lanes = [LaneClass::Normal];
        let spec = DeviceSpec::nested(DeviceId(0), "test", Share(4), &lanes, &lanes);
        let mut timeline = Timeline::new(most);
        timeline.add_device(&spec);
        timeline
    }

    #[test]
    fn a_leg_carries_the_atoms_of_its_partition() {
        let mut timeline = timeline(10);
        timeline.note(&ended(1, 0, 2));
        timeline.note(&Decision::Revoking {
            at: Timestamp::ZERO,
            task: TaskId(1),
        });
        let legs = timeline.into_legs();
        // The second half of four slices.
        assert_eq!(legs.len(), 1);
        assert_eq!(legs[0].atoms, AtomSet::range(2, 2));
        assert_eq!((legs[0].share, legs[0].batch), (Share(2), BatchSize(8)));
        assert_eq!(legs[0].length(), Nanos::new(5));
    }

    #[test]
    fn a_task_that_ran_in_one_go_is_known_as_such() {
        let mut timeline = timeline(10);
        for task in 0..4 {
            timeline.note(&ended(task, 0, 0));
        }
        let unsplit: Vec<bool> = timeline.legs().map(|leg| leg.unsplit).collect();
        assert_eq!(unsplit, [false, true, false, true]);
    }

    #[test]
    fn the_last_legs_are_kept_and_the_others_counted() {
        let mut timeline = timeline(3);
        for task in 0..10 {
            timeline.note(&ended(task, 0, 0));
        }
        assert_eq!(timeline.lost(), 7);
        let tasks: Vec<u64> = timeline.legs().map(|leg| leg.task.0).collect();
        assert_eq!(tasks, [7, 8, 9]);
    }

    #[test]
    fn legs_of_what_was_never_announced_are_counted_as_lost() {
        let mut timeline = timeline(3);
        timeline.note(&ended(1, 1, 0));
        timeline.note(&ended(2, 0, 99));
        assert_eq!((timeline.lost(), timeline.legs().len()), (2, 0));
        let mut none = self::timeline(0);
        none.note(&ended(1, 0, 0));
        assert_eq!((none.lost(), none.legs().len()), (1, 0));
    }
}
